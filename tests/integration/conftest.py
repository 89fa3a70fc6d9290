"""Deploying as people do: images made by real tools, a web server, `byoi` as a child process.

The ring of block devices borrows all of it.
"""

import functools
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.units import KiB, MiB

ROOT = Path(__file__).parents[2]
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
# Any jump and something behind it: what a loader's first sector looks like from outside.
BOOT_CODE = b"\xeb\x63\x90" + bytes(range(1, 256)) + bytes(range(1, 183))


def run(*argv: object, stdin: str | None = None, check: bool = True) -> str:
    """Run a tool, that has to succeed unless told otherwise; gives its output."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


# -- images --------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A partition of an image: its place in MiB, what is in it, and its fields for sfdisk."""

    start: int
    size: int
    content: str
    table: str


@dataclass(frozen=True)
class Image:
    """An image file. `pieces` are its partitions, in the order in which they were given."""

    path: Path
    sector_size: int
    pieces: tuple[Piece, ...] = ()

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


BIOS_PIECE = Piece(1, 1, "noise", f'type={BIOS_BOOT},name="BIOS boot"')
ESP_PIECE = Piece(2, 8, "esp", 'type=uefi,name="EFI",attrs="RequiredPartition"')
ROOT_PIECE = Piece(10, 30, "ext4", 'type=linux,name="rôot",attrs="LegacyBIOSBootable,GUID:60"')
# Behind the last partition there is room for a config drive, so that a disk of just the image's size has it.
GPT_PIECES = (BIOS_PIECE, ESP_PIECE, ROOT_PIECE)
MBR_PIECES = (Piece(1, 8, "esp", "type=ef"), Piece(9, 30, "ext4", "type=83,bootable"))
SIZE_MIB = 48

Attach = Callable[..., Path]


@dataclass
class ImageMaker:
    """Makes images once a session. Tables with 4096-byte sectors take a loop device, so root and `attach`."""

    directory: Path
    made: dict[object, Image] = field(default_factory=dict)

    def gpt(self, pieces: tuple[Piece, ...] = GPT_PIECES, **options) -> Image:
        return self.make("gpt", pieces, **options)

    def mbr(self, pieces: tuple[Piece, ...] = MBR_PIECES, **options) -> Image:
        return self.make("dos", pieces, **options)

    def make(
        self,
        label: str,
        pieces: tuple[Piece, ...],
        *,
        size_mib: int = SIZE_MIB,
        sector_size: int = 512,
        boot_code: bool = True,
        attach: Attach | None = None,
    ) -> Image:
        key = (label, pieces, size_mib, sector_size, boot_code)
        if key not in self.made:
            path = self.directory / f"{label}-{sector_size}-{len(self.made)}.raw"
            path.touch()
            os.truncate(path, size_mib * MiB)
            where = path if sector_size == 512 or attach is None else attach(path, sector_size)
            run("sfdisk", "-q", "--no-tell-kernel", where, stdin=_script(label, pieces, sector_size))
            with path.open("r+b") as file:
                file.write(BOOT_CODE if boot_code else b"")
                for piece in pieces:
                    file.seek(piece.start * MiB)
                    file.write(self.content(piece.content, piece.size * MiB, sector_size))
            self.made[key] = Image(path, sector_size, pieces)
        return self.made[key]

    @functools.cached_property
    def content(self) -> Callable[[str, int, int], bytes]:
        """What fills a partition, made once for each size."""

        @functools.cache
        def make(kind: str, size: int, sector_size: int) -> bytes:
            if kind in ("", "noise"):
                return random.Random(size).randbytes(size) if kind else b""
            path = self.directory / "filesystem"
            path.touch()
            os.truncate(path, size)
            _FILESYSTEMS[kind](path, self.directory / "tree", sector_size)
            data = path.read_bytes()
            path.unlink()
            return data

        return make


def _script(label: str, pieces: tuple[Piece, ...], sector_size: int) -> str:
    scale = MiB // sector_size
    lines = [f"start={p.start * scale},size={p.size * scale},{p.table}" for p in pieces]
    return "\n".join([f"label: {label}", "unit: sectors", *lines]) + "\n"


@contextmanager
def _tree(directory: Path, files: dict[str, bytes]) -> Iterator[Path]:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    yield directory
    shutil.rmtree(directory)


def _ext4(path: Path, scratch: Path, sector_size: int) -> None:
    files = {
        "etc/hostname": b"image\n",
        "boot/vmlinuz": random.Random(1).randbytes(3 * MiB),
        "usr/empty": b"",
    }
    with _tree(scratch, files):
        run("mke2fs", "-q", "-t", "ext4", "-b", 4096, "-L", "rootfs", "-d", scratch, path)


def _esp(path: Path, scratch: Path, sector_size: int) -> None:
    with _tree(scratch, {"EFI/BOOT/BOOTX64.EFI": b"MZ" + random.Random(2).randbytes(100 * KiB)}):
        run("mkfs.vfat", "-S", sector_size, "-n", "ESP", path)
        run("mcopy", "-s", "-i", path, scratch / "EFI", "::")


def _old_iso(path: Path, scratch: Path, sector_size: int) -> None:
    size = path.stat().st_size
    with _tree(scratch, {"openstack/latest/user_data": b"of an earlier deployment"}):
        run("xorriso", "-as", "mkisofs", "-quiet", "-V", "config-2", "-J", "-R", "-o", path, scratch)
    os.truncate(path, size)


