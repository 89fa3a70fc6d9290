"""The soak: many jobs in a row through one daemon, with random faults, cancels, kills and restarts.

    BYOI_SOAK=1000         how many jobs (200 without it)
    BYOI_SOAK_SEED=4711    the jobs and faults of an earlier run

The daemon dies in the first part only. The last part is the life of one process, and what it holds when it is idle may
not grow over that.
"""

import gzip
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.units import MiB
from tests.blockdev import soak
from tests.blockdev.soak import FAULTS, FULL, LARGE, SMALL, File, Holdings, Instant, Job
from tests.kit import deployments
from tests.kit.agent_process import NAME, AgentProcess, Answer, agent_process
from tests.kit.checks import assert_complete, assert_nothing_boots, what_is_on
from tests.kit.commands import attempt, run
from tests.kit.control_plane import CANCEL, DELETED, ControlPlane, Record, control_plane
from tests.kit.disks import DIRT, make_disk
from tests.kit.images import NOISE, Image, install_system
from tests.kit.server import Server, serving

JOBS = int(os.environ.get("BYOI_SOAK", "200"))
SEED = int(os.environ.get("BYOI_SOAK_SEED") or random.SystemRandom().randrange(10**6))
DYING = 0.6
"""The part of the jobs in which the daemon may be killed or stopped."""
WARM_UP = 10
"""Jobs of the last life until everything that is loaded or started once has been."""
DISK_SIZE, IMAGE_SIZE, ROOM = 24 * MiB, 16 * MiB, 13 * MiB

# What may come on top between warm-up and end, over dozens of jobs: far less than one of anything for each job. A
# traceback that the garbage collector has not come by yet may hold a buffer of the pool or two.
MORE_FILES, MORE_THREADS, MORE_MAPS, MORE_MEMORY, MORE_SHARED = 4, 2, 10, 16 * MiB, 8 * MiB


# -- the parts -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with room for a part of the image only."""
    where = tmp_path / "small"
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", where)
    try:
        yield where
    finally:
        run("umount", "--lazy", where)


@pytest.fixture
def disks(tmp_path: Path, small_filesystem: Path, loop_device) -> dict[str, Path]:
    """The three disks. The full one is empty, the others hold another system."""
    found = {}
    for name, sector_size in ((SMALL, 512), (LARGE, 4096)):
        file = tmp_path / f"disk-{name}.raw"
        make_disk(file, DISK_SIZE, DIRT)
        found[name] = loop_device(file, sector_size)
        install_system(found[name], "old-root")
    full = small_filesystem / "disk.raw"
    with full.open("wb") as file:
        file.truncate(DISK_SIZE)
    found[FULL] = loop_device(full)
    return found


@pytest.fixture
def files(tmp_path: Path, loop_device) -> dict[tuple[str, int], File]:
    """The image in all its kinds, by kind and sector size."""
    found = {}
    for sector_size in (512, 4096):
        raw = tmp_path / f"image-{sector_size}.raw"
        make_disk(raw, IMAGE_SIZE, NOISE)
        install_system(loop_device(raw, sector_size), "new-root")
        disk = Image(raw, sector_size)
        qcow2 = raw.with_suffix(".qcow2")
        run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, qcow2)
        served = {"raw": disk.data, "qcow2": qcow2.read_bytes(), "raw.gz": gzip.compress(disk.data, 1)}
        for kind, data in served.items():
            sha256 = hashlib.sha256(data).hexdigest()
            found[kind, sector_size] = File(kind.partition(".")[0], data, sha256, disk)
    return found


