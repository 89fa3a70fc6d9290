"""What the head of a response says, and whether it belongs to the file that the transfer began with.

Pure, for the HTTP source alone. Everything here is the server's word: bounded, parsed strictly, and refused
where it contradicts itself. RFC 9110 (semantics: sections 8.8, 13 and 14) and RFC 9112 (framing: section 6).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agent.text import printable
from agent.transfer.http.faults import ChangedFault, FatalFault

_LENGTH = re.compile(r"[0-9]{1,18}")
# The name of a unit is the same in any case; a server may leave the total open.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes \*/([0-9]{1,18})", re.IGNORECASE)
_STATUS_LINE = re.compile(r"HTTP/1\.1 ([0-9]{3})(?: [^\x00-\x1f\x7f]*)?")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_SINGLE = {
    name.lower(): name
    for name in (
        *("Content-Length", "Accept-Ranges", "Content-Range", "ETag", "Last-Modified", "Content-Encoding"),
        *("Retry-After", "Location", "Connection", "Repr-Digest", "Digest"),
    )
}
# Of algorithms that are good for it; RFC 9530 puts colons around the value, RFC 3230 did not.
_DIGEST = re.compile(r"\s*(sha-256|sha-512)=:?([A-Za-z0-9+/]{1,88}={0,2}):?\s*", re.IGNORECASE)
_DIGEST_LIMIT = 1024
_SHOWN = 120
"""Characters of a header's value that an error message repeats."""

TOO_LONG_HINT = "The file on the server is incomplete, or its Content-Length is wrong."


@dataclass(frozen=True, slots=True)
class Head:
    """The parts of a response's head that a transfer depends on."""

    status: int
    length: int | None
    """Bytes of the body by Content-Length; None where it is chunked or ends with the connection."""
    chunked: bool
    accept_ranges: str | None
    content_range: str | None
    etag: str | None
    last_modified: str | None
    encoding: str | None
    retry_after: str | None = None
    location: str | None = None
    digests: tuple[tuple[str, str], ...] = ()
    """Digests of the whole file, whatever part of it the body has: algorithm in lower case, and base64."""
    persists: bool = True
    """Whether the connection may be asked for more, as far as the head says."""

    @property
    def length_checked(self) -> bool:
        """Whether a body that was cut short can be told from a whole one."""
        return self.chunked or self.length is not None

    @property
    def refuses_ranges(self) -> bool:
        """Whether the server said that it has no byte ranges."""
        return self.accept_ranges is not None and "bytes" not in self.accept_ranges

    @property
    def offers_ranges(self) -> bool:
        """Whether the server said that it has byte ranges."""
        return self.accept_ranges is not None and not self.refuses_ranges


def is_same_file(first: Head, now: Head) -> bool:
    """Whether a strong ETag says that two answers are of one and the same file, byte for byte.

    A date does not say that. RFC 9110 (section 8.8.2.2) lets one that is old enough pass, but images that are built
    reproducibly, or copied with their dates, differ under one date, and often under one length.
    """
    return first.etag is not None and not first.etag.startswith("W/") and now.etag == first.etag


def parse_head(status: int, headers: Mapping[str, str]) -> Head:
    """Read the head of a response; the names of `headers` match in any case.

    Raises:
        FatalFault: the length is malformed.
    """
    chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    text = None if chunked else headers.get("Content-Length")
    if text is not None and _LENGTH.fullmatch(text.strip()) is None:
        raise FatalFault(f"the server sent a malformed Content-Length: {_show(text)}")
    ranges = headers.get("Accept-Ranges")
    return Head(
        status=status,
        length=None if text is None else int(text),
        chunked=chunked,
        accept_ranges=None if ranges is None else ranges.strip().lower(),
        content_range=headers.get("Content-Range"),
        etag=headers.get("ETag"),
        last_modified=headers.get("Last-Modified"),
        encoding=headers.get("Content-Encoding"),
        retry_after=headers.get("Retry-After"),
        location=headers.get("Location"),
        digests=_digests(headers),
        persists="close" not in headers.get("Connection", "").lower(),
    )


