"""The images storm: files that were changed at random, given to what reads them.

Each is refused by an error of the family, or read. Where qemu-img reads it too, both have read the same; what has
checksums of its own is read as it was, or not at all. None takes more than ten seconds of processor time, or more
memory than a decoder may.
"""

import random
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from agent.transfer import inflate
from agent.units import MiB
from tests.kit.decoding import REFUSALS
from tests.storm.frame import Try
from tests.storm.mutations import mutated
from tests.storm.subject import Subject
from tests.storm.subjects import make_samples, subjects

NEEDS_ROOT = False
MOST_SECONDS = 10
MOST_MEMORY = 96 * MiB
"""What reading a disk of 2 MiB may take: that disk, the window of a decompressor, and what a decoder may hold."""
MOST_OUTPUT = 64 * MiB
LONG_SECONDS = 600
"""Of any clock: only what waits for ever takes them. What counts is processor time."""


class TooLong(BaseException):
    """It goes through every `except Exception`."""


def prepare(directory: Path) -> None:
    make_samples(directory)


@dataclass
class Storm:
    """What the runs of one process share."""

    directory: Path
    subjects: list[Subject] = field(repr=False)

    def attempt(self, seed: int) -> str:
        chance = random.Random(seed)
        subject = chance.choice(self.subjects)
        return self.try_one(subject, subject.mended(mutated(subject.data, chance), chance), chance)

    def try_one(self, subject: Subject, data: bytes, chance: random.Random) -> str:
        """Read a file, and judge what came of it."""
        what = f"{subject.name} with {len(data)} bytes"
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        content = within_limits(lambda: read(subject, data, chance), what)
        taken = memory("VmHWM") - before
        assert taken <= MOST_MEMORY, f"{what} took {taken // MiB} MiB"
        if content is None:
            return f"{subject.name}: refused"
        return f"{subject.name}: {self.judge(subject, data, content, what)}"

    def judge(self, subject: Subject, data: bytes, content: bytes, what: str) -> str:
        """Whether these are the bytes that the file holds."""
        if subject.sealed:
            assert content == subject.content, f"{what} is read as something else than it was"
        if subject.qemu:
            seen = self.by_qemu_img(subject, data)
            if seen is None:
                return "read, and not by qemu-img"
            if seen != content and subject.name == "qcow2-zstd":
                content = read_by_their_zstd(subject, data)
            assert seen == content, f"{what}: qemu-img reads it otherwise, {difference(seen, content)}"
        return "read as before" if content and content == subject.content else "read"

    def by_qemu_img(self, subject: Subject, data: bytes) -> bytes | None:
        """The guest disk as qemu-img reads it, or None where it refuses the image or does not come to an end."""
        image, out = self.directory / "image", self.directory / "out"
        image.write_bytes(data)
        out.unlink(missing_ok=True)
        command = ["qemu-img", "convert", "-f", subject.qemu, "-O", "raw", image, out]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, timeout=LONG_SECONDS, preexec_fn=limit_qemu_img,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        return out.read_bytes() if done.returncode == 0 else None


def limit_qemu_img() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (2 * MOST_SECONDS, 2 * MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_OUTPUT, MOST_OUTPUT))


def read(subject: Subject, data: bytes, chance: random.Random) -> bytes | None:
    """What is read, None where it is refused."""
    try:
        return subject.read(data, chance)
    except (*REFUSALS, *subject.refusals):
        return None


def read_by_their_zstd(subject: Subject, data: bytes) -> bytes:
    """What is read with the libzstd that qemu-img has, by its command.

    A frame that breaks the format where no checksum tells, such as by an offset of 0, is other bytes to libzstd 1.5.4
    than to 1.5.7.
    """
    with patch.object(inflate, "_zstd", TheirZstd):
        content = read(subject, data, random.Random(0))
    assert content is not None
    return content


class TheirZstd:
    """A decompressor as the agent uses one."""

    def decompress(self, data: memoryview, max_output_size: int = 0) -> bytes:
        frame = bytes(data)[: inflate._frame_length(data)]
        return subprocess.run(["zstd", "-dc"], input=frame, check=True, capture_output=True).stdout


def within_limits(act: Callable[[], bytes | None], what: str) -> bytes | None:
    def end(*_: object) -> None:
        raise TooLong

    old = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        return act()
    except TooLong:
        raise AssertionError(f"{what} took more than {MOST_SECONDS} s") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def memory(name: str) -> int:
    """Bytes, as the kernel counts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def difference(one: bytes, other: bytes) -> str:
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} bytes"
    at = next(at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    return f"from byte {at} on: {one[at : at + 16].hex()} and {other[at : at + 16].hex()}"


@contextmanager
def opened(directory: Path) -> Iterator[Try]:
    storm = Storm(directory, subjects(directory / "shared"))
    yield storm.attempt
