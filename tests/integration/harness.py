"""Parts for the tests of the commit point: systems on disks, a server, the driver, and what a disk holds."""

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent.formats.image import WINDOW_BYTES
from agent.units import KiB, MiB

ROOT = Path(__file__).parents[2]
DISK_SIZE = 24 * MiB
IMAGE_SIZE = 16 * MiB
DIRT = b"\xa5"
NOISE = random.Random(1).randbytes(MiB + 1)  # an odd length: no two MiB of it are alike
BOOT_CODE = bytes(range(1, 221)) * 2  # the 440 bytes that a BIOS would run


def run(
    *command: str | Path, check: bool = True, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a tool of the system; its words are shown where it fails."""
    done = subprocess.run([str(c) for c in command], input=text, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


# -- systems -------------------------------------------------------------------------------------------------


def dirty(path: Path, size: int, fill: bytes) -> None:
    """Make a file of `size` bytes that holds `fill`, repeated."""
    path.write_bytes((fill * (size // len(fill) + 1))[:size])


def furnish(path: Path, disk: Path, name: str) -> bytes:
    """Put a bootable system on a disk: boot code, a GPT, an ESP, and an ext4 root with this label.

    Args:
        path: the file that the disk is.
        disk: the same file, or a loop device over it, whose sector size the table then has.
        name: the label.

    Returns:
        All bytes of the disk.
    """
    size = path.stat().st_size
    root_start, root_size = 6 * MiB, size - 7 * MiB
    script = (
        "label: gpt\n"
        "start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649\n"
        "start=2MiB, size=4MiB, type=U\n"
        f"start=6MiB, size={root_size // MiB}MiB, type=L\n"
    )
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", disk, text=script)
    sector = 512 if disk == path else int(run("blockdev", "--getss", disk).stdout)
    run("mkfs.vfat", "-S", str(sector), f"--offset={2 * MiB // sector}", disk, str(4 * MiB // KiB))
    content = path.with_name(f"{path.name}.root")
    content.mkdir()
    content.joinpath("release").write_text(name * 1000)
    run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-L", name, "-b", "4096", "-d", content,
        "-E", f"offset={root_start},nodiscard", disk, f"{root_size // KiB}k",
    )  # fmt: skip
    with disk.open("r+b") as file:
        file.write(BOOT_CODE)
    return disk.read_bytes()


@dataclass(frozen=True)
class Image:
    """An image to deploy."""

    data: bytes = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def make_image(directory: Path, size: int = IMAGE_SIZE) -> Image:
    """A system with random bytes wherever its filesystems have none of their own."""
    dirty(path := directory / "image.raw", size, NOISE)
    return Image(furnish(path, path, "new-root"))


def make_old_disk(directory: Path, size: int = DISK_SIZE) -> bytes:
    """A disk with another system on it, and 0xA5 wherever that system left no mark."""
    dirty(path := directory / "old.raw", size, DIRT)
    return furnish(path, path, "old-root")


# -- what a disk holds ---------------------------------------------------------------------------------------


def what_is_on(disk: Path, old: bytes) -> str:
    """`old`: untouched to the last byte. `blank`: both ends are zero. `headless`: the first sector is zero and more
    is not. `system`: a first sector, be the rest whole or not."""
    data = disk.read_bytes()
    assert len(data) == len(old)
    if data == old:
        return "old"
    if data[:MiB] == data[-MiB:] == bytes(MiB):
        return "blank"
    return "system" if any(data[:512]) else "headless"


def assert_nothing_boots(disk: Path) -> None:
    """No tool finds a table or a filesystem where a firmware would look."""
    seen = run("blkid", "--probe", "--output", "export", disk, check=False)
    assert (seen.returncode, seen.stdout) == (2, ""), seen.stdout
    listed = run("sfdisk", "--json", disk, check=False)
    assert listed.returncode != 0
    assert "does not contain a recognized partition table" in listed.stderr
    assert "Creating new GPT entries in memory" in run("sgdisk", "--print", disk).stdout


def partitions(path: Path) -> list[tuple[int, int, str]]:
    """Start and size in bytes and the name of each partition, as sfdisk sees them."""
    table = json.loads(run("sfdisk", "--json", path).stdout)["partitiontable"]
    unit = table["sectorsize"]
    return [(p["start"] * unit, p["size"] * unit, p.get("name", "")) for p in table["partitions"]]


def assert_complete(disk: Path, image: Image, scratch: Path) -> None:
    """The disk holds the whole verified system, by the word of other tools than ours."""
    assert "No problems found" in run("sgdisk", "--verify", disk).stdout
    *own, (start, length, name) = partitions(disk)
    assert name == "config-2"
    data = disk.read_bytes()
    assert data[: len(BOOT_CODE)] == BOOT_CODE
    assert own
    for begin, size, _ in own:
        assert data[begin : begin + size] == image.data[begin : begin + size]
    drive = scratch / "drive"
    drive.write_bytes(data[start : start + length])
    assert run("blkid", "-p", "-o", "value", "-s", "LABEL", drive).stdout.strip() == "config-2"


# -- a server ------------------------------------------------------------------------------------------------


class Request(BaseHTTPRequestHandler):
    """One request; the server's `answer` decides what becomes of it."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.requests.append(self.headers.get("Range"))
        self.server.answer(self, len(self.server.requests))

    def log_message(self, *_: object) -> None:
        """Tests read the list of requests instead."""

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def file(
        self,
        data: bytes,
        *,
        upto: int | None = None,
        etag: str = '"v1"',
        ranges: bool = True,
        pause: float = 0.0,
    ) -> None:
        """Serve a file, cut at byte `upto`; see `pieces` for the pause."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(found[1]) if found and ranges and self.headers.get("If-Range") in (None, etag) else 0
        more = {"ETag": etag, "Accept_Ranges": "bytes"} if ranges else {}
        if start:
            more["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.head(206 if start else 200, Content_Length=len(data) - start, **more)
        self.pieces(data[start:upto], pause)

    def pieces(self, data: bytes, pause: float = 0.0) -> None:
        """Send, waiting `pause` seconds before every 256 KiB behind what is read before anything is written."""
        for at in range(0, len(data), 256 * KiB):
            if pause and at >= WINDOW_BYTES and self.server.stopping.wait(pause):
                return
            self.wfile.write(data[at : at + 256 * KiB])


Answer = Callable[[Request, int], None]


class Server(ThreadingHTTPServer):
    """A real server on loopback. `requests` holds the Range of each request, None where there was none."""

    request_queue_size = 32

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        self.requests: list[str | None] = []
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/image.raw"

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exception(), OSError):  # clients are killed here all the time
            super().handle_error(*_)


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A server that runs while the block does."""
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


# -- deployments ---------------------------------------------------------------------------------------------


def job(url: str, sha256: str | None, **more: object) -> dict[str, Any]:
    """A job for a raw image, with a config drive."""
    checksum = {} if sha256 is None else {"checkSum": sha256, "checkSumType": "sha256"}
    return {"URL": url, "type": "raw", "configdrive": {"enable": True, "hostname": "h1"}} | checksum | more


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

    @property
    def waits(self) -> int:
        return sum("waits" in entry for entry in self.trace)

    @property
    def status(self) -> dict[str, Any]:
        found = [entry["status"] for entry in self.trace if "status" in entry]
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
                [sys.executable, "-m", "tests.integration.commit_driver"],
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


@dataclass
class Command:
    """`byoi write` as a person runs it: a process of its own, with its two outputs in files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def finish(self, seconds: float = 60) -> tuple[int, dict[str, Any], str]:
        """Wait for its end: the exit status, the document on stdout, the text on stderr."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it did not end: {self.err.read_text()}")
        text = self.out.read_text()
        return self.process.returncode, json.loads(text) if text else {}, self.err.read_text()

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Wait until stderr has the text."""
        deadline = time.monotonic() + seconds
        while text not in self.err.read_text():
            assert time.monotonic() < deadline, f"no {text!r} in {self.err.read_text()!r}"
            assert self.process.poll() is None, self.err.read_text()
            time.sleep(0.01)


def start_write(disk: Path, url: str, sha256: str | None, directory: Path, *more: str) -> Command:
    """Start `byoi write --json` onto a disk."""
    number = len(list(directory.glob("write-*.out")))
    out, err = directory / f"write-{number}.out", directory / f"write-{number}.err"
    checksum = [] if sha256 is None else ["--checksum", f"sha256:{sha256}"]
    arguments = [
        "--url",
        url,
        "--type",
        "raw",
        *checksum,
        "--hostname",
        "h1",
        "--disk",
        str(disk),
        "--json",
        *more,
    ]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", "write", *arguments], stdout=stdout, stderr=stderr, cwd=ROOT
        )
    return Command(process, out, err)
