"""OVA: a tar archive of an OVF descriptor, one VMDK, and perhaps a manifest of their digests.

The descriptor must come before the disk, for it says which member the disk is; the manifest, certificates and other
members may stand anywhere. Descriptor and manifest name others as seen from their own directory, for some archives have
all in one. The disk may be compressed with gzip. Source: DMTF DSP0243 2.1, sections 5 and 6.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol
from urllib.parse import unquote

from agent.errors import ImageDamaged, ImageType, ImageUnsafe
from agent.formats.chain import Chained
from agent.formats.compressed import Decompressor
from agent.formats.extent import Decoder, Extent
from agent.formats.ova.manifest import MAX_MANIFEST, Digests, Manifest, beside
from agent.formats.ova.ovf import MAX_DESCRIPTOR, OvfDisk, parse_ovf
from agent.formats.ova.tar import Data, End, Member, TarReader
from agent.formats.ova.vmdk import VmdkDecoder
from agent.units import MiB

# The first bytes of formats that a disk may be in; such a member which is not the descriptor's disk is refused.
_DISK_MAGICS = (b"KDMV", b"COWD", b"# Di", b"QFI\xfb", b"vhdx", b"cone")
_GZIP_MAGIC = b"\x1f\x8b"
_MAGIC_BYTES = 4


class OvaDecoder:
    """Decodes one OVA.

    Memory: that of `VmdkDecoder`, of `TarReader`, and at most 1 MiB each of descriptor and manifest. Unless a manifest
    came before the disk, the disk is digested by SHA-1, SHA-256 and SHA-512 at once.
    """

    def __init__(self, disk_size: int) -> None:
        """`disk_size` in bytes: no larger guest disk is accepted."""
        self._disk_size = disk_size
        self._tar = TarReader()
        self._manifest = Manifest()
        self._descriptor: OvfDisk | None = None
        self._descriptor_name = ""
        self._disk: _Disk | None = None
        self._disk_name = ""
        self._passed: set[str] = set()
        self._name = ""
        self._member: _Reader = _Ignored()
        self._digests: Digests | None = None
        self._notes: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        """That nothing closes the archive, and those of the disk; complete after `finish`."""
        return (*self._notes, *(() if self._disk is None else self._disk.notes))

    @property
    def virtual_size(self) -> int | None:
        """The capacity of the VMDK, in bytes; known before the first extent is given."""
        return None if self._disk is None else self._disk.virtual_size

    @property
    def used_scratch(self) -> None:
        """Nothing waits on the disk."""

    @property
    def held(self) -> int:
        """No more than the class says, which is a few MiB."""
        return 0

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Take the next bytes.

        Raises:
            ImageTooLarge: the guest disk is larger than `disk_size`.
            ChecksumMismatch: a member is not what the manifest says.
            ImageType: the disk is no VMDK.
            ImageUnsafe: a check refused the archive, the descriptor or the disk.
            ImageDamaged: something contradicts itself.
        """
        for event in self._tar.feed(data):
            match event:
                case Member():
                    self._begin(event)
                case Data():
                    if self._digests is not None:
                        self._digests.update(event.data)
                    yield from self._member.feed(event.data)
                case End():
                    yield from self._end()

    def finish(self) -> Iterator[Extent]:
        """The archive has ended.

        Raises:
            ImageDamaged: it is not whole, or lacks its descriptor or what its manifest names.
            ImageUnsafe: it lacks its disk (check `ovf_disk`).
        """
        for _ in self._tar.finish():
            raise RuntimeError("the tar archive kept a member back")
        if not self._tar.closed and not (self._manifest.present and self._disk is not None):
            raise ImageDamaged(
                format="ova",
                reason="it ends without the blocks of zeros that close it, and no manifest says that all is there",
                hint="Compare its size with the original, or pack it again: tar cf NAME.ova NAME.ovf NAME.vmdk.",
            )
        if self._descriptor is None:
            raise _damaged("it has no OVF descriptor")
        if self._disk is None:
            raise ImageUnsafe(
                check="ovf_disk",
                detail=f"the OVF names the disk {self._descriptor.href!r}, which the archive does not have",
            )
        self._manifest.finish((self._descriptor_name, self._disk_name))
        if not self._tar.closed:
            self._notes.append(
                "the OVA ends without the blocks of zeros that close it; its manifest says that all is there"
            )
        return iter(())

    def _begin(self, member: Member) -> None:
        self._name = member.name
        self._digests = None
        self._member = _Ignored()
        name = member.name.lower()
        if member.type == "directory":
            return
        self._passed.add(member.name)
        # macOS's tar puts what its filesystem knows of a file beside it, under the file's name.
        if name.endswith(".cert") or name.rpartition("/")[2].startswith("._"):
            self._digests = self._manifest.digests(member.name)
            return
        if name.endswith(".mf"):
            self._member = _Text(member, MAX_MANIFEST)
            return
        self._digests = self._manifest.digests(member.name)
        if name.endswith(".ovf"):
            if self._descriptor is not None:
                raise ImageUnsafe(check="ovf_disk", detail="the archive has two OVF descriptors")
            self._member = _Text(member, MAX_DESCRIPTOR)
        elif self._descriptor is not None and self._disk is None and member.name in self._disk_names:
            self._disk = self._member = _Disk(self._descriptor, self._disk_size)
            self._disk_name = member.name
        else:
            self._member = _Other(member.name, self._descriptor)

    @property
    def _disk_names(self) -> tuple[str, ...]:
        """What the disk's member may be called: the reference as it stands, or what it says as a URI (RFC 3986)."""
        if self._descriptor is None:
            return ()
        href = self._descriptor.href
        return beside(self._descriptor_name, href), beside(self._descriptor_name, unquote(href))

    def _end(self) -> Iterator[Extent]:
        reader = self._member
        yield from reader.finish()
        if isinstance(reader, _Text):
            if self._digests is None:
                self._manifest.read(self._name, bytes(reader.text))
            else:
                self._descriptor = parse_ovf(bytes(reader.text))
                self._descriptor_name = self._name
                for name in self._disk_names:
                    if name in self._passed:
                        raise _out_of_order(name)
        if self._digests is not None:
            self._manifest.add_member(self._name, self._digests)


