"""Verify: length and digest of the bytes as they were downloaded. Until this passes nothing bootable is on
the disk.
"""

from agent.errors import Blame, ChecksumMismatch, ImageChanged, ImageDamaged, ImageDownload, ImageTruncated
from agent.formats.image import WINDOW_BYTES, examine
from agent.formats.tables.layout import is_cut
from agent.stages.context import Context
from agent.transfer.digest import Digest

_CUT_HINT = (
    "The transfer was probably cut: deploy again, or use a server that sends Content-Length. "
    "If it fails each time with as many bytes, check that checkSum belongs to the file behind the URL."
)
_MIRRORS_HINT = (
    "Compare the file behind the URL and behind each of the mirrors with checkSum: one may have other bytes. "
    "Leave that one out, or all of them."
)

_REGISTRY_HINT = (
    "The registry, or a cache before it, has other bytes than its manifest says: pull from another one."
)
_REGISTRY_MIRRORS_HINT = (
    "The registry or one of the mirrors has other bytes than the manifest says: leave the mirrors out."
)


def verify(ctx: Context) -> None:
    """Compare what was downloaded with what was promised.

    Raises:
        ChecksumMismatch, ImageDownload, ImageTruncated, ImageChanged: it is not the image that the job names.
    """
    info, image = ctx.examined()
    _, sink = ctx.live[0].opened()
    if info.size is not None and ctx.digest.length != info.size:
        detail = f"{ctx.digest.length} bytes came of {info.size}"
        raise ImageDownload(url=info.url, detail=detail)
    got = ctx.digest.hexdigest()
    if ctx.job.checksum is not None and got != ctx.job.checksum:
        raise _mismatch(ctx, got, ctx.job.checksum)
    if ctx.promised is not None and f"{ctx.promised.algorithm}:{ctx.promised.hexdigest()}" != info.digest:
        raise _broken_promise(ctx.promised, info.digest or "", mirrored=bool(ctx.job.mirrors))
    if image.table is not None and is_cut(image.table, ctx.guest_size):
        raise ImageTruncated(size=ctx.guest_size, expected=image.reach)
    # A restarted transfer may have brought another file than the one that preflight examined.
    if bytes(sink.head[: len(ctx.head_window)]) != ctx.head_window:
        raise ImageChanged(
            url=info.url, detail="its first bytes differ from those that were examined before writing"
        )


def may_be_cut(ctx: Context, error: ImageDamaged | ImageTruncated) -> None:
    """Blame the network for an image without an end, where nothing but its own bytes could tell a cut."""
    if ctx.info is None or ctx.info.length_checked:
        return
    error.blame, error.retryable, error.hint = Blame.NETWORK, True, _CUT_HINT


def _mismatch(ctx: Context, got: str, expected: str) -> ChecksumMismatch:
    algorithm = ctx.digest.algorithm
    info, _ = ctx.examined()
    if info.length_checked:
        hint = _MIRRORS_HINT if ctx.job.mirrors else ""
        return ChecksumMismatch(algorithm=algorithm, got=got, expected=expected, hint=hint)
    return ChecksumMismatch(
        algorithm=algorithm,
        got=got,
        expected=expected,
        detail=f"{ctx.digest.length} bytes came, and the server did not tell how many there are",
        hint=_CUT_HINT,
        blame=Blame.NETWORK,
        retryable=True,
    )


def _broken_promise(got: Digest, promised: str, *, mirrored: bool) -> ChecksumMismatch:
    return ChecksumMismatch(
        algorithm=got.algorithm,
        got=got.hexdigest(),
        expected=promised.partition(":")[2],
        detail="the manifest in the registry has the other one",
        hint=_REGISTRY_MIRRORS_HINT if mirrored else _REGISTRY_HINT,
    )


def examine_written(ctx: Context) -> None:
    """Examine the guest disk as it was written, where preflight could not see its first bytes.

    Raises:
        DiskIo: it does not read back.
    """
    length = min(WINDOW_BYTES, ctx.guest_size)
    window = ctx.from_any(lambda target: target.opened()[1].read(0, length))
    ctx.image = examine(window, ctx.guest_size, ctx.container)
