"""Which decoder an image goes through: the content decides, and the job's type says what is accepted."""

from dataclasses import replace

from agent.formats.chain import Chained
from agent.formats.compressed import Decompressor, Kind
from agent.formats.extent import Decoder
from agent.formats.ova.decoder import OvaDecoder
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.qcow2.header import DEFAULT_LIMITS
from agent.formats.raw import RawDecoder
from agent.stages.context import Context
from agent.units import MiB

# Beside a window that is longer than this, early data of a qcow2 moves to the free tail of the disk much sooner.
MAX_BESIDE = 16 * MiB
EARLY_BESIDE = 2 * MiB

_COMPRESSED: dict[str, Kind] = {"gzip": "gzip", "xz": "xz", "zstd": "zstd", "bzip2": "bzip2"}


def new_decoder(ctx: Context) -> Decoder:
    """A decoder for the content that was sniffed, and for what is inside where that is compressed. Changes nothing.

    What does not match the job's type goes through as raw, for the plan to see what it is and to refuse it.
    """
    info, content = ctx.info, ctx.content
    if info is None:
        raise RuntimeError("the image is decoded before it was opened")
    kind = _COMPRESSED.get(content)
    if kind is None:
        return _plain(ctx, content, info.size, can_fetch=info.seekable)
    outer = Decompressor(kind, max_unpacked(ctx.target.size))
    return Chained(outer, lambda inner: _plain(ctx, inner, None, can_fetch=False, beside=outer.held))


def container_of(ctx: Context, decoder: Decoder) -> str:
    """What the file is without its compression; empty as long as a decoder of `new_decoder` has not come to know."""
    content = decoder.content if isinstance(decoder, Chained) else ctx.content
    return _container(content or "", ctx.job.type)


def _container(content: str, job_type: str) -> str:
    # An OVA may begin with another member than its descriptor; the decoder tells what is wrong with it.
    return "ova" if content == "tar" and job_type == "ova" else content


def max_unpacked(disk_size: int) -> int:
    """The largest image file that a compressed one may hold, in bytes: one that fills the disk, and its tables."""
    return disk_size + disk_size // 8 + 64 * MiB


def _plain(ctx: Context, content: str, size: int | None, *, can_fetch: bool, beside: int = 0) -> Decoder:
    if content == ctx.job.type == "qcow2":
        limits = DEFAULT_LIMITS if beside <= MAX_BESIDE else replace(DEFAULT_LIMITS, early_bytes=EARLY_BESIDE)
        return Qcow2Decoder(size, ctx.target.size, can_fetch=can_fetch, can_recall=True, limits=limits)
    if _container(content, ctx.job.type) == ctx.job.type == "ova":
        return OvaDecoder(ctx.target.size)
    return RawDecoder(size)
