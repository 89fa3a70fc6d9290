"""Signatures of Sigstore, by somebody who had no key: a bundle with a certificate, and its entry in a public log. Pure.

The certificate says who signed (an address of mail or of a workflow) and which service knew them, and holds for
minutes; the log's entry says that it was used within these. What a bundle claims is read here. Whether it is true is
for the library `sigstore`, in a process of its own (`agent.host.sigstore`), by the roots that the key file has. That is
done before anything is written, since a bundle has the digest of what was signed: that of the image alone is left to
be compared. Sources: sigstore's protobuf-specs (Bundle, TrustedRoot); Fulcio's list of OIDs.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from agent.formats.signatures.findings import (
    CLOCK_HINT,
    About,
    Finding,
    KeyFile,
    Refused,
    clock_fault,
    day_and_time,
    judged,
    same_bytes_fault,
)
from agent.text import printable

DIGEST = "sha256"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle"
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_OLD_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""The same, not in DER."""
_UTF8_STRING = 0x0C
_SHOWN = 200
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Trusted:
    """A key file: who may sign, and the roots that tell whether they did."""

    file: KeyFile
    identity: str
    issuer: str
    root: dict[str, Any]
    """Sigstore's trusted_root.json: authorities, logs, and when each was in use."""

    def __str__(self) -> str:
        return f"{printable(f'{self.identity} by {self.issuer}', _SHOWN)} ({self.file})"


@dataclass(frozen=True, slots=True)
class _Bundle:
    document: dict[str, Any]
    digest: bytes
    """Of what was signed."""
    certificate: x509.Certificate
    logged_at: float | None
    """Seconds since the epoch; None where a service for time stamps says it instead."""


class Sigstore:
    """One bundle, and who is trusted to have made it."""

    wanted: Sequence[str] = (DIGEST,)

    def __init__(self, bundle: _Bundle, trusted: Trusted | None, finding: Finding) -> None:
        self._bundle = bundle
        self._trusted = trusted
        self.findings: Sequence[Finding] = (finding,)

    @property
    def question(self) -> dict[str, Any] | None:
        """What `agent.host.sigstore` is asked; None where it is at fault already."""
        if self._trusted is None or self.findings[0].fault is not None:
            return None
        return {
            "bundle": self._bundle.document,
            "digest": self._bundle.digest.hex(),
            "root": self._trusted.root,
            "identity": self._trusted.identity,
            "issuer": self._trusted.issuer,
        }

    def answered(self, fault: str | None, *, is_root: bool) -> None:
        """Keep what the library found, None where all is well.

        Args:
            fault: in its words.
            is_root: whether its roots do not know whoever made the certificate.
        """
        if fault is not None:
            about: About = "key" if is_root else "signature"
            self.findings = (replace(self.findings[0], fault=printable(fault, _SHOWN), about=about),)

    def check(self, evidence: Mapping[str, bytes]) -> Sequence[Finding]:
        """The finding by the digest."""

        def judge(index: int) -> Finding:
            finding = self.findings[index]
            good = evidence[DIGEST] == self._bundle.digest
            return finding if good else replace(finding, fault=same_bytes_fault("its signer"))

        return judged(self.findings, judge)


def read_sigstore(data: bytes, files: Sequence[KeyFile], now: float) -> Sigstore:
    """Read a bundle.

    Args:
        data: the bundle.
        files: the key files.
        now: seconds since the epoch, by this machine's clock.

    Raises:
        Refused: it is no bundle, or one of the key files is none.
    """
    known = [key for file in files for key in read_keys(file)]
    bundle = _read_bundle(data)
    names, issuer = _names(bundle.certificate), _issuer(bundle.certificate)
    found = [each for each in known if each.identity in names and each.issuer == issuer]
    found.sort(key=lambda each: not each.file.allowed)
    trusted = found[0] if found else None
    finding = Finding(
        key=f"SHA256:{bundle.certificate.fingerprint(SHA256()).hex()}",
        algorithm=_algorithm(bundle.certificate),
        name=None if trusted is None else trusted.file.name,
        user=f"{', '.join(names[:_LISTED]) or 'nobody'} by {issuer or 'nobody'}",
        signed_at=bundle.logged_at,
    )
    return Sigstore(bundle, trusted, _judged(finding, bundle, trusted, known, now))


def _judged(
    finding: Finding, bundle: _Bundle, trusted: Trusted | None, known: Sequence[Trusted], now: float
) -> Finding:
    if trusted is None:
        listed = ", ".join(str(each) for each in known[:_LISTED]) or "none"
        unknown = f"whoever made it is not trusted here; trusted are {listed}"
        return replace(finding, fault=unknown, about="key")
    if not trusted.file.allowed:
        return replace(finding, fault=f"{trusted.file} names them, but the job names others", about="key")
    made = bundle.logged_at
    if made is None:
        return finding
    if (fault := clock_fault(made, now, "it")) is not None:
        return replace(finding, fault=fault, hint=CLOCK_HINT)
    begin = bundle.certificate.not_valid_before_utc.timestamp()
    end = bundle.certificate.not_valid_after_utc.timestamp()
    if not begin <= made <= end:
        outside = (
            f"the log has it from {day_and_time(made)}, when its certificate did not hold "
            f"({day_and_time(begin)} to {day_and_time(end)})"
        )
        return replace(finding, fault=outside)
    return finding


