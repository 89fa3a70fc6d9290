"""An image in Debian's docker-registry on the host, signed there with a key; and the receipt of its deployment.

Over TLS, by the certificate of the lab's site, which the rescue trusts once it is told so. All of it blocks.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.commands import ROOT, run
from tests.kit.registry import Registry, docker_registry, manifest, simple_signature
from tests.kit.signing import OpenSsl
from tests.lab.images import CACHE, LabImage
from tests.lab.site import ETC, Site

REPOSITORY = "lab/probe"
WORDS = f" byoi.download.ca_file={ETC}/ca.crt"
"""For the kernel of a rescue whose image comes from here."""


def credentials() -> dict[str, str]:
    """The secret that such a rescue is given: the key that signs its receipt."""
    return {"receipt.key": receipt_key().read_text()}


def receipt_key() -> Path:
    """The private key; the public one is beside it (`.pub`)."""
    path = CACHE / "receipt.key"
    if not path.exists():
        run("openssl", "genpkey", "-algorithm", "ed25519", "-out", path)
        run("openssl", "pkey", "-in", path, "-pubout", "-out", path.with_suffix(".pub"))
    return path


@dataclass(frozen=True)
class Signed:
    """A registry that runs, and the key that signs its image."""

    registry: Registry
    key: OpenSsl
    scratch: Path

    def job(self, image: LabImage, drive: dict[str, Any]) -> dict[str, Any]:
        """Push an image and sign it; gives the job for it, which names no checksum."""
        digest = self.registry.push(f"{REPOSITORY}:1", image.path)
        layer, payload = simple_signature(digest, self._sign)
        self.registry.put(f"{REPOSITORY}:{digest.replace(':', '-')}.sig", manifest(layer), payload)
        return {
            "URL": self.registry.url(f"{REPOSITORY}:1"),
            "signature": {"type": "cosign", "publicKey": self.key.public.decode()},
            "verify": "readback",
            "configdrive": {"enable": True} | drive,
        }

    def _sign(self, message: bytes) -> bytes:
        path = self.scratch / "message"
        path.write_bytes(message)
        return self.key.sign(path)


@contextmanager
def signed_registry(directory: Path, site: Site) -> Iterator[Signed]:
    """A registry while the block runs; the directory is an empty one for all that it keeps."""
    with docker_registry(directory, None, served_by=(site.ca, site.directory / "control.pem")) as registry:
        yield Signed(registry, OpenSsl(directory, "cosign"), directory)


def assert_proven(status: dict[str, Any], scratch: Path) -> None:
    """The signature counted, everything was read back, and the receipt that came with the last status says so; its own
    signature is checked by a tool that knows nothing of ours.
    """
    kept = scratch / "receipt.json"
    kept.write_text(json.dumps(status["receipt"]))
    command = [sys.executable, ROOT / "tests/kit/dsse_check.py", kept, receipt_key().with_suffix(".pub")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stderr
    statement = json.loads(checked.stdout)
    told = statement["predicate"]
    assert told["image"]["url"].startswith("oci://")
    assert [f"{kind}:{digest}" for kind, digest in statement["subject"][0]["digest"].items()] == [
        told["image"]["registry"]["layer"]
    ]
    assert (told["outcome"]["status"], told["outcome"]["diskState"]) == ("done", "committed")
    assert told["readBack"] == status["readBack"] == "readback"
    assert [signed["accepted"] for signed in told["signature"]["signatures"]] == [True]
