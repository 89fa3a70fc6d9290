"""Bodies of HTTP responses, read into buffers that the caller owns.

Owned by the HTTP source. A body counts its bytes: never more than announced, and fewer only together with a
`fault`. While nobody asks for bytes the connection is paused, so the kernel's receive window holds the server
back.

There are two kinds. `DirectBody` takes the connection over from aiohttp once the head is parsed: the event
loop receives straight into the caller's buffer, which is about twice as fast as copying out of aiohttp's
stream. It serves bodies that need no parsing: those with a Content-Length, and those that end with the
connection. `StreamBody` copies out of aiohttp's stream: for chunked bodies, and for what had already arrived
whole together with the head.

aiohttp does not document the hand-over: `tests/integration/test_aiohttp_internals.py` lists all that is used for it.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

import aiohttp

from agent.aio import wait
from agent.transfer.http.faults import TransientFault
from agent.transfer.http.limits import HttpLimits
from agent.transfer.http.stall import Pace
from agent.units import KiB

_TLS_RECORD = 16 * KiB
"""Plain text of the longest TLS record (RFC 8446, section 5.1); OpenSSL may hold a decrypted one back."""
_SPILL = 64 * KiB

_NOTHING = memoryview(b"")

# aiohttp closes the connection on a malformed chunk and tells nobody who waits: that is looked for this often.
LOOK_SECONDS = 1.0

CUT = "the connection was cut"
MALFORMED = "the body is malformed"
CLOSED = "the transfer was closed"


class Body(Protocol):
    """The rest of one response."""

    fault: TransientFault | None
    """Why the body ended early; looked at after a short `fill`."""

    async def fill(self, view: memoryview) -> int:
        """Fill the view; fewer bytes than it holds mean that the body ended, or that `fault` is set."""

    def close(self) -> None:
        """Drop the connection at once; safe to call twice."""


def drop(response: aiohttp.ClientResponse) -> None:
    """Abort a response's connection at once: a regular close would wait for bytes that nobody wants."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


def take_body(
    response: aiohttp.ClientResponse,
    *,
    length: int | None,
    chunked: bool,
    limits: HttpLimits,
    clock: Callable[[], float],
) -> Body:
    """Begin to read the body of a response, with the connection paused.

    Args:
        response: fresh from the request, nothing read of it yet.
        length: bytes that the body must have, None where that is not known.
        chunked: whether the body is in chunks.
        limits: when a connection counts as stalled.
        clock: monotonic seconds.
    """
    pace = Pace(limits, clock)
    connection = response.connection
    transport = None if connection is None else connection.transport
    if chunked or transport is None or transport.is_closing() or response.content.exception() is not None:
        return StreamBody(response, b"", length, pace)
    early = bytearray()
    while data := response.content.read_nowait(-1):
        early += data
    if response.connection is None:  # the drain reached the end, and aiohttp has taken its connection back
        return StreamBody(response, bytes(early), length, pace)
    return DirectBody(response, transport, bytes(early), length, pace)


