"""How many connections are wanted, on links that are made up."""

from collections.abc import Callable

import pytest

from agent.transfer.http.ramp import ALONE, ENOUGH, HOLD_SECONDS, Ramp, Sample

STEP = 0.05
MB = 1_000_000
Link = Callable[[int], float]


class Transfer:
    """One that brings what a link gives to so many connections, in bytes a second; `share` of the time it waits."""

    def __init__(self, ramp: Ramp, link: Link, share: float = 0.9) -> None:
        self.ramp, self.link, self.share = ramp, link, share
        self.now = self.received = self.waited = 0.0
        self.counts: list[int] = []

    def run(self, seconds: float) -> list[int]:
        """The counts that were wanted, without repetitions."""
        self.counts.clear()
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            self.received += self.link(self.ramp.count) * STEP
            self.waited += self.share * STEP
            self.ramp.observe(Sample(self.now, int(self.received), self.waited))
            if not self.counts or self.counts[-1] != self.ramp.count:
                self.counts.append(self.ramp.count)
        return list(self.counts)


def each(rate: float) -> Link:
    """A link on which each connection has so much."""
    return lambda count: rate * count


def shared(rate: float) -> Link:
    """A link that one connection fills."""
    return lambda _: rate


def test_where_one_connection_is_the_limit_there_are_soon_as_many_as_may_be():
    assert Transfer(Ramp(8), each(50 * MB)).run(3) == [1, 2, 4, 8]
    assert Transfer(Ramp(6), each(50 * MB)).run(3) == [1, 2, 4, 6]


def test_a_full_link_is_tried_once_and_then_ever_less_often():
    transfer = Transfer(Ramp(8), shared(110 * MB))
    assert transfer.run(4) == [1, 2, 1]
    assert transfer.run(HOLD_SECONDS - 5) == [1]
    assert transfer.run(8) == [1, 2, 1]
    assert transfer.run(2 * HOLD_SECONDS - 6) == [1]


def test_it_stays_where_more_bring_nothing():
    transfer = Transfer(Ramp(8), lambda count: 50 * MB * min(count, 4))
    assert transfer.run(6) == [1, 2, 4, 8, 4]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.45])
def test_nothing_is_tried_while_something_else_is_waited_for(share):
    assert Transfer(Ramp(8), each(50 * MB), share).run(60) == [1]


def test_connections_go_when_the_network_is_not_waited_for_any_more():
    transfer = Transfer(Ramp(8), each(50 * MB))
    transfer.run(3)
    transfer.share = 0.05
    assert transfer.run(4) == [8]  # a disk may pause
    assert transfer.run(20) == [8, 4, 2, 1]
    transfer.share = 0.9
    assert transfer.run(3) == [1, 2, 4, 8]


def test_a_line_of_many_gigabits_is_left_alone():
    assert Transfer(Ramp(8), each(1.1 * ALONE)).run(60) == [1]
    assert Transfer(Ramp(8), each(0.45 * ENOUGH)).run(60) == [1, 2, 4]


def test_a_connection_that_grows_by_itself_is_not_judged_by_that():
    """The slow start of TCP: it would make any try look like a success."""
    started = Transfer(Ramp(8), shared(0))
    started.link = lambda _: min(110 * MB, 2 * MB * 2 ** (started.now / 0.15))
    assert started.run(5) == [1, 2, 1]


def test_a_server_that_takes_no_more_is_asked_again_ever_later():
    ramp = Ramp(8)
    transfer = Transfer(ramp, each(50 * MB))
    transfer.run(0.5)
    assert ramp.count == 2
    for pause in (HOLD_SECONDS, 2 * HOLD_SECONDS, 4 * HOLD_SECONDS):
        ramp.refuse(transfer.now, 1)
        assert transfer.run(pause - 1) == [1]
        assert transfer.run(1.2) == [1, 2]


def test_it_keeps_those_that_stand_when_another_is_refused():
    ramp = Ramp(8)
    Transfer(ramp, each(50 * MB)).run(3)
    ramp.refuse(3.0, 5)
    assert ramp.count == 5
    ramp.refuse(3.0, 0)
    assert ramp.count == 1


def test_one_is_never_more():
    assert Transfer(Ramp(1), each(50 * MB)).run(60) == [1]


def test_a_transfer_that_begins_again_is_no_growth():
    transfer = Transfer(Ramp(8), each(50 * MB), share=0.2)
    transfer.run(1)
    transfer.received = 0.0
    assert transfer.run(1) == [1]
