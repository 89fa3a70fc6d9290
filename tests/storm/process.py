"""The process storm: jobs through one daemon with clients around it, while it is killed, stopped, and told to go on.

A run is one job, with the faults, interruptions and what comes afterwards that `process_plan` draws. The disk has to
hold what the job came to, nobody may be told less than before, and an outcome is for good. For two hundred seeds the
daemon may die, for the next two hundred it may not: what it holds when it is idle may not grow over such a life.
"""

import gzip
import hashlib
import json
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.units import MiB
from tests.kit.agent_process import agent_process
from tests.kit.commands import run
from tests.kit.control_plane import control_plane
from tests.kit.disks import DIRT, make_disk
from tests.kit.images import NOISE, Image, install_system
from tests.kit.loops import Loop, attach
from tests.kit.server import serving
from tests.storm.frame import Try
from tests.storm.holdings import MORE_FILES, WARM_UP, Holdings, assert_nothing_grew
from tests.storm.process_job import LONG_SECONDS, Lab
from tests.storm.process_plan import FULL, LARGE, SMALL, File, plan
from tests.storm.watcher import Watcher

NEEDS_ROOT = True
SPAN = 200
"""So many seeds in which the daemon may die, and as many in which it may not."""
DISK_SIZE, IMAGE_SIZE, ROOM = 24 * MiB, 16 * MiB, 13 * MiB


SECTORS = {SMALL: 512, LARGE: 4096}


# -- what all processes share --------------------------------------------------------------------------------


def prepare(directory: Path) -> None:
    """The image, and the disks with another system, with sectors of both sizes."""
    for sector_size in SECTORS.values():
        for name, size, fill in (("image", IMAGE_SIZE, NOISE), ("old", DISK_SIZE, DIRT)):
            raw = directory / f"{name}-{sector_size}.raw"
            make_disk(raw, size, fill)
            with attached(raw, sector_size) as device:
                install_system(device, f"{'new' if name == 'image' else 'old'}-root")
        image = directory / f"image-{sector_size}.raw"
        image.with_suffix(".gz").write_bytes(gzip.compress(image.read_bytes(), 1))
        run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", image, image.with_suffix(".qcow2"))


@contextmanager
def attached(file: Path, sector_size: int = 512) -> Iterator[Path]:
    loop: Loop = attach(file, sector_size)
    try:
        yield loop.device
    finally:
        loop.detach()


def files_in(directory: Path) -> dict[tuple[str, int], File]:
    """The image in all its kinds, by kind and sector size."""
    found = {}
    for sector_size in SECTORS.values():
        disk = Image(directory / f"image-{sector_size}.raw", sector_size)
        for kind, suffix in (("raw", "raw"), ("qcow2", "qcow2"), ("raw.gz", "gz")):
            data = disk.path.with_suffix(f".{suffix}").read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            found[kind, sector_size] = File(kind.partition(".")[0], data, sha256, disk)
    return found


# -- what each has for itself --------------------------------------------------------------------------------


@contextmanager
def small_filesystem(where: Path) -> Iterator[Path]:
    """A filesystem with room for a part of the image only."""
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", where)
    try:
        yield where
    finally:
        run("umount", "--lazy", where)


def disks_of(stack: ExitStack, directory: Path) -> dict[str, Path]:
    """The three disks. The full one is empty, the others hold another system."""
    found = {}
    for name, sector_size in SECTORS.items():
        file = directory / f"disk-{name}.raw"
        shutil.copy(directory / f"shared/old-{sector_size}.raw", file)
        found[name] = stack.enter_context(attached(file, sector_size))
    full = stack.enter_context(small_filesystem(directory / "small")) / "disk.raw"
    with full.open("wb") as file:
        file.truncate(DISK_SIZE)
    found[FULL] = stack.enter_context(attached(full))
    return found


@dataclass
class Storm:
    """The runs of one process, and what the daemon held behind each of a life in which it may not die."""

    lab: Lab
    idle: list[Holdings] = field(default_factory=list)

    def attempt(self, seed: int) -> str:
        deaths = seed // SPAN % 2 == 0
        if deaths:
            self.end_of_life()
        job = plan(random.Random(seed), seed, deaths=deaths)
        try:
            outcome = self.lab.live(job)
            assert self.lab.agent.process is not None
            assert self.lab.agent.process.poll() is None, "it is gone"
            holdings = self.lab.idle_holdings()
            assert self.lab.watcher.faults == []
        except BaseException as error:
            error.add_note(f"{job}")
            raise
        if not deaths:
            self.idle.append(holdings)
        return outcome

    def end_of_life(self) -> None:
        """Nothing has grown; a life of a few jobs says nothing."""
        if len(self.idle) > WARM_UP:
            most = len(self.idle[WARM_UP].files) + MORE_FILES
            self.idle.append(self.lab.rested_holdings(most))
            assert_nothing_grew(self.idle)
        self.idle.clear()


@contextmanager
def opened(directory: Path) -> Iterator[Try]:
    with ExitStack() as stack:
        disks = disks_of(stack, directory)
        web = stack.enter_context(serving(lambda request: request.head(404, Content_Length=0)))
        plane = stack.enter_context(control_plane())
        (directory / "tmp").mkdir()
        agent = stack.enter_context(
            agent_process(
                directory / "agent",
                disks=tuple(disks[name] for name in (SMALL, LARGE, FULL)),
                reboot=True,
                grace_seconds=3600,
                stays_up=True,
                config=f'[control_plane]\nurl = "{plane.url}"\npoll_seconds = 0.5\npush_seconds = 0.2\n',
                environment={"TMPDIR": str(directory / "tmp")},
                fresh=True,  # what it holds is looked at
            )
        )
        agent.start(LONG_SECONDS)
        watcher = Watcher(agent)
        watcher.start()
        stack.callback(watcher.end)
        storm = Storm(Lab(agent, web, plane, watcher, disks, files_in(directory / "shared"), directory))
        yield storm.attempt
        storm.end_of_life()
        watcher.end()
        assert agent.end(signal.SIGTERM) == 0
        assert_clean(storm.lab, directory)


def assert_clean(lab: Lab, directory: Path) -> None:
    """Nothing of the daemon is left on the machine, and it never met a fault of its own."""
    for word in ("Traceback", "job_crashed", "deploy_crashed", "request_failed", "agent.internal"):
        assert word not in lab.agent.log
    loops = json.loads(run("losetup", "--json", "--list", "--output", "NAME,BACK-FILE") or "{}")
    ours = [loop for loop in loops.get("loopdevices", ()) if f"{directory}/" in (loop["back-file"] or "")]
    assert len(ours) == len(lab.disks), ours
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{directory}/" in line]
    assert len(mounts) == 1, mounts
    left = [path for path in Path("/proc").glob("[0-9]*") if f"{directory}/" in _command(path)]
    assert left == [], "processes of the daemon are left"
    kept = sorted(path.name for path in lab.agent.journal.parent.iterdir())
    assert kept == [".journal.json.new", "journal.json", "lock"], "the journal and its spare file"
    assert list((directory / "tmp").iterdir()) == [], "temporary files are left"


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""
