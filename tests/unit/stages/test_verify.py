"""Verify: the bytes that came are those that the job names; until then nothing can boot."""

import pytest

from agent.errors import ChecksumMismatch, ImageChanged, ImageDownload, ImageTruncated
from agent.stages.verify import examine_written, verify
from agent.units import MiB
from tests.unit.stages.memory import IMAGE, IMAGE_BYTES, MemorySource, Stages, gpt_disk, sha256


async def test_the_image_that_the_job_names_passes():
    stages = Stages(**sha256(IMAGE))
    await stages.written()
    verify(stages.ctx)


async def test_another_digest_is_told_with_both():
    stages = Stages(**sha256(b"another image"))
    await stages.written()
    with pytest.raises(ChecksumMismatch) as caught:
        verify(stages.ctx)
    for digest in (sha256(IMAGE)["checkSum"], sha256(b"another image")["checkSum"]):
        assert digest in caught.value.message
    assert (caught.value.blame, caught.value.retryable) == ("image", False)
    assert not stages.disk.is_bootable


async def test_where_there_are_mirrors_each_may_be_the_one_with_other_bytes():
    stages = Stages(**sha256(b"another image"), mirrors=["https://mirror.example.net/image.raw"])
    await stages.written()
    with pytest.raises(ChecksumMismatch) as caught:
        verify(stages.ctx)
    assert "each of the mirrors" in caught.value.hint


async def test_a_digest_that_is_wrong_where_a_cut_cannot_be_told_blames_the_network():
    source = MemorySource(size=None)
    source.length_checked = False
    stages = Stages(source, **sha256(b"another image"))
    await stages.written()
    with pytest.raises(ChecksumMismatch) as caught:
        verify(stages.ctx)
    assert (caught.value.blame, caught.value.retryable) == ("network", True)
    assert str(IMAGE_BYTES) in caught.value.detail


async def test_fewer_bytes_than_were_announced_are_a_failed_download():
    stages = Stages(MemorySource(size=IMAGE_BYTES + 1))
    await stages.written()
    with pytest.raises(ImageDownload, match=f"{IMAGE_BYTES} bytes came of {IMAGE_BYTES + 1}"):
        verify(stages.ctx)


async def test_an_image_that_ends_before_its_partitions_is_refused():
    stages = Stages(MemorySource(IMAGE[: 4 * MiB - 1], size=None))
    await stages.written()
    with pytest.raises(ImageTruncated, match=str(4 * MiB)):
        verify(stages.ctx)


async def test_another_file_than_the_one_that_was_examined_is_refused():
    stages = Stages()
    await stages.claimed()
    stages.source.data = gpt_disk(fill=b"other")[:440].replace(b"\xeb", b"\xe9") + IMAGE[440:]
    stages.source.restarts_at = [stages.source.position]
    await stages.write()
    with pytest.raises(ImageChanged, match="first bytes differ"):
        verify(stages.ctx)


async def test_a_guest_that_preflight_could_not_see_is_examined_as_it_was_written():
    stages = Stages()
    await stages.written()
    stages.ctx.image = None
    examine_written(stages.ctx)
    assert stages.ctx.image.esp
    assert (stages.ctx.image.size, stages.ctx.image.container) == (IMAGE_BYTES, "raw")
