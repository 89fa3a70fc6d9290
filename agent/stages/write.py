"""Write: stream the image to the disk, everything but its held ends, hashing the bytes as they come."""

from collections import deque
from collections.abc import Callable, Sequence

from agent.aio import run_blocking
from agent.errors import ImageChanged, ImageSize, ImageWrite, shortage
from agent.formats.extent import Decoder, ImageTooLarge
from agent.host.faults import disk_fault, full_hint
from agent.host.syscalls import return_free_memory
from agent.model.url import redact_url
from agent.stages.context import Context
from agent.stages.decoding import container_of, new_decoder
from agent.transfer.digest import Observer
from agent.transfer.pipeline import copy
from agent.transfer.record import Record, Recorder
from agent.transfer.sink import Sink, SinkFailed
from agent.transfer.source import TransferRestart


async def write_image(ctx: Context, restarted: Callable[[], None]) -> None:
    """Copy the whole image; `restarted` is called whenever the transfer has to begin again.

    Raises:
        ImageWrite: the disk refused bytes.
        ImageSize: the image turned out to be larger than the disk.
        DeployError: the download failed.
    """
    while True:
        try:
            await _copy_once(ctx)
        except TransferRestart:
            ctx.pool.reclaim()
            ctx.meter.restart()
            await run_blocking(_reset, ctx.observers)
            restarted()
        else:
            # The stages that follow make copies of the config drive; the sum in docs/architecture.md counts on this.
            ctx.pool.close()
            # What the parts of a compressed file took is free by now.
            await run_blocking(return_free_memory)
            return


async def _copy_once(ctx: Context) -> None:
    for target in ctx.live:
        target.opened()[1].reset()
    sink = _recorded(ctx, ctx.written())
    # Preflight has freed copies of the first MiBs. Give them back to the system before the buffers fill.
    await run_blocking(return_free_memory)
    head, ctx.head_buffers = deque(ctx.head_buffers), []
    decoder = new_decoder(ctx, divide=True)
    try:
        await copy(ctx.source, ctx.pool, ctx.observers, decoder, sink, ctx.meter, head)
        ctx.guest_size = decoder.virtual_size or 0
        ctx.container = container_of(ctx, decoder)  # a restarted transfer may have brought another file
        for note in decoder.notes:
            ctx.note(note)
        await run_blocking(_clean_scratch, decoder, sink)
        if ctx.record is not None:
            ctx.record.settle(ctx.guest_size)
        # The flush belongs to this stage: a disk that cannot keep the bytes that it took is told as a fault in writing.
        await run_blocking(_flush, ctx)
    except SinkFailed as failure:
        path = failure.error.filename or ctx.live[0].found.path
        hint = full_hint(path, failure.error)
        found = ctx.job.type_for(container_of(ctx, decoder))
        detail = f"{path}: {failure}"
        raise (
            shortage(failure.error, detail) or ImageWrite(type=found, detail=detail, hint=hint)
        ) from failure.error
    except ImageChanged as change:
        raise ImageChanged(url=redact_url(ctx.job.url), detail=change.detail) from None
    except ImageTooLarge as failure:
        smallest = min((target.found for target in ctx.targets), key=lambda disk: disk.size)
        raise ImageSize(image_size=failure.size, device=smallest.path, device_size=smallest.size) from None


def _recorded(ctx: Context, sink: Sink) -> Sink:
    """The sink, with a new record made of what passes to it where that is to be read back."""
    if not ctx.reads_back:
        return sink
    ctx.record = Record(sink.size)
    return Recorder(sink, ctx.record)


def _reset(observers: Sequence[Observer]) -> None:
    for observer in observers:
        observer.reset()


def _clean_scratch(decoder: Decoder, sink: Sink) -> None:
    """Zero the scratch of the decoder: outside of the guest disk no bytes of the image may be left."""
    if decoder.used_scratch is None:
        return
    offset, length = decoder.used_scratch
    try:
        sink.zero(offset, length)
    except OSError as error:
        raise SinkFailed(offset, error) from error


def _flush(ctx: Context) -> None:
    for target in ctx.live:
        disk, _ = target.opened()
        try:
            disk.flush()
        except OSError as error:
            if ctx.goes_on_without(target, disk_fault(disk.path, error)):
                continue
            raise SinkFailed(
                0, OSError(error.errno, f"{error.strerror} while flushing", disk.path)
            ) from error
