"""Runs one command of the table on one image and one disk, and tells what it used."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from images import MIB, Image
from rows import LIMITS, OURS, OURS_READ_BACK, OURS_TWICE, Command, Row

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# `step NAME` says when a step begins; the last one ends with the command.
_PRELUDE = """\
set -euo pipefail
step() { printf '%s %s\\n' "$1" "$EPOCHREALTIME" >>"$STEPS"; }
"""
START = "start"
"""A step that does not count: the imports of a peer that would be running for long."""
SMOKE_PATIENCE = 5
TIMED_OUT = 124
"""Exit status of timeout(1)."""
_DIRT = b"\xa5" * MIB


class CommandFailed(Exception):
    """A command of the table ended with an error, or left something else on the disk than it should have."""


class CommandHung(CommandFailed):
    """It was ended after its patience."""


@dataclass(frozen=True)
class Sample:
    """One run. Seconds, bytes."""

    wall: float
    """From start to exit, without a step of that name."""
    cpu: float
    """User and system, of all processes; the server is none of them, and the kernel's own threads are not."""
    peak: int
    """Resident memory of the largest process."""
    part: float | None
    """What is the work by the command's own word: the write stage, or a part alone."""
    steps: dict[str, float]
    """Stages of a deployment, or steps of a script."""


@dataclass(frozen=True)
class Place:
    """Where commands are run."""

    disk: Path
    other: Path
    """A second disk, for the commands that write to two."""
    stage: Path
    certificate: Path
    python: Path
    """An interpreter with the agent, and with nothing that its package has not."""
    ipa: Path
    checked: bool
    """Each command's disk is compared with the image afterwards."""

    def run(self, row: Row, command: Command, image: Image, url: str) -> Sample:
        """Run it on a dirty disk, with nothing in the stage.

        Raises:
            CommandFailed: ...
        """
        shutil.rmtree(self.stage, ignore_errors=True)
        self.stage.mkdir()
        steps = self.stage.with_suffix(".steps")
        steps.write_text("")
        self._make_dirty(image)
        environment = self._environment(row, image, url) | {"STEPS": str(steps)}
        output, usage = measured(self._shell(row, command), environment)
        if self.checked and command.name not in {limit.name for limit in LIMITS.values()}:
            self._check(command, image)
        shutil.rmtree(self.stage)
        told = steps.read_text()
        part, found = None, _steps(told, usage["ended"])
        if command in (OURS, OURS_READ_BACK, OURS_TWICE):
            found = {stage["name"]: stage["seconds"] for stage in json.loads(output)["stages"]}
            part = found["write"]
        elif '"$PYTHON"' in command.script:  # a limit of ours
            part = json.loads(output)["seconds"]
        wall = usage["wall"] - found.pop(START, 0.0)
        return Sample(wall, usage["user"] + usage["system"], int(usage["peak"]), part, found)

    def _environment(self, row: Row, image: Image, url: str) -> dict[str, str]:
        trust = str(self.certificate)
        # curl and requests are told by these two whom to trust.
        tls = {"CURL_CA_BUNDLE": trust, "REQUESTS_CA_BUNDLE": trust} if row.tls else {}
        return os.environ | tls | {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
            "TMPDIR": str(self.stage),
            "URL": url,
            "SHA256": image.sha256,
            "SIZE": str(image.size),
            "GUEST_SIZE": str(image.guest_size),
            "KIND": image.kind,
            "DISK": str(self.disk),
            "OTHER": str(self.other),
            "STAGE": str(self.stage),
            "HERE": str(HERE),
            "PYTHON": str(self.python),
            "IPA": str(self.ipa),
            "CERTIFICATE": trust,
            "TRUST": f"--ca-file {trust}" if row.tls else "",
            "UNPACK": row.unpack,
        }  # fmt: skip

    def _shell(self, row: Row, command: Command) -> list[str]:
        pinned = ["taskset", "--cpu-list", f"0-{row.cores - 1}"] if row.cores else []
        patience = SMOKE_PATIENCE if self.checked and command.hangs else command.patience
        return ["timeout", "--kill-after=5", str(patience), *pinned, "bash", "-c", _PRELUDE + command.script]

    def _make_dirty(self, image: Image) -> None:
        """What an earlier command has written is no help, and neither is what is left of it in memory."""
        with self.disk.open("r+b", buffering=0) as disk:
            disk.seek(image.guest_size // 4)
            disk.write(_DIRT)
            os.fsync(disk)
        subprocess.run(["blockdev", "--flushbufs", self.disk], check=True)

    def _check(self, command: Command, image: Image) -> None:
        """The ends are a table's, which is fitted to the disk by some."""
        length = image.guest_size - 2 * MIB
        compared = subprocess.run(
            ["cmp", "-i", str(MIB), "-n", str(length), image.guest, self.disk],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if compared.returncode:
            raise CommandFailed(f"{command.name}: {compared.stdout}{compared.stderr}")


def measured(command: list[object], environment: Mapping[str, str]) -> tuple[str, dict[str, float]]:
    """Run a command in the project's tree; gives its output and what it used.

    Raises:
        CommandFailed: it ended with another status than 0.
    """
    with tempfile.NamedTemporaryFile() as report:
        done = subprocess.run(
            [sys.executable, HERE / "measure.py", report.name, *map(str, command)],
            capture_output=True, text=True, check=False, cwd=ROOT, env=environment,
        )  # fmt: skip
        if done.returncode == TIMED_OUT:
            raise CommandHung(command[-1])
        if done.returncode:
            raise CommandFailed(
                f"exit status {done.returncode} of\n{command[-1]}\n{done.stdout}{done.stderr}"
            )
        return done.stdout, json.loads(Path(report.name).read_text())


def _steps(told: str, ended: float) -> dict[str, float]:
    begun = [(name, float(at)) for name, at in (line.split() for line in told.splitlines())]
    return {name: end - at for (name, at), (_, end) in pairwise([*begun, ("", ended)])}
