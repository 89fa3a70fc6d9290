r"""Reads checksum files (SHA256SUMS, image.raw.sha256 and the like), and finds the digest of one file in them. Pure.

Called by the preflight stage with the whole file in memory. The lines that are understood are those of the coreutils
(`HEX  name`, `HEX *name`, and `\HEX  name` with escapes in the name), of the BSDs and OpenSSL (`SHA256 (name) = HEX`),
and a file that holds nothing but one digest. Others, comments among them, are passed over. Of a clear-signed text
(RFC 9580, section 7) only what was signed is read; whether the signature is good is not looked at.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.errors import ChecksumFile
from agent.formats.signatures.armour import split_clear_signed
from agent.formats.signatures.findings import Refused
from agent.model.job import CHECKSUM_DIGITS
from agent.text import printable
from agent.units import MiB

MAX_FILE_BYTES = MiB
"""The longest checksum file that is read. Those of large distributions have some ten KiB."""

_SHOWN = 8
"""Names or digests that an error repeats."""
_SHOWN_CHARACTERS = 80

_HEX = "[0-9A-Fa-f]{8,256}"
# Two characters stand between digest and name in what coreutils write; `md5 -r` of the BSDs puts one.
_GNU = re.compile(rf"(\\?)({_HEX})(?: [ *]|[ \t])(.+)")
_BSD = re.compile(rf"(\\?)([A-Za-z0-9/-]{{2,16}}) ?\((.+)\) ?= ?({_HEX})")
_BARE = re.compile(_HEX)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "r": "\r", "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a checksum file."""

    name: str | None
    """None for a digest that stands alone."""
    digest: str
    """Hexadecimal digits in lower case, as many as there are."""
    kind: str | None
    """What the line says that it is, in lower case, such as sha256; None where it does not say."""


def find_digest(data: bytes, name: str, kind: str, url: str) -> str:
    """The digest of a file, in lower case, with as many digits as its kind has.

    Args:
        data: the checksum file, at most `MAX_FILE_BYTES`.
        name: the file's name without a directory; empty where it has none.
        kind: md5, sha1, sha256 or sha512.
        url: where the checksum file is, its secrets blanked, for the errors.

    Raises:
        ChecksumFile: it does not say what that digest is, or says two things.
    """
    entries = tuple(read_entries(_text(signed_part(data, url), url).split("\n")))
    told = _shown_name(name)
    found = _of_file(entries, name)
    if not found:
        raise ChecksumFile(url=url, reason=f"has no entry for {told}", detail=_names(entries))
    digests = dict.fromkeys(entry.digest for entry in found if _is_of_kind(entry, kind))
    if not digests:
        raise ChecksumFile(url=url, reason=_other_kind(found[0], told, kind))
    if len(digests) > 1:
        raise ChecksumFile(
            url=url, reason=f"has several different entries for {told}", detail=_listed(list(digests))
        )
    return next(iter(digests))


def signed_part(data: bytes, url: str) -> bytes:
    """A checksum file as it is; of a clear-signed one what was signed.

    Raises:
        ChecksumFile: it was cut.
    """
    try:
        parts = split_clear_signed(data)
    except Refused as refusal:
        raise ChecksumFile(
            url=url, reason="is a clear-signed text that was cut", detail=str(refusal)
        ) from None
    return data if parts is None else parts.signed


def read_entries(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries among the lines of a checksum file, in their order."""
    for line in lines:
        text = line.removesuffix("\r").lstrip(" \t")
        if match := _GNU.fullmatch(text):
            yield Entry(_name(match[3], escaped=bool(match[1])), match[2].lower(), None)
        elif match := _BSD.fullmatch(text.rstrip(" \t")):
            # OpenSSL 3 calls them SHA2-256 and SHA2-512.
            kind = match[2].lower().replace("sha2-", "sha")
            yield Entry(_name(match[3], escaped=bool(match[1])), match[4].lower(), kind)
        elif _BARE.fullmatch(text.rstrip(" \t")):
            yield Entry(None, text.rstrip(" \t").lower(), None)


def _text(data: bytes, url: str) -> str:
    # Text in UTF-16 has NULs too. A name in another encoding than UTF-8 spoils its own line only.
    if b"\0" in data or not data.strip():
        raise ChecksumFile(url=url, reason="holds no text", detail=f"it has {len(data)} bytes")
    return data.decode("utf-8-sig", "replace")


def _name(text: str, *, escaped: bool) -> str:
    name = _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[0]), text) if escaped else text
    return name.removeprefix("./")


def _of_file(entries: Sequence[Entry], name: str) -> list[Entry]:
    """The entries of a file: by its name, else by the last part of a path, else the digests that stand alone."""
    named = [entry for entry in entries if entry.name is not None]
    if not named:
        return list(entries)
    if not name:
        return []
    exact = [entry for entry in named if entry.name == name]
    return exact or [entry for entry in named if (entry.name or "").rpartition("/")[2] == name]


def _is_of_kind(entry: Entry, kind: str) -> bool:
    return entry.kind in (None, kind) and len(entry.digest) == CHECKSUM_DIGITS[kind]


def _other_kind(entry: Entry, told: str, kind: str) -> str:
    if entry.kind not in (None, kind):
        return f"tells the {entry.kind} of {told}, but checkSumType is {kind}"
    return f"tells a digest of {len(entry.digest)} digits for {told}, but {kind} has {CHECKSUM_DIGITS[kind]}"


def _names(entries: Sequence[Entry]) -> str:
    names = list(dict.fromkeys(entry.name for entry in entries if entry.name is not None))
    return f"it has entries for {_listed(names)}" if names else "it has no entries at all"


def _listed(words: Sequence[str]) -> str:
    shown = ", ".join(printable(word, _SHOWN_CHARACTERS) for word in words[:_SHOWN])
    return shown if len(words) <= _SHOWN else f"{shown} and {len(words) - _SHOWN} more"


def _shown_name(name: str) -> str:
    return printable(name, _SHOWN_CHARACTERS) if name else "a URL that ends without a file's name"
