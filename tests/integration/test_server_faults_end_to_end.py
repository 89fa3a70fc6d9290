"""The whole job through the command, against servers that misbehave: what the user is told, and what is on the disk."""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.formats.image import WINDOW_BYTES
from agent.units import KiB, MiB
from tests.kit.checks import assert_complete, assert_nothing_boots, what_is_on
from tests.kit.deployments import Driver, driving, job
from tests.kit.images import Image, make_image, make_old_disk
from tests.kit.server import Answer, Request, serving

# Waits that a test can wait for. What a limit does is proved beside the source; here it only has to end.
SHORT = {
    "stall_seconds": 0.3, "window_seconds": 0.5, "head_seconds": 2.0, "attempts": 3,
    "backoff_base": 0.05, "backoff_cap": 0.1,
}  # fmt: skip
# Behind what is read before anything is written, so that these faults come in the middle of the writing.
CUT = WINDOW_BYTES + 2 * MiB
IMAGE_SIZE = CUT + 10 * MiB
DISK_SIZE = IMAGE_SIZE + 4 * MiB


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"), IMAGE_SIZE)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> bytes:
    return make_old_disk(tmp_path_factory.mktemp("old"), DISK_SIZE)


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Driver]:
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture
def disk(tmp_path: Path, old: bytes) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(old)
    return path


@dataclass(frozen=True)
class Result:
    """How `byoi write` ended."""

    status: int
    document: dict[str, Any]
    words: str
    asked: list[str | None]
    """The Range of each request."""
    on_disk: str = field(default="")

    @property
    def error(self) -> dict[str, Any]:
        assert self.document["error"] is not None
        return self.document["error"]


Write = Callable[..., Result]


@pytest.fixture
def write(disk: Path, old: bytes, image: Image, start_write) -> Write:
    """Run the command against a server with this answer."""

    def run(answer: Answer, sha256: str | None = image.sha256) -> Result:
        with serving(answer) as server:
            outcome = start_write(disk, server.url, sha256).finish()
        return Result(outcome.status, outcome.document, outcome.err, server.ranges, what_is_on(disk, old))

    return run


@pytest.fixture
def write_impatiently(disk: Path, old: bytes, image: Image, driver: Driver) -> Write:
    """The same with short waits, which the command has no options for."""

    def run(answer: Answer, sha256: str | None = image.sha256) -> Result:
        with serving(answer) as server:
            outcome = driver.deploy(disk, job(server.url, sha256), limits=SHORT)
        return Result(0, outcome.status, "", server.ranges, what_is_on(disk, old))

    return run


def assert_done(result: Result, disk: Path, image: Image) -> None:
    assert (result.status, result.document["status"]) == (0, "done"), result.words
    assert result.document["checksum"] == f"sha256:{image.sha256}"
    assert result.document["bytesDownloaded"] == len(image.data)
    assert_complete(disk, image, disk.parent)


def assert_failed(result: Result, code: str, on_disk: str) -> None:
    assert (result.status, result.document["status"]) == (1, "error"), result.words
    assert result.error["code"] == code, result.error
    assert f"error: {result.error['message']}\n" in result.words
    assert result.on_disk == on_disk


# -- what the transfer mends ---------------------------------------------------------------------------------


def test_cuts_are_resumed_where_they_were(write: Write, image, disk: Path):
    def answer(request: Request) -> None:
        request.file(image.data, upto={0: CUT, 1: CUT + 3 * MiB}.get(request.number))

    result = write(answer)
    assert_done(result, disk, image)
    assert result.document["attempt"] == 1
    assert result.asked == [None, f"bytes={CUT}-", f"bytes={CUT + 3 * MiB}-"]
    assert f"resumed at byte {CUT}" in result.document["notes"]


@pytest.mark.parametrize(("with_checksum", "attempts"), [(True, 1), (False, 2)])
def test_cut_of_a_file_without_etag_is_resumed_only_on_a_checksum(
    write: Write, image, disk: Path, with_checksum: bool, attempts: int
):
    def answer(request: Request) -> None:
        start = CUT if request.header("Range") else 0
        span = {"Content_Range": f"bytes {start}-{IMAGE_SIZE - 1}/{IMAGE_SIZE}"} if start else {}
        request.head(206 if start else 200, Content_Length=IMAGE_SIZE - start, Accept_Ranges="bytes", **span)
        request.pieces(image.data[start : CUT if request.number == 0 else None])

    result = write(answer, image.sha256 if with_checksum else None)
    assert_done(result, disk, image)
    assert result.document["attempt"] == attempts


