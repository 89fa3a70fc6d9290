"""Signatures of `ssh-keygen -Y sign` (PROTOCOL.sshsig of OpenSSH): over a digest, in the namespace `file`. Pure.

Keys are public keys as in a .pub file, or lines of an allowed signers file (ssh-keygen(1)), whose options
`namespaces`, `valid-after` and `valid-before` are obeyed. An SSH signature does not say when it was made: the times
are compared with now.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from agent.formats.signatures.findings import (
    CLOCK_HINT,
    EXPIRED_HINT,
    MIN_RSA_BITS,
    Finding,
    KeyFile,
    Refused,
    day,
    day_and_time,
    expired_fault,
    judged,
    same_bytes_fault,
    usable_keys,
)
from agent.text import printable

NAMESPACE = "file"
"""What `ssh-keygen -Y sign -n file` signs for; signatures for git or a log-in count for nothing here."""
_MAGIC = b"SSHSIG"
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
_HASHES = ("sha256", "sha512")
_PUBLIC = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey
_TYPES = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
_RSA_HASHES: Mapping[bytes, hashes.HashAlgorithm] = {
    b"rsa-sha2-256": hashes.SHA256(),
    b"rsa-sha2-512": hashes.SHA512(),
}
_OPTION = re.compile(r'([A-Za-z-]+)(?:="([^"]*)"|=([^,\s]*))?')
_TIMES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


@dataclass(frozen=True, slots=True)
class _Key:
    file: KeyFile
    blob: bytes
    key: _PUBLIC
    user: str | None
    namespaces: tuple[str, ...] = ()
    """Patterns; none: all."""
    valid_after: float | None = None
    valid_before: float | None = None


@dataclass(frozen=True, slots=True)
class _Signature:
    blob: bytes
    """The public key, as it stands in the signature."""
    namespace: bytes
    hash: str
    kind: bytes
    value: bytes = field(repr=False)
    reserved: bytes = b""

    def signed(self, digest: bytes) -> bytes:
        """What the key signs."""
        parts = (self.namespace, self.reserved, self.hash.encode(), digest)
        return _MAGIC + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class SshSignature:
    """One signature, and the key that made it."""

    def __init__(self, signature: _Signature, finding: Finding, key: _Key | None) -> None:
        self._signature = signature
        self._key = key
        self.findings: Sequence[Finding] = (finding,)
        self.wanted: Sequence[str] = (signature.hash,)

    def check(self, evidence: Mapping[str, bytes]) -> Sequence[Finding]:
        """The finding by the digest."""

        def judge(index: int) -> Finding:
            message = self._signature.signed(evidence[self._signature.hash])
            good = self._key is not None and _fits(self._key.key, self._signature, message)
            finding = self.findings[index]
            return finding if good else replace(finding, fault=same_bytes_fault("its key"))

        return judged(self.findings, judge)


def read_sshsig(data: bytes, files: Sequence[KeyFile], now: float) -> SshSignature:
    """Read a signature file.

    Args:
        data: the signature file.
        files: the key files.
        now: seconds since the epoch, by this machine's clock.

    Raises:
        Refused: it is no signature file, or one of the key files is none.
    """
    keys = [key for file in files for key in read_keys(file)]
    signature = _read_signature(_dearmour(data))
    found = [key for key in keys if key.blob == signature.blob]
    found.sort(key=lambda key: not key.file.allowed)
    key = found[0] if found else None
    finding = Finding(
        key=_fingerprint(signature.blob),
        algorithm=f"{printable(signature.kind.decode('ascii', 'replace'), 40)}, {signature.hash.upper()}",
        name=None if key is None else key.file.name,
        user=None if key is None else key.user,
    )
    return SshSignature(signature, _judge(finding, signature, keys, key, now), key)


# -- keys ------------------------------------------------------------------------------------------------------


def read_keys(file: KeyFile) -> list[_Key]:
    """The keys of a file.

    Raises:
        Refused: it holds none, or a line that is not understood; the text names the file.
    """
    return usable_keys(file, _keys, "it holds no public SSH key")


def _keys(file: KeyFile) -> Iterator[_Key]:
    text = file.data.decode("utf-8", "replace")
    if "PRIVATE KEY" in text:
        raise Refused(
            "it holds a private key: give the public one (the .pub file), and replace the private one"
        )
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split()
        place = next((index for index, word in enumerate(words) if word in _TYPES), None)
        if place is None or place + 1 == len(words):
            raise Refused(f"line {number} is no public key ({', '.join(_TYPES)})")
        yield _read_key(file, words, place, number)


def _read_key(file: KeyFile, words: Sequence[str], place: int, number: int) -> _Key:
    """The key of a line; in an allowed signers file principals and options stand before it, else a comment behind."""
    kind, text = words[place : place + 2]
    try:
        blob = binascii.a2b_base64(text, strict_mode=True)
        key = load_ssh_public_key(f"{kind} {text}".encode())
    except (ValueError, UnsupportedAlgorithm):
        raise Refused(f"the key in line {number} is damaged") from None
    if not isinstance(key, _PUBLIC):
        raise Refused(f"the key in line {number} is of a type that is not taken")
    user = words[0] if place else " ".join(words[2:]) or None
    return _with_options(_Key(file, blob, key, user), " ".join(words[1:place]), number)


def _with_options(key: _Key, text: str, number: int) -> _Key:
    for name, quoted, bare in _OPTION.findall(text):
        value = quoted or bare
        match name.lower():
            case "namespaces":
                key = replace(key, namespaces=tuple(value.split(",")))
            case "valid-after":
                key = replace(key, valid_after=_time(value, number))
            case "valid-before":
                key = replace(key, valid_before=_time(value, number))
            case _:
                raise Refused(f"line {number} has the option {printable(name, 40)}, which is not understood")
    return key


def _time(text: str, number: int) -> float:
    """A time of an allowed signers file, in seconds since the epoch; always in UTC, as the clock of a rescue is."""
    digits = text.removesuffix("Z")
    try:
        return datetime.strptime(digits, _TIMES[len(digits)]).replace(tzinfo=UTC).timestamp()
    except (ValueError, KeyError):
        raise Refused(f"line {number} has a time that is not YYYYMMDD[HHMM[SS]][Z]") from None


def _fingerprint(blob: bytes) -> str:
    """As ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


