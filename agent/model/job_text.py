"""The text of a job: JSON in UTF-8 (RFC 8259), read more strictly than `json.loads` does, and within bounds.

`json.loads` is one call under the interpreter's lock that makes an object of every `[]`: 24 MiB of them stop the whole
process for seconds and take hundreds of MiB. What a text holds is therefore counted before it is parsed.
"""

import json
import re
from collections import Counter
from typing import Any

from agent.errors import Fault, JobInvalid
from agent.units import MiB

MAX_JOB_BYTES = 24 * MiB
# Readers and writers of JSON recurse, ours as well as those in the guest. No real document comes near.
MAX_DEPTH = 64
MAX_VALUES = 50_000
"""Values that a text may hold, those within others included; an empty object or array may count as two. Parsed they are
at most some 15 MiB, beside the characters of the text itself."""
MAX_FAULTS = 256
"""Faults of one job that are told."""

_STRUCTURE = b'"[]{},'
_OTHER_BYTES = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
# A string, whose quotes are the only ones in it once the escaped ones are gone, or one of the others.
_PIECE = re.compile(rb'"[^"]*"?|[\[\]{},]')


class TextRefused(ValueError):
    """A text is not parsed, or not to its end. The message goes on from what the text is ("the job ...")."""


def bounded_text(data: bytes) -> str:
    """The characters of JSON in UTF-8, if `json.loads` may be given them: it takes no long time and little memory then.

    A byte order mark in front, which some editors write, is dropped.

    Raises:
        TextRefused: it is not UTF-8, is nested more than MAX_DEPTH deep, or holds more than MAX_VALUES values.
    """
    _check_shape(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # in JSON it is always escaped; UTF-16 and UTF-32 are full of it
        raise TextRefused("is not JSON in UTF-8")
    return text


def _check_shape(data: bytes) -> None:
    """Count brackets and commas outside of strings.

    Up to the first place where the text is no JSON, which is where `json.loads` ends, this sees what that sees.
    """
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _OTHER_BYTES)
    depth = values = 0
    if bare.count(b'"') > 4 * MAX_VALUES:  # each value has one name at the most
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
            return  # no JSON


def read_json(data: bytes) -> Any:
    """Read JSON that holds a job: no NaN, no key twice, and within the bounds above.

    Raises:
        JobInvalid: it is none, or goes beyond a bound.
    """
    if len(data) > MAX_JOB_BYTES:
        raise JobInvalid([Fault("", f"the job has {len(data)} bytes, at most {MAX_JOB_BYTES} are taken")])
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            counts = Counter(key for key, _ in items)
            twice.extend(sorted(key for key, count in counts.items() if count > 1)[:MAX_FAULTS])
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
    except ValueError:  # Python's own bound for the digits of an integer
        raise JobInvalid([Fault("", "the job holds a number with too many digits")]) from None
    if twice:
        raise JobInvalid([Fault(shortened(key), "is given twice") for key in twice[:MAX_FAULTS]])
    return document


def _refuse_constant(name: str) -> None:
    raise TextRefused(f"is not JSON: it holds {name}")


def shortened(text: str, limit: int = 80) -> str:
    """What somebody made up, short enough to be answered and logged: so many characters, and dots for the rest."""
    return text if len(text) <= limit else f"{text[:limit]}..."
