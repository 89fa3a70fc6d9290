"""Looks into the first bytes of a layer: is it a disk, does it hold one. Pure.

A media type says what its pusher typed: it is not asked. What is compressed is inflated as far as its head goes; of an
archive the members are read that are in it. The whole layer is judged later, by the decoders, as any image is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from agent.errors import DeployError
from agent.formats.archives.member import Data, End, Member, MemberCheck
from agent.formats.archives.tar import TarReader
from agent.formats.compressed import Decompressor, Kind
from agent.formats.contents import DISK_IMAGES, MAY_BE_IMAGE
from agent.formats.detect import SNIFF_BYTES, sniff
from agent.formats.extent import ImageTooLarge
from agent.text import printable
from agent.units import MiB

LOOK_BYTES = MiB
"""Of a layer: the first block of what bzip2 makes is in it, the longest of all."""

DISK_DIRECTORY = "disk/"
"""Where KubeVirt has the disk in a container disk."""

_MAX_INFLATED = 2 * MiB
_MAX_AROUND = 2
_SHOWN = 80
_CHECK = MemberCheck("archive_member")
_KINDS: Mapping[str, Kind] = {kind: kind for kind in get_args(Kind)}


@dataclass(frozen=True, slots=True)
class Look:
    """What a layer begins as."""

    content: str
    """As `agent.formats.detect.sniff` names it, without what is around it."""
    around: tuple[str, ...] = field(default=())
    """What is around that, from the outside in."""
    member: str | None = None
    """The disk in an archive, where it was seen."""

    @property
    def is_archive(self) -> bool:
        """Whether it is a tar."""
        return self.content == "tar"

    @property
    def is_disk(self) -> bool:
        """Whether it is a disk image or is seen to hold one; what could not be inflated may be one."""
        return self.content in DISK_IMAGES or self.content in _KINDS or self.member is not None

    def __str__(self) -> str:
        words = " in ".join((self.content, *reversed(self.around)))
        return words if self.member is None else f"{words} with {printable(self.member, _SHOWN)}"


def look_at(head: bytes) -> Look:
    """Look at a layer's first `LOOK_BYTES`, or all of a shorter one."""
    around: list[str] = []
    content = sniff(head[:SNIFF_BYTES])
    while content in _KINDS and len(around) < _MAX_AROUND:
        inflated = _inflated(_KINDS[content], head)
        if not inflated:
            break
        around.append(content)
        head, content = inflated, sniff(inflated[:SNIFF_BYTES])
    member = _disk_in(head) if content == "tar" else None
    return Look(content, tuple(around), member)


MEMBER_BYTES = 2 * SNIFF_BYTES
"""Of a member of an archive, its headers included: what tells what it is."""


def look_at_member(data: bytes) -> tuple[str | None, int] | None:
    """Look at one member of a tar: its name where it is taken for an image, and its length with all that is around it.

    Args:
        data: `MEMBER_BYTES` from its first header on, or all that there are.

    Returns:
        None where there is no member, or none that can be read.
    """
    reader, gathered, name = TarReader(_CHECK, sparse=True), bytearray(), ""
    try:
        for event in reader.feed(memoryview(data)):
            match event:
                case Member(name=name):
                    pass
                case Data(data=piece):
                    gathered += piece
                case _:
                    break
    except DeployError:
        return None
    is_image = sniff(bytes(gathered[:SNIFF_BYTES])) in MAY_BE_IMAGE
    return (name if is_image else None, reader.following) if reader.following else None


def _inflated(kind: Kind, head: bytes) -> bytes:
    """What the head inflates to; nothing where it does not."""
    gathered = bytearray()
    try:
        for piece in Decompressor(kind, _MAX_INFLATED).feed(memoryview(head)):
            gathered += piece
            if len(gathered) >= LOOK_BYTES:
                break
    except (DeployError, ImageTooLarge):
        pass  # as far as it goes; whoever reads the whole layer tells what is wrong with it
    return bytes(gathered)


def _disk_in(head: bytes) -> str | None:
    """The name of the first member that is a disk, as far as the archive goes here."""
    name, gathered = "", bytearray()
    try:
        for event in TarReader(_CHECK, sparse=True).feed(memoryview(head)):
            match event:
                case Member(name=name, type=kind):
                    gathered.clear()
                    if kind == "file" and name.startswith(DISK_DIRECTORY):
                        return name
                case Data(data=data):
                    gathered += data[: SNIFF_BYTES - len(gathered)]
                case End() if sniff(bytes(gathered)) in DISK_IMAGES:
                    return name
                case _:
                    pass
    except DeployError:
        return None  # a link or a device, as systems have them: no container disk
    return name if sniff(bytes(gathered)) in DISK_IMAGES else None
