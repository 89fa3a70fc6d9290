r"""The boot entries of a UEFI firmware, as efibootmgr prints them, and where a new one goes in their order.

All of it is pure; `agent.host.boot_entry` runs the commands. Sources: UEFI specification 2.10, sections 3.1 (boot
manager) and 10.3 (device paths); the output of efibootmgr 17 (Debian 12) and 18 (Debian 13), which differ only behind
the path.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

EntryKind = Literal["network", "removable", "firmware", "disk"]

_ORDER = re.compile(r"BootOrder: *([0-9A-F]{4}(?:,[0-9A-F]{4})*)? *")
_ENTRY = re.compile(r"Boot([0-9A-F]{4})([* ]) ([^\t]*)\t(.*)")
_NEXT = re.compile(r"BootNext: *([0-9A-F]{4}) *")
_PARTITION = re.compile(r"HD\((\d+),GPT,([0-9a-f-]{36}),", re.IGNORECASE)
# What the device path of an entry has in it. The first that fits decides: iSCSI has a MAC too.
_KINDS: tuple[tuple[re.Pattern[str], EntryKind], ...] = (
    (re.compile(r"HD\(|iSCSI\(", re.IGNORECASE), "disk"),
    (re.compile(r"MAC\(|IPv[46]\(|Uri\(|BBS\((Network|0x80|128)", re.IGNORECASE), "network"),
    (re.compile(r"CDROM\(|USB\(|UsbClass\(|UsbWwid\(|BBS\((CDROM|Floppy|USB)", re.IGNORECASE), "removable"),
    (re.compile(r"FvVol\(|FvFile\(|Fv\(", re.IGNORECASE), "firmware"),
)


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One entry; `number` has four hexadecimal digits (`001F`)."""

    number: str
    label: str
    path: str
    """Its device path, perhaps with other data of the entry right behind it."""
    active: bool = True

    @property
    def kind(self) -> EntryKind:
        """What it boots from; `disk` where the path does not say, as firmware has it of virtio disks."""
        return next((kind for pattern, kind in _KINDS if pattern.search(self.path)), "disk")

    @property
    def partition(self) -> tuple[int, str] | None:
        """Number and GUID (lower case) of the GPT partition that its loader is on."""
        match = _PARTITION.search(self.path)
        return None if match is None else (int(match[1]), match[2].lower())


@dataclass(frozen=True, slots=True)
class BootEntries:
    """All entries of a firmware, and the order in which it tries them. Entries need not be in the order."""

    entries: tuple[BootEntry, ...] = ()
    order: tuple[str, ...] = ()
    next: str = ""
    """The number of the entry for the next start only; empty where there is none."""

    def labelled(self, label: str) -> tuple[BootEntry, ...]:
        """The entries with exactly this label."""
        return tuple(entry for entry in self.entries if entry.label == label)

    @property
    def numbers(self) -> frozenset[str]:
        """The numbers of all entries."""
        return frozenset(entry.number for entry in self.entries)


def parse_entries(output: str) -> BootEntries:
    """Read the output of `efibootmgr -v`; lines that are not understood are ignored."""
    entries: list[BootEntry] = []
    order: tuple[str, ...] = ()
    following = ""
    for line in output.splitlines():
        if match := _ORDER.fullmatch(line):
            order = tuple((match[1] or "").split(",")) if match[1] else ()
        elif match := _NEXT.fullmatch(line):
            following = match[1]
        elif match := _ENTRY.fullmatch(line):
            entries.append(BootEntry(match[1], match[3], match[4], active=match[2] == "*"))
    return BootEntries(tuple(entries), order, following)


def order_with(
    before: BootEntries, new: str, removed: Collection[str] = (), *, network_first: bool
) -> tuple[str, ...]:
    """The boot order with a new entry in it.

    Args:
        before: the entries without the new one.
        new: its number.
        removed: numbers of entries that were removed.
        network_first: whether what boots from the network stays in front of it. That is so where it is in front of
            every disk now: who has a disk first wants the disk. Removable media and applications of the firmware do
            not count as disks.
    """
    known = {entry.number: entry for entry in before.entries}
    kept = [number for number in before.order if number not in removed and number != new]
    place = _behind_network(known[number] for number in kept if number in known) if network_first else ""
    at = kept.index(place) + 1 if place else 0
    return (*kept[:at], new, *kept[at:])


def _behind_network(entries: Iterable[BootEntry]) -> str:
    """The number of the last network entry in front of every disk; empty where there is none."""
    last = ""
    for entry in entries:
        if entry.kind == "disk":
            break
        if entry.kind == "network":
            last = entry.number
    return last


# -- loaders -------------------------------------------------------------------------------------------------

# The names of UEFI (section 3.5.1.1) for the machines that Linux names so.
ARCHITECTURES = {"x86_64": "X64", "aarch64": "AA64", "riscv64": "RISCV64", "i686": "IA32"}
_MAX_CSV = 64 * 1024
_MAX_LABEL = 64


def fallback_loader(architecture: str) -> str:
    r"""The path that firmware looks for by itself: `\EFI\BOOT\BOOTX64.EFI`; the architecture is UEFI's name (`X64`)."""
    return rf"\EFI\BOOT\BOOT{architecture}.EFI"


def csv_name(architecture: str) -> str:
    """The file beside a loader in which distributions say which one is to be booted (`BOOTX64.CSV`)."""
    return f"BOOT{architecture}.CSV"


def loaders_in(vendor: str, architecture: str) -> tuple[str, ...]:
    r"""The loaders that a directory below \EFI may have, the best first: a shim starts where Secure Boot is on."""
    suffix = architecture.lower()
    names = {
        "systemd": (f"systemd-boot{suffix}.efi",),
        "microsoft": (r"Boot\bootmgfw.efi",),
    }.get(vendor.casefold(), (f"shim{suffix}.efi", f"grub{suffix}.efi"))
    return tuple(rf"\EFI\{vendor}\{name}" for name in names)


def parse_csv(content: bytes) -> str:
    """The loader that a BOOT*.CSV names: a file name in its own directory. Empty where it names none.

    The shim's fallback program reads it: lines of UTF-16 (file, label, options, comment), the first counts.
    """
    text = content[:_MAX_CSV].decode("utf-16-le", "ignore").removeprefix("\ufeff")
    first = next(iter(text.splitlines()), "")
    name = first.split(",", 1)[0].strip().strip("\0")
    return "" if "\\" in name or "/" in name else name


def label_for(prefix: str, names: Sequence[str]) -> str:
    """A label that tells one disk from the others: the first of the names that is known is put behind the prefix.

    It is the same at every deployment to that disk, so that the entry of the one before is found by it.
    """
    known = next((name for name in names if name), "")
    text = "".join(character for character in known if character.isascii() and character.isprintable())
    return f"{prefix} {text}".strip()[:_MAX_LABEL].strip()
