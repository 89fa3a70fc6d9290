"""What a disk is called: the values that the keys of a disk selector are compared with. Pure.

The kernel, udev and lsblk have different words for one disk. A selector that was written for Ironic's own agent has
copied one of them, so all are kept (`agent.host.disk_names` reads them).
"""

from dataclasses import dataclass, fields
from typing import Any, Self

from agent.model.contents import Members


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a disk, by the keys of a selector. Printable and bounded; empty where none is known."""

    serial: tuple[str, ...] = ()
    wwn: tuple[str, ...] = ()
    wwn_with_extension: tuple[str, ...] = ()
    wwn_vendor_extension: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    vendor: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    """The path of its node, and the links to it in /dev/disk/by-id and /dev/disk/by-path."""
    by_path: tuple[str, ...] = ()
    hctl: tuple[str, ...] = ()
    """The SCSI address, host:channel:target:lun."""
    tran: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The names in the inventory document."""
        return {key: list(getattr(self, key)) for key in NAME_KEYS}

    @classmethod
    def read(cls, document: object) -> Self:
        """The names from that document.

        Raises:
            ValueError: it is not such a document.
        """
        member = Members(document, "hints")
        return cls(**{key: tuple(map(str, member.items(key))) for key in NAME_KEYS})


NO_NAMES = Names()
NAME_KEYS = tuple(field.name for field in fields(Names))


def distinct(*names: str) -> tuple[str, ...]:
    """The names that are known, each once."""
    return tuple(dict.fromkeys(name for name in names if name))
