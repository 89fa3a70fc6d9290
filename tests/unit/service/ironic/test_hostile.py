"""Whatever an Ironic sends is understood, or is refused in words: nothing is a crash of ours, or silence."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import JobInvalid
from agent.model.job import parse_job
from agent.service.ironic.image_info import job_document
from agent.service.ironic.long_texts import LongTexts
from agent.service.ironic.messages import (
    ConductorFault,
    Lookup,
    Refusal,
    fault_text,
    member,
    read_lookup,
    read_order,
    read_version,
    shown_step,
)
from tests.kit.fuzz import examples

NODE = "12345678-1234-5678-1234-567812345678"
# Python writes a lone surrogate as an escape, and reads it back as one.
TEXTS = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["²", "\ud800", "http://h/x", "raw", "*", "sha256"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
IMAGE_KEYS = (
    "urls", "disk_format", "os_hash_algo", "os_hash_value", "checksum", "configdrive", "image_type", "root_mb",
    "image_server_user", "image_server_password", "image_server_auth_strategy", "image_request_authorization",
    "proxies", "id", "node_uuid",
)  # fmt: skip
IMAGES = (
    st.dictionaries(st.sampled_from(IMAGE_KEYS), VALUES | st.lists(TEXTS, min_size=1, max_size=3)) | VALUES
)
NODES = st.fixed_dictionaries({}, optional={"uuid": VALUES, "properties": VALUES, "instance_info": VALUES})


def encoded(document):
    return json.dumps(document).encode()


def body_of(data: bytes) -> LongTexts:
    texts = LongTexts()
    texts.feed(data)
    return texts


def outcome(read, error, *arguments):
    """What is read, or the one error that may be raised instead."""
    try:
        return read(*arguments)
    except error as refused:
        return refused


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=60) | VALUES.map(encoded))
def test_bytes_are_a_message_or_a_refusal(body):
    assert str(outcome(read_order, Refusal, body_of(body)))
    assert str(outcome(read_lookup, ConductorFault, body))
    assert str(outcome(read_version, ConductorFault, body))
    assert isinstance(fault_text(body), str)


@settings(max_examples=examples(100), deadline=None)
@given(VALUES, VALUES, VALUES)
def test_a_lookup_of_right_shape_is_one_or_a_fault(uuid, token, seconds):
    for node, secret in ((uuid, token), (NODE, token), (NODE, "t" * 43)):
        config = {"agent_token": secret, "heartbeat_timeout": seconds}
        found = outcome(read_lookup, ConductorFault, encoded({"node": {"uuid": node}, "config": config}))
        if isinstance(found, Lookup):
            assert found.token.isascii()  # it is compared with what a conductor shows, byte by byte
            assert 3 <= found.heartbeat_seconds <= 3600


@settings(max_examples=examples(100), deadline=None)
@given(VALUES, VALUES)
def test_a_command_of_right_shape_is_one_or_is_refused(name, params):
    for body in (encoded({"name": name, "params": params}), encoded({"name": "a.b", "params": params})):
        found = outcome(
            lambda body: shown_step(member(read_order(body_of(body)).params, "step")), Refusal, body
        )
        if isinstance(found, Refusal):
            assert found.status == 400
            assert found.document()["faultstring"]


@settings(max_examples=examples(100), deadline=None)
@given(IMAGES, VALUES, NODES)
def test_of_the_arguments_comes_a_job_or_all_that_is_wrong_with_them(image, configdrive, node):
    args = {"image_info": image, "configdrive": configdrive}
    found = outcome(lambda: parse_job(job_document(args, node)), JobInvalid)
    if isinstance(found, JobInvalid):
        assert all(fault.message for fault in found.faults)
    else:
        json.dumps(found.redacted()).encode()


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (read_version, b'{"default_version": {"version": "1.\xc2\xb2"}}'),
        (
            read_lookup,
            encoded({"node": {"uuid": NODE}, "config": {"agent_token": "\ud800", "heartbeat_timeout": 3}}),
        ),
    ],
)
def test_what_only_looks_like_a_version_or_a_token(read, body):
    with pytest.raises(ConductorFault):
        read(body)


def test_an_endless_interval_is_an_hour():
    config = {"agent_token": "t", "heartbeat_timeout": 10**400}
    assert read_lookup(encoded({"node": {"uuid": NODE}, "config": config})).heartbeat_seconds == 3600
