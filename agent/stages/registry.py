"""An image in a registry: found by its reference, before anything else is asked for."""

from agent.model.url import redact_url
from agent.stages.context import Context


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
