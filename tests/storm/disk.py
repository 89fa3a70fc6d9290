"""The disk storm: `byoi write` onto a disk of which one call ends as no call should.

The real command runs over a shim in front of libc (shim.c). docs/proof.md says for each fault what must come; the disk
is as it was, blank, or whole, and what the error says of it is so.
"""

import json
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.units import MiB
from tests.kit import byoi
from tests.kit.checks import what_is_on
from tests.kit.commands import ROOT, run
from tests.kit.deployments import job
from tests.kit.images import Image, make_image, make_old_disk
from tests.kit.server import Server, serving
from tests.storm.frame import Try
from tests.storm.network import fits, outcome_of

NEEDS_ROOT = False
IMAGE_SIZE, DISK_SIZE = 13 * MiB, 16 * MiB
ROW = re.compile(r"^\| `(\w+)` \| `([a-z, ]+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
KINDS = {"raw": "raw", "qcow2": "qcow2", "plain": "qcow2"}
MOST = {"write": 40, "submit": 4, "zero": 12, "flush": 8, "read": 30}
"""So many calls of a kind, about, are there in a deployment; a number that is too high hits nothing."""
LIMITS = {"descriptors": ("nofile", 8, 20), "memory": ("as", 60 * MiB, 240 * MiB)}
"""The option of prlimit, and between what its number is drawn: from nearly nothing to more than enough."""
STATES = {"old": {"untouched"}, "blank": {"empty"}, "headless": set(), "system": set()}
"""What an error may say of a disk; that nobody knows it may be said of each."""


def rules() -> dict[tuple[str, str], frozenset[str]]:
    """The table of docs/proof.md: how a call ends, what kind of call it is, and what must come."""
    page = (ROOT / "docs/proof.md").read_text()
    return {
        (kind, how): frozenset(cell.split(" or "))
        for how, kinds, cell in ROW.findall(page)
        for kind in kinds.split(", ")
    }


def prepare(directory: Path) -> None:
    image = make_image(directory, IMAGE_SIZE)
    convert = ("qemu-img", "convert", "-f", "raw", "-O", "qcow2")
    run(*convert, "-c", image.path, directory / "image.qcow2")
    run(*convert, "-o", "cluster_size=4096", image.path, directory / "image.plain")
    make_old_disk(directory, DISK_SIZE)
    run(
        "cc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-o",
        directory / "shim.so",
        ROOT / "tests/storm/shim.c",
        "-ldl",
    )


@dataclass
class Storm:
    """What the runs of one process share."""

    directory: Path
    servers: dict[str, Server]
    sums: dict[str, str]
    image: bytes = field(repr=False)
    old: bytes = field(repr=False)
    rules: dict[tuple[str, str], frozenset[str]]

    def attempt(self, seed: int) -> str:
        chance = random.Random(seed)
        kind, how = chance.choice(sorted(self.rules))
        if how == "starved":
            return self.starve(kind, chance)
        number, again = chance.randrange(MOST[kind]), how == "eio" and chance.random() < 0.3
        ends = DISK_SIZE if how in ("drop", "flip") else 0
        form = chance.choice(sorted(KINDS))
        disk, hit = self.directory / "disk", self.directory / "hit"
        disk.write_bytes(self.old)
        hit.unlink(missing_ok=True)
        document = self.write(
            form, disk, chance.random() < 0.5,
            STORM_DISK=str(disk), STORM_FAULT=f"{kind} {how} {number} {int(again)}", STORM_ENDS=str(ends),
            STORM_HIT=str(hit),
        )  # fmt: skip
        came = outcome_of(document)
        what = (
            f"{how} of {kind} {number}{' and all after it' if again else ''}, {form}: {json.dumps(document)}"
        )
        expected = self.rules[kind, how] if hit.exists() else frozenset({"right"})
        assert fits(came, expected), f"{came} instead of {' or '.join(expected)}: {what}"
        self.check_disk(came, document, disk, what)
        return f"{kind} {how}: {came}" if hit.exists() else "not hit: right"

    def starve(self, kind: str, chance: random.Random) -> str:
        """The command with too little of something, or nearly."""
        option, least, most = LIMITS[kind]
        limit, form, disk = chance.randint(least, most), chance.choice(sorted(KINDS)), self.directory / "disk"
        disk.write_bytes(self.old)
        document = self.write(form, disk, chance.random() < 0.5, inside=("prlimit", f"--{option}={limit}"))
        came = outcome_of(document)
        what = f"{limit} of {kind}, {form}: {json.dumps(document)}"
        assert fits(came, self.rules[kind, "starved"]), f"{came}: {what}"
        self.check_disk(came, document, disk, what)
        return f"{kind} starved: {came}"

    def write(
        self, form: str, disk: Path, drive: bool, inside: tuple[str, ...] = (), **environment: str
    ) -> dict[str, Any]:
        document = job(
            self.servers[form].url, self.sums[form], type=KINDS[form], configdrive={"enable": drive}
        )
        path = self.directory / "job.json"
        path.write_text(json.dumps(document))
        if environment:
            environment["LD_PRELOAD"] = str(self.directory / "shared/shim.so")
        command = byoi.Running(
            "write", path, "--disk", disk, "--json", "--quiet", "--yes", inside=inside, **environment
        )
        try:
            return command.finish().document
        finally:
            command.kill()

    def check_disk(self, came: str, document: dict[str, Any], disk: Path, what: str) -> None:
        found = what_is_on(disk, self.old)
        if found == "system":
            data = disk.read_bytes()
            assert data[MiB : IMAGE_SIZE - MiB] == self.image[MiB : IMAGE_SIZE - MiB], (
                f"half a system: {what}"
            )
            assert "No problems found" in run("sgdisk", "--verify", disk), f"half a table: {what}"
        if came == "right":
            assert found == "system", f"{found}: {what}"
            return
        said = document["error"]["diskState"]
        assert said == "unknown" or said in STATES[found], f"it is told to be {said} and is {found}: {what}"


@contextmanager
def opened(directory: Path) -> Iterator[Try]:
    shared = directory / "shared"
    forms = {"raw": shared / "image.raw", "qcow2": shared / "image.qcow2", "plain": shared / "image.plain"}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(lambda request, path=path: request.file(path)))
            for name, path in forms.items()
        }
        sums = {name: Image(path).sha256 for name, path in forms.items()}
        old = (shared / "old.raw").read_bytes()
        yield Storm(directory.resolve(), servers, sums, forms["raw"].read_bytes(), old, rules()).attempt
