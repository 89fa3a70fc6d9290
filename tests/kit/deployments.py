"""Deployments without the command: by the code that the command runs, in processes that can be stopped anywhere."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit.commands import ROOT

SSH_KEYS = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq3 ops@example\nssh-rsa AAAAB3NzaC1yc2EAAAADAQAB second@example\n"
)
USER_DATA = "#!/bin/sh\r\nprintf 'a\\nb\\\\n'\n\tgrüß  \n\n# no line end at the end"
DRIVE: dict[str, Any] = {
    "enable": True,
    "hostname": "web1.example.net",
    "sshKey": SSH_KEYS,
    "userData": USER_DATA,
    "userMetadatas": [{"key": "rôle", "value": "front"}],
}


def job(url: str, sha256: str | None, **more: object) -> dict[str, Any]:
    """A job for a raw image, with a config drive."""
    checksum = {} if sha256 is None else {"checkSum": sha256, "checkSumType": "sha256"}
    drive = {"enable": True, "hostname": "h1"}
    return {"URL": url, "type": "raw", "configdrive": drive, **checksum, **more}


@dataclass(frozen=True)
class Outcome:
    """How a deployment ended, and what it did until then."""

    signal: int
    seconds: float
    trace: list[dict[str, Any]]
    data: bytes = field(repr=False)
    """The bytes of all writes, one after the other."""

    @property
    def events(self) -> list[str]:
        return [entry["event"] for entry in self.trace if "event" in entry]

    @property
    def calls(self) -> list[tuple[str, int, int]]:
        return [(c["call"], c["offset"], c["length"]) for c in self.trace if "call" in c]

    def of_disk(self, disk: Path) -> "Outcome":
        """The part of one disk, where there were several."""
        trace, data, at = [], b"", 0
        for entry in self.trace:
            length = entry["length"] if entry.get("call") == "write" else 0
            if "call" not in entry or entry["disk"] == str(disk):
                trace.append(entry)
                data += self.data[at : at + length]
            at += length
        return Outcome(self.signal, self.seconds, trace, data)

    @property
    def waits(self) -> int:
        return sum("waits" in entry for entry in self.trace)

    @property
    def status(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = [entry["status"] for entry in self.trace if "status" in entry]
        assert found, f"the deployment left no status: {self.trace[-3:]}"
        return found[0]

    @property
    def held(self) -> bool:
        """Whether the deployment still had the disk open when it was over."""
        return bool(next(entry["held"] for entry in self.trace if "held" in entry))

    @property
    def error_code(self) -> str | None:
        return None if self.status["error"] is None else self.status["error"]["code"]

    def stage_of_call(self, number: int) -> str:
        """The stage in which a call of the disk was made."""
        stage, seen = "", 0
        for entry in self.trace:
            if "event" in entry:
                stage = entry["event"].split()[0]
            elif "call" in entry:
                if seen == number:
                    return stage
                seen += 1
        raise IndexError(number)


class Driver:
    """Deploys in processes of their own (see commit_driver.py)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._errors = directory / "driver.stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.kit.commit_driver"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
            )  # fmt: skip
        self._orders = 0

    def deploy(self, disk: Path, job: dict[str, Any], *, record: bool = False, **order: object) -> Outcome:
        """Carry one order out and wait for its end."""
        self._orders += 1
        trace = self._directory / f"trace-{self._orders}"
        data = self._directory / f"data-{self._orders}"
        order |= {"job": job, "disk": str(disk), "trace": str(trace)} | (
            {"record": str(data)} if record else {}
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._errors.read_text()
        ended = json.loads(answer)
        assert ended["exit"] == 0, self._errors.read_text()
        assert ended["signal"] in (0, signal.SIGKILL), f"it hung: {trace.read_text()[-2000:]}"
        lines = trace.read_text().splitlines() if trace.exists() else []
        return Outcome(
            ended["signal"],
            ended["seconds"],
            [json.loads(line) for line in lines],
            data.read_bytes() if record else b"",
        )

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


@contextmanager
def driving(directory: Path) -> Iterator[Driver]:
    """A driver that runs while the block does."""
    driver = Driver(directory)
    try:
        yield driver
    finally:
        driver.close()
