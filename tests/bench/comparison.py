"""Deploys images over HTTP onto a block device: `byoi write`, what experts would type instead, and what single parts
take alone.

Each row of the table (rows.py) is one image over one link. In each round its commands take turns, because machines
differ and so do their moments: what counts are ratios of a round, and their medians. Nothing is asserted about
seconds. The images are served from memory by nginx on loopback; the disk is a loop device with direct I/O over a file
in --dir, whose blocks are all allocated and dirty.
"""

import argparse
import compileall
import fnmatch
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import publish
import report
from images import EXTRA, MIB, Images, size_from
from rows import LIMITS, OURS, PEERS, ROWS, Command, Row
from runner import ROOT, CommandFailed, CommandHung, Place
from server import make_certificate, serve

from tests.kit import loops

MAX_HANGS = 4
"""So many in a row of the table, and a command is given up."""
SMOKE_SIZE = 16 * MIB
_VERSIONS = {
    "curl": ("curl", "--version"),
    "openssl": ("openssl", "version"),
    "coreutils": ("dd", "--version"),
    "qemu-img": ("qemu-img", "--version"),
    "nbdkit": ("nbdkit", "--version"),
    "nbdcopy": ("nbdcopy", "--version"),
    "bmaptool": ("bmaptool", "--version"),
    "aria2": ("aria2c", "--version"),
    "zstd": ("zstd", "--version"),
    "xz": ("xz", "--version"),
}


def main() -> None:
    """Measure, print, and publish where that is asked for."""
    options = _options()
    rows = _chosen(options.rows)
    signal.signal(signal.SIGTERM, _end)  # the disk is detached and the memory given back all the same
    if options.list:
        for row in rows:
            print(f"{row.name:20} {row.title}")
        return
    with _place(options) as (place, images):
        results: dict[str, Any] = {"about": _about(options, place), "rows": {}}
        faults = []
        for number, row in enumerate(rows):
            try:
                results["rows"][row.name] = _measure(row, place, images, options.rounds)
            except CommandFailed as fault:
                # The other rows are worth having: they took minutes.
                print(f"{row.name} FAILED: {fault}", file=sys.stderr)
                faults.append(row.name)
            if row.image not in {later.image for later in rows[number + 1 :]}:
                images.forget(row.image)
    results["about"]["load after"] = os.getloadavg()[0]
    text = json.dumps(results, indent=1) + "\n"
    if options.results:
        options.results.write_text(text)
    print(report.text(results))
    if options.publish:
        publish.take(results)
    if faults:
        sys.exit(f"not measured, see above: {' '.join(faults)}")


def _end(*_: object) -> None:
    sys.exit("ended by a signal")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="names, or patterns such as 'qcow2*' (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="say which rows there are, and measure nothing")
    parser.add_argument("--rounds", type=int, help="how often each command is run (default: 3)")
    parser.add_argument(
        "--size", type=size_from, help="of the images of random bytes, such as 512M or 4G (default: 2G)"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="small images, one round, and each disk is compared"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure"
    )
    parser.add_argument("--results", type=Path, help="write every sample to this file, as JSON")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write the results into the documents of this checkout (docs/, README.md)",
    )
    options = parser.parse_args()
    if options.smoke and options.publish:
        parser.error("a smoke says nothing about speed")
    options.rounds = options.rounds or (1 if options.smoke else 3)
    options.size = options.size or (SMOKE_SIZE if options.smoke else 2 << 30)
    return options


def _chosen(patterns: list[str]) -> list[Row]:
    cores = len(os.sched_getaffinity(0))
    rows = [row for row in ROWS if (row.cores or 1) <= cores]
    for pattern in patterns:
        if not any(fnmatch.fnmatch(row.name, pattern) for row in rows):
            sys.exit(f"no row {pattern!r}; there are {' '.join(row.name for row in rows)}")
    return [row for row in rows if not patterns or any(fnmatch.fnmatch(row.name, p) for p in patterns)]


# -- where -----------------------------------------------------------------------------------------------------------


