"""How a disk can erase itself: what it says that it can (the output of nvme-cli and hdparm), and the commands for it.

All of it is pure; `agent.host.erase` runs the commands. Sources: NVM Express Base Specification 2.0, figures 275
(Identify Controller) and 5.14 (Format NVM), NVM Command Set 1.0, figure 97 (Identify Namespace); ATA/ATAPI Command Set
ACS-4, sections 4.18 and 7.44 to 7.49 (Security feature set).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Method = Literal[
    "metadata",
    "discard",
    "secure_discard",
    "nvme_user_data",
    "nvme_crypto",
    "ata",
    "ata_enhanced",
    "overwrite",
]

Command = tuple[str, ...]

_FORMAT_NVM = 1 << 1  # OACS
_FORMAT_ALL, _ERASE_ALL, _CRYPTO = 1 << 0, 1 << 1, 1 << 2  # FNA
_USER_DATA_ERASE, _CRYPTO_ERASE = 1, 2  # SES of Format NVM
_EXTENDED_LBA = 1 << 4  # FLBAS
_PROTECTION_FIRST = 1 << 3  # DPS
# nvme-cli gives up after ten minutes by itself, which the erasure of a large disk may take.
_NVME_HOURS = 12
_ATA_HOURS = 24
# The password of an erasure. hdparm turns this word into the empty one.
_PASSWORD = "NULL"  # noqa: S105 - no secret: the disk forgets it with everything else
_MINUTES = re.compile(r"(more than )?(\d{1,6})min for (ENHANCED )?SECURITY ERASE UNIT")


class CannotEraseItself(Exception):
    """The disk cannot erase itself, or must not; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class SelfErasure:
    """The erasure of one disk by itself: commands in their order, and how long they may take in all, in seconds."""

    method: Method
    commands: tuple[Command, ...]
    timeout: float


# -- NVMe ----------------------------------------------------------------------------------------------------


def plan_nvme(path: str, controller: str, namespace: str, others: Sequence[str] = ()) -> SelfErasure:
    """How to erase a namespace by Format NVM, so that its sectors stay as large as they are.

    Args:
        path: of the namespace (`/dev/nvme0n1`).
        controller: the output of `nvme id-ctrl -o json`.
        namespace: the output of `nvme id-ns -o json`.
        others: the other namespaces of the same controller.

    Returns:
        A cryptographic erasure where the disk has it, else one of the user data.

    Raises:
        CannotEraseItself: it has no Format NVM, that would erase the others too, or the output is not understood.
    """
    can, features = _number(controller, "oacs"), _number(controller, "fna")
    if not can & _FORMAT_NVM:
        raise CannotEraseItself("the disk has no NVMe format command")
    if features & (_FORMAT_ALL | _ERASE_ALL) and others:
        raise CannotEraseItself(f"an NVMe format would erase {', '.join(others)} too")
    crypto = bool(features & _CRYPTO)
    erase = _CRYPTO_ERASE if crypto else _USER_DATA_ERASE
    timeout = _NVME_HOURS * 3600
    command = (
        *("nvme", "format", path, f"--ses={erase}", *_same_format(namespace)),
        *("--force", f"--timeout={timeout * 1000}"),
    )
    return SelfErasure("nvme_crypto" if crypto else "nvme_user_data", (command,), timeout)


def _same_format(namespace: str) -> Command:
    """The options that keep sector size, metadata and protection information as they are."""
    flbas, dps = _number(namespace, "flbas"), _number(namespace, "dps")
    # Bits 5 and 6 are the upper ones of the format's index, for disks with more than 16 formats.
    options = [f"--lbaf={flbas & 0x0F | (flbas >> 5 & 0x3) << 4}"]
    options += ["--ms=1"] if flbas & _EXTENDED_LBA else []
    if dps & 0x07:
        options += [f"--pi={dps & 0x07}", f"--pil={int(bool(dps & _PROTECTION_FIRST))}"]
    return tuple(options)


def _number(document: str, key: str) -> int:
    try:
        members: Any = json.loads(document)
        number = members[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CannotEraseItself(f"what nvme-cli says of the disk has no {key}") from error
    if not isinstance(number, int):
        raise CannotEraseItself(f"what nvme-cli says of the disk has no number for {key}")
    return number


# -- ATA -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AtaSecurity:
    """The security feature set of an ATA disk, as `hdparm -I` prints it."""

    supported: bool = False
    enabled: bool = False
    """Whether a password is set."""
    locked: bool = False
    """Whether the disk refuses to be read and written until it gets its password."""
    frozen: bool = False
    """Whether it refuses all of these commands until its power is cut; firmware does that before it boots."""
    enhanced: bool = False
    """Whether it can also erase the sectors that it has taken out of use."""
    minutes: int | None = None
    """How long it says that an erasure takes; None where it does not say, or says only a lower bound."""
    enhanced_minutes: int | None = None


def parse_hdparm(output: str) -> AtaSecurity:
    """The security section in the output of `hdparm -I`; nothing is supported where there is none."""
    _, found, section = output.partition("\nSecurity:")
    if not found:
        return AtaSecurity()
    lines = []
    for line in section.splitlines()[1:]:
        if not line.startswith("\t"):
            break
        lines.append(" ".join(line.split()))
    minutes = {
        enhanced: None if more else int(number)
        for line in lines
        for more, number, enhanced in _MINUTES.findall(line)
    }
    return AtaSecurity(
        supported="supported" in lines,
        enabled="enabled" in lines,
        locked="locked" in lines,
        frozen="frozen" in lines,
        enhanced="supported: enhanced erase" in lines,
        minutes=minutes.get(""),
        enhanced_minutes=minutes.get("ENHANCED "),
    )


def plan_ata(path: str, security: AtaSecurity) -> SelfErasure:
    """How to erase a disk by SECURITY ERASE UNIT, enhanced where the disk has that.

    Raises:
        CannotEraseItself: it does not have the command, or is in no state to take it.
    """
    if not security.supported:
        raise CannotEraseItself("the disk has no ATA secure erase")
    if security.frozen:
        raise CannotEraseItself(
            "the firmware has frozen the ATA security of the disk (a power cycle may thaw it)"
        )
    if security.enabled:
        raise CannotEraseItself("an ATA password is set on the disk")
    minutes = security.enhanced_minutes if security.enhanced else security.minutes
    erase = "--security-erase-enhanced" if security.enhanced else "--security-erase"
    return SelfErasure(
        "ata_enhanced" if security.enhanced else "ata",
        (_hdparm("--security-set-pass", path), _hdparm(erase, path)),
        # What disks say is an estimate.
        _ATA_HOURS * 3600 if minutes is None else 3600 + 3 * 60 * minutes,
    )


def unlock_ata(path: str, security: AtaSecurity) -> tuple[Command, ...]:
    """The commands that take the password of an interrupted erasure away; none where no password is set."""
    if not security.enabled or security.frozen:
        return ()
    unlock = (_hdparm("--security-unlock", path),) if security.locked else ()
    return (*unlock, _hdparm("--security-disable", path))


def _hdparm(option: str, path: str) -> Command:
    return ("hdparm", "--user-master", "u", option, _PASSWORD, path)
