"""The ready-made config drive of a job where it is behind a URL: fetched before the image is opened."""

from agent.errors import Blame, ConfigDriveContent
from agent.model.job import MAX_DRIVE_BYTES
from agent.model.url import redact_url
from agent.stages.context import Context
from agent.transfer.fetch import FetchFailed, FetchTooLarge
from agent.units import format_size


async def fetch_drive(ctx: Context) -> bool:
    """Put the file behind the URL into the context, as it is there; False where the job names none.

    Raises:
        ConfigDriveContent: it cannot be had, or is too large.
    """
    drive = ctx.job.configdrive
    if not drive.enable or drive.content_url is None:
        return False
    shown = redact_url(drive.content_url)
    try:
        ctx.drive_content = await ctx.fetcher.fetch(drive.content_url, MAX_DRIVE_BYTES)
    except FetchTooLarge:
        raise ConfigDriveContent(
            reason=f"it is larger than {format_size(MAX_DRIVE_BYTES)}", detail=shown
        ) from None
    except FetchFailed as failure:
        raise ConfigDriveContent(
            reason="it cannot be fetched",
            detail=f"{shown}: {failure}",
            hint=failure.hint or "Check that its URL can be fetched from the server's network (curl -I).",
            blame=failure.blame,
            retryable=failure.retryable and failure.blame is Blame.NETWORK,
        ) from failure
    return True
