"""All that the agent uses of aiohttp without its documentation's word for it: names, signatures, behaviour.

pyproject.toml holds aiohttp below the next minor version until this file has passed with it. Each failure says what is
missing and who uses it: `agent/service/http/aiohttp_internals.py` and `connection.py` on the server's side,
`agent/transfer/http/body.py` and `client.py` on the client's.
"""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import EMPTY_PAYLOAD, StreamReader, hdrs, web
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import StreamWriter

from agent.service.http.aiohttp_internals import RequestHandler, prepare_requests
from agent.service.http.connection import Connection as ApiConnection

ROOT = Path(__file__).parents[2]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SERVER, API = "agent/service/http/aiohttp_internals.py", "agent/service/http/connection.py"
BODY = "agent/transfer/http/body.py"

NAMES = (
    # the class or the object, the attribute, where it is used, what for
    (web.RequestHandler, "_messages", SERVER, "requests that wait behind the one being answered"),
    (web.RequestHandler, "_task_handler", SERVER, "the task that runs handlers"),
    (web.RequestHandler, "_current_request", SERVER, "the request that is being handled"),
    (web.RequestHandler, "finish_response", API, "overridden: called to write each answer"),
    (web.RequestHandler, "handle_error", API, "overridden: answers a head that cannot be parsed"),
    (web.RequestHandler, "log_access", API, "overridden: called when an answer has been written"),
    (web.RequestHandler, "data_received", API, "overridden: counts what comes"),
    (web.RequestHandler, "eof_received", API, "overridden: lets a client close its half"),
    (web.RequestHandler, "pause_writing", API, "overridden: an answer waits for its client"),
    (web.RequestHandler, "resume_writing", API, "overridden: the answer has been taken"),
    (web.RequestHandler, "close", API, "ends a connection once its last answer is out"),
    (web.BaseRequest, "protocol", API, "leads from a request to its connection"),
    (web.StreamResponse, "force_close", API, "makes an answer the last of its connection"),
    (StreamWriter, "write_headers", SERVER, "overridden: drops the Server header"),
    (StreamReader, "is_eof", "agent/service/http/timeouts.py", "whether a body is here to its end"),
    (EMPTY_PAYLOAD, "is_eof", "agent/service/http/timeouts.py", "the same of a request without a body"),
    (aiohttp.ClientResponse, "connection", BODY, "the connection of a response"),
    (Connection, "transport", BODY, "the transport that is taken over, or aborted"),
    (StreamReader, "read_nowait", BODY, "what was read ahead together with the head"),
    (StreamReader, "exception", BODY, "a fault that came together with the head"),
    (ResponseHandler, "connection_lost", BODY, "is told the end of a connection that was taken over"),
)

SIGNATURES = (
    (web.RequestHandler.finish_response, ("self", "request", "resp", "start_time")),
    (web.RequestHandler.handle_error, ("self", "request", "status", "exc", "message")),
    (web.RequestHandler.log_access, ("self", "request", "response", "time")),
    (StreamWriter.write_headers, ("self", "status_line", "headers")),
    (web.Server._make_request, ("self", "message", "payload", "protocol", "writer", "task")),
)


def missing(owner: object, name: str, user: str, purpose: str) -> list[str]:
    """What to tell of an attribute that is not there; nothing where it is."""
    if hasattr(owner, name):
        return []
    kind = owner if isinstance(owner, type) else type(owner)
    return [
        f"aiohttp {aiohttp.__version__} has no {kind.__module__}.{kind.__name__}.{name}: {user} uses it ({purpose})"
    ]


def test_every_attribute_that_is_used_is_there():
    found = [fault for row in NAMES for fault in missing(*row)]
    assert not found, "\n".join(found)


def test_one_that_is_not_there_is_told_with_whoever_uses_it():
    [told] = missing(web.RequestHandler, "_gone", SERVER, "nothing")
    assert told == (
        f"aiohttp {aiohttp.__version__} has no aiohttp.web_protocol.RequestHandler._gone: {SERVER} uses it (nothing)"
    )


