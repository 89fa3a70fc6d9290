"""The stall clock, without a network."""

import pytest

from agent.transfer.http.limits import HttpLimits
from agent.transfer.http.stall import Pace
from agent.units import KiB


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pace(clock):
    return Pace(HttpLimits(stall_seconds=60, window_seconds=60, min_rate=4 * KiB), clock)


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
