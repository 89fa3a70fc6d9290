"""The OVA decoder: a tar archive of an OVF descriptor, one VMDK disk, and optionally a manifest with their digests.

The descriptor must come before the disk, because it names the disk's member; the manifest, certificates and other
members may come anywhere. Names in descriptor and manifest are relative to their own directory in the archive. The disk
may be compressed with gzip. Called by the transfer pipeline, like every decoder. Source: DMTF DSP0243 2.1, sections 5
and 6.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol
from urllib.parse import unquote

from agent.errors import ImageDamaged, ImageType, ImageUnsafe
from agent.formats.archives.member import Data, End, Hole, Member, MemberCheck
from agent.formats.archives.tar import TarReader
from agent.formats.chain import Chained
from agent.formats.compressed import Decompressor
from agent.formats.extent import Decoder, Extent
from agent.formats.ova.manifest import MAX_MANIFEST, Digests, Manifest, resolve
from agent.formats.ova.ovf import MAX_DESCRIPTOR, OvfDisk, parse_ovf
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.units import MiB

# The first bytes of disk image formats: a member that begins so and is not the descriptor's disk is refused.
_DISK_MAGICS = (b"KDMV", b"COWD", b"# Di", b"QFI\xfb", b"vhdx", b"cone")
_GZIP_MAGIC = b"\x1f\x8b"
_MAGIC_BYTES = 4
MEMBER_CHECK = MemberCheck("ova_member")


class OvaDecoder:
    """Decodes one OVA.

    Memory: that of `VmdkDecoder` and of `TarReader`, and at most 1 MiB each for descriptor and manifest. Unless the
    manifest comes before the disk, SHA-1, SHA-256 and SHA-512 of the disk are all computed.
    """

    def __init__(self, disk_size: int) -> None:
        """`disk_size` is the target disk's length in bytes; a larger guest disk is refused."""
        self._disk_size = disk_size
        self._tar = TarReader(MEMBER_CHECK, sparse=False)
        self._manifest = Manifest()
        self._descriptor: OvfDisk | None = None
        self._descriptor_name = ""
        self._disk: _DiskMember | None = None
        self._disk_name = ""
        self._seen_names: set[str] = set()
        self._name = ""
        self._member: _MemberReader = _IgnoredMember()
        self._digests: Digests | None = None
        self._notes: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        """Harmless irregularities of the archive and of the disk; complete after `finish`."""
        return (*self._notes, *(() if self._disk is None else self._disk.notes))

    @property
    def virtual_size(self) -> int | None:
        """The capacity of the VMDK in bytes; known before the first extent is yielded."""
        return None if self._disk is None else self._disk.virtual_size

    @property
    def used_scratch(self) -> None:
        """Nothing waits on the disk."""

    @property
    def held(self) -> int:
        """0: never more than the few MiB that the class docstring gives."""
        return 0

    def feed(self, data: memoryview) -> Iterator[Extent]:
        """Take the next bytes of the archive and yield the extents that they complete.

        Raises:
            ImageTooLarge: the guest disk is larger than `disk_size`.
            ChecksumMismatch: a member's digest differs from the manifest's.
            ImageType: the disk is not a VMDK.
            ImageUnsafe: a check refused the archive, the descriptor or the disk.
            ImageDamaged: archive, descriptor, manifest or disk contradict themselves or each other.
        """
        for event in self._tar.feed(data):
            match event:
                case Member():
                    self._begin_member(event)
                case Data():
                    if self._digests is not None:
                        self._digests.update(event.data)
                    yield from self._member.feed(event.data)
                case Hole():
                    raise RuntimeError("a sparse member of the OVA was not refused")
                case End():
                    yield from self._end_member()

    def finish(self) -> Iterator[Extent]:
        """Check that the archive is complete; yields nothing.

        Raises:
            ImageDamaged: it is truncated, or lacks its descriptor or a member that its manifest names.
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

    def _begin_member(self, member: Member) -> None:
        self._name = member.name
        self._digests = None
        self._member = _IgnoredMember()
        name = member.name.lower()
        if member.type == "directory":
            return
        self._seen_names.add(member.name)
        # macOS's tar writes a file's extended attributes as a second member, `._` and the file's name.
        if name.endswith(".cert") or name.rpartition("/")[2].startswith("._"):
            self._digests = self._manifest.digests(member.name)
            return
        if name.endswith(".mf"):
            self._member = _TextMember(member, MAX_MANIFEST)
            return
        self._digests = self._manifest.digests(member.name)
        if name.endswith(".ovf"):
            if self._descriptor is not None:
                raise ImageUnsafe(check="ovf_disk", detail="the archive has two OVF descriptors")
            self._member = _TextMember(member, MAX_DESCRIPTOR)
        elif self._descriptor is not None and self._disk is None and member.name in self._disk_names:
            self._disk = self._member = _DiskMember(self._descriptor, self._disk_size)
            self._disk_name = member.name
        else:
            self._member = _UnreferencedMember(member.name, self._descriptor)

    @property
    def _disk_names(self) -> tuple[str, ...]:
        """Possible names of the disk's member: the descriptor's reference as it is, and percent-decoded (RFC 3986)."""
        if self._descriptor is None:
            return ()
        href = self._descriptor.href
        return resolve(self._descriptor_name, href), resolve(self._descriptor_name, unquote(href))

    def _end_member(self) -> Iterator[Extent]:
        reader = self._member
        yield from reader.finish()
        if isinstance(reader, _TextMember):
            if self._digests is None:
                self._manifest.read(self._name, bytes(reader.text))
            else:
                self._descriptor = parse_ovf(bytes(reader.text))
                self._descriptor_name = self._name
                for name in self._disk_names:
                    if name in self._seen_names:
                        raise _out_of_order(name)
        if self._digests is not None:
            self._manifest.add_member(self._name, self._digests)


class _MemberReader(Protocol):
    """Takes the bytes of one member."""

    def feed(self, data: memoryview) -> Iterator[Extent]: ...
    def finish(self) -> Iterator[Extent]: ...


class _IgnoredMember:
    """A member without a meaning for the disk: a directory, a certificate, a file of macOS's attributes."""

    def feed(self, data: memoryview) -> Iterator[Extent]:  # noqa: ARG002
        return iter(())

    def finish(self) -> Iterator[Extent]:
        return iter(())


