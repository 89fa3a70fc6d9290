"""Compressed raw images over HTTP: `byoi write` against `curl | TOOL -dc >/dev/null`, and on all cores against one.

    PYTHONPATH=. python tests/bench/compressed.py IMAGE.raw [--rounds 3] [--only zst] [--dir /mnt/disk] [--json]

IMAGE.raw is a real disk image, such as the one that packaging/dev/cloud-image makes. It is packed by the tools as
people do, served from tmpfs, and written to a file in --dir. The pipe neither hashes nor writes; `byoi write` does
both, and of it the write stage counts. Beside it the pipe that writes, into `dd conv=fsync`. For one core both run
under `taskset -c 0`, the server does not. Everything is measured in turns; what counts are the ratios, round by round.
Nothing is asserted about seconds.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from formats import EXTRA, Target, command, rest
from raw_over_http import MIB, _run
from server import serve

# How the image is packed, and what unpacks it where people pay attention to speed.
PACKED = {
    "zst": (["zstd", "-q", "-3", "-c"], ["zstd", "-dc"]),
    "pzst": (["pzstd", "-q", "-p", "2", "-c"], ["pzstd", "-q", "-dc"]),
    "gz": (["gzip", "-1", "-c"], ["gzip", "-dc"]),
    "xz": (["xz", "-3", "-T2", "-c"], ["xz", "-T0", "-dc"]),
    "bz2": (["lbzip2", "-c"], ["lbzip2", "-dc"]),
}
DIVIDED = ("pzst", "xz", "bz2")
ONE_CORE = ("taskset", "-c", "0")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=PACKED, action="append", help="some of them; may be repeated")
    parser.add_argument(
        "--dir", type=Path, default=Path("/dev/shm"), help="where the target is made (default: tmpfs)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="byoi-bench-", dir="/dev/shm") as work,
        tempfile.TemporaryDirectory(prefix="byoi-bench-", dir=options.dir) as place,
        serve(Path(work), None) as (url, _),
    ):
        target = Target(Path(place) / "target", options.image.stat().st_size + EXTRA, device=False)
        report = {}
        for name in options.only or PACKED:
            path = Path(work) / name
            with path.open("wb") as file:
                subprocess.run([*PACKED[name][0], options.image], stdout=file, check=True)
            report[name] = summarize([measure(name, path, url, target) for _ in range(options.rounds)])
            path.unlink()
    print(json.dumps(report, indent=2) if options.json else table(report))


def measure(name: str, path: Path, url: str, target: Target) -> dict[str, dict[str, float]]:
    """One round."""
    source, tool = f"{url}/{path.name}", " ".join(PACKED[name][1])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    pipe = ("bash", "-c", f"set -o pipefail; curl -sf {source} | {tool} >/dev/null")
    copy = f"dd of={target.path} bs=1M iflag=fullblock conv=fsync status=none"
    written = f"set -o pipefail; curl -sf {source} | {tool} | {copy}"
    found = {
        "byoi": byoi(source, digest, target),
        "pipe": command(*pipe),
        "dd": command("bash", "-c", written),
    }
    target.forget()
    if name in DIVIDED:
        found["byoi, one core"] = byoi(source, digest, target, *ONE_CORE)
        found["pipe, one core"] = command(*ONE_CORE, *pipe)
    print(
        name,
        {key: round(value["part"], 2) for key, value in found.items()},
        os.getloadavg()[0],
        file=sys.stderr,
    )
    return found


def byoi(source: str, digest: str, target: Target, *prefix: str) -> dict[str, float]:
    """A deployment."""
    output, usage = _run(
        *prefix, sys.executable, "-m", "agent.cli", "write", "--url", source, "--type", "raw",
        "--checksum", f"sha256:{digest}", *target.write_options(), "--quiet", "--json",
    )  # fmt: skip
    target.forget()
    stages = {stage["name"]: stage["seconds"] for stage in json.loads(output)["stages"]}
    return {"wall": usage["wall"], "part": stages["write"], **rest(usage)}


def summarize(rounds: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    """Medians, with the least and the most of the ratios."""

    def ratio(above: str, below: str) -> str | None:
        if above not in rounds[0] or below not in rounds[0]:
            return None
        values = [found[above]["part"] / found[below]["part"] for found in rounds]
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    return {
        "pipe over the write stage": ratio("pipe", "byoi"),
        "pipe into dd over the write stage": ratio("dd", "byoi"),
        "write stage: one core over all": ratio("byoi, one core", "byoi"),
        "pipe: one core over all": ratio("pipe, one core", "pipe"),
        "seconds": {key: round(statistics.median(f[key]["part"] for f in rounds), 2) for key in rounds[0]},
        "processor seconds": {
            key: round(statistics.median(f[key]["cpu"] for f in rounds), 2) for key in rounds[0]
        },
        "peak MiB": round(max(found["byoi"]["peak"] for found in rounds) / MIB, 1),
    }


def table(report: dict[str, dict[str, object]]) -> str:
    """For people."""
    lines = []
    for name, figures in report.items():
        lines.append(name)
        lines += [f"  {key:40} {value}" for key, value in figures.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
