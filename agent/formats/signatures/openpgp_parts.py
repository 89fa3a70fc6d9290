"""OpenPGP's signatures and certificates, as far as they tell whose they are and whether they may count. Pure.

Nothing here is verified: what is read may refuse, and gpgv alone accepts.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.formats.signatures.findings import KeyFile, Refused
from agent.formats.signatures.packets import (
    IGNORED,
    PUBLIC_KEY,
    PUBLIC_SUBKEY,
    SECRET_KEY,
    SECRET_SUBKEY,
    SIGNATURE,
    USER_ID,
    Packet,
    read_length,
    read_mpi_bits,
    read_packets,
)

HASHES = {
    1: "MD5", 2: "SHA1", 3: "RIPEMD160", 8: "SHA256", 9: "SHA384", 10: "SHA512", 11: "SHA224", 12: "SHA3-256",
    14: "SHA3-512",
}  # fmt: skip
WEAK_HASHES = (1, 2, 3)
_ALGORITHMS = {
    1: "RSA", 2: "RSA", 3: "RSA", 16: "ElGamal", 17: "DSA", 18: "ECDH", 19: "ECDSA", 22: "EdDSA", 25: "X25519",
    26: "X448", 27: "Ed25519", 28: "Ed448",
}  # fmt: skip
_HAS_BITS = (1, 2, 3, 16, 17)
"""Algorithms whose first number has the length of the key."""
BINARY, TEXT = 0x00, 0x01
_CERTIFICATIONS, _BINDING, _DIRECT = range(0x10, 0x14), 0x18, 0x1F
_KEY_REVOKED, _SUBKEY_REVOKED = 0x20, 0x28
_CREATED, _EXPIRES, _KEY_EXPIRES, _ISSUER, _ISSUER_FINGERPRINT = 2, 3, 9, 16, 33


@dataclass(frozen=True, slots=True)
class SignaturePacket:
    """One signature, as it says of itself. Times in seconds since the epoch."""

    raw: bytes = field(repr=False)
    kind: int
    """What it is of: `BINARY`, `TEXT`, or something about a key."""
    algorithm: int
    hash: int
    created: int
    expires: int | None
    key_expires: int | None
    """Of a signature over a key: seconds from the making of the key until its end."""
    key_id: str
    """Of the key that made it, 16 hexadecimal digits in capitals; empty where it does not say."""
    fingerprint: str
    """Of that key; empty where it does not say."""

    @property
    def hash_name(self) -> str:
        """The name of its digest."""
        return HASHES.get(self.hash, f"digest {self.hash}")

    @property
    def issuer(self) -> str:
        """Whatever it says about its key."""
        return self.fingerprint or self.key_id


@dataclass(slots=True)
class Key:
    """A key or a subkey of a certificate. Times in seconds since the epoch."""

    fingerprint: str
    algorithm: int
    bits: int | None
    created: int
    expires: int | None = None
    revoked: bool = False
    told_at: int = -1
    """When the signature was made from which `expires` is."""

    def take_expiry(self, signature: SignaturePacket) -> None:
        """Take the end of the key from a signature over it, unless a later one was seen."""
        if signature.created >= self.told_at:
            self.told_at = signature.created
            self.expires = self.created + signature.key_expires if signature.key_expires else None

    @property
    def key_id(self) -> str:
        """The last 16 digits of a version 4 fingerprint."""
        return self.fingerprint[-16:]

    @property
    def algorithm_name(self) -> str:
        """Such as RSA 4096."""
        name = _ALGORITHMS.get(self.algorithm, f"algorithm {self.algorithm}")
        return name if self.bits is None else f"{name} {self.bits}"


@dataclass(slots=True)
class Certificate:
    """A key with its subkeys, as one file has it."""

    file: KeyFile
    keys: list[Key]
    """The key itself comes first."""
    user: str | None = None
    raw: bytearray = field(default_factory=bytearray, repr=False)

    def find(self, signature: SignaturePacket) -> Key | None:
        """The key that a signature says it was made by."""
        for key in self.keys:
            if signature.fingerprint == key.fingerprint or (
                not signature.fingerprint and signature.key_id == key.key_id
            ):
                return key
        return None


class OtherVersion(Refused):
    """A signature of a version that gpgv does not know."""


def read_signature(packet: Packet) -> SignaturePacket:
    """Take a signature apart.

    Raises:
        OtherVersion: it is none of version 4.
        Refused: it is damaged.
    """
    body = packet.body
    if len(body) < 10:
        raise Refused("it has a signature that is cut")
    if body[0] != 4:
        raise OtherVersion(f"it is of version {body[0]}; version 4 is understood")
    hashed, at = _subpackets(body, 4)
    unhashed, _ = _subpackets(body, at)
    if _CREATED not in hashed or len(hashed[_CREATED]) != 4:
        raise Refused("it has a signature that does not say when it was made")
    created = int.from_bytes(hashed[_CREATED], "big")
    lasting = int.from_bytes(hashed.get(_EXPIRES, b""), "big")
    both = {**unhashed, **hashed}
    fingerprint = both.get(_ISSUER_FINGERPRINT, b"")[1:].hex().upper()
    return SignaturePacket(
        raw=packet.raw,
        kind=body[1],
        algorithm=body[2],
        hash=body[3],
        created=created,
        expires=created + lasting if lasting else None,
        key_expires=int.from_bytes(hashed.get(_KEY_EXPIRES, b""), "big") or None,
        key_id=both.get(_ISSUER, b"").hex().upper() or fingerprint[-16:],
        fingerprint=fingerprint,
    )


def _subpackets(body: bytes, at: int) -> tuple[Mapping[int, bytes], int]:
    """The subpackets that begin with their length at an offset, by type, the first of each; and the offset behind."""
    length = int.from_bytes(body[at : at + 2], "big")
    area, found = body[at + 2 : at + 2 + length], dict[int, bytes]()
    if len(area) < length:
        raise Refused("it has a signature that is damaged: its parts are longer than it is")
    here = 0
    while here < length:
        size, header = read_length(area, here)
        piece = area[here + header : here + header + size]
        if not size or len(piece) < size:
            raise Refused("it has a signature that is damaged: a part of it is cut")
        found.setdefault(piece[0] & 0x7F, piece[1:])
        here += header + size
    return found, at + 2 + length


def read_certificates(data: bytes, file: KeyFile) -> Iterator[Certificate]:
    """The certificates of a key file without its armour, as far as they can be used.

    Raises:
        Refused: that is no key file, or it has a private key in it.
    """
    certificate: Certificate | None = None
    key: Key | None = None
    for packet in read_packets(data):
        if packet.tag in (SECRET_KEY, SECRET_SUBKEY):
            raise Refused(
                "it holds a private key: give the public one (gpg --export), and replace the private one"
            )
        if packet.tag == PUBLIC_KEY:
            if certificate is not None:
                yield certificate
            key = _read_key(packet)
            certificate = Certificate(file, [key]) if key is not None else None
        elif packet.tag == PUBLIC_SUBKEY and certificate is not None:
            key = _read_key(packet)
            certificate.keys += [key] if key is not None else []
        elif packet.tag not in (SIGNATURE, USER_ID, PUBLIC_SUBKEY, *IGNORED):
            raise Refused(f"it holds {packet}, and so is no file of keys")
        if certificate is not None:
            certificate.raw += packet.raw
            _note(packet, certificate, key)
    if certificate is not None:
        yield certificate


def _read_key(packet: Packet) -> Key | None:
    """A key of version 4; None for one of a version that gpgv does not know."""
    body = packet.body
    if len(body) < 8 or body[0] != 4:
        return None
    digest = hashlib.sha1(
        b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False
    )  # section 5.5.4.2
    return Key(
        fingerprint=digest.hexdigest().upper(),
        algorithm=body[5],
        bits=read_mpi_bits(body, 6) if body[5] in _HAS_BITS else None,
        created=int.from_bytes(body[1:5], "big"),
    )


def _note(packet: Packet, certificate: Certificate, key: Key | None) -> None:
    """Take what a user id or a signature of the key's own says about the key."""
    if packet.tag == USER_ID and certificate.user is None:
        certificate.user = packet.body.decode("utf-8", "replace")
    if packet.tag != SIGNATURE or key is None:
        return
    try:
        signature = read_signature(packet)
    except Refused:
        return  # of others, perhaps of long ago: gpgv passes over it too
    primary = certificate.keys[0]
    if signature.issuer not in (primary.fingerprint, primary.key_id):
        return
    if signature.kind == _KEY_REVOKED:
        primary.revoked = True
    elif signature.kind == _SUBKEY_REVOKED:
        key.revoked = True
    elif signature.kind in (*_CERTIFICATIONS, _DIRECT):
        primary.take_expiry(signature)
    elif signature.kind == _BINDING:
        key.take_expiry(signature)


def needed(certificates: Sequence[Certificate]) -> bytes:
    """A keyring of these certificates."""
    return b"".join(bytes(certificate.raw) for certificate in certificates)
