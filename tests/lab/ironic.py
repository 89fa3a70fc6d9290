"""A real Ironic for machines of the lab, with a web server for what it deploys."""

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.aio import run_blocking
from tests.kit.ironic.conductor import Conductor, Options, conductor, ironic_environment
from tests.kit.ironic.network import network
from tests.kit.pages import Web, publishing


@dataclass(frozen=True)
class IronicSite:
    """Where Ironic and the images are."""

    conductor: Conductor
    web: Web

    @property
    def url(self) -> str:
        return self.conductor.url


@asynccontextmanager
async def ironic_site(directory: Path, options: Options | None = None) -> AsyncIterator[IronicSite]:
    """At an address that the conductor and a machine both reach: that of a bridge, which no machine is plugged into.

    Args:
        directory: of the conductor's files; it is made.
        options: of ironic.conf, as Conductor has them.
    """
    with ExitStack() as stack:

        def enter() -> IronicSite:
            wires = stack.enter_context(network())
            web = stack.enter_context(publishing(wires.address))
            one = stack.enter_context(conductor(ironic_environment(), directory, wires.address, options))
            return IronicSite(one, web)

        try:
            yield await run_blocking(enter)
        finally:
            await run_blocking(stack.close)


def free_port() -> int:
    """A port of the loopback that nobody listens at: a machine's agent has the same one inside and outside."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
