"""How a case is deployed: one function, so that everything else does not care.

`on_host` runs `byoi write` here, onto the file that is the machine's disk afterwards. The others are in daemon.py.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.aio import run_blocking
from tests.lab.images import ROOT, LabImage
from tests.lab.matrix import Case
from tests.lab.registry import receipt_key
from tests.lab.site import site

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


async def on_host(case: Case, job: dict[str, Any], disk: Path) -> Deployed:
    """`byoi write` to a raw file, told of the firmware that the machine will have.

    Raises:
        TimeoutError: it does not end.
    """
    words = ["write", "-", "--disk", str(disk), "--firmware", case.firmware, "--json", "--quiet"]
    kept = disk.with_name("kept.json")
    if case.registry:
        words += ["--ca-file", str((await run_blocking(site)).ca), "--receipt", str(kept)]
        words += ["--receipt-key", str(await run_blocking(receipt_key))]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.cli", *words, stdin=pipe, stdout=pipe, stderr=pipe, env=HOST_ENVIRONMENT
    )
    try:
        async with asyncio.timeout(DEPLOY_SECONDS):
            out, err = await process.communicate(json.dumps(job).encode())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert out, f"byoi write: exit status {process.returncode}: {err.decode()}"
    # The daemon puts it there too, for the control plane.
    receipt = {"receipt": json.loads(await run_blocking(kept.read_bytes))} if case.registry else {}
    return Deployed(json.loads(out) | receipt)
