"""The network storm: deployments from a server that draws its faults, and what each must come to.

All of the agent is real but for libparted and the disk, which is in memory. What must come stands in docs/transfer.md,
"What each fault comes to": the right bytes, or an error of that code and blame. An error leaves the disk as it was, or
blank at both ends; the header that the job brings for its own origin is seen by no other.
"""

import asyncio
import gc
import gzip
import hashlib
import json
import random
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog
import trustme

from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.host.disk import read_identity
from agent.model.job import parse_job
from agent.transfer import open as opening
from agent.transfer.http.limits import HttpLimits
from agent.units import MiB
from tests.kit import qcow2
from tests.kit.commands import ROOT, run
from tests.kit.ova import make_ova
from tests.kit.ramps import Eager
from tests.kit.server import serving
from tests.storm.frame import Try
from tests.storm.network_faults import FAULTS
from tests.storm.network_server import LIMITS, Scene, Style, hasty
from tests.unit.stages.memory import MemoryDisk, MemoryMachine, gpt_disk

NEEDS_ROOT = False
SIZES = {"small": 5 * MiB, "large": 13 * MiB}
"""Of the images: the second has bytes behind what is examined before anything is written."""
DISK_SIZE = 16 * MiB
CLUSTER_BITS = 16
WAITING = {"stall", "late-head", "trickle", "stall-for-good", "tls-none"}
MOST_SECONDS = 600
"""Nothing that a server does here keeps a deployment longer, not even where a hundred processes share the machine."""
PATIENCE = 10
SEVERAL = 0.3
"""Share of the runs in which the agent wants several connections from the start."""
WIDE = ("large", "raw")
"""The image whose file is long enough for them."""
TOKEN = "storm-secret"
ROW = re.compile(r"^\| `([a-z-]+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Rule:
    """What a fault must come to: in words as in the table, or None where it is not drawn."""

    checksummed: frozenset[str]
    plain: frozenset[str]
    mirrored: frozenset[str]


def rules() -> dict[str, Rule]:
    """The table of docs/transfer.md."""

    def outcomes(cell: str) -> frozenset[str]:
        return frozenset() if cell == "not drawn" else frozenset(cell.replace("`", "").split(" or "))

    page = (ROOT / "docs/transfer.md").read_text()
    return {name: Rule(*map(outcomes, cells)) for name, *cells in ROW.findall(page)}


# -- images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """An image as it is served."""

    type: str
    size: str
    data: bytes = field(repr=False)
    sha256: str


def image_of(size: int) -> bytes:
    """A disk with its table, and other random bytes wherever the table is not, some zeros but for."""
    disk = bytearray(gpt_disk(size))
    source = random.Random(size)
    for at in range(MiB, size - MiB, MiB):
        if at % (3 * MiB):
            disk[at : at + MiB] = source.randbytes(MiB // 2) + bytes(MiB // 2)
    return bytes(disk)


def late_qcow2(disk: bytes) -> bytes:
    """A qcow2 with all its tables behind what they map."""
    builder = qcow2.Builder(cluster_bits=CLUSTER_BITS, size=len(disk))
    cluster = 1 << CLUSTER_BITS
    clusters = {
        at // cluster: qcow2.Data(disk[at : at + cluster])
        for at in range(0, len(disk), cluster)
        if any(disk[at : at + cluster])
    }
    order = sorted(builder.items(clusters), key=lambda item: item[0] in ("l1", "l2", "refcounts"))
    return bytes(builder.build(clusters, order).file)


def prepare(directory: Path) -> None:
    for size, length in SIZES.items():
        disk = image_of(length)
        raw = directory / f"{size}.raw"
        raw.write_bytes(disk)
        (directory / f"{size}.gzip").write_bytes(gzip.compress(disk, 1))
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, directory / f"{size}.qcow2")
        (directory / f"{size}.late").write_bytes(late_qcow2(disk))
        make_ova(raw, directory / f"{size}.ova", manifest="right")
    (directory / "disk").touch()
    with (directory / "disk").open("r+b") as file:
        file.truncate(DISK_SIZE)


TYPES = {"raw": "raw", "gzip": "raw", "qcow2": "qcow2", "late": "qcow2", "ova": "ova"}


# -- deployments -------------------------------------------------------------------------------------------------


class Machine(MemoryMachine):
    """One disk in memory, in the place of an empty file."""

    def __init__(self, path: Path) -> None:
        super().__init__(MemoryDisk(identity=read_identity(str(path))))

    def open_disk(self, path: str) -> MemoryDisk:
        return self.disk


@dataclass
class Storm:
    """What the runs of one process share."""

    directory: Path
    files: dict[tuple[str, str], File]
    rules: dict[str, Rule]
    tls: dict[str, ssl.SSLContext]
    whole: dict[str, bytes] = field(default_factory=dict, repr=False)
    """The disk after a deployment, by the size of the image."""

    def learn(self) -> None:
        """What the disk has to hold, by deployments that nothing disturbs."""
        for size in SIZES:
            file = self.files[size, "raw"]
            with serving(lambda request, file=file: request.file(file.data)) as server:
                status, disk = self.deploy({"URL": server.url, "type": "raw"})
            assert status["status"] == "done", status
            self.whole[size] = bytes(disk.content)

    def deploy(self, job: dict[str, Any], limits: HttpLimits = LIMITS) -> tuple[dict[str, Any], MemoryDisk]:
        path = self.directory / "shared/disk"
        machine = Machine(path)
        options = Options(disks=(str(path),), ca_file=str(self.directory / "ca.pem"), limits=limits)
        deployment = Deployment(parse_job(job), options, machine=machine)

        async def deploy() -> None:
            async with asyncio.timeout(MOST_SECONDS):
                await deployment.run()

        asyncio.run(deploy())
        return deployment.snapshot().document(), machine.disk

    def attempt(self, seed: int) -> str:
        """Carry out a run. What waiting has spoilt is tried with patience: a busy machine is no fault."""
        try:
            return self.carry_out(seed, 1.0)
        except AssertionError:
            if random.Random(seed).choice(list(FAULTS)) not in WAITING:
                raise
            return self.carry_out(seed, PATIENCE)

    def carry_out(self, seed: int, patience: float) -> str:
        chance = random.Random(seed)
        name = chance.choice(list(FAULTS))
        rule = self.rules[name]
        mirrored = bool(rule.mirrored) and chance.random() < 0.2
        checksummed = chance.random() < 0.6 if rule.plain else True
        several = chance.random() < SEVERAL
        file = self.files[WIDE if several else (chance.choice(list(SIZES)), chance.choice(list(TYPES)))]
        expected = rule.mirrored if mirrored else rule.checksummed if checksummed else rule.plain
        tls = name.startswith("tls-") or chance.random() < 0.15
        scene = Scene(chance, file.data, Style.drawn(chance), checksummed)
        with ExitStack() as stack:
            healthy = Scene(chance, file.data, Style.drawn(chance), checksummed)
            context = self.tls["good"] if tls else None
            scene.elsewhere = stack.enter_context(serving(healthy.answer, tls=context, keep=several))
            if several:
                stack.enter_context(patch.object(opening, "Ramp", Eager))
                scene.resumable()
            FAULTS[name](scene)
            if several and scene.always is None:
                scene.spread()
            context = self.tls.get(name, self.tls["good"]) if tls and name != "tls-none" else None
            server = stack.enter_context(serving(scene.answer, tls=context, keep=several))
            url = server.url.replace("http:", "https:") if name == "tls-none" else server.url
            job = self.job(url, file, checksummed, [scene.elsewhere.url] if mirrored else [])
            status, disk = self.deploy(job, hasty(patience) if name in WAITING else LIMITS)
            slices = [r for r in (*server.requests, *scene.elsewhere.requests) if r.span and r.span[1]]
            leaked = [r.target for r in scene.elsewhere.requests if TOKEN in repr(r.headers)]
        gc.collect()  # the buffers of an error's traceback
        came = outcome_of(status)
        what = f"{name} {scene.style} {job} {json.dumps(status)}"
        assert fits(came, expected), f"{came} instead of {' or '.join(expected)}: {what}"
        assert not leaked, f"the header of one origin went to another: {what}"
        self.check_disk(came, file, disk, what)
        return f"{name}{' to several connections' if several and slices else ''}: {came}"

    def job(self, url: str, file: File, checksummed: bool, mirrors: list[str]) -> dict[str, Any]:
        checksum = {"checkSum": file.sha256, "checkSumType": "sha256"} if checksummed else {}
        headers = [{"key": "X-Token", "value": TOKEN}]
        more = {"mirrors": mirrors} if mirrors else {}
        return {"URL": url, "type": TYPES[file.type], "httpHeader": headers, **checksum, **more}

    def check_disk(self, came: str, file: File, disk: MemoryDisk, what: str) -> None:
        if came == "right":
            assert disk.content == self.whole[file.size], f"other bytes than those of the image: {what}"
        elif any(name in ("write", "zero") for name, _, _ in disk.calls):
            assert not any(disk.content[:MiB] + disk.content[-MiB:]), f"not blank: {what}"
        assert disk.closed or not disk.calls, f"the disk is still held: {what}"


def fits(came: str, expected: frozenset[str]) -> bool:
    """`any (BLAME)` stands for every error of that blame."""
    return came in expected or f"any {came.partition(' ')[2]}" in expected


def outcome_of(status: dict[str, Any]) -> str:
    error = status["error"]
    return "right" if error is None else f"{error['code']} ({error['blame']})"


def contexts(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    """What servers prove themselves with: rightly, and by the names of faults."""

    def context(by: trustme.CA, name: str, **options: Any) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        by.issue_cert(name, **options).configure_cert(made)
        return made

    past = datetime.now(UTC) - timedelta(days=1)
    return {
        "good": context(authority, "127.0.0.1"),
        "tls-expired": context(authority, "127.0.0.1", not_after=past),
        "tls-other-name": context(authority, "images.example.org"),
        "tls-unknown": context(trustme.CA(), "127.0.0.1"),
    }


@contextmanager
def opened(directory: Path) -> Iterator[Try]:
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    files = {}
    for size in SIZES:
        for kind in TYPES:
            data = (directory / "shared" / f"{size}.{kind}").read_bytes()
            files[size, kind] = File(kind, size, data, hashlib.sha256(data).hexdigest())
    storm = Storm(directory, files, rules(), contexts(authority))
    storm.learn()
    yield storm.attempt
