"""What people and metrics are told of the way to the control plane."""

import pytest

from agent.model.link import Link


def test_it_is_down_since_the_first_fault_in_a_row_and_up_with_the_next_answer():
    now = [1000.0]
    link = Link("https://user:secret@control.example.net/byoi?token=x", clock=lambda: now[0])
    assert link.document() == {
        "url": "https://control.example.net/byoi", "reachable": None, "reason": None, "since": None, "nextTry": None,
    }  # fmt: skip
    link.failed("Connection refused", 2.0)
    now[0] = 1002.0
    link.failed("timed out", 4.0)
    document = link.document()
    assert (document["reachable"], document["reason"]) == (False, "timed out")
    assert (document["since"], document["nextTry"]) == (
        "1970-01-01T00:16:40.000Z",
        "1970-01-01T00:16:46.000Z",
    )
    assert link.faults == 2
    link.answered()
    assert (link.up, link.document()["since"], link.faults) == (True, None, 2)
    now[0] = 2000.0
    link.failed("x", 1.0)
    assert link.document()["since"] == "1970-01-01T00:33:20.000Z"


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/byoi", "https://[2001:db8::1]:9443/a/b"])
def test_a_url_without_secrets_stays_as_it_is(url):
    assert Link(url).url == url
