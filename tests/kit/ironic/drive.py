"""Config drives as Nova and metal3 make them, and give them to Ironic."""

import base64
import gzip
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.kit.commands import run


def drive_iso(user_data: bytes = b"#!/bin/sh\n", more: Mapping[str, bytes] | None = None) -> bytes:
    """An ISO image with the label `config-2`, its files those of OpenStack; `more` are further ones by their names."""
    files = {
        "openstack/latest/meta_data.json": json.dumps({"uuid": "of-a-trial", "hostname": "web1"}).encode(),
        "openstack/latest/user_data": user_data,
        **(more or {}),
    }
    with tempfile.TemporaryDirectory() as directory:
        tree, iso = Path(directory, "tree"), Path(directory, "drive.iso")
        for name, data in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        run("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-V", "config-2", "-o", iso, tree)
        return iso.read_bytes()


def packed(iso: bytes) -> str:
    """As it stands in a call of Ironic: base64 of gzip."""
    return base64.b64encode(gzip.compress(iso, 1)).decode()