class DirectBody(asyncio.BufferedProtocol):
    """A body that the event loop receives straight into the caller's buffer.

    Memory: what aiohttp had buffered with the head, and a spill of at most what the TLS layer holds (about
    0.5 MiB).
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        transport: asyncio.Transport,
        early: bytes,
        length: int | None,
        pace: Pace,
    ) -> None:
        self.fault: TransientFault | None = None
        self._response = response
        self._transport = transport
        self._pace = pace
        self._left = length  # bytes still to come off the connection, None: until its end
        self._view = _NOTHING
        self._filled = 0
        self._pending = b""  # received, but not asked for yet
        self._spill = bytearray()
        self._to_spill = False
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._accept(early)
        transport.pause_reading()  # draining aiohttp's stream may have resumed it
        # aiohttp waits in its close() until its own protocol has lost the connection: it must be told.
        self._original = transport.get_protocol()
        transport.set_protocol(self)

    async def fill(self, view: memoryview) -> int:
        """See `Body.fill`."""
        self._view, self._filled = view, 0
        self._pace.begin()
        try:
            self._deliver()
            while self._filled < len(view) and not self._over():
                await self._wait()
            return self._filled
        finally:
            self._view = _NOTHING
            self._pace.end()
            self._pause()

    def close(self) -> None:
        """See `Body.close`."""
        self._lost = True
        self.fault = self.fault or TransientFault(CLOSED)
        self._wake()
        drop(self._response)

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        await wait((waiter,), seconds=self._pace.patience())
        if not waiter.done():
            self.fault = self._pace.verdict()

    def _over(self) -> bool:
        return self._lost or self._left == 0 or self.fault is not None

    def _pause(self) -> None:
        if not self._lost:
            self._transport.pause_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _deliver(self) -> None:
        """Hand out what was received before it was asked for."""
        count = min(len(self._pending), len(self._view) - self._filled)
        if count:
            self._view[self._filled : self._filled + count] = self._pending[:count]
            self._pending = self._pending[count:]
            self._filled += count

    def _accept(self, data: bytes | memoryview) -> None:
        """Take bytes in that could not be received in place; those past the announced length are dropped."""
        wanted = data if self._left is None else data[: self._left]
        if self._left is not None:
            self._left -= len(wanted)
        self._pending += bytes(wanted)
        self._deliver()

    # -- called by the event loop ----------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: the caller's buffer, if it has room for all that must be taken at once.

        A TLS transport says by `sizehint` how much it holds. When the peer has closed, it asks only once and
        forgets what does not fit, so it is given room for everything, in the spill if need be.
        """
        room = len(self._view) - self._filled
        in_place = room if self._left is None else min(room, self._left)
        needed = sizehint + _TLS_RECORD if sizehint > 0 else 1
        self._to_spill = in_place == 0 or (in_place < needed and in_place != self._left)
        if not self._to_spill:
            return self._view[self._filled : self._filled + in_place]
        if len(self._spill) < max(needed, _SPILL):
            self._spill = bytearray(max(needed, _SPILL))
        return memoryview(self._spill)

    def buffer_updated(self, nbytes: int) -> None:
        """Count what came, and stop the connection once no more of it is wanted."""
        self._pace.note(nbytes)
        if self._to_spill:
            self._accept(memoryview(self._spill)[:nbytes])
        else:
            self._filled += nbytes
            if self._left is not None:
                self._left -= nbytes
        if self._left == 0 or self._filled == len(self._view):
            self._pause()
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell a whole body from one that was cut."""
        whole = exc is None if self._left is None else self._left == 0
        if not whole and self.fault is None:
            self.fault = TransientFault(CUT if exc is None else f"{CUT} ({describe_os_error(exc)})")
        self._lost = True
        self._wake()
        self._original.connection_lost(exc)


class StreamBody:
    """A body copied out of aiohttp's stream, which takes chunks apart and finds a missing last one."""

    def __init__(
        self, response: aiohttp.ClientResponse, early: bytes, length: int | None, pace: Pace
    ) -> None:
        self.fault: TransientFault | None = None
        self._response = response
        self._pace = pace
        self._pending = memoryview(early)
        self._left = length  # bytes still to be handed out, None: until the end of the stream
        self._ended = False

    async def fill(self, view: memoryview) -> int:
        """See `Body.fill`."""
        filled = 0
        wanted = len(view) if self._left is None else min(len(view), self._left)
        self._pace.begin()
        try:
            while filled < wanted and not self._ended:
                if not self._pending:
                    await self._receive()
                    continue
                count = min(len(self._pending), wanted - filled)
                view[filled : filled + count] = self._pending[:count]
                self._pending = self._pending[count:]
                filled += count
        finally:
            self._pace.end()
        if self._left is not None:
            self._left -= filled
            if self._left and self._ended and self.fault is None:
                self.fault = TransientFault(CUT)
        return filled

    def close(self) -> None:
        """See `Body.close`."""
        self._ended = True
        self.fault = self.fault or TransientFault(CLOSED)
        drop(self._response)

    async def _receive(self) -> None:
        try:
            async with asyncio.timeout(min(self._pace.patience(), LOOK_SECONDS)):
                data = await self._response.content.readany()
        except TimeoutError:
            if self._response.content.is_eof():
                return  # it came meanwhile, and is there to be read
            self.fault = TransientFault(MALFORMED) if self._is_closing() else self._pace.verdict()
            self._ended = self.fault is not None
        except Exception as error:  # noqa: BLE001 - what aiohttp's stream and its parsers raise is not of one family
            self.fault = TransientFault(_describe_broken(error))
            self._ended = True
        else:
            self._pace.note(len(data))
            self._pending = memoryview(data)
            self._ended = not data

    def _is_closing(self) -> bool:
        connection = self._response.connection
        return connection is None or connection.transport is None or connection.transport.is_closing()


def _describe_broken(error: Exception) -> str:
    """Why a stream of aiohttp's broke off."""
    match error:
        case OSError():
            return f"{CUT} ({describe_os_error(error)})"
        case aiohttp.ClientError():
            return CUT
        case _:
            return MALFORMED


def describe_os_error(error: BaseException) -> str:
    """What the system says about a fault of a connection; never the text of aiohttp, which holds URLs."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS fault").replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
