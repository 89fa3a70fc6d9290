"""Reads the manifests and indexes of OCI registries, strictly and within bounds. Pure.

Whoever fetches them (`agent.transfer.http.registry`) compares their bytes with the digest by which they were asked for;
here they are only read. What a document is shows in its members and never in a header or its own word: one that has
both layers and manifests is refused, since two readers would take it for two things (CVE-2021-41190).
Sources: the OCI image specification 1.1, "Image Manifest" and "Image Index"; Docker's manifest version 2, schema 2.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.errors import Blame
from agent.model.job_text import TextRefused, bounded_text
from agent.text import printable
from agent.units import MiB

MAX_MANIFEST_BYTES = 4 * MiB
"""What every registry has to take (distribution-spec, "Pushing Manifests"), and none has to exceed."""
MAX_ENTRIES = 1024
"""Of an index."""
MAX_LAYERS = 256
MAX_ANNOTATIONS = 256
ACCEPT = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"
)
"""The header by which a registry is told what is understood."""
TITLE = "org.opencontainers.image.title"
DISK_TYPE = "disktype"

_DIGEST = re.compile("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_MAX_SIZE = 2**63 - 1
_MAX_TEXT = 4096
_SHOWN = 100


class ManifestRefused(Exception):
    """A document of a registry that cannot be used. The text says why and follows on a colon."""

    def __init__(self, reason: str, *, detail: str = "", hint: str = "", blame: Blame = Blame.IMAGE) -> None:
        self.detail = detail
        self.hint = hint
        self.blame = blame
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a document says of another one, or of a blob."""

    digest: str
    """Algorithm (sha256 or sha512), colon, digits."""
    size: int
    """In bytes."""
    media_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    architecture: str | None = None
    """Of an entry that is for one kind of machine, as its maker calls it."""
    artifact_type: str = ""

    @property
    def algorithm(self) -> str:
        """That of the digest, as hashlib names it."""
        return self.digest.partition(":")[0]

    def __str__(self) -> str:
        """For people: the name that its maker gave it, where there is one, and its digest."""
        title = self.annotations.get(TITLE)
        short = self.digest[:19] + "..."
        return f"{printable(title, _SHOWN)!r} ({short})" if title else short


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, or of more such lists."""

    entries: Sequence[Descriptor]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an image or an artifact consists of."""

    layers: Sequence[Descriptor]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference has led to."""

    named: str
    """The digest of the document that it names: a manifest, or an index."""
    manifest: str
    """That of the manifest."""
    layer: Descriptor
    """The file that is deployed."""

    def document(self) -> dict[str, Any]:
        """As the status has it."""
        return {
            "index": None if self.named == self.manifest else self.named,
            "manifest": self.manifest,
            "layer": self.layer.digest,
        }


def has_digest(data: bytes, digest: str) -> bool:
    """Whether these bytes have the digest."""
    algorithm, _, digits = digest.partition(":")
    return hmac.compare_digest(hashlib.new(algorithm, data).hexdigest(), digits)


def digest_of(data: bytes) -> str:
    """The digest by which a registry knows a document that was asked for by its tag."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read_manifest(data: bytes) -> Index | Manifest:
    """Read a manifest or an index of at most `MAX_MANIFEST_BYTES`.

    Raises:
        ManifestRefused: it is neither, contradicts itself, or passes a bound.
    """
    document = read_object(data)
    version = document.get("schemaVersion")
    if version != 2 or isinstance(version, bool):
        what = "1, which no registry should give any more" if version == 1 else "no 2"
        raise ManifestRefused(f"its schemaVersion is {what}")
    found = [key for key in ("manifests", "layers", "fsLayers", "blobs") if key in document]
    match found:
        case ["manifests"]:
            return Index(_descriptors(document["manifests"], "manifests", MAX_ENTRIES))
        case ["layers"]:
            return Manifest(_descriptors(document["layers"], "layers", MAX_LAYERS))
        case _:
            listed = " and ".join(found) or "neither layers nor manifests"
            raise ManifestRefused(f"it is no manifest and no index: it has {listed}")


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object of a registry's.

    Raises:
        ManifestRefused: it is none, has a member twice, or passes a bound.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestRefused(f"it has {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are read")
    try:
        document = json.loads(bounded_text(data), object_pairs_hook=_unique)
    except TextRefused as refusal:
        raise ManifestRefused(f"it {refusal}") from None
    except ValueError:
        raise ManifestRefused("it is not JSON, as a page of a proxy or a login is not") from None
    if not isinstance(document, dict):
        raise ManifestRefused("it is no JSON object")
    return document


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise TextRefused("has a member twice")
    return result


def _descriptors(value: object, key: str, most: int) -> tuple[Descriptor, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise ManifestRefused(f"its {key} are no list of at most {most}")
    return tuple(_descriptor(item, f"{key}[{index}]") for index, item in enumerate(value))


def _descriptor(item: object, where: str) -> Descriptor:
    if not isinstance(item, dict):
        raise ManifestRefused(f"its {where} is no object")
    digest, size = item.get("digest"), item.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ManifestRefused(f"its {where} has no digest of sha256 or sha512")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _MAX_SIZE:
        raise ManifestRefused(f"its {where} has no size in bytes")
    platform = item.get("platform")
    if platform is not None and not isinstance(platform, dict):
        raise ManifestRefused(f"its {where} has a platform that is no object")
    return Descriptor(
        digest=digest,
        size=size,
        media_type=_text(item.get("mediaType"), f"{where}.mediaType") or "",
        annotations=_annotations(item.get("annotations"), where),
        architecture=_text((platform or {}).get("architecture"), f"{where}.platform.architecture"),
        artifact_type=_text(item.get("artifactType"), f"{where}.artifactType") or "",
    )


def _annotations(value: object, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_ANNOTATIONS:
        raise ManifestRefused(f"its {where} has annotations that are no object of at most {MAX_ANNOTATIONS}")
    if not all(isinstance(text, str) for text in value.values()):
        raise ManifestRefused(f"its {where} has an annotation that is no text")
    return value


def _text(value: object, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ManifestRefused(f"its {where} is no text of at most {_MAX_TEXT} characters")
    return value