class Watcher(threading.Thread):
    """A client that follows the status all the time, and what it must never see."""

    def __init__(self, agent: AgentProcess) -> None:
        super().__init__()
        self._agent = agent
        self._ending = threading.Event()
        self.looks = 0
        self.faults: list[str] = []

    def run(self) -> None:
        last: dict[str, Any] = {"revision": 0, "id": None, "status": None}
        while not self._ending.is_set():
            try:
                path = f"/v1/status?since={last['revision']}&wait=2"
                document = self._agent.request("GET", path, timeout=30).json
            except (OSError, http.client.HTTPException, ValueError):
                self._ending.wait(0.05)  # it is being restarted
                continue
            self.looks += 1
            self._compare(last, document)
            last = document

    def _compare(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        if after["revision"] < before["revision"]:
            self.faults.append(f"the revision went back: {before} then {after}")
        if after["id"] is None or after["id"] != before["id"]:
            return
        if before["status"] in ("done", "error") and after["status"] != before["status"]:
            self.faults.append(f"a job that was over is not any more: {before} then {after}")
        same_life = before["startedAt"] == after["startedAt"]
        if same_life and before["attempt"] <= after["attempt"] and after["percent"] < before["percent"]:
            self.faults.append(f"the percentage went back: {before} then {after}")

    def end(self) -> None:
        self._ending.set()
        self.join()


@pytest.fixture
def lab(tmp_path: Path, disks, files) -> Iterator["Soak"]:
    with ExitStack() as stack:
        web = stack.enter_context(serving(lambda request: request.head(404, Content_Length=0)))
        plane = stack.enter_context(control_plane())
        (tmp_path / "tmp").mkdir()
        agent = stack.enter_context(
            agent_process(
                tmp_path / "agent",
                disks=tuple(disks[name] for name in (SMALL, LARGE, FULL)),
                reboot=True,
                grace_seconds=3600,
                stays_up=True,
                config=f'[control_plane]\nurl = "{plane.url}"\npoll_seconds = 0.5\npush_seconds = 0.2\n',
                environment={"TMPDIR": str(tmp_path / "tmp")},
                fresh=True,  # what it holds is looked at
            )
        )
        agent.start()
        watcher = Watcher(agent)
        watcher.start()
        stack.callback(watcher.end)
        yield Soak(agent, web, plane, watcher, disks, files, tmp_path)


# -- one job -------------------------------------------------------------------------------------------------


@dataclass
class Soak:
    """The daemon under test, and everything around it."""

    agent: AgentProcess
    web: Server
    plane: ControlPlane
    watcher: Watcher
    disks: dict[str, Path]
    files: dict[tuple[str, int], File] = field(repr=False)
    scratch: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)

    def live(self, job: Job) -> None:
        """Everything that happens to one job, and what it leaves."""
        disk = self.disks[job.disk]
        file = self.files[job.kind, 4096 if job.disk == LARGE else 512]
        before = disk.read_bytes()
        self.web.answer = FAULTS[job.fault].answer(random.Random(job.seed), file, job.pause)
        self.agent.rebooted.unlink(missing_ok=True)
        with soak.held(disk, really=job.fault == "held"), self._abandoned(job.abandon):
            erased, record = self._run(job, file)
            document = self._settle(job, record)
        self._check(job, file, document, before, erased=erased)
        self.outcomes[_outcome(document)] += 1
        self._wind_up(job, document)
        if record is not None:
            self.plane.jobs[NAME].pop(record.id)

    def _run(self, job: Job, file: File) -> tuple[bool, Record | None]:
        """Begin a job and interrupt it. Gives whether it was deleted for certain, and the control plane's record."""
        document = self._document(job, file)
        if job.kinds == {"post-kill"}:
            return self._post_and_kill(document, job.interruptions[0][1]), None
        record = None
        if job.by_plane:
            record = self.plane.give(NAME, document)
            self.agent.wait(lambda: self.agent.status()["id"] == record.id, "the job is taken")
        else:
            answer = self.agent.post(document)
            assert answer.status == 200, answer.body
        for kind, instant in job.interruptions:
            self._wait_for(instant)
            if self._interrupt(kind, record):
                return True, record
        return False, record

    def _document(self, job: Job, file: File) -> dict[str, Any]:
        group = 1 + (SMALL, LARGE, FULL).index(job.disk)
        sha256 = file.sha256 if job.with_checksum else None
        document = deployments.job(self.web.url, sha256, type=file.kind, diskGroupId=group)
        return document | {"configdrive": {"enable": True, "hostname": job.name}}

    def _wait_for(self, instant: Instant) -> None:
        while instant.stage is not None:
            document = self.agent.status()
            reached = [stage["name"] for stage in document.get("stages", ())]
            if instant.stage in reached or document["status"] != "doing":
                break
            self.agent.get(f"/v1/status?since={document['revision']}&wait=10")
        time.sleep(instant.seconds)

    def _interrupt(self, kind: str, record: Record | None) -> bool:
        """Do it; whether the job is deleted for certain."""
        match kind:
            case "delete":
                assert self.agent.delete().status == 200
                return True
            case "delete-kill":
                return self._die_meanwhile(kind, self.agent.delete, 0.01) == 200
            case "kill" | "term":
                self._die(kind)
            case "cancel" | "gone":
                assert record is not None
                record.action = CANCEL if kind == "cancel" else DELETED
        return False

    def _die(self, kind: str) -> None:
        if kind == "term":
            assert self.agent.end(signal.SIGTERM) == 0
        else:
            self.agent.kill()
        self.deaths[kind] += 1
        self.agent.start()

    def _die_meanwhile(self, kind: str, call: Any, seconds: float) -> int | None:
        """Kill the daemon in the middle of a call; gives the status of the answer, if there was one."""
        answers: list[Answer] = []

        def ask() -> None:
            with suppress(OSError, http.client.HTTPException):
                answers.append(call())

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(seconds)
        self.agent.kill()
        asking.join()
        self.deaths[kind] += 1
        self.agent.start()
        return answers[0].status if answers else None

    def _post_and_kill(self, document: dict[str, Any], instant: Instant) -> bool:
        last = self.agent.status()["id"]
        status = self._die_meanwhile("post-kill", lambda: self.agent.post(document), instant.seconds)
        accepted = self.agent.status()["id"] not in (None, last)
        assert accepted or status is None, "a job that was accepted is lost"
        if not accepted:
            self._delete()  # the last job, which was left there
        return not accepted

    def _settle(self, job: Job, record: Record | None) -> dict[str, Any]:
        """The last status of the job, or that of an empty slot."""
        found: dict[str, Any] = {}

        def over() -> bool:
            found.clear()
            found.update(self.agent.status())
            if "gone" in job.kinds and found["status"] is not None and record is not None:
                # As long as the outcome has not been told, its answer will erase the job.
                return found["status"] != "doing" and record.over
            return found["status"] != "doing"

        self.agent.wait(over, "the job is over", 90, found)
        return found

    @contextmanager
    def _abandoned(self, path: str | None) -> Iterator[None]:
        """A client that asks, does not read, and goes away in the end."""
        if path is None:
            yield
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(self.agent.socket))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            yield

    # -- what it may have come to ------------------------------------------------------------------------

    def _check(self, job: Job, file: File, document: dict[str, Any], before: bytes, *, erased: bool) -> None:
        """The job ended as its faults allow, and the disk holds what that means."""
        outcome = _outcome(document)
        assert outcome in ({"erased"} if erased else self._allowed(job)), document
        disk = self.disks[job.disk]
        if outcome == "done":
            self._assert_deployed(disk, file, job)
            assert document["checksum"] == f"sha256:{file.sha256}"
            return
        after = disk.read_bytes()
        claimed = any(stage["name"] == "claim" for stage in document.get("stages", ()))
        may_be_untouched = outcome == "erased" or not claimed
        must_be_untouched = outcome != "erased" and not claimed and not job.dies
        if after == before and may_be_untouched:
            return
        assert not must_be_untouched, "it was written to, though nothing was claimed"
        found = what_is_on(disk, before)
        if outcome == "erased" and found == "system":
            self._assert_deployed(disk, file, job)  # the deletion came after the commit
        elif job.dies and found == "headless":
            # It died in the commit, and its next life ended before it had taken the disk again. The kernel and the
            # firmware look for a GPT only behind a protective MBR.
            seen = attempt("blkid", "--probe", "--output", "export", disk)
            assert "PTTYPE" not in seen.stdout
        else:
            assert_nothing_boots(disk)

    def _allowed(self, job: Job) -> set[str]:
        allowed = set(job.codes()) or {"done"}
        if job.kinds & {"delete-kill", "gone"}:
            allowed.add("erased")
        if "cancel" in job.kinds:
            allowed.add("job.cancelled")
        return allowed

    def _assert_deployed(self, disk: Path, file: File, job: Job) -> None:
        """The whole system is there, and it is of this job and of no earlier one."""
        assert_complete(disk, file.disk, self.scratch)
        assert f'"{job.name}"'.encode() in (self.scratch / "drive").read_bytes()

    # -- afterwards --------------------------------------------------------------------------------------

    def _wind_up(self, job: Job, document: dict[str, Any]) -> None:
        over, done = document["status"] in ("done", "error"), document["status"] == "done"
        match job.afterwards:
            case "kill" | "term" if over:
                requests = len(self.web.requests)
                self._die(job.afterwards)
                now = self.agent.status()
                assert (now["id"], now["status"]) == (document["id"], document["status"])
                assert len(self.web.requests) == requests, "a job that was over is run again"
            case "refused" if done and not job.by_plane:  # whose reboot waits for nobody here
                assert self.agent.post(deployments.job(self.web.url, None)).status == 409
            case "reboot" if done and "cancel" not in job.kinds:
                # A cancellation that comes after the end calls the reboot off.
                assert self.agent.get().json["status"] == "done"
                self.agent.wait(self.agent.rebooted.exists, "it reboots")
            case "leave" if over and not done:
                return
        self._delete()
        assert self.agent.get().status == 404
        if job.afterwards != "reboot" and not job.by_plane:
            assert not self.agent.rebooted.exists()

    def _delete(self) -> None:
        """Delete the job; one whose reboot has been ordered once that has failed, or has been."""
        answer = self.agent.delete()
        if answer.status == 409:
            with suppress(AssertionError):
                self.agent.wait(lambda: self._reboot_state() == "failed", "the reboot fails", 5)
            if self._reboot_state() == "due":  # by an agent that is dead: this one only waits for it
                self.agent.reboot_now()
            answer = self.agent.delete()
        assert answer.status == 200

    def _reboot_state(self) -> str | None:
        return (self.agent.status()["reboot"] or {}).get("state")

    # -- what the daemon holds ---------------------------------------------------------------------------

    def idle_holdings(self) -> Holdings:
        """What it holds once the last job's clients and children are gone."""
        assert self.agent.process is not None
        pid = self.agent.process.pid
        found = [soak.holdings(pid)]

        def quiet() -> bool:
            found[0] = soak.holdings(pid)
            return found[0].children == 0 and not self._own(found[0])

        self.agent.wait(quiet, "the daemon lets go of disks, images and children", 20, found)
        return found[0]

    def _own(self, holdings: Holdings) -> list[str]:
        """Descriptors of what a job used."""
        devices = {str(path) for path in self.disks.values()}
        return [target for target in holdings.files.values() if target in devices or "(deleted)" in target]


