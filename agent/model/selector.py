"""The disk selector of a job: chooses the disk by what it is, as Ironic's root device hints do. Pure.

`parse_selector` reads the member `disk` of a job, or the root device hints of an Ironic node as they are.
`DiskSelector.select` takes the disks that all hints fit and that may be written, or refuses: it never guesses.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.errors import DiskNotSelected, Fault
from agent.model.disk_names import NAME_KEYS, distinct
from agent.model.disks import Disk, DiskGroup, eligibility, in_stable_order
from agent.model.hints import (
    EQUAL,
    Hint,
    HintRefused,
    fits_size,
    fits_texts,
    read_flag,
    read_size_hint,
    read_text_hint,
)
from agent.model.job_text import shortened
from agent.text import printable
from agent.units import GiB

KEYS: Mapping[str, str] = {
    "serial": "Serial number.",
    "wwn": "World Wide Name, with or without the vendor's extension.",
    "wwn_with_extension": "World Wide Name with the vendor's extension.",
    "wwn_vendor_extension": "The vendor's extension alone.",
    "model": "Model.",
    "vendor": "Vendor.",
    "size": "GiB: a whole number, or a string with an operator. Equality is that of whole GiB.",
    "rotational": "Whether it rotates; also as a string.",
    "name": "Path of its node, or of a link to it in /dev/disk/by-id or /dev/disk/by-path.",
    "by_path": "A link to it in /dev/disk/by-path.",
    "hctl": "SCSI address, host:channel:target:lun.",
    "tran": "Transport: nvme, sas, sata, scsi, virtio, usb ...",
}
"""The keys of a selector besides `any`, and what each is compared with."""
ANY = "any"
ANY_HELP = (
    "Whether the first one is taken where several disks fit, in the order that does not depend on the kernel."
)
_EXACT_KEYS = frozenset({"serial", "wwn", "wwn_with_extension", "name", "by_path"})
_MAX_DETAIL = 4000
_MAX_SHOWN_NAME = 120


@dataclass(frozen=True, slots=True)
class Condition:
    """One key of a selector with its hint; for `rotational` a truth value. `text` is the hint as posted."""

    key: str
    hint: Hint | bool
    text: str

    def fits(self, disk: Disk) -> bool:
        """Whether the disk is such a one."""
        if isinstance(self.hint, bool):
            return disk.rotational == self.hint
        if self.key == "size":
            return fits_size(self.hint, disk.size)
        return fits_texts(self.hint, hint_values(disk)[self.key])

    def failure(self, disk: Disk) -> str:
        """What it is instead, for people."""
        value = hint_values(disk)[self.key]
        if isinstance(value, list):
            if not value:
                return f"{self.key} is not known"
            names = " or ".join(shortened(printable(name), _MAX_SHOWN_NAME) for name in value[:3])
            return f"{self.key} is {names}"
        return f"{self.key} is {str(value).lower()}"


@dataclass(frozen=True, slots=True)
class DiskSelector:
    """What the disk has to be. All conditions have to hold."""

    conditions: tuple[Condition, ...]
    takes_first: bool = False
    """Whether the first is taken where several fit (`any`)."""
    posted: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        words = [f"{condition.key} {condition.text}" for condition in self.conditions]
        return ", ".join([*words, *([ANY] if self.takes_first else [])])

    @property
    def is_exact(self) -> bool:
        """Whether it names one disk, as a path does: by a serial number, a WWN or a path, without alternatives."""
        return any(
            condition.key in _EXACT_KEYS
            and isinstance(condition.hint, Hint)
            and condition.hint.operator == EQUAL
            for condition in self.conditions
        )

    def select(
        self, disks: Iterable[Disk], groups: Iterable[DiskGroup] = (), *, count: int = 1
    ) -> tuple[Disk, ...]:
        """The disks that fit and may be written.

        Args:
            disks: all that can be chosen from, just read from the inventory.
            groups: those of the inventory or of the configuration; disks that the configuration names are not guessed.
            count: how many are wanted.

        Raises:
            DiskNotSelected: there are fewer, or there are more and none is to be taken of them.
        """
        named = {disk.path for group in groups if group.configured for disk in group.disks}
        verdicts = [
            _Verdict(
                disk,
                tuple(item.failure(disk) for item in self.conditions if not item.fits(disk)),
                eligibility(disk, explicit=self.is_exact or disk.path in named),
            )
            for disk in in_stable_order(disks)
        ]
        found = [verdict.disk for verdict in verdicts if not verdict.failures and not verdict.reasons]
        if len(found) == count or (len(found) > count and self.takes_first):
            return tuple(found[:count])
        raise _refusal(self, verdicts, len(found), count)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a selector says about a disk: the hints that do not fit, and why it must not be written."""

    disk: Disk
    failures: tuple[str, ...]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        words = [*self.failures] or ["fits"]
        words += [f"cannot be written: {', '.join(self.reasons)}"] if self.reasons else []
        return f"{printable(self.disk.path)}: {', '.join(words)}"


