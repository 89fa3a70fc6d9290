"""Several connections side by side: the bytes, whatever becomes of one of them, and what is left behind."""

import asyncio
import random
import threading
from collections import Counter
from itertools import pairwise

import pytest

from agent.errors import ImageChanged, ImageDownload
from agent.transfer.http.limits import HttpLimits
from agent.transfer.http.ramp import Ramp
from agent.transfer.http.slices import SLICE
from agent.transfer.pool import BufferPool
from agent.units import KiB, MiB
from tests.kit.ramps import Eager

SIZE = 28 * MiB + 4321


class Stubborn(Eager):
    """Wants as many, whatever happens."""

    def refuse(self, now: float, standing: int) -> None:
        pass


@pytest.fixture(scope="session")
def image() -> bytes:
    return random.Random(31).randbytes(SIZE)


class Wide:
    """A source that may have several connections, and all that it leaves."""

    def __init__(self, probe, server, ramp: Ramp | None = None, **options) -> None:
        self.pool = BufferPool()
        self.most = 0
        options.setdefault("checksummed", True)
        url = server if isinstance(server, str) else server.url
        self.probe = probe(url, lender=self.pool, ramp=ramp or Eager(4), **options)
        self.source = self.probe.source

    async def read(self) -> bytes:
        fill = self.source.fill

        async def counted(view: memoryview) -> int:
            count = await fill(view)
            self.most = max(self.most, self.source.connections)
            return count

        self.source.fill = counted
        data = await self.probe.read(4 * MiB)
        assert (self.pool.lent, self.source.connections) == (0, 0)
        return data


def well(image: bytes, **options):
    return lambda ex: ex.file(image, **options)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_several_connections_bring_each_byte_once_and_in_order(
    serve, probe, image, tls, ca_file, scheme
):
    server = serve(well(image), keep=True, tls=tls if scheme == "https" else None)
    one = Wide(probe, server, ca_file=ca_file)
    assert await one.read() == image
    assert one.most == 4
    assert (one.probe.events, one.probe.restarts) == ([], 0)
    spans = sorted(ex.span for ex in server.requests[1:])
    assert spans[-1][1] == SIZE
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert {ex.header("If-Range") for ex in server.requests[1:]} == {'"v1"'}
    # Four connections for the slices, and requests sent ahead over them.
    assert len({ex.connection for ex in server.requests}) == 5
    assert any(ex.ahead for ex in server.requests)


async def test_where_connections_are_not_kept_each_slice_has_its_own(serve, probe, image):
    server = serve(well(image, Connection="close"))
    one = Wide(probe, server)
    assert await one.read() == image
    assert len(server.requests) > 20


async def test_a_server_that_lies_about_keeping_them_costs_nothing_but_connections(serve, probe, image):
    server = serve(well(image))
    assert await Wide(probe, server).read() == image


@pytest.mark.parametrize("ramp", [Eager, Stubborn])
@pytest.mark.parametrize("seed", range(3))
async def test_random_cuts_on_any_connection(serve, probe, image, seed, ramp):
    dice, lock = random.Random(seed), threading.Lock()

    def handler(ex):
        with lock:
            cut = ex.start + dice.randrange(1, 2 * MiB) if dice.random() < 0.3 else None
            reset = dice.random() < 0.5
        ex.file(image, upto=cut)
        if cut is not None and reset:
            ex.reset()

    server = serve(handler, keep=True)
    one = Wide(probe, server, ramp(4))
    assert await one.read() == image
    assert one.probe.restarts == 0


@pytest.mark.parametrize("status", [429, 503, 404])
async def test_a_server_that_takes_no_second_one_is_left_in_peace(serve, probe, image, status):
    server = serve(lambda ex: ex.file(image) if ex.number == 0 else ex.reply(status), keep=True)
    one = Wide(probe, server)
    assert await one.read() == image
    assert (one.most, one.probe.events, one.probe.sleeps) == (1, [], [])
    assert len(server.requests) <= 4  # those that were wanted at once


async def test_a_server_that_takes_only_some_has_no_more(serve, probe, image):
    lock, busy = threading.Lock(), Counter()

    def handler(ex):
        with lock:
            known = ex.connection in busy
            if not known and ex.number and len([one for one in busy if one.fileno() >= 0]) >= 3:
                ex.over = True
                ex.reply(503)
                return
            busy[ex.connection] += 1
        ex.file(image)

    server = serve(handler, keep=True)
    one = Wide(probe, server, Eager(8))
    assert await one.read() == image
    assert 1 <= one.most <= 3
    assert one.probe.event("retrying") == []


@pytest.mark.parametrize("told", [None, "none"])
async def test_a_server_that_offers_no_ranges_never_gets_a_second_one(serve, probe, image, told):
    headers = {} if told is None else {"Accept_Ranges": told}
    server = serve(lambda ex: ex.file(image, ranges=False, **headers))
    one = Wide(probe, server)
    assert await one.read() == image
    assert (one.most, server.ranges) == (1, [None])


