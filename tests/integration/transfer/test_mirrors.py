"""Mirrors: the same bytes by another server, when one fails before the file or in the midst of it."""

import asyncio
import base64
import hashlib

import pytest

from agent.errors import ImageChanged, ImageDownload
from agent.transfer.http.limits import HttpLimits

SECRET = [("X-Token", "geheim")]


def refused(unused_tcp_port: int) -> str:
    return f"http://127.0.0.1:{unused_tcp_port}/image.raw"


@pytest.fixture
def good(serve, content):
    return serve(lambda ex: ex.file(content, etag='"of-the-mirror"'))


# -- before the first byte ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 403, 410, 501])
async def test_the_next_place_is_taken_where_one_refuses(serve, probe, content, good, status):
    first = serve(lambda ex: ex.reply(status))
    one = probe(first.at("/i?sig=abc"), mirrors=[good.url])
    assert await one.read() == content
    assert (len(first.requests), len(good.requests), one.restarts, one.sleeps) == (1, 1, 0, [])
    (event,) = one.event("mirror")
    assert event["url"] == good.url
    assert str(status) in event["reason"]
    assert "abc" not in repr(one.events)


async def test_a_place_that_fails_is_passed_over_and_has_its_turn_again(
    serve, probe, content, unused_tcp_port
):
    busy = serve(lambda ex: ex.reply(503) if ex.number < 2 else ex.file(content))
    one = probe(refused(unused_tcp_port), mirrors=[busy.url])
    assert await one.read() == content
    # Twice here, twice there, once here again, and then it answers.
    assert [event["attempt"] for event in one.event("retrying")] == [1, 2, 1, 2, 3]
    assert len(one.event("mirror")) == 3


async def test_where_all_fail_the_error_names_each(serve, probe, unused_tcp_port):
    gone = serve(lambda ex: ex.reply(404))
    one = probe(gone.at("/i?sig=abc"), mirrors=[refused(unused_tcp_port)], limits=HttpLimits(attempts=3))
    with pytest.raises(ImageDownload) as caught:
        await one.source.open()
    error = caught.value
    assert gone.at("/i") in error.message
    assert f"{gone.at('/i')}?sig=***: the server answered 404 Not Found" in error.detail
    assert f"{refused(unused_tcp_port)}: no connection" in error.detail
    assert (error.blame, error.retryable, len(gone.requests)) == ("network", True, 1)
    assert "abc" not in str(error)


async def test_the_info_names_the_place_that_answered(serve, probe, good):
    info = await probe(serve(lambda ex: ex.reply(404)).url, mirrors=[good.url]).source.open()
    assert (info.url, info.size) == (good.url, 300_000)


# -- secrets -----------------------------------------------------------------------------------------------------


async def test_headers_and_credentials_go_to_the_first_origin_only(serve, probe, content):
    first = serve(lambda ex: ex.file(content) if ex.target == "/two" else ex.reply(404))
    other = serve(
        lambda ex: ex.reply(404) if ex.target == "/own" else ex.reply(302, Location=first.at("/three"))
    )
    own = other.at("/own").replace("://", "://m:n@")
    mirrors = [own, other.at("/x"), first.at("/two")]
    one = probe(first.at("/one").replace("://", "://u:p@"), mirrors=mirrors, headers=SECRET)
    assert await one.read() == content
    assert [request.header("X-Token") for request in other.requests] == [None, None]
    assert [request.header("Authorization") for request in other.requests] == ["Basic bTpu", None]
    seen = {request.target: request.header("X-Token") for request in first.requests}
    # A mirror elsewhere does not bring the headers of the first place, not even by leading back to it.
    assert seen == {"/one": "geheim", "/three": None, "/two": "geheim"}
    assert first.requests[-1].header("Authorization") is None


# -- in the midst of the file ------------------------------------------------------------------------------------


def dies(content: bytes, at: int):
    """A server that is gone for good after so many bytes."""
    return lambda ex: ex.file(content, upto=at) if ex.number == 0 else ex.reply(404)


async def test_with_a_checksum_the_mirror_goes_on_where_the_other_was(serve, probe, content, good):
    first = serve(dies(content, 100_000))
    one = probe(first.url, mirrors=[good.url], checksummed=True)
    assert await one.read() == content
    assert one.restarts == 0
    # The ETag of another server is no condition for this one.
    assert [(ex.header("Range"), ex.header("If-Range")) for ex in good.requests] == [("bytes=100000-", None)]


async def test_later_ranges_hold_the_mirror_to_its_own_answer(serve, probe, content):
    def mirror(ex):
        ex.file(content, etag='"m"', upto=200_000 if ex.number == 0 else None)

    second = serve(mirror)
    one = probe(serve(dies(content, 100_000)).url, mirrors=[second.url], checksummed=True)
    assert await one.read() == content
    assert [(ex.header("Range"), ex.header("If-Range")) for ex in second.requests] == [
        ("bytes=100000-", None),
        ("bytes=200000-", '"m"'),
    ]


