"""The promise about memory: resident below 128 MiB, whatever the size of the image."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.units import GiB, MiB

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests/bench/sendfile_server.py"
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
    """A server of tmp_path, in a process of its own."""
    child = subprocess.Popen([sys.executable, SERVER, tmp_path], stdout=subprocess.PIPE, text=True)
    with child:
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        child.terminate()


def make_sparse_image(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)
    script = "label: gpt\nsize=64MiB, type=uefi\ntype=linux\n"
    subprocess.run(["sfdisk", "-q", "--no-tell-kernel", path], input=script, text=True, check=True)


def deploy(url: str, disk: Path, size: int, *options: object, kind: str = "raw") -> int:
    """Deploy the image; gives the peak of the resident memory in bytes."""
    arguments = ["write", "--url", url, "--type", kind, "--disk", disk, "--size", size, "--quiet", *options]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    disk.unlink(missing_ok=True)  # it holds gigabytes, and pytest keeps what tests leave
    assert done.returncode == 0, done.stderr
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.MULTILINE)[1]) * 1024


def test_an_image_of_4_gib_takes_less_than_128_mib_of_memory(served, tmp_path):
    make_sparse_image(tmp_path / "image.raw", 4 * GiB)
    peak = deploy(f"{served}/image.raw", tmp_path / "disk.img", 5 * GiB, "--hostname", "web1")
    assert peak < LIMIT


def test_the_largest_documented_config_drive_stays_below_the_limit_too(served, tmp_path):
    make_sparse_image(tmp_path / "image.raw", 256 * MiB)
    user_data = tmp_path / "user-data"
    user_data.write_text("x" * (8 * MiB - 4096))
    peak = deploy(f"{served}/image.raw", tmp_path / "disk.img", 512 * MiB, "--user-data", user_data)
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
