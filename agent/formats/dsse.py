"""DSSE envelopes (Dead Simple Signing Envelope, v1.0.2), signed with Ed25519 or not at all. Pure.

Every byte of an envelope that is checked is hostile: its length, its members and their encodings are judged before
anything is compared. `cryptography` is imported where a signature is made or checked, and not before: a daemon makes
one when a job ends.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.units import MiB

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_ENVELOPE_BYTES = 4 * MiB
MAX_SIGNATURES = 16
_MAX_KEY_BYTES = 16 * 1024
# An AlgorithmIdentifier of Ed25519 in DER (RFC 8410, section 3): a sequence with the object identifier 1.3.101.112.
_ED25519 = bytes.fromhex("300506032b6570")
_MAKE = "`openssl genpkey -algorithm ed25519` makes one"


class EnvelopeFault(ValueError):
    """It is no envelope that can be read; the text says why."""


class KeyFault(ValueError):
    """It is no key that can be used; the text is a predicate, and has nothing of the key."""


class NotVerified(Exception):
    """No signature of the envelope is good by this key; the text says why."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope that was read. Nothing about it is checked yet."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]
    """The id of the key, as the envelope says, and the signature."""


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What is signed: type and payload, each with its length (PAE of the specification)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key: str | None) -> dict[str, Any]:
    """The envelope of a payload as JSON.

    Args:
        payload_type: its media type.
        payload: any bytes.
        key: a private key of Ed25519 in PEM; None: no signature.

    Raises:
        KeyFault: it is no such key.
    """
    signatures = []
    if key is not None:
        private = _private_key(key)
        signature = private.sign(pre_authentication(payload_type, payload))
        signatures.append({"keyid": key_id(private.public_key()), "sig": _base64(signature)})
    return {"payloadType": payload_type, "payload": _base64(payload), "signatures": signatures}


def read_envelope(text: bytes) -> Envelope:
    """Read an envelope.

    Raises:
        EnvelopeFault: it is none.
    """
    if len(text) > MAX_ENVELOPE_BYTES:
        raise EnvelopeFault(f"it has more than {MAX_ENVELOPE_BYTES} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise EnvelopeFault("it is no JSON document") from None
    return envelope_of(document)


def envelope_of(document: object) -> Envelope:
    """The same of a document that was decoded.

    Raises:
        EnvelopeFault: it is none.
    """
    if not isinstance(document, dict):
        raise EnvelopeFault("it is no JSON object")
    kind, listed = document.get("payloadType"), document.get("signatures")
    if not isinstance(kind, str) or not kind.isascii():
        raise EnvelopeFault("its member payloadType is no text")
    if not isinstance(listed, list) or len(listed) > MAX_SIGNATURES:
        raise EnvelopeFault(f"its member signatures is no list of at most {MAX_SIGNATURES}")
    signatures = tuple(_signature(item) for item in listed)
    return Envelope(kind, _decoded(document.get("payload"), "payload"), signatures)


def verify(envelope: Envelope, key: bytes) -> str:
    """Check that one of the signatures is by this key; returns the id of the key.

    Args:
        envelope: as it was read.
        key: the public key in PEM.

    Raises:
        KeyFault: it is no public key of Ed25519.
        NotVerified: none of them is.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see above

    public = _public_key(key)
    name = key_id(public)
    if not envelope.signatures:
        raise NotVerified("it is not signed")
    message = pre_authentication(envelope.payload_type, envelope.payload)
    for _, signature in envelope.signatures:  # whatever key id it claims: only the signature tells
        try:
            public.verify(signature, message)
        except InvalidSignature:
            continue
        return name
    claimed = [claim for claim, _ in envelope.signatures]
    if name in claimed:
        raise NotVerified("its signature is not good: it was changed after it was signed, or damaged")
    raise NotVerified(
        f"it is signed by another key ({', '.join(claim[:64] for claim in claimed) or 'no id'})"
    )


def key_id(key: "Ed25519PublicKey") -> str:
    """The name of a key: SHA-256 of its SubjectPublicKeyInfo (RFC 8410) in hexadecimal."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def signing_key_fault(text: str) -> str | None:
    """Why a text is no private key of Ed25519 in PEM; None where it is one. Needs no `cryptography`.

    The answer is a predicate, to be read after "the file", and has nothing of the text.
    """
    label, found, rest = text.partition("-----BEGIN ")[2].partition("-----")
    if not found:
        return f"holds no key in PEM: {_MAKE}"
    if label == "ENCRYPTED PRIVATE KEY" or "Proc-Type: 4,ENCRYPTED" in rest:
        return "holds an encrypted key: nobody is there to type its password"
    if label != "PRIVATE KEY":
        return f"holds no private key in PKCS #8 (BEGIN PRIVATE KEY): {_MAKE}"
    try:
        der = binascii.a2b_base64("".join(rest.partition("-----END ")[0].split()), strict_mode=True)
    except ValueError:
        return "holds a key that is damaged"
    if _ED25519 not in der[:20]:
        return f"holds a key that is not of Ed25519: {_MAKE}"
    return None


def _private_key(text: str) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    if (fault := signing_key_fault(text)) is not None:
        raise KeyFault(fault)
    try:
        key = load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFault("holds a key that is damaged") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFault(f"holds a key that is not of Ed25519: {_MAKE}")
    return key


def _public_key(text: bytes) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    if len(text) > _MAX_KEY_BYTES or b"PRIVATE KEY-----" in text:
        what = "holds a private key" if b"PRIVATE KEY-----" in text else "is too large for a key"
        raise KeyFault(f"{what}: give the public one (openssl pkey -pubout)")
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFault("holds no public key in PEM (openssl pkey -pubout)") from None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFault("holds a key that is not of Ed25519")
    return key


def _signature(item: object) -> tuple[str, bytes]:
    if not isinstance(item, Mapping):
        raise EnvelopeFault("one of its signatures is no JSON object")
    name = item.get("keyid", "")
    if not isinstance(name, str):
        raise EnvelopeFault("the keyid of one of its signatures is no text")
    return name, _decoded(item.get("sig"), "sig")


def _decoded(value: object, member: str) -> bytes:
    """Base64, of the standard's alphabet or of that for URLs: readers take both."""
    if not isinstance(value, str):
        raise EnvelopeFault(f"its member {member} is no text")
    try:
        return base64.b64decode(value.translate(str.maketrans("-_", "+/")), validate=True)
    except ValueError:
        raise EnvelopeFault(f"its member {member} is no base64") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
