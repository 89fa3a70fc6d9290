"""One sink over several: each gets all, no call ends before all have, and the slowest is known."""

import threading

import pytest

from agent.errors import WriteFault
from agent.transfer.several import SeveralSinks
from tests.unit.transfer.test_pipeline import SlowSink

SIZE = 64 * 1024


@pytest.fixture
def over():
    """A sink over others: over(*sinks)."""
    made = []

    def make(*sinks):
        made.append(SeveralSinks(sinks))
        return made[-1]

    yield make
    for several in made:
        several.close()


def test_each_gets_all_and_the_first_is_read(over):
    sinks = SlowSink(SIZE), SlowSink(SIZE), SlowSink(SIZE)
    several = over(*sinks)
    several.write(512, memoryview(b"one"))
    several.start([(1024, memoryview(b"two")), (1026, memoryview(b"3"))])
    several.finish()
    several.write(2048, memoryview(b"gone"))
    several.zero(2048, 4)
    for sink in sinks:
        assert (sink.content[512:515], sink.content[1024:1027]) == (b"one", b"tw3")
        assert not any(sink.content[2048:2052])
    sinks[0].read = lambda offset, length: b"of the first"
    assert several.read(0, 12) == b"of the first"


def test_it_is_as_large_as_the_smallest(over):
    assert over(SlowSink(SIZE), SlowSink(SIZE - 512)).size == SIZE - 512


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("call", ["write", "start", "zero"])
def test_where_one_fails_all_have_ended_before_that_is_told(over, bad, call):
    fault = OSError(5, "Input/output error", f"/dev/{bad}")
    sinks = [SlowSink(SIZE, pause=0.05), SlowSink(SIZE, pause=0.05)]
    sinks[bad].fault = fault
    arguments = {
        "write": (0, memoryview(b"x" * 512)),
        "start": ([(0, memoryview(b"x" * 512))],),
        "zero": (0, 512),
    }
    with pytest.raises(OSError, match="Input/output error") as caught:
        getattr(over(*sinks), call)(*arguments[call])
    assert caught.value.filename == f"/dev/{bad}"
    assert isinstance(caught.value, WriteFault) == (call == "start")
    assert not any(sink.busy.locked() for sink in sinks)
    if call != "zero":
        assert sinks[1 - bad].content[:512] == b"x" * 512


def test_of_two_that_fail_the_first_one_is_told(over):
    sinks = [SlowSink(SIZE, fault=OSError(5, "Input/output error", f"/dev/{number}")) for number in range(2)]
    with pytest.raises(OSError, match="Input/output error") as caught:
        over(*sinks).write(0, memoryview(b"x"))
    assert caught.value.filename == "/dev/0"


def test_the_slowest_is_known_once_the_others_have_waited(over):
    several = over(SlowSink(SIZE), SlowSink(SIZE, pause=0.02), SlowSink(SIZE))
    assert several.slowest is None
    for _ in range(5):
        several.write(0, memoryview(b"x"))
    assert several.slowest == 1


def test_one_that_may_be_done_without_is_not_used_any_more():
    out, told = set(), []

    def goes_on_without(number, error):
        told.append((number, error.strerror))
        out.add(number)
        return len(out) < 3

    sinks = [SlowSink(SIZE) for _ in range(3)]
    several = SeveralSinks(sinks, out.__contains__, goes_on_without)
    sinks[0].fault = OSError(5, "Input/output error")
    several.write(0, memoryview(b"one"))
    assert told == [(0, "Input/output error")]
    sinks[0].fault = None
    several.write(3, memoryview(b"two"))
    assert bytes(sinks[0].content[3:6]) == bytes(3)
    assert bytes(sinks[2].content[:6]) == b"onetwo"

    def unreadable(offset, length):
        raise OSError(5, "Input/output error")

    sinks[1].read = unreadable
    sinks[2].read = lambda offset, length: bytes(sinks[2].content[offset : offset + length])
    assert several.read(0, 6) == b"onetwo"
    assert out == {0, 1}
    several.write(6, memoryview(b"3"))
    sinks[2].fault = OSError(5, "the last one")
    with pytest.raises(OSError, match="the last one"):
        several.write(0, memoryview(b"x"))
    several.close()


def test_they_work_side_by_side(over):
    all_at_work = threading.Barrier(3, timeout=10)

    class Meeting(SlowSink):
        def zero(self, offset, length):
            all_at_work.wait()  # broken, and so a failure, where they come one after the other

    over(*(Meeting(SIZE) for _ in range(3))).zero(0, 512)


def test_several_threads_may_write_at_once(over):
    class Open(SlowSink):
        def write(self, offset, data):
            self.content[offset : offset + len(data)] = data

    sinks = Open(SIZE), Open(SIZE)
    several = over(*sinks)

    def work(number):
        for at in range(number * 512, SIZE, 8 * 512):
            several.write(at, memoryview(bytes([number + 1]) * 512))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sinks[0].content == sinks[1].content
    assert 0 not in sinks[0].content
