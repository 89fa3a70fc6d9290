import pytest
from aiohttp import EMPTY_PAYLOAD, StreamReader

from agent.service.http.limits import Limits
from agent.service.http.timeouts import ConnectionTimeouts

LIMITS = Limits(request_seconds=30, answer_seconds=60, head_bytes=1000)


class Payload:
    """A body, as far as the connection asks about it."""

    def __init__(self, *, complete: bool = False) -> None:
        self.complete = complete

    def is_eof(self) -> bool:
        return self.complete


def test_the_first_request_has_its_time_from_the_start_of_the_connection():
    timeouts = ConnectionTimeouts(LIMITS, 100)
    assert timeouts.received(5, 120)
    assert timeouts.overdue(129.9) is None
    assert timeouts.overdue(130) == "request_not_complete"


def test_a_body_belongs_to_the_request_s_time():
    timeouts, payload = ConnectionTimeouts(LIMITS, 0), Payload()
    timeouts.request_began(payload, 10)
    assert timeouts.overdue(29) is None
    assert timeouts.overdue(30) == "request_not_complete"
    payload.complete = True
    assert timeouts.overdue(30) is None
    assert timeouts.overdue(10_000) is None  # a handler may take its time


def test_what_is_missing_of_a_body_is_still_waited_for_after_the_answer():
    timeouts = ConnectionTimeouts(LIMITS, 0)
    timeouts.request_began(Payload(), 1)
    timeouts.request_answered()
    assert timeouts.overdue(30) == "request_not_complete"


def test_an_answered_connection_waits_for_nothing_until_bytes_come():
    timeouts = ConnectionTimeouts(LIMITS, 0)
    timeouts.request_began(Payload(complete=True), 1)
    timeouts.request_answered()
    assert timeouts.overdue(10_000) is None
    timeouts.received(1, 20_000)
    assert timeouts.overdue(20_029) is None
    assert timeouts.overdue(20_030) == "request_not_complete"


def test_an_answer_has_its_time_from_the_moment_that_bytes_wait():
    timeouts = ConnectionTimeouts(LIMITS, 0)
    timeouts.request_began(Payload(complete=True), 0)
    timeouts.writing_blocked(100)
    assert timeouts.overdue(159) is None
    timeouts.writing_resumed()
    timeouts.writing_blocked(159)
    assert timeouts.overdue(218) is None
    assert timeouts.overdue(219) == "answer_not_taken"


def test_a_head_and_what_is_sent_ahead_are_bounded_and_a_body_is_not():
    timeouts, payload = ConnectionTimeouts(LIMITS, 0), Payload()
    assert [timeouts.received(600, 1) for _ in range(3)] == [True, True, False]
    timeouts.request_began(payload, 1)
    assert all(timeouts.received(10**6, 1) for _ in range(10))
    payload.complete = True
    assert [timeouts.received(600, 1) for _ in range(3)] == [True, True, False]
    timeouts.request_answered()
    assert timeouts.received(600, 1)


@pytest.mark.parametrize("payload", [EMPTY_PAYLOAD, StreamReader])
def test_the_stand_in_answers_as_the_real_body_does(payload):
    assert callable(payload.is_eof)
