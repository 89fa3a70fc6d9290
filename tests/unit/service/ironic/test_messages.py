"""What an Ironic sends means one thing, or is refused; nothing that it sends is quoted where it may be a secret."""

import json

import pytest

from agent.service.ironic.long_texts import LongTexts
from agent.service.ironic.messages import (
    ConductorFault,
    Refusal,
    fault_text,
    member,
    read_lookup,
    read_order,
    read_version,
    shown_step,
)

NODE = "12345678-1234-5678-1234-567812345678"
TOKEN = "t0ken" * 8


def lookup(**config) -> bytes:
    members = {"agent_token": TOKEN, "heartbeat_timeout": 300} | config
    return json.dumps({"node": {"uuid": NODE, "instance_info": {}}, "config": members}).encode()


def test_a_lookup_tells_node_token_and_pace():
    found = read_lookup(lookup())
    assert (found.node, found.token, found.heartbeat_seconds) == (NODE, TOKEN, 300.0)
    assert TOKEN not in repr(found)


@pytest.mark.parametrize(("told", "taken"), [(0.001, 3.0), (10**9, 3600.0)])
def test_no_pace_wakes_it_without_end_or_lets_it_sleep_for_days(told, taken):
    assert read_lookup(lookup(heartbeat_timeout=told)).heartbeat_seconds == taken


def test_a_token_that_was_given_to_another_agent_is_none():
    with pytest.raises(ConductorFault, match="abort or undeploy"):
        read_lookup(lookup(agent_token="******"))


def test_a_token_that_came_by_virtual_media_is_not_told_again():
    assert read_lookup(lookup(agent_token="******"), "own" * 9).token == "own" * 9
    assert read_lookup(lookup(), "own" * 9).token == TOKEN


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"node": {}, "config": {}}',
        lookup().replace(NODE.encode(), b"../../v1/nodes"),
        lookup(agent_token=None), lookup(agent_token=""), lookup(agent_token=TOKEN * 100),
        lookup(heartbeat_timeout=None), lookup(heartbeat_timeout=True), lookup(heartbeat_timeout=-1),
        lookup(heartbeat_timeout="300"),
    ],
)  # fmt: skip
def test_an_answer_without_sense_is_a_fault_that_quotes_no_token(body):
    with pytest.raises(ConductorFault) as caught:
        read_lookup(body)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "version"),
    [(b'{"default_version": {"version": "1.109"}}', (1, 109)), (b'{"default_version": {"version": "1.68"}}', (1, 68))],
)  # fmt: skip
def test_the_version_of_the_api(body, version):
    assert read_version(body) == version


@pytest.mark.parametrize(
    "body", [b"{}", b'{"default_version": {"version": "x.y"}}', b'{"default_version": "1.1"}']
)
def test_no_version(body):
    with pytest.raises(ConductorFault, match="version"):
        read_version(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error_message": {"faultstring": "No"}}', "No"),
        (b'{"error_message": "{\\"faultstring\\": \\"Old\\"}"}', "Old"),
        (b'{"title": "Gone"}', "Gone"),
        (b"<html>", ""),
        (b'{"error_message": []}', ""),
        (b'{"faultstring": {"a": 1}}', ""),
    ],
)
def test_why_a_request_was_refused(body, text):
    assert fault_text(body) == text


def body_of(data: bytes) -> LongTexts:
    texts = LongTexts()
    texts.feed(data)
    return texts


def test_a_command():
    order = read_order(body_of(b'{"name": "deploy.execute_deploy_step", "params": {"step": {}}}'))
    assert (order.name, order.command_name, order.params) == (
        "deploy.execute_deploy_step",
        "execute_deploy_step",
        {"step": {}},
    )
    assert read_order(body_of(b'{"name": "standby.sync"}')).params == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"name": 1}',
        b'{"name": ""}',
        b'{"name": "a.b", "params": []}',
        b'{"name": "%0200d"}' % 0,
    ],
)
def test_no_command(body):
    with pytest.raises(Refusal) as caught:
        read_order(body_of(body))
    assert caught.value.status == 400
    assert caught.value.document()["faultstring"].startswith("Invalid request body")


def test_a_step_is_given_back_without_its_arguments():
    step = {"interface": "deploy", "step": "write_image", "priority": 80, "args": {"configdrive": "secret"}}
    assert shown_step(step) == {"interface": "deploy", "step": "write_image"}
    for wrong in ({}, {"step": "a"}, {"interface": "deploy", "step": 1}):
        with pytest.raises(Refusal, match="the step has no"):
            shown_step(wrong)
    with pytest.raises(Refusal, match="step is not an object"):
        member({"step": "write_image"}, "step")
