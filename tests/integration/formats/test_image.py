import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.image import WINDOW_BYTES, examine
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.mbr import Mbr
from agent.units import MiB

SIZE = 24 * MiB
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


@pytest.fixture
def make(tmp_path):
    """The bytes of an image: make("gpt", "start=2048,size=2048,type=linux", boot_code=b"x")."""

    def build(label: str, *partitions: str, boot_code: bytes = b"") -> bytes:
        path = tmp_path / "image.raw"
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, SIZE)
        script = "\n".join([f"label: {label}", *partitions]) + "\n"
        subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True, capture_output=True)
        data = path.read_bytes()
        return boot_code + data[len(boot_code) :]

    return build


def test_a_gpt_image(make):
    data = make(
        "gpt", f"start=2048,size=2048,type={ESP}", "start=8192,size=4096,type=linux", boot_code=b"\xeb"
    )
    facts = examine(data[:WINDOW_BYTES], SIZE)
    assert facts.content == "raw"
    assert isinstance(facts.table, Gpt)
    assert (facts.sector_size, facts.esp, facts.boot_code) == (512, True, True)
    assert facts.reach == (8192 + 4096) * 512
    assert (facts.size, facts.table_fault) == (SIZE, None)


def test_what_a_server_cannot_boot_from_is_known(make):
    facts = examine(make("gpt", "start=2048,size=2048,type=linux"), None)
    assert (facts.esp, facts.boot_code, facts.size) == (False, False, None)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_filesystem_tells_the_sector_size_of_an_mbr(make, tmp_path, sector_size):
    data = bytearray(make("dos", "start=256,size=2048,type=83,bootable", boot_code=b"\xeb"))
    filesystem = tmp_path / "ext4"
    filesystem.touch()
    os.truncate(filesystem, MiB)
    subprocess.run(["mkfs.ext4", "-q", filesystem], check=True, capture_output=True)
    data[256 * sector_size : 256 * sector_size + MiB] = filesystem.read_bytes()
    facts = examine(bytes(data[:WINDOW_BYTES]), SIZE)
    assert isinstance(facts.table, Mbr)
    assert facts.sector_size == facts.table.sector_size == sector_size
    assert facts.reach == (256 + 2048) * sector_size


def test_an_mbr_that_would_not_fit_with_large_sectors_has_small_ones(make):
    data = make("dos", "start=2048,size=40960,type=83")
    assert examine(data[:WINDOW_BYTES], SIZE).sector_size == 512
    assert examine(data[:WINDOW_BYTES], None).sector_size is None


def test_a_damaged_gpt_is_told_with_its_fault(make):
    data = bytearray(make("gpt", "start=2048,size=2048,type=linux"))
    data[1024] ^= 1
    facts = examine(bytes(data), SIZE)
    assert (facts.content, facts.table) == ("raw", None)
    assert "entries CRC" in facts.table_fault


@pytest.mark.parametrize(
    ("window", "content"), [(b"", "nothing"), (b"<html>", "html"), (bytes(MiB), "zeros")]
)
def test_what_is_no_disk(window, content):
    facts = examine(window, len(window))
    assert (facts.content, facts.table, facts.table_fault) == (content, None, None)


@given(st.binary(min_size=66, max_size=66), st.binary(max_size=300))
def test_any_table_is_read_or_refused_but_never_raises(entries, header):
    window = bytearray(64 * 1024)
    window[446:512] = entries[:64] + b"\x55\xaa"
    window[512 : 512 + len(header)] = header
    for size in (None, 0, len(window), SIZE):
        facts = examine(bytes(window), size)
        assert facts.table is None or facts.reach > 0
