"""What is read of a document's surroundings, whatever stands there."""

import pytest

from agent.cli.console import footer_lines
from agent.cli.report import read_report
from agent.cli.surroundings import UNTOLD, Contact, contact_words, read_surroundings
from agent.errors import Fault
from agent.model.surroundings import (
    MAX_FAULTS,
    ContactState,
    agent_member,
    configuration_member,
    contact_member,
)


def test_what_the_agent_tells_is_read():
    plane = contact_member("https://c", ContactState.FAILING, since=5.0, reason="r", next_try=9.0)
    faults = [Fault("a", "b")] * (MAX_FAULTS + 1)
    read = read_surroundings(
        {
            "agent": agent_member("0.1.0", ["192.0.2.7"], ["/s"]),
            "controlPlane": plane,
            "configuration": configuration_member(faults, [Fault("", "c")], in_force=False),
        }
    )
    assert (read.version, read.addresses, read.listening) == ("0.1.0", ("192.0.2.7",), ("/s",))
    assert read.control_plane == Contact("https://c", "failing", 5.0, "r", 9.0)
    assert (read.in_force, read.fault_count, read.faults[0]) == (False, MAX_FAULTS + 1, "a: b")
    assert read.warnings == ("c",)


@pytest.mark.parametrize("odd", [None, 1, "x", [], [1], {}, {"url": 1}, {"faults": 1}, {"faults": [1, {}]}])
def test_what_makes_no_sense_is_passed_over(odd):
    assert read_surroundings(dict.fromkeys(("agent", "controlPlane", "configuration"), odd)) == UNTOLD


def test_who_answers_that_there_is_nothing_yet_is_told_on_the_console_too_with_the_reason():
    ironic = contact_member(
        "http://ironic", ContactState.WAITING, since=10.0, reason="no node is known", next_try=143.0
    )
    words = "http://ironic answers, but no node is known (for 2 min 10 s, next try in 3 s)"
    assert contact_words(read_surroundings({"ironic": ironic}).ironic, 140.0) == words
    agent = agent_member("0.1.0", [], ["/s"])
    report = read_report({"revision": 1, "status": None, "ironic": ironic, "agent": agent})
    assert f"Ironic: {words}" in footer_lines(report, 140.0)
