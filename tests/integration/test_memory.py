"""The promise about memory: resident below 128 MiB, whatever the size of the image."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from agent.units import GiB, KiB, MiB
from tests.kit.commands import ROOT
from tests.kit.server import SO_MAX_PACING_RATE, serving
from tests.kit.xz import stored_xz

LIMIT = 128 * MiB
# ru_maxrss would not do: it begins with the peak of the process that forked, which is pytest.
MEASURED = """
import sys
from pathlib import Path
from agent.cli.main import main
status = main(sys.argv[1:])
print(Path("/proc/self/status").read_text(), file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture
def served(tmp_path) -> Iterator[str]:
    """A server of what is in tmp_path, without ranges."""
    with serving(lambda request: request.file(tmp_path / request.target[1:], ranges=False)) as server:
        yield server.origin


def make_sparse_image(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)
    script = "label: gpt\nsize=64MiB, type=uefi\ntype=linux\n"
    subprocess.run(["sfdisk", "-q", "--no-tell-kernel", path], input=script, text=True, check=True)


def make_image(path: Path, size: int) -> None:
    """One that has to be written: no stretch of it is long enough to be zeroed."""
    make_sparse_image(path, size)
    with path.open("r+b") as file:
        for at in range(MiB, size - MiB, 128 * KiB):
            file.seek(at)
            file.write(b"\1")


def run_measured(url: str, disk: Path, size: int, *options: object, kind: str) -> subprocess.CompletedProcess:
    arguments = ["write", "--url", url, "--type", kind, "--disk", disk, "--size", size, "--quiet", *options]
    return subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def deploy(url: str, disk: Path, size: int, *options: object, kind: str = "raw") -> int:
    """Deploy the image; gives the peak of the resident memory in bytes."""
    done = run_measured(url, disk, size, *options, kind=kind)
    disk.unlink(missing_ok=True)  # it holds gigabytes, and pytest keeps what tests leave
    assert done.returncode == 0, done.stderr
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.MULTILINE)[1]) * 1024


def test_an_image_of_4_gib_takes_less_than_128_mib_of_memory(served, tmp_path):
    make_image(tmp_path / "image.raw", 4 * GiB)
    peak = deploy(f"{served}/image.raw", tmp_path / "disk.img", 5 * GiB, "--hostname", "web1")
    assert peak < LIMIT


def test_what_is_read_back_takes_no_more(served, tmp_path):
    make_image(tmp_path / "image.raw", GiB)
    script = ["qemu-img", "convert", "-O", "qcow2", "-W", "-m", "16"]
    subprocess.run([*script, tmp_path / "image.raw", tmp_path / "image.qcow2"], check=True)
    for name, kind in (("image.raw", "raw"), ("image.qcow2", "qcow2")):
        peak = deploy(
            f"{served}/{name}",
            tmp_path / "disk.img",
            2 * GiB,
            "--hostname",
            "web1",
            "--verify",
            "readback",
            kind=kind,
        )
        assert peak < LIMIT


def test_several_connections_take_no_more(tmp_path):
    make_image(tmp_path / "image.raw", 256 * MiB)
    asked = set()

    def shaped(request):
        asked.add(request.connection)
        request.connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 12 * MiB)
        request.file(tmp_path / "image.raw")

    with serving(shaped, keep=True) as server:
        peak = deploy(server.url, tmp_path / "disk.img", 512 * MiB, "--hostname", "web1")
    assert len(asked) > 2
    assert peak < LIMIT


def test_the_largest_documented_config_drive_stays_below_the_limit_too(served, tmp_path):
    make_image(tmp_path / "image.raw", 256 * MiB)
    user_data = tmp_path / "user-data"
    user_data.write_text("x" * (8 * MiB - 4096))
    peak = deploy(f"{served}/image.raw", tmp_path / "disk.img", 512 * MiB, "--user-data", user_data)
    assert peak < LIMIT


def test_an_l1_table_of_32_mib_stays_below_the_limit(served, tmp_path):
    """Clusters of 512 bytes under 128 GiB, as far as qemu goes."""
    size = 128 * GiB
    raw, path = tmp_path / "image.raw", tmp_path / "image.qcow2"
    make_sparse_image(raw, size)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, str(size)], check=True
    )
    with raw.open("rb") as file:
        for at in (0, size - 64 * KiB):
            file.seek(at)
            (tmp_path / "piece").write_bytes(file.read(64 * KiB))
            command = f"write -q -s {tmp_path / 'piece'} {at} {64 * KiB}"
            subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True)
    peak = deploy(f"{served}/image.qcow2", tmp_path / "disk.img", size + GiB, kind="qcow2")
    assert peak < LIMIT


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_a_qcow2_of_8_tib_takes_no_more(served, tmp_path, compressed):
    """Both ends of an 8 TiB disk, and 96 MiB in the middle."""
    size = 8 * 1024 * GiB
    raw, piece, path = tmp_path / "image.raw", tmp_path / "piece", tmp_path / "image.qcow2"
    make_sparse_image(raw, size)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
    with raw.open("rb") as file:
        for offset, length in ((0, MiB), (size - MiB, MiB), (4096 * GiB, 96 * MiB)):
            file.seek(offset)
            piece.write_bytes(
                file.read(length) if length == MiB else os.urandom(length // 2) + b"x" * (length // 2)
            )
            subprocess.run(
                ["qemu-io", "-f", "qcow2", "-c", f"write -q -s {piece} {offset} {length}", path], check=True
            )
    if compressed:
        plain = path.rename(tmp_path / "plain.qcow2")
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-c", plain, path], check=True)
    peak = deploy(f"{served}/image.qcow2", tmp_path / "disk.img", size + GiB, kind="qcow2")
    assert peak < LIMIT


# -- windows of 64 MiB ---------------------------------------------------------------------------------------

WINDOW = 64 * MiB
# More than the window and than all buffers: each page of both is used at some time, in a qcow2 too.
RANDOM = 72 * MiB
INSIDE = 160 * MiB


def xz_9(source: Path, target: Path) -> None:
    """An xz with the window of xz -9, which is what a decoder has to hold."""
    target.write_bytes(stored_xz(source.read_bytes()))


def zstd_long(window_log: int):
    """zstd --long=N."""

    def pack(source: Path, target: Path) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, window_log=window_log, enable_ldm=True, write_content_size=False
        )
        with source.open("rb") as file, target.open("wb") as packed:
            zstandard.ZstdCompressor(compression_params=parameters).copy_stream(file, packed)

    return pack


