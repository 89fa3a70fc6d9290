"""The one line that `systemctl status` shows."""

import pytest

from agent.errors import Fault
from agent.model.surroundings import ContactState, Trouble, configuration_member, contact_member
from agent.service.jobs.view import idle_document
from agent.service.notify import status_line

IDLE = idle_document("ns1")
FAULTS = [Fault("a.b", "is wrong"), Fault("c", "too")]
FAILING = contact_member(
    "https://c", ContactState.FAILING, reason="it answered 503", trouble=Trouble.UNAVAILABLE
)


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (IDLE, "waiting for a deployment"),
        (
            IDLE | {"controlPlane": None, "configuration": configuration_member([])},
            "waiting for a deployment",
        ),
        (
            IDLE | {"controlPlane": FAILING},
            "waiting for a deployment; the control plane does not answer: it answered 503",
        ),
        (
            IDLE
            | {
                "controlPlane": FAILING,
                "ironic": contact_member("https://i", ContactState.WAITING, reason="no node is known"),
            },
            (
                "waiting for a deployment; the control plane does not answer: it answered 503; "
                "Ironic answers, but no node is known"
            ),
        ),
        (
            IDLE | {"configuration": configuration_member(FAULTS, in_force=False)},
            "the configuration has faults: a.b: is wrong",
        ),
        (
            IDLE | {"configuration": configuration_member(FAULTS)},
            "waiting for a deployment; the configuration has faults since it was changed: a.b: is wrong",
        ),
        (IDLE | {"status": "error", "message": "no"}, "failed: no"),
        (
            {"status": "doing", "stage": "write", "percent": 4.0, "rate": 2**20},
            "deploying: write, 4.0 %, 1.0 MiB/s",
        ),
    ],
)
def test_a_status_in_one_line(document, line):
    assert status_line(document) == line
