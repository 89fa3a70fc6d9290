"""Which decoder an image goes through."""

from agent.errors import ImageSize
from agent.formats.extent import Decoder
from agent.formats.raw import RawDecoder
from agent.stages.context import Context


def new_decoder(ctx: Context) -> Decoder:
    """A decoder for the content that was sniffed. What does not match the job's type goes through as raw, for the plan
    to see what it is and refuse it.
    """
    if ctx.info is None:
        raise RuntimeError("the image is decoded before it was opened")
    ctx.container = ctx.content
    return RawDecoder(ctx.info.size)


def too_large(ctx: Context, end: int) -> ImageSize:
    """The refusal of an image that turned out to be larger than the disk."""
    return ImageSize(image_size=end, device=ctx.target.path, device_size=ctx.target.size)
