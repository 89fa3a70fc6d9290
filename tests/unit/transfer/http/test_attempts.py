"""When a transfer tries again and when it gives up, without a network."""

import random

import pytest

from agent.transfer.http.attempts import Attempts
from agent.transfer.http.faults import FatalFault, TransientFault
from agent.transfer.http.limits import HttpLimits
from agent.transfer.source import ignore_events
from agent.units import KiB, MiB


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_attempts(clock, **limits):
    async def sleep(seconds):
        clock.now += seconds

    options = {"sleep": sleep, "clock": clock, "rng": random.Random(1), "on_event": ignore_events}
    return Attempts(HttpLimits(**limits), **options)


FAULT = TransientFault("it broke")


async def test_attempts_run_out_unless_there_is_progress():
    clock = Clock()
    attempts = make_attempts(clock, attempts=3)
    for _ in range(4):
        for _ in range(2):
            await attempts.wait(FAULT, position=0, total=None)
        attempts.note(MiB)
    for _ in range(2):
        await attempts.wait(FAULT, position=7, total=None)
    with pytest.raises(FatalFault, match="it broke, at byte 7 of 9, after 3 attempts"):
        await attempts.wait(FAULT, position=7, total=9)


@pytest.mark.parametrize(("bytes_each", "goes_on"), [(4 * KiB * 10 - 1, False), (4 * KiB * 13, True)])
async def test_bytes_below_the_floor_are_no_progress_waits_and_connecting_included(bytes_each, goes_on):
    clock = Clock()
    attempts = make_attempts(clock, attempts=6, backoff_base=3)

    async def connect_again_and_again():
        for _ in range(100):
            with attempts.asking():
                clock.now += 10
                attempts.note(bytes_each)
                await attempts.wait(FAULT, position=0, total=None)

    if goes_on:
        await connect_again_and_again()
    else:
        with pytest.raises(FatalFault, match="after 6 attempts"):
            await connect_again_and_again()


async def test_the_longest_time_of_a_download_that_brings_nothing_is_the_one_that_is_documented():
    clock, limits = Clock(), HttpLimits()
    attempts, began = make_attempts(clock), clock()

    async def trickle_again_and_again():
        while True:
            clock.now += limits.connect_seconds + limits.head_seconds + limits.window_seconds
            attempts.note(limits.min_rate * int(limits.window_seconds) - 1)
            await attempts.wait(TransientFault("it broke", retry_after="86400"), position=0, total=None)

    with attempts.asking(), pytest.raises(FatalFault):
        await trickle_again_and_again()
    assert clock() - began == 25 * 60


async def test_time_in_which_nobody_asks_makes_no_progress_worthless():
    clock = Clock()
    attempts = make_attempts(clock, attempts=2)
    for _ in range(10):
        clock.now += 10_000  # a slow disk
        with attempts.asking():
            attempts.note(100 * KiB)
            await attempts.wait(FAULT, position=0, total=None)
