"""Raw deflate, as gzip and zip have it around their own headers (RFC 1951)."""

from isal import igzip_lib

from agent.formats.intake import Intake
from agent.formats.streams import Pieces, inflate


def inflate_deflate(intake: Intake) -> Pieces:
    """One stream; what follows it stays in the intake."""
    library = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
    return inflate(intake, library, igzip_lib.error)  # type: ignore[arg-type]  # isal's stub says instance
