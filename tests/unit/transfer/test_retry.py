"""Waits, attempts and the stall clock, without a network."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer.http_retry import (
    FatalFault,
    HttpLimits,
    Pace,
    Retry,
    TransientFault,
    backoff_ceiling,
    ignore_events,
    parse_retry_after,
    retry_delay,
)
from agent.units import KiB

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
    assert 0 <= retry_delay(1, value, HttpLimits(), random.Random(1)) <= HttpLimits().retry_after_cap


def test_backoff_doubles_up_to_its_cap():
    limits = HttpLimits()
    assert [backoff_ceiling(n, limits) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff_ceiling(10**6, limits) == 30


def test_wait_is_jittered_but_never_shorter_than_asked_for():
    limits, rng = HttpLimits(), random.Random(1)
    waits = [retry_delay(3, None, limits, rng) for _ in range(200)]
    assert 0 <= min(waits) < 1
    assert 3 < max(waits) <= 4
    assert retry_delay(1, "10", limits, rng) == 10
    assert retry_delay(1, "100000", limits, rng) == 120
    assert retry_delay(1, "nonsense", limits, rng) <= 1


async def test_attempts_run_out_unless_there_is_progress():
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    retry = Retry(HttpLimits(attempts=3), sleep=sleep, rng=random.Random(1), on_event=ignore_events)
    fault = TransientFault("it broke")
    for _ in range(4):
        await retry.wait(fault, position=0, total=None)
        await retry.wait(fault, position=0, total=None)
        retry.progress()
    await retry.wait(fault, position=7, total=None)
    await retry.wait(fault, position=7, total=None)
    with pytest.raises(FatalFault, match="it broke, at byte 7 of 9, after 3 attempts"):
        await retry.wait(fault, position=7, total=9)
    assert len(slept) == 10


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pace(clock):
    return Pace(HttpLimits(stall_seconds=60, window_seconds=60, floor_rate=4 * KiB), clock)


def test_silence_is_a_stall(pace, clock):
    pace.begin()
    assert pace.patience() == 60
    clock.now += 59
    assert (pace.patience(), pace.verdict()) == (1, None)
    clock.now += 1
    fault = pace.verdict()
    assert (str(fault), fault.slow) == ("no byte came for 60 s", True)


def test_trickle_is_found_at_the_end_of_the_window(pace, clock):
    pace.begin()
    for _ in range(6):
        assert pace.verdict() is None
        clock.now += 10
        pace.note(4 * KiB * 10 - 1)
    assert "came for 1 min 00 s" in str(pace.verdict())


def test_steady_rate_at_the_floor_is_enough_window_after_window(pace, clock):
    pace.begin()
    for _ in range(60):
        clock.now += 10
        pace.note(4 * KiB * 10)
        assert pace.verdict() is None


def test_time_without_anybody_asking_does_not_count(pace, clock):
    clock.now += 500
    pace.begin()
    clock.now += 30
    pace.end()
    clock.now += 10_000
    pace.begin()
    assert pace.verdict() is None
    clock.now += 29
    assert pace.verdict() is None
    clock.now += 1
    assert pace.verdict() is not None


def test_patience_never_becomes_a_busy_loop(pace, clock):
    pace.begin()
    clock.now += 1000
    assert pace.patience() == 0.01
