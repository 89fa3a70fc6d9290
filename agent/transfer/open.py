"""The one place where a URL becomes a source.

HTTP's is imported with the first URL that needs it: aiohttp is most of what a deployment loads, and a local file, a dry
run of one or a disk that is refused have no use for it.
"""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from agent.model.registry import RegistryAuth
from agent.model.url import file_path, origin_of
from agent.transfer.file import FileSource
from agent.transfer.http.limits import DEFAULT_LIMITS, HttpLimits
from agent.transfer.http.ramp import MOST_CONNECTIONS, Ramp
from agent.transfer.http.slices import Lender
from agent.transfer.source import EventHook, RegistryImage, Source, ignore_events


def open_source(
    url: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    mirrors: Sequence[str] = (),
    checksummed: bool = False,
    ca_file: str | None = None,
    limits: HttpLimits = DEFAULT_LIMITS,
    on_event: EventHook = ignore_events,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    rng: random.Random | None = None,
    lender: Lender | None = None,
    connections: int = MOST_CONNECTIONS,
) -> Source:
    """The source for a URL; nothing is opened until its `open` is awaited.

    Args:
        url: http, https or file; it has passed `check_url`, and the policy of whoever may say no.
        headers: names and values to send to the origin of the URL; they mean nothing for a file.
        mirrors: http and https URLs of the same bytes; they mean nothing for a file.
        checksummed: whether the caller compares the whole file with a checksum in the end.
        ca_file: a bundle of CA certificates (PEM) for https in place of the system's.
        limits: how patient an HTTP transfer is.
        on_event: is told about retries, resumptions and redirects.
        sleep: waits so many seconds between attempts.
        clock: monotonic seconds.
        rng: the jitter of the waits.
        lender: has memory to spare for bytes that come early; without one an HTTP transfer has a single connection.
        connections: the most that an HTTP transfer may have.
    """
    if origin_of(url).scheme == "file":
        return FileSource(file_path(url))
    from agent.transfer.http.source import HttpSource  # noqa: PLC0415 - see above

    return HttpSource(
        url,
        headers=headers,
        mirrors=mirrors,
        checksummed=checksummed,
        ca_file=ca_file,
        limits=limits,
        on_event=on_event,
        sleep=sleep,
        clock=clock,
        rng=rng,
        lender=lender,
        ramp=Ramp(connections),
    )


def open_registry(
    url: str,
    *,
    auth: RegistryAuth | None = None,
    headers: Sequence[tuple[str, str]] = (),
    mirrors: Sequence[str] = (),
    ca_file: str | None = None,
    limits: HttpLimits = DEFAULT_LIMITS,
    on_event: EventHook = ignore_events,
    lender: Lender | None = None,
    connections: int = MOST_CONNECTIONS,
) -> RegistryImage:
    """The source for a reference to an image in a registry, for a machine like this one; nothing is asked yet.

    Args:
        url: a reference; it has passed `check_url`, and the policy of whoever may say no.
        auth: the credentials for the registry.
        headers: names and values to send to the origin of the registry.
        mirrors: http and https URLs of the bytes of its layer.
        ca_file: a bundle of CA certificates (PEM) for https in place of the system's.
        limits: how patient the transfer is.
        on_event: is told about retries, resumptions and redirects.
        lender: has memory to spare for bytes that come early.
        connections: the most that the transfer may have.
    """
    from agent.transfer.http.registry import RegistrySource  # noqa: PLC0415 - as above

    return RegistrySource(
        url,
        os.uname().machine,
        auth=auth,
        headers=headers,
        mirrors=mirrors,
        ca_file=ca_file,
        limits=limits,
        on_event=on_event,
        lender=lender,
        ramp=Ramp(connections),
    )
