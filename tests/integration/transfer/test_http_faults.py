"""The HTTP source against servers that cut, stall, lie or change the file."""

import asyncio
import itertools
import threading
import time

import pytest

from agent.errors import ImageChanged, ImageDownload
from agent.transfer.http.body import LOOK_SECONDS
from agent.transfer.http.limits import HttpLimits
from agent.transfer.source import TransferRestart


def first_then(first, later):
    """Do one thing at the first request and another at all that follow."""
    return lambda ex: first(ex) if ex.number == 0 else later(ex)


async def failure(probe_of, kind=ImageDownload, chunk: int = 65536):
    with pytest.raises(kind) as caught:
        await probe_of.read(chunk)
    return caught.value


# -- cuts and resumption -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_cut_transfer_is_resumed_at_the_byte_where_it_was_cut(
    serve, probe, content, tls, ca_file, scheme
):
    def handler(exchange):
        exchange.file(content, upto=exchange.start + 40_000)

    server = serve(handler, tls=tls if scheme == "https" else None)
    one = probe(server.url, ca_file=ca_file)
    assert await one.read(100_000) == content
    assert server.ranges == [None] + [f"bytes={n}-" for n in range(40_000, 300_000, 40_000)]
    assert {ex.header("If-Range") for ex in server.requests[1:]} == {'"v1"'}
    assert (one.restarts, len(one.event("resumed"))) == (0, 7)
    assert all(seconds <= 1 for seconds in one.sleeps)  # each connection brought bytes: the wait never grew


async def test_reset_connection_is_resumed(serve, probe, content):
    def cut(exchange):
        exchange.file(content, upto=150_000)
        exchange.reset()

    assert await probe(serve(first_then(cut, lambda ex: ex.file(content))).url).read() == content


NO_PROOF = {
    "nothing": {},
    "a weak ETag": {"ETag": 'W/"v1"'},
    "a date": {"Last-Modified": "Mon, 05 Oct 2020 10:00:00 GMT", "Date": "Sat, 28 Nov 2026 10:00:00 GMT"},
}


@pytest.mark.parametrize("told", NO_PROOF.values(), ids=NO_PROOF)
async def test_two_files_are_never_spliced_where_nothing_would_tell(serve, probe, content, told):
    """The file changes with the cut: same length, same words about it, and ranges as if nothing had happened."""
    new = content[::-1]

    def handler(exchange):
        data = content if exchange.number == 0 else new
        head = told | {"Accept-Ranges": "bytes"}
        if exchange.number == 0:
            exchange.head(200, **head, Content_Length=len(data))
            exchange.send(data[:100_000])
        elif exchange.header("Range"):
            span = f"bytes {exchange.start}-{len(data) - 1}/{len(data)}"
            exchange.reply(206, data[exchange.start :], **head, Content_Range=span)
        else:
            exchange.reply(200, data, **head)

    one = probe(serve(handler).url)
    assert await one.read() == new
    assert (one.restarts, one.event("resumed")) == (1, [])


async def test_a_range_without_the_etag_that_the_file_had_is_not_believed(serve, probe, content):
    def later(exchange):
        if exchange.header("Range"):
            span = f"bytes {exchange.start}-{len(content) - 1}/{len(content)}"
            exchange.reply(206, bytes(len(content) - exchange.start), Content_Range=span)
        else:
            exchange.file(content)

    server = serve(first_then(lambda ex: ex.file(content, upto=100_000), later))
    one = probe(server.url)
    assert await one.read() == content
    assert server.ranges == [None, "bytes=100000-", None]
    assert one.restarts == 1


async def test_with_a_checksum_to_come_a_transfer_is_resumed_whatever_the_server_tells(serve, probe, content):
    def handler(exchange):
        start = exchange.start
        if start == 0:
            exchange.head(200, Content_Length=len(content), Accept_Ranges="bytes")
            exchange.send(content[:100_000])
        else:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            exchange.reply(206, content[start:], Content_Range=span)

    one = probe(serve(handler).url, checksummed=True)
    assert await one.read() == content
    assert (one.restarts, len(one.event("resumed"))) == (0, 1)


