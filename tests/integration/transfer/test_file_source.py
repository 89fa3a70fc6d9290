"""The file source on real files."""

import asyncio
import ctypes
import os

import pytest

from agent.errors import Blame, ImageChanged, ImageDownload
from agent.transfer.file import READ_AT_LIMIT, FileSource

IN_OPEN = 0x20  # linux/inotify.h


@pytest.fixture
async def image(tmp_path, content):
    """A file and its source, not opened yet."""
    path = tmp_path / "image with space.raw"
    path.write_bytes(content)
    source = FileSource(str(path))
    yield path, source
    await source.close()


async def read(source: FileSource, chunk: int) -> bytes:
    buffer, data = memoryview(bytearray(chunk)), bytearray()
    while count := await source.fill(buffer):
        data += buffer[:count]
    return bytes(data)


@pytest.mark.parametrize("chunk", [1000, 4096, 299_999, 300_000, 1 << 20])
async def test_file_arrives_whole(image, content, chunk):
    path, source = image
    info = await source.open()
    assert (info.size, info.seekable, info.length_checked) == (len(content), True, True)
    assert info.url == f"file://{path}".replace(" ", "%20")
    assert await read(source, chunk) == content
    assert await source.fill(memoryview(bytearray(1))) == 0


async def test_read_at_does_not_move_the_transfer(image, content):
    _, source = image
    await source.open()
    assert await source.read_at(1000, 10) == content[1000:1010]
    assert await source.read_at(299_995, 10) == content[299_995:]
    assert await source.read_at(400_000, 10) == b""
    with pytest.raises(ValueError, match="cannot read"):
        await source.read_at(0, READ_AT_LIMIT + 1)
    assert await read(source, 65536) == content


async def test_missing_file_is_named(tmp_path):
    source = FileSource(str(tmp_path / "nothing"))
    with pytest.raises(ImageDownload) as caught:
        await source.open()
    assert caught.value.detail == f"{tmp_path}/nothing cannot be opened: No such file or directory"
    assert (caught.value.blame, caught.value.retryable) == (Blame.REQUEST, False)
    await source.close()


async def test_only_regular_files_and_block_devices_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, kind in (
        (tmp_path, "a directory"),
        (tmp_path / "fifo", "a FIFO"),
        ("/dev/null", "a character device"),
    ):
        source = FileSource(str(path))
        with pytest.raises(ImageDownload, match=kind):
            await asyncio.wait_for(source.open(), 5)
        await source.close()


async def test_what_is_no_image_is_not_even_opened(tmp_path):
    """To open some devices is to use them; the kernel's own watch over the file tells whether it was opened."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(fifo), IN_OPEN) > 0, os.strerror(ctypes.get_errno())
        source = FileSource(str(fifo))
        with pytest.raises(ImageDownload, match="a FIFO"):
            await source.open()
        with pytest.raises(BlockingIOError):
            os.read(watch, 1024)
        os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        assert os.read(watch, 1024), "the watch works"
    finally:
        os.close(watch)


@pytest.mark.parametrize("change", ["shrinks", "grows", "is rewritten"])
async def test_file_that_changes_while_it_is_read(image, change, content):
    path, source = image
    await source.open()
    buffer = memoryview(bytearray(1000))
    await source.fill(buffer)
    if change == "is rewritten":
        os.utime(path, ns=(1, 1))
    else:
        os.truncate(path, 500 if change == "shrinks" else 400_000)
    with pytest.raises(ImageChanged) as caught:
        await source.fill(buffer)
    expected = {"shrinks": "has 500 now", "grows": "has 400000 now", "is rewritten": "was modified"}
    assert expected[change] in caught.value.detail


async def test_read_fault_is_told_with_its_place():
    source = FileSource("/proc/self/mem")  # reading at 0 is EIO, and the size is 0: the size is made up here
    await source.open()
    source._size = 4096
    with pytest.raises(ImageDownload, match="Input/output error") as caught:
        await source.fill(memoryview(bytearray(10)))
    assert "at byte 0 of 4096" in caught.value.detail
    await source.close()


async def test_closing_twice_and_unopened_is_fine(image):
    _, source = image
    await source.close()
    await source.open()
    await source.close()
    await source.close()
    with pytest.raises(RuntimeError, match="not open"):
        await source.fill(memoryview(bytearray(1)))


async def test_cancelled_fill_leaves_the_buffer_alone_afterwards(image):
    _, source = image
    await source.open()
    buffer = bytearray(200_000)
    async with asyncio.TaskGroup() as group:
        fill = group.create_task(source.fill(memoryview(buffer)))
        await asyncio.sleep(0)
        fill.cancel()
    assert fill.cancelled()
    snapshot = bytes(buffer)
    await asyncio.sleep(0.02)
    assert bytes(buffer) == snapshot
