"""What the process storm does to the daemon: jobs, faults of the network and of disks, interruptions, and their ends.

Everything random is drawn from the seed when a job is planned. The same seed gives the same jobs, faults and instants;
what an instant hits depends on the machine.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.formats.image import WINDOW_BYTES
from agent.units import KiB, MiB
from tests.kit.images import Image
from tests.kit.server import Answer, Request

SMALL, LARGE, FULL = "512", "4096", "full"
"""The disks: sectors of 512 bytes, of 4096 bytes, and one that fails where an image goes on."""

HEALTHY = "healthy"
STAGES = ("preflight", "claim", "write", "verify", "finish", "commit")


@dataclass(frozen=True)
class File:
    """An image as it is served: the bytes of the file, and the disk that they stand for."""

    kind: str
    """The job's `type`."""
    data: bytes = field(repr=False)
    sha256: str = field(repr=False)
    disk: Image = field(repr=False)


@dataclass(frozen=True)
class Fault:
    """What goes wrong outside of the daemon, and what may come of it.

    Attributes:
        name: for people.
        codes: the errors that it may end in; none: the job has to be done all the same.
        untouched: it is found before anything is written.
        answer: what the server does, made anew for each job.
    """

    name: str
    answer: Callable[[random.Random, File, float], Answer]
    codes: frozenset[str] = frozenset()
    untouched: bool = False


def _healthy(_: random.Random, file: File, pause: float) -> Answer:
    return lambda request: request.file(file.data, pause=pause)


def _cut(rng: random.Random, file: File, pause: float) -> Answer:
    """The connection breaks once or twice; Range goes on."""
    cuts = [rng.randrange(len(file.data)) for _ in range(rng.choice((1, 1, 2)))]

    def answer(request: Request) -> None:
        request.file(file.data, upto=cuts.pop() if cuts else None, pause=pause)

    return answer


def _no_range(rng: random.Random, file: File, pause: float) -> Answer:
    """The connection breaks, and the server cannot go on where it broke."""
    cuts = [rng.randrange(len(file.data))]

    def answer(request: Request) -> None:
        request.file(file.data, upto=cuts.pop() if cuts else None, ranges=False, pause=pause)

    return answer


def _busy(rng: random.Random, file: File, pause: float) -> Answer:
    """503, once or twice."""
    refusals = [503] * rng.choice((1, 1, 2))

    def answer(request: Request) -> None:
        if refusals:
            request.head(refusals.pop(), Content_Length=0)
        else:
            request.file(file.data, pause=pause)

    return answer


def _stall(rng: random.Random, file: File, _: float) -> Answer:
    """Nothing comes for a while, shorter than what the daemon takes for a dead connection."""
    at, seconds = rng.randrange(len(file.data)), rng.uniform(0.2, 1.0)

    def answer(request: Request) -> None:
        request.head(200, Content_Length=len(file.data))
        request.send(file.data[:at])
        if not request.server.stopping.wait(seconds):
            request.send(file.data[at:])

    return answer


def _ragged(rng: random.Random, file: File, _: float) -> Answer:
    """Pieces of odd lengths."""
    lengths = [rng.randint(1, 300 * KiB) for _ in range(16)]

    def answer(request: Request) -> None:
        request.head(200, Content_Length=len(file.data))
        at = 0
        while at < len(file.data):
            length = lengths[at % 16]
            request.send(file.data[at : at + length])
            at += length

    return answer


def _changed(rng: random.Random, file: File, pause: float) -> Answer:
    """The file is replaced by another one in the middle of its transfer."""
    cut = rng.randrange(WINDOW_BYTES, len(file.data))
    other = file.data[: 2 * MiB] + bytes(byte ^ 1 for byte in file.data[2 * MiB : 2 * MiB + 512])
    other += file.data[2 * MiB + 512 :]
    served: list[int] = []

    def answer(request: Request) -> None:
        served.append(1)
        if len(served) == 1:
            request.file(file.data, upto=cut, pause=pause)
        else:
            request.file(other, etag='"v2"', pause=pause)

    return answer


def _flipped(rng: random.Random, file: File, pause: float) -> Answer:
    """One byte is not what it was."""
    at = rng.randrange(WINDOW_BYTES, len(file.data))
    wrong = file.data[:at] + bytes([file.data[at] ^ rng.randint(1, 255)]) + file.data[at + 1 :]
    return lambda request: request.file(wrong, pause=pause)


def _short(rng: random.Random, file: File, pause: float) -> Answer:
    """The file was cut at its origin; the server knows of no more."""
    part = file.data[: rng.randrange(WINDOW_BYTES, len(file.data) - MiB)]
    return lambda request: request.file(part, pause=pause)


def _page(_: random.Random, _file: File, _pause: float) -> Answer:
    """A page for people, with status 200."""
    page = b"<!DOCTYPE html><html><body>Please log in.</body></html>" * 20
    return lambda request: request.file(page)