async def test_cuts_without_proof_that_the_file_is_the_same_are_bounded(serve, probe, content):
    def handler(exchange):
        exchange.head(200, Content_Length=len(content), Accept_Ranges="bytes")
        exchange.send(content[:100_000])

    one = probe(serve(handler).url)
    error = await failure(one)
    assert (one.restarts, len(one.sleeps)) == (3, 4)
    assert "strong ETag" in error.hint
    assert "checkSum" in error.hint


async def test_last_modified_serves_where_the_etag_is_weak_and_a_checksum_tells_in_the_end(
    serve, probe, content
):
    date = "Mon, 05 Oct 2020 10:00:00 GMT"

    def handler(exchange):
        headers = {"ETag": 'W/"w"', "Last-Modified": date, "Accept-Ranges": "bytes"}
        if exchange.number == 0:
            exchange.head(200, **headers, Content_Length=len(content))
            exchange.send(content[:1000])
            return
        assert exchange.header("If-Range") == date
        span = f"bytes {exchange.start}-{len(content) - 1}/{len(content)}"
        exchange.reply(206, content[exchange.start :], **headers, Content_Range=span)

    assert await probe(serve(handler).url, checksummed=True).read() == content


async def test_server_that_sends_a_part_of_the_range_is_asked_on(serve, probe, content):
    def handler(exchange):
        if exchange.number == 0:
            exchange.file(content, upto=10)
            return
        start = exchange.start
        stop = min(start + 100_000, len(content))
        span = f"bytes {start}-{stop - 1}/{len(content)}"
        exchange.reply(206, content[start:stop], Content_Range=span, ETag='"v1"')

    assert await probe(serve(handler).url).read() == content


async def test_more_bytes_than_promised_are_ignored(serve, probe, content):
    def handler(exchange):
        exchange.file(content)
        exchange.send(b"X" * 100_000)

    server = serve(handler)
    assert await probe(server.url).read(7000) == content
    assert await probe(server.url).read(1 << 20) == content


async def test_more_bytes_than_promised_are_ignored_over_tls(serve, probe, content, tls, ca_file):
    def handler(exchange):
        exchange.file(content)
        exchange.send(b"X" * 100_000)

    server = serve(handler, tls=tls)
    for chunk in (7000, 1 << 20):
        assert await probe(server.url, ca_file=ca_file).read(chunk) == content


# -- restarts ------------------------------------------------------------------------------------------------


async def test_server_without_ranges_makes_the_transfer_start_again_with_one_request(serve, probe, content):
    def handler(exchange):
        exchange.head(200, Content_Length=len(content), ETag='"v1"')
        exchange.send(content[: 100_000 if exchange.number == 0 else None])

    server = serve(handler)
    one = probe(server.url)
    assert await one.read() == content
    assert (one.restarts, len(server.requests)) == (1, 2)  # the answer to the refused range is kept
    assert one.event("restarted") == [{"restart": 1, "restarts": 3}]


async def test_restarts_are_counted(serve, probe, content):
    def handler(exchange):
        exchange.head(200, Content_Length=len(content), Accept_Ranges="none")
        exchange.send(content[:100_000])

    server = serve(handler)
    one = probe(server.url)
    error = await failure(one)
    assert one.restarts == 3
    assert "cut 4 times, at byte 100000 of 300000 each time, and cannot be resumed" in error.detail
    assert "byte ranges" in error.hint
    assert not any(server.ranges)


async def test_chunked_body_without_its_last_chunk_is_not_taken_for_whole(serve, probe, content):
    def handler(exchange):
        exchange.head(200, Transfer_Encoding="chunked")
        exchange.send(b"%x\r\n%s\r\n" % (len(content), content))
        if exchange.number == 1:
            exchange.send(b"0\r\n\r\n")

    one = probe(serve(handler).url)
    assert await one.read() == content
    assert one.restarts == 1


