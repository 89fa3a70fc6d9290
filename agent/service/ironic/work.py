"""What each command of the conductor does: the deployment goes to the slot, everything else to the machine.

A deployment has the id of its command, so that an agent that comes back finds the one by the other.
"""

import asyncio
import base64
import functools
from collections.abc import Mapping
from typing import Any

from agent.aio import run_blocking
from agent.model.job import Job, parse_job
from agent.model.policy import Policy, require_allowed
from agent.model.status import DONE
from agent.service.ironic.image_info import error_members, job_document
from agent.service.ironic.machine import Machine
from agent.service.ironic.orders import Ability, OrderFailed
from agent.service.ironic.state import Command
from agent.service.ironic.steps import (
    CLEAN_STEPS,
    DEPLOY_STEPS,
    ERASE_DEVICES,
    ERASE_EXPRESS,
    ERASE_METADATA,
    WRITE_IMAGE,
    erasure_of,
    listed,
)
from agent.service.jobs.publisher import StatusPublisher
from agent.service.jobs.refusals import SlotClosing, SlotTaken
from agent.service.jobs.slot import Slot

_LOOK_SECONDS, _REST_SECONDS = 60.0, 1.0
_ERASURES = (ERASE_DEVICES, ERASE_METADATA, ERASE_EXPRESS)


