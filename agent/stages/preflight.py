"""Preflight: open the image and decode its first bytes, so that all refusals come before the first write.

Nothing is written. The bytes that are read stay in their buffers and are decoded twice: here into a window in memory,
and by the write stage, with a decoder of its own, to the disk. So nothing is downloaded twice.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from agent.aio import run_blocking
from agent.errors import (
    Blame,
    ConfigDriveCreate,
    DiskSame,
    ImageDownload,
    ImageMemory,
    ImageType,
    ImageUnsafe,
    unforeseen,
)
from agent.formats.detect import END_BYTES, SNIFF_BYTES, is_dmg, is_vhd, sniff
from agent.formats.extent import Decoder, Extent, ImageTooLarge
from agent.formats.image import WINDOW_BYTES, ImageFacts, examine
from agent.formats.tables.layout import drive_candidates, is_drive, place_drive
from agent.formats.tables.read import TableError
from agent.formats.tables.superblock import LABEL_BYTES
from agent.formats.xz import check_xz_end
from agent.model.url import redact_url
from agent.stages.context import HEAD_BYTES, Context
from agent.stages.decoding import (
    container_of,
    is_compressed_raw,
    new_decoder,
    packing_of,
    parts_memory,
    window_memory,
)
from agent.stages.registry import of_layer, require_one_disk
from agent.transfer.apply import Applier
from agent.transfer.pipeline import apply_feeds
from agent.transfer.pool import Buffer
from agent.transfer.sink import SinkFailed
from agent.transfer.source import TransferRestart
from agent.units import MiB

# The most of the file that is read to fill the window. The pool has 32 MiB, and a qcow2 decoder may keep 16 MiB back.
MAX_FILE_HEAD = 12 * MiB
# Where the decoder holds more than this, decoding stops as soon as the window is full, in the midst of a feed.
MAX_HELD = 16 * MiB


async def probe_image(ctx: Context) -> None:
    """Open the source, decode the head of the image, and put what it tells into the context.

    Raises:
        DiskSame: a path that led elsewhere a moment ago leads to the target now.
        ImageDownload: the image cannot be reached, or a cut of it could not be told from its end.
        ImageChanged: it changed between two requests.
        DeployError: the decoder refuses the image.
    """
    info = await ctx.source.open()
    ctx.use_info(info)
    ctx.meter.total = info.size
    if info.opened is not None:
        for target in ctx.targets:
            shared = await run_blocking(ctx.machine.shared_storage, info.opened, target.found.path)
            if shared is not None:
                raise DiskSame(reason=shared)
    if not info.length_checked and not ctx.job.tells_content:
        raise ImageDownload(
            url=redact_url(ctx.job.url),
            detail="the server tells neither the length nor the end of the file, so a cut cannot be noticed",
            hint="Give checkSum and checkSumType, or use a server that sends Content-Length.",
            blame=Blame.REQUEST,
            retryable=False,
        )
    available = await run_blocking(ctx.machine.available_memory)
    ctx.window_memory = window_memory(available)
    ctx.parts_memory = parts_memory(await run_blocking(ctx.machine.total_memory), available)
    while True:
        try:
            ctx.image = await _probe(ctx)
        except TransferRestart:
            release_head(ctx)
            ctx.meter.restart()
        else:
            return


async def _probe(ctx: Context) -> ImageFacts:
    first = await _next_buffer(ctx)
    ctx.content = sniff(bytes(first.data[:SNIFF_BYTES]))
    await _judge_by_end(ctx)
    await require_one_disk(ctx)
    decoder = await run_blocking(new_decoder, ctx)  # what decodes it is imported now
    window = _Window(ctx.room, decoder)
    applier = Applier(window)
    try:
        at_end = await _fill_window(ctx, decoder, applier, window)
    except ImageTooLarge as error:
        # The plan refuses it, with both numbers.
        return ImageFacts("raw", error.size, container_of(ctx, decoder), examined=False)
    except SinkFailed as failure:  # the window is in memory: the system has run out of something
        raise unforeseen(failure.error) from failure.error
    except ImageUnsafe as error:
        raise of_layer(ctx, error) from None
    except ImageMemory:
        if not window.gone:
            raise
        at_end = False  # the data that is early goes to the disk's free end once there is a disk
    finally:
        ctx.container, ctx.packing = container_of(ctx, decoder), packing_of(decoder)
        await run_blocking(applier.close)
    size, container = decoder.virtual_size, ctx.container
    # The decoder of the write stage will hold as much.
    ctx.pool.make_room(decoder.held)
    if window.gone or not (window.complete or at_end):
        return ImageFacts("unknown data", size, container, examined=False)
    data = bytes(memoryview(window.data)[: min(WINDOW_BYTES, window.covered if size is None else size)])
    ctx.head_window, ctx.window = data[:HEAD_BYTES], data
    return examine(data, size, container)


async def _judge_by_end(ctx: Context) -> None:
    """Judge the file by its end, where that tells what it is (DMG, fixed VHD) or that it was cut (xz).

    Raises:
        ImageDamaged: an xz file without its end.
        ImageType: the job says that it is a VHD, and it does not end as one.
    """
    # A raw image may end with what looks like a VHD's footer: what the job says about it, counts.
    may_be_vhd = ctx.content in ("raw", "unknown data", "zeros") and ctx.job.type in (None, "vhd")
    if not may_be_vhd and ctx.content not in ("unknown data", "xz"):
        return
    end = await _end_of_file(ctx)
    if end is None:
        return
    if ctx.content == "xz":
        check_xz_end(end)
    elif may_be_vhd and is_vhd(end):
        ctx.content = "vhd"
    elif ctx.content == "raw" and ctx.job.type == "vhd":
        raise ImageType(
            found="raw",
            expected="vhd",
            detail="the file does not end with the footer of a fixed VHD",
            hint="Compare its size with the original, which may be longer; if it is a raw image, set type to raw.",
        )
    elif is_dmg(end):
        ctx.content = "dmg"


async def _end_of_file(ctx: Context) -> bytes | None:
    """The last `END_BYTES` of the file (all of a shorter one); None where the source cannot seek."""
    info = ctx.info
    if info is None or info.size is None or not info.seekable:
        return None
    length = min(info.size, END_BYTES)
    return await ctx.source.read_at(info.size - length, length)


async def _fill_window(ctx: Context, decoder: Decoder, applier: Applier, window: "_Window") -> bool:
    """Decode the head of the file until the window is full; True if the file ended before."""
    for index in range(MAX_FILE_HEAD // ctx.pool.size):
        buffer = ctx.head_buffers[index] if index < len(ctx.head_buffers) else await _next_buffer(ctx)
        window.more_follows = buffer.length == len(buffer.view)
        try:
            await apply_feeds(applier, iter((decoder.feed(buffer.data),)), ctx.source)
        except _Full:
            return False
        if buffer.length < len(buffer.view):
            with suppress(_Full):
                await apply_feeds(applier, _finish(decoder), ctx.source)
            return True
        if window.complete:
            return False
    return False


async def find_own_drive(ctx: Context) -> None:
    """Look for a config-2 partition of the image's own, as far as that can be known before the first write.

    Within the window it costs nothing. Beyond it the label is fetched by a range request, and only where the answer
    decides: without room or slot for a new drive.
    """
    info, image = ctx.examined()
    if ctx.drive is None or image.table is None:
        return
    fetchable = ctx.content == "raw" and info.seekable and not _has_place(ctx, image)
    for part in drive_candidates(image.table.partitions):
        head = bytes(ctx.window[part.start : part.start + LABEL_BYTES])
        if len(head) < LABEL_BYTES:
            head = (await ctx.source.read_at(part.start, LABEL_BYTES) or b"") if fetchable else b""
        if is_drive(head):
            ctx.image = replace(image, own_drive=part)
            return


async def guest_bytes(ctx: Context, offset: int, length: int) -> bytes | None:
    """Bytes of the guest disk that have been read already, or can be fetched."""
    info, _ = ctx.examined()
    data = bytes(ctx.window[offset : offset + length])
    if len(data) == length or (info.size is not None and ctx.content == "raw" and info.size <= offset):
        return data
    return await ctx.source.read_at(offset, length) if ctx.content == "raw" and info.seekable else None


def _has_place(ctx: Context, image: ImageFacts) -> bool:
    if ctx.drive is None or image.table is None:
        return True
    try:
        place_drive(image.table, ctx.room, image.table.sector_size, len(ctx.drive.image))
    except (ConfigDriveCreate, TableError):
        return False
    return True


def _finish(decoder: Decoder) -> Iterator[Iterator[Extent]]:
    yield decoder.finish()


async def _next_buffer(ctx: Context) -> Buffer:
    buffer = await ctx.pool.acquire()
    ctx.head_buffers.append(buffer)
    began = time.monotonic()
    buffer.length = await ctx.source.fill(buffer.view)
    ctx.meter.received(buffer.length, time.monotonic() - began)
    return buffer


def release_head(ctx: Context) -> None:
    """Release the buffers of the file's first bytes: the transfer starts again from byte 0."""
    for buffer in ctx.head_buffers:
        buffer.release()
    ctx.head_buffers = []


