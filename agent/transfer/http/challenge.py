"""Reads the challenges of an answer 401: the header WWW-Authenticate. Pure.

Source: RFC 9110, section 11. Of what is malformed, that is used which stands before it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from agent.units import KiB

_MAX_CHALLENGES = 8
_MAX_PARAMETERS = 16
_MAX_LENGTH = 8 * KiB
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?=[\s,]|$)")
_PARAMETER = re.compile(rf'[\s,]*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))(?=[\s,]|$)')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a server offers."""

    scheme: str
    """In lower case."""
    parameters: Mapping[str, str]
    """By their names in lower case; of one that stands twice, the first."""


def read_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in the values of the header, in their order; at most 8."""
    found = (challenge for text in headers for challenge in _challenges(text[:_MAX_LENGTH]))
    return tuple(islice(found, _MAX_CHALLENGES))


def _challenges(text: str) -> Iterator[Challenge]:
    position = 0
    while (scheme := _SCHEME.match(text, position)) is not None:
        position = scheme.end()
        parameters: dict[str, str] = {}
        while (match := _PARAMETER.match(text, position)) is not None and len(parameters) < _MAX_PARAMETERS:
            position = match.end()
            value = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
            parameters.setdefault(match[1].lower(), value)
        yield Challenge(scheme[1].lower(), parameters)
