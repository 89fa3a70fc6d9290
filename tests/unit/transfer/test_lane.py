import pytest

from agent.transfer.lane import Lane, Stopped
from agent.transfer.pool import BufferPool

PAGE = 4096


@pytest.fixture
def buffers():
    pool = BufferPool(count=3, size=PAGE)
    yield [pool.take() for _ in range(3)]
    pool.close()


async def test_a_lane_gives_what_was_put_on_it_in_order_until_its_end(buffers):
    lane = Lane()
    for buffer in buffers:
        lane.put(buffer)
    assert lane.waiting == 3
    lane.put(None)
    assert list(lane) == buffers


async def test_a_lane_that_was_stopped_gives_nothing_more_of_what_is_on_it(buffers):
    """Whoever works on it must not take its end for that of the image."""
    lane = Lane()
    for buffer in buffers:
        lane.put(buffer)
    lane.put(None)
    items = iter(lane)
    assert next(items) is buffers[0]
    lane.stop()
    lane.stop()
    with pytest.raises(Stopped):
        next(items)
