"""The tree of a config-2 drive: which file holds what, as bytes.

Owns the documents under `openstack/latest/`. Called by the stage that writes the config drive; which
filesystem carries the tree is the business of `agent.host.drive`. Pure: the same content gives the same
bytes. On failure nothing exists.

Only `latest` is filled. cloud-init prefers a dated directory where there is one, cloudbase-init, Ignition and
the smaller readers look at `latest` alone: one directory serves them all, and none can read something that
the others do not.
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

# In this letter case: half of the readers look for nothing else.
LABEL = "config-2"
ROOT = "openstack/latest"
MAX_CONTENT = 16 * MiB
SEED_LENGTH = 512

# A single-zone OpenStack calls its zone so; readers that compose mirror names from the zone know it.
AVAILABILITY_ZONE = "nova"

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, kw_only=True)
class DriveContent:
    """What the drive shall say. What may be secret is left out of the representation."""

    hostname: str | None = None
    """Absent: neither `hostname` nor `name` is written, and the image keeps the name it has."""
    ssh_keys: str | None = field(default=None, repr=False)
    """Public keys, one a line, any line end; blank lines and comments are skipped."""
    user_data: bytes | None = field(default=None, repr=False)
    """Stored as it is: no line end translated, nothing stripped, no base64 decoded. Empty is not absent."""
    vendor_data: Any | None = field(default=None, repr=False)
    """A JSON value: an object, a list, or a string that is itself cloud-config."""
    network_data: Any | None = field(default=None, repr=False)
    """OpenStack's network_data.json as an object."""
    metadata: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """The user's own pairs; a None is written as the empty string: typed readers want strings."""
    instance_uuid: str
    """Fresh for each deployment: cloud-init takes a known one for a mere reboot."""
    random_seed: bytes = field(repr=False)
    """512 bytes from the system's random source."""


def build_tree(content: DriveContent) -> dict[str, bytes]:
    """Lay out the drive.

    Returns:
        The content of each file by its path, without a leading slash, in the order in which they are to be
        written.

    Raises:
        ConfigDriveCreate: the content is larger than 16 MiB, or a value cannot be written as JSON.
        ValueError: the random seed is not of 512 bytes, a fault of the caller.
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
    """All directories above the files of a tree, parents first, without the root."""
    found = {parent for path in tree for parent in PurePosixPath(path).parents if parent.name}
    return sorted(found, key=lambda directory: (len(directory.parts), directory))


def public_keys(text: str) -> list[str]:
    """The keys of a text such as `authorized_keys`, in its order, without blank and comment lines."""
    # str.splitlines would also split at characters that may stand in a key's comment.
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
    # public_keys is a map, so each key needs a name of its own; `keys` says the same to newer readers.
    keys = {f"key-{number}": key for number, key in enumerate(public_keys(content.ssh_keys or ""), 1)}
    if keys:
        document["public_keys"] = keys
        document["keys"] = [{"name": name, "type": "ssh", "data": key} for name, key in keys.items()]
    return document


def _json(name: str, value: Any) -> bytes:
    # ASCII with escapes: some readers pick values out with grep, and a lone surrogate has no UTF-8.
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
