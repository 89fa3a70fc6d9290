"""Preflight: open the image and read its first bytes, so that all refusals come before the first write.

Nothing is written here. The bytes read stay in their buffers, and the write stage goes on from them: nothing
is downloaded twice.
"""

import asyncio

from agent.errors import ImageDownload
from agent.formats.image import WINDOW_BYTES, examine
from agent.model.url import redact_url
from agent.stages.context import HEAD_BYTES, Context
from agent.transfer.pool import Buffer
from agent.transfer.source import TransferRestart


async def probe_image(ctx: Context) -> None:
    """Open the source, read the head of the image, and put what it tells into the context.

    Raises:
        ImageDownload: the image cannot be reached, or a cut of it could not be told from its end.
        ImageChanged: it changed between two requests.
    """
    ctx.info = await ctx.source.open()
    ctx.meter.total = ctx.info.size
    if not ctx.info.length_checked and ctx.job.checksum is None:
        raise ImageDownload(
            url=redact_url(ctx.job.url),
            detail="the server tells neither the length nor the end of the file, so a cut cannot be noticed",
            hint="Give checkSum and checkSumType, or use a server that sends Content-Length.",
        )
    while True:
        try:
            await _fill_head(ctx)
            break
        except TransferRestart:
            forget_head(ctx)
            ctx.meter.restart()
    window = b"".join(buffer.data for buffer in ctx.head_buffers)
    whole = bool(ctx.head_buffers) and ctx.head_buffers[-1].length < ctx.pool.size
    size = len(window) if whole else ctx.info.size
    ctx.image = examine(window[:WINDOW_BYTES], size)
    ctx.head_window = window[:HEAD_BYTES]


async def _fill_head(ctx: Context) -> None:
    got = 0
    while got < WINDOW_BYTES:
        buffer: Buffer = await ctx.pool.acquire()
        began = asyncio.get_running_loop().time()
        ctx.head_buffers.append(buffer)
        buffer.length = await ctx.source.fill(buffer.view)
        ctx.meter.received(buffer.length, asyncio.get_running_loop().time() - began)
        got += buffer.length
        if buffer.length < len(buffer.view):
            break


def forget_head(ctx: Context) -> None:
    """Give the buffers of the head back: they were written, or the transfer starts again."""
    for buffer in ctx.head_buffers:
        buffer.release()
    ctx.head_buffers = []
