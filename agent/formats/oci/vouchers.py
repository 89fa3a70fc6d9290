"""What cosign puts beside an image in a registry: which bytes were signed, and which image they name. Pure.

There are two forms. Up to version 2, and where it is told so, cosign signs a small JSON document with the digest of the
image ("simple signing"), and keeps the signature in an annotation of the layer. From version 3 on it signs an in-toto
statement in a DSSE envelope, within a bundle. Whether a signature is good is for `signatures.cosign` beside it to say.
Sources: cosign's SIGNATURE_SPEC and BUNDLE_SPEC; the in-toto Attestation Framework, Statement v1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.formats.dsse import EnvelopeFault, envelope_of, pre_authentication
from agent.formats.oci.manifest import Descriptor, Index, ManifestRefused, read_object
from agent.units import KiB

MAX_VOUCHERS = 16
MAX_VOUCHER_BYTES = 256 * KiB
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ARTIFACT_TYPES = (BUNDLE, "application/vnd.dev.cosign.artifact.sig.v1+json")
"""The kinds of artifact by which cosign's signatures refer to an image."""

_SIGNATURE = "dev.cosignproject.cosign/signature"
_SIMPLE_TYPE = "cosign container image signature"
_STATEMENT = "application/vnd.in-toto+json"
_PREDICATE = "https://sigstore.dev/cosign/sign/v1"


@dataclass(frozen=True, slots=True)
class Voucher:
    """One signature."""

    message: bytes
    """What was signed."""
    signature: bytes
    """As `read_cosign` reads it."""
    digests: frozenset[str]
    """The manifests, or the indexes, that the message names."""


@dataclass(frozen=True, slots=True)
class Vouchers:
    """All that a registry has of one image."""

    found: tuple[Voucher, ...] = ()
    faults: tuple[str, ...] = ()
    """What was there and cannot be read, in words."""


def signature_tag(digest: str) -> str:
    """The tag under which cosign keeps the signatures of a manifest."""
    return f"{referrers_tag(digest)}.sig"


def referrers_tag(digest: str) -> str:
    """The tag of the list of referrers, in a registry without the API for that (distribution-spec, "Referrers Tag
    Schema").
    """
    return digest.replace(":", "-")


def signature_entries(index: Index) -> Iterator[Descriptor]:
    """Those of an image's referrers that are signatures of cosign."""
    return (entry for entry in index.entries if entry.artifact_type in ARTIFACT_TYPES)


def may_be_voucher(layer: Descriptor) -> bool:
    """Whether a layer of an artifact says that it is a signature."""
    return layer.media_type == BUNDLE or (layer.media_type == SIMPLE and _SIGNATURE in layer.annotations)


def read_voucher(layer: Descriptor, data: bytes) -> Voucher | None:
    """Read such a layer; None where it is something else than a signature of an image.

    Raises:
        ManifestRefused: it cannot be read.
    """
    if layer.media_type == BUNDLE:
        return _read_bundle(data)
    critical = read_object(data).get("critical")
    image = critical.get("image") if isinstance(critical, dict) else None
    digest = image.get("docker-manifest-digest") if isinstance(image, dict) else None
    if not isinstance(critical, dict) or critical.get("type") != _SIMPLE_TYPE or not isinstance(digest, str):
        raise ManifestRefused("its payload names no image")
    return Voucher(data, _ascii(layer.annotations[_SIGNATURE]), frozenset((digest,)))


def _read_bundle(data: bytes) -> Voucher | None:
    document = read_object(data)
    if "dsseEnvelope" not in document:
        raise ManifestRefused("its bundle has no envelope with a statement")
    try:
        envelope = envelope_of(document["dsseEnvelope"])
    except EnvelopeFault as fault:
        raise ManifestRefused(f"its envelope cannot be read: {fault}") from None
    statement = read_object(envelope.payload)
    if envelope.payload_type != _STATEMENT or statement.get("predicateType") != _PREDICATE:
        return None  # an attestation of something else: where it was built, what is in it
    if len(envelope.signatures) != 1:
        raise ManifestRefused("its envelope has not one signature")
    message = pre_authentication(envelope.payload_type, envelope.payload)
    return Voucher(message, envelope.signatures[0][1], frozenset(_subjects(statement)))


def _subjects(statement: Mapping[str, Any]) -> Iterator[str]:
    subjects = statement.get("subject")
    for subject in subjects if isinstance(subjects, list) else ():
        digests = subject.get("digest") if isinstance(subject, dict) else None
        for algorithm, digits in digests.items() if isinstance(digests, dict) else ():
            if isinstance(digits, str):
                yield f"{algorithm}:{digits}"


def _ascii(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise ManifestRefused("its signature is no base64") from None
