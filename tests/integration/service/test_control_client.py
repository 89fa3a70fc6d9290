"""The two requests to a control plane, against a reference one and against servers that answer whatever they like."""

import asyncio
import gzip
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme

from agent import __version__
from agent.model.surroundings import Trouble
from agent.service.config.model import ControlPlaneConfig
from agent.service.control.answers import MAX_OFFER_BYTES, Action, ControlFault
from agent.service.control.client import ControlPlaneApi, tls_context
from agent.units import MiB
from tests.kit.control_plane import CANCEL, control_plane

NAME = "ns1.example.net"
TOKEN = "correct-horse-battery"


@pytest.fixture
def plane():
    with control_plane() as server:
        yield server


@pytest.fixture
async def make_api():
    async with aiohttp.ClientSession() as session:
        context = ssl.create_default_context()  # not needed: no TLS here

        def make(url: str, *, name: str = NAME, tls: ssl.SSLContext = context, **options) -> ControlPlaneApi:
            return ControlPlaneApi(ControlPlaneConfig(url, TOKEN), name, session, tls, **options)

        yield make


class Hostile:
    """A server that sends the same bytes to whatever it is asked, and keeps what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[bytes] = []
        self.cut = asyncio.Event()
        """The client has gone before it was sent everything."""


@asynccontextmanager
async def hostile(
    *pieces: bytes, pause: float = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Hostile]:
    """Answer with these pieces, with a pause before each, and close; without any, close at once."""
    server = Hostile()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            server.requests.append(head + await reader.readexactly(length))
            for piece in pieces:
                await asyncio.sleep(pause)
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            server.cut.set()
        finally:
            writer.close()

    tasks: list[asyncio.Task] = []
    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with listening:
        server.url = f"http{'s' if tls else ''}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def answer(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def fault_of(call) -> ControlFault:
    """How a call fails; never with a text that holds what only the two sides may know."""
    with pytest.raises(ControlFault) as caught:
        await call
    assert TOKEN not in str(caught.value)
    assert "sig=" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


# -- the reference control plane -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 205, 299])
async def test_every_2xx_takes_a_status(plane, make_api, status):
    plane.taking = status
    record = plane.give(NAME, {}, "job-1")
    assert await make_api(plane.url).report("job-1", {"status": "done"}) is Action.CONTINUE
    assert record.last == {"status": "done"}


@pytest.mark.parametrize("status", [200, 202])
async def test_every_2xx_may_cancel(plane, make_api, status):
    plane.taking = status
    plane.give(NAME, {}, "job-1").action = CANCEL
    assert await make_api(plane.url).report("job-1", {"status": "doing"}) is Action.CANCEL


@pytest.mark.parametrize(
    ("status", "is_final"),
    [
        *((status, True) for status in (400, 409, 413, 422)),
        *((status, False) for status in (302, 401, 403, 408, 429, 500, 503)),
    ],
)
async def test_an_answer_that_may_be_another_one_later_is_told_from_one_that_will_not(
    plane, make_api, status, is_final
):
    plane.refusing = status
    plane.give(NAME, {}, "job-1")
    with pytest.raises(ControlFault) as caught:
        await make_api(plane.url).report("job-1", {"status": "done"})
    assert caught.value.is_final is is_final
    assert str(status) in str(caught.value)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_job_that_is_gone_is_told_as_that(plane, make_api, status):
    plane.refusing = status
    plane.give(NAME, {}, "job-1")
    assert await make_api(plane.url).report("job-1", {"status": "done"}) is Action.GONE


@pytest.mark.parametrize("job_id", ["1", "job-1", "a.b_c~d", "...", "urn:uuid:0f9c", "x" * 128])
async def test_an_id_is_given_back_in_the_url_as_it_came(plane, make_api, job_id):
    record = plane.give(NAME, {"URL": "x"}, job_id)
    api = make_api(plane.url)
    offer = await api.ask(0)
    assert offer is not None
    assert offer.id == job_id
    await api.report(offer.id, {"status": "doing"})
    assert record.last == {"status": "doing"}


@pytest.mark.parametrize(
    "job_id",
    [
        *(".", "..", "a/b", "../../other/job", "%2e%2e", "%2F", "a?b", "a#b", "a;b", "a\\b", "a b", " ", "ä"),
        *("x" * 129, "a\n", "\x00", "a\x7f"),
    ],
)
async def test_an_id_that_could_lead_to_another_url_is_refused_and_never_sent(plane, make_api, job_id):
    plane.give(NAME, {"URL": "x"}, job_id)
    api = make_api(plane.url)
    with pytest.raises(ControlFault, match="an id of"):
        await api.ask(0)
    with pytest.raises(ControlFault, match="an id of") as caught:
        await api.report(job_id, {"status": "done"})  # of a journal that an older agent wrote
    assert caught.value.is_final
    assert plane.jobs[NAME][job_id].statuses == []


# -- what is sent --------------------------------------------------------------------------------------------------


async def test_a_question_carries_the_token_and_says_who_asks(make_api):
    async with hostile(answer(status="204 No Content")) as server:
        assert await make_api(server.url, name="ns1/../é").ask(2.5) is None
        [request] = server.requests
    line, *headers = request.decode().split("\r\n")
    assert line == "GET /agents/ns1%2F..%2F%C3%A9/job?wait=2.5 HTTP/1.1"
    assert f"Authorization: Bearer {TOKEN}" in headers
    assert "Accept: application/json" in headers
    assert f"User-Agent: byoi-agent/{__version__}" in headers


async def test_another_token_is_shown_from_the_next_request_on(make_api):
    async with hostile(answer()) as server:
        api = make_api(server.url)
        for token in (None, "another-token"):
            await api.report("job-1", {"status": "doing"})
            api.take(token, ssl.create_default_context())
        await api.report("job-1", {"status": "doing"})
    first, second, third = server.requests
    assert f"Bearer {TOKEN}".encode() in first
    assert b"Authorization" not in second
    assert b"Bearer another-token" in third
    assert first.endswith(b'\r\n\r\n{"status": "doing"}')


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
)
async def test_no_redirect_takes_the_token_along(make_api, status):
    async with (
        hostile(answer()) as elsewhere,
        hostile(answer(b"", status, f"Location: {elsewhere.url}/x")) as server,
    ):
        api = make_api(server.url)
        for call in (lambda: api.ask(0), lambda: api.report("job-1", {})):
            fault = await fault_of(call())
            assert (str(fault).startswith(f"it answered {status[:3]} to"), fault.is_final) == (True, False)
        assert elsewhere.requests == []


# -- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"OK", b"[]", b"\xff\xfe", b"{" * 2000, b'{"action": 7}', b" " * 100_000])
async def test_a_2xx_takes_a_status_whatever_else_it_says(make_api, body):
    async with hostile(answer(body)) as server:
        assert await make_api(server.url).report("job-1", {"status": "done"}) is Action.CONTINUE


async def test_an_answer_that_is_too_long_is_read_no_further(make_api):
    """Whatever it says of its length, or without a word of it."""
    endless = [b"HTTP/1.1 200 OK\r\n\r\n", *[bytes(MiB)] * 1000]
    async with hostile(*endless) as server:
        api = make_api(server.url)
        fault = await fault_of(api.ask(0))
        assert str(fault) == f"it answered with more than {MAX_OFFER_BYTES} bytes"
        await asyncio.wait_for(server.cut.wait(), 20)
        assert await api.report("job-1", {}) is Action.CONTINUE


async def test_what_unpacks_to_more_is_too_long_as_well(make_api):
    bomb = gzip.compress(bytes(64 * MiB), compresslevel=9)
    async with hostile(answer(bomb, "200 OK", "Content-Encoding: gzip")) as server:
        tracemalloc.start()
        try:
            fault = await fault_of(make_api(server.url).ask(0))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert str(fault) == f"it answered with more than {MAX_OFFER_BYTES} bytes"
    assert most < 2 * MAX_OFFER_BYTES


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((), "it cannot be reached: ServerDisconnectedError"),
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), "it cannot be reached: "),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",), "it cannot be reached: ClientPayloadError"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",), "it cannot be reached: ClientResponseError"),
        (
            (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",),
            "it cannot be reached: ClientResponseError",
        ),
        ((answer(b"not packed", "200 OK", "Content-Encoding: gzip"),), "it cannot be reached: "),
    ],
    ids=["nothing", "not HTTP", "cut", "no length", "long head", "not packed"],
)
@pytest.mark.parametrize("call", ["ask", "report"])
async def test_what_is_no_answer_is_a_fault_that_may_pass(make_api, pieces, reason, call):
    async with hostile(*pieces) as server:
        api = make_api(server.url)
        fault = await fault_of(api.ask(0) if call == "ask" else api.report("job-1", {}))
    assert str(fault).startswith(reason)
    assert not fault.is_final


async def test_a_control_plane_that_is_not_there_is_a_fault_that_may_pass(make_api):
    async with hostile() as server:
        pass
    fault = await fault_of(make_api(server.url).ask(0))
    assert (str(fault).startswith("it cannot be reached: "), fault.is_final) == (True, False)


@pytest.mark.parametrize(
    ("pieces", "pause"),
    [((answer(),), 20), ((b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", *[b"x"] * 999), 0.05)],
    ids=["silent", "trickles"],
)
async def test_an_answer_has_its_time(make_api, pieces, pause):
    """The whole of it: bytes now and then do not prolong it."""
    async with hostile(*pieces, pause=pause) as server:
        fault = await fault_of(make_api(server.url, request_seconds=1).ask(0))
    assert (str(fault), fault.is_final) == ("it did not answer within 1 s", False)


async def test_an_answer_may_be_held_back_for_as_long_as_was_asked_for(make_api):
    async with hostile(answer(b'{"id": "job-1", "job": {}}'), pause=1) as server:
        offer = await make_api(server.url, request_seconds=0.5).ask(20)
    assert offer.id == "job-1"


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Oops", "503 Service Unavailable"])
async def test_a_busy_control_plane_says_when_to_come_again(make_api, status):
    async with hostile(answer(b'{"action": "cancel"}', status, "Retry-After: 17")) as server:
        api = make_api(server.url)
        for call in (lambda: api.ask(0), lambda: api.report("job-1", {})):
            fault = await fault_of(call())
            assert (str(fault), fault.retry_after, fault.is_final) == (
                f"it answered {status[:3]}",
                "17",
                False,
            )


async def test_one_whose_certificate_is_not_trusted_is_sent_nothing(make_api, tmp_path):
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trusted = tls_context(ControlPlaneConfig("", ca_file=str(tmp_path / "ca.pem")))
    for issuer, host, is_good in (
        (ca, "127.0.0.1", True),
        (ca, "control.example.net", False),
        (other, "127.0.0.1", False),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issuer.issue_cert(host).configure_cert(context)
        async with hostile(answer(status="204 No Content"), tls=context) as server:
            api = make_api(server.url, tls=trusted)
            if is_good:
                assert await api.ask(0) is None
            else:
                fault = await fault_of(api.ask(0))
                assert str(fault).startswith("its certificate is not trusted: ")
                assert str(fault).endswith(" (control_plane.ca_file names the CA)")
                assert fault.trouble is Trouble.CERTIFICATE
                assert server.requests == []
