"""Lets disks erase themselves, by nvme-cli and hdparm. Used by `agent.host.erase`, which has claimed the disk.

What a disk says of itself, and the commands for it, are read and made in `agent.model.self_erasure`. Everything blocks;
an erasure cannot be stopped.
"""

import errno
import re
from contextlib import suppress
from pathlib import Path
from shlex import join

from agent.errors import DiskIo, ToolMissing
from agent.host import process
from agent.model.disks import Disk
from agent.model.self_erasure import (
    AtaSecurity,
    CannotEraseItself,
    Command,
    Method,
    SelfErasure,
    parse_hdparm,
    plan_ata,
    plan_nvme,
    unlock_ata,
)

_ASK_SECONDS = 60.0
_UNLOCK_HINT = "Unlock it (hdparm --security-unlock), or cut its power; then erase it again."


def let_erase(disk: Disk, tool: process.Tool) -> tuple[Method, str]:
    """Have a disk erase all that it holds.

    Returns:
        How, and the command line that did it.

    Raises:
        CannotEraseItself: it cannot; nothing was done.
        OSError: it failed; the disk has no password left from that, if it takes it back.
    """
    plan = _plan(disk, tool)
    try:
        for command in plan.commands:
            tool(command, timeout=plan.timeout)
        if disk.transport == "sata" and _ata_security(disk.path, tool).enabled:
            raise OSError(errno.EIO, f"{join(plan.commands[-1])}: the disk still has its password", disk.path)
    except OSError:
        if disk.transport == "sata":
            with suppress(OSError):
                _take_password_away(disk.path, _ata_security(disk.path, tool), tool)
        raise
    return plan.method, join(plan.commands[-1])


def unlock(disk: Disk, tool: process.Tool) -> None:
    """Take the password away that an interrupted erasure has left, if there is one.

    Raises:
        DiskIo: the disk stays locked; it can be neither read nor written.
    """
    if disk.transport != "sata":
        return
    try:
        security = _ata_security(disk.path, tool)
        _take_password_away(disk.path, security, tool)
        if not security.locked or not _ata_security(disk.path, tool).locked:
            return
    except (ToolMissing, process.ProcessFailed):
        return
    raise DiskIo(device=disk.path, reason="it is locked by an ATA password", hint=_UNLOCK_HINT)


def _take_password_away(path: str, security: AtaSecurity, tool: process.Tool) -> None:
    for command in unlock_ata(path, security):
        with suppress(process.ProcessFailed):
            tool(command, timeout=_ASK_SECONDS)


def _plan(disk: Disk, tool: process.Tool) -> SelfErasure:
    try:
        if disk.transport == "nvme":
            controller, namespace = (
                _ask(("nvme", what, disk.path, "-o", "json"), tool) for what in ("id-ctrl", "id-ns")
            )
            return plan_nvme(disk.path, controller, namespace, other_namespaces(disk.path))
        if disk.transport == "sata":
            return plan_ata(disk.path, _ata_security(disk.path, tool))
    except ToolMissing as error:
        package = "nvme-cli" if disk.transport == "nvme" else "hdparm"
        raise CannotEraseItself(f"{package} is not installed") from error
    except process.ProcessFailed as error:
        raise CannotEraseItself(f"it does not say whether it can erase itself: {error}") from error
    raise CannotEraseItself("it is neither an NVMe nor a SATA disk")


def _ask(argv: Command, tool: process.Tool) -> str:
    return tool(argv, timeout=_ASK_SECONDS).decode("utf-8", "replace")


def other_namespaces(path: str, sysfs: Path = Path("/sys/block")) -> tuple[str, ...]:
    """The other namespaces of an NVMe disk's controller or subsystem: of `/dev/nvme0n1` perhaps `/dev/nvme0n2`."""
    match = re.fullmatch(r"(nvme\d+n)\d+", Path(path).name)
    if match is None:
        return ()
    names = (
        entry.name for entry in sysfs.glob(f"{match[1]}*") if re.fullmatch(rf"{match[1]}\d+", entry.name)
    )
    return tuple(f"/dev/{name}" for name in sorted(names) if name != Path(path).name)


def _ata_security(path: str, tool: process.Tool) -> AtaSecurity:
    return parse_hdparm(_ask(("hdparm", "-I", path), tool))