class _Full(Exception):
    """The window is full, and decoding further would only cost memory or time."""


class _Window:
    """A sink that keeps the first bytes of the guest disk and counts how many of them have come."""

    def __init__(self, size: int, decoder: Decoder) -> None:
        self.size = size
        self.data = bytearray(WINDOW_BYTES)
        self.covered = 0
        self.gone = False
        """Whether the decoder read back bytes beyond the window: the disk will then hold something else."""
        self.more_follows = False
        """Whether the file goes on behind what is decoded now."""
        self._decoder = decoder

    @property
    def complete(self) -> bool:
        """Whether the window, or all of a smaller guest disk, has been written once."""
        return self.covered >= min(WINDOW_BYTES, self._decoder.virtual_size or WINDOW_BYTES)

    def write(self, offset: int, data: memoryview) -> None:
        piece = data[: max(0, WINDOW_BYTES - offset)]
        self.data[offset : offset + len(piece)] = piece
        self._count(len(piece))

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        for offset, data in writes:
            self.write(offset, data)

    def finish(self) -> None:
        """Nothing is under way."""

    def zero(self, offset: int, length: int) -> None:
        # The window is zeros from the start.
        self._count(max(0, min(WINDOW_BYTES, offset + length) - offset))

    def _count(self, length: int) -> None:
        self.covered += length
        # A few bytes of the file may decompress to gigabytes, and fill the decoder's own window beside this one. The
        # buffer's rest may take a second to inflate, and where the image in it is raw it can tell nothing.
        decoder = self._decoder
        if self.complete and (decoder.held > MAX_HELD or (self.more_follows and is_compressed_raw(decoder))):
            raise _Full

    def read(self, offset: int, length: int) -> bytes:
        data = bytes(self.data[offset : offset + length])
        self.gone = self.gone or len(data) < length
        return data
