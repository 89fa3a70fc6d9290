"""Raw over HTTP onto a file: `byoi write` against a pipe of tools, and against each of its own parts alone.

Everything is measured in one run and in turns, because machines differ and so do their moments: what counts are
ratios, taken round by round, and their medians. Nothing is asserted about seconds.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from image import build_image
from server import serve

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MIB = 1 << 20
SUFFIXES = {"M": MIB, "G": 1 << 30}
# Room on the target for the config drive and the backup table.
EXTRA = 64 * MIB
POOL = 32 * MIB

BYOI = "byoi write"
PIPE = "curl | tee >(sha256sum) | dd"
PIPE_1M = "... | dd bs=1M conv=fsync"
RECEIVE, HASH, WRITE = "receive alone", "hash alone", "write alone"
PIPES = {PIPE: "", PIPE_1M: "bs=1M iflag=fullblock conv=fsync"}

_HWM = "import re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"


@dataclass(frozen=True)
class Sample:
    """One measurement: seconds, bytes."""

    name: str
    target: str
    round: int
    wall: float
    """The whole command, from start to exit."""
    part: float
    """What the command says its own work took: the write stage of a deployment, or the part alone."""
    cpu: float
    peak: int


@dataclass(frozen=True)
class Image:
    """What is deployed."""

    url: str
    size: int
    sha256: str


def main() -> None:
    """Measure and print."""
    options = _options()
    with _workspace(options) as (work, targets):
        path = work / "image.raw"
        print(f"making an image of {options.size // MIB} MiB in {work}", file=sys.stderr)
        sha256 = build_image(path, options.size)
        with serve(work) as (url, server):
            image = Image(f"{url}/{path.name}", options.size, sha256)
            about = _about(image, targets, server)
            samples = list(_rounds(image, targets, options.rounds))
    about["loadAfter"] = os.getloadavg()[0]
    ratios = {target: _ratios(samples, target, options.rounds) for target in targets}
    memory = _memory(samples)
    if options.json:
        document = {
            "about": about,
            "ratios": ratios,
            "memory": memory,
            "samples": [asdict(s) for s in samples],
        }
        print(json.dumps(document, indent=2))
    else:
        _print(about, samples, ratios, memory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument(
        "--size", type=_size, default=2 << 30, help="of the image, such as 512M or 4G (default: 2G)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure"
    )
    parser.add_argument("--only", choices=("tmpfs", "disk"), help="measure one target only")
    parser.add_argument("--json", action="store_true", help="print every sample as JSON")
    return parser.parse_args()


def _size(text: str) -> int:
    try:
        return int(text[:-1]) * SUFFIXES[text[-1:].upper()]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 4G") from None


# -- where -----------------------------------------------------------------------------------------------------------


@contextmanager
def _workspace(options: argparse.Namespace) -> Iterator[tuple[Path, dict[str, Path]]]:
    """A directory for the image, in memory where there is room, and one for each target."""
    shm = Path("/dev/shm")
    wanted = [options.only] if options.only else ["tmpfs", "disk"]
    needed = options.size + EXTRA
    room = min(shutil.disk_usage(shm).free, _available_memory() - (1 << 30)) if shm.is_dir() else 0
    if "tmpfs" in wanted and room < needed:
        print(f"tmpfs is left out: /dev/shm has room for {room // MIB} MiB only", file=sys.stderr)
        wanted.remove("tmpfs")
    in_memory = room >= (2 * needed if "tmpfs" in wanted else needed)
    free = shutil.disk_usage(options.dir).free
    if free < needed * (("disk" in wanted) + (not in_memory)) or not wanted:
        sys.exit(f"not enough room: {options.dir} has {free // MIB} MiB")
    places = {"tmpfs": shm, "disk": options.dir}
    with tempfile.TemporaryDirectory(prefix="byoi-bench-", dir=shm if in_memory else options.dir) as work:
        targets: dict[str, Path] = {}
        try:
            for name in wanted:
                targets[name] = Path(tempfile.mkdtemp(prefix="byoi-bench-", dir=places[name]), "target")
            yield Path(work), targets
        finally:
            for path in targets.values():
                shutil.rmtree(path.parent)


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _about(image: Image, targets: dict[str, Path], server: str) -> dict[str, object]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "size": image.size,
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _first("/proc/cpuinfo", "model name"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "server": server,
        "curl": _output("curl", "--version").split()[1],
        "coreutils": _output("dd", "--version").splitlines()[0].split()[-1],
        "filesystems": {
            name: _output("stat", "-f", "-c", "%T", path.parent).strip() for name, path in targets.items()
        },
        "loadBefore": os.getloadavg()[0],
    }


def _first(path: str, key: str) -> str:
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "unknown")


def _output(*command: object) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# -- what ------------------------------------------------------------------------------------------------------------


def _rounds(image: Image, targets: dict[str, Path], rounds: int) -> Iterator[Sample]:
    for number in range(rounds):
        yield _alone(RECEIVE, number, "receive", image.url)
        yield _alone(HASH, number, "hash", image.size)
        for target, path in targets.items():
            yield _byoi(image, target, path, number)
            for name, options in PIPES.items():
                yield _pipe(name, options, image, target, path, number)
            yield _alone(WRITE, number, "write", image.size, path, target=target)


def _byoi(image: Image, target: str, path: Path, number: int) -> Sample:
    output, usage = _run(
        sys.executable, "-m", "agent.cli", "write", "--url", image.url, "--type", "raw",
        "--checksum", f"sha256:{image.sha256}", "--hostname", "bench",
        "--disk", path, "--size", image.size + EXTRA, "--quiet", "--json",
    )  # fmt: skip
    path.unlink()
    stages = {stage["name"]: stage["seconds"] for stage in json.loads(output)["stages"]}
    return _sample(BYOI, target, number, usage, stages["write"])


def _pipe(name: str, options: str, image: Image, target: str, path: Path, number: int) -> Sample:
    # The hash goes round the pipe: printed inside of it, it would end up on the disk behind the image.
    script = (
        f"exec 3>&1; set -o pipefail; curl -sf {shlex.quote(image.url)} | tee >(sha256sum >&3) | "
        f"dd of={shlex.quote(str(path))} {options} status=none"
    )
    output, usage = _run("bash", "-c", script)
    path.unlink()
    if output.split()[0] != image.sha256:
        sys.exit(f"{name}: the hash is {output}")
    return _sample(name, target, number, usage, usage["wall"])


def _alone(name: str, number: int, *arguments: object, target: str = "") -> Sample:
    output, usage = _run(sys.executable, HERE / "alone.py", *arguments)
    if target:
        Path(str(arguments[-1])).unlink()
    return _sample(name, target, number, usage, json.loads(output)["seconds"])


def _run(*command: object) -> tuple[str, dict[str, float]]:
    """Run a command in the project's tree; gives its output and what it used."""
    os.sync()  # what an earlier one left to be written is not this one's business
    with tempfile.NamedTemporaryFile() as report:
        done = subprocess.run(
            [sys.executable, HERE / "measure.py", report.name, *map(str, command)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        if done.returncode != 0:
            sys.exit(f"{command[0]} failed with {done.returncode}:\n{done.stdout}")
        return done.stdout, json.loads(Path(report.name).read_text())


def _sample(name: str, target: str, number: int, usage: dict[str, float], part: float) -> Sample:
    sample = Sample(
        name, target, number, usage["wall"], part, usage["user"] + usage["system"], int(usage["peak"])
    )
    print(f"round {number + 1}: {name} {target}: {sample.wall:.2f} s", file=sys.stderr)
    return sample


# -- ratios ----------------------------------------------------------------------------------------------------------


def _ratios(samples: list[Sample], target: str, rounds: int) -> dict[str, dict[str, object]]:
    """How many times faster the deployment is: the median over the rounds, and each round."""
    per_round: dict[str, list[float]] = {}
    for number in range(rounds):
        at = {s.name: s for s in samples if s.round == number and s.target in (target, "")}
        byoi = at[BYOI]
        slowest = max(at[name].part for name in (RECEIVE, HASH, WRITE))
        found = {
            f"whole process against {PIPE}": at[PIPE].wall / byoi.wall,
            f"whole process against {PIPE_1M}": at[PIPE_1M].wall / byoi.wall,
            f"processor time against {PIPE}": at[PIPE].cpu / byoi.cpu,
            f"processor time against {PIPE_1M}": at[PIPE_1M].cpu / byoi.cpu,
            "write stage against the slowest part alone": slowest / byoi.part,
            "whole process against the slowest part alone": slowest / byoi.wall,
        }
        for name, ratio in found.items():
            per_round.setdefault(name, []).append(ratio)
    return {
        name: {"median": round(statistics.median(values), 3), "rounds": [round(value, 3) for value in values]}
        for name, values in per_round.items()
    }


def _memory(samples: list[Sample]) -> dict[str, int]:
    """The peak of a deployment in bytes, in parts: each part is what is resident more than before it."""
    python = int(_run(sys.executable, "-c", _HWM)[0]) * 1024
    imports = int(_run(sys.executable, "-c", f"import agent.cli; {_HWM}")[0]) * 1024
    peak = max(sample.peak for sample in samples if sample.name == BYOI)
    return {
        "interpreter": python,
        "imports": imports - python,
        "pool (at most)": POOL,
        "rest": peak - imports - POOL,
        "peak": peak,
    }


# -- output ----------------------------------------------------------------------------------------------------------


def _print(
    about: dict[str, object], samples: list[Sample], ratios: dict[str, dict], memory: dict[str, int]
) -> None:
    for key, value in about.items():
        print(f"{key:12} {value}")
    size = about["size"]
    print(
        f"\n{'medians':32} {'target':7} {'wall s':>8} {'work s':>8} {'MB/s':>6} {'cpu s':>7} {'peak MiB':>9}"
    )
    for name, target in dict.fromkeys((sample.name, sample.target) for sample in samples):
        own = [sample for sample in samples if (sample.name, sample.target) == (name, target)]
        wall, part, cpu = (statistics.median(getattr(s, key) for s in own) for key in ("wall", "part", "cpu"))
        peak = max(sample.peak for sample in own) / MIB
        print(f"{name:32} {target:7} {wall:8.2f} {part:8.2f} {size / part / 1e6:6.0f} {cpu:7.2f} {peak:9.1f}")
    for target, found in ratios.items():
        print(f"\n{'times faster, ' + target:62} {'median':>7}   rounds")
        for name, ratio in found.items():
            print(
                f"{name:62} {ratio['median']:7.2f}   {' '.join(f'{value:.2f}' for value in ratio['rounds'])}"
            )
    print("\nresident memory of byoi write, MiB")
    for name, value in memory.items():
        print(f"{name:16} {value / MIB:6.1f}")


if __name__ == "__main__":
    main()
