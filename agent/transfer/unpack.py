"""Unpacks a compressed file in threads of its own, in front of the writer's.

One thread takes buffers from its lane and cuts what is in them. Parts that inflate by themselves go to as many threads
as there are cores; what cannot be divided it inflates itself. Either way the writer's thread gets the pieces in the
order of the file, and a fault where it is in the file: what comes before it has been given.

Memory: four blocks that are filled in front of the writer, and one of the writer's; parts, with all that they take, are
bounded by `parts_memory` of the decompressor. A part that inflates to more than was expected waits for its turn: what
the writer is at always goes on.
"""

import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from agent.errors import DeployError
from agent.formats.chain import Chained
from agent.formats.compressed import Decompressor
from agent.formats.extent import Decoder, Extent
from agent.formats.parts import Part
from agent.tracebacks import raise_first, without_traceback
from agent.transfer.lane import Lane, Stopped

BLOCKS = 4
# All that they do is done without the interpreter's lock. On more cores memory would be the limit.
MAX_THREADS = 32
# So many parts for each thread may have been begun and not been written.
_PARTS_PER_THREAD = 4


class _Pieces:
    """What has come out of a part and was not taken yet."""

    def __init__(self, part: Part, memory: int) -> None:
        self.part = part
        self.memory = memory
        """What it counts for."""
        self.pieces: deque[bytes] = deque()
        self.length = 0
        self.ended = False
        self.passed = False
        """Whether nobody takes them any more."""
        self.failures: list[BaseException] = []

    def beyond(self, more: int) -> int:
        """What waits beyond what was expected, and counts as well, once `more` bytes have come."""
        return max(self.length + more - self.part.ahead, 0)


class _Taken(int):
    """So many bytes of the file have been unpacked, and what came out stands before this."""


_Item = memoryview | _Pieces | _Taken | DeployError | None


