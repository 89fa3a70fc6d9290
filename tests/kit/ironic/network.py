"""A network inside of this machine: a switch with one address of ours, and servers that each have a card of their own.

An agent is found by the MAC addresses of its machine. So that several on one machine have their own, each gets a
network namespace. It takes root, and reaches nothing but this machine.
"""

import fcntl
import json
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.kit.commands import attempt, run

_NETWORK = "198.{}.{}.{}"
"""198.18.0.0/15, in networks of 254: meant for trials, and met nowhere else (RFC 2544, appendix C.2.2)."""
_SERVERS = range(10, 250)
_OWNERS = Path("/run/byoi-networks")
"""A file for each network, locked by the process that made it. Where nobody locks it, that one was killed."""


@dataclass(frozen=True)
class Card:
    """The network card of one server."""

    namespace: str
    address: str
    mac: str

    @property
    def inside(self) -> tuple[str, ...]:
        """The words in front of a command that is to run where this card is the only one."""
        return ("ip", "netns", "exec", self.namespace)


@dataclass
class Network:
    """A switch, by its name; `address` is this machine's."""

    name: str
    number: int
    cards: list[Card] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self._at(1)

    def _at(self, host: int) -> str:
        return _NETWORK.format(18 + self.number // 256, self.number % 256, host)

    def plug(self) -> Card:
        """Plug in another server."""
        host = _SERVERS[len(self.cards)]
        namespace = f"{self.name}-{host}"
        run("ip", "netns", "add", namespace)
        card = Card(namespace, self._at(host), "52:54:00:" + secrets.token_bytes(3).hex(":"))
        self.cards.append(card)
        run(
            *("ip", "link", "add", namespace, "type", "veth"),
            *("peer", "name", "eth0", "address", card.mac, "netns", namespace),
        )
        run("ip", "link", "set", namespace, "master", self.name, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{card.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            run("ip", "-netns", namespace, *words)
        return card


def _free_number() -> int:
    taken = {
        address["local"].rpartition(".")[0]
        for interface in json.loads(run("ip", "-json", "-4", "address"))
        for address in interface.get("addr_info", [])
    }
    free = [number for number in range(512) if Network("", number).address.rpartition(".")[0] not in taken]
    return random.SystemRandom().choice(free)


def _locked(file: IO[str]) -> bool:
    """Whether the file could be locked, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(name: str) -> None:
    """Remove a network and all its cards, as far as they are there."""
    for namespace in Path("/run/netns").glob(f"{name}-*"):
        attempt("ip", "netns", "delete", namespace.name)
    attempt("ip", "link", "delete", name)
    (_OWNERS / name).unlink(missing_ok=True)


def _remove_orphans() -> None:
    for path in _OWNERS.iterdir():
        # Opened for appending: one that another process has just removed is made again, and removed here.
        with path.open("a") as file:
            if _locked(file):
                _remove(path.name)


@contextmanager
def network() -> Iterator[Network]:
    """A network that is there while the block runs, and is gone with all its cards afterwards.

    Those that killed processes have left go too.
    """
    _OWNERS.mkdir(exist_ok=True)
    _remove_orphans()
    one = Network(f"byoi{secrets.token_hex(3)}", _free_number())
    with (_OWNERS / one.name).open("w") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX)  # it waits for one that just looked whose it is
            run("ip", "link", "add", one.name, "type", "bridge")
            run("ip", "address", "add", f"{one.address}/24", "dev", one.name)
            run("ip", "link", "set", one.name, "up")
            yield one
        finally:
            _remove(one.name)
