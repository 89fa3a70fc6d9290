"""What the front remembers, and what an agent that comes back makes of it."""

import json

import pytest

from agent.service.ironic.activity import MAX_TEXT, activity, news_pause
from agent.service.ironic.state import MAX_COMMANDS, Command, CommandStatus, FrontState

STEP = {"interface": "deploy", "step": "write_image"}
WRITE = Command("id-1", "execute_deploy_step", step=STEP)
STATE = FrontState("CERT", "KEY", "192.0.2.7", 9999, "node-1", "token", 30.0, (WRITE,), inspected=True)


def test_the_journal_gives_back_what_it_was_given():
    assert FrontState.parse(json.loads(json.dumps(STATE.document()))) == STATE
    assert FrontState.parse(FrontState().document()) == FrontState()
    assert "KEY" not in repr(STATE)
    assert "token" not in repr(STATE)


@pytest.mark.parametrize("document", [{}, {"commands": 1}, STATE.document() | {"commands": [{}]}])
def test_what_it_did_not_write_it_does_not_read(document):
    with pytest.raises(ValueError, match="not a state of the front"):
        FrontState.parse(document)


def test_a_command_that_nobody_carries_on_has_failed_and_is_not_forgotten():
    [command] = STATE.after_restart(None).commands
    assert command.status is CommandStatus.FAILED
    assert "restarted" in command.error["details"]
    assert command.document()["command_error"] == command.error


def test_a_deployment_that_goes_on_is_running_still():
    assert STATE.after_restart("id-1") == STATE


def test_what_has_ended_stays_as_it_ended():
    ended = Command("id-0", "sync", CommandStatus.SUCCEEDED, {"a": 1})
    state = STATE.with_command(ended)
    assert state.after_restart(None).commands[-1] == ended


def test_a_lost_token_takes_the_commands_along_and_leaves_the_certificate():
    state = STATE.without_node()
    assert (state.node, state.token, state.commands) == ("", "", ())
    assert (state.certificate, state.key, state.port) == ("CERT", "KEY", 9999)


def test_the_list_is_bounded_and_keeps_the_last_ones():
    state = FrontState()
    for number in range(MAX_COMMANDS + 5):
        state = state.with_command(Command(f"id-{number}", "sync", CommandStatus.SUCCEEDED))
    assert len(state.commands) == MAX_COMMANDS
    assert state.commands[-1].id == f"id-{MAX_COMMANDS + 4}"


# -- what a heartbeat tells ------------------------------------------------------------------------------------------


def test_nothing_is_told_before_anything_was_ordered():
    assert activity(None, {"status": None}) is None


def test_a_deployment_is_told_with_its_progress():
    document = {
        "id": "id-1",
        "percent": 41.7,
        "stage": "write",
        "bytesDownloaded": 2**30,
        "bytesTotal": 2**31,
        "waitingOn": "network",
        "connections": 4,
    }
    assert activity(WRITE, document) == (
        "start",
        "write_image: 42 %, stage write, 1.0 GiB of 2.0 GiB, waits for network, 4 connections",
    )


def test_the_progress_of_another_job_is_not_told():
    assert activity(WRITE, {"id": "other", "percent": 41.7}) == ("start", "write_image")


def test_the_end_is_told_with_the_reason_of_a_failure():
    failed = Command("i", "x", CommandStatus.FAILED, error={"details": "why " * 200})
    state, text = activity(failed, {})
    assert (state, len(text) <= MAX_TEXT + 3) == ("error", True)
    assert activity(Command("i", "x", CommandStatus.SUCCEEDED), {}) == ("end", "x")


def test_a_conductor_that_is_busy_is_told_of_an_end_at_once_and_then_ever_more_seldom():
    pauses = [news_pause(sent) for sent in range(1, 41)]
    assert pauses[0] == 1.5
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10.0
    assert sum(pauses[:5]) < 12
