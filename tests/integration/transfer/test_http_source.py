"""The HTTP source against servers that behave: whole files, odd framings, slow consumers, proxies."""

import asyncio
import contextlib
import gzip
import hashlib
import mmap
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from agent.errors import ImageDownload
from agent.transfer.file import FileSource
from agent.transfer.http.options import HttpOptions
from agent.transfer.http.source import READ_AT_LIMIT, HttpSource
from agent.transfer.open import open_source
from agent.units import MiB


@pytest.mark.parametrize("chunk", [1, 511, 4096, 65536, 299_999, 300_000, 300_001, 1 << 20])
async def test_file_arrives_whole_under_every_buffer_size(serve, probe, content, chunk):
    data = content[:3000] if chunk == 1 else content
    server = serve(lambda ex: ex.file(data))
    one = probe(server.url)
    assert await one.read(chunk) == data
    assert (len(server.requests), one.sleeps) == (1, [])


async def test_info_tells_size_ranges_and_a_redacted_url(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    info = await probe(server.at("/a?sig=geheim").replace("://", "://u:p@")).source.open()
    assert (info.size, info.seekable, info.length_checked) == (len(content), True, True)
    assert info.url == server.at("/a?sig=***")


async def test_fill_gives_zero_again_and_again_after_the_end(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    one = probe(server.url)
    await one.read()
    assert await one.source.fill(memoryview(bytearray(10))) == 0
    assert await one.source.fill(memoryview(bytearray(10))) == 0


async def test_empty_file_is_at_its_end_at_once(serve, probe):
    server = serve(lambda ex: ex.reply(200))
    assert await probe(server.url).read() == b""


async def test_request_asks_for_the_bytes_as_they_are_and_sends_the_job_headers(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    headers = [("X-Token", "a"), ("X-Token", "b"), ("Range", "bytes=5-"), ("Accept-Encoding", "br")]
    assert await probe(server.url, headers=headers).read() == content
    request = server.requests[0]
    assert [value for name, value in request.headers if name == "X-Token"] == ["a", "b"]
    assert request.header("Accept-Encoding") == "identity"
    assert request.header("Range") is None


async def test_userinfo_is_sent_as_basic_credentials(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    await probe(server.url.replace("://", "://al%40ice:p%3Aw@")).read()
    assert server.requests[0].header("Authorization") == "Basic YWxAaWNlOnA6dw=="
    assert "al" not in server.requests[0].header("Host")


async def test_a_given_authorization_header_outranks_userinfo(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    url = server.url.replace("://", "://alice:pw@")
    await probe(url, headers=[("authorization", "Bearer x")]).read()
    assert [v for n, v in server.requests[0].headers if n.lower() == "authorization"] == ["Bearer x"]


async def test_escapes_of_a_signed_url_reach_the_server_untouched(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    path = "/a%2Fb%7ec/?sig=%2b%2F+%3d&x=a:b@c"
    await probe(server.at(path)).read()
    assert server.requests[0].target == path


async def test_content_encoding_is_never_decoded(serve, probe, content):
    packed = gzip.compress(content)
    server = serve(lambda ex: ex.file(packed, Content_Encoding="gzip"))
    assert await probe(server.url).read() == packed


async def test_ipv6_literal_host(serve, probe, content):
    try:
        server = serve(lambda ex: ex.file(content), address="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert await probe(server.url).read() == content


def send_chunked(exchange, data: bytes, size: int, *, terminate: bool = True) -> None:
    exchange.head(200, Transfer_Encoding="chunked", ETag='"v1"')
    for offset in range(0, len(data), size):
        piece = data[offset : offset + size]
        exchange.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    if terminate:
        exchange.send(b"0\r\n\r\n")


@pytest.mark.parametrize("size", [100, 8191, 300_000])
@pytest.mark.parametrize("chunk", [7000, 65536, 1 << 20])
async def test_chunked_body_has_no_size_but_a_checked_length(serve, probe, content, size, chunk):
    server = serve(lambda ex: send_chunked(ex, content, size))
    one = probe(server.url)
    info = await one.source.open()
    assert (info.size, info.seekable, info.length_checked) == (None, False, True)
    assert await one.read(chunk) == content
    assert await one.source.read_at(0, 10) is None


async def test_chunked_body_with_a_slow_consumer(serve, probe):
    data = random.Random(3).randbytes(8 * MiB)
    server = serve(lambda ex: send_chunked(ex, data, 30_000))
    assert await probe(server.url).read(chunk=MiB, pause=0.02) == data


async def test_body_that_ends_with_the_connection_is_marked_as_unchecked(serve, probe, content):
    def handler(exchange):
        exchange.head(200, Connection="close")
        exchange.send(content)

    one = probe(serve(handler).url)
    info = await one.source.open()
    assert (info.size, info.length_checked) == (None, False)
    assert await one.read(100_000) == content


# -- ranges --------------------------------------------------------------------------------------------------


async def test_read_at_gives_ranges_without_moving_the_transfer(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    source = probe(server.url).source
    await source.open()
    buffer = memoryview(bytearray(100_000))
    assert await source.fill(buffer) == 100_000
    assert await source.read_at(250_000, 5000) == content[250_000:255_000]
    assert await source.read_at(299_990, 5000) == content[299_990:]
    assert await source.read_at(400_000, 10) == b""
    assert await source.fill(buffer) == 100_000
    assert buffer == content[100_000:200_000]
    assert server.requests[1].header("Range") == "bytes=250000-254999"


async def test_read_at_is_bounded(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    source = probe(server.url).source
    await source.open()
    for offset, length in ((0, READ_AT_LIMIT + 1), (-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="cannot read"):
            await source.read_at(offset, length)


async def test_read_at_is_none_where_the_server_has_no_ranges(serve, probe, content):
    server = serve(lambda ex: ex.reply(200, content, ETag='"v1"'))
    source = probe(server.url).source
    assert not (await source.open()).seekable
    assert await source.read_at(10, 10) is None
    assert await source.read_at(20, 10) is None
    assert len(server.requests) == 2


# -- large transfers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("polite", [True, False], ids=["stays open", "closes at once"])
async def test_large_file_into_aligned_buffers_with_a_slow_consumer(
    serve, probe, tls, ca_file, scheme, polite
):
    data = random.Random(64).randbytes(64 * MiB)

    def handler(exchange):
        exchange.file(data)
        if polite:
            exchange.hold()

    server = serve(handler, tls=tls if scheme == "https" else None)
    one = probe(server.url, ca_file=ca_file)
    assert (await one.source.open()).size == len(data)
    digest = hashlib.sha256()
    buffers = [mmap.mmap(-1, MiB) for _ in range(2)]
    total = 0
    for turn in range(66):
        with memoryview(buffers[turn % 2]) as view:
            count = await one.source.fill(view)
            digest.update(view[:count])
        total += count
        if turn % 8 == 0:
            await asyncio.sleep(0.02)
    for buffer in buffers:
        buffer.close()  # raises BufferError if the source still held a view
    assert (total, digest.digest()) == (len(data), hashlib.sha256(data).digest())
    assert (len(server.requests), one.sleeps) == (1, [])


@pytest.fixture
def nginx(tmp_path):
    """The base URL of an nginx that serves tmp_path."""
    if shutil.which("nginx") is None:
        pytest.fail("nginx is not installed: packaging/dev/setup does it")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    tmp_path.joinpath("nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port}; root {tmp_path}; }} }}"
    )
    command = ["nginx", "-e", f"{tmp_path}/error.log", "-c", f"{tmp_path}/nginx.conf"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        for _ in range(200):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


async def test_large_file_from_nginx(tmp_path, probe, nginx):
    data = random.Random(5).randbytes(24 * MiB + 123)
    tmp_path.joinpath("image").write_bytes(data)
    one = probe(f"{nginx}/image")
    assert await one.read(MiB, pause=0.005) == data
    assert await one.source.read_at(5 * MiB, 1000) == data[5 * MiB : 5 * MiB + 1000]


# -- the factory ---------------------------------------------------------------------------------------------


def test_factory_chooses_by_scheme(tmp_path):
    assert isinstance(open_source("https://example.org/i"), HttpSource)
    assert isinstance(open_source(f"file://{tmp_path}/i"), FileSource)


# -- cancellation --------------------------------------------------------------------------------------------


def open_sockets() -> int:
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(link.readlink()).startswith("socket:")
    return count


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["length", "chunked", "silent"])
async def test_cancellation_at_any_moment_leaves_no_connection(serve, tls, ca_file, content, scheme, kind):
    def handler(exchange):
        if kind == "silent":
            exchange.hold()
        elif kind == "chunked":
            send_chunked(exchange, content, 5000, terminate=False)
            exchange.hold()
        else:
            exchange.file(content, upto=200_000)
            exchange.hold()

    server = serve(handler, tls=tls if scheme == "https" else None)

    async def transfer() -> None:
        source = HttpSource(server.url, HttpOptions(ca_file=ca_file))
        try:
            await source.open()
            await source.fill(memoryview(bytearray(len(content) + 1)))
        finally:
            await source.close()

    before = open_sockets()
    for delay in (0, 0.001, 0.003, 0.006, 0.01, 0.02, 0.05, 0.1):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(transfer(), delay)
    server.stop()  # the server's own ends of the connections
    await asyncio.sleep(0.1)
    assert open_sockets() < before


async def test_close_during_a_fill_makes_it_fail_at_once(serve, probe, content):
    def handler(exchange):
        exchange.file(content, upto=1000)
        exchange.hold()

    source = probe(serve(handler).url).source
    await source.open()
    async with asyncio.TaskGroup() as group:
        fill = group.create_task(expect_failure(source))
        await asyncio.sleep(0.05)
        await source.close()
        await source.close()
    assert "closed" in fill.result()


async def expect_failure(source: HttpSource) -> str:
    with pytest.raises(ImageDownload) as caught:
        await source.fill(memoryview(bytearray(5000)))
    return caught.value.detail