# -- key files ------------------------------------------------------------------------------------------------


def read_keys(file: KeyFile) -> list[Trusted]:
    """What a key file has: one `{"identity": ..., "issuer": ..., "trustedRoot": {...}}`.

    Raises:
        Refused: it is none; the text names the file.
    """
    try:
        return [_trusted(file)]
    except Refused as refusal:
        raise Refused(f"{file} cannot be used: {refusal}", about="key", hint=refusal.hint) from None


def _trusted(file: KeyFile) -> Trusted:
    document = _document(file.data)
    if "tlogs" in document or "certificateAuthorities" in document:
        raise Refused(
            "it is a trusted root alone, and names nobody who may sign",
            hint="Put it into the member trustedRoot, beside identity and issuer (docs/provenance.md).",
        )
    identity, issuer, root = (document.get(name) for name in ("identity", "issuer", "trustedRoot"))
    if not isinstance(identity, str) or not identity or not isinstance(issuer, str) or not issuer:
        raise Refused("it lacks identity or issuer: who may sign, and which service knows them")
    if not isinstance(root, dict) or not root.get("certificateAuthorities") or not root.get("tlogs"):
        raise Refused("its trustedRoot is not what Sigstore's trusted_root.json holds")
    return Trusted(file, identity, issuer, root)


# -- the bundle -----------------------------------------------------------------------------------------------


def _read_bundle(data: bytes) -> _Bundle:
    document = _document(data)
    if not str(document.get("mediaType", "")).startswith(_MEDIA_TYPE):
        raise Refused("it is no bundle of Sigstore (*.sigstore.json)")
    if "dsseEnvelope" in document:
        raise Refused("its bundle is of an attestation (DSSE), not of a file")
    material = _member(document, "verificationMaterial")
    if "publicKey" in material:
        raise Refused(
            "it was made with a key, and has no certificate", hint="Give its type as cosign, and the key."
        )
    digest = _member(_member(document, "messageSignature"), "messageDigest")
    if digest.get("algorithm") != "SHA2_256":
        raise Refused("it is not of a SHA-256")
    entries = material.get("tlogEntries")
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], dict):
        raise Refused("it has no entry of a transparency log")
    return _Bundle(document, _bytes(digest, "digest"), _certificate(material), _seconds(entries[0]))


def _document(data: bytes) -> dict[str, Any]:
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused("it is not JSON") from None
    if not isinstance(document, dict):
        raise Refused("it is no JSON object")
    return document


def _member(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    if not isinstance(found, dict):
        raise Refused(f"its bundle has no {name}")
    return found


def _bytes(document: Mapping[str, Any], name: str) -> bytes:
    found = document.get(name)
    try:
        return base64.b64decode(found if isinstance(found, str) else "", validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"its {name} is not base64") from None


def _seconds(entry: Mapping[str, Any]) -> float | None:
    """When the log took it; it counts only with the log's promise, which the library looks at."""
    found = entry.get("integratedTime")
    if (
        not isinstance(found, (str, int))
        or not str(found).isdecimal()
        or len(str(found)) > len("99999999999")
    ):
        return None
    return float(found) or None


def _certificate(material: Mapping[str, Any]) -> x509.Certificate:
    found = material.get("certificate")
    if found is None:
        chain = _member(material, "x509CertificateChain").get("certificates")
        found = chain[0] if isinstance(chain, list) and chain else None
    if not isinstance(found, dict):
        raise Refused("its bundle has no certificate")
    try:
        return x509.load_der_x509_certificate(_bytes(found, "rawBytes"))
    except ValueError:
        raise Refused("its certificate is damaged") from None


def _names(certificate: x509.Certificate) -> list[str]:
    """Whom it is for: addresses of mail, and URIs of workflows."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return []
    return [
        str(name.value)
        for name in names
        if isinstance(name, (x509.RFC822Name, x509.UniformResourceIdentifier))
    ]


def _issuer(certificate: x509.Certificate) -> str | None:
    """The service that knew them. The extension is a short UTF8String in DER, or in older ones the text alone."""
    for oid in (_ISSUER, _OLD_ISSUER):
        try:
            value = certificate.extensions.get_extension_for_oid(oid).value
        except (ValueError, x509.ExtensionNotFound):
            continue
        raw = value.value if isinstance(value, x509.UnrecognizedExtension) else b""
        if oid == _ISSUER:
            raw = raw[2:] if raw[:1] == bytes((_UTF8_STRING,)) and raw[1:2] == bytes((len(raw) - 2,)) else b""
        return raw.decode(errors="replace") or None
    return None


def _algorithm(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except ValueError:
        return "unknown"
    curve = f" {key.curve.name}" if isinstance(key, EllipticCurvePublicKey) else ""
    return f"{'ECDSA' if curve else type(key).__name__}{curve}, SHA256"