@pytest.mark.parametrize(("function", "expected"), SIGNATURES, ids=lambda it: getattr(it, "__name__", ""))
def test_every_method_that_is_overridden_or_called_has_the_parameters_that_we_pass(function, expected):
    found = tuple(inspect.signature(function).parameters)
    assert found == expected, f"aiohttp {aiohttp.__version__}: {function.__qualname__} takes {found}"


def test_the_api_s_connection_uses_private_names_of_aiohttp_in_one_file_and_shadows_none():
    inherited = {
        name for kind in RequestHandler.__mro__ for name in (*vars(kind), *getattr(kind, "__slots__", ()))
    }
    shadowed = inherited & set(ApiConnection.__slots__)
    assert not shadowed, f"aiohttp {aiohttp.__version__} has these names, too: {API} would overwrite them"
    used = re.findall(r"\b(?:self|connection|protocol)\.(_\w+)", (ROOT / API).read_text())
    assert not inherited & set(used), f"these belong into {SERVER}"


# -- the server's side -------------------------------------------------------------------------------------------


class Recorder(RequestHandler):
    """Keeps what aiohttp calls, in order."""

    __slots__ = ("calls", "lost", "task_after_loss")

    def __init__(self, server: web.Server, calls: list[str], lost: asyncio.Event) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=60,
            lingering_time=1,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=8190,
            max_field_size=8190,
            auto_decompress=False,
        )
        self.calls = calls
        self.lost = lost

    async def finish_response(self, request, resp, start_time):
        self.calls.append(f"finish_response {resp.status} {type(resp).__name__}")
        return await super().finish_response(request, resp, start_time)

    def handle_error(self, request, status=500, exc=None, message=None):
        self.calls.append(f"handle_error {status}")
        return web.Response(status=status)

    def log_access(self, request, response, time):
        self.calls.append("log_access")

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.lost.set()


class Site:
    """A server of the application that a test gives it, on a socket, with everything kept that aiohttp calls."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls: list[str] = []
        self.bodies: list[StreamReader] = []
        self.protocols: list[Recorder] = []
        self.lost = asyncio.Event()

    async def ask(self, data: bytes) -> bytes:
        """Everything that is answered to these bytes, until the server closes; it may be asked to."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(data)
        try:
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()


@pytest.fixture
def serve(tmp_path):
    @asynccontextmanager
    async def run(handler: Callable) -> AsyncIterator[Site]:
        app = web.Application()
        app.router.add_route("*", "/", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = Site(str(tmp_path / "s"))

        def make() -> Recorder:
            site.protocols.append(Recorder(runner.server, site.calls, site.lost))
            return site.protocols[-1]

        prepare_requests(runner.server, lambda _, body: site.bodies.append(body))
        server = await asyncio.get_running_loop().create_unix_server(make, site.path)
        try:
            yield site
        finally:
            server.close()
            await runner.cleanup()

    return run


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- of aiohttp, seen from outside
            await asyncio.sleep(0.01)


async def last(_: web.Request) -> web.Response:
    response = web.Response(text="answered")
    response.force_close()
    return response


async def test_each_request_is_announced_with_its_body_and_each_answer_finished_and_logged(serve):
    """Also where no access log is kept; and no answer names what made it."""
    async with serve(last) as site:
        answer = await site.ask(GET)
    assert site.calls == ["finish_response 200 Response", "log_access"]
    assert [body.is_eof() for body in site.bodies] == [True]
    assert answer.endswith(b"answered")
    assert hdrs.SERVER.encode() not in answer


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        # RFC 9112, section 6.3: may be refused, and the parser does.
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
    ],
    ids=["no head", "length twice", "long field"],
)
async def test_a_head_that_cannot_be_parsed_is_answered_by_handle_error(serve, head):
    async with serve(last) as site:
        answer = await site.ask(head)
    assert site.calls[0] == "handle_error 400"
    assert answer.split()[1] == b"400"


