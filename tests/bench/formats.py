"""qcow2 and OVA over HTTP: `byoi write` against download, sha256sum and qemu-img convert, one after the other.

    PYTHONPATH=. python tests/bench/formats.py IMAGE.raw [--rounds 3] [--only "qcow2 zstd"] [--dir /mnt/disk]
        [--device] [--rate MBPS] [--json]

IMAGE.raw is a real disk image, such as the one that packaging/dev/cloud-image makes. The images are served from and
staged on tmpfs, as in a rescue; the target is a file there, or in a directory on a disk. With --device it is a block
device, as on a server: a loop device with direct I/O over a file in --dir whose blocks are all allocated and dirty.
Both sides flush it: `byoi write` does by itself, the others are followed by `sync TARGET`. qemu-img is measured as it
comes, and with the options that suit it best here (-t none -W). Everything is measured in one run and in turns; what
counts are the ratios, round by round. On a machine that others use too, those of the processor time (user and system,
of all processes of a command) tell more than those of the clock. With --rate the server sends no faster than a line of
that many MB/s: 125 is a gigabit a second. Nothing is asserted about seconds.
"""

import argparse
import hashlib
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raw_over_http import HERE, MIB, _run
from server import serve

OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:id="f1" ovf:href="disk.vmdk"/></References>
<DiskSection><Info>d</Info><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="{capacity}"
ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
</Envelope>
"""
FORMATS = {
    "qcow2": ("qcow2", ["-O", "qcow2"]),
    "qcow2 zlib": ("qcow2", ["-O", "qcow2", "-c"]),
    "qcow2 zstd": ("qcow2", ["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
    "ova": ("ova", ["-O", "vmdk", "-o", "subformat=streamOptimized"]),
}
TUNED = ["-t", "none", "-W"]
BYOI, STEPS, STEPS_TUNED, DOWNLOAD, LOCAL, QEMU, QEMU_TUNED = (
    "byoi write",
    "curl; sha256sum; qemu-img convert",
    "curl; sha256sum; qemu-img convert -t none -W",
    "receive and hash alone",
    "byoi write file:",
    "qemu-img convert",
    "qemu-img convert -t none -W",
)
EXTRA = 64 * MIB


@dataclass(frozen=True)
class Target:
    """What is written: a file that is made anew each time, or a block device."""

    path: Path
    size: int
    device: bool

    def write_options(self) -> list[object]:
        """For `byoi write`."""
        return ["--disk", self.path, *([] if self.device else ["--size", self.size])]

    def convert(self, *options: object) -> list[object]:
        """qemu-img convert with these options, up to its source."""
        return ["qemu-img", "convert", *(["-n"] if self.device else []), *options, "-O", "raw"]

    def forget(self) -> None:
        """Begin anew."""
        if not self.device:
            self.path.unlink()


@contextmanager
def target_in(place: Path, size: int, *, device: bool) -> Iterator[Target]:
    """A target of `size` bytes in this directory."""
    if not device:
        yield Target(place / "target", size, device)
        return
    backing = place / "backing"
    with backing.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())
    attached = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", backing], check=True, capture_output=True, text=True
    )
    loop = attached.stdout.strip()
    try:
        yield Target(Path(loop), size, device)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=FORMATS, action="append", help="some formats; may be repeated")
    parser.add_argument(
        "--dir", type=Path, default=Path("/dev/shm"), help="where the target is made (default: tmpfs)"
    )
    parser.add_argument(
        "--device", action="store_true", help="the target is a loop device over a file in --dir"
    )
    parser.add_argument("--rate", type=int, help="the server's pace in MB/s (default: as fast as it can)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="byoi-bench-", dir="/dev/shm") as work,
        tempfile.TemporaryDirectory(prefix="byoi-bench-", dir=options.dir) as place,
    ):
        files = {name: make(options.image, Path(work), name) for name in options.only or FORMATS}
        size = options.image.stat().st_size + EXTRA
        with (
            serve(Path(work), options.rate) as (url, _),
            target_in(Path(place), size, device=options.device) as target,
        ):
            rounds = [
                {name: measure(name, path, url, target) for name, path in files.items()}
                for _ in range(options.rounds)
            ]
    report = {name: summarize([measured[name] for measured in rounds]) for name in files}
    print(json.dumps(report, indent=2) if options.json else table(report))


def make(image: Path, work: Path, name: str) -> Path:
    """The image in one format."""
    kind, arguments = FORMATS[name]
    path = work / name.replace(" ", "-")
    subprocess.run(["qemu-img", "convert", "-f", "raw", *arguments, image, path], check=True)
    if kind != "ova":
        return path
    disk = path.rename(work / "disk.vmdk")
    ovf = OVF.format(capacity=image.stat().st_size).encode()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("vm.ovf")
        entry.size = len(ovf)
        tar.addfile(entry, io.BytesIO(ovf))
        with disk.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        manifest = (
            f"SHA256(vm.ovf)= {hashlib.sha256(ovf).hexdigest()}\nSHA256(disk.vmdk)= {digest}\n".encode()
        )
        entry = tarfile.TarInfo("vm.mf")
        entry.size = len(manifest)
        tar.addfile(entry, io.BytesIO(manifest))
        tar.add(disk, "disk.vmdk")
    return path


def measure(name: str, path: Path, url: str, target: Target) -> dict[str, dict[str, float]]:
    """One round of one format: wall seconds, the part that is the work, and peak memory."""
    kind, source = FORMATS[name][0], f"{url}/{path.name}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    found = {BYOI: byoi(kind, source, digest, target)}
    for key, options in ((STEPS, []), (STEPS_TUNED, TUNED)):
        found[key] = steps(kind, source, path.with_name("staged"), target, options)
    output, usage = _run(sys.executable, HERE / "alone.py", "download", source)
    found[DOWNLOAD] = {"wall": usage["wall"], "part": json.loads(output)["seconds"], **rest(usage)}
    if kind != "ova":
        found[LOCAL] = byoi(kind, path.as_uri(), digest, target)
        for key, options in ((QEMU, []), (QEMU_TUNED, TUNED)):
            convert = shlex.join(map(str, [*target.convert("-f", "qcow2", *options), path, target.path]))
            found[key] = command("sh", "-c", f'{convert} && sync "$1"', "sh", target.path)
            target.forget()
    print(
        name,
        {key: round(value["wall"], 2) for key, value in found.items()},
        os.getloadavg()[0],
        file=sys.stderr,
    )
    return found


def steps(kind: str, url: str, staged: Path, target: Target, options: list[str]) -> dict[str, float]:
    """Download, hash and convert, one after the other."""
    extract = "tar -xOf FILE disk.vmdk > FILE.vmdk; " if kind == "ova" else ""
    source_file, source_kind = ("FILE.vmdk", "vmdk") if kind == "ova" else ("FILE", "qcow2")
    script = (
        f"set -e; curl -sf URL -o FILE; sha256sum FILE >/dev/null; {extract}"
        f"{shlex.join(map(str, target.convert('-f', source_kind, *options)))} {source_file} TARGET; "
        "sync TARGET; rm -f FILE FILE.vmdk"
    )
    for word, value in (("URL", url), ("FILE", staged), ("TARGET", target.path)):
        script = script.replace(word, shlex.quote(str(value)))
    found = command("bash", "-c", script)
    target.forget()
    return found


def byoi(kind: str, url: str, digest: str, target: Target) -> dict[str, float]:
    """A deployment."""
    output, usage = _run(
        sys.executable, "-m", "agent.cli", "write", "--url", url, "--type", kind, "--checksum", f"sha256:{digest}",
        "--hostname", "bench", *target.write_options(), "--quiet", "--json",
    )  # fmt: skip
    target.forget()
    stages = {stage["name"]: stage["seconds"] for stage in json.loads(output)["stages"]}
    return {"wall": usage["wall"], "part": stages["write"], **rest(usage)}


def command(*arguments: object) -> dict[str, float]:
    """Any other command."""
    _, usage = _run(*arguments)
    return {"wall": usage["wall"], "part": usage["wall"], **rest(usage)}


def rest(usage: dict[str, float]) -> dict[str, float]:
    """Processor time and peak memory."""
    return {"cpu": usage["user"] + usage["system"], "peak": usage["peak"]}


def summarize(rounds: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    """Medians of the ratios."""

    def ratio(above: str, below: str, key: str = "wall") -> float | None:
        if above not in rounds[0] or below not in rounds[0]:
            return None
        return round(statistics.median(found[above][key] / found[below][key] for found in rounds), 2)

    return {
        "times faster than the three steps": ratio(STEPS, BYOI),
        "the same, qemu-img with -t none -W": ratio(STEPS_TUNED, BYOI),
        "processor time of the three steps over ours": ratio(STEPS, BYOI, "cpu"),
        "write stage over receive and hash alone": ratio(BYOI, DOWNLOAD, "part"),
        "times faster than qemu-img convert from a file, with the hash": ratio(QEMU, LOCAL, "part"),
        "times faster than qemu-img convert -t none -W, with the hash": ratio(QEMU_TUNED, LOCAL, "part"),
        "processor time of qemu-img over ours, with the start and all stages": ratio(QEMU, LOCAL, "cpu"),
        "peak MiB": round(max(found[BYOI]["peak"] for found in rounds) / MIB, 1),
        "seconds": {
            key: round(statistics.median(found[key]["wall"] for found in rounds), 2) for key in rounds[0]
        },
        "processor seconds": {
            key: round(statistics.median(found[key]["cpu"] for found in rounds), 2) for key in rounds[0]
        },
    }


def table(report: dict[str, dict[str, object]]) -> str:
    """For people."""
    lines = []
    for name, figures in report.items():
        lines.append(name)
        lines += [f"  {key:70} {value}" for key, value in figures.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
