"""Signatures of minisign and of OpenBSD's signify: Ed25519, with the id of the key in front. Pure.

minisign signs the BLAKE2b-512 of a file (algorithm `ED`), and a comment with the time. Its older signatures, and all
of signify, are of the file itself (`Ed`): the whole file has to be in memory to check one, and so they count for a
checksum file, but not for an image. The formats are those of minisign(1) and signify(1).
"""

import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.formats.signatures.findings import (
    CLOCK_HINT,
    WHOLE,
    Finding,
    KeyFile,
    Refused,
    clock_fault,
    judged,
    same_bytes_fault,
)

BLAKE2B = "blake2b"
_PREHASHED, _LEGACY = b"ED", b"Ed"
_UNTRUSTED, _TRUSTED = b"untrusted comment:", b"trusted comment:"
_TIMESTAMP = re.compile(rb"(?:^|\s)timestamp:([0-9]{1,12})(?:\s|$)")
_KEY_BYTES, _SIGNATURE_BYTES = 42, 74


@dataclass(frozen=True, slots=True)
class _Key:
    file: KeyFile
    id: str
    key: Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class _Signature:
    algorithm: bytes
    key_id: str
    value: bytes
    comment: bytes | None
    """The trusted comment; None in signify's."""
    comment_value: bytes
    """The signature over the other one and the comment."""

    @property
    def signed_at(self) -> float | None:
        """What the trusted comment says, as minisign writes it."""
        match = _TIMESTAMP.search(self.comment or b"")
        return float(match[1]) if match else None


class Minisign:
    """One signature, and the key that made it."""

    def __init__(self, signature: _Signature, finding: Finding, key: _Key | None) -> None:
        self._signature = signature
        self._key = key
        self.findings: Sequence[Finding] = (finding,)
        self.wanted: Sequence[str] = (BLAKE2B if signature.algorithm == _PREHASHED else WHOLE,)

    def check(self, evidence: Mapping[str, bytes]) -> Sequence[Finding]:
        """The finding by the digest, or by the file."""

        def judge(index: int) -> Finding:
            good = self._key is not None and _fits(
                self._key.key, self._signature.value, evidence[self.wanted[0]]
            )
            finding = self.findings[index]
            return finding if good else replace(finding, fault=same_bytes_fault("its key"))

        return judged(self.findings, judge)


def read_minisign(data: bytes, files: Sequence[KeyFile], now: float) -> Minisign:
    """Read a signature file.

    Args:
        data: the signature file.
        files: the key files.
        now: seconds since the epoch, by this machine's clock.

    Raises:
        Refused: it is no signature file, or one of the key files is none.
    """
    keys = [key for file in files for key in read_keys(file)]
    signature = _read_signature(data.split(b"\n"))
    found = [key for key in keys if key.id == signature.key_id]
    found.sort(key=lambda key: not key.file.allowed)
    key = found[0] if found else None
    finding = Finding(
        key=signature.key_id,
        algorithm="Ed25519, BLAKE2b" if signature.algorithm == _PREHASHED else "Ed25519",
        name=None if key is None else key.file.name,
        signed_at=signature.signed_at,
    )
    return Minisign(signature, _judge(finding, signature, keys, key, now), key)


def split_embedded(data: bytes) -> tuple[bytes, bytes] | None:
    """The signature and the signed bytes of a file that signify -e made; None where it is no such file."""
    lines = data.split(b"\n", 2)
    if len(lines) < 3 or not lines[0].startswith(_UNTRUSTED) or not lines[2].strip():
        return None
    return b"\n".join((*lines[:2], b"")), lines[2]


def read_keys(file: KeyFile) -> list[_Key]:
    """The keys of a file: lines of base64, each with a comment before it or none.

    Raises:
        Refused: it holds none; the text names the file.
    """
    keys = list(_keys(file))
    if not keys:
        what = (
            "a secret key" if b"secret key" in file.data else "no public key of minisign or signify (RW...)"
        )
        raise Refused(f"{file} cannot be used: it holds {what}", about="key")
    return keys


def _keys(file: KeyFile) -> Iterator[_Key]:
    for line in file.data.split(b"\n"):
        raw = _decoded(line)
        if raw is not None and len(raw) == _KEY_BYTES and raw[:2] == _LEGACY:
            yield _Key(file, _id(raw[2:10]), Ed25519PublicKey.from_public_bytes(raw[10:]))


def _decoded(line: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(line.strip(), strict_mode=True)
    except ValueError:
        return None


def _id(raw: bytes) -> str:
    """As minisign prints it."""
    return f"{int.from_bytes(raw, 'little'):016X}"


def _read_signature(lines: Sequence[bytes]) -> _Signature:
    if not lines[0].startswith(_UNTRUSTED):
        raise Refused("it does not begin with an untrusted comment, as those of minisign and signify do")
    raw = _decoded(lines[1]) if len(lines) > 1 else None
    if raw is None or len(raw) != _SIGNATURE_BYTES or raw[:2] not in (_PREHASHED, _LEGACY):
        raise Refused("it has no signature of minisign or signify in its second line")
    comment, value = None, b""
    if len(lines) > 2 and lines[2].strip():
        if not lines[2].startswith(_TRUSTED):
            raise Refused("it has no trusted comment in its third line")
        comment = lines[2].removeprefix(_TRUSTED).removeprefix(b" ").rstrip(b"\r")
        value = (_decoded(lines[3]) if len(lines) > 3 else None) or b""
        if len(value) != 64:
            raise Refused("it is cut: the signature over its trusted comment is not there")
    elif raw[:2] == _PREHASHED:
        raise Refused("it is cut: its trusted comment is not there")
    return _Signature(raw[:2], _id(raw[2:10]), raw[10:], comment, value)


def _judge(
    finding: Finding, signature: _Signature, keys: Sequence[_Key], key: _Key | None, now: float
) -> Finding:
    if key is None:
        known = ", ".join(f"{each.id} ({each.file})" for each in keys[:8])
        return replace(finding, fault=f"its key is unknown here; known are {known or 'none'}", about="key")
    if not key.file.allowed:
        return replace(finding, fault=f"{key.file} made it, but the job names others", about="key")
    if signature.comment is not None and not _fits(
        key.key, signature.comment_value, signature.value + signature.comment
    ):
        return replace(finding, fault="its trusted comment was changed, or another key has the same id")
    made = signature.signed_at
    if made is not None and (fault := clock_fault(made, now, "it")) is not None:
        return replace(finding, fault=fault, hint=CLOCK_HINT)
    return finding


def _fits(key: Ed25519PublicKey, value: bytes, message: bytes) -> bool:
    try:
        key.verify(value, message)
    except InvalidSignature:
        return False
    return True
