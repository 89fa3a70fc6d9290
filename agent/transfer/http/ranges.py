"""Parts of the file, asked for at one place or another, and whether an answer may stand beside what has come.

For the HTTP source and its crew. A part of the file may come from wherever the whole may: with the job's checksum from
every place that tells the same length, without it only from the place of the first byte, and by its strong ETag.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from agent.transfer.http.attempts import Attempts
from agent.transfer.http.body import Body, take_body
from agent.transfer.http.client import Answer
from agent.transfer.http.faults import FatalFault, TransientFault
from agent.transfer.http.head import (
    Head,
    check_range,
    is_same_file,
    range_headers,
    tells_length,
)
from agent.transfer.http.limits import HttpLimits
from agent.transfer.http.places import Place


@dataclass(slots=True, eq=False)
class Ranges:
    """Asks for parts of one file."""

    checksummed: bool
    """Whether the caller compares the whole with a checksum."""
    limits: HttpLimits
    clock: Callable[[], float]
    closed: bool = False

    async def get(self, place: Place, extra: Mapping[str, str]) -> Answer:
        """Ask a place; the caller closes the answer.

        Raises:
            TransientFault, FatalFault: see `HttpClient.get`.
        """
        answer = await place.client.get(dict(extra))
        if self.closed:
            answer.close()
            raise FatalFault("the transfer was closed")
        return answer

    def take(self, answer: Answer, length: int | None) -> Body:
        """The body of an answer."""
        return take_body(
            answer.response,
            length=length,
            chunked=answer.head.chunked,
            limits=self.limits,
            clock=self.clock,
        )

    def has_parts(self, place: Place, file: Head, begun_at: Place | None) -> bool:
        """Whether a place can be asked for a part that belongs to the bytes that came from `begun_at`."""
        known = place.known(file)
        has_ranges = file.length is not None and not known.refuses_ranges and place.has_ranges is not False
        if self.checksummed:
            return has_ranges
        return has_ranges and place is begun_at and is_same_file(known, known)

    def belongs(self, place: Place, known: Head, now: Head) -> bool:
        """Whether a range may be put behind what has come: a mirror has to tell a length that is the same."""
        if self.checksummed:
            return place.first is not None or tells_length(now)
        return is_same_file(known, now)

    async def read(self, place: Place, file: Head, offset: int, view: memoryview, attempts: Attempts) -> bool:
        """Fill the view from the offset on; False if the server has no byte ranges."""
        done = 0
        while done < len(view):
            try:
                body = await self._open(place, file, offset + done, offset + len(view))
                if body is None:
                    return False
                with closing(body):
                    count = await body.fill(view[done:])
                    done += count
                    attempts.note(count)
                    if done < len(view):
                        raise body.fault or TransientFault("the server sent less than was asked for")
            except TransientFault as fault:
                await attempts.wait(fault, position=offset + done, total=file.length)
        return True

    async def _open(self, place: Place, file: Head, start: int, stop: int) -> Body | None:
        """The bytes from `start` up to, not including, `stop`, or fewer; None if the server has no byte ranges."""
        known = place.known(file)
        if known.refuses_ranges or place.has_ranges is False:
            return None
        answer = await self.get(place, range_headers(known, start, stop))
        with answer.closed_on_error():
            length = check_range(known, answer.head, start)
        place.has_ranges = length is not None
        if length is None or (place.first is None and not tells_length(answer.head)):
            answer.close()
            return None
        place.note_range(file, answer.head)
        return self.take(answer, length)

    async def open_slice(self, place: Place, file: Head, start: int, stop: int) -> Answer:
        """The answer with exactly these bytes, over a connection that may be asked for more.

        Raises:
            TransientFault, FatalFault: it cannot be had.
            ChangedFault: the file there is another one.
        """
        headers = self.slice_headers(place, file, start, stop)
        answer = await self.get(place, headers | {"Connection": "keep-alive"})
        with answer.closed_on_error():
            if not self.is_slice(place, file, answer.head, start, stop):
                raise FatalFault("the server does not give the range that was asked for")
        place.has_ranges = True
        place.note_range(file, answer.head)
        return answer

    def slice_headers(self, place: Place, file: Head, start: int, stop: int) -> dict[str, str]:
        """What asks for these bytes."""
        return range_headers(place.known(file), start, stop)

    def is_slice(self, place: Place, file: Head, head: Head, start: int, stop: int) -> bool:
        """Whether an answer has exactly these bytes, of the right file.

        Raises:
            FatalFault, ChangedFault: it contradicts what is known.
        """
        known = place.known(file)
        length = check_range(known, head, start)
        return length == head.length == stop - start and self.belongs(place, known, head)