@contextmanager
def _place(options: argparse.Namespace) -> Iterator[tuple[Place, Images]]:
    """A loop device, and images in memory."""
    if os.geteuid() != 0:
        sys.exit("The disk is a loop device: run this as root.")
    compileall.compile_dir(ROOT / "agent", quiet=1)  # once, and in no measurement
    python = Path(_printed("sh", ROOT / "packaging/dev/setup", "--runtime"), "bin/python")
    ipa = Path(_printed("sh", ROOT / "packaging/dev/ipa-environment"), "bin/python")
    system = None if options.smoke else Path(_printed("sh", ROOT / "packaging/dev/cloud-image"))
    size = max(options.size, system.stat().st_size if system else 0) + EXTRA
    with (
        tempfile.TemporaryDirectory(prefix="byoi-bench-", dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(prefix="byoi-bench-", dir=options.dir) as directory,
        _disk(Path(directory, "disk"), size) as disk,
        _disk(Path(directory, "other"), size) as other,
    ):
        certificate = Path(memory, "certificate")
        make_certificate(certificate)
        served = Path(memory, "www")
        served.mkdir()
        place = Place(disk, other, Path(memory, "stage"), certificate, python, ipa, options.smoke)
        yield place, Images(served, options.size, system)


@contextmanager
def _disk(backing: Path, size: int) -> Iterator[Path]:
    with backing.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())
    loop = loops.attach(backing, direct_io=True)
    try:
        yield loop.device
    finally:
        loop.detach()


def _printed(*command: object) -> str:
    """The last line that a script prints."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def _about(options: argparse.Namespace, place: Place) -> dict[str, object]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": _printed("findmnt", "--noheadings", "--output", "FSTYPE", "--target", options.dir),
        "versions": {name: _version(command) for name, command in _VERSIONS.items()}
        | {"ironic-python-agent": _printed(place.ipa, "-c", _IPA_VERSION)},
        "load before": os.getloadavg()[0],
    }


_IPA_VERSION = "import importlib.metadata as m; print(m.version('ironic-python-agent'))"


def _cpu() -> str:
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == "model name"), "unknown")


def _version(command: tuple[str, ...]) -> str:
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].split()
    return next(word.strip("v*,") for word in words if word.strip("v*,")[:1].isdigit())


# -- what ------------------------------------------------------------------------------------------------------------


def _measure(row: Row, place: Place, images: Images, rounds: int) -> dict[str, object]:
    image = images[row.image]
    commands = [OURS, *(PEERS[name] for name in row.peers), *(LIMITS[name] for name in row.limits)]
    samples: dict[str, list[dict[str, object]]] = {command.name: [] for command in commands}
    hung = dict.fromkeys(samples, 0)
    with serve(image.path.parent, row.rate, place.certificate if row.tls else None) as (url, server):
        for number in range(rounds):
            # Every second round goes backwards: nobody always follows the same one.
            for command in commands[:: 1 if number % 2 == 0 else -1]:
                while hung[command.name] < MAX_HANGS:
                    try:
                        sample = place.run(row, command, image, f"{url}/{image.path.name}")
                    except CommandHung:
                        if not command.hangs:
                            raise
                        hung[command.name] += 1
                        print(f"{row.name}: {command.name} hung for {command.patience} s", file=sys.stderr)
                    else:
                        print(
                            f"{row.name}, round {number + 1}: {command.name}: {sample.wall:.2f} s",
                            file=sys.stderr,
                        )
                        samples[command.name].append(asdict(sample))
                        break
    whole = [command for command in commands if len(samples[command.name]) == rounds]
    return {
        "title": row.title,
        "series": row.series,
        "x": row.x,
        "server": server,
        "size": image.size,
        "guest": image.guest_size,
        "given up": [command.name for command in commands if command not in whole],
        "commands": [
            {
                "name": command.name.format(unpack=row.unpack),
                "kind": _kind(command),
                "verifies": command.verifies,
                "staged": image.size if command.stages else 0,
                "x": command.x,
                "hung": hung[command.name],
                "samples": samples[command.name],
            }
            for command in whole
        ],
    }


def _kind(command: Command) -> str:
    return "ours" if command == OURS else "limit" if command in LIMITS.values() else "peer"


if __name__ == "__main__":
    main()
