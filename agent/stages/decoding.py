"""Which decoder an image goes through: the content decides, and the job's type says what is accepted.

What is around the image is told apart from what it is: `new_decoder` unpacks, `_plain` makes the decoder of the image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agent.formats.chain import Chained
from agent.formats.compressed import Decompressor, Kind
from agent.formats.extent import Decoder
from agent.formats.ova.decoder import OvaDecoder
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.qcow2.header import DEFAULT_LIMITS
from agent.formats.raw import RawDecoder
from agent.formats.vdi import VdiDecoder
from agent.formats.vhd import VhdDecoder
from agent.formats.vhdx.decoder import VhdxDecoder
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.stages.context import Context
from agent.units import MiB

# Beside a window that is longer than this, early data of a qcow2 moves to the free tail of the disk much sooner.
MAX_BESIDE = 16 * MiB
EARLY_BESIDE = 2 * MiB

_COMPRESSED: dict[str, Kind] = {"gzip": "gzip", "xz": "xz", "zstd": "zstd", "bzip2": "bzip2"}


@dataclass(frozen=True, slots=True)
class _File:
    """The file of a disk image, as its decoder is made from it. Sizes in bytes."""

    size: int | None
    disk_size: int
    """Of the disk that it goes to."""
    can_fetch: bool
    """Whether the source can be asked for bytes out of order."""
    beside: int
    """What the decompressor in front of it holds."""


def _qcow2(file: _File) -> Decoder:
    limits = (
        DEFAULT_LIMITS if file.beside <= MAX_BESIDE else replace(DEFAULT_LIMITS, early_bytes=EARLY_BESIDE)
    )
    return Qcow2Decoder(file.size, file.disk_size, can_fetch=file.can_fetch, can_recall=True, limits=limits)


DISK_FORMATS: Mapping[str, Callable[[_File], Decoder]] = {
    "raw": lambda file: RawDecoder(file.size),
    "qcow2": _qcow2,
    "ova": lambda file: OvaDecoder(file.disk_size),
    "vmdk": lambda file: VmdkDecoder(file.disk_size),
    "vhd": lambda file: VhdDecoder(file.size, file.disk_size),
    "vhdx": lambda file: VhdxDecoder(file.size, file.disk_size, can_fetch=file.can_fetch),
    "vdi": lambda file: VdiDecoder(file.disk_size),
}
"""How the decoder of each type of image is made."""

# What the first bytes leave open, the job's type tells: an OVA may begin with another member than its descriptor, and a
# fixed VHD has its footer at its end. The decoder tells what is wrong with it.
_HIDDEN = {("tar", "ova"): "ova", ("raw", "vhd"): "vhd"}


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


def packing_of(ctx: Context) -> str | None:
    """What is around the image, as `agent.formats.detect.sniff` names it; None where there is nothing."""
    return ctx.content if ctx.content in _COMPRESSED else None


def _container(content: str, job_type: str | None) -> str:
    return _HIDDEN.get((content, job_type or ""), content)


def max_unpacked(disk_size: int) -> int:
    """The largest image file that a compressed one may hold, in bytes: one that fills the disk, and its tables."""
    return disk_size + disk_size // 8 + 64 * MiB


def _plain(ctx: Context, content: str, size: int | None, *, can_fetch: bool, beside: int = 0) -> Decoder:
    container = _container(content, ctx.job.type)
    accepted = container == ctx.job.type_for(container)
    make = DISK_FORMATS[container if accepted else "raw"]
    return make(_File(size, ctx.target.size, can_fetch, beside))
