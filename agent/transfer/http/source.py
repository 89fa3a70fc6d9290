"""The HTTP source: one file behind a URL, read once and in order across cuts, stalls and busy servers.

For the copy loop, through the `Source` protocol. A cut transfer is resumed where the server has byte ranges,
by asking for the job's URL again (the target of its redirect may have expired) on condition that the file is
the same, and only where two files that were spliced would be noticed: by a strong ETag now, or by the job's
checksum in the end. Else the caller is told to start again from byte 0. When anything fails for good the connection is
dropped, and what is raised holds no header, no userinfo and no value of the URL's query.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from agent.errors import ImageChanged, ImageDownload
from agent.model.url import redact_url
from agent.transfer.http.attempts import Attempts
from agent.transfer.http.body import Body, take_body
from agent.transfer.http.client import Answer, HttpClient
from agent.transfer.http.faults import ChangedFault, FatalFault, TransientFault
from agent.transfer.http.head import (
    TOO_LONG_HINT,
    Head,
    check_again,
    check_first,
    check_range,
    is_same_file,
    range_headers,
)
from agent.transfer.http.limits import DEFAULT_LIMITS, HttpLimits
from agent.transfer.source import EventHook, SourceInfo, TransferRestart, ignore_events
from agent.units import MiB

READ_AT_LIMIT = 16 * MiB
"""The longest range that `read_at` gives."""

_RESUMABLE_HINT = (
    "A transfer can be resumed where the server has byte ranges, a Content-Length and a strong ETag; "
    "with checkSum and checkSumType no ETag is needed."
)


class HttpSource:
    """A file behind an http or https URL.

    Args:
        url: has passed `check_url`; its userinfo, if any, is sent as Basic credentials.
        headers: the job's headers; sent to the origin of `url` only.
        checksummed: whether the job has a checksum for the whole file.
        ca_file: a bundle of CA certificates in place of the system's.
        limits: how patient the transfer is.
        on_event: is told about retries, resumptions and redirects.
        sleep: waits so many seconds between attempts.
        clock: monotonic seconds, for the stall clock.
        rng: the jitter of the waits.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        checksummed: bool = False,
        ca_file: str | None = None,
        limits: HttpLimits = DEFAULT_LIMITS,
        on_event: EventHook = ignore_events,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._shown_url = redact_url(url)
        self._checksummed = checksummed
        self._limits = limits
        self._on_event = on_event
        self._sleep = sleep
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._client = HttpClient(url, headers=headers, ca_file=ca_file, limits=limits, on_event=on_event)
        self._attempts = self._new_attempts()
        self._first: Head | None = None
        self._body: Body | None = None
        self._position = 0
        self._cuts: list[int] = []  # where the transfer was when it had to begin again
        self._has_ranges: bool | None = None  # None: the server has not shown it yet
        self._ended = False
        self._closed = False

    async def open(self) -> SourceInfo:
        """Connect and learn the size; see `Source.open`. The body waits, paused, for the first `fill`."""
        with self._reported(), self._attempts.asking():
            while self._first is None:
                try:
                    self._body = await self._connect()
                except TransientFault as fault:
                    await self._attempts.wait(fault, position=0, total=None)
        first = self._first
        return SourceInfo(
            url=self._shown_url,
            size=first.length,
            seekable=first.length is not None and first.offers_ranges,
            length_checked=first.length_checked,
        )

    async def fill(self, buffer: memoryview) -> int:
        """Fill the buffer from the current position; see `Source.fill`."""
        if self._first is None:
            raise RuntimeError("fill before open")
        begin = self._position
        with self._reported(), self._attempts.asking():
            while self._position < begin + len(buffer) and not self._ended:
                try:
                    if self._body is None:
                        self._body = await self._connect()
                    with buffer[self._position - begin :] as rest:  # see agent.tracebacks
                        await self._receive(self._body, rest)
                except TransientFault as fault:
                    await self._recover(fault)
        return self._position - begin

    async def read_at(self, offset: int, length: int) -> bytes | None:
        """Read a range over a connection of its own; see `Source.read_at`.

        Returns:
            The bytes, fewer only where the file ends before; None if the server has no byte ranges.

        Raises:
            ValueError: a negative offset, or a length that is negative or above `READ_AT_LIMIT`.
        """
        if offset < 0 or not 0 <= length <= READ_AT_LIMIT:
            raise ValueError(
                f"cannot read {length} bytes at {offset}: at most {READ_AT_LIMIT} bytes are read at once"
            )
        first = self._first
        if first is None:
            raise RuntimeError("read_at before open")
        if first.length is None or first.refuses_ranges or self._has_ranges is False:
            return None
        data = bytearray(max(0, min(length, first.length - offset)))
        with self._reported():
            done = await self._read_range(first, offset, memoryview(data))
        return bytes(data) if done else None

    async def close(self) -> None:
        """Drop the connection; see `Source.close`. A `fill` that is still waiting fails."""
        self._closed = True
        self._drop_body()
        await self._client.close()

    # -- the connection in use -------------------------------------------------------------------------------

    async def _connect(self) -> Body:
        """A body that goes on at the current position.

        Raises:
            TransferRestart: there is only one that begins at byte 0; it is kept for the next `fill`.
        """
        first = self._first
        if first is not None and self._position > 0 and self._can_resume(first):
            body = await self._resume(first)
            if body is not None:
                return body
        answer = await self._get({})
        with answer.closed_on_error():
            if first is None:
                check_first(answer.head)
            else:
                check_again(first, answer.head)
        self._first = first or answer.head
        return self._from_zero(answer)

    def _can_resume(self, first: Head) -> bool:
        has_ranges = first.length is not None and not first.refuses_ranges and self._has_ranges is not False
        return has_ranges and (self._checksummed or is_same_file(first, first))

    async def _resume(self, first: Head) -> Body | None:
        """The rest of the file; None if nothing shows that the rest is of the same file."""
        answer = await self._get(range_headers(first, self._position))
        with answer.closed_on_error():
            length = check_range(first, answer.head, self._position)
        self._has_ranges = length is not None
        if length is None:
            return self._from_zero(answer)
        if not self._checksummed and not is_same_file(first, answer.head):
            answer.close()
            return None
        self._on_event("resumed", {"position": self._position})
        return self._take(answer, length)

    def _from_zero(self, answer: Answer) -> Body:
        """The body of an answer with the whole file; the caller has to know if it is past byte 0 already."""
        if self._position == 0:
            return self._take(answer, answer.head.length)
        self._cuts.append(self._position)
        restarts = len(self._cuts)
        if restarts > self._limits.restarts:
            answer.close()
            raise self._cut_too_often()
        self._position = 0
        self._body = self._take(answer, answer.head.length)
        self._on_event("restarted", {"restart": restarts, "restarts": self._limits.restarts})
        raise TransferRestart

    def _cut_too_often(self) -> FatalFault:
        cuts, total = self._cuts, None if self._first is None else self._first.length
        if len(set(cuts)) > 1 or total is None:
            return FatalFault(
                f"the transfer was cut {len(cuts)} times and cannot be resumed",
                hint=_RESUMABLE_HINT,
                retryable=True,
            )
        # No accident cuts all of them at one byte.
        return FatalFault(
            f"the transfer was cut {len(cuts)} times, at byte {cuts[0]} of {total} each time, and cannot be resumed",
            hint=f"{TOO_LONG_HINT} {_RESUMABLE_HINT}",
        )

    async def _receive(self, body: Body, view: memoryview) -> None:
        """Move on by what the body has for the view, and see whether the file is at its end."""
        count = await body.fill(view)
        self._position += count
        self._attempts.note(count)
        total = None if self._first is None else self._first.length
        self._ended = self._position == total or (total is None and count < len(view) and body.fault is None)
        if self._ended:
            self._drop_body()
        elif count < len(view):
            raise body.fault or TransientFault("the server sent less than the whole file")

    async def _recover(self, fault: TransientFault) -> None:
        """Drop the connection after a fault, and wait until the next may be tried."""
        self._drop_body()
        total = None if self._first is None else self._first.length
        await self._attempts.wait(fault, position=self._position, total=total)

    async def _read_range(self, first: Head, offset: int, view: memoryview) -> bool:
        """Fill the view from the offset on; False if the server has no byte ranges."""
        attempts = self._new_attempts()
        done = 0
        while done < len(view):
            try:
                body = await self._open_range(first, offset + done, offset + len(view))
                if body is None:
                    return False
                with closing(body):
                    count = await body.fill(view[done:])
                    done += count
                    attempts.note(count)
                    if done < len(view):
                        raise body.fault or TransientFault("the server sent less than was asked for")
            except TransientFault as fault:
                await attempts.wait(fault, position=offset + done, total=first.length)
        return True

    async def _open_range(self, first: Head, start: int, stop: int) -> Body | None:
        """The bytes from `start` up to, not including, `stop`, or fewer; None if the server has no byte ranges."""
        answer = await self._get(range_headers(first, start, stop))
        with answer.closed_on_error():
            length = check_range(first, answer.head, start)
        self._has_ranges = length is not None
        if length is None:
            answer.close()
            return None
        return self._take(answer, length)

    # -- small helpers ---------------------------------------------------------------------------------------

    async def _get(self, extra: dict[str, str]) -> Answer:
        answer = await self._client.get(extra)
        if self._closed:
            answer.close()
            raise FatalFault("the transfer was closed")
        return answer

    def _take(self, answer: Answer, length: int | None) -> Body:
        return take_body(
            answer.response,
            length=length,
            chunked=answer.head.chunked,
            limits=self._limits,
            clock=self._clock,
        )

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()

    def _new_attempts(self) -> Attempts:
        return Attempts(
            self._limits, sleep=self._sleep, clock=self._clock, rng=self._rng, on_event=self._on_event
        )

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn what cannot be mended into the errors that the rest of the agent knows."""
        try:
            yield
        except FatalFault as fault:
            self._drop_body()
            raise ImageDownload(
                url=self._shown_url,
                detail=str(fault),
                hint=fault.hint,
                blame=fault.blame,
                retryable=fault.retryable,
            ) from fault
        except ChangedFault as fault:
            self._drop_body()
            raise ImageChanged(url=self._shown_url, detail=str(fault)) from fault
