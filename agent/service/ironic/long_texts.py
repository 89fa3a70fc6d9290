"""Takes the long texts out of a JSON document while it comes in, and puts them back when it has been parsed. Pure.

Ironic sends a config drive three times in one command. Parsed as a whole, such a body would be in memory as it came, as
text, and as three values; here each long text is there once, and twice while it is taken in. What is no JSON is left
for the parser to refuse.
"""

import hashlib
import json
import re
import secrets
from typing import Any

from agent.model.job_text import TextRefused, bounded_text
from agent.units import KiB, MiB

LONG = 64 * KiB
"""Bytes from which on a text is taken out."""
MAX_REST = 8 * MiB
"""Bytes of a document without its long texts: of a node with all that Ironic knows of it there are some dozen KiB."""
_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""What is left of a string, up to its closing quote or a backslash that nothing follows yet."""
_CONTROL = re.compile(rb"[\x00-\x1f]")


class LongTexts:
    """One document. `feed` takes its bytes in pieces of any length."""

    def __init__(self, long: int = LONG) -> None:
        """Args:
        long: bytes from which on a text is taken out.
        """
        self._long = long
        self._mark = secrets.token_hex(16)
        """Begins what stands in a text's place: nobody who sends a document knows it."""
        self._skeleton = bytearray()
        self._in_string = self._is_escaped = False
        self._began = 0
        """Where the string that is coming in begins in the skeleton."""
        self._taken: bytearray | None = None
        """The same string, once it is long."""
        self._digest = hashlib.sha256()
        self._texts: list[bytearray] = []
        self._known: dict[bytes, int] = {}
        """Their places in the list, by their digests."""

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        at = 0
        while at < len(data) and len(self._skeleton) <= MAX_REST:
            at = self._string(data, at) if self._in_string else self._outside(data, at)

    def _outside(self, data: bytes, at: int) -> int:
        quote = data.find(b'"', at)
        end = len(data) if quote < 0 else quote + 1
        self._skeleton += data[at:end]
        self._in_string, self._began = quote >= 0, len(self._skeleton)
        return end

    def _string(self, data: bytes, at: int) -> int:
        end = self._end(data, at + self._is_escaped)
        self._is_escaped = data[end : end + 1] == b"\\"
        end += self._is_escaped
        self._take(data[at:end])
        if data[end : end + 1] != b'"':
            return end
        self._close()
        return end + 1

    def _end(self, data: bytes, at: int) -> int:
        quote = data.find(b'"', at)
        end = len(data) if quote < 0 else quote
        if data.find(b"\\", at, end) < 0:
            return end  # nothing is escaped: much faster than the expression
        found = _REST.match(data, at)
        return at if found is None else found.end()

    def _take(self, piece: bytes) -> None:
        if self._taken is not None:
            self._taken += piece
            self._digest.update(piece)
            return
        self._skeleton += piece
        if len(self._skeleton) - self._began >= self._long:
            self._taken = self._skeleton[self._began :]
            del self._skeleton[self._began :]
            self._digest = hashlib.sha256(self._taken)

    def _close(self) -> None:
        if self._taken is not None:
            place = self._known.setdefault(self._digest.digest(), len(self._texts))
            if place == len(self._texts):
                self._texts.append(self._taken)
            self._skeleton += f"{self._mark}{place}".encode()
        self._skeleton += b'"'
        self._in_string, self._taken = False, None

    def document(self) -> Any:
        """The document, when all of it has come; once.

        Raises:
            TextRefused, ValueError: it is none, or exceeds a bound.
        """
        if len(self._skeleton) > MAX_REST:
            raise TextRefused(f"has more than {MAX_REST} bytes beside its long texts")
        document = json.loads(bounded_text(bytes(self._skeleton)))
        texts = {}
        for place, raw in enumerate(self._texts):
            texts[f"{self._mark}{place}"] = _text_of(raw)
            raw.clear()
        return _replaced(document, texts)


def _text_of(raw: bytearray) -> str:
    if b"\\" in raw:
        text: str = json.loads(b'"' + raw + b'"')
        return text
    if _CONTROL.search(raw):
        raise TextRefused("is not JSON: it holds control characters")
    return raw.decode()


def _replaced(value: Any, texts: dict[str, str]) -> Any:
    match value:
        case str():
            return texts.get(value, value)
        case list():
            return [_replaced(item, texts) for item in value]
        case dict():
            return {texts.get(key, key): _replaced(item, texts) for key, item in value.items()}
        case _:
            return value
