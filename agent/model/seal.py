"""The seal of a deployment: digests of what the ends of its disks and the config drive will hold after the commit.

It is put into the journal when everything but the commit is done. After a crash, the next agent compares the disks with
it and so finds out whether the commit was complete: the first sector of a disk is the last that a commit writes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

T = TypeVar("T", "SealedDisk", "KeptOut", "Seal")


@dataclass(frozen=True, slots=True)
class SealedDisk:
    """A disk after its commit. Sizes, lengths and offsets are in bytes; digests are SHA-256 in hexadecimal.

    `head` and `tail` are the first and the last part of the disk, `drive` is the config drive (length 0 without one),
    `sector_size` that of the partition table.
    """

    path: str
    size: int
    head_length: int
    head_sha256: str
    tail_length: int
    tail_sha256: str
    sector_size: int = 512
    drive_offset: int = 0
    drive_length: int = 0
    drive_sha256: str = ""

    def check(self) -> None:
        """Raises ValueError where the numbers do not describe a disk."""
        if not (0 < self.head_length < self.size < 2**63 and 0 < self.tail_length < self.size):
            raise ValueError(f"not a seal: {self.head_length} and {self.tail_length} of {self.size} bytes")
        if not (self.drive_offset >= 0 and 0 <= self.drive_length <= self.size - self.drive_offset):
            raise ValueError(
                f"not a seal: a drive of {self.drive_length} bytes at {self.drive_offset} of {self.size} bytes"
            )
        if self.sector_size not in (512, 4096):
            raise ValueError(f"not a seal: sectors of {self.sector_size} bytes")


@dataclass(frozen=True, slots=True)
class KeptOut:
    """A disk that has failed, and that the deployment does without: its size in bytes, and why."""

    path: str
    size: int
    failed: str


@dataclass(frozen=True, slots=True)
class Seal:
    """A deployment right before its commit.

    `checksum` is the digest of the image as downloaded. `image_type`, `image_packing`, `signature` and `registry` (both
    as JSON), and `read_back` are those of the status, empty where it has null, and in seals of agents before 0.2.
    `disks` are those that the commit makes bootable, `kept_out` those that have failed.
    """

    disks: tuple[SealedDisk, ...]
    checksum: str
    image_type: str = ""
    image_packing: str = ""
    signature: str = ""
    read_back: str = ""
    registry: str = ""
    kept_out: tuple[KeptOut, ...] = ()

    def document(self) -> dict[str, Any]:
        """The seal as JSON."""
        return asdict(self) | {name: [asdict(disk) for disk in getattr(self, name)] for name in _TUPLES}

    @staticmethod
    def parse(document: Mapping[str, Any]) -> "Seal":
        """Read what `document` returned, or what an agent before 0.2 wrote, which had one disk.

        Raises:
            ValueError: it is not a seal; the text says why.
        """
        members = dict(document)
        disks = members.pop("disks", None)
        if disks is None:
            disks = [{name: members.pop(name) for name in _DISK_FIELDS & members.keys()}]
        if not isinstance(disks, list) or not disks:
            raise ValueError("not a seal: it names no disks")
        sealed = tuple(_read(SealedDisk, disk) for disk in disks)
        for disk in sealed:
            disk.check()
        kept_out = members.pop("kept_out", ())
        if not isinstance(kept_out, list | tuple):
            raise ValueError(f"not a seal: kept_out is {kept_out!r}")  # noqa: TRY004 - as in `_read`
        members |= {"disks": sealed, "kept_out": tuple(_read(KeptOut, disk) for disk in kept_out)}
        seal = _read(Seal, members)
        for name in ("signature", "registry"):
            if (text := getattr(seal, name)) and not isinstance(_json(text), dict):
                raise ValueError(f"not a seal: its {name} is no JSON object")
        return seal


_TUPLES = ("disks", "kept_out")
_DISK_FIELDS = {field.name for field in fields(SealedDisk)}


def _read(kind: type[T], document: object) -> T:
    if not isinstance(document, dict):
        raise ValueError(f"not a seal: {document!r}")  # noqa: TRY004 - what it was read from is no argument
    try:
        read = kind(**document)
    except TypeError as error:
        raise ValueError(f"not a seal: {error}") from None
    for field in fields(read):
        value = getattr(read, field.name)
        expected = tuple if field.name in _TUPLES else field.type
        if type(value) is not expected:
            raise ValueError(f"not a seal: {field.name} is {value!r}")
    return read


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
