"""What the front knows that has to outlive the agent: its node, its token, its certificate, its commands. Pure.

Kept in the journal. A conductor takes an agent that comes back with another address or another certificate for an
impostor, and one with an empty list of commands for a freshly booted one whose disk it then calls `active`, written or
not. So nothing of this is forgotten but by a lost token or a new boot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

MAX_COMMANDS = 64
"""That are kept. A conductor looks at the last one only; a whole deployment with cleaning has less than twenty."""
INTERRUPTED = {
    "type": "AgentRestarted",
    "code": 500,
    "message": "The agent was restarted",
    "details": "The agent was restarted while it carried this command out; run it again.",
}


class CommandStatus(StrEnum):
    """How far a command is, in the protocol's words."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the conductor. Its parameters are not kept: a config drive may be among them."""

    id: str
    """Of the deployment too, where it is one."""
    name: str
    status: CommandStatus = CommandStatus.RUNNING
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    error: Mapping[str, Any] | None = None
    step: Mapping[str, Any] | None = None
    """The step that it carries out, where it carries out one."""

    def document(self) -> dict[str, Any]:
        """The command as a conductor reads it."""
        return {
            "id": self.id,
            "command_name": self.name,
            "command_status": self.status.value,
            "command_result": None if self.result is None else dict(self.result),
            "command_error": None if self.error is None else dict(self.error),
        }

    def kept(self) -> dict[str, Any]:
        """The command in the journal."""
        return {**self.document(), "step": None if self.step is None else dict(self.step)}


@dataclass(frozen=True, slots=True)
class FrontState:
    """All of it. Without a node there are no commands."""

    certificate: str = ""
    """PEM; the conductor's only way to know this agent."""
    key: str = field(default="", repr=False)
    address: str = ""
    """That is in the certificate."""
    port: int = 0
    node: str = ""
    token: str = field(default="", repr=False)
    heartbeat_seconds: float = 0.0
    commands: tuple[Command, ...] = ()
    inspected: bool = False
    """Whether the inventory has been posted."""

    @property
    def running(self) -> Command | None:
        """The command that is not at its end; there is one at a time."""
        return next((command for command in self.commands if command.status is CommandStatus.RUNNING), None)

    def with_command(self, command: Command) -> "FrontState":
        """With this command, in its place if it is known already."""
        others = tuple(command if known.id == command.id else known for known in self.commands)
        if command not in others:
            others = (*others, command)[-MAX_COMMANDS:]
        return replace(self, commands=others)

    def without_node(self) -> "FrontState":
        """The token is void, and all that was ordered by it."""
        return replace(self, node="", token="", heartbeat_seconds=0.0, commands=())

    def after_restart(self, goes_on: str | None) -> "FrontState":
        """What an agent that comes back makes of it: commands that nobody carries out any more have failed.

        Args:
            goes_on: id of the deployment that goes on, or has ended meanwhile.
        """
        return replace(
            self,
            commands=tuple(
                replace(command, status=CommandStatus.FAILED, error=INTERRUPTED)
                if command.status is CommandStatus.RUNNING and command.id != goes_on
                else command
                for command in self.commands
            ),
        )

    def document(self) -> dict[str, Any]:
        """The state in the journal, secrets included."""
        return {
            "certificate": self.certificate,
            "key": self.key,
            "address": self.address,
            "port": self.port,
            "node": self.node,
            "token": self.token,
            "heartbeatSeconds": self.heartbeat_seconds,
            "inspected": self.inspected,
            "commands": [command.kept() for command in self.commands],
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "FrontState":
        """Read what `document` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(
                certificate=str(document["certificate"]),
                key=str(document["key"]),
                address=str(document["address"]),
                port=int(document["port"]),
                node=str(document["node"]),
                token=str(document["token"]),
                heartbeat_seconds=float(document["heartbeatSeconds"]),
                inspected=bool(document["inspected"]),
                commands=tuple(
                    Command(
                        id=str(item["id"]),
                        name=str(item["command_name"]),
                        status=CommandStatus(item["command_status"]),
                        result=item["command_result"],
                        error=item["command_error"],
                        step=item["step"],
                    )
                    for item in document["commands"]
                ),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a state of the front for Ironic: {error}") from None
