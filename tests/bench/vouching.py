"""What it costs to know more of an image: a signature of each type, and reading back.

    PYTHONPATH=. python tests/bench/vouching.py --size 1024 --rounds 3

`byoi write` from a local file onto a file of the same disk, with a sha256 each time, the commands of a round in turns.
Processor time and peak memory, children among them: those hardly depend on how busy the machine is, as the wall time
does. Signatures are made by the tools that people sign with.
"""

import argparse
import base64
import hashlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from images import build_image
from runner import ROOT, measured

from tests.kit.signing import Minisign, OpenSsl, Ssh, gnupg
from tests.kit.sigstore import Sigstore

MIB = 1 << 20
KINDS = ("none", "openpgp", "minisign", "ssh", "cosign", "sigstore", "read back")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="of the image, MiB (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="where image and disk are (default: the system's for temporary files)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="byoi-bench-", dir=options.dir) as work:
        image = Path(work, "image.raw")
        build_image(image, options.size * MIB)
        commands = dict(_commands(image, Path(work, "disk")))
        found: dict[str, list[Mapping[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind, command in commands.items():
                _, usage = measured(command, os.environ | {"PYTHONPATH": str(ROOT)})
                found[kind].append(usage)
    print(f"{os.cpu_count()} cores, {options.size} MiB, load {os.getloadavg()[0]:.1f}")
    print(f"{'':10} {'processor s':>12} {'least':>6} {'most':>6} {'wall s':>7} {'peak MiB':>9}")
    for kind, usages in found.items():
        spent = [usage["user"] + usage["system"] for usage in usages]
        wall = statistics.median(usage["wall"] for usage in usages)
        peak = max(usage["peak"] for usage in usages) / MIB
        middle = statistics.median(spent)
        print(f"{kind:10} {middle:12.2f} {min(spent):6.2f} {max(spent):6.2f} {wall:7.2f} {peak:9.0f}")


def _commands(image: Path, disk: Path) -> Iterator[tuple[str, list[object]]]:
    with image.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256")
    plain: list[object] = [
        *(sys.executable, "-m", "agent.cli", "write", "--url", image, "--quiet", "--json"),
        *(
            "--checksum",
            f"sha256:{sha256.hexdigest()}",
            "--disk",
            disk,
            "--size",
            image.stat().st_size + 64 * MIB,
        ),
    ]
    yield "none", plain
    for kind, (signature, key) in _signatures(image, sha256.digest()).items():
        files = image.with_name(f"{kind}.sig"), image.with_name(f"{kind}.key")
        for path, data in zip(files, (signature, key), strict=True):
            path.write_bytes(data)
        yield kind, [*plain, "--signature", f"{kind}:{files[0]}", "--trusted-key", files[1]]
    yield "read back", [*plain, "--verify", "readback"]


def _signatures(image: Path, digest: bytes) -> dict[str, tuple[bytes, bytes]]:
    """The signature and the public key of each type."""

    def by(make: Callable[..., Minisign | Ssh | OpenSsl]) -> tuple[bytes, bytes]:
        key = make(image.parent, make.__name__)
        return key.sign(image), key.public

    with gnupg() as keys:
        keys.make("vendor", "rsa3072")
        pgp = keys.gpg("--local-user", "vendor@example.net", "--output", "-", "--detach-sign", image)
        openpgp = pgp, keys.public("vendor")
    plain, key = by(OpenSsl)
    sigstore = Sigstore()
    return {
        "openpgp": openpgp,
        "minisign": by(Minisign),
        "ssh": by(Ssh),
        "cosign": (base64.b64encode(plain), key),
        "sigstore": (json.dumps(sigstore.sign_digest(digest)).encode(), sigstore.trusting()),
    }


if __name__ == "__main__":
    main()
