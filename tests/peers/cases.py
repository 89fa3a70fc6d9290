"""The rows of the table: what goes wrong, made to go wrong by real servers and real disks."""

import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.units import MiB
from tests.kit.loops import attach
from tests.kit.server import Request

HALF = 24 * MiB
CUT = 43 * MiB
"""Nine tenths of the image."""
IMAGE_BYTES = 48 * MiB
DISK_BYTES = 64 * MiB
"""Where the disk is larger than the image."""
PATIENCE = 40.0
"""Seconds after which a tool that does not end is taken to wait for ever."""
SECRET = "s3cret"


@dataclass
class Served:
    """What the server of one run has."""

    data: bytes
    sent: int = 0
    """Bytes of ranges that have gone out in a case that ends the tool at the half."""
    half_sent: threading.Event = field(default_factory=threading.Event)
    """Set once half of the image has gone out in such a case."""


Answer = Callable[[Request, Served], None]
Script = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    title: str
    answer: Answer
    """Of the image server; handed the request and the file."""
    image: str = "gpt"
    """A recipe of run.py."""
    disk_bytes: int = IMAGE_BYTES
    sector_size: int = 512
    room: int | None = None
    """Bytes that the file below the disk may really take; what is written beyond them is an error of the disk."""
    memory: int | None = None
    """Bytes of the directory that a tool may store things in."""
    before: Script | None = None
    """Prepares the disk, over what is on it."""
    traces: Callable[[Path], str] | None = None
    """Looks at the disk afterwards: what must not be there any more, in words; empty if nothing is."""
    signal: str = ""
    """Sent to all of the tool's processes once half of the image has gone out: KILL or TERM."""
    refused: bool = False
    """There is no right way to do it: to say so before the first write is what is right."""
    variant: str = ""
    """The member of a tool that has its command, where it is another one."""
    options: str = ""
    """For byoi-agent alone: what the case's machine is told to be."""
    patience: float = PATIENCE


def _send(request: Request, data: bytes, upto: int | None = None) -> None:
    """Serve a file as it should be, up to some byte."""
    request.file(data, upto=0 if request.method == "HEAD" else upto, Connection="close")


def whole(request: Request, served: Served) -> None:
    """Serve it as it should be."""
    _send(request, served.data)


def slow(request: Request, served: Served) -> None:
    """Serve it in some seconds."""
    request.file(served.data, upto=0 if request.method == "HEAD" else None, pause=0.1, Connection="close")


def _truncated(request: Request, served: Served) -> None:
    _send(request, served.data[:HALF])


def _flipped(request: Request, served: Served) -> None:
    data = served.data
    _send(request, data[:HALF] + bytes([data[HALF] ^ 1]) + data[HALF + 1 :])


def _page(request: Request, _: Served) -> None:
    page = b"<!DOCTYPE html><title>Login</title><p>Please sign in." * 100
    request.head(200, Content_Type="text/html", Content_Length=len(page))
    request.send(b"" if request.method == "HEAD" else page)


def _cut(request: Request, served: Served) -> None:
    _send(request, served.data, upto=CUT if request.start < CUT else None)


def _is_of_first_half(request: Request) -> bool:
    """Whether it asks for a range that ends there, as tools do that ask for piece after piece."""
    return request.span is not None and request.span[1] is not None and request.span[1] <= HALF


def _stalled(request: Request, served: Served) -> None:
    if request.method == "HEAD" or request.start >= HALF or _is_of_first_half(request):
        _send(request, served.data)
        return
    _send(request, served.data, upto=HALF)
    request.hold()


def _halted(request: Request, served: Served) -> None:
    """The image from its beginning up to its half, or pieces of it, wherever they are, as long as they are no more."""
    _, stop = request.span or (0, None)
    if request.method == "HEAD" or (stop is not None and served.sent < HALF):
        served.sent += 0 if stop is None else stop - request.start
        _send(request, served.data)
        return
    _send(request, served.data, upto=max(HALF, request.start) if stop is None else request.start)
    served.half_sent.set()
    request.hold()