class _Reader(Protocol):
    """What one member goes through."""

    def feed(self, data: memoryview) -> Iterator[Extent]: ...
    def finish(self) -> Iterator[Extent]: ...


class _Ignored:
    """A member that says nothing about the disk: a directory or a certificate."""

    def feed(self, data: memoryview) -> Iterator[Extent]:  # noqa: ARG002
        return iter(())

    def finish(self) -> Iterator[Extent]:
        return iter(())


class _Text(_Ignored):
    """A member that is read whole: descriptor or manifest."""

    def __init__(self, member: Member, limit: int) -> None:
        if member.size > limit:
            raise ImageUnsafe(
                check="ova_member", detail=f"{member.name!r} has {member.size} bytes, more than {limit}"
            )
        self.text = bytearray()

    def feed(self, data: memoryview) -> Iterator[Extent]:
        self.text += data
        return iter(())


class _Other(_Ignored):
    """A member that nobody asked for: passed over, unless it is a disk."""

    def __init__(self, name: str, descriptor: OvfDisk | None) -> None:
        self._name = name
        self._descriptor = descriptor
        self._head = b""

    def feed(self, data: memoryview) -> Iterator[Extent]:
        if len(self._head) < _MAGIC_BYTES:
            self._head += bytes(data[: _MAGIC_BYTES - len(self._head)])
        return iter(())

    def finish(self) -> Iterator[Extent]:
        if self._head not in _DISK_MAGICS and not self._name.lower().endswith(".vmdk"):
            return iter(())
        if self._descriptor is None:
            raise _out_of_order(self._name)
        raise ImageUnsafe(
            check="ovf_disk",
            detail=f"the archive has the disk {self._name!r}, but the OVF names only {self._descriptor.href!r}",
        )


class _Disk:
    """The member that the descriptor calls the disk."""

    def __init__(self, descriptor: OvfDisk, disk_size: int) -> None:
        self._descriptor = descriptor
        self._disk_size = disk_size
        self._head = b""
        self._decoder: Decoder | None = None
        self._capacity_checked = descriptor.capacity is None

    @property
    def virtual_size(self) -> int | None:
        return None if self._decoder is None else self._decoder.virtual_size

    @property
    def notes(self) -> Sequence[str]:
        return () if self._decoder is None else self._decoder.notes

    def feed(self, data: memoryview) -> Iterator[Extent]:
        if self._decoder is None:
            self._head += bytes(data)
            if len(self._head) < _MAGIC_BYTES:
                return
            self._decoder = self._choose(self._head[: len(_GZIP_MAGIC)] == _GZIP_MAGIC)
            data = memoryview(self._head)
        yield from self._checked(self._decoder.feed(data))

    def finish(self) -> Iterator[Extent]:
        if self._decoder is None:
            raise _damaged(f"its disk {self._descriptor.href!r} has only {len(self._head)} bytes")
        yield from self._checked(self._decoder.finish())

    def _choose(self, gzipped: bool) -> Decoder:
        if gzipped:
            # A VMDK holds little more than its disk; what its tables do not name may not grow without bound either.
            return Chained(Decompressor("gzip", 2 * self._disk_size + 64 * MiB), self._inner)
        if self._descriptor.gzipped:
            raise _damaged(f"its disk {self._descriptor.href!r} is not compressed with gzip as the OVF says")
        return VmdkDecoder(self._disk_size)

    def _inner(self, content: str) -> Decoder:
        if content != "vmdk":
            raise ImageType(found=content, expected="vmdk")
        return VmdkDecoder(self._disk_size)

    def _checked(self, extents: Iterator[Extent]) -> Iterator[Extent]:
        """Pass the extents on once the capacity is known to be what the descriptor says."""
        for extent in extents:
            self._check_capacity()
            yield extent
        self._check_capacity()

    def _check_capacity(self) -> None:
        size, capacity = self.virtual_size, self._descriptor.capacity
        if self._capacity_checked or size is None or capacity is None:
            return
        # Some tools round the one or the other up to a grain, or to the unit that the capacity is counted in.
        if abs(size - capacity) >= max(MiB, self._descriptor.capacity_unit):
            raise _damaged(f"its OVF says that the disk has {capacity} bytes, but the VMDK has {size}")
        self._capacity_checked = True


def _out_of_order(name: str) -> ImageUnsafe:
    return ImageUnsafe(
        check="ova_order",
        detail=f"the disk {name!r} comes before the OVF descriptor",
        hint="Pack the OVA again with its descriptor first: tar cf NAME.ova NAME.ovf NAME.vmdk.",
    )


def _damaged(reason: str) -> ImageDamaged:
    return ImageDamaged(format="ova", reason=reason)