async def test_a_server_that_offers_ranges_and_has_none_is_believed_no_further(serve, probe, image):
    server = serve(lambda ex: ex.reply(200, image, ETag='"v1"', Accept_Ranges="bytes"))
    one = Wide(probe, server)
    assert await one.read() == image
    assert (one.most, one.probe.restarts, one.probe.events) == (1, 0, [])


async def test_without_a_checksum_there_are_several_only_by_a_strong_etag(serve, probe, image):
    strong = serve(well(image), keep=True)
    one = Wide(probe, strong, checksummed=False)
    assert await one.read() == image
    assert one.most == 4
    weak = serve(well(image, ETag='W/"v1"'), keep=True)
    one = Wide(probe, weak, checksummed=False)
    assert await one.read() == image
    assert (one.most, weak.ranges) == (1, [None])


LIES = {
    "another ETag": lambda ex, data: {"ETag": '"v2"'},
    "no ETag": None,
    "another total": lambda ex, data: {"Content_Range": f"bytes {ex.start}-{ex.span[1] - 1}/{len(data) + 1}"},
    "another range": lambda ex, data: {"Content_Range": f"bytes {ex.start + 1}-{ex.span[1]}/{len(data)}"},
    "a shorter range": lambda ex, data: {"Content_Range": f"bytes {ex.start}-{ex.span[1] - 2}/{len(data)}"},
    "a range that is none": lambda ex, data: {"Content_Range": "bytes 1-0/0"},
    "chunks": lambda ex, data: {"Transfer_Encoding": "chunked"},
    "a length too long": lambda ex, data: {"Content_Length": 2 * SLICE},
    "another encoding": lambda ex, data: {"Content_Encoding": "gzip"},
}


@pytest.mark.parametrize("late", [False, True], ids=["at first", "over a kept connection"])
@pytest.mark.parametrize("lie", LIES)
async def test_a_range_that_lies_puts_no_wrong_byte_into_the_file(serve, probe, image, lie, late):
    """The second connection, or any of a connection's later answers, has wrong bytes and says so in some way."""
    lock, seen = threading.Lock(), Counter()

    def handler(ex):
        with lock:
            seen[ex.connection] += 1
            lies = ex.span is not None and ex.span[1] is not None and seen[ex.connection] > 3 * late
        if not lies:
            ex.file(image)
            return
        start, stop = ex.span
        headers = {
            "ETag": '"v1"',
            "Content_Range": f"bytes {start}-{stop - 1}/{len(image)}",
            "Content_Length": stop - start,
        }
        if LIES[lie] is None:
            del headers["ETag"]
        else:
            headers |= LIES[lie](ex, image)
        ex.head(206, **headers)
        ex.send(bytes(stop - start))

    server = serve(handler, keep=True)
    # Without a checksum the ETag is what two ranges have in common: none is not enough.
    one = Wide(probe, server, checksummed=False)
    assert await one.read() == image


async def test_a_slice_that_stalls_is_fetched_by_another(serve, probe, image):
    stalled = threading.Event()

    def handler(ex):
        if ex.number == 9 and not stalled.is_set():
            stalled.set()
            ex.file(image, upto=ex.start + 300_000)
            ex.hold()
        else:
            ex.file(image)

    server = serve(handler, keep=True)
    one = Wide(probe, server, Stubborn(4))
    assert await one.read() == image
    assert stalled.is_set()
    assert (one.probe.event("retrying"), one.probe.restarts) == ([], 0)


async def test_where_all_stall_the_single_one_s_rules_hold(serve, probe, image):
    def handler(ex):
        if ex.number == 0:
            ex.file(image)
        else:
            ex.file(image, upto=ex.start + 1000)
            ex.hold()

    limits = HttpLimits(stall_seconds=0.5, window_seconds=0.5, attempts=3)
    one = Wide(probe, serve(handler, keep=True), Stubborn(4), limits=limits)
    with pytest.raises(ImageDownload) as caught:
        await one.read()
    assert "after 3 attempts" in caught.value.detail
    await one.source.close()
    assert one.pool.lent == 0


async def test_one_is_enough_in_the_midst_of_the_file(serve, probe, image):
    """The crew brings what it has begun, and a single connection goes on."""
    ramp, long = Stubborn(4), image * 2
    server = serve(well(long), keep=True)
    one = Wide(probe, server, ramp)
    await one.source.open()
    view, data = memoryview(bytearray(4 * MiB)), bytearray()
    while count := await one.source.fill(view):
        data += view[:count]
        if len(data) >= 12 * MiB:
            ramp.most = ramp.count = 1
    assert bytes(data) == long
    assert server.ranges[-1].endswith("-")
    assert one.probe.events == []


# -- several servers ---------------------------------------------------------------------------------------------


