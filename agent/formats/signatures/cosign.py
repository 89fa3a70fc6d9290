"""Signatures of `cosign sign-blob --key`, and of `openssl dgst -sha256 -sign`, which are the same: of a SHA-256. Pure.

The signature is base64 (or plain), or stands in the bundle that cosign writes. It does not say whose it is: each key is
tried. Keys are PEM public keys: ECDSA, RSA, or Ed25519, which signs the file itself and so counts for a checksum file,
but not for an image.
"""

import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from agent.formats.signatures.findings import (
    MIN_RSA_BITS,
    WHOLE,
    Finding,
    KeyFile,
    Refused,
    judged,
    usable_keys,
)

DIGEST = "sha256"
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_PUBLIC = EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey
_MAX_VALUE = 2048
"""Bytes of a signature; one by RSA 16384 has as many."""


@dataclass(frozen=True, slots=True)
class _Key:
    file: KeyFile
    key: _PUBLIC
    id: str

    @property
    def algorithm(self) -> str:
        """What it makes."""
        match self.key:
            case RSAPublicKey():
                return f"RSA {self.key.key_size}, SHA256"
            case EllipticCurvePublicKey():
                return f"ECDSA {self.key.curve.name}, SHA256"
            case _:
                return "Ed25519"


class Cosign:
    """One signature, and the keys that may have made it."""

    def __init__(self, value: bytes, keys: Sequence[_Key]) -> None:
        self._value = value
        self._keys = [key for key in keys if _can_have_made(key.key, value)]
        self.findings: Sequence[Finding] = (_first_finding(self._keys, keys),)
        whole = [isinstance(key.key, Ed25519PublicKey) for key in self._keys if key.file.allowed]
        self.wanted: Sequence[str] = ((DIGEST,) if not all(whole) else ()) + ((WHOLE,) if any(whole) else ())

    def check(self, evidence: Mapping[str, bytes]) -> Sequence[Finding]:
        """The finding by the digest, or by the file."""

        def judge(index: int) -> Finding:
            made_by = [key for key in self._keys if _fits(key.key, self._value, evidence)]
            made_by.sort(key=lambda key: not key.file.allowed)
            if not made_by:
                tried = ", ".join(dict.fromkeys(str(key.file) for key in self._keys))
                fault = (
                    f"none of the keys ({tried}) signed these bytes: it is of other bytes, or by another key"
                )
                return replace(self.findings[index], fault=fault)
            key = made_by[0]
            finding = Finding(key.id, key.algorithm, key.file.name)
            return finding if key.file.allowed else replace(finding, fault=_not_named(key), about="key")

        return judged(self.findings, judge)


def read_cosign(data: bytes, files: Sequence[KeyFile], now: float) -> Cosign:
    """Read a signature file.

    Args:
        data: the signature, or a bundle with one.
        files: the key files.
        now: is of no use: neither the signature nor the keys have times.

    Raises:
        Refused: it is no signature, or one of the key files is none.
    """
    del now
    keys = [key for file in files for key in read_keys(file)]
    return Cosign(_value(data), keys)


def read_keys(file: KeyFile) -> list[_Key]:
    """The keys of a file.

    Raises:
        Refused: it holds none, or one that is too short; the text names the file.
    """
    return usable_keys(file, _keys, "it holds no PUBLIC KEY in PEM")


def _keys(file: KeyFile) -> Iterator[_Key]:
    if b"PRIVATE KEY" in file.data:
        raise Refused("it holds a private key: give the public one (cosign.pub), and replace the private one")
    for block in _PEM.findall(file.data):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm):
            raise Refused("its PEM is damaged") from None
        if not isinstance(key, _PUBLIC):
            raise Refused("it is neither ECDSA nor RSA nor Ed25519")
        if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
            raise Refused(f"it has {key.key_size} bits of RSA, fewer than {MIN_RSA_BITS}: too short to count")
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        yield _Key(file, key, f"SHA256:{hashlib.sha256(spki).hexdigest()}")


def _value(data: bytes) -> bytes:
    text = data.strip()
    if text.startswith(b"{"):
        text = _from_bundle(text)
    if not text:
        raise Refused("it is empty")
    try:
        value = binascii.a2b_base64(b"".join(text.split()), strict_mode=True)
    except ValueError:
        value = data
    if not 64 <= len(value) <= _MAX_VALUE:
        raise Refused(f"it has {len(value)} bytes, which no signature of cosign has")
    return value


def _from_bundle(text: bytes) -> bytes:
    """The signature in a bundle: `messageSignature` in those of cosign 3, `base64Signature` in older ones."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("it is a bundle that is not JSON") from None
    inner = document.get("messageSignature")
    value = inner.get("signature") if isinstance(inner, dict) else document.get("base64Signature")
    if not isinstance(value, str):
        what = (
            "is of an attestation (DSSE), not of a file" if "dsseEnvelope" in document else "has no signature"
        )
        raise Refused(f"its bundle {what}")
    return value.encode()


def _can_have_made(key: _PUBLIC, value: bytes) -> bool:
    """Whether a key makes signatures of that form."""
    match key:
        case RSAPublicKey():
            return len(value) == (key.key_size + 7) // 8
        case Ed25519PublicKey():
            return len(value) == 64
        case _:
            try:
                decode_dss_signature(value)
            except ValueError:
                return False
            return True


def _first_finding(able: Sequence[_Key], keys: Sequence[_Key]) -> Finding:
    """What is known before the signed bytes are: nothing, unless no key can have made it."""
    allowed = [key for key in able if key.file.allowed]
    if allowed:
        return Finding("", allowed[0].algorithm)
    if able:
        return Finding(
            able[0].id, able[0].algorithm, able[0].file.name, fault=_not_named(able[0]), about="key"
        )
    known = ", ".join(f"{key.algorithm} ({key.file})" for key in keys[:8])
    return Finding(
        "", "unknown", fault=f"no key here makes such signatures; known are {known or 'none'}", about="key"
    )


def _not_named(key: _Key) -> str:
    return f"{key.file} made it, but the job names others"


def _fits(key: _PUBLIC, value: bytes, evidence: Mapping[str, bytes]) -> bool:
    try:
        match key:
            case RSAPublicKey():
                key.verify(value, evidence[DIGEST], PKCS1v15(), Prehashed(SHA256()))
            case EllipticCurvePublicKey():
                key.verify(value, evidence[DIGEST], ECDSA(Prehashed(SHA256())))
            case _:
                key.verify(value, evidence[WHOLE])
    except (InvalidSignature, KeyError):  # a key that is only known, and needs what nobody kept
        return False
    return True