def test_cut_without_ranges_begins_again(write: Write, image, disk: Path):
    result = write(
        lambda request: request.file(image.data, ranges=False, upto=CUT if request.number == 0 else None)
    )
    assert_done(result, disk, image)
    assert result.document["attempt"] == 2
    assert "begins again from the first byte" in result.words


def test_stall_is_noticed_and_resumed(write_impatiently: Write, image, disk: Path):
    def answer(request: Request) -> None:
        request.file(image.data, upto=CUT if request.number == 0 else None)
        if request.number == 0:
            request.server.stopping.wait(10)

    result = write_impatiently(answer)
    assert_done(result, disk, image)
    assert result.asked == [None, f"bytes={CUT}-"]


def test_busy_server_is_asked_again(write_impatiently: Write, image, disk: Path):
    def answer(request: Request) -> None:
        if request.number == 0:
            request.head(503, Content_Length=0)
        else:
            request.file(image.data)

    assert_done(write_impatiently(answer), disk, image)


def test_chunked_without_a_length(write: Write, image, disk: Path):
    result = write(lambda request: chunked(request, image.data))
    assert_done(result, disk, image)
    assert result.document["bytesTotal"] is None


def test_chunked_without_a_length_and_cut_begins_again(write: Write, image, disk: Path):
    def answer(request: Request) -> None:
        chunked(request, image.data, upto=CUT if request.number == 0 else None)

    result = write(answer)
    assert_done(result, disk, image)
    assert result.document["attempt"] == 2


def test_close_delimited_with_a_checksum(write: Write, image, disk: Path):
    assert_done(write(lambda request: until_closed(request, image.data)), disk, image)


# -- what it refuses before the first write ------------------------------------------------------------------


def test_close_delimited_without_a_checksum_is_refused(write: Write, image):
    result = write(lambda request: until_closed(request, image.data), sha256=None)
    assert_failed(result, "image.download", "old")
    assert "checkSum" in result.error["hint"]
    assert (result.error["blame"], result.error["retryable"]) == ("request", False)


def test_html_page_is_refused(write: Write):
    page = b"<!DOCTYPE html><html><body>Please log in.</body></html>"
    result = write(lambda request: request.file(page), hashlib.sha256(page).hexdigest())
    assert_failed(result, "image.no_table", "old")
    assert "html" in result.error["message"].lower()


def test_missing_file_is_not_asked_for_again(write: Write):
    result = write(lambda request: request.head(404, Content_Length=0))
    assert_failed(result, "image.download", "old")
    assert result.asked == [None]
    assert (result.error["blame"], result.error["retryable"]) == ("request", False)
    assert result.error["message"].startswith("Could not download image located: http://127.0.0.1:")


def test_image_larger_than_the_disk_is_refused_by_its_length(write: Write, image):
    size = 64 * MiB

    def answer(request: Request) -> None:
        request.head(200, Content_Length=size)
        request.pieces(image.data)

    result = write(answer)
    assert_failed(result, "image.size", "old")
    assert f"`{size}` bytes" in result.error["message"]


