"""One job of the process storm, from before it is given until nothing is left of it."""

import http.client
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit import deployments
from tests.kit.agent_process import NAME, AgentProcess, Answer
from tests.kit.checks import assert_complete, assert_nothing_boots, what_is_on
from tests.kit.commands import attempt
from tests.kit.control_plane import CANCEL, DELETED, ControlPlane, Record
from tests.kit.server import Server
from tests.storm.holdings import Holdings, holdings_of
from tests.storm.process_plan import FAULTS, FULL, LARGE, SMALL, File, Instant, Job, held
from tests.storm.watcher import Watcher

LONG_SECONDS = 600
"""What no machine is too busy for; until a daemon answers, also where a hundred processes share the machine."""
KEPT_SECONDS = 60
"""Longer than aiohttp keeps a connection that nobody uses."""


@dataclass
class Lab:
    """The daemon under test, and everything around it."""

    agent: AgentProcess
    web: Server
    plane: ControlPlane
    watcher: Watcher
    disks: dict[str, Path]
    files: dict[tuple[str, int], File] = field(repr=False)
    scratch: Path

    def live(self, job: Job) -> str:
        """Everything that happens to one job, and what it leaves; gives what it came to."""
        disk = self.disks[job.disk]
        file = self.files[job.kind, 4096 if job.disk == LARGE else 512]
        before = disk.read_bytes()
        self.web.answer = FAULTS[job.fault].answer(random.Random(job.seed), file, job.pause)
        self.agent.rebooted.unlink(missing_ok=True)
        with held(disk, really=job.fault == "held"), self._abandoned(job.abandon):
            erased, record = self._run(job, file)
            document = self._settle(job, record)
        self._check(job, file, document, before, erased=erased)
        self._wind_up(job, document)
        if record is not None:
            self.plane.jobs[NAME].pop(record.id)
        return _outcome(document)

    def _run(self, job: Job, file: File) -> tuple[bool, Record | None]:
        """Begin a job and interrupt it. Gives whether it was deleted for certain, and the control plane's record."""
        document = self._document(job, file)
        if job.kinds == {"post-kill"}:
            return self._post_and_kill(document, job.interruptions[0][1]), None
        record = None
        if job.by_plane:
            record = self.plane.give(NAME, document)
            self.agent.wait(lambda: self.agent.status()["id"] == record.id, "the job is taken", LONG_SECONDS)
        else:
            answer = self.agent.post(document)
            assert answer.status == 200, answer.body
        for kind, instant in job.interruptions:
            self._wait_for(instant)
            if self._interrupt(kind, instant, record):
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

    def _signal(self, number: int) -> None:
        assert self.agent.process is not None
        self.agent.process.send_signal(number)

    def _interrupt(self, kind: str, instant: Instant, record: Record | None) -> bool:
        """Do it; whether the job is deleted for certain."""
        match kind:
            case "delete":
                assert self.agent.delete().status == 200
                return True
            case "delete-kill":
                return self._die_meanwhile(kind, self.agent.delete, 0.01) == 200
            case "kill" | "term":
                self.die(kind)
            case "stop":
                self._signal(signal.SIGSTOP)
                time.sleep(instant.seconds)
                self._signal(signal.SIGCONT)
            case "reload":
                self._signal(signal.SIGHUP)
            case "cancel" | "gone":
                assert record is not None
                record.action = CANCEL if kind == "cancel" else DELETED
        return False

    def die(self, kind: str) -> None:
        if kind == "term":
            assert self.agent.end(signal.SIGTERM) == 0
        else:
            self.agent.kill()
        self.agent.start(LONG_SECONDS)

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
        self.agent.start(LONG_SECONDS)
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

        self.agent.wait(over, "the job is over", LONG_SECONDS, found)
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
                self.die(job.afterwards)
                now = self.agent.status()
                assert (now["id"], now["status"]) == (document["id"], document["status"])
                assert len(self.web.requests) == requests, "a job that was over is run again"
            case "refused" if done and not job.by_plane:  # whose reboot waits for nobody here
                assert self.agent.post(deployments.job(self.web.url, None)).status == 409
            case "reboot" if done and "cancel" not in job.kinds:
                # A cancellation that comes after the end calls the reboot off.
                assert self.agent.get().json["status"] == "done"
                self.agent.wait(self.agent.rebooted.exists, "it reboots", LONG_SECONDS)
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
                self.agent.wait(lambda: self._reboot_state() == "failed", "the reboot fails", LONG_SECONDS)
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
        found = [holdings_of(pid)]

        def quiet() -> bool:
            found[0] = holdings_of(pid)
            return found[0].children == 0 and not self._own(found[0])

        self.agent.wait(quiet, "the daemon lets go of disks, images and children", LONG_SECONDS, found)
        return found[0]

    def rested_holdings(self, files: int) -> Holdings:
        """What it holds once it has no more descriptors than that, or `KEPT_SECONDS` are over.

        Each reload makes new connections to the control plane, by the new settings; those before are kept for a while.
        """
        with suppress(AssertionError):
            self.agent.wait(
                lambda: len(self.idle_holdings().files) <= files, "idle connections are closed", KEPT_SECONDS
            )
        return self.idle_holdings()

    def _own(self, holdings: Holdings) -> list[str]:
        """Descriptors of what a job used."""
        devices = {str(path) for path in self.disks.values()}
        return [target for target in holdings.files.values() if target in devices or "(deleted)" in target]


def _outcome(document: dict[str, Any]) -> str:
    if document["status"] is None:
        return "erased"
    return "done" if document["status"] == "done" else str(document["error"]["code"])
