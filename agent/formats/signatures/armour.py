"""Takes OpenPGP data out of its armour, and a clear-signed text apart (RFC 9580, sections 6.2 and 7). Pure.

The checksum of an armour is not looked at, as section 6.1 has it: what follows tells damage better.
"""

import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.formats.signatures.findings import Refused

SIGNATURE, PUBLIC_KEY = "SIGNATURE", "PUBLIC KEY BLOCK"
_BEGIN_TEXT = b"-----BEGIN PGP SIGNED MESSAGE-----"
_BEGIN_SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"
_BOM = b"\xef\xbb\xbf"


def dearmour(data: bytes, label: str) -> bytes:
    """The bytes of all armours with this label, one after the other; data that begins as packets do, as it is.

    Raises:
        Refused: it is neither, or it is cut or damaged.
    """
    if data[:1] and data[0] & 0x80 and not data.startswith(_BOM):
        return data
    found = list(_armours(data, label))
    if not found:
        raise Refused(f"it holds no PGP {label.lower()}{_what_else(data)}")
    return b"".join(found)


def _what_else(data: bytes) -> str:
    if b"PRIVATE KEY" in data:
        return ", but a private key: give the public one (gpg --armor --export), and replace the private one"
    if b"-----BEGIN PGP MESSAGE-----" in data:
        return ", but a whole message: sign with gpg --detach-sign"
    if _BEGIN_TEXT in data:
        return ", but a clear-signed text"
    if data.lstrip()[:1] == b"<":
        return ", but what seems to be a web page"
    return "" if data.strip() else ", and nothing else"


def _armours(data: bytes, label: str) -> Iterator[bytes]:
    begin, end = f"-----BEGIN PGP {label}-----".encode(), f"-----END PGP {label}-----".encode()
    lines = iter(data.split(b"\n"))
    for line in lines:
        if line.rstrip() == begin:
            yield _body(lines, end, label)


def _body(lines: Iterator[bytes], end: bytes, label: str) -> bytes:
    for header in lines:
        if not header.strip():
            break
        if header.rstrip() == end or b":" not in header:
            raise Refused(f"its PGP {label.lower()} has no empty line behind its headers")
    body = []
    for line in lines:
        text = line.strip()
        if text == end:
            break
        if text.startswith(b"=") and len(text) == 5:
            continue  # the checksum
        body.append(text)
    else:
        raise Refused(f"its PGP {label.lower()} is cut: the END line is not there")
    try:
        return binascii.a2b_base64(b"".join(body), strict_mode=True)
    except ValueError:
        raise Refused(f"its PGP {label.lower()} is damaged: that is not base64") from None


@dataclass(frozen=True, slots=True)
class ClearSigned:
    """A clear-signed text, taken apart."""

    lines: Sequence[bytes]
    """What is signed, without the dashes put before lines, without the spaces at their ends."""
    signature: bytes
    """The armour behind it, with whatever follows."""

    @property
    def signed(self) -> bytes:
        """The very bytes that the signature is of."""
        return b"\r\n".join(self.lines)


def split_clear_signed(data: bytes) -> ClearSigned | None:
    """Take a clear-signed text apart; None where the data is none. What stands before or behind it is not signed.

    Raises:
        Refused: it is cut.
    """
    lines = [line.rstrip(b" \t\r") for line in data.removeprefix(_BOM).split(b"\n")]
    if _BEGIN_TEXT not in lines:
        return None
    begin = lines.index(_BEGIN_TEXT)
    try:
        first = lines.index(b"", begin) + 1  # the headers (Hash: ...) end with an empty line
        stop = lines.index(_BEGIN_SIGNATURE, first)
    except ValueError:
        raise Refused("its signature is not there") from None
    text = [line.removeprefix(b"- ") for line in lines[first:stop]]
    return ClearSigned(text, b"\n".join(lines[stop:]))
