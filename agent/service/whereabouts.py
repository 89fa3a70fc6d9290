"""Shows in the status which agent this is and where it can be reached: whoever stands at the console wants to know."""

import asyncio
from collections.abc import Sequence

from agent import __version__
from agent.aio import run_blocking
from agent.host.addresses import machine_addresses
from agent.model.surroundings import agent_member
from agent.service.http.sockets import ListeningSocket
from agent.service.jobs.publisher import StatusPublisher

LOOK_SECONDS = 5.0
"""Between two looks while the machine has no address: DHCP gives them when the daemon serves already."""
KEEP_SECONDS = 30.0
"""Between two looks once it has one: an idle daemon hardly ever wakes."""


async def show_agent(publisher: StatusPublisher, sockets: Sequence[ListeningSocket]) -> bool:
    """Show the version, the machine's addresses, and the listeners. Returns whether there are addresses."""
    addresses = await run_blocking(_addresses)
    listeners = [socket.name if socket.local else f"https://{socket.name}" for socket in sockets]
    publisher.surround(agent=agent_member(__version__, addresses, listeners))
    return bool(addresses)


async def keep_agent(publisher: StatusPublisher, sockets: Sequence[ListeningSocket]) -> None:
    """Show them for ever, as they change."""
    while True:
        found = await show_agent(publisher, sockets)
        await asyncio.sleep(KEEP_SECONDS if found else LOOK_SECONDS)


def _addresses() -> tuple[str, ...]:
    """The machine's addresses; none where the kernel does not tell them, for nothing depends on them."""
    try:
        return machine_addresses()
    except OSError:
        return ()
