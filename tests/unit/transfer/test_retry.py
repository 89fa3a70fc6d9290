"""Waits, attempts and the stall clock, without a network."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer.retry import (
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
from agent.units import KiB, MiB

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


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_retry(clock, **limits):
    async def sleep(seconds):
        clock.now += seconds

    options = {"sleep": sleep, "clock": clock, "rng": random.Random(1), "on_event": ignore_events}
    return Retry(HttpLimits(**limits), **options)


FAULT = TransientFault("it broke")


async def test_attempts_run_out_unless_there_is_progress():
    clock = Clock()
    retry = make_retry(clock, attempts=3)
    for _ in range(4):
        for _ in range(2):
            await retry.wait(FAULT, position=0, total=None)
        retry.note(MiB)
    for _ in range(2):
        await retry.wait(FAULT, position=7, total=None)
    with pytest.raises(FatalFault, match="it broke, at byte 7 of 9, after 3 attempts"):
        await retry.wait(FAULT, position=7, total=9)


@pytest.mark.parametrize(("bytes_each", "goes_on"), [(4 * KiB * 10 - 1, False), (4 * KiB * 13, True)])
async def test_bytes_below_the_floor_are_no_progress_waits_and_connecting_included(bytes_each, goes_on):
    clock = Clock()
    retry = make_retry(clock, attempts=6, backoff_base=3)

    async def connect_again_and_again():
        for _ in range(100):
            with retry.asking():
                clock.now += 10
                retry.note(bytes_each)
                await retry.wait(FAULT, position=0, total=None)

    if goes_on:
        await connect_again_and_again()
    else:
        with pytest.raises(FatalFault, match="after 6 attempts"):
            await connect_again_and_again()


async def test_the_longest_time_of_a_download_that_brings_nothing_is_the_one_that_is_documented():
    clock, limits = Clock(), HttpLimits()
    retry, began = make_retry(clock), clock()

    async def trickle_again_and_again():
        while True:
            clock.now += limits.connect_seconds + limits.head_seconds + limits.window_seconds
            retry.note(limits.floor_rate * int(limits.window_seconds) - 1)
            await retry.wait(TransientFault("it broke", retry_after="86400"), position=0, total=None)

    with retry.asking(), pytest.raises(FatalFault):
        await trickle_again_and_again()
    assert clock() - began == 25 * 60


async def test_time_in_which_nobody_asks_makes_no_progress_worthless():
    clock = Clock()
    retry = make_retry(clock, attempts=2)
    for _ in range(10):
        clock.now += 10_000  # a slow disk
        with retry.asking():
            retry.note(100 * KiB)
            await retry.wait(FAULT, position=0, total=None)


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
    assert str(fault) == "no byte came for 60 s"


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
