"""The HTTP source: one file behind a URL, read once and in order across cuts, stalls and busy servers.

For the copy loop, through the `Source` protocol. A cut transfer is resumed where the server has byte ranges,
by asking for the job's URL again (the target of its redirect may have expired) on condition that the file is
the same, and only where two files that were spliced would be noticed: by a strong ETag now, or by the job's
checksum in the end. Else the caller is told to start again from byte 0. Where the file has mirrors, the next one goes
on with it when a server fails: in the midst of the file only where the job's checksum judges the whole, since an ETag
says nothing about another server. When anything fails for good the connection is dropped, and what is raised holds no
header, no userinfo and no value of the URL's query.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from agent.errors import ImageChanged, ImageDownload, RegistryDenied
from agent.model.url import origin_of, redact_url
from agent.transfer.http.body import Body
from agent.transfer.http.client import Answer, Authorizer, HttpClient
from agent.transfer.http.faults import ChangedFault, DeniedFault, FatalFault, TransientFault
from agent.transfer.http.head import (
    TOO_LONG_HINT,
    Head,
    check_again,
    check_first,
    check_range,
    range_headers,
)
from agent.transfer.http.options import HttpOptions
from agent.transfer.http.places import TURN, Place, Places
from agent.transfer.http.ramp import Ramp
from agent.transfer.http.ranges import Ranges
from agent.transfer.http.slices import Lender
from agent.transfer.http.width import Width
from agent.transfer.source import SourceInfo, TransferRestart
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
        options: how the transfer is made.
        mirrors: more URLs of the same bytes, in the order in which they are tried.
        checksummed: whether the job has a checksum for the whole file.
        lender: has memory to spare for bytes that come early; without one there is one connection.
        ramp: says how many connections are wanted.
        cpu: seconds of processor time of this thread.
        authorizer: answers the challenges of the URL's origin.
        shown_url: how errors name the file, where that is not by the URL.
    """

    def __init__(
        self,
        url: str,
        options: HttpOptions | None = None,
        *,
        mirrors: Sequence[str] = (),
        checksummed: bool = False,
        lender: Lender | None = None,
        ramp: Ramp | None = None,
        cpu: Callable[[], float] = time.thread_time,
        authorizer: Authorizer | None = None,
        shown_url: str | None = None,
    ) -> None:
        self._shown_url = shown_url or redact_url(url)
        self._options = options = options or HttpOptions()
        self._ranges = Ranges(checksummed, options.limits, options.clock)

        def place(at: str) -> Place:
            # A mirror elsewhere gets no header of the job: they are secrets of one origin.
            is_own = origin_of(at) == origin_of(url)
            client = HttpClient(
                at,
                headers=options.headers if is_own else (),
                ca_file=options.ca_file,
                limits=options.limits,
                on_event=options.on_event,
                authorizer=authorizer if is_own else None,
            )
            return Place(redact_url(at), client, options.attempts())

        self._places = Places(map(place, (url, *mirrors)), options.on_event)
        self._file: Head | None = None  # the first answer of all, which says what SourceInfo says
        self._begun_at: Place | None = None  # where the bytes from byte 0 on come from
        self._body: Body | None = None
        self._width = Width(self._ranges, ramp or Ramp(), lender, options.clock, cpu)
        self._position = 0
        self._rejoins = False  # a single connection goes on where a crew was let go: that is no news
        self._ended = False

    async def open(self) -> SourceInfo:
        """Connect and learn the size; see `Source.open`. The body waits, paused, for the first `fill`."""
        with self._reported():
            while self._file is None:
                async with self._failures_met():
                    self._body = await self._connect()
        file = self._file
        return SourceInfo(
            url=self._places.current.shown_url,
            size=file.length,
            seekable=file.length is not None and file.offers_ranges,
            length_checked=file.length_checked,
        )

    async def fill(self, buffer: memoryview) -> int:
        """Fill the buffer from the current position; see `Source.fill`."""
        if self._file is None:
            raise RuntimeError("fill before open")
        begin = self._position
        with self._reported():
            while self._position < begin + len(buffer) and not self._ended:
                async with self._failures_met():
                    with buffer[self._position - begin :] as rest, self._width.measured():
                        await self._bring(rest)
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
        file = self._file
        if file is None:
            raise RuntimeError("read_at before open")
        if file.length is None:
            return None
        data = bytearray(max(0, min(length, file.length - offset)))
        with self._reported():
            done = await self._read_anywhere(file, offset, memoryview(data))
        return bytes(data) if done else None

    @property
    def connections(self) -> int:
        """Those that bring the file now; see `Source.connections`."""
        return self._width.connections + (self._body is not None)

    async def close(self) -> None:
        """Drop the connection; see `Source.close`. A `fill` that is still waiting fails."""
        self._ranges.closed = True
        self._drop_body()
        await self._width.ended()
        await self._places.close()

    # -- one connection or several ---------------------------------------------------------------------------

    async def _bring(self, view: memoryview) -> None:
        """Move on by one reading, over a single connection or by several."""
        width = self._width
        if self._body is not None and self._file is not None:
            width.consider(self._position, tuple(self._places), self._begun_at, self._file)
            if await width.takes_over(self._position):
                self._drop_single()
        if self._body is None and width.has_crew:
            self._move(await width.fill(self._position, view))
            self._rejoins = not width.has_crew
            return
        if self._body is None:
            self._body = await self._connect()
        with view[: width.until(self._position, len(view))] as part:  # see agent.tracebacks
            await self._receive(self._body, part)

    # -- the connection in use -------------------------------------------------------------------------------

    async def _connect(self) -> Body:
        """A body that goes on at the current position.

        Raises:
            TransferRestart: there is only one that begins at byte 0; it is kept for the next `fill`.
        """
        place, file = self._places.current, self._file
        if file is not None and self._position > 0 and self._ranges.has_parts(place, file, self._begun_at):
            body = await self._resume(place, file)
            if body is not None:
                return body
        answer = await self._ranges.get(place, {})
        with answer.closed_on_error():
            if file is None:
                check_first(answer.head)
            else:
                check_again(place.known(file), answer.head)
        self._file = file or answer.head
        place.first = place.first or answer.head
        return self._from_zero(place, answer)

    async def _resume(self, place: Place, file: Head) -> Body | None:
        """The rest of the file; None if nothing shows that the rest is of the same file."""
        known = place.known(file)
        answer = await self._ranges.get(place, range_headers(known, self._position))
        with answer.closed_on_error():
            length = check_range(known, answer.head, self._position)
        place.has_ranges = length is not None
        if length is None:
            place.first = place.first or answer.head
            return self._from_zero(place, answer)
        if not self._ranges.belongs(place, known, answer.head):
            answer.close()
            return None
        place.note_range(file, answer.head)
        if not self._rejoins:
            self._options.on_event("resumed", {"position": self._position})
        self._rejoins = False
        return self._ranges.take(answer, length)

    def _from_zero(self, place: Place, answer: Answer) -> Body:
        """The body of an answer with the whole file; the caller has to know if it is past byte 0 already."""
        if self._position == 0:
            self._begun_at = place
            return self._ranges.take(answer, answer.head.length)
        place.cuts.append(self._position)
        restarts = len(place.cuts)
        if restarts > self._options.limits.restarts:
            answer.close()
            raise self._cut_too_often(place)
        self._position, self._begun_at = 0, place
        self._body = self._ranges.take(answer, answer.head.length)
        self._options.on_event("restarted", {"restart": restarts, "restarts": self._options.limits.restarts})
        raise TransferRestart

    def _cut_too_often(self, place: Place) -> FatalFault:
        cuts, total = place.cuts, None if self._file is None else self._file.length
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
        total = None if self._file is None else self._file.length
        self._ended = total is None and count < len(view) and body.fault is None
        self._move(count)
        if not self._ended and count < len(view):
            raise body.fault or TransientFault("the server sent less than the whole file")

    def _move(self, count: int) -> None:
        """So many bytes further on; at the end of the file nothing is open any more."""
        self._position += count
        self._places.current.attempts.note(count)
        self._ended = self._ended or (self._file is not None and self._position == self._file.length)
        if self._ended:
            self._drop_body()

    @asynccontextmanager
    async def _failures_met(self) -> AsyncIterator[None]:
        """Meet what fails within: wait until the next try may be made, here or at another place.

        Raises:
            FatalFault, ChangedFault: there is no place left to try.
        """
        place = self._places.current
        with place.attempts.asking():
            try:
                yield
            except TransientFault as fault:
                self._drop_body()
                await self._wait(place, fault)
            except (FatalFault, ChangedFault) as fault:
                self._leave(fault)

    async def _wait(self, place: Place, fault: TransientFault) -> None:
        try:
            await place.attempts.wait(
                fault, position=self._position, total=None if self._file is None else self._file.length
            )
        except FatalFault as spent:
            self._leave(spent)
            return
        if place.attempts.failures >= TURN and self._may_pass_over():
            self._places.pass_over(str(fault))

    def _may_pass_over(self) -> bool:
        """Whether another place can go on here. Else this one is tried to the last: the others would begin again."""
        goes_on = self._ranges.checksummed and self._file is not None and self._file.length is not None
        return not self._places.is_only and (goes_on or self._position == 0)

    def _leave(self, fault: FatalFault | ChangedFault) -> None:
        """Drop the connection and go to another place for good.

        Raises:
            FatalFault, ChangedFault: there is none.
        """
        self._drop_body()
        if self._ranges.closed:
            raise fault
        self._places.leave(fault)

    async def _read_anywhere(self, file: Head, offset: int, view: memoryview) -> bool:
        """Fill the view from the offset on, by the first place that can; False if none has byte ranges.

        Without a checksum only the place is asked that the rest of the file comes from: two may differ.
        """
        places = [place for place in self._places if self._ranges.checksummed or place is self._begun_at]
        for index, place in enumerate(places):
            try:
                if await self._ranges.read(place, file, offset, view, self._options.attempts()):
                    return True
            except (FatalFault, ChangedFault):
                if self._ranges.closed or index == len(places) - 1:
                    raise
        return False

    # -- small helpers ---------------------------------------------------------------------------------------

    def _drop_body(self) -> None:
        """Drop all connections that bring the file."""
        self._drop_single()
        self._width.drop()

    def _drop_single(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn what cannot be mended into the errors that the rest of the agent knows."""
        try:
            yield
        except DeniedFault as fault:
            self._drop_body()
            raise RegistryDenied(url=self._shown_url, reason=str(fault), hint=fault.hint) from fault
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