class Work:
    """The abilities of one front."""

    def __init__(self, slot: Slot, publisher: StatusPublisher, policy: Policy, machine: Machine) -> None:
        """Args:
        slot: where deployments go.
        publisher: of the slot's status.
        policy: what a job may ask for.
        machine: what else is done.
        """
        self._slot = slot
        self._publisher = publisher
        self._policy = policy
        self._machine = machine
        self.is_locked_down = False
        """Whether the conductor has ordered that nobody commands this agent any more."""

    def abilities(self) -> dict[str, Ability]:
        """All commands, by the names of the protocol."""
        return {
            "deploy.get_deploy_steps": Ability(_answering(listed("deploy", DEPLOY_STEPS)), at_once=True),
            "deploy.execute_deploy_step": Ability(functools.partial(self._step, "deploy"), is_step=True),
            "clean.get_clean_steps": Ability(_answering(listed("clean", CLEAN_STEPS)), at_once=True),
            "clean.execute_clean_step": Ability(functools.partial(self._step, "clean"), is_step=True),
            # Of a whole disk's image nobody needs to know the partitions.
            "standby.get_partition_uuids": Ability(_answering({}), at_once=True),
            "standby.sync": Ability(self._sync, at_once=True),
            "standby.power_off": Ability(self._power_off),
            "standby.run_image": Ability(self._reboot),
            "image.install_bootloader": Ability(self._install_bootloader),
            "log.collect_system_logs": Ability(self._collect_logs, at_once=True, is_kept=False),
            "system.lockdown": Ability(self._lock_down),
        }

    # -- steps -----------------------------------------------------------------------------------------------

    async def _step(self, kind: str, command: Command, params: Mapping[str, Any]) -> Mapping[str, Any]:
        step = params["step"]
        name = step["step"]
        if kind == "deploy" and name == WRITE_IMAGE:
            return await self._write_image(command, params)
        if name in _ERASURES:
            return _result(kind, command, await self._erase(name, params.get("node")))
        text = f"This agent has no {kind} step {name[:80]!r}; docs/ironic.md lists those that it has."
        raise OrderFailed(error_members("step.unknown", text, None, None))

    async def _write_image(self, command: Command, params: Mapping[str, Any]) -> Mapping[str, Any]:
        node, args = params.get("node"), params["step"].get("args")
        document, job = await run_blocking(
            _read_job,
            args if isinstance(args, dict) else {},
            node if isinstance(node, dict) else {},
            self._policy,
        )
        try:
            await self._slot.post(document, job, job_id=command.id, origin="ironic")
        except (SlotTaken, SlotClosing) as refusal:
            raise _refused(refusal) from None
        return await self._outcome(command)

    async def go_on(self, command: Command, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Wait for the outcome of a deployment that an agent before this one has begun."""
        return await self._outcome(command)

    async def _outcome(self, command: Command) -> Mapping[str, Any]:
        """Wait for the end of a deployment; its result has the receipt beside what the protocol wants.

        Raises:
            OrderFailed: it failed; the receipt is the result then.
        """
        while True:
            revision, entry = self._publisher.revision, self._slot.entry
            if entry is None or entry.id != command.id:
                text = "The deployment was deleted by somebody else, on the server itself."
                raise OrderFailed(error_members("job.cancelled", text, None, None))
            if entry.status is not None and self._publisher.document.get("status") != "doing":
                receipt = {} if entry.receipt is None else {"receipt": entry.receipt}
                if entry.status.get("status") != DONE:
                    raise OrderFailed(_failure(entry.status), receipt or None)
                return {**_result("deploy", command, _told(entry.status)), **receipt}
            if not await self._publisher.wait(revision, _LOOK_SECONDS):
                await asyncio.sleep(_REST_SECONDS)  # at the daemon's end it does not wait any more

    async def _erase(self, name: str, node: Any) -> Any:
        try:
            async with self._slot.occupied(
                f"Ironic has the disks of this server erased ({name})", "wait for its end, or abort it there"
            ):
                return await self._machine.erase(name, erasure_of(node))
        except (SlotTaken, SlotClosing) as refusal:
            raise _refused(refusal) from None

    # -- power, boot, logs -----------------------------------------------------------------------------------

    async def _sync(self, _: Command, __: Mapping[str, Any]) -> None:
        await self._machine.sync()

    async def _power_off(self, _: Command, __: Mapping[str, Any]) -> None:
        await self._machine.sync()
        await self._machine.power_off()

    async def _reboot(self, _: Command, __: Mapping[str, Any]) -> None:
        await self._machine.sync()
        await self._machine.reboot()

    async def _install_bootloader(self, _: Command, params: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """For UEFI the boot entry. A BIOS starts what the image has in its first sector.

        Raises:
            OrderFailed: what Ironic has ordered is not on the disk any more, as far as this server knows.
        """
        entry = self._slot.entry
        status = (entry.status if entry is not None and entry.origin == "ironic" else None) or {}
        disk = status.get("disk")
        if entry is None or status.get("status") != DONE or not isinstance(disk, dict):
            text = "The deployment that Ironic has ordered was deleted or replaced on this server."
            hint = "`byoi status` there tells what is; deploy the node again."
            raise OrderFailed(error_members("slot.taken", text, None, hint))
        if params.get("target_boot_mode") != "uefi":
            return None
        return {"result": await self._machine.make_boot_entry(disk, entry.job.get("efiBootloaderPath"))}

    async def _collect_logs(self, _: Command, __: Mapping[str, Any]) -> Mapping[str, Any]:
        archive = await self._machine.collect_logs(self._publisher.document)
        return {"system_logs": base64.b64encode(archive).decode()}

    async def _lock_down(self, _: Command, __: Mapping[str, Any]) -> None:
        self.is_locked_down = True


def _answering(result: Mapping[str, Any]) -> Any:
    async def work(_: Command, __: Mapping[str, Any]) -> Mapping[str, Any]:
        return result

    return work


def _refused(refusal: SlotTaken | SlotClosing) -> OrderFailed:
    """How the conductor is told that something else has the slot."""
    if isinstance(refusal, SlotClosing):
        return OrderFailed(error_members("slot.taken", "The agent of this server is stopping.", None, None))
    hint = "`byoi status` there tells more."
    return OrderFailed(error_members("slot.taken", str(refusal), None, hint))


def _result(kind: str, command: Command, result: Any) -> dict[str, Any]:
    return {f"{kind}_result": result, f"{kind}_step": command.step}


def _read_job(args: Mapping[str, Any], node: Mapping[str, Any], policy: Policy) -> tuple[dict[str, Any], Job]:
    document = job_document(args, node)
    job = parse_job(document)
    require_allowed(job, policy, remote=True)
    return document, job


def _told(status: Mapping[str, Any]) -> str:
    """What the conductor is told of a deployment that is done."""
    path = (status.get("disk") or {}).get("path")
    return f"{status.get('message')} ({path}, {status.get('bytesWritten')} bytes written)"


def _failure(status: Mapping[str, Any]) -> dict[str, Any]:
    """What the conductor is told of one that is not."""
    error = status.get("error") or {}
    return error_members(
        str(error.get("code")), str(error.get("message")), error.get("detail"), error.get("hint")
    )
