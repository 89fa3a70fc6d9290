"""Fetches the small files that a job names beside its image (a checksum file, a config drive) whole, into memory.

For the preflight stage. They come as the image does, by the same client with its retries and redirects, within a time
and a size of their own. The job's headers go to the origin of the image and to no other.
"""

import asyncio
from dataclasses import dataclass, field, replace

from agent.errors import Blame, DeployError, ImageChanged, ImageDownload
from agent.model.url import origin_of
from agent.transfer.http.options import HttpOptions
from agent.transfer.open import open_source
from agent.transfer.source import Source, TransferRestart
from agent.units import KiB, format_duration

_PIECE = 64 * KiB


class FetchTooLarge(Exception):
    """The file has more bytes than were allowed."""


class FetchFailed(Exception):
    """The file cannot be had. The text holds no secret of its URL, and what else it has is as in `DeployError`."""

    def __init__(
        self, reason: str, *, hint: str = "", blame: Blame = Blame.NETWORK, retryable: bool = True
    ) -> None:
        self.hint = hint
        self.blame = blame
        self.retryable = retryable
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches what belongs to one image."""

    image_url: str = field(default="", repr=False)
    options: HttpOptions = field(default_factory=HttpOptions)
    """The headers are for the origin of the image's URL."""

    async def fetch(self, url: str, limit: int) -> bytes:
        """The whole file behind an http or https URL that has passed `check_url`, of at most `limit` bytes.

        Raises:
            FetchTooLarge: it is larger.
            FetchFailed: it cannot be had, or not within the limits' `small_file_seconds`.
        """
        is_own = origin_of(url) == origin_of(self.image_url)
        source = open_source(url, self.options if is_own else replace(self.options, headers=()))
        seconds = self.options.limits.small_file_seconds
        try:
            async with asyncio.timeout(seconds):
                return await _read(source, limit)
        except TimeoutError:
            raise FetchFailed(f"it did not come within {format_duration(seconds)}") from None
        except (ImageDownload, ImageChanged) as error:
            raise _failed(error) from error
        finally:
            await source.close()


def _failed(error: DeployError) -> FetchFailed:
    hint = "" if error.hint == error.default_hint else error.hint  # that one speaks of images
    return FetchFailed(error.detail, hint=hint, blame=error.blame, retryable=error.retryable)


async def _read(source: Source, limit: int) -> bytes:
    info = await source.open()
    if info.size is not None and info.size > limit:
        raise FetchTooLarge
    piece, data = memoryview(bytearray(_PIECE)), bytearray()
    while True:
        try:
            count = await source.fill(piece)
        except TransferRestart:
            data.clear()
            continue
        data += piece[:count]
        if len(data) > limit:
            raise FetchTooLarge
        if count < len(piece):
            return bytes(data)
