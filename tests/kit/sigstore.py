"""A Sigstore of the test's own: an authority, a log of certificates, a log of signatures, and who signs by them.

What it makes has the form of what Fulcio and Rekor make (sigstore's protobuf-specs; RFC 6962; the note format of
transparency logs), and is judged by the library that people use. Nothing of it is on a network.
"""

import base64
import hashlib
import json
import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
WORKFLOW = "https://git.example.net/images/build/.workflows/release.yml@refs/tags/v1"
ISSUER = "https://accounts.example.net"
_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ECDSA = ec.ECDSA(SHA256())
_LONG = timedelta(days=3650)


class _Log:
    """A log's key, under whose id it is known."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.id = hashlib.sha256(self.spki).digest()

    def document(self, url: str) -> dict[str, Any]:
        """It, in a trusted root."""
        key = {
            "rawBytes": _text(self.spki),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        }
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": key,
            "logId": {"keyId": _text(self.id)},
        }


@dataclass(frozen=True)
class Times:
    """Seconds from now: when a certificate begins and ceases to hold, and when the log took the signature."""

    begin: float = -60
    end: float = 600
    logged: float = 0


class Sigstore:
    """The whole of it."""

    def __init__(self) -> None:
        self._authority = ec.generate_private_key(ec.SECP256R1())
        self._certificates, self._signatures = _Log(), _Log()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the test's authority")])
        public = self._authority.public_key()
        now = datetime.now(UTC)
        self._root = (
            x509.CertificateBuilder(name, name, public, 1, now - _LONG, now + _LONG)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._authority, SHA256())
        )

    def trusted_root(self) -> dict[str, Any]:
        """What `trusted_root.json` has."""
        authority = {
            "subject": {"organization": "example.net", "commonName": "the test's authority"},
            "uri": "https://fulcio.example.net",
            "certChain": {"certificates": [{"rawBytes": _text(self._root.public_bytes(Encoding.DER))}]},
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self._signatures.document("https://rekor.example.net")],
            "certificateAuthorities": [authority],
            "ctlogs": [self._certificates.document("https://ctfe.example.net")],
            "timestampAuthorities": [],
        }

    def trusting(self, identity: str = WORKFLOW, issuer: str = ISSUER) -> bytes:
        """A key file of the agent's."""
        return _compact({"identity": identity, "issuer": issuer, "trustedRoot": self.trusted_root()})

    def sign(
        self, data: bytes, identity: str = WORKFLOW, issuer: str = ISSUER, times: Times = Times()
    ) -> dict[str, Any]:
        """The bundle of a signature over some bytes, or over the SHA-256 of them where they are so long."""
        return self.sign_digest(hashlib.sha256(data).digest(), identity, issuer, times)

    def sign_digest(
        self, digest: bytes, identity: str = WORKFLOW, issuer: str = ISSUER, times: Times = Times()
    ) -> dict[str, Any]:
        """The bundle of a signature over a SHA-256."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key.public_key(), identity, issuer, times)
        signature = key.sign(digest, ec.ECDSA(Prehashed(SHA256())))
        return {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "certificate": {"rawBytes": _text(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [self._entry(certificate, digest, signature, times)],
                "timestampVerificationData": {"rfc3161Timestamps": []},
            },
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": _text(digest)},
                "signature": _text(signature),
            },
        }

    def _certificate(
        self, key: ec.EllipticCurvePublicKey, identity: str, issuer: str, times: Times
    ) -> x509.Certificate:
        """One as Fulcio makes it: without a subject, for minutes, with the promise of the log of certificates."""
        who = x509.RFC822Name(identity) if "@" in identity and "://" not in identity else None
        name = who or x509.UniformResourceIdentifier(identity)
        now = datetime.now(UTC).replace(microsecond=0)
        begin, end = (now + timedelta(seconds=seconds) for seconds in (times.begin, times.end))
        public = self._authority.public_key()
        known = issuer.encode()
        builder = (
            x509.CertificateBuilder(
                self._root.subject, x509.Name([]), key, x509.random_serial_number(), begin, end
            )
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(
                x509.UnrecognizedExtension(_ISSUER_OID, bytes((0x0C, len(known))) + known), critical=False
            )
        )
        before = builder.sign(self._authority, SHA256())
        promise = self._certificates_promise(before.tbs_certificate_bytes, int(begin.timestamp() * 1000))
        return builder.add_extension(x509.UnrecognizedExtension(_SCT_OID, promise), critical=False).sign(
            self._authority, SHA256()
        )

    def _certificates_promise(self, certificate: bytes, at: int) -> bytes:
        """A list of one signed certificate timestamp over a precertificate (RFC 6962, 3.2 and 3.3)."""
        log = self._certificates
        authority = self._authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        signed = struct.pack(">BBQH", 0, 0, at, 1) + hashlib.sha256(authority).digest()
        signed += len(certificate).to_bytes(3, "big") + certificate + bytes(2)
        signature = log.key.sign(signed, _ECDSA)
        promise = b"\0" + log.id + struct.pack(">QHBBH", at, 0, 4, 3, len(signature)) + signature
        listed = struct.pack(">HH", len(promise) + 2, len(promise)) + promise
        return bytes((0x04, len(listed))) + listed

    def _entry(
        self, certificate: x509.Certificate, digest: bytes, signature: bytes, times: Times
    ) -> dict[str, Any]:
        """The log's entry, the second of two, with its promise and the proof that it is in there."""
        pem = certificate.public_bytes(Encoding.PEM)
        spec = {
            "signature": {"content": _text(signature), "publicKey": {"content": _text(pem)}},
            "data": {"hash": {"algorithm": "sha256", "value": digest.hex()}},
        }
        body = _compact({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec})
        log, at = self._signatures, int(time.time() + times.logged)
        promised = {"body": _text(body), "integratedTime": at, "logID": log.id.hex(), "logIndex": 1}
        other = hashlib.sha256(b"\0another entry").digest()
        tree = hashlib.sha256(b"\1" + other + hashlib.sha256(b"\0" + body).digest()).digest()
        note = f"rekor.example.net - 1\n2\n{_text(tree)}\n"
        sealed = _text(log.id[:4] + log.key.sign(note.encode(), _ECDSA))
        return {
            "logIndex": "1",
            "logId": {"keyId": _text(log.id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.1"},
            "integratedTime": str(at),
            "inclusionPromise": {"signedEntryTimestamp": _text(log.key.sign(_compact(promised), _ECDSA))},
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": _text(tree),
                "treeSize": "2",
                "hashes": [_text(other)],
                "checkpoint": {"envelope": f"{note}\n\u2014 rekor.example.net {sealed}\n"},
            },
            "canonicalizedBody": _text(body),
        }


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _compact(document: dict[str, Any]) -> bytes:
    """As RFC 8785 has it, for what is in here."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
