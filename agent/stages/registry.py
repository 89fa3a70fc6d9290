"""An image in a registry: found by its reference, before anything else is asked for; and its layer, if it is a tar."""

from agent.aio import run_blocking
from agent.errors import DeployError, ImageUnsafe, RegistryManifest
from agent.formats.oci.look import MEMBER_BYTES, look_at_member
from agent.model.url import redact_url
from agent.stages.context import Context
from agent.text import printable

_MAX_MEMBERS = 16
"""That are looked at, each by a request."""
_SHOWN = 80
_HINT = "Push each disk image as an artifact of its own, or as a container disk with one."


async def resolve_image(ctx: Context) -> None:
    """Put what the job's reference leads to into the context; for an image that is elsewhere nothing happens.

    Raises:
        RegistryDenied: the registry does not let us in.
        RegistryManifest: it has no such image, or none that can be used.
        ImageDownload: it cannot be reached.
    """
    if ctx.registry is None:
        return
    found = ctx.resolved = await ctx.registry.resolve()
    index = "" if found.named == found.manifest else f" of the index {found.named}"
    ctx.note(f"{redact_url(ctx.job.url)} is the manifest {found.manifest}{index}, its layer {found.layer}")


async def require_one_disk(ctx: Context) -> None:
    """Look for a second disk image in a layer that is a plain tar, from member to member, where there are byte ranges.

    What is compressed cannot be looked through: there a second one is found where it comes.

    Raises:
        RegistryManifest: there are several.
        ImageDownload: it cannot be read.
    """
    info = ctx.info
    if ctx.resolved is None or ctx.content != "tar" or ctx.job.type == "ova":
        return
    if info is None or info.size is None or not info.seekable:
        return
    names, offset = [], 0
    for _ in range(_MAX_MEMBERS):
        data = await ctx.source.read_at(offset, min(MEMBER_BYTES, info.size - offset))
        member = None if data is None else await run_blocking(look_at_member, data)
        if member is None:
            break
        name, length = member
        offset += length
        if name is not None:
            names.append(name)
        if offset >= info.size:
            break
    if len(names) > 1:
        raise RegistryManifest(
            url=redact_url(ctx.job.url),
            reason=f"its layer {ctx.resolved.layer} has {len(names)} disk images, and nothing says which is meant",
            detail="; ".join(printable(name, _SHOWN) for name in names),
            hint=_HINT,
        )


def of_layer(ctx: Context, error: ImageUnsafe) -> DeployError:
    """What is told of an archive that is a layer and has no disk image, or several."""
    if ctx.resolved is None or error.check != "archive_image":
        return error
    return RegistryManifest(
        url=redact_url(ctx.job.url),
        reason=f"its layer {ctx.resolved.layer} does not hold one disk image",
        detail=error.detail,
        hint=_HINT,
    )