MALFORMED = {
    "no number": b"ZZ\r\n",
    "a negative number": b"-5\r\nhello\r\n",
    "a number too long": b"f" * 40 + b"\r\n",
    "more than announced": b"5\r\nhello, world\r\n",
    "a trailer that is none": b"0\r\nnot a header\r\n\r\n",
    "a NUL": b"5\0\r\nhello\r\n",
    "trailers without end": b"0\r\n" + b"X: y\r\n" * 100_000,
}


@pytest.mark.parametrize("nonsense", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("awaited", [False, True])
async def test_malformed_chunk_is_a_fault_of_the_network(serve, probe, content, nonsense, awaited):
    """Whether it comes while somebody waits for bytes or not."""
    gate = threading.Event()

    def handler(exchange):
        exchange.head(200, Transfer_Encoding="chunked")
        exchange.send(b"%x\r\n%s\r\n" % (len(content), content))
        if exchange.number > 0:
            exchange.send(b"0\r\n\r\n")
            return
        gate.wait(5)
        exchange.send(nonsense)
        exchange.hold()

    one = probe(serve(handler).url)
    await one.source.open()
    assert await one.source.fill(memoryview(bytearray(len(content)))) == len(content)
    if awaited:
        asyncio.get_running_loop().call_later(0.1, gate.set)
    else:
        gate.set()
        await asyncio.sleep(0.2)
    with pytest.raises(TransferRestart):
        await one.source.fill(memoryview(bytearray(10)))
    assert await one.read() == content
    reasons = [retry["reason"] for retry in one.event("retrying")]
    assert reasons in (["the body is malformed"], ["the connection was cut"])


async def test_body_that_ends_just_when_its_connection_is_looked_at_is_whole(serve, probe, content):
    """The end comes together with the time to look: aiohttp has given the connection back by then."""
    gate = threading.Event()

    def handler(exchange):
        exchange.head(200, Transfer_Encoding="chunked")
        exchange.send(b"%x\r\n%s\r\n" % (len(content), content))
        gate.wait(5)
        exchange.send(b"2\r\nab\r\n0\r\n\r\n")

    def hold_up():
        gate.set()
        time.sleep(0.5)

    server = serve(handler)
    one = probe(server.url)
    await one.source.open()
    assert await one.source.fill(memoryview(bytearray(len(content)))) == len(content)
    asyncio.get_running_loop().call_later(LOOK_SECONDS - 0.2, hold_up)
    assert await one.source.fill(memoryview(bytearray(10))) == 2
    assert (one.restarts, one.event("retrying"), len(server.requests)) == (0, [], 1)


async def test_reset_is_not_taken_for_the_end_of_a_body_without_length(serve, probe, content):
    gate = threading.Event()

    def handler(exchange):
        exchange.head(200, Connection="close")
        exchange.send(content[:100_000])
        if exchange.number == 0:
            gate.wait(5)
            exchange.reset()
        else:
            exchange.send(content[100_000:])

    one = probe(serve(handler).url)
    await one.source.open()
    buffer = memoryview(bytearray(50_000))
    assert await one.source.fill(buffer) == 50_000
    gate.set()
    assert await one.read() == content
    assert one.restarts == 1


async def test_length_that_gets_lost_on_the_way_is_refused(serve, probe, content):
    def later(exchange):
        exchange.head(200, Connection="close")
        exchange.send(content)

    server = serve(first_then(lambda ex: ex.file(content, upto=9, Accept_Ranges="none"), later))
    assert "does not any more" in (await failure(probe(server.url))).detail


# -- slow servers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_stalled_connection_is_dropped_and_resumed(serve, probe, content, chunked):
    def stall(exchange):
        if chunked:
            exchange.head(200, Transfer_Encoding="chunked", ETag='"v1"')
            exchange.send(b"10000\r\n" + content[:65536] + b"\r\n")
        else:
            exchange.file(content, upto=65536)
        exchange.hold()

    server = serve(first_then(stall, lambda ex: ex.file(content)))
    one = probe(server.url, limits=HttpLimits(stall_seconds=0.3))
    assert await one.read() == content
    assert one.event("retrying")[0]["reason"] == "no byte came for 0.3 s"


async def test_trickle_is_no_progress_and_ends(serve, probe, content):
    def handler(exchange):
        exchange.file(content, upto=exchange.start)
        for offset in itertools.count(exchange.start):
            exchange.send(content[offset : offset + 1])
            if exchange.server.stopping.wait(0.05):
                return

    limits = HttpLimits(window_seconds=0.4, attempts=2)
    error = await failure(probe(serve(handler).url, limits=limits))
    assert "B/s came for 0." in error.detail
    assert "after 2 attempts" in error.detail


@pytest.mark.parametrize("how", ["cut", "a range of its own"])
async def test_one_byte_for_each_request_is_no_progress_and_ends(serve, probe, content, how):
    def handler(exchange):
        start = exchange.start
        if exchange.number == 0 or how == "cut":
            exchange.file(content, upto=start + 1)
        else:
            span = f"bytes {start}-{start}/{len(content)}"
            exchange.reply(206, content[start : start + 1], Content_Range=span, ETag='"v1"')

    server = serve(handler)
    one = probe(server.url)
    error = await failure(one)
    assert "at byte 6 of 300000, after 6 attempts" in error.detail
    assert (len(server.requests), len(one.sleeps)) == (6, 5)


@pytest.mark.parametrize("how", ["cut", "a range of its own", "stall"])
async def test_one_byte_for_each_request_of_a_small_range_is_no_progress_and_ends(serve, probe, content, how):
    def later(exchange):
        start = exchange.start
        if how == "a range of its own":
            span = f"bytes {start}-{start}/{len(content)}"
            exchange.reply(206, content[start : start + 1], Content_Range=span, ETag='"v1"')
            return
        exchange.file(content, upto=start + 1)
        if how == "stall":
            exchange.hold()

    server = serve(first_then(lambda ex: ex.file(content), later))
    one = probe(server.url, limits=HttpLimits(stall_seconds=0.1))
    await one.source.open()
    with pytest.raises(ImageDownload, match="at byte 106 of 300000, after 6 attempts"):
        await one.source.read_at(100, 1000)
    assert (len(server.requests), len(one.sleeps)) == (7, 5)


async def test_a_server_that_hangs_up_is_asked_once_for_each_attempt(serve, probe):
    server = serve(lambda ex: None)
    await failure(probe(server.url, limits=HttpLimits(attempts=3)))
    assert len(server.requests) == 3


async def test_pause_of_our_own_is_no_stall(serve, probe, content):
    data = content * 40
    server = serve(lambda ex: ex.file(data))
    one = probe(server.url, limits=HttpLimits(stall_seconds=0.6, window_seconds=0.6))
    await one.source.open()
    buffer = memoryview(bytearray(len(data) // 3))
    for third in range(3):
        await asyncio.sleep(0.8)  # longer than the stall time and the window
        assert await one.source.fill(buffer) == len(buffer)
        assert buffer == data[third * len(buffer) : (third + 1) * len(buffer)]
    assert (len(server.requests), one.sleeps) == (1, [])


async def test_server_that_never_answers(serve, probe):
    server = serve(lambda ex: ex.hold())
    error = await failure(
        probe(server.url, limits=HttpLimits(connect_seconds=0.2, head_seconds=0.1, attempts=2))
    )
    assert error.detail == f"no answer from {server.origin} in time, at byte 0, after 2 attempts"


async def test_head_that_trickles_is_bounded_too(serve, probe):
    def handler(exchange):
        exchange.send(b"HTTP/1.1 200 OK\r\nX: ")
        while not exchange.server.stopping.wait(0.05):
            exchange.send(b"x")

    limits = HttpLimits(connect_seconds=0.2, head_seconds=0.2, attempts=1)
    assert "in time" in (await failure(probe(serve(handler).url, limits=limits))).detail


# -- changed files -------------------------------------------------------------------------------------------


def partial(content, **changed):
    """Answer a range honestly but for what is changed."""

    def handler(exchange):
        start = exchange.start
        headers = {"ETag": '"v1"', "Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        headers |= {name: value for name, value in changed.items() if name != "body"}
        exchange.reply(206, changed.get("body", content[start:]), **headers)

    return handler


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (lambda c: partial(c, ETag='"v2"'), 'ETag was "v1" at first and is "v2" now'),
        (
            lambda c: partial(c, Content_Range="bytes 1000-299999/400000"),
            "had 300000 bytes at first and has 400000",
        ),
        (
            lambda c: partial(c, Content_Range="bytes 0-299999/300000", body=c),
            "sent the bytes from 0 when asked",
        ),
        (
            lambda c: partial(c, Content_Encoding="gzip"),
            "Content-Encoding was (none) at first and is gzip now",
        ),
        (lambda c: lambda ex: ex.file(c, etag='"v2"'), 'ETag was "v1" at first and is "v2" now'),
        (lambda c: lambda ex: ex.reply(200, c + b"x"), "had 300000 bytes at first and has 300001 now"),
        (lambda c: lambda ex: ex.reply(416, Content_Range="bytes */500"), "at first and 500 now"),
    ],
)
async def test_changed_file_is_a_hard_error(serve, probe, content, later, expected):
    server = serve(first_then(lambda ex: ex.file(content, upto=1000), later(content)))
    error = await failure(probe(server.url), ImageChanged)
    assert expected in error.detail
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"body": b"short"}, "a range of 299000 bytes with a body of 5 bytes"),
        ({"Content_Range": "nonsense"}, "206 with Content-Range nonsense"),
        ({"Content_Range": "bytes 1000-300000/300000"}, "impossible Content-Range"),
        ({"Content_Range": "bytes 1000-999/300000"}, "impossible Content-Range"),
    ],
)
async def test_range_that_contradicts_itself_is_a_hard_error(serve, probe, content, changed, expected):
    server = serve(first_then(lambda ex: ex.file(content, upto=1000), partial(content, **changed)))
    assert expected in (await failure(probe(server.url))).detail
    assert len(server.requests) == 2


