"""How long to wait after a failure."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer.retry import (
    Backoff,
    BackoffLimits,
    backoff_ceiling,
    parse_retry_after,
    retry_delay,
)

NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 17 ", 17),
        ("Wed, 01 May 2024 12:01:30 GMT", 90),
        ("Wed, 01 May 2024 11:00:00 GMT", 0),
        ("Wednesday, 01-May-24 12:00:10 GMT", 10),
        ("-5", None),
        ("1.5", None),
        ("\u0661", None),
        ("soon", None),
        ("", None),
        ("9" * 500, float("9" * 64)),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999", None),
    ],
)
def test_retry_after(value, seconds):
    assert parse_retry_after(value, NOW) == seconds


NUMBERS = st.integers(-(10**12), 10**12).map(str)
DATES = st.builds(
    "{}, {} Jan {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "x"]),
    *[NUMBERS] * 5,
    NUMBERS | st.just("GMT"),
)


@given(st.text(max_size=80) | DATES)
def test_whatever_a_server_asks_for_is_a_time_or_nothing(value):
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
    assert 0 <= retry_delay(1, value, BackoffLimits(), random.Random(1)) <= BackoffLimits().retry_after_cap


def test_backoff_doubles_up_to_its_cap():
    limits = BackoffLimits()
    assert [backoff_ceiling(n, limits) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff_ceiling(10**6, limits) == 30


def test_wait_is_jittered_but_never_shorter_than_asked_for():
    limits, rng = BackoffLimits(), random.Random(1)
    waits = [retry_delay(3, None, limits, rng) for _ in range(200)]
    assert 0 <= min(waits) < 1
    assert 3 < max(waits) <= 4
    assert retry_delay(1, "10", limits, rng) == 10
    assert retry_delay(1, "100000", limits, rng) == 120
    assert retry_delay(1, "nonsense", limits, rng) <= 1


def test_failures_in_a_row_are_counted_until_a_success():
    backoff = Backoff(BackoffLimits(backoff_base=8), random.Random(1))
    assert 0 <= backoff.fail() <= 8
    assert backoff.fail("60") == 60
    assert backoff.failures == 2
    backoff.succeed()
    assert backoff.failures == 0
