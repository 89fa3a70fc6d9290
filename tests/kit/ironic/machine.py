"""Servers for Ironic: an agent with a network card and a disk of its own, and the node that stands for it."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.agent_process import AgentProcess, agent_process
from tests.kit.ironic.network import Card, Network
from tests.kit.ironic.rest import Ironic, Node

DEPLOYED_SECONDS = 90


@dataclass(frozen=True)
class Machine:
    """One server."""

    agent: AgentProcess
    card: Card
    node: Node

    @property
    def disk(self) -> Path:
        """The first one."""
        return self.agent.disks[0]

    @property
    def powered_off(self) -> bool:
        """Whether the agent has carried out that it is to power the server off."""
        return _power_off_mark(self.agent.directory).exists()

    def order(self, source: Mapping[str, object], configdrive: object = None) -> None:
        """Ask Ironic for a deployment; it is on its way when this returns.

        The agent is started where it does not run: Ironic has only seemed to power the server on.
        """
        self.node.set(instance_info=source)
        self.node.provision("active", **({} if configdrive is None else {"configdrive": configdrive}))
        if self.agent.process is None:
            self.agent.start()

    def power_off(self) -> None:
        """Off, so that the next order starts an agent that has never been here before."""
        self.agent.kill()
        shutil.rmtree(self.agent.journal.parent)

    def reboot(self) -> None:
        """Off and on: an agent that has never been here before."""
        self.power_off()
        self.agent.start()

    def deploy(self, source: Mapping[str, object], configdrive: object = None) -> dict[str, Any]:
        """Deploy, to the end: gives the node."""
        self.order(source, configdrive)
        return self.node.wait("active", seconds=DEPLOYED_SECONDS)

    def fail(self, source: Mapping[str, object], configdrive: object = None) -> str:
        """Deploy what cannot be: gives what the operator is told."""
        self.order(source, configdrive)
        self.node.wait("deploy failed", seconds=DEPLOYED_SECONDS)
        return self.node.failure()


def source(
    url: str, sha256: str | None = None, disk_format: str | None = "raw", **more: object
) -> dict[str, object]:
    """What an operator puts into `instance_info` for an image; `more` are further members of it."""
    checksum = {} if sha256 is None else {"image_os_hash_algo": "sha256", "image_os_hash_value": sha256}
    named = {} if disk_format is None else {"image_disk_format": disk_format}
    return {"image_source": url, **checksum, **named, **more}


def _power_off_mark(directory: Path) -> Path:
    return directory / "powered-off"


def agent_options(ironic_url: str, directory: Path, more: str = "") -> str:
    """The part of agent.toml that is for Ironic. Without the command the machine of the tests itself would go down."""
    command = json.dumps(["touch", str(_power_off_mark(directory))])
    return f'[ironic]\nurl = "{ironic_url}"\npower_off_command = {command}\n{more}\n'


@contextmanager
def machine(
    network: Network,
    ironic_url: str,
    *disks: Path,
    properties: Mapping[str, object] | None = None,
    config: str = "",
    **node: object,
) -> Iterator[Machine]:
    """A server that is there while the block runs; its agent does not run yet, and its node is only enrolled.

    Args:
        network: where it is plugged in.
        ironic_url: of the API.
        disks: files.
        properties: of the node.
        config: members of `[ironic]` and further tables of agent.toml.
        node: other members of the node.
    """
    card = network.plug()
    # The path of a socket has 107 bytes at the most: pytest's directories are too long for that.
    with tempfile.TemporaryDirectory(prefix="byoi-") as name:
        directory = Path(name)
        options = agent_options(ironic_url, directory, config)
        with agent_process(directory, disks=disks, config=options, inside=card.inside) as agent:
            yield Machine(agent, card, Ironic(ironic_url).enroll(card.mac, properties or {}, **node))
