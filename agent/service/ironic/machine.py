"""What the conductor's commands do to this machine beside a deployment. Nothing of an image is ever run."""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from agent.aio import run_blocking, run_together
from agent.formats.lldp import Tlv
from agent.host import firmware
from agent.model.disks import Disk, GroupSpec
from agent.service.config.model import Config, IronicConfig
from agent.service.ironic import steps
from agent.service.ironic.steps import Erasure
from agent.service.jobs.reboot import run_command, sync_all

log = structlog.get_logger(__name__)

ERASED_AT_ONCE = 4
LOG_COMMANDS: Mapping[str, Sequence[tuple[str, ...]]] = {
    # What one prints is at most 1 MiB: of long lines fewer are taken.
    "journal": [("journalctl", "--boot", "--no-pager", f"--lines={lines}") for lines in (20000, 4000, 500)],
    "block-devices": [("lsblk", "--all", "--output-all", "--json")],
    "addresses": [("ip", "address")],
}
"""What is gathered for `collect_system_logs`, by the names of the files in the archive."""
LOG_SECONDS = 15.0
"""For each of them: the conductor waits for all, less than a minute."""


EraseOne = Callable[[str, Erasure, Disk, bool, Callable[[], bool]], dict[str, Any]]
"""Erases a disk by a clean step as the operator wants it, named explicitly or not, until it is told to stop; gives the
entry in the result."""


class Machine:
    """This machine. All methods that wait do so in threads."""

    def __init__(self, config: Config, ironic: IronicConfig) -> None:
        """Args:
        config: tells the disk groups and the reboot command.
        ironic: tells the command that powers the machine off.
        """
        self._config = config
        self._ironic = ironic
        self._stop = threading.Event()
        self._heard: Mapping[str, Sequence[Tlv]] | None = None
        """What switches have told, once somebody has listened."""

    def mac_addresses(self) -> list[str]:
        """The MAC addresses of its network cards. Blocking."""
        from agent.host.interfaces import mac_addresses  # noqa: PLC0415 - for a lookup only

        return list(mac_addresses())

    def inventory(self) -> dict[str, Any]:
        """What an inspection wants to know of this machine, to be posted as it is. Blocking; where LLDP is listened to,
        for that time when it is asked for the first time.
        """
        from agent.deploy.target import list_groups  # noqa: PLC0415 - for an inspection only
        from agent.host.hardware import hardware_inventory, inspection_data  # noqa: PLC0415
        from agent.host.inventory import list_disks  # noqa: PLC0415

        if self._ironic.collect_lldp and self._heard is None:
            self._heard = _listen(self._ironic.lldp_seconds)
        default = next(iter(list_groups(self._config.disk_groups)), None)
        inventory = hardware_inventory(list_disks(), heard=self._heard)
        return inspection_data(inventory, default.target if default else None)

    async def erase(self, step: str, how: Erasure, erase_one: EraseOne | None = None) -> list[dict[str, Any]]:
        """Erase all disks of the disk groups, some of them at a time; what was done to each.

        Args:
            step: the name of the clean step.
            how: how the operator wants it done.
            erase_one: erases a disk.

        Raises:
            DeployError: a disk must not be erased, or failed to be; the others are left as they are then.
        """
        erase_one = erase_one or _erase
        self._stop.clear()
        disks = await run_blocking(_targets, self._config.disk_groups)
        erased: list[dict[str, Any]] = []
        at_once = asyncio.Semaphore(ERASED_AT_ONCE)

        async def one(disk: Disk, *, explicit: bool) -> None:
            async with at_once:
                try:
                    erased.append(await run_blocking(erase_one, step, how, disk, explicit, self._stop.is_set))
                except Exception:
                    self._stop.set()  # the step has failed: nobody waits for hours to be told
                    raise

        await run_together(*(one(disk, explicit=explicit) for disk, explicit in disks))
        return erased

    def stop_erasing(self) -> None:
        """Have erasures that run end at their next piece."""
        self._stop.set()

    async def make_boot_entry(self, disk: Mapping[str, Any], loader: str | None) -> str:
        """Make the firmware's entry for the loader on a disk that was deployed; says what was done.

        Args:
            disk: as the status has it.
            loader: its path on the ESP; None: the one that the image seems to mean.

        Raises:
            DeployError: the entry could not be made.
        """
        if disk.get("kind") == "file":
            return "the disk is a file: no firmware starts it"
        return await run_blocking(_boot_entry, str(disk["path"]), loader)

    async def sync(self) -> None:
        """Flush all file systems."""
        await sync_all()

    async def power_off(self) -> None:
        """Order the machine to power off.

        Raises:
            OSError, ToolMissing: it failed.
        """
        await run_command(self._ironic.power_off_command)

    async def reboot(self) -> None:
        """Order the machine to reboot; raises as `power_off` does."""
        await run_command(self._config.reboot.command)

    async def collect_logs(self, status: Mapping[str, Any]) -> bytes:
        """The logs of this machine, and the status document, as a tar archive compressed by gzip."""
        return await run_blocking(_collect, status)


def _listen(seconds: float) -> Mapping[str, Sequence[Tlv]]:
    """What switches tell on the interfaces that have a link. An inventory without it is better than none."""
    from agent.host import lldp  # noqa: PLC0415 - for an inspection only
    from agent.host.interfaces import list_interfaces  # noqa: PLC0415

    try:
        return lldp.listen([one.name for one in list_interfaces() if one.has_carrier], seconds)
    except OSError as error:
        log.warning("lldp_not_heard", reason=error.strerror or str(error))
        return {}


def _targets(groups: Sequence[GroupSpec]) -> list[tuple[Disk, bool]]:
    """The disks of all groups, and whether each was named by the configuration."""
    from agent.deploy.target import list_groups  # noqa: PLC0415 - for an erasure only

    return [(disk, group.configured) for group in list_groups(groups) for disk in group.disks]


def _erase(
    step: str, how: Erasure, disk: Disk, explicit: bool, cancelled: Callable[[], bool]
) -> dict[str, Any]:
    from agent.host import erase  # noqa: PLC0415 - for an erasure only

    match step:
        case steps.ERASE_METADATA:
            done = erase.erase_metadata(disk, explicit=explicit)
        case steps.ERASE_EXPRESS:
            done = erase.erase_express(disk, explicit=explicit)
        case _:
            done = erase.erase(
                disk,
                lambda _, __: None,
                cancelled,
                explicit=explicit,
                by_itself=how.nvme_by_itself if disk.transport == "nvme" else how.ata_by_itself,
                overwrite_after_failure=how.overwrite_after_failure,
            )
    return done.to_json()


def _boot_entry(path: str, loader: str | None) -> str:
    from agent.host.boot_entry import find_loader, make_boot_entry  # noqa: PLC0415 - for this command only
    from agent.host.inventory import describe_path  # noqa: PLC0415

    if firmware.detect() != "uefi":
        return "this server was not started by UEFI: it has no boot entries"
    disk = describe_path(path)
    made = make_boot_entry(disk, find_loader(disk, loader))
    return f"Boot{made.number} starts {made.loader.path} of {path}; boot order: {', '.join(made.order)}"


def _collect(status: Mapping[str, Any]) -> bytes:
    from agent.host.evidence import gather, pack  # noqa: PLC0415 - for this only

    found, missing = gather(LOG_COMMANDS, LOG_SECONDS)
    failed = {name: f"{text}\n".encode() for name, text in missing.items()}
    return pack({"status.json": json.dumps(status, indent=2).encode(), **found, **failed})
