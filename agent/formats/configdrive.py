"""Builds the files of a config-2 drive (OpenStack's config drive) as bytes.

Called by `agent.deploy.target`; `agent.host.drive` puts the files into a filesystem. The same content always gives the
same bytes.

Only `openstack/latest/` is filled. cloud-init prefers a dated directory if there is one; cloudbase-init, Ignition and
the smaller readers look at `latest` only. With one directory, all of them read the same.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from agent.errors import ConfigDriveCreate
from agent.units import MiB

# In lower case: half of the readers compare the label exactly.
LABEL = "config-2"
ROOT = "openstack/latest"
MAX_CONTENT = 16 * MiB
SEED_LENGTH = 512

# The name of the default zone in OpenStack; readers that derive mirror names from the zone know it.
AVAILABILITY_ZONE = "nova"

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, kw_only=True)
class DriveContent:
    """The content of the drive. Members that may be secret are left out of the `repr`."""

    hostname: str | None = None
    """If None, neither `hostname` nor `name` is written, and the image keeps its own host name."""
    ssh_keys: str | None = field(default=None, repr=False)
    """Public keys, one a line, with any line end; blank lines and comments are skipped."""
    user_data: bytes | None = field(default=None, repr=False)
    """Stored unchanged: no line end translated, nothing stripped, no base64 decoded. Empty gives an empty file."""
    vendor_data: Any | None = field(default=None, repr=False)
    """A JSON value: an object, a list, or a string that is itself cloud-config."""
    network_data: Any | None = field(default=None, repr=False)
    """The object of OpenStack's network_data.json."""
    metadata: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """The user's pairs for `meta`; None is written as an empty string, because readers with types expect strings."""
    instance_uuid: str
    """New for each deployment: cloud-init takes the same id for a reboot of the same instance."""
    random_seed: bytes = field(repr=False)
    """512 bytes from the system's random source."""


def build_tree(content: DriveContent) -> dict[str, bytes]:
    """The drive's files.

    Returns:
        The content of each file by its path (without a leading slash), in the order in which to write them.

    Raises:
        ConfigDriveCreate: the files have more than 16 MiB together, or a value cannot be written as JSON.
        ValueError: the random seed does not have 512 bytes, which is an error of the caller.
    """
    tree = {f"{ROOT}/meta_data.json": _json("metadata", _meta_data(content))}
    if content.user_data is not None:
        tree[f"{ROOT}/user_data"] = bytes(content.user_data)
    if content.vendor_data is not None:
        tree[f"{ROOT}/vendor_data.json"] = _json("vendorData", content.vendor_data)
    if content.network_data is not None:
        tree[f"{ROOT}/network_data.json"] = _json("networkData", content.network_data)
    _check_size(tree)
    return tree


def directories(tree: Mapping[str, bytes]) -> list[PurePosixPath]:
    """All directories of the files in `tree`, parents first, without the root."""
    found = {parent for path in tree for parent in PurePosixPath(path).parents if parent.name}
    return sorted(found, key=lambda directory: (len(directory.parts), directory))


def public_keys(text: str) -> list[str]:
    """The keys in a text of the form of `authorized_keys`, in its order, without blank and comment lines."""
    # Not str.splitlines, which also splits at characters that may be part of a key's comment.
    lines = (line.strip() for line in _LINE_END.split(text))
    return [line for line in lines if line and not line.startswith("#")]


def _meta_data(content: DriveContent) -> dict[str, Any]:
    if len(content.random_seed) != SEED_LENGTH:
        raise ValueError(f"the random seed has {len(content.random_seed)} bytes, expected {SEED_LENGTH}")
    document: dict[str, Any] = {
        "uuid": content.instance_uuid,
        "availability_zone": AVAILABILITY_ZONE,
        "launch_index": 0,
        "meta": {key: value or "" for key, value in content.metadata.items()},
        "random_seed": base64.b64encode(content.random_seed).decode("ascii"),
    }
    if content.hostname:
        document["hostname"] = content.hostname
        document["name"] = content.hostname
    # `public_keys` is a map, so each key needs a unique name; `keys` holds the same for newer readers.
    keys = {f"key-{number}": key for number, key in enumerate(public_keys(content.ssh_keys or ""), 1)}
    if keys:
        document["public_keys"] = keys
        document["keys"] = [{"name": name, "type": "ssh", "data": key} for name, key in keys.items()]
    return document


def _json(name: str, value: Any) -> bytes:
    # ASCII with escapes: some readers find values with grep, and a lone surrogate cannot be encoded in UTF-8.
    try:
        return json.dumps(value, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigDriveCreate(detail=f"{name} cannot be written as JSON: {error}") from error


def _check_size(tree: Mapping[str, bytes]) -> None:
    size = sum(len(data) for data in tree.values())
    if size > MAX_CONTENT:
        raise ConfigDriveCreate(
            detail=f"the config drive would hold {size} bytes, but at most {MAX_CONTENT} are allowed",
            hint="Let userData fetch the large parts from elsewhere.",
        )
