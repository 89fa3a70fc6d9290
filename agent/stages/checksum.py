"""The job's checksum where it is in a file elsewhere: fetched and read before the image is opened."""

from dataclasses import replace

from agent.errors import Blame, ChecksumFile
from agent.formats.checksum_file import MAX_FILE_BYTES, find_digest
from agent.model.url import file_name, redact_url
from agent.stages.context import Context
from agent.stages.signature import check_list
from agent.transfer.fetch import FetchFailed, FetchTooLarge
from agent.units import format_size


async def resolve_checksum(ctx: Context) -> None:
    """Put the digest that the checksum file names into the context's job; without such a file nothing happens.

    Raises:
        ChecksumFile: it cannot be had, or does not say what the image's digest is.
        SignatureMissing, SignatureInvalid, SignatureKey: nobody who is trusted has signed it, and the job wants that.
    """
    job = ctx.job
    if job.checksum_url is None or job.checksum_type is None:
        return
    shown = redact_url(job.checksum_url)
    try:
        data = await ctx.fetcher.fetch(job.checksum_url, MAX_FILE_BYTES)
    except FetchTooLarge:
        reason = f"is larger than {format_size(MAX_FILE_BYTES)}"
        raise ChecksumFile(
            url=shown, reason=reason, hint="Check that checkSum is not the URL of the image itself."
        ) from None
    except FetchFailed as failure:
        raise ChecksumFile(
            url=shown,
            reason="cannot be fetched",
            detail=str(failure),
            hint=failure.hint
            or "Check that the URL in checkSum can be fetched from the server's network (curl -I).",
            blame=failure.blame,
            retryable=failure.retryable and failure.blame is Blame.NETWORK,
        ) from failure
    data = await check_list(ctx, data, shown)
    # After a redirect the image may be called anything (a digest, a number): its list goes by the name that was posted.
    name = file_name(job.url)
    digest = find_digest(data, name, job.checksum_type, shown)
    ctx.job = replace(job, checksum=digest)
    ctx.note(f"the {job.checksum_type} of the image is {digest} by {shown}")
