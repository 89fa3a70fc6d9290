"""How a case is deployed: one function, so that everything else does not care.

`on_host` runs `byoi write` here, onto the file that is the machine's disk afterwards. The others are in rescue.py.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.images import ROOT, LabImage
from tests.lab.matrix import Case

DEPLOY_SECONDS = 900
HOST_ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}

Deploy = Callable[[Case, dict[str, Any], Path], Awaitable["Deployed"]]
"""Carries a job out on a disk (a raw file), and gives how it ended. The job's URL is on this machine's loopback."""


@dataclass(frozen=True)
class Deployed:
    """The last status document, as the control plane gets it."""

    status: dict[str, Any]

    @property
    def error_code(self) -> str:
        return "" if self.status["error"] is None else str(self.status["error"]["code"])

    @property
    def stage_seconds(self) -> dict[str, float]:
        """How long each stage took, in their order."""
        return {stage["name"]: stage["seconds"] for stage in self.status["stages"]}


def make_job(image: LabImage, url: str, drive: dict[str, Any]) -> dict[str, Any]:
    """The job document of an image that is served at the URL."""
    job = {"URL": url, "type": image.type, "checkSum": image.sha256, "checkSumType": "sha256"}
    return job | {"configdrive": {"enable": True} | drive}


class Writing:
    """`byoi write --json` at work, here or in a machine."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def wait_stage(self, name: str) -> None:
        """Follow the progress that the command prints, until a stage begins."""
        assert self._process.stderr is not None
        seen = b""
        async for line in self._process.stderr:
            seen += line
            if f" {name}: begins".encode() in line:
                return
        raise AssertionError(f"{name} has not begun: {seen.decode()}")

    async def finish(self) -> Deployed:
        """Wait for the end.

        Raises:
            TimeoutError: it does not come.
        """
        async with asyncio.timeout(DEPLOY_SECONDS):
            out, err = await self._process.communicate()
        assert out, f"byoi write: exit status {self._process.returncode}: {err.decode()}"
        return Deployed(json.loads(out))


@asynccontextmanager
async def writing(
    command: Sequence[str], job: dict[str, Any], env: dict[str, str] | None = None
) -> AsyncIterator[Writing]:
    """Start `byoi write`, by these words; the job goes to its stdin."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
        yield Writing(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        # Its pipes are read to their end, so that nothing of it is left.
        await process.communicate()


async def on_host(case: Case, job: dict[str, Any], disk: Path) -> Deployed:
    """`byoi write` to a raw file, told of the firmware that the machine will have."""
    words = ["write", "-", "--disk", str(disk), "--firmware", case.firmware, "--json", "--quiet"]
    async with writing([sys.executable, "-m", "agent.cli", *words], job, HOST_ENVIRONMENT) as work:
        return await work.finish()