@pytest.mark.parametrize("span", ["bytes 1000-299999/*", "Bytes 1000-299999/300000", "BYTES 1000-299999/*"])
async def test_content_range_in_any_legal_form(serve, probe, content, span):
    server = serve(first_then(lambda ex: ex.file(content, upto=1000), partial(content, Content_Range=span)))
    one = probe(server.url)
    assert await one.read() == content
    assert len(one.event("resumed")) == 1


async def test_file_that_changes_before_its_first_byte_is_noticed_too(serve, probe, content):
    server = serve(first_then(lambda ex: ex.file(content, upto=0), lambda ex: ex.file(content, etag='"v2"')))
    await failure(probe(server.url), ImageChanged)


async def test_read_at_notices_a_changed_file(serve, probe, content):
    server = serve(first_then(lambda ex: ex.file(content), lambda ex: ex.file(content, etag='"v2"')))
    source = probe(server.url).source
    await source.open()
    with pytest.raises(ImageChanged, match="ETag"):
        await source.read_at(5, 5)


async def test_read_at_survives_faults(serve, probe, content):
    def later(exchange):
        if exchange.number == 1:
            exchange.reply(503)
        else:
            exchange.file(content, upto=exchange.start + 300)

    one = probe(serve(first_then(lambda ex: ex.file(content), later)).url)
    await one.source.open()
    assert await one.source.read_at(100, 1000) == content[100:1100]
    assert await one.source.fill(memoryview(bytearray(10))) == 10