def _digests(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What `Repr-Digest` (RFC 9530, section 3) or `Digest` (RFC 3230) say; what cannot be read says nothing."""
    text = ",".join(headers.get(name, "") for name in ("Digest", "Repr-Digest"))[:_DIGEST_LIMIT]
    matches = map(_DIGEST.fullmatch, text.split(","))
    return tuple((match[1].lower(), match[2]) for match in matches if match is not None)


def read_head(text: bytes) -> Head | None:
    """Read a head that came over a connection of ours, without the empty line; None where anything is unusual.

    For the answers behind the first one of a connection, which is aiohttp's to read. There are a thousand ways to
    write a head and the one way that each server has: what is not plain is asked for anew, by a connection of its own.
    """
    first, *lines = text.decode("latin-1").split("\r\n")
    status = _STATUS_LINE.fullmatch(first)
    fields = [match for match in map(_FIELD.fullmatch, lines) if match is not None]
    if status is None or len(fields) < len(lines):
        return None
    headers: dict[str, str] = {}
    for match in fields:
        name = match[1].lower()
        if name in headers and name in _SINGLE:
            return None
        headers[name] = match[2].strip(" \t")
    if any(name in headers for name in ("transfer-encoding", "trailer", "upgrade")):
        return None
    length = headers.get("content-length")
    if length is None or _LENGTH.fullmatch(length) is None:
        return None
    return parse_head(int(status[1]), {name: headers[key] for key, name in _SINGLE.items() if key in headers})


def range_headers(first: Head, start: int, stop: int | None = None) -> dict[str, str]:
    """The headers that ask for the bytes from `start` up to, not including, `stop` of an unchanged file.

    If-Range takes a strong ETag, or else a date (RFC 9110, section 13.1.5).
    """
    headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    if first.etag is not None and not first.etag.startswith("W/"):
        headers["If-Range"] = first.etag
    elif first.last_modified is not None:
        headers["If-Range"] = first.last_modified
    return headers


def check_first(head: Head) -> None:
    """Whether the answer to a request for the whole file is the whole file.

    Raises:
        FatalFault: it is not.
    """
    if head.status != 200:
        raise FatalFault(
            f"the server answered {head.status} to a request for the whole file",
            hint="The server, or a proxy before it, misbehaves: try the URL with another client.",
        )


def check_again(first: Head, now: Head) -> None:
    """Whether another answer with the whole file has the file that the transfer began with.

    Raises:
        ChangedFault: the file has changed.
        FatalFault: this is no answer to such a request, or its end could not be told any more.
    """
    check_first(now)
    if first.length is not None and now.length is not None and first.length != now.length:
        raise ChangedFault(f"it had {first.length} bytes at first and has {now.length} now")
    _check_validators(first, now)
    if first.length_checked and not now.length_checked:
        raise FatalFault("the server told the length of the file at first and does not any more")


def check_range(first: Head, now: Head, start: int) -> int | None:
    """Whether the answer to a request for a range continues the file that the transfer began with.

    Args:
        first: the head that the transfer began with; it had a length.
        now: the head of the answer.
        start: the offset of the first byte that was asked for.

    Returns:
        The bytes that the answer's body must have; None where the server has no ranges and sent the same file
        whole.

    Raises:
        ChangedFault: the file has changed.
        FatalFault: the answer contradicts the request or itself.
    """
    if now.status == 200:
        check_again(first, now)
        return None
    if now.status == 416:
        raise _unsatisfied(first, now, start)
    match = _CONTENT_RANGE.fullmatch((now.content_range or "").strip())
    if now.status != 206 or match is None:
        raise FatalFault(
            f"the server answered {now.status} with Content-Range {_show(now.content_range)} "
            f"to a request from byte {start}"
        )
    begin, last = int(match[1]), int(match[2])
    if match[3] not in ("*", str(first.length)):
        raise ChangedFault(f"it had {first.length} bytes at first and has {match[3]} now")
    if begin != start:
        raise ChangedFault(f"the server sent the bytes from {begin} when asked for those from {start}")
    if last < begin or last >= (first.length or 0):
        raise FatalFault(f"the server sent an impossible Content-Range: {_show(now.content_range)}")
    _check_validators(first, now)
    if now.length is not None and now.length != last - begin + 1:
        raise FatalFault(
            f"the server announced a range of {last - begin + 1} bytes with a body of {now.length} bytes"
        )
    return last - begin + 1


def tells_length(now: Head) -> bool:
    """Whether the answer with a range tells how long the whole file is; `check_range` has compared what it tells."""
    return not (now.content_range or "").strip().endswith("*")


def _check_validators(first: Head, now: Head) -> None:
    """Compare what both heads tell about the identity of the file."""
    pairs = (
        ("ETag", first.etag, now.etag),
        ("Last-Modified date", first.last_modified, now.last_modified),
        *((f"{name} digest", value, dict(now.digests).get(name)) for name, value in first.digests),
    )
    for name, before, after in pairs:
        if before is not None and after is not None and before != after:
            raise ChangedFault(f"its {name} was {_show(before)} at first and is {_show(after)} now")
    if (first.encoding or "identity") != (now.encoding or "identity"):
        raise ChangedFault(
            f"its Content-Encoding was {_show(first.encoding)} at first and is {_show(now.encoding)} now"
        )


def _unsatisfied(first: Head, now: Head, start: int) -> ChangedFault | FatalFault:
    """Why there is no byte `start`: the file is shorter than at first, or than the server made believe.

    Raises:
        ChangedFault: the validators differ.
    """
    _check_validators(first, now)
    match = _UNSATISFIED.fullmatch((now.content_range or "").strip())
    length = "an unknown number" if match is None else match[1]
    if length == str(start):
        return FatalFault(f"the server announced {first.length} bytes and has {start}", hint=TOO_LONG_HINT)
    return ChangedFault(f"it had {first.length} bytes at first and {length} now: no byte {start}")


def _show(value: str | None) -> str:
    return "(none)" if value is None else printable(value, _SHOWN)