async def test_an_exception_that_is_an_answer_comes_to_finish_response_as_it_is(serve):
    async with serve(last) as site:
        reader, writer = await asyncio.open_unix_connection(site.path)
        writer.write(GET.replace(b"Host", b"Expect: miracles\r\nHost"))
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert site.calls == ["finish_response 417 HTTPExpectationFailed", "log_access"]


async def test_requests_sent_ahead_wait_in_the_protocol_and_no_more_than_some_of_them(serve):
    gate = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await gate.wait()
        return web.Response()

    async with serve(wait) as site:
        _, writer = await asyncio.open_unix_connection(site.path)
        writer.write(GET * 60)
        await writer.drain()
        await until(lambda: site.protocols and site.protocols[0].has_requests_ahead)
        [protocol] = site.protocols
        assert protocol.current_request is not None
        ahead = len(protocol._messages)
        assert ahead <= 32, f"aiohttp takes {ahead} requests ahead: what {API} says of 32 holds no more"
        gate.set()
        await until(lambda: len(site.bodies) == 60)
        writer.close()


async def test_a_handler_goes_on_without_its_client_and_its_task_is_forgotten(serve):
    """So the task has to be taken before the connection is lost, and nobody else ends it."""
    began, gate, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        began.set()
        await gate.wait()
        ended.set()
        return web.Response()

    async with serve(wait) as site:
        _, writer = await asyncio.open_unix_connection(site.path)
        writer.write(GET)
        await began.wait()
        task = site.protocols[0].handler_task
        assert task is not None
        writer.transport.abort()
        await site.lost.wait()
        assert site.protocols[0].handler_task is None
        assert not task.done()
        gate.set()
        await ended.wait()


# -- the client's side -------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[tuple[aiohttp.ClientSession, str, asyncio.Event]]:
    """A client, and the URL of a server that sends these pieces: the first at once, the others when the event is set.

    It keeps the connection until the client goes.
    """
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for number, piece in enumerate(pieces):
            if number:
                await go_on.wait()
            writer.write(piece)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, aiohttp.ClientSession() as session:
        yield session, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", go_on


async def test_a_body_that_was_read_ahead_to_its_end_leaves_the_response_without_a_connection():
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody") as (session, url, _):
        response = await session.get(url)
        ahead = b""
        while len(ahead) < 4:
            ahead += response.content.read_nowait(-1)
            await asyncio.sleep(0)
        assert (ahead, response.connection) == (b"body", None)


async def test_a_session_waits_for_a_connection_that_was_taken_over_until_its_own_protocol_is_told_the_end():
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") as (session, url, _):
        response = await session.get(url)
        transport = response.connection.transport
        original = transport.get_protocol()
        assert isinstance(original, ResponseHandler)
        lost = asyncio.Event()

        class Taker(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                lost.set()

        transport.set_protocol(Taker())
        closing = asyncio.get_running_loop().create_task(session.close())
        await lost.wait()  # it closes the transport, of which only the new protocol is told
        await asyncio.sleep(0)
        assert not closing.done()
        original.connection_lost(None)
        await closing
        response.close()


async def test_a_malformed_chunk_closes_the_connection_and_wakes_nobody():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with answering(head, b"zz\r\n") as (session, url, go_on):
        response = await session.get(url)
        transport = response.connection.transport
        reading = asyncio.get_running_loop().create_task(response.content.readany())
        go_on.set()
        await until(transport.is_closing)
        done, _ = await asyncio.wait((reading,), timeout=0.5)
        assert not done, "aiohttp tells now: agent/transfer/http/body.py need not look any more"
        reading.cancel()
        response.close()


async def test_a_length_given_twice_is_refused_as_no_http():
    """RFC 9110, section 8.6, lets a recipient refuse it, even where both are the same; docs/transfer.md says we do."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody"
    async with answering(head) as (session, url, _):
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await session.get(url)
        assert "Content-Length" in caught.value.message
