"""References to images in OCI registries, and the credentials for one. Pure.

`oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:HEX]`, asked for by https; `oci+http://` is the same by plain http. Which of
the two is said by the URL alone: no registry is tried in the clear because it does not speak TLS. The grammar is that
of the OCI distribution specification 1.1, "Pulling manifests".
"""

import binascii
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from agent.model.object_reader import ObjectReader
from agent.text import HIDDEN

CARRIERS = {"oci": "https", "oci+http": "http"}
"""By which scheme the registry behind each of ours is asked."""
DIGEST = re.compile("sha256:[0-9a-f]{64}")

_PART = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_NAME = 255
"""Characters of host and repository together; registries refuse longer ones."""
_MAX_CREDENTIAL = 16 * 1024
_HOW = "oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:HEX"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry."""

    base: str
    """The registry: scheme and authority of the URL to ask."""
    repository: str
    tag: str | None
    digest: str | None
    """`sha256:` and 64 digits: of the manifest or the index. It goes before the tag."""

    @property
    def wanted(self) -> str:
        """What the registry is asked for: the digest, or else the tag."""
        return self.digest or self.tag or ""

    def manifest_url(self, wanted: str) -> str:
        """Where the manifest or index of that tag or digest is."""
        return f"{self.base}/v2/{self.repository}/manifests/{wanted}"

    def blob_url(self, digest: str) -> str:
        """Where a blob is."""
        return f"{self.base}/v2/{self.repository}/blobs/{digest}"

    def referrers_url(self, digest: str, kind: str) -> str:
        """Where the list is of what refers to a manifest, and is an artifact of this type."""
        return f"{self.base}/v2/{self.repository}/referrers/{digest}?artifactType={quote(kind, safe='')}"


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Whom the registry shall take us for."""

    username: str = field(repr=False)
    password: str = field(repr=False)
    posted_as: str = "password"
    """How the job has it: `password`, or `auth` for both in one text."""

    def redacted(self) -> dict[str, Any]:
        """The posted member, its secrets blanked."""
        if self.posted_as == "auth":
            return {"auth": HIDDEN}
        return {"username": HIDDEN, "password": HIDDEN}


def is_reference(url: str) -> bool:
    """Whether a URL that passed `check_url` is of an image in a registry."""
    return urlsplit(url).scheme in CARRIERS


def check_reference(parts: SplitResult) -> str | None:
    """What is wrong with a URL of one of our schemes, whose host and port can be parsed; None where nothing is."""
    if "@" in parts.netloc:
        return "the URL of a registry holds no user name and no password: give registryAuth"
    if parts.query or parts.fragment:
        return f"the URL of a registry has neither query nor fragment: write {_HOW}"
    name, tag, digest = _split(parts.path)
    if not _NAME.fullmatch(name) or len(parts.netloc) + len(name) > _MAX_NAME:
        return f"the URL names no repository (small letters, digits and . _ - between slashes): write {_HOW}"
    if digest is not None and not DIGEST.fullmatch(digest):
        return f"the digest in the URL is not sha256: and 64 small hexadecimal digits: write {_HOW}"
    if tag is not None and not _TAG.fullmatch(tag):
        return f"the tag in the URL is none: write {_HOW}"
    if tag is None and digest is None:
        return f"the URL names neither a tag nor a digest (:latest, where that is meant): write {_HOW}"
    return None


def read_reference(url: str) -> Reference:
    """The reference in a URL that passed `check_url`."""
    parts = urlsplit(url)
    name, tag, digest = _split(parts.path)
    return Reference(f"{CARRIERS[parts.scheme]}://{parts.netloc}", name, tag, digest)


def _split(path: str) -> tuple[str, str | None, str | None]:
    """Repository, tag and digest."""
    rest, at, digest = path.removeprefix("/").partition("@")
    name, colon, tag = rest.partition(":")
    return name, tag if colon else None, digest if at else None


def read_registry_auth(reader: ObjectReader) -> RegistryAuth | None:
    """Read the member `registryAuth`; faults are kept in the reader, and none has a value of it.

    Args:
        reader: of the member, which is there.
    """
    user = reader.text("username", limit=_MAX_CREDENTIAL)
    password = reader.text("password", limit=_MAX_CREDENTIAL)
    packed = reader.text("auth", limit=_MAX_CREDENTIAL)
    both, one = reader.has("username") and reader.has("password"), reader.has("auth")
    if both == one or (one and (reader.has("username") or reader.has("password"))):
        reader.fault("auth", "give username and password, or auth (base64 of both with a colon between)")
        return None
    reader.refuse_unknown()
    how = "auth" if one else "password"
    if packed is not None:
        user, password = _unpacked(packed)
        if user is None:
            reader.fault("auth", "is not base64 of a user name, a colon and a password")
    if user is None or password is None:
        return None
    for text, key in ((user, "username"), (password, "password")):
        if any(ord(character) < 32 or ord(character) == 127 for character in text):
            reader.fault("auth" if one else key, "holds a control character")
    if ":" in user:
        reader.fault("username", "holds a colon, which no user name has here (RFC 7617)")
    return RegistryAuth(user, password, how)


def _unpacked(auth: str) -> tuple[str, str] | tuple[None, None]:
    try:
        text = binascii.a2b_base64("".join(auth.split()), strict_mode=True).decode()
    except ValueError:
        return None, None
    user, colon, password = text.partition(":")
    # Docker pads what it packs with NULs.
    return (user, password.rstrip("\0")) if colon and user else (None, None)