class _TextMember(_IgnoredMember):
    """A member that is kept in memory as a whole: descriptor or manifest."""

    def __init__(self, member: Member, limit: int) -> None:
        self._name = member.name
        self._limit = limit
        self.text = bytearray()

    def feed(self, data: memoryview) -> Iterator[Extent]:
        if len(self.text) + len(data) > self._limit:
            raise MEMBER_CHECK.refusal(f"{self._name!r} has more than {self._limit} bytes")
        self.text += data
        return iter(())


class _UnreferencedMember(_IgnoredMember):
    """A member that the descriptor does not name as the disk: skipped, or refused if it is a disk image."""

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


class _DiskMember:
    """The member that the descriptor names as the disk."""

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
            self._decoder = self._make_decoder(self._head[: len(_GZIP_MAGIC)] == _GZIP_MAGIC)
            data = memoryview(self._head)
        yield from self._checked(self._decoder.feed(data))

    def finish(self) -> Iterator[Extent]:
        if self._decoder is None:
            raise _damaged(f"its disk {self._descriptor.href!r} has only {len(self._head)} bytes")
        yield from self._checked(self._decoder.finish())

    def _make_decoder(self, gzipped: bool) -> Decoder:
        if gzipped:
            # A VMDK is little longer than its disk; the bound keeps bytes that no table names from growing endlessly.
            return Chained(Decompressor("gzip", 2 * self._disk_size + 64 * MiB), self._decoder_for_gzipped)
        if self._descriptor.gzipped:
            raise _damaged(f"its disk {self._descriptor.href!r} is not compressed with gzip as the OVF says")
        return VmdkDecoder(self._disk_size)

    def _decoder_for_gzipped(self, content: str) -> Decoder:
        if content != "vmdk":
            raise ImageType(found=content, expected="vmdk")
        return VmdkDecoder(self._disk_size)

    def _checked(self, extents: Iterator[Extent]) -> Iterator[Extent]:
        """Yield the extents; before the first one, compare the capacity with the descriptor's."""
        for extent in extents:
            self._check_capacity()
            yield extent
        self._check_capacity()

    def _check_capacity(self) -> None:
        size, capacity = self.virtual_size, self._descriptor.capacity
        if self._capacity_checked or size is None or capacity is None:
            return
        # Some tools round one of the two up to a multiple of the grain size, or of the descriptor's unit.
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