@pytest.mark.parametrize("etag", ['"of-the-mirror"', '"v1"'], ids=["another ETag", "the same ETag"])
async def test_without_one_the_mirror_begins_again(serve, probe, content, etag):
    """nginx makes its ETag of date and length: two builds under one date have one, whatever is in them."""
    other = bytes(len(content))
    mirror = serve(lambda ex: ex.file(other, etag=etag))
    one = probe(serve(dies(content, 100_000)).url, mirrors=[mirror.url])
    assert await one.read() == other
    assert (one.restarts, mirror.ranges) == (1, [None])


async def test_without_one_a_server_is_tried_to_the_last_before_it_is_left(serve, probe, content, good):
    def cut_once(ex):
        if ex.number == 0:
            ex.file(content, upto=100_000)
        elif ex.number < 5:
            ex.reply(503)
        else:
            ex.file(content)

    first = serve(cut_once)
    one = probe(first.url, mirrors=[good.url])
    assert await one.read() == content
    assert (one.restarts, good.requests) == (0, [])


@pytest.mark.parametrize("checksummed", [True, False])
async def test_a_mirror_of_another_length_is_no_mirror(serve, probe, content, good, checksummed):
    wrong = serve(lambda ex: ex.file(content + b"more"))
    one = probe(serve(dies(content, 100_000)).url, mirrors=[wrong.url, good.url], checksummed=checksummed)
    assert await one.read() == content
    assert len(wrong.requests) == 1
    assert "300004" in one.event("mirror")[-1]["reason"]


@pytest.mark.parametrize("name", ["Repr-Digest", "Digest"])
async def test_a_mirror_that_tells_another_digest_is_no_mirror(serve, probe, content, good, name):
    """The same length, and ranges as if nothing were wrong."""

    def told(data: bytes) -> dict[str, str]:
        value = base64.b64encode(hashlib.sha256(data).digest()).decode()
        return {name: f"sha-256=:{value}:" if name == "Repr-Digest" else f"SHA-256={value}"}

    def first(ex):
        if ex.number == 0:
            ex.file(content, upto=100_000, **told(content))
        else:
            ex.reply(404)

    other = content[::-1]
    wrong = serve(lambda ex: ex.file(other, etag='"m"', **told(other)))
    one = probe(serve(first).url, mirrors=[wrong.url, good.url], checksummed=True)
    assert await one.read() == content
    assert one.restarts == 0
    assert "digest was" in one.event("mirror")[-1]["reason"]


async def test_a_range_that_does_not_tell_the_length_is_not_put_behind_other_bytes(serve, probe, content):
    def mirror(ex):
        if ex.span is None:
            ex.file(content, ranges=False)
        else:
            rest = content[ex.start :]
            ex.reply(206, rest, Content_Range=f"bytes {ex.start}-{len(content) - 1}/*")

    one = probe(serve(dies(content, 100_000)).url, mirrors=[serve(mirror).url], checksummed=True)
    assert await one.read() == content
    assert one.restarts == 1


async def test_a_mirror_without_ranges_begins_again(serve, probe, content):
    mirror = serve(lambda ex: ex.file(content, ranges=False))
    one = probe(serve(dies(content, 100_000)).url, mirrors=[mirror.url], checksummed=True)
    assert await one.read() == content
    assert one.restarts == 1


async def test_a_file_that_changes_at_one_place_is_finished_by_another(serve, probe, content, good):
    changed = serve(
        lambda ex: ex.file(content, upto=100_000) if ex.number == 0 else ex.file(b"new", etag='"v2"')
    )
    one = probe(changed.url, mirrors=[good.url], checksummed=True)
    assert await one.read() == content
    alone = probe(serve(changed.answer).url, checksummed=True)
    with pytest.raises(ImageChanged):
        await alone.read()


async def test_places_that_cut_for_ever_come_to_an_end(serve, probe, content):
    servers = [serve(lambda ex: ex.file(content, upto=50_000, ranges=False)) for _ in range(3)]
    one = probe(servers[0].url, mirrors=[server.url for server in servers[1:]])
    with pytest.raises(ImageDownload, match="Could not download") as caught:
        await one.read()
    assert all(server.url in caught.value.detail for server in servers)
    # To come to a mirror is one of its beginnings.
    assert [len(server.requests) for server in servers] == [5, 4, 4]


# -- bytes out of order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checksummed", [True, False])
async def test_bytes_out_of_order_come_from_elsewhere_only_where_a_checksum_judges(
    serve, probe, content, good, checksummed
):
    first = serve(lambda ex: ex.file(content) if ex.number == 0 else ex.reply(404))
    one = probe(first.url, mirrors=[good.url], checksummed=checksummed)
    await one.source.open()
    if checksummed:
        assert await one.source.read_at(1000, 10) == content[1000:1010]
        assert good.ranges == ["bytes=1000-1009"]
    else:
        with pytest.raises(ImageDownload):
            await one.source.read_at(1000, 10)
        assert good.requests == []


async def test_close_ends_the_search_for_a_place(serve, probe, good):
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def hang(ex):
        loop.call_soon_threadsafe(asked.set)
        ex.hold()

    one = probe(serve(hang).url, mirrors=[good.url])

    async def close() -> None:
        await asked.wait()
        await one.source.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(close())
        with pytest.raises(ImageDownload):
            await one.source.open()
    assert good.requests == []
