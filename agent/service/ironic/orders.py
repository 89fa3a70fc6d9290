"""What the conductor orders: one command at a time, kept in the journal from its acceptance to its end.

A command is durable before its work begins, and goes on where nobody waits for the answer: a conductor whose request
times out looks at the list, and finds it running. Two that run at once are refused as the protocol has it (409). Its
end is told once the journal has it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from agent.errors import DeployError, StateUnusable, unforeseen
from agent.service.ironic.image_info import error_document
from agent.service.ironic.messages import Order, Refusal, member, shown_step
from agent.service.ironic.state import Command, CommandStatus
from agent.service.ironic.store import FrontStore

log = structlog.get_logger(__name__)

WAIT_SECONDS = 50.0
"""For which an answer is held back where the conductor wants the end of a command; its own patience is 60 s."""


class OrderFailed(Exception):
    """The work of a command has failed: the members of its `command_error`, and a result where there is one even so."""

    def __init__(self, error: Mapping[str, Any], result: Mapping[str, Any] | None = None) -> None:
        self.error = error
        self.result = result
        super().__init__(str(error.get("message")))


Work = Callable[[Command, Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Carries a command with these parameters out, and returns its result. Raises OrderFailed or DeployError."""


@dataclass(frozen=True, slots=True)
class Ability:
    """A command that the agent knows.

    Attributes:
        work: carries it out.
        at_once: the answer is held back until its end, whatever the conductor asks for.
        is_step: its parameter `step` is given back with the result.
        is_kept: its result is in the list of commands, not in the first answer alone.
    """

    work: Work
    at_once: bool = False
    is_step: bool = False
    is_kept: bool = True


class Orders:
    """The commands of one front. All methods belong to the event loop."""

    def __init__(
        self,
        store: FrontStore,
        abilities: Mapping[str, Ability],
        tasks: asyncio.TaskGroup,
        *,
        begun: Callable[[], object],
        ended: Callable[[], object],
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """Nothing runs yet.

        Args:
            store: keeps the list.
            abilities: by the names of the protocol.
            tasks: where they are carried out.
            begun: is called when a command begins that nobody waits for.
            ended: is called when a command comes to its end that nobody waits for.
            wait_seconds: for which an answer is held back.
        """
        self._store = store
        self._abilities = abilities
        self._tasks = tasks
        self._begun = begun
        self._ended = ended
        self._wait_seconds = wait_seconds
        self._is_awaited = False
        """Whether somebody is answered by the end of the command that runs."""
        self._task: asyncio.Task[Mapping[str, Any] | None] | None = None
        self._taking = asyncio.Lock()

    def listed(self) -> list[dict[str, Any]]:
        """All commands, as the conductor reads them."""
        return [command.document() for command in self._store.state.commands]

    def find(self, command_id: str) -> Command:
        """One command.

        Raises:
            Refusal: 404.
        """
        for command in self._store.state.commands:
            if command.id == command_id:
                return command
        raise Refusal(404, "RequestedObjectNotFoundError", "Not found: there is no command with this id")

    async def take(self, order: Order, *, wait: bool) -> dict[str, Any]:
        """Begin a command; returns it as it is then, or at its end where that is waited for.

        Raises:
            Refusal: 400 it is unknown or makes no sense, 409 another one runs, 500 the journal cannot be written.
        """
        ability = self._abilities.get(order.name)
        if ability is None:
            raise Refusal(
                400, "InvalidCommandError", f"Invalid command: this agent does not know {order.name[:80]}"
            )
        step = shown_step(member(order.params, "step")) if ability.is_step else None
        command = Command(str(uuid.uuid4()), order.command_name, step=step)
        async with self._taking:
            if self._store.state.running is not None:
                running = self._store.state.running.name
                raise Refusal(409, "AgentIsBusy", f"Agent is busy: executing command {running}")
            try:
                await self._store.change(lambda state: state.with_command(command))
            except StateUnusable as error:
                raise Refusal(500, "CommandExecutionError", f"Command execution failed: {error}") from None
            log.info(
                "ironic_command", name=order.name, id=command.id, step=None if step is None else step["step"]
            )
            waits = self._is_awaited = wait or ability.at_once
            task = self._tasks.create_task(self._carry_out(command, ability, order.params))
            self._task = task
        if not waits:
            self._begun()
        else:
            done, _ = await asyncio.wait({task}, timeout=self._wait_seconds)
            if not done:
                self._is_awaited = False
        last = self.find(command.id)
        if waits and not ability.is_kept:
            result = task.result() if task.done() and not task.cancelled() else None
            return {**last.document(), "command_result": result}
        return last.document()

    def go_on(self, work: Work) -> None:
        """Take up the command that an agent before this one began, and that goes on."""
        running = self._store.state.running
        if running is not None:
            self._task = self._tasks.create_task(self._carry_out(running, Ability(work), {}))

    async def end(self) -> None:
        """Cancel the command that runs, and wait for its work to stop. It is not at its end then for the next agent."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _carry_out(
        self, command: Command, ability: Ability, params: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        result: Mapping[str, Any] | None = None
        error: Mapping[str, Any] | None = None
        try:
            result = await ability.work(command, params)
        except OrderFailed as failure:
            error, result = failure.error, failure.result
        except DeployError as failure:
            error = error_document(failure)
        except Exception as failure:
            log.error("ironic_command_crashed", name=command.name, exc_info=failure)  # noqa: TRY400
            error = error_document(unforeseen(failure))
        status = CommandStatus.SUCCEEDED if error is None else CommandStatus.FAILED
        log.info("ironic_command_ended", name=command.name, id=command.id, status=status.value, error=error)
        kept = result if ability.is_kept else None
        ended = replace(command, status=status, result=kept, error=error)
        await self._store.settle(lambda state: state.with_command(ended))
        if not self._is_awaited:
            self._ended()
        return result
