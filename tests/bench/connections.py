"""One connection against several: `byoi write` and aria2c over a long way, from a server that shapes, over loopback.

    PYTHONPATH=. python tests/bench/connections.py --size 2G --rounds 3

A round of a link measures, one after the other, `byoi write` as it is, `byoi write --connections 1`, `aria2c -x8` and
curl, onto tmpfs. Wall time of the whole command; for ours also that of the write stage. What counts are ratios of one
round. The links are those of `link.py`.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from images import build_image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MIB = 1 << 20
LINKS = {
    "50 ms, windows of 2.75 MB": ("--rtt", "50"),
    "52 MB/s a connection": ("--pace", "52"),
    "loopback": (),
}
SEVERAL, SINGLE, ARIA, CURL = "byoi write", "byoi write --connections 1", "aria2c -x8", "curl"


def main() -> None:
    """Measure and print."""
    options = _options()
    aria = shutil.which("aria2c")
    if aria is None:
        sys.exit("aria2c is what this compares with: install aria2")
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="byoi-bench-", dir=shm) as work:
        path = Path(work, "image.raw")
        size = options.size * MIB
        build_image(path, size)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        target = Path(work, "target")
        found: dict[str, dict[str, list[float]]] = {}
        for link, arguments in LINKS.items():
            if options.only and options.only not in link:
                continue
            with _serving(path.parent, arguments) as url:
                for number in range(options.rounds):
                    for name, seconds in _round(f"{url}/image.raw", sha256, size, target):
                        found.setdefault(link, {}).setdefault(name, []).append(seconds)
                        print(f"{link}, round {number + 1}: {name}: {seconds:.2f} s", file=sys.stderr)
    about = {"cores": os.cpu_count(), "MiB": options.size, "load": os.getloadavg()[0]}
    print(json.dumps({"about": about, "seconds": found}) if options.json else _table(found, size, about))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="of the image, MiB (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="links whose name has this in it")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@contextmanager
def _serving(root: Path, arguments: tuple[str, ...]) -> Iterator[str]:
    command = [sys.executable, HERE / "link.py", root, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        finally:
            child.terminate()


def _round(url: str, sha256: str, size: int, target: Path) -> Iterator[tuple[str, float]]:
    for name, options in ((SEVERAL, ()), (SINGLE, ("--connections", "1"))):
        command = [
            *(sys.executable, "-m", "agent.cli", "write", "--url", url, "--type", "raw", "--quiet", "--json"),
            *("--checksum", f"sha256:{sha256}", "--disk", target, "--size", size + 64 * MIB, *options),
        ]
        seconds, output = _run(command)
        target.unlink()
        yield name, seconds
        stages = {stage["name"]: stage["seconds"] for stage in json.loads(output)["stages"]}
        yield f"{name}, write stage", stages["write"]
    aria = [
        "aria2c",
        "-q",
        "-x8",
        "-s8",
        "-k1M",
        "--file-allocation=none",
        "-d",
        target.parent,
        "-o",
        target.name,
        url,
    ]
    for name, command in ((ARIA, aria), (CURL, ["curl", "-sf", "-o", target, url])):
        seconds, _ = _run(command)
        target.unlink()
        yield name, seconds


def _run(command: list[object]) -> tuple[float, str]:
    began = time.monotonic()
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed with {done.returncode}:\n{done.stdout}")
    return time.monotonic() - began, done.stdout


def _table(found: dict[str, dict[str, list[float]]], size: int, about: dict[str, object]) -> str:
    lines = [str(about), f"{'':30} {'':36} {'s':>6} {'least':>6} {'most':>6} {'MB/s':>6} {'of aria2c':>9}"]
    for link, rows in found.items():
        for name, values in rows.items():
            against = statistics.median(aria / own for aria, own in zip(rows[ARIA], values, strict=True))
            middle = statistics.median(values)
            lines.append(
                f"{link:30} {name:36} {middle:6.2f} {min(values):6.2f} {max(values):6.2f} "
                f"{size / middle / 1e6:6.0f} {against:9.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