def _outcome(document: dict[str, Any]) -> str:
    if document["status"] is None:
        return "erased"
    return "done" if document["status"] == "done" else str(document["error"]["code"])


# -- the soak ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(max(1200, JOBS * 6))
def test_many_jobs_with_random_faults_end_as_they_may_and_leave_nothing_behind(lab: Soak, tmp_path: Path):
    rng = random.Random(SEED)
    print(f"BYOI_SOAK={JOBS} BYOI_SOAK_SEED={SEED}", file=sys.stderr)
    last_life = round(JOBS * DYING)
    idle: list[Holdings] = []
    scratch_files: list[set[str]] = []
    for number in range(JOBS):
        job = soak.plan(rng, number, deaths=number < last_life)
        if number == last_life:
            lab._die("term")
        try:
            lab.live(job)
            assert lab.agent.process is not None
            assert lab.agent.process.poll() is None
            holdings = lab.idle_holdings()
        except BaseException as error:
            error.add_note(f"{job}; repeat with BYOI_SOAK={JOBS} BYOI_SOAK_SEED={SEED}")
            raise
        if number >= last_life:
            idle.append(holdings)
            scratch_files.append({path.name for path in (tmp_path / "tmp").iterdir()})
    lab.watcher.end()
    print(f"outcomes {dict(lab.outcomes)}; deaths {dict(lab.deaths)}", file=sys.stderr)
    _assert_nothing_grew(idle)
    assert scratch_files[-1] <= scratch_files[0], "temporary files are left"
    assert lab.agent.end(signal.SIGTERM) == 0
    _assert_clean(lab, tmp_path)


