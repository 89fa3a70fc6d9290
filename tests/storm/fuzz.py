"""`sh tests/storm/fuzz`: looks for files that take a reader where none of the kept ones does, and keeps them."""

import argparse
import shutil
import subprocess
import sys
import tempfile
import traceback
import zlib
from pathlib import Path

from agent.units import KiB
from tests.kit.commands import ROOT
from tests.storm import corpus
from tests.storm.images import LONG_SECONDS, Storm
from tests.storm.subject import Subject
from tests.storm.subjects import make_samples, subjects

FINDINGS = ROOT / "build/fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="sh tests/storm/fuzz", description="Fuzz readers by their coverage, and keep what is new."
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="all without one")
    parser.add_argument(
        "--minutes", type=float, default=1.0, metavar="M", help="for each (default: %(default)s)"
    )
    parser.add_argument(
        "--file", type=Path, metavar="PATH", help="read this one file of the subject, no more"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="byoi-fuzz-") as scratch:
        directory = Path(scratch)
        make_samples(directory, corpus.CONTENT)
        known = {subject.name: subject for subject in subjects(directory)}
        unknown = [name for name in arguments.subjects if name not in known]
        if unknown:
            parser.error(f"no subject is named {unknown[0]!r}; there are {', '.join(known)}")
        wanted = [known[name] for name in arguments.subjects] or list(known.values())
        storm = Storm(directory, wanted)
        if arguments.file is not None:
            print(corpus.replay(storm, wanted[0], arguments.file.read_bytes()))
            return 0
        wrong = sum(fuzz(storm, subject, arguments.minutes) for subject in wanted)
    return 1 if wrong else 0


def fuzz(storm: Storm, subject: Subject, minutes: float) -> int:
    """Fuzz one subject; returns how many files were read wrongly."""
    seen, crashes = storm.directory / "seen", storm.directory / "crashes"
    old = corpus.load(corpus.path_of(subject))
    seen.mkdir()
    crashes.mkdir()
    for number, data in enumerate((subject.data, *old)):
        (seen / str(number)).write_bytes(data)
    command = [sys.executable, "-m", "tests.storm.fuzz_target", storm.directory, subject.name, seen]
    options = [
        f"-max_total_time={round(minutes * 60)}", f"-max_len={2 * len(subject.data) + 64 * KiB}",
        f"-timeout={LONG_SECONDS}", f"-artifact_prefix={crashes}/", "-detect_leaks=0",
    ]  # fmt: skip
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [path.read_bytes() for path in (*crashes.iterdir(), *seen.iterdir())]
    right = [data for data in files if is_right(storm, subject, data)]
    wrong = len(files) - len(right)
    if done.returncode != 0 and not wrong:
        raise SystemExit(f"{subject.name}: the fuzzer ended with {done.returncode}\n{done.stderr[-4000:]}")
    kept = corpus.minimised(subject, right)
    if kept:
        corpus.keep(corpus.path_of(subject), kept)
    print(
        f"{subject.name}: {len(files)} files, {wrong} wrong, {len(kept)} kept, {len(old)} before", flush=True
    )
    shutil.rmtree(seen)
    shutil.rmtree(crashes)
    return wrong


def is_right(storm: Storm, subject: Subject, data: bytes) -> bool:
    """Whether the whole judgement of the storm, with qemu-img and memory, finds nothing; tells what it finds."""
    try:
        corpus.replay(storm, subject, data)
    except Exception:  # noqa: BLE001 - whatever it is
        FINDINGS.mkdir(parents=True, exist_ok=True)
        path = FINDINGS / f"{corpus.path_of(subject).stem}-{zlib.crc32(data):08x}"
        path.write_bytes(data)
        print(
            f"{traceback.format_exc()}repeat it: sh tests/storm/fuzz --file {path} '{subject.name}'\n",
            flush=True,
        )
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
