"""The one place where a URL becomes a source.

HTTP's is imported with the first URL that needs it: aiohttp is most of what a deployment loads, and a local file, a dry
run of one or a disk that is refused have no use for it.
"""

import os
from collections.abc import Sequence

from agent.model.registry import RegistryAuth
from agent.model.url import file_path, origin_of
from agent.transfer.file import FileSource
from agent.transfer.http.options import HttpOptions
from agent.transfer.http.ramp import MOST_CONNECTIONS, Ramp
from agent.transfer.http.slices import Lender
from agent.transfer.source import RegistryImage, Source


def open_source(
    url: str,
    options: HttpOptions | None = None,
    *,
    mirrors: Sequence[str] = (),
    checksummed: bool = False,
    lender: Lender | None = None,
    connections: int = MOST_CONNECTIONS,
) -> Source:
    """The source for a URL; nothing is opened until its `open` is awaited.

    Args:
        url: http, https or file; it has passed `check_url`, and the policy of whoever may say no.
        options: how an HTTP transfer is made; they mean nothing for a file.
        mirrors: http and https URLs of the same bytes; they mean nothing for a file.
        checksummed: whether the caller compares the whole file with a checksum in the end.
        lender: has memory to spare for bytes that come early; without one an HTTP transfer has a single connection.
        connections: the most that an HTTP transfer may have.
    """
    if origin_of(url).scheme == "file":
        return FileSource(file_path(url))
    from agent.transfer.http.source import HttpSource  # noqa: PLC0415 - see above

    return HttpSource(
        url, options, mirrors=mirrors, checksummed=checksummed, lender=lender, ramp=Ramp(connections)
    )


def open_registry(
    url: str,
    options: HttpOptions | None = None,
    *,
    auth: RegistryAuth | None = None,
    mirrors: Sequence[str] = (),
    lender: Lender | None = None,
    connections: int = MOST_CONNECTIONS,
) -> RegistryImage:
    """The source for a reference to an image in a registry, for a machine like this one; nothing is asked yet.

    Args:
        url: a reference; it has passed `check_url`, and the policy of whoever may say no.
        options: how it is asked, and how the layer comes.
        auth: the credentials for the registry.
        mirrors: http and https URLs of the bytes of its layer.
        lender: has memory to spare for bytes that come early.
        connections: the most that the transfer may have.
    """
    from agent.transfer.http.registry import RegistrySource  # noqa: PLC0415 - as above

    return RegistrySource(
        url,
        os.uname().machine,
        options,
        auth=auth,
        mirrors=mirrors,
        lender=lender,
        ramp=Ramp(connections),
    )
