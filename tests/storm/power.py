"""The power storm: disks that a power cut could have left, one a run, and whether each is blank or whole.

What a deployment wrote and flushed is recorded, for several kinds of image and of end. A run takes one such record up
to a step that is drawn; what was flushed until then is on the disk, and of the rest any sector may be. docs/proof.md
says by the stage that was reached what may be found.
"""

import base64
import pickle
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.units import MiB
from tests.kit.commands import ROOT, run
from tests.kit.crashes import SECTOR, Medium, Write, state, steps
from tests.kit.deployments import Driver, driving, job
from tests.kit.disks import make_disk
from tests.kit.images import NOISE, Image, Piece, install, make_image, make_old_disk
from tests.kit.server import serving
from tests.storm.frame import Try

NEEDS_ROOT = False
IMAGE_SIZE, DISK_SIZE = 12 * MiB, 16 * MiB
MBR = (Piece(1, 2, "noise", "type=83,bootable"), Piece(4, 6, "noise", "type=83"))
MOST_PIECES = 4096
ROW = re.compile(
    r"^\| (\w+) \| ((?:old|headless|blank|new)(?:, (?:old|headless|blank|new))*) \|$", re.MULTILINE
)


def rules() -> dict[str, set[str]]:
    """The table of docs/proof.md: what may be on the disk when a stage had been reached."""
    page = (ROOT / "docs/proof.md").read_text()
    return {stage: set(states.split(", ")) for stage, states in ROW.findall(page)}


@dataclass(frozen=True)
class Record:
    """A deployment: each step with the stage that it belongs to, and the disk after it."""

    name: str
    new: bytes | None = field(repr=False)
    """The whole system, where it can come to that."""
    steps: list[Write | None] = field(repr=False)
    stages: list[str] = field(repr=False)


def prepare(directory: Path) -> None:
    """Record all of them."""
    image = make_image(directory, IMAGE_SIZE)
    qcow2 = directory / "image.qcow2"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", image.path, qcow2)
    mbr = Image(make_disk(directory / "mbr.raw", IMAGE_SIZE, NOISE))
    install(mbr.path, "dos", MBR)
    fat = make_disk(directory / "drive.fat", MiB, b"\0")
    run("mkfs.vfat", "-n", "config-2", fat)
    drive = {"configdrive": {"enable": True, "content": base64.b64encode(fat.read_bytes()).decode()}}
    old = make_old_disk(directory, DISK_SIZE)
    kinds: dict[str, tuple[Path, dict[str, Any]]] = {
        "raw": (image.path, {}),
        "qcow2": (qcow2, {"type": "qcow2"}),
        "mbr": (mbr.path, {}),
        "fat-drive": (image.path, drive),
        "no-drive": (image.path, {"configdrive": {"enable": False}}),
    }
    with driving(directory) as driver:
        for name, (path, more) in kinds.items():
            with serving(lambda request, path=path: request.file(path)) as server:
                recorder = Recorder(directory, driver, old, job(server.url, Image(path).sha256, **more))
                whole = recorder.record(name)
                if name == "raw":
                    recorder.record_others(name, len(whole))
                    recorder.record_mirror()