async def test_mirrors_bring_their_part(serve, probe, image):
    first, second = serve(well(image), keep=True), serve(well(image, etag='"m"'), keep=True)
    one = Wide(probe, first, mirrors=[second.url])
    assert await one.read() == image
    assert len({ex.connection for ex in second.requests}) == 2
    # Its own validator, once an answer has brought it.
    validators = [ex.header("If-Range") for ex in second.requests]
    assert set(validators) <= {None, '"m"'}
    assert validators[-1] == '"m"'
    assert len({ex.connection for ex in first.requests}) == 3


async def test_without_a_checksum_mirrors_do_not(serve, probe, image):
    first, second = serve(well(image), keep=True), serve(well(image), keep=True)
    one = Wide(probe, first, mirrors=[second.url], checksummed=False)
    assert await one.read() == image
    assert (one.most, second.requests) == (4, [])


DEAD = {
    "refuses": lambda ex: ex.reply(404),
    "is busy": lambda ex: ex.reply(503),
    "hangs up": lambda ex: None,
    "says nothing": lambda ex: ex.hold(),
    "has another length": lambda ex: ex.file(bytes(SIZE + 1)),
    "has no ranges": lambda ex: ex.file(bytes(SIZE), ranges=False),
    "cuts at once": lambda ex: ex.file(bytes(SIZE), upto=ex.start),
}


@pytest.mark.parametrize("how", DEAD)
async def test_a_mirror_that_is_no_use_does_no_harm(serve, probe, image, how):
    first, dead = serve(well(image), keep=True), serve(DEAD[how])
    one = Wide(probe, first, mirrors=[dead.url], headers=[("X-Token", "geheim")])
    assert await one.read() == image
    assert one.most > 1
    assert one.probe.events == []
    assert len(dead.requests) <= 3
    assert all(ex.header("X-Token") is None for ex in dead.requests)


async def test_headers_go_with_each_request_to_their_origin(serve, probe, image):
    first = serve(well(image), keep=True)
    one = Wide(probe, first, headers=[("X-Token", "geheim")])
    assert await one.read() == image
    assert {ex.header("X-Token") for ex in first.requests} == {"geheim"}


async def test_behind_a_redirect_the_target_is_asked_on_and_gets_no_header(serve, probe, image):
    target = serve(well(image), keep=True)
    first = serve(lambda ex: ex.reply(302, Location=target.at("/there?sig=a")), keep=True)
    one = Wide(probe, first, headers=[("X-Token", "geheim")])
    assert await one.read() == image
    assert {(ex.target, ex.header("X-Token")) for ex in target.requests} == {("/there?sig=a", None)}
    assert len(first.requests) < len(target.requests)


async def test_a_decoder_that_needs_the_memory_ends_it(serve, probe, image):
    server = serve(well(image * 2), keep=True)
    one = Wide(probe, server, Eager(4))
    await one.source.open()
    view, data = memoryview(bytearray(MiB)), bytearray()
    while count := await one.source.fill(view):
        data += view[:count]
        if len(data) == 16 * MiB:
            assert one.pool.lent > 0
            one.pool.make_room(60 * MiB)
        if len(data) == 48 * MiB:
            assert (one.pool.lent, one.source.connections) == (0, 1)
    assert bytes(data) == image * 2


# -- the end -----------------------------------------------------------------------------------------------------


async def test_a_file_that_changes_is_never_spliced(serve, probe, image):
    """All answers behind a moment are those of another file."""

    def handler(ex):
        if ex.number < 12:
            ex.file(image)
        else:
            ex.file(image[::-1], etag='"v2"')

    one = Wide(probe, serve(handler, keep=True), checksummed=False)
    with pytest.raises(ImageChanged):
        await one.read()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_cancellation_at_any_moment_leaves_nothing(serve, probe, image, tls, ca_file, scheme):
    server = serve(well(image), keep=True, tls=tls if scheme == "https" else None)
    before = asyncio.all_tasks()
    for turn in range(12):
        one = Wide(probe, server, Stubborn(4), ca_file=ca_file)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_forever(one), 0.01 * turn)
        await one.source.close()
        assert one.pool.lent == 0
        assert asyncio.all_tasks() == before


async def _forever(one: Wide) -> None:
    await one.source.open()
    view = memoryview(bytearray(512 * KiB))
    while await one.source.fill(view) == len(view):
        pass
    await asyncio.Event().wait()


async def test_a_slow_consumer_holds_all_of_them_back(serve, probe, image):
    sent, lock = Counter(), threading.Lock()

    def handler(ex):
        ex.file(image)
        with lock:
            sent[ex.connection] += 1

    server = serve(handler, keep=True)
    one = Wide(probe, server, Stubborn(8))
    await one.source.open()
    view = memoryview(bytearray(MiB))
    data = bytearray()
    for _ in range(8):
        data += view[: await one.source.fill(view)]
    await asyncio.sleep(0.5)
    assert one.pool.lent <= 5
    while count := await one.source.fill(view):
        data += view[:count]
    assert bytes(data) == image
