"""A qcow2 in fragments onto a block device: `byoi write` against `qemu-img convert -n -t none -W`, in turns.

    PYTHONPATH=. python tests/bench/fragments.py [--size 800M] [--bits 12 --bits 16] [--rounds 3] [--dir /mnt/disk]

Each cluster (1 << bits bytes) is a run of its own, at a random place. The image is a local file on tmpfs, which both
read; the target is a loop device with direct I/O over a file in --dir (tests/bench/formats.py). Only we hash.
Printed are microseconds a cluster, of its write stage with the flush, and of `qemu-img` with `sync`.
"""

import argparse
import hashlib
import os
import shlex
import statistics
import tempfile
from pathlib import Path

from formats import EXTRA, TUNED, byoi, command, target_in
from image import build_image
from raw_over_http import _size

from tests.kit.fragments import fragment


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=_size, default=800 << 20, help="of the disk (default: 800M)")
    parser.add_argument("--bits", type=int, action="append", help="of a cluster (default: 12 and 16)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--dir", type=Path, default=Path("/dev/shm"), help="where the target is made (default: tmpfs)"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="byoi-bench-", dir="/dev/shm") as work,
        tempfile.TemporaryDirectory(prefix="byoi-bench-", dir=options.dir) as place,
        target_in(Path(place), options.size + EXTRA, device=True) as target,
    ):
        raw, path = Path(work, "raw"), Path(work, "image.qcow2")
        build_image(raw, options.size)
        for bits in options.bits or (12, 16):
            clusters = fragment(raw, path, bits)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            convert = shlex.join(map(str, [*target.convert("-f", "qcow2", *TUNED), path, target.path]))
            ours, theirs = [], []
            for _ in range(options.rounds):
                theirs.append(command("sh", "-c", f'{convert} && sync "$1"', "sh", target.path))
                ours.append(byoi("qcow2", path.as_uri(), digest, target))
            print(f"{clusters} clusters of {1 << bits} bytes, load {os.getloadavg()[0]:.0f}")
            for name, found in (("byoi write", ours), ("qemu-img", theirs)):
                parts = sorted(sample["part"] / clusters * 1e6 for sample in found)
                cpu = statistics.median(sample["cpu"] for sample in found) / clusters * 1e6
                print(f"  {name:12} us a cluster: min {parts[0]:.1f}, median {statistics.median(parts):.1f}, "
                      f"max {parts[-1]:.1f}; processor time {cpu:.1f}")  # fmt: skip
            ratios = sorted(one["part"] / other["part"] for one, other in zip(ours, theirs, strict=True))
            print(f"  byoi write / qemu-img, in each round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


if __name__ == "__main__":
    main()
