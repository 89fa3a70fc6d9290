"""The source protocol: where the bytes of an image file come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.formats.oci.manifest import Resolved
from agent.formats.oci.vouchers import Vouchers


class TransferRestart(Exception):
    """The transfer was cut and cannot be resumed: digest, decoder and sink have to start again from byte 0.

    The source is at byte 0 when the next `fill` is called. Raised at most as often as the source's restart
    limit allows; after that the source raises `ImageDownload`.
    """


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known once a source has answered. `url` has its secrets blanked."""

    url: str
    size: int | None
    """Length of the file in bytes, None where the server does not tell."""
    seekable: bool
    """Whether `read_at` can work."""
    length_checked: bool = True
    """Whether a cut would be noticed; False where only the end of the connection ends the file."""
    opened: str | None = None
    """A path to the very file that was opened, whatever its name leads to by now; None behind a URL."""
    digest: str | None = None
    """Algorithm, colon, digits: what the file has by the manifest that named it; None where there is none. It is for
    the caller to compare."""


class Source(Protocol):
    """A file to be read once, in order, into buffers that the caller owns."""

    async def open(self) -> SourceInfo:
        """Connect (with retries) and learn the size.

        Raises:
            ImageDownload: there is no such file, or it cannot be reached within the attempt limit.
        """

    async def fill(self, buffer: memoryview) -> int:
        """Fill the buffer from the current position, across retries and resumptions.

        Returns:
            The bytes put into the buffer: its whole length, or less only at the end of the file (0: nothing
            was left).

        Raises:
            TransferRestart: start again from byte 0.
            ImageDownload: the attempts are used up, or the server refuses for good.
            ImageChanged: the file behind the URL is not the one that the transfer began with.
        """

    async def read_at(self, offset: int, length: int) -> bytes | None:
        """Read a small range out of order, without moving the position of `fill`; None if the server cannot.

        Raises:
            ImageDownload, ImageChanged: as for `fill`.
        """

    @property
    def connections(self) -> int:
        """Connections over which the file comes now; 0 for one that comes over none."""

    async def close(self) -> None:
        """Drop the connection; safe to call twice, and at any time."""


class RegistryImage(Source, Protocol):
    """A source that is found in a registry, by a reference."""

    async def resolve(self) -> Resolved:
        """Find the file that is meant, which `open` does else.

        Raises:
            RegistryDenied: the registry does not let us in.
            RegistryManifest: it has no such image, or none that can be used.
            ImageDownload: it cannot be reached.
        """

    async def vouchers(self) -> Vouchers:
        """The signatures that the registry has of the image.

        Raises:
            RegistryDenied, RegistryManifest, ImageDownload: as `resolve`.
        """


class EventHook(Protocol):
    """Is told what the source does, for the status. It must return at once and not raise."""

    def __call__(self, event: str, details: Mapping[str, object], /) -> None:
        """Take one event.

        `retrying` has `reason`, `delay` (seconds), `attempt`, `attempts`, `position`; `resumed` has
        `position` (bytes); `restarted` has `restart`, `restarts`; `redirected` has `url` (redacted); `mirror` has the
        `url` (redacted) that goes on, and the `reason` why another does not.
        """


def ignore_events(_event: str, _details: Mapping[str, object], /) -> None:
    """The hook for callers that do not listen."""
