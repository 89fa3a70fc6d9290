"""What is shown of the contact with whoever gives jobs."""

from agent.model.surroundings import Trouble
from agent.service.contact import Contact

URL = "https://control.example.net/byoi"


def test_since_when_why_and_when_again():
    now, shown = [1000.0], []
    contact = Contact(URL, shown.append, lambda: now[0])
    assert (shown[-1]["state"], shown[-1]["url"], shown[-1]["nextTry"]) == ("unasked", URL, None)

    now[0] = 1010.0
    contact.failed("it cannot be reached: Connection refused", Trouble.CONNECTION, 4)
    assert shown[-1] == {
        "url": URL,
        "state": "failing",
        "since": "1970-01-01T00:16:50.000Z",
        "reason": "it cannot be reached: Connection refused",
        "trouble": "connection",
        "nextTry": "1970-01-01T00:16:54.000Z",
    }

    now[0] = 1020.0
    contact.failed("it answered 503", Trouble.UNAVAILABLE, 10)
    assert shown[-1]["since"] == "1970-01-01T00:16:50.000Z"  # since the first failure
    assert (shown[-1]["trouble"], shown[-1]["nextTry"]) == ("unavailable", "1970-01-01T00:17:10.000Z")

    now[0] = 1030.0
    contact.succeeded()
    assert (shown[-1]["state"], shown[-1]["since"]) == ("answering", "1970-01-01T00:17:10.000Z")
    assert (shown[-1]["reason"], shown[-1]["trouble"], shown[-1]["nextTry"]) == (None, None, None)

    now[0] = 1040.0
    for _ in range(2):
        contact.waits("no node is known", 5)
        assert shown[-1] == {
            "url": URL,
            "state": "waiting",
            "since": "1970-01-01T00:17:20.000Z",
            "reason": "no node is known",
            "trouble": None,
            "nextTry": "1970-01-01T00:17:25.000Z",
        }
    contact.succeeded()

    count = len(shown)
    contact.succeeded()
    assert len(shown) == count  # whoever waits for a change is not woken by each poll