def hint_values(disk: Disk) -> dict[str, Any]:
    """What each key of a selector is compared with, for one disk. Size is in whole GiB here."""
    own = {
        "serial": (disk.serial,),
        "wwn": (disk.wwn,),
        "wwn_with_extension": (disk.wwn,),
        "model": (disk.model,),
        "vendor": (disk.vendor,),
        "name": (disk.path, *disk.by_id, disk.by_path),
        "by_path": (disk.by_path,),
        "tran": (disk.transport,),
    }
    names = {key: list(distinct(*own.get(key, ()), *getattr(disk.names, key))) for key in NAME_KEYS}
    return names | {"size": disk.size // GiB, "rotational": disk.rotational}


def _refusal(selector: DiskSelector, verdicts: Sequence[_Verdict], found: int, count: int) -> DiskNotSelected:
    # Those that come closest first: the list may be cut.
    nearest = sorted(verdicts, key=lambda verdict: (len(verdict.failures), len(verdict.reasons)))
    if found > count:
        first = "the first of them" if count == 1 else f"the first {count} of them"
        hint = f"Add what tells them apart (serial, wwn), or `any`: true for {first}."
    elif nearest and not nearest[0].failures:
        hint = "Free the disk that fits; the detail says why it cannot be written. Or select another one."
    else:
        hint = DiskNotSelected.default_hint
    return DiskNotSelected(
        selector=printable(str(selector), 200),
        found=_amount(found, count),
        detail=_listed([str(verdict) for verdict in nearest]),
        hint=hint,
    )


def _amount(found: int, count: int) -> str:
    if not found:
        return "no disk that may be written"
    wanted = "one is" if count == 1 else f"{count} are"
    return f"{found} disk{'s' if found > 1 else ''}, and {wanted} wanted"


def _listed(lines: Sequence[str]) -> str:
    """The lines in one, at most about `_MAX_DETAIL` characters; it says how many are left out."""
    taken, length = 0, 0
    for line in lines:
        length += min(len(line), _MAX_DETAIL // 4)
        if length > _MAX_DETAIL:
            break
        taken += 1
    shown = [shortened(line, _MAX_DETAIL // 4) for line in lines[:taken]]
    more = [f"and {len(lines) - taken} more"] if taken < len(lines) else []
    return "; ".join([*shown, *more]) or "this server has no disks"


# -- reading -------------------------------------------------------------------------------------------------


def parse_selector(document: object, path: str, faults: list[Fault]) -> DiskSelector | None:
    """Read a selector.

    Args:
        document: as posted. Null members are absent.
        path: of the selector itself, for the faults.
        faults: get all that is wrong with it.

    Returns:
        The selector; None if it has a fault.
    """
    if not isinstance(document, dict):
        faults.append(Fault(path, 'must be an object such as {"serial": "Z1"}'))
        return None
    conditions, takes_first, found = list[Condition](), False, list[Fault]()
    posted = {key: value for key, value in document.items() if value is not None}
    for key, value in document.items():
        try:
            if key == ANY and value is not None:
                takes_first = read_flag(value)
            elif key in KEYS and value is not None:
                conditions.append(_condition(key, value))
            elif key not in (ANY, *KEYS):
                raise HintRefused(f"is an unknown key; known are {', '.join((*KEYS, ANY))}")
        except HintRefused as refusal:
            found.append(Fault(f"{path}.{shortened(str(key))}", str(refusal)))
    if not conditions and not found:
        found.append(Fault(path, f"selects nothing; it takes at least one of {', '.join(KEYS)}"))
    faults += found
    return None if found else DiskSelector(tuple(conditions), takes_first, posted)


def _condition(key: str, value: object) -> Condition:
    if key == "rotational":
        flag = read_flag(value)
        return Condition(key, flag, str(flag).lower())
    read: Callable[[object], Hint] = read_size_hint if key == "size" else read_text_hint
    hint = read(value)
    return Condition(key, hint, " ".join(str(value).split()))