@dataclass
class Recorder:
    """Deploys one kind of image, to its end and to others."""

    directory: Path
    driver: Driver
    old: bytes
    job: dict[str, Any]

    def record(self, name: str) -> list[Write | None]:
        """To its good end; gives the steps."""
        whole, stages, new = self._deploy(name, "done")
        self._save(name, whole, stages, new)
        return whole

    def record_mirror(self) -> None:
        """Two disks, of which each is on its own when the power goes."""
        disks = self.directory / "disk", self.directory / "other"
        for disk in disks:
            disk.write_bytes(self.old)
        document = self.job | {"raid": {"level": "raid1"}}
        outcome = self.driver.deploy(disks[0], document, others=[str(disks[1])], record=True)
        assert outcome.status["status"] == "done", outcome.status
        for disk in disks:
            part = outcome.of_disk(disk)
            stages = [part.stage_of_call(number) for number in range(len(part.calls))]
            self._save(f"mirror-{disk.name}", list(steps(part)), stages, disk.read_bytes())

    def record_others(self, name: str, calls: int) -> None:
        """To other ends: with a wrong checksum, cancelled, and with a disk that fails in the commit."""
        wrong = self.job | {"checkSum": "0" * 64}
        failed, stages, _ = self._deploy(f"{name} failed", "checksum.mismatch", wrong)
        self._save(f"{name} failed", failed, stages, None)
        stop: dict[str, object] = {"by": "cancel", "at": "event", "number": 4}
        cancelled, stages, _ = self._deploy(f"{name} cancelled", "job.cancelled", stop=stop)
        self._save(f"{name} cancelled", cancelled, stages, None)
        for from_end in (1, 2, 3):
            stop = {"by": "eio", "at": "call", "number": calls - from_end}
            undone, stages, _ = self._deploy(f"{name} undone", "disk.io", stop=stop)
            medium = Medium(self.old)
            medium.replay(undone[: calls - from_end])
            self._save(f"{name} undone {from_end}", undone, stages, bytes(medium.content))

    def _deploy(
        self, name: str, end: str, document: dict[str, Any] | None = None, **order: object
    ) -> tuple[list[Write | None], list[str], bytes]:
        disk = self.directory / "disk"
        disk.write_bytes(self.old)
        outcome = self.driver.deploy(disk, document or self.job, record=True, **order)
        assert (outcome.error_code or outcome.status["status"]) == end, f"{name}: {outcome.status}"
        stages = [outcome.stage_of_call(number) for number in range(len(outcome.calls))]
        return list(steps(outcome)), stages, disk.read_bytes()

    def _save(self, name: str, record: list[Write | None], stages: list[str], new: bytes | None) -> None:
        path = self.directory / f"{name}.record"
        path.write_bytes(pickle.dumps(Record(name, new, record, stages)))


def pieces_of(writes: list[Write], chance: random.Random) -> list[Write]:
    """The writes in pieces that a power cut can part: sectors, or where they are too many so many of them at once."""
    sectors = sum(-(-len(data) // SECTOR) for _, data in writes)
    length = SECTOR * max(1, -(-sectors // MOST_PIECES)) * chance.choice((1, 1, 8))
    return [
        (offset + at, data[at : at + length]) for offset, data in writes for at in range(0, len(data), length)
    ]


def chosen(pieces: list[Write], chance: random.Random) -> list[Write]:
    """What of it has reached the disk."""
    if not pieces or chance.random() < 0.1:
        return []
    alone = chance.choice(pieces)
    match chance.randrange(6):
        case 0:
            return [alone]
        case 1:
            return [piece for piece in pieces if piece is not alone]
        case 2:
            return pieces[: chance.randrange(len(pieces)) + 1]
        case _:
            share = chance.choice((0.01, 0.2, 0.5, 0.8, 0.99))
            return [piece for piece in pieces if chance.random() < share]


@dataclass
class Storm:
    """What the runs of one process share."""

    old: bytes
    records: list[Record]
    rules: dict[str, set[str]]

    def attempt(self, seed: int) -> str:
        chance = random.Random(seed)
        record = chance.choice(self.records)
        # The commit is a few steps of many.
        late = [
            number for number, stage in enumerate(record.stages) if stage in ("claim", "finish", "commit")
        ]
        number = (
            chance.choice(late) if late and chance.random() < 0.7 else chance.randrange(len(record.steps))
        )
        medium, pending = Medium(self.old), []
        for step in record.steps[: number + 1]:
            if step is None:
                medium.apply(pending)
                pending = []
            else:
                pending.append(step)
        medium.apply(chosen(pieces_of(pending, chance), chance))
        found = state(medium.content, self.old, record.new)
        stage = record.stages[number]
        what = f"{record.name}, after step {number} of {len(record.steps)}, in {stage}"
        assert found in self.rules[stage], f"{found}: {what}"
        if number == len(record.steps) - 1 and not pending:
            assert found == ("new" if stage == "commit" and " " not in record.name else "blank"), (
                f"{found}: {what}"
            )
        return f"{stage}: {found}"


@contextmanager
def opened(directory: Path) -> Iterator[Try]:
    shared = directory / "shared"
    records = [pickle.loads(path.read_bytes()) for path in sorted(shared.glob("*.record"))]
    yield Storm((shared / "old.raw").read_bytes(), records, rules()).attempt