def _elsewhere(request: Request, served: Served) -> None:
    """The first origin sends on to a second one, which is asked under another name of the same machine."""
    if "localhost" in (request.header("Host") or ""):
        _send(request, served.data)
    else:
        request.reply(302, Location=f"http://localhost:{request.server.port}/image.raw")


def _use(disk: Path) -> None:
    # Nothing may be left for the kernel to write by itself, later: what the deployment wrote is looked for.
    lazy = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", lazy, disk], check=True)
    where = mounted_at(disk)
    where.mkdir()
    subprocess.run(["mount", disk, where], check=True)
    subprocess.run(["sync", "--file-system", where], check=True)


def mounted_at(disk: Path) -> Path:
    """Where the case `busy` mounts a disk."""
    return Path("/run", f"byoi-peers-{disk.name}")


OLD_PARTITION = 52 * MiB
"""Behind the image: where the new system's last partition will grow to."""


def _old_volume_group(disk: Path) -> None:
    """The table of an earlier system, with LVM on its second partition."""
    table = f"label: gpt\nstart=2048,size=98304\nstart={OLD_PARTITION // 512},size=16384,type=lvm\n"
    subprocess.run(
        ["sfdisk", "-q", "--no-reread", "--no-tell-kernel", disk], input=table, text=True, check=True
    )
    with tempfile.NamedTemporaryFile() as part:
        part.truncate(8 * MiB)
        loop = attach(Path(part.name))
        try:
            subprocess.run(["pvcreate", "-ff", "-y", "-q", loop.device], check=True, capture_output=True)
        finally:
            loop.detach()
        label = Path(part.name).read_bytes()
    with disk.open("r+b") as file:
        file.seek(OLD_PARTITION)
        file.write(label)


def _volume_group(disk: Path) -> str:
    with disk.open("rb") as file:
        file.seek(OLD_PARTITION)
        return "the old LVM label is still there" if b"LABELONE" in file.read(MiB) else ""


CASES = (
    Case("sound", "nothing is wrong, and the disk just as large as the image", whole),
    Case("gpt", "the disk is larger than the image: the backup GPT has to move", whole, disk_bytes=DISK_BYTES),
    Case("truncated", "the file on the server was cut", _truncated),
    Case("flipped", "one byte of the file has changed", _flipped),
    Case("page", "an HTML page comes instead, with status 200", _page),
    Case("cut", "the connection breaks at 90 %; the server has ranges", _cut),
    Case("stalled", "the server falls silent at the half; a new connection would go on", _stalled, patience=75.0),
    Case("redirect", "a redirect to another origin, and a header that is a secret", _elsewhere, variant="header"),
    Case("backing", "a qcow2 that names a file of the rescue as its backing file", whole, image="backing",
         variant="qcow2", refused=True),
    Case("4Kn", "an image with 512-byte sectors, a disk with 4096", whole, sector_size=4096, refused=True),
    Case("small", "the disk is smaller than the image", whole, disk_bytes=40 * MiB, refused=True),
    Case("busy", "a file system of the disk is mounted", whole, before=_use, refused=True),
    Case("stale", "an old system had LVM where the new one will grow to", whole,
         before=_old_volume_group, traces=_volume_group, disk_bytes=DISK_BYTES),
    Case("sparse", "the image has holes, the disk is full of old data", whole, image="sparse"),
    Case("EIO", "the disk fails at the half", whole, room=HALF),
    Case("killed", "kill -9 at the half", _halted, signal="KILL"),
    Case("cancelled", "SIGTERM at the half", _halted, signal="TERM"),
    Case("no ESP", "a UEFI server, an image without an EFI system partition", whole, image="no-esp", refused=True,
         options="--firmware uefi"),
    Case("memory", "memory for a third of the image", whole, memory=16 * MiB),
)  # fmt: skip
