"""Parses the JSON text of a job (RFC 8259), more strictly than `json.loads`, and within bounds.

`json.loads` holds the interpreter's lock for the whole call and creates an object for every `[]`: for 24 MiB of them it
stops the process for seconds and takes hundreds of MiB. Therefore the values in a text are counted before it is parsed.
"""

import json
import re
from collections import Counter
from typing import Any

from agent.errors import Fault, JobInvalid
from agent.units import MiB

MAX_JOB_BYTES = 24 * MiB
# JSON parsers and writers recurse, here and in the guest. Real documents are far less deep.
MAX_DEPTH = 64
MAX_VALUES = 50_000
"""Values in a text, nested ones included; an empty object or array may count as two. Once parsed they take at most
about 15 MiB, besides the characters of the text itself."""
MAX_FAULTS = 256
"""The most faults of one job that are reported."""

_STRUCTURE = b'"[]{},'
_OTHER_BYTES = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
# A string (escaped quotes were removed before), or another structural character.
_PIECE = re.compile(rb'"[^"]*"?|[\[\]{},]')


class TextRefused(ValueError):
    """A text is refused. The message is only a predicate ("is not JSON"); the caller puts the subject before it."""


def bounded_text(data: bytes) -> str:
    """Decode a JSON text, if `json.loads` will parse it quickly and with little memory.

    A byte order mark, which some editors write, is dropped.

    Raises:
        TextRefused: it is not UTF-8, is nested more than `MAX_DEPTH` deep, or has more than `MAX_VALUES` values.
    """
    _check_shape(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # not allowed unescaped in JSON; UTF-16 and UTF-32 have many
        raise TextRefused("is not JSON in UTF-8")
    return text


def _check_shape(data: bytes) -> None:
    """Check the nesting and the number of values, by the brackets and commas outside of strings.

    In a text that is not JSON, the count is right up to the first syntax error, where `json.loads` stops.
    """
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _OTHER_BYTES)
    depth = values = 0
    if bare.count(b'"') > 4 * MAX_VALUES:  # a value has at most two strings: its name and itself
        values = MAX_VALUES + 1
    for piece in _PIECE.finditer(bare):
        if depth > MAX_DEPTH:
            raise TextRefused(f"is nested more than {MAX_DEPTH} levels deep")
        if values > MAX_VALUES:
            raise TextRefused(f"holds more than {MAX_VALUES} values")
        match bare[piece.start() : piece.start() + 1]:
            case b"[" | b"{":
                depth += 1
                values += 1
            case b"]" | b"}":
                depth -= 1
            case b",":
                values += 1
            case _:
                pass  # a string
        if depth < 0:
            return  # not JSON


def read_json(data: bytes) -> Any:
    """Parse the text of a job: no NaN, no key twice in one object, and within the bounds above.

    Raises:
        JobInvalid: it is not JSON, has a key twice, or exceeds a bound.
    """
    if len(data) > MAX_JOB_BYTES:
        raise JobInvalid([Fault("", f"the job has {len(data)} bytes, at most {MAX_JOB_BYTES} are taken")])
    duplicates: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            counts = Counter(key for key, _ in items)
            duplicates.extend(sorted(key for key, count in counts.items() if count > 1)[:MAX_FAULTS])
        return result

    try:
        document: object = json.loads(
            bounded_text(data), object_pairs_hook=pairs, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise JobInvalid([Fault("", f"the job is not JSON: {error.msg} at {where}")]) from None
    except TextRefused as refusal:
        raise JobInvalid([Fault("", f"the job {refusal}")]) from None
    except ValueError:  # Python's own bound on the digits of an integer
        raise JobInvalid([Fault("", "the job holds a number with too many digits")]) from None
    if duplicates:
        raise JobInvalid([Fault(shortened(key), "is given twice") for key in duplicates[:MAX_FAULTS]])
    return document


def _refuse_constant(name: str) -> None:
    raise TextRefused(f"is not JSON: it holds {name}")


def shortened(text: str, limit: int = 80) -> str:
    """Text from a client, cut at `limit` characters for an answer or a log; a cut text ends with `...`."""
    return text if len(text) <= limit else f"{text[:limit]}..."
