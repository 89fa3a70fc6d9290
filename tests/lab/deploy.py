"""How a case is deployed: one function, so that everything else does not care.

`on_host` runs `byoi write` here, onto the file that is the machine's disk afterwards.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.images import ROOT, LabImage
from tests.lab.matrix import Case

DEPLOY_SECONDS = 600

Deploy = Callable[[Case, dict[str, Any], Path], Awaitable["Deployed"]]
"""Carries a job out on a disk, and gives how it ended. Of the job's URL the host is this machine's loopback."""


@dataclass(frozen=True)
class Deployed:
    """The last status document, as the control plane gets it."""

    status: dict[str, Any]

    @property
    def error_code(self) -> str:
        return "" if self.status["error"] is None else str(self.status["error"]["code"])


def make_job(image: LabImage, url: str, drive: dict[str, Any]) -> dict[str, Any]:
    """The job document of an image that is served at the URL."""
    job = {"URL": url, "type": image.type, "checkSum": image.sha256, "checkSumType": "sha256"}
    return job | {"configdrive": {"enable": True} | drive}


async def on_host(case: Case, job: dict[str, Any], disk: Path) -> Deployed:
    """`byoi write` to a raw file, told of the firmware that the machine will have."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.cli", "write", "-", "--disk", str(disk), "--firmware", case.firmware,
        "--json", "--quiet",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEPLOY_SECONDS):
            out, err = await process.communicate(json.dumps(job).encode())
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    assert out, err.decode()
    return Deployed(json.loads(out))
