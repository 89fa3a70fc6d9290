"""The member `signature` of a job: what is signed, where the signature is, and whose keys count. Pure.

Whether a signature and a key are what they have to be is for the preflight stage, which has all of them together.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from agent.model.job_text import shortened
from agent.model.object_reader import ObjectReader
from agent.model.url import check_web_url, redact_url
from agent.units import KiB, MiB

SIGNATURE_TYPES = ("openpgp", "minisign", "ssh", "cosign", "sigstore")
IMAGE, CHECKSUM = "image", "checkSum"
OVER = (IMAGE, CHECKSUM)
"""What a signature can be of: the file behind the URL as it is downloaded, or the checksum file."""
IN_ITS_FILE = ("openpgp", "minisign")
"""Types whose signature can stand in the checksum file itself: clear-signed, or as `signify -e` puts it in front."""
IN_REGISTRY = ("cosign",)
"""Types whose signature of an image can be in the registry that has the image."""
WEAK_DIGESTS = ("md5", "sha1")
"""Two files with one digest can be made: a list of these says little about an image, whoever has signed it."""
MAX_SIGNATURE_BYTES = 256 * KiB
MAX_PUBLIC_KEY_BYTES = MiB
MAX_KEYS = 16
KEY_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class Signature:
    """Who has to vouch for the image. Without `keys` and `public_key` any of the operator's keys of the type does."""

    type: str
    over: str = IMAGE
    url: str | None = field(default=None, repr=False)
    data: str | None = field(default=None, repr=False)
    """The signature itself: as text, or base64 of it. Without either it is in the checksum file, or the registry."""
    keys: tuple[str, ...] = ()
    """Names of keys that the operator holds."""
    public_key: str | None = field(default=None, repr=False)
    """A key that the job brings, instead of the operator's: as text, or base64 of it."""

    @property
    def is_in_registry(self) -> bool:
        """Whether it is to be found beside the image, in its registry."""
        return self.over == IMAGE and self.url is None and self.data is None

    def redacted(self) -> dict[str, Any]:
        """The posted member without secrets of its URL; long texts are cut."""
        document = {
            "type": self.type,
            "over": self.over,
            "url": None if self.url is None else redact_url(self.url),
            "data": None if self.data is None else shortened(self.data, _SHOWN),
            "keys": list(self.keys) or None,
            "publicKey": None if self.public_key is None else shortened(self.public_key, _SHOWN),
        }
        return {key: value for key, value in document.items() if value is not None}


def read_signature(reader: ObjectReader, listed: str | None, *, in_registry: bool = False) -> Signature:
    """Read the member; faults are kept in the reader.

    Args:
        reader: of the member.
        listed: the checkSumType where checkSum is the URL of a checksum file, else None.
        in_registry: whether the image is in a registry, which may have its signatures too.
    """
    kind = reader.text("type", required=True, check=lambda text: _one_of(text, SIGNATURE_TYPES))
    over = reader.text("over", check=lambda text: _one_of(text, OVER)) or IMAGE
    signature = Signature(
        type=kind or "",
        over=over,
        url=reader.text("url", check=check_web_url),
        data=reader.text("data", limit=MAX_SIGNATURE_BYTES),
        keys=reader.texts("keys", MAX_KEYS, _name_fault),
        public_key=reader.text("publicKey", limit=MAX_PUBLIC_KEY_BYTES),
    )
    if reader.has("url") and reader.has("data"):
        reader.fault("data", "stands beside url; give one of them")
    elif not reader.has("url") and not reader.has("data"):
        elsewhere = kind in IN_ITS_FILE if over == CHECKSUM else (in_registry and kind in IN_REGISTRY)
        if not elsewhere:
            reader.fault("url", "is required, or data: the signature is nowhere else")
    if over == CHECKSUM and listed is None:
        reader.fault("over", "is checkSum, but the job's checkSum is not the URL of a checksum file")
    elif over == CHECKSUM and listed in WEAK_DIGESTS:
        reader.fault(
            "over",
            f"is checkSum, and whoever signs a list of {listed} vouches for no image: use another list",
        )
    if signature.keys and reader.has("publicKey"):
        reader.fault("publicKey", "stands beside keys; give one of them")
    reader.refuse_unknown()
    return signature


def _one_of(text: str, words: tuple[str, ...]) -> str | None:
    return None if text in words else f"must be one of {', '.join(words)}"


def _name_fault(text: str) -> str | None:
    return None if KEY_NAME.fullmatch(text) else "is not the name of a key: letters, digits, dots, hyphens"