def test_file_that_ends_early_in_what_is_read_first(write: Write, image):
    result = write(lambda request: request.file(image.data, ranges=False, upto=WINDOW_BYTES // 2))
    assert_failed(result, "image.download", "old")


# -- what it fails on, with nothing left that boots ----------------------------------------------------------


def test_file_that_ends_early_every_time(write: Write, image, disk: Path):
    result = write(lambda request: request.file(image.data, ranges=False, upto=CUT))
    assert_failed(result, "image.download", "blank")
    assert result.document["attempt"] == 4
    assert result.asked == [None, f"bytes={CUT}-", None, None, None]
    assert_nothing_boots(disk)


def test_range_that_brings_nothing_every_time(write_impatiently: Write, image):
    result = write_impatiently(lambda request: request.file(image.data, upto=CUT))
    assert (result.document["status"], result.error["code"]) == ("error", "image.download")
    assert f"at byte {CUT} of {len(image.data)}" in result.error["detail"]
    assert result.on_disk == "blank"


def test_stall_that_does_not_end(write_impatiently: Write, image):
    def answer(request: Request) -> None:
        request.file(image.data, upto=CUT)
        request.server.stopping.wait(10)

    result = write_impatiently(answer)
    assert (result.document["status"], result.error["code"]) == ("error", "image.download")
    assert "no byte came for 0.3 s" in result.error["detail"]
    assert result.on_disk == "blank"


@pytest.mark.parametrize("how", ["etag", "length"])
def test_file_that_changes_between_ranges(write: Write, image, how: str):
    def answer(request: Request) -> None:
        if request.number == 0:
            request.file(image.data, upto=CUT)
        elif how == "etag":
            request.file(image.data[::-1], etag='"v2"')
        else:  # a server that does not mind If-Range
            size = len(image.data) + 512
            request.head(206, Content_Length=size - CUT, Content_Range=f"bytes {CUT}-{size - 1}/{size}")

    result = write(answer)
    assert_failed(result, "image.changed", "blank")
    assert result.asked == [None, f"bytes={CUT}-"]


def test_close_delimited_and_cut_is_found_by_the_checksum(write: Write, image):
    result = write(lambda request: until_closed(request, image.data[:CUT]))
    assert_failed(result, "checksum.mismatch", "blank")
    assert (result.error["blame"], result.error["retryable"]) == ("network", True)
    assert f"{CUT} bytes came" in result.error["detail"]
    assert "cut" in result.error["hint"]


@pytest.mark.parametrize(
    ("packed", "part"), [(False, 0.1), (False, 0.5), (True, 0.5)], ids=["raw", "raw, late", "gzip"]
)
def test_close_delimited_and_cut_is_of_the_network_whatever_finds_it(
    write: Write, image, packed: bool, part: float
):
    """The decoder, or the image's own table, comes to see it before the checksum does."""
    data = gzip.compress(image.data, 1) if packed else image.data
    result = write(
        lambda request: until_closed(request, data[: int(part * len(data))]), hashlib.sha256(data).hexdigest()
    )
    assert result.document["status"] == "error"
    assert (result.error["blame"], result.error["retryable"]) == ("network", True), result.error
    assert "probably cut" in result.error["hint"]


def test_wrong_bytes_are_found_by_the_checksum(write: Write, image, disk: Path):
    wrong = image.data[:CUT] + bytes([image.data[CUT] ^ 1]) + image.data[CUT + 1 :]
    result = write(lambda request: request.file(wrong))
    assert_failed(result, "checksum.mismatch", "blank")
    got = hashlib.sha256(wrong).hexdigest()
    wanted = f"Bad sha256 for downloaded file, got: {got} while expecting {image.sha256}."
    assert result.error["message"] == wanted
    assert (result.error["blame"], result.error["retryable"]) == ("image", False)
    assert_nothing_boots(disk)


def test_image_that_turns_out_larger_than_the_disk(write: Write, image):
    result = write(lambda request: chunked(request, image.data + bytes(8 * MiB)))
    assert_failed(result, "image.size", "blank")


def test_image_shorter_than_its_table_tells(write: Write, image):
    short = image.data[:CUT]
    result = write(lambda request: chunked(request, short), hashlib.sha256(short).hexdigest())
    assert_failed(result, "image.truncated", "blank")


def chunked(request: Request, data: bytes, upto: int | None = None) -> None:
    """Send a body in chunks, without its last one if it is cut."""
    request.head(200, Transfer_Encoding="chunked")
    for at in range(0, len(data) if upto is None else upto, 256 * KiB):
        piece = data[at : at + 256 * KiB]
        request.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    if upto is None:
        request.send(b"0\r\n\r\n")


def until_closed(request: Request, data: bytes) -> None:
    """Send a body that only the end of the connection ends."""
    request.head(200, Connection="close")
    request.pieces(data)
