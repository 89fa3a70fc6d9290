"""Reads the validity period of each certificate revocation list in a PEM file.

OpenSSL uses the lists, but Python's ssl module does not give their times. They are at the beginning of each
list: RFC 5280, section 5.1.2, in DER (X.690).
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]*)-----END X509 CRL-----")
_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x02, 0x30, 0x17, 0x18


@dataclass(frozen=True, slots=True)
class Span:
    """The validity period of a list (thisUpdate, nextUpdate); None if there is no end."""

    since: datetime
    until: datetime | None


def spans(pem: bytes) -> list[Span]:
    """The validity period of every list in a PEM file.

    Raises:
        ValueError: there is no list in it, or one that cannot be parsed.
    """
    found = [_span(block[1]) for block in _PEM.finditer(pem)]
    if not found:
        raise ValueError("holds no revocation list in PEM (-----BEGIN X509 CRL-----)")
    return found


def _span(text: bytes) -> Span:
    try:
        (_, whole), *_ = _elements(base64.b64decode(b"".join(text.split()), validate=True))
        (_, signed), *_ = _elements(whole)  # tbsCertList; the signature follows it
        elements = list(_elements(signed))
        if elements[0][0] == _INTEGER:  # the version, which is absent in version 1
            del elements[0]
        _signature, _issuer, since, until = elements[:4]
        end = _time(*until) if until[0] in (_UTC_TIME, _GENERALIZED_TIME) else None
        return Span(_time(*since), end)
    except (ValueError, LookupError):
        raise ValueError("holds a revocation list that cannot be read") from None


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each DER element, whose lengths are of the definite form."""
    position = 0
    while position < len(content):
        tag, length = content[position], content[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(content[position : position + size], "big")
            position += size
        if not 0 <= length <= len(content) - position:
            raise ValueError("an element reaches beyond its end")
        yield tag, content[position : position + length]
        position += length


def _time(tag: int, content: bytes) -> datetime:
    form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}[tag]
    return datetime.strptime(content.decode("ascii"), form).replace(tzinfo=UTC)