def _gone(_: random.Random, _file: File, _pause: float) -> Answer:
    return lambda request: request.head(404, Content_Length=0)


_DAMAGED = frozenset({"checksum.mismatch", "image.damaged", "image.truncated", "image.changed"})

FAULTS = {
    fault.name: fault
    for fault in (
        Fault(HEALTHY, _healthy),
        Fault("cut", _cut),
        Fault("no-range", _no_range),
        Fault("503", _busy),
        Fault("stall", _stall),
        Fault("ragged", _ragged),
        Fault("changed", _changed, _DAMAGED),
        Fault("flipped", _flipped, _DAMAGED),
        Fault("short", _short, _DAMAGED),
        Fault("page", _page, frozenset({"image.no_table", "image.type"}), untouched=True),
        Fault("404", _gone, frozenset({"image.download"}), untouched=True),
        Fault("held", _healthy, frozenset({"disk.busy", "disk.ineligible"}), untouched=True),
    )
}
FULL_CODES = frozenset({"image.write", "disk.io"})
_WEIGHTS = {HEALTHY: 30, "cut": 10, "no-range": 6, "503": 5, "stall": 5, "ragged": 6, "changed": 4, "flipped": 6,
            "short": 4, "page": 3, "404": 3, "held": 4}  # fmt: skip


@dataclass(frozen=True)
class Instant:
    """When something is done to a job: so many seconds after it began, or after a stage of it did."""

    seconds: float
    stage: str | None = None


@dataclass(frozen=True)
class Job:
    """One job of the storm."""

    number: int
    disk: str
    kind: str
    fault: str
    seed: int
    pause: float
    by_plane: bool
    """Given by the control plane; else posted."""
    interruptions: tuple[tuple[str, Instant], ...]
    """`delete`, `kill`, `term`, `delete-kill`, `stop`, `reload`; of the control plane `cancel` and `gone`."""
    afterwards: str
    """What is done once it is over."""
    with_checksum: bool
    abandon: str | None
    """A request that is begun and left alone meanwhile."""

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(kind for kind, _ in self.interruptions)

    @property
    def dies(self) -> bool:
        """Whether the daemon is killed or stopped in its course."""
        return bool(self.kinds & DEATHS)

    def codes(self) -> frozenset[str]:
        """The errors that it may end in; if there are none it has to be done."""
        if FAULTS[self.fault].untouched:
            return FAULTS[self.fault].codes
        return (FULL_CODES if self.disk == FULL else frozenset()) | FAULTS[self.fault].codes


DEATHS = frozenset({"kill", "term", "delete-kill", "post-kill"})


def plan(rng: random.Random, number: int, *, deaths: bool) -> Job:
    """Draw one job.

    Args:
        rng: where from.
        number: of the job.
        deaths: whether the daemon may be killed or stopped.
    """
    by_plane = rng.random() < 0.15
    disk = rng.choices((SMALL, LARGE, FULL), (10, 7, 2))[0]
    fault = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    kinds = ["delete"] * 6 + ["stop"] * 2 + ["reload"] * 2 + (["cancel", "gone"] * 6 if by_plane else [])
    kinds += (["kill"] * 5 + ["term"] * 3 + ["delete-kill"] * 1) if deaths else []
    if deaths and not by_plane and rng.random() < 0.04:
        interruptions: tuple[tuple[str, Instant], ...] = (("post-kill", Instant(rng.uniform(0, 0.05))),)
    else:
        count = rng.choices((0, 1, 2), (12, 10, 3 if deaths else 0))[0]
        interruptions = tuple((rng.choice(kinds), _instant(rng)) for _ in range(count))
    after = (
        ["delete"] * 10 + ["leave"] * 6 + ["refused"] * 3 + ["reboot"] + (["kill", "term"] if deaths else [])
    )
    return Job(
        number=number,
        disk=disk,
        kind=rng.choices(("raw", "qcow2", "raw.gz"), (6, 3, 1))[0],
        fault=fault,
        seed=rng.randrange(2**32),
        pause=rng.choice((0.0, 0.0, 0.01, 0.03)),
        by_plane=by_plane,
        interruptions=interruptions,
        afterwards=rng.choice(after),
        with_checksum=bool(FAULTS[fault].codes) or rng.random() < 0.8,
        abandon=rng.choice(("/v1/events", "/v1/status?since=0&wait=30", None, None, None)),
    )


def _instant(rng: random.Random) -> Instant:
    if rng.random() < 0.4:
        return Instant(rng.uniform(0, 1.0))
    return Instant(rng.choice((0.0, 0.0, rng.uniform(0, 0.1))), rng.choice(STAGES))


# -- a disk that somebody has --------------------------------------------------------------------------------


@contextmanager
def held(path: Path, *, really: bool) -> Iterator[None]:
    """Somebody else has the disk, as a mount or an array would, if `really`."""
    fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC) if really else None
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)