@pytest.fixture(scope="module")
def plain_images(tmp_path_factory) -> dict[str, Path]:
    """One disk as raw, as qcow2, and as a qcow2 with its L1 table behind all data, as a resize leaves it; and
    another as qcow2 with compressed clusters.
    """
    directory = tmp_path_factory.mktemp("plain")
    raw, qcow2, late, half, clusters = (
        directory / name for name in ("raw", "qcow2", "late", "half", "clusters")
    )
    make_sparse_image(raw, INSIDE)
    with raw.open("r+b") as file:
        file.seek(16 * MiB)
        for _ in range(RANDOM // MiB):
            file.write(os.urandom(MiB))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, qcow2], check=True)
    late.write_bytes(qcow2.read_bytes())
    subprocess.run(["qemu-img", "resize", "-q", late, str(2048 * GiB)], check=True)
    subprocess.run(["qemu-img", "resize", "-q", "--shrink", late, str(INSIDE)], check=True)
    make_sparse_image(half, INSIDE)
    with half.open("r+b") as file:
        file.seek(16 * MiB)
        for _ in range(RANDOM // (64 * KiB)):
            file.write(os.urandom(32 * KiB) + b"x" * (32 * KiB))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-c", half, clusters], check=True)
    return {"raw": raw, "qcow2": qcow2, "late": late, "compressed clusters": clusters}


@pytest.mark.parametrize("inside", ["raw", "qcow2", "late", "compressed clusters"])
@pytest.mark.parametrize(
    "pack", [xz_9, zstd_long(26), zstd_long(24)], ids=["xz -9", "zstd --long=26", "zstd --long=24"]
)
def test_a_long_window_takes_no_more(served, tmp_path, plain_images, pack, inside):
    """With late tables in it, most of the data waits at the end of the disk."""
    pack(plain_images[inside], tmp_path / "image")
    kind = "raw" if inside == "raw" else "qcow2"
    peak = deploy(f"{served}/image", tmp_path / "disk.img", INSIDE + 128 * MiB, "--hostname", "a", kind=kind)
    assert peak < LIMIT


def test_a_tar_in_a_long_window_takes_no_more(served, tmp_path, plain_images):
    subprocess.run(["tar", "-C", plain_images["late"].parent, "-cf", tmp_path / "tar", "late"], check=True)
    xz_9(tmp_path / "tar", tmp_path / "image")
    peak = deploy(
        f"{served}/image", tmp_path / "disk.img", INSIDE + 128 * MiB, "--hostname", "a", kind="qcow2"
    )
    assert peak < LIMIT


def test_a_longer_window_takes_as_much_more_as_it_is_long(served, tmp_path, plain_images):
    zstd_long(27)(plain_images["qcow2"], tmp_path / "image")
    peak = deploy(
        f"{served}/image", tmp_path / "disk.img", INSIDE + 128 * MiB, "--hostname", "a", kind="qcow2"
    )
    assert peak < LIMIT + (128 - 64) * MiB


def test_a_window_of_4_gib_is_refused_with_the_way_out(served, tmp_path):
    frame = struct.pack("<IBB", 0xFD2FB528, 0, 32 - 10 << 3) + b"\x09\0\0x"  # and a last block of one byte
    (tmp_path / "image").write_bytes(frame)
    disk = tmp_path / "disk.img"
    done = run_measured(f"{served}/image", disk, INSIDE + 128 * MiB, "--json", kind="raw")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (1, "image.unsafe")
    assert "memory_limit" in error["message"]
    assert "4294967296 bytes" in error["detail"]
    assert "--long=26" in error["hint"]
    assert not disk.exists()


def test_a_ready_made_drive_of_that_size_stays_below_the_limit_too(served, tmp_path):
    make_image(tmp_path / "image.raw", 256 * MiB)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "user_data").write_bytes(
        os.urandom(8 * MiB - 512 * KiB)
    )  # which gzip makes no shorter
    drive = tmp_path / "drive.iso"
    command = [
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        "-R",
        "-J",
        "-V",
        "config-2",
        "-o",
        drive,
        tmp_path / "tree",
    ]
    subprocess.run(command, check=True)
    for given in (drive, f"{served}/drive.iso"):
        peak = deploy(f"{served}/image.raw", tmp_path / "disk.img", 512 * MiB, "--config-drive", given)
        assert peak < LIMIT