def _old_fat(path: Path, scratch: Path, sector_size: int) -> None:
    with _tree(scratch, {"openstack/latest/user_data": b"of an earlier deployment"}):
        run("mkfs.vfat", "-S", sector_size, "-n", "CONFIG-2", path)
        run("mcopy", "-s", "-i", path, scratch / "openstack", "::")


_FILESYSTEMS = {"ext4": _ext4, "esp": _esp, "old-iso": _old_iso, "old-fat": _old_fat}


@pytest.fixture(scope="session")
def image_maker(tmp_path_factory) -> ImageMaker:
    return ImageMaker(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def gpt_image(image_maker) -> Image:
    return image_maker.gpt()


# -- the web server ------------------------------------------------------------------------------------------


@dataclass
class Page:
    """What the server answers with; with `pause_at` it falls silent there until `Web.resume` is set."""

    content: bytes | Path
    status: int = 200
    content_type: str = "application/octet-stream"
    pause_at: int | None = None
    location: str | None = None


@dataclass
class Web:
    """A web server on loopback. `requests` holds (path, headers) of each request."""

    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    resume: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def publish(self, content: bytes | Path, name: str = "image.raw", **options) -> str:
        self.pages["/" + name] = Page(content, **options)
        return f"http://127.0.0.1:{self.port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        self.web.requests.append((self.path, dict(self.headers.items())))
        page = self.web.pages.get(self.path.partition("?")[0], Page(b"nothing here\n", 404, "text/plain"))
        with suppress(OSError):
            self._answer(page)

    def _answer(self, page: Page) -> None:
        size = page.content.stat().st_size if isinstance(page.content, Path) else len(page.content)
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(size))
        if page.location is not None:
            self.send_header("Location", page.location)
        self.end_headers()
        if isinstance(page.content, bytes):
            self.wfile.write(page.content)
            return
        with page.content.open("rb") as file:
            if page.pause_at is not None:
                self.wfile.write(file.read(page.pause_at))
                self.web.paused.set()
                self.web.resume.wait(60)
            shutil.copyfileobj(file, self.wfile, MiB)

    def log_message(self, *_: object) -> None:
        """The tests look at `requests`."""


@pytest.fixture
def web() -> Iterator[Web]:
    shared = Web()
    handler = type("Handler", (_Handler,), {"web": shared})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        shared.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield shared
        shared.resume.set()
        server.shutdown()
        thread.join()


# -- the command ---------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How `byoi` ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict:
        return json.loads(self.out)

    @property
    def error(self) -> dict:
        return self.document["error"]


class Running:
    """`byoi` at work. It is never left behind: the fixture that started it ends it."""

    def __init__(self, arguments: tuple[object, ...], stdin: bytes | None, env: dict[str, str]) -> None:
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)} | env
        argv = [sys.executable, "-m", "agent.cli", *map(str, arguments)]
        self._stdin = stdin or b""
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)

    def finish(self) -> Outcome:
        out, err = self.process.communicate(self._stdin, timeout=100)
        outcome = Outcome(self.process.returncode, out.decode(), err.decode())
        assert "Traceback" not in outcome.err, outcome.err
        assert "Warning" not in outcome.err, outcome.err
        return outcome


@pytest.fixture
def start_byoi() -> Iterator[Callable[..., Running]]:
    """Start the command and go on: start_byoi("write", ...).finish() waits for its end."""
    started: list[Running] = []

    def start(*arguments: object, stdin: bytes | None = None, **env: str) -> Running:
        started.append(Running(arguments, stdin, env))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()


@pytest.fixture
def byoi(start_byoi) -> Callable[..., Outcome]:
    """Run the command to its end; no traceback and no warning may show."""

    def finish(*arguments: object, stdin: bytes | None = None, **env: str) -> Outcome:
        return start_byoi(*arguments, stdin=stdin, **env).finish()

    return finish


SSH_KEYS = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq3 ops@example\nssh-rsa AAAAB3NzaC1yc2EAAAADAQAB second@example\n"
)
USER_DATA = "#!/bin/sh\r\nprintf 'a\\nb\\\\n'\n\tgrüß  \n\n# no line end at the end"
DRIVE = {
    "enable": True,
    "hostname": "web1.example.net",
    "sshKey": SSH_KEYS,
    "userData": USER_DATA,
    "userMetadatas": [{"key": "rôle", "value": "front"}],
}


@pytest.fixture
def make_job(web, tmp_path):
    """Publish an image and write the job for it: make_job(image, **members) gives the job's path."""

    def make(image: Image, **members: object) -> Path:
        job = {
            "URL": web.publish(image.path, image.path.name),
            "type": "raw",
            "checkSum": image.sha256,
            "checkSumType": "sha256",
            "configdrive": DRIVE,
        }
        path = tmp_path / f"job-{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(job | members))
        return path

    return make


@pytest.fixture
def deploy(byoi, make_job):
    """Deploy an image over HTTP: deploy(image, disk, *options, **members of the job)."""

    def finish(image: Image, disk: object, *options: object, **members: object) -> Outcome:
        return byoi("write", make_job(image, **members), "--disk", disk, "--json", *options)

    return finish