# -- the signature -----------------------------------------------------------------------------------------------


def _dearmour(data: bytes) -> bytes:
    _, begun, rest = data.partition(_BEGIN)
    body, ended, _ = rest.partition(_END)
    if not begun:
        raise Refused("it holds no SSH SIGNATURE")
    if not ended:
        raise Refused("it is cut: the END line is not there")
    try:
        return binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except ValueError:
        raise Refused("it is damaged: that is not base64") from None


def _read_signature(data: bytes) -> _Signature:
    if not data.startswith(_MAGIC):
        raise Refused("it is damaged: it does not begin with SSHSIG")
    version, rest = data[6:10], data[10:]
    if version != b"\0\0\0\1":
        raise Refused(f"it is of version {int.from_bytes(version, 'big')}; version 1 is understood")
    blob, rest = _string(rest)
    namespace, rest = _string(rest)
    reserved, rest = _string(rest)
    name, rest = _string(rest)
    whole, rest = _string(rest)
    kind, whole = _string(whole)
    value, flags = _string(whole)
    if rest or (flags and not kind.startswith(b"sk-")):
        raise Refused("it is damaged: something follows its end")
    hash_name = name.decode("ascii", "replace")
    if hash_name not in _HASHES:
        raise Refused(f"it is over the digest {printable(hash_name, 40)}; {' and '.join(_HASHES)} are taken")
    return _Signature(blob, namespace, hash_name, kind, value, reserved)


def _string(data: bytes) -> tuple[bytes, bytes]:
    """A string of RFC 4251, section 5, and what follows it."""
    end = 4 + int.from_bytes(data[:4], "big")
    if len(data) < 4 or len(data) < end:
        raise Refused("it is damaged: a part of it is longer than it is")
    return data[4:end], data[end:]


def _judge(
    finding: Finding, signature: _Signature, keys: Sequence[_Key], key: _Key | None, now: float
) -> Finding:
    namespace = printable(signature.namespace.decode("utf-8", "replace"), 60)
    if namespace != NAMESPACE:
        fault = f"it is made for {namespace!r}, not for files (ssh-keygen -Y sign -n {NAMESPACE})"
        return replace(finding, fault=fault)
    if signature.kind in (b"ssh-rsa", b"ssh-dss"):
        return replace(finding, fault="it is made with SHA1, which is too weak to count")
    if signature.kind.startswith(b"sk-"):
        return replace(
            finding, fault="it is made by a security key (sk-...), which is not taken", about="key"
        )
    if key is None:
        known = ", ".join(f"{_fingerprint(each.blob)} ({each.file})" for each in keys[:8])
        return replace(finding, fault=f"its key is unknown here; known are {known or 'none'}", about="key")
    return _judge_key(finding, key, now)


def _judge_key(finding: Finding, key: _Key, now: float) -> Finding:
    if not key.file.allowed:
        return replace(finding, fault=f"{key.file} made it, but the job names others", about="key")
    if key.namespaces and not any(fnmatchcase(NAMESPACE, pattern) for pattern in key.namespaces):
        return replace(
            finding, fault=f"its key is for other things ({', '.join(key.namespaces)})", about="key"
        )
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS:
        fault = f"its key has {key.key.key_size} bits of RSA, fewer than {MIN_RSA_BITS}: too short to count"
        return replace(finding, fault=fault, about="key")
    if key.valid_after is not None and now < key.valid_after:
        fault = f"its key counts from {day(key.valid_after)} on; by the clock of this server it is {day_and_time(now)}"
        return replace(finding, fault=fault, about="key", hint=CLOCK_HINT)
    if (
        key.valid_before is not None
        and (fault2 := expired_fault(key.valid_before, now, "its key")) is not None
    ):
        return replace(finding, fault=fault2, about="key", hint=EXPIRED_HINT)
    return finding


def _fits(key: _PUBLIC, signature: _Signature, message: bytes) -> bool:
    try:
        match key:
            case Ed25519PublicKey() if signature.kind == b"ssh-ed25519":
                key.verify(signature.value, message)
            case RSAPublicKey() if signature.kind in _RSA_HASHES:
                key.verify(signature.value, message, PKCS1v15(), _RSA_HASHES[signature.kind])
            case EllipticCurvePublicKey() if signature.kind.startswith(b"ecdsa-sha2-"):
                _verify_ecdsa(key, signature.value, message)
            case _:
                return False
    except (InvalidSignature, Refused):
        return False
    return True


def _verify_ecdsa(key: EllipticCurvePublicKey, value: bytes, message: bytes) -> None:
    r, rest = _string(value)
    s, _ = _string(rest)
    digest = (  # RFC 5656, section 6.2.1
        hashes.SHA256()
        if isinstance(key.curve, SECP256R1)
        else hashes.SHA384()
        if isinstance(key.curve, SECP384R1)
        else hashes.SHA512()
    )
    numbers = int.from_bytes(r, "big"), int.from_bytes(s, "big")
    key.verify(encode_dss_signature(*numbers), message, ECDSA(digest))
