"""Preflight: what an image is, before anything is written."""

import bz2
import gzip
import random

import pytest

from agent.errors import Blame, DiskSame, ImageDamaged, ImageDownload, ImageType
from agent.formats.image import WINDOW_BYTES
from agent.formats.tables.gpt import Gpt
from agent.host.drive import build_drive
from agent.stages.preflight import find_own_drive, probe_image
from agent.units import MiB
from tests.kit.blocks import vhd_footer
from tests.unit.stages.memory import DISK_BYTES, IMAGE, IMAGE_BYTES, MemorySource, Stages, empty_qcow2, sha256


async def test_the_partition_table_is_known_and_nothing_was_written():
    stages = Stages()
    await probe_image(stages.ctx)
    image = stages.ctx.image
    assert isinstance(image.table, Gpt)
    assert (image.content, image.container, image.size) == ("raw", "raw", IMAGE_BYTES)
    assert (image.esp, image.boot_code, image.sector_size) == (True, True, 512)
    assert stages.disk.calls == []
    assert stages.target.disk is None


async def test_what_was_read_is_kept_for_the_write():
    stages = Stages()
    await probe_image(stages.ctx)
    assert b"".join(bytes(buffer.data) for buffer in stages.ctx.head_buffers) == IMAGE[: stages.source.given]


@pytest.mark.parametrize("content", [b"<html>no image</html>", b"", b"\0" * MiB])
async def test_what_has_no_partition_table_is_named(content):
    stages = Stages(MemorySource(content))
    await probe_image(stages.ctx)
    assert stages.ctx.image.table is None
    assert stages.ctx.image.content != "raw"


async def test_a_compressed_image_is_what_is_inside():
    stages = Stages(MemorySource(gzip.compress(IMAGE, 1)))
    await probe_image(stages.ctx)
    assert stages.ctx.content == "gzip"
    assert (stages.ctx.image.container, stages.ctx.image.content) == ("raw", "raw")
    assert stages.ctx.image.esp


@pytest.mark.parametrize("is_all_there", [True, False])
async def test_behind_what_is_examined_a_compressed_raw_image_is_not_inflated_unless_all_of_it_is_there(
    is_all_there,
):
    """To inflate the rest of a buffer may take a second, and tells only whether that is damaged."""
    examined = IMAGE.ljust(WINDOW_BYTES, b"\0")
    rest = random.Random(1).randbytes(MiB if is_all_there else 5 * MiB)
    file = bytearray(bz2.compress(examined + rest, 1))  # its blocks have checksums
    file[len(bz2.compress(examined, 1)) + MiB // 2] ^= 1
    stages = Stages(MemorySource(bytes(file)))
    if is_all_there:
        with pytest.raises(ImageDamaged):
            await probe_image(stages.ctx)
    else:
        await probe_image(stages.ctx)
        assert stages.ctx.image.esp


async def test_a_guest_disk_that_is_larger_than_the_target_is_left_to_the_plan_with_its_size():
    stages = Stages(MemorySource(empty_qcow2(DISK_BYTES * 2)), type="qcow2")
    await probe_image(stages.ctx)
    image = stages.ctx.image
    assert (image.size, image.container, image.examined) == (DISK_BYTES * 2, "qcow2", False)


async def test_the_image_on_the_target_itself_is_refused():
    stages = Stages()
    stages.source.opened, stages.machine.shared = "/proc/self/fd/9", "the image is on /dev/memory1"
    with pytest.raises(DiskSame, match="the image is on"):
        await probe_image(stages.ctx)
    assert stages.source.given == 0


async def test_a_cut_that_nothing_would_tell_is_refused_unless_a_checksum_does():
    source = MemorySource(size=None)
    source.length_checked = False
    with pytest.raises(ImageDownload) as caught:
        await probe_image(Stages(source).ctx)
    assert (caught.value.blame, caught.value.retryable) == (Blame.REQUEST, False)
    assert "secret" not in f"{caught.value}{caught.value.detail}"
    await probe_image(Stages(source, **sha256(IMAGE)).ctx)


async def test_a_transfer_that_begins_again_is_examined_from_its_first_byte():
    source = MemorySource()
    source.restarts_at = [4 * MiB]
    stages = Stages(source)
    await probe_image(stages.ctx)
    assert stages.ctx.image.esp
    assert sum(buffer.length for buffer in stages.ctx.head_buffers) == stages.ctx.meter.downloaded
    assert source.given > stages.ctx.meter.downloaded


async def test_the_end_of_an_xz_file_is_looked_at_first():
    stages = Stages(MemorySource(b"\xfd7zXZ\x00" + bytes(100)))
    with pytest.raises(ImageDamaged, match="xz"):
        await probe_image(stages.ctx)
    assert stages.source.ranges


OWN_DRIVE_AT = 2 * MiB
"""Where the second partition of the image begins."""


@pytest.mark.parametrize("has_one", [True, False])
async def test_a_config_drive_of_the_images_own_is_found_without_a_request_where_it_was_read(has_one):
    drive = build_drive({"openstack/latest/meta_data.json": b"{}"}, 512)
    image = bytearray(IMAGE)
    if has_one:
        image[OWN_DRIVE_AT : OWN_DRIVE_AT + len(drive.image)] = drive.image
    stages = Stages(MemorySource(bytes(image)), drive=drive)
    await probe_image(stages.ctx)
    await find_own_drive(stages.ctx)
    own = stages.ctx.image.own_drive
    assert (None if own is None else own.start) == (OWN_DRIVE_AT if has_one else None)
    assert stages.source.ranges == []


# -- the type, where the job names none ----------------------------------------------------------------------------

VHD = IMAGE + vhd_footer(IMAGE_BYTES, 2)


@pytest.mark.parametrize(
    ("content", "container"),
    [(IMAGE, "raw"), (empty_qcow2(MiB), "qcow2"), (VHD, "vhd"), (b"<html>no image</html>", "html")],
)
@pytest.mark.parametrize("packing", [None, "gzip"])
async def test_the_content_decides_where_the_job_names_no_type(content, container, packing):
    stages = Stages(MemorySource(gzip.compress(content, 1) if packing else content), type=None)
    await probe_image(stages.ctx)
    # The end of what is compressed cannot be looked at first.
    expected = "raw" if packing and container == "vhd" else container
    assert stages.ctx.image.container == stages.ctx.container == expected


@pytest.mark.parametrize(("job_type", "container"), [("vhd", "vhd"), ("raw", "raw"), (None, "vhd")])
async def test_a_fixed_vhd_is_one_unless_the_job_says_that_it_is_raw(job_type, container):
    stages = Stages(MemorySource(VHD), type=job_type)
    await probe_image(stages.ctx)
    image = stages.ctx.image
    assert (image.container, image.content) == (container, "raw")
    assert image.size == IMAGE_BYTES + (512 if container == "raw" else 0)
    assert len(stages.source.ranges) == (container == "vhd")


async def test_a_vhd_without_its_footer_is_refused_before_anything_is_written():
    with pytest.raises(ImageType) as caught:
        await probe_image(Stages(type="vhd").ctx)
    assert "`raw` which does not match expected vhd" in caught.value.message
    assert "set type to raw" in caught.value.hint


async def test_where_the_end_cannot_be_read_the_job_tells_that_it_is_a_vhd():
    stages = Stages(MemorySource(VHD, seekable=False), type="vhd")
    await stages.written()
    assert stages.ctx.guest_size == IMAGE_BYTES
    stages = Stages(MemorySource(seekable=False), type="vhd")
    with pytest.raises(ImageDamaged):
        await stages.written()
    assert stages.disk.calls == []  # it is so short that its end was seen