def _assert_nothing_grew(idle: list[Holdings]) -> None:
    warm, end = idle[min(WARM_UP, len(idle) // 3)], idle[-1]
    print(f"warm: {warm.summary()}\n end: {end.summary()}", file=sys.stderr)
    assert len(end.files) - len(warm.files) <= MORE_FILES, end.files
    assert end.threads - warm.threads <= MORE_THREADS
    assert end.maps - warm.maps <= MORE_MAPS
    assert end.data - warm.data <= MORE_MEMORY
    assert max(holdings.shared for holdings in idle) <= MORE_SHARED
    assert end.resident - warm.resident <= MORE_MEMORY


def _assert_clean(lab: Soak, tmp_path: Path) -> None:
    """Nothing of the daemon is left on the machine, and it never met a fault of its own."""
    assert lab.watcher.faults == []
    assert lab.watcher.looks > JOBS
    for word in ("Traceback", "job_crashed", "deploy_crashed", "request_failed", "agent.internal"):
        assert word not in lab.agent.log
    loops = json.loads(run("losetup", "--json", "--list", "--output", "NAME,BACK-FILE") or "{}")
    ours = [loop for loop in loops.get("loopdevices", ()) if str(tmp_path) in (loop["back-file"] or "")]
    assert len(ours) == len(lab.disks) + 2, "loop devices: the disks and the two images"
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(tmp_path) in line]
    assert len(mounts) == 1, mounts
    left = [path for path in Path("/proc").glob("[0-9]*") if str(tmp_path) in _command(path)]
    assert left == [], "processes of the daemon are left"
    kept = sorted(path.name for path in lab.agent.journal.parent.iterdir())
    assert kept == [".journal.json.new", "journal.json", "lock"], "the journal and its spare file"


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""
