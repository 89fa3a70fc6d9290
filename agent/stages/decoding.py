"""Which decoder an image goes through: the content decides, and the job's type says what is accepted.

What is around the image is told apart from what it is: `new_decoder` unpacks, `_plain` makes the decoder of the image.

A decoder is imported when the first of its kind is made: all of them take 2 MiB, with the libraries behind them, and
a deployment needs one or two.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agent.errors import ImageUnsafe
from agent.formats.advice import hint_for
from agent.formats.archives.unpack import Archive
from agent.formats.chain import Chained, Unpacker
from agent.formats.compressed import MAX_MEMORY, Decompressor, Kind
from agent.formats.extent import Decoder
from agent.formats.raw import RawDecoder
from agent.stages.context import Context
from agent.units import GiB, MiB

# Beside a window that is longer than this, early data of a qcow2 moves to the free tail of the disk much sooner.
MAX_BESIDE = 16 * MiB
EARLY_BESIDE = 2 * MiB

# The window of zstd --long=31, the longest that zstd makes.
LONGEST_WINDOW = 2 * GiB
# What a deployment takes beside it at the most, with a large config drive; and some for everybody else on the machine.
OTHER_MEMORY = 128 * MiB

# The parts of a compressed file may take this fraction of the memory that the machine has.
PARTS_FRACTION = 16

# How many files may be around an image: a compressed archive in an archive, which the artifacts of CI systems are, or a
# compressed image in a compressed archive. Two of a kind right in one another are refused by `Chained`.
MAX_AROUND = 3

_COMPRESSED: dict[str, Kind] = {"gzip": "gzip", "xz": "xz", "zstd": "zstd", "bzip2": "bzip2", "lz4": "lz4"}


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
    from agent.formats.qcow2.decoder import Qcow2Decoder  # noqa: PLC0415
    from agent.formats.qcow2.header import DEFAULT_LIMITS  # noqa: PLC0415

    limits = (
        DEFAULT_LIMITS if file.beside <= MAX_BESIDE else replace(DEFAULT_LIMITS, early_bytes=EARLY_BESIDE)
    )
    return Qcow2Decoder(file.size, file.disk_size, can_fetch=file.can_fetch, can_recall=True, limits=limits)


def _ova(file: _File) -> Decoder:
    from agent.formats.ova.decoder import OvaDecoder  # noqa: PLC0415

    return OvaDecoder(file.disk_size)


def _vmdk(file: _File) -> Decoder:
    from agent.formats.vmdk.decoder import VmdkDecoder  # noqa: PLC0415

    return VmdkDecoder(file.disk_size)


def _vhd(file: _File) -> Decoder:
    from agent.formats.vhd import VhdDecoder  # noqa: PLC0415

    return VhdDecoder(file.size, file.disk_size)


def _vhdx(file: _File) -> Decoder:
    from agent.formats.vhdx.decoder import VhdxDecoder  # noqa: PLC0415

    return VhdxDecoder(file.size, file.disk_size, can_fetch=file.can_fetch)


def _vdi(file: _File) -> Decoder:
    from agent.formats.vdi import VdiDecoder  # noqa: PLC0415

    return VdiDecoder(file.disk_size)


DISK_FORMATS: Mapping[str, Callable[[_File], Decoder]] = {
    "raw": lambda file: RawDecoder(file.size),
    "qcow2": _qcow2,
    "ova": _ova,
    "vmdk": _vmdk,
    "vhd": _vhd,
    "vhdx": _vhdx,
    "vdi": _vdi,
}
"""How the decoder of each type of image is made."""

# What the first bytes leave open, the job's type tells: an OVA may begin with another member than its descriptor, and a
# fixed VHD has its footer at its end. The decoder tells what is wrong with it.
_HIDDEN = {("tar", "ova"): "ova", ("raw", "vhd"): "vhd"}


def new_decoder(ctx: Context, *, divide: bool = False) -> Decoder:
    """A decoder for the content that was sniffed, and for what is inside where that is packed. Changes nothing.

    Blocks where it is the first of its kind, which is imported.

    With `divide` a compressed file is cut into parts, for whoever inflates them side by side.

    What does not match the job's type goes through as raw, for the plan to see what it is and to refuse it.
    """
    info, content = ctx.info, ctx.content
    if info is None:
        raise RuntimeError("the image is decoded before it was opened")
    parts = ctx.parts_memory if divide else 0
    return _decoder(ctx, content, info.size, can_fetch=info.seekable, parts=parts)


def _decoder(
    ctx: Context,
    content: str,
    size: int | None,
    *,
    can_fetch: bool,
    beside: int = 0,
    around: int = 0,
    parts: int = 0,
) -> Decoder:
    """For a content within `around` others, which hold `beside` bytes together; `size` is its length where known.

    `parts`: bytes that its parts may take together.
    """
    outer = _unpacker(ctx, content, beside, parts)
    if outer is None:
        return _plain(ctx, content, size, can_fetch=can_fetch, beside=beside)
    if around == MAX_AROUND:
        raise ImageUnsafe(
            check="nested_archive",
            detail=f"the image is in {content}, within {around} others",
            hint=hint_for(content),
        )

    def inner(found: str) -> Decoder:
        held = beside + outer.held
        return _decoder(ctx, found, outer.size, can_fetch=False, beside=held, around=around + 1)

    return Chained(outer, inner, beside=beside)


def _unpacker(ctx: Context, content: str, beside: int, parts: int) -> Unpacker | None:
    """What unpacks this content; None for what is no file around an image."""
    most = max_unpacked(ctx.room)
    if (kind := _COMPRESSED.get(content)) is not None:
        return Decompressor(kind, most, max(ctx.window_memory - beside, MiB), parts)
    if content == "zip" or (content == "tar" and ctx.job.type != "ova"):
        return Archive("zip" if content == "zip" else "tar", most)
    return None


def container_of(ctx: Context, decoder: Decoder) -> str:
    """What the file is without what is around it; empty as long as a decoder of `new_decoder` has not come to know."""
    content = decoder.content if isinstance(decoder, Chained) else ctx.content
    return _container(content or "", ctx.job.type)


def packing_of(decoder: Decoder) -> str | None:
    """What is around the image, such as `gzip` or `tar in gzip`; None where there is nothing."""
    return " in ".join(reversed(decoder.around)) if isinstance(decoder, Chained) else None


def is_compressed_raw(decoder: Decoder) -> bool:
    """Whether it inflates a raw image: nothing in that, behind what is examined, could be refused."""
    return (
        isinstance(decoder, Chained)
        and isinstance(decoder.outer, Decompressor)
        and (decoder.content, len(decoder.around)) == ("raw", 1)
    )


def _container(content: str, job_type: str | None) -> str:
    return _HIDDEN.get((content, job_type or ""), content)


def window_memory(available: int) -> int:
    """Bytes that the windows of compressed files may take, where so many are available on the machine.

    As many as always were, where it is short of memory: those of `xz -9` and `zstd --long=26` are in the sum that
    docs/architecture.md promises.
    """
    return max(MAX_MEMORY, min(available - OTHER_MEMORY, LONGEST_WINDOW))


def parts_memory(total: int, available: int) -> int:
    """Bytes that the parts of a compressed file may take, of a machine that has `total` and so many available.

    A sixteenth, and no less than a window always may: where memory is short, parts are inflated that fit into it.
    """
    return max(MAX_MEMORY, min(total // PARTS_FRACTION, available - OTHER_MEMORY))


def max_unpacked(disk_size: int) -> int:
    """The largest image file that a compressed one may hold, in bytes: one that fills the disk, and its tables."""
    return disk_size + disk_size // 8 + 64 * MiB


def _plain(ctx: Context, content: str, size: int | None, *, can_fetch: bool, beside: int = 0) -> Decoder:
    container = _container(content, ctx.job.type)
    accepted = container == ctx.job.type_for(container)
    make = DISK_FORMATS[container if accepted else "raw"]
    return make(_File(size, ctx.room, can_fetch, beside))