class Unpacking:
    """One compressed file on its way. `run` belongs to the unpacking thread, `feeds` to the writer's."""

    def __init__(self, chained: Chained, unpacker: Decompressor, threads: int | None = None) -> None:
        """`threads`: how many inflate parts; as many as there are cores, if it is not said."""
        self._chained = chained
        self._unpacker = unpacker
        self._memory = unpacker.parts_memory
        self._count = threads or min(len(os.sched_getaffinity(0)), MAX_THREADS)
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="byoi-part")
        # One lock for all that waits: it is taken a few times for 256 KiB.
        self._changed = threading.Condition()
        self._items: deque[_Item] = deque()
        self._held = 0
        self._free: deque[memoryview] = deque()
        self._made = 0
        self._block: memoryview | None = None
        self._filled = 0
        self._stopped = False

    @property
    def ahead(self) -> bool:
        """Whether more has been unpacked than the writer takes."""
        return len(self._items) >= BLOCKS // 2

    def stop(self) -> None:
        """Have all threads raise `Stopped` as soon as they ask for something."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads; waits for them."""
        self.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._items.clear()

    def _wait(self, condition: Callable[[], bool]) -> None:
        """To be called with the lock."""
        while not self._stopped and not condition():
            self._changed.wait()
        if self._stopped:
            raise Stopped

    # -- the unpacking thread

    def run(self, lane: Lane) -> None:
        """Unpack all buffers of the lane."""
        try:
            for buffer in lane:
                self._put_cuts(self._unpacker.cut(buffer.data))
                self._put(_Taken(buffer.length))
                lane.on_loop(buffer.release)
            self._put_cuts(self._unpacker.cut_rest())
            self._end_block()
        except DeployError as error:
            self._end_block()
            self._put(without_traceback(error))
        else:
            self._put(None)

    def _put_cuts(self, cuts: Iterator[Part | bytes]) -> None:
        for cut in cuts:
            if isinstance(cut, Part):
                self._end_block()
                self._put_part(cut)
            else:
                self._fill(memoryview(cut))

    def _put_part(self, part: Part) -> None:
        """Have a part inflated; waits until there is memory for it, or no other part."""
        pieces = _Pieces(part, max(part.memory, self._memory // (self._count * _PARTS_PER_THREAD)))
        with self._changed:
            self._wait(lambda: not self._held or self._held + pieces.memory <= self._memory)
            self._held += pieces.memory
        self._put(pieces)
        self._threads.submit(self._inflate, part, pieces)

    def _fill(self, piece: memoryview) -> None:
        """Copy a piece into blocks, in this thread, whose cache has it."""
        while piece:
            block = self._block = self._block or self._take_block()
            taken = min(len(piece), len(block) - self._filled)
            block[self._filled : self._filled + taken] = piece[:taken]
            self._filled, piece = self._filled + taken, piece[taken:]
            if self._filled == len(block):
                self._end_block()

    def _take_block(self) -> memoryview:
        with self._changed:
            if self._made < BLOCKS:
                self._made += 1
                return _new_block(self._chained)
            self._wait(lambda: bool(self._free))
            return self._free.popleft()

    def _end_block(self) -> None:
        if self._block is not None:
            self._put(self._block[: self._filled])
            self._block, self._filled = None, 0

    def _put(self, item: _Item) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    # -- the threads that inflate parts

    def _inflate(self, part: Part, into: _Pieces) -> None:
        try:
            for piece in part.inflate():
                with self._changed:
                    self._wait(partial(self._has_room, into, len(piece)))
                    if into.passed:
                        return
                    into.pieces.append(piece)
                    self._count_waiting(into, len(piece))
        except Stopped:
            return
        except DeployError as error:
            into.failures.append(without_traceback(error))
        except BaseException as error:  # noqa: BLE001 - raised in the writer's thread
            into.failures.append(error)
        with self._changed:
            into.ended = True
            self._changed.notify_all()

    def _has_room(self, into: _Pieces, length: int) -> bool:
        """Whether so many bytes may come out of a part; the first ones always may."""
        return (
            into.passed
            or not into.length
            or self._held + into.beyond(length) - into.beyond(0) <= self._memory
        )

    def _count_waiting(self, into: _Pieces, more: int) -> None:
        self._held += into.beyond(more) - into.beyond(0)
        into.length += more
        self._changed.notify_all()

    # -- the writer's thread

    def feeds(self, took: Callable[[int], None]) -> Iterator[Iterator[Extent]]:
        """The extents of one block of what is unpacked after the other; a block is used again for the next one.

        `took` is called with the numbers of bytes of the file that were unpacked into what was given.

        Raises:
            DeployError: from the unpacker, or the decoder of what is in it.
        """
        block, filled = memoryview(b""), 0
        for piece in self._unpacker.join(self._given(took)):
            block = block or _new_block(self._chained)
            if not filled and len(piece) == len(block):
                yield self._chained.decode(piece)
                continue
            at = 0
            while at < len(piece):
                part = piece[at : at + len(block) - filled]
                block[filled : filled + len(part)] = part
                filled, at = filled + len(part), at + len(part)
                if filled == len(block):
                    yield self._chained.decode(block)
                    filled = 0
        yield self._chained.decode(block[:filled])
        yield self._chained.decode_rest()

    def _given(
        self, took: Callable[[int], None]
    ) -> Iterator[tuple[Part | None, Iterator[bytes | memoryview]]]:
        while True:
            with self._changed:
                self._wait(lambda: bool(self._items))
                item = self._items.popleft()
            match item:
                case None:
                    return
                case memoryview():
                    yield None, iter((item,))
                    self._let_go(item)
                case _Pieces():
                    yield item.part, self._pieces_of(item)
                    # Not all of it may have been taken.
                    item.passed = True
                    self._let_go(item)
                case _Taken():
                    took(item)
                case DeployError():
                    raise_first([item])

    def _let_go(self, used: memoryview | _Pieces) -> None:
        with self._changed:
            if isinstance(used, _Pieces):
                self._held -= used.memory + used.beyond(0)
            else:
                self._free.append(memoryview(used.obj))
            self._changed.notify_all()

    def _pieces_of(self, part: _Pieces) -> Iterator[bytes]:
        while True:
            with self._changed:
                self._wait(lambda: part.ended or bool(part.pieces))
                if not part.pieces:
                    break
                piece = part.pieces.popleft()
                self._count_waiting(part, -len(piece))
            yield piece
        raise_first(part.failures)


def _new_block(chained: Chained) -> memoryview:
    """Page-aligned, so that the sink can write it without a copy."""
    return memoryview(mmap.mmap(-1, chained.block_bytes))


def unpacking_of(decoder: Decoder) -> Unpacking | None:
    """What unpacks a file in threads of its own, if it is compressed; what is unpacked lives in memory of its own."""
    if isinstance(decoder, Chained) and isinstance(decoder.outer, Decompressor):
        return Unpacking(decoder, decoder.outer)
    return None
