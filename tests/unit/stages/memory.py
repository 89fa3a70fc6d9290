"""A disk, a source and a machine in memory, and a small image, for the tests of the stages."""

import errno
import hashlib
import os
import struct
import uuid
from collections.abc import Callable

from agent.formats.tables import gpt
from agent.formats.tables.mbr import MbrEntry, put_entry
from agent.formats.tables.read import read_table
from agent.host.drive import Drive
from agent.host.parttable import PartedMissing, PartitionSeen, ParttableReport, TableRefused
from agent.model.disks import Disk
from agent.model.job import parse_job
from agent.stages.claim import claim
from agent.stages.context import Context
from agent.stages.finish import finish
from agent.stages.preflight import probe_image
from agent.stages.targets import Target
from agent.stages.verify import verify
from agent.stages.write import write_image
from agent.transfer.source import SourceInfo, TransferRestart
from agent.units import GiB, MiB
from tests.kit.sinks import OneByOne

PATH = "/dev/memory"
SECTOR = 512
IMAGE_BYTES, DISK_BYTES = 8 * MiB, 16 * MiB
IDENTITY = (8, 1)
ESP = uuid.UUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
LINUX = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")


def gpt_disk(size: int = IMAGE_BYTES, fill: bytes = b"new system") -> bytes:
    """A disk with boot code, an ESP of 1 MiB at 1 MiB, and a system from 2 MiB up to 4 MiB."""
    sectors = size // SECTOR
    table = gpt.Gpt(
        sector_size=SECTOR,
        revision=0x10000,
        header_size=92,
        reserved=0,
        my_lba=1,
        alternate_lba=sectors - 1,
        first_usable_lba=34,
        last_usable_lba=sectors - 34,
        disk_guid=uuid.UUID(int=1),
        entries_lba=2,
        entry_count=128,
        entry_size=128,
        tail=bytes(SECTOR - 92),
        entries=bytes(128 * 128),
    )
    for number, (kind, start, length) in enumerate(((ESP, MiB, MiB), (LINUX, 2 * MiB, 2 * MiB))):
        guid = uuid.UUID(int=number + 2)
        table = gpt.add_partition(table, start=start, size=length, type_guid=kind, unique_guid=guid, name="p")
    disk = bytearray(size)
    protective = put_entry(bytes(SECTOR), 0, MbrEntry(kind=0xEE, start_lba=1, sectors=sectors - 1))
    disk[:SECTOR] = b"\xeb" + protective[1:510] + b"\x55\xaa"
    for offset, data in (*gpt.encode_primary(table), *gpt.encode_backup(table)):
        disk[offset : offset + len(data)] = data
    disk[MiB : 4 * MiB] = (fill * (3 * MiB // len(fill) + 1))[: 3 * MiB]
    return bytes(disk)


OLD_DISK = gpt_disk(DISK_BYTES, b"old system")
IMAGE = gpt_disk()


class MemoryDisk(OneByOne):
    """The bytes of a disk, every call that changed them, and a fault in place of one of the calls."""

    def __init__(self, content: bytes = OLD_DISK, *, identity: tuple[int, ...] = IDENTITY) -> None:
        self.path, self.size, self.sector_size = PATH, len(content), SECTOR
        self.content = bytearray(content)
        self.identity = identity
        self.calls: list[tuple[str, int, int]] = []
        self.operations = 0
        self.fails_at: int | None = None
        """The number of the call that fails, and all after it."""
        self.after_call: Callable[[], None] = lambda: None
        self.loses_writes_at: range = range(0)
        """Writes here are taken and lost, as by a drive that lies."""
        self.kernel_reads_tables = False
        self.closed = False

    def _call(self, name: str, offset: int = 0, length: int = 0) -> None:
        assert not self.closed
        if self.fails_at is not None and len(self.calls) >= self.fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.path)
        self.calls.append((name, offset, length))

    def _put(self, offset: int, data: bytes | memoryview) -> None:
        assert offset >= 0
        assert offset + len(data) <= self.size
        if offset not in self.loses_writes_at:
            self.content[offset : offset + len(data)] = data
        self.after_call()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._call("write", offset, len(data))
        self._put(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self._call("zero", offset, length)
        self._put(offset, bytes(length))

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def read_back(self, offset: int, length: int) -> memoryview:
        self._call("read back", offset, length)
        return memoryview(self.content)[offset : offset + length]

    def flush(self) -> None:
        self._call("flush")
        self.after_call()

    def drop_cache(self) -> None:
        self.flush()

    def reread_partitions(self) -> bool:
        return self.kernel_reads_tables

    def close(self) -> None:
        self.closed = True

    @property
    def is_bootable(self) -> bool:
        """Whether a firmware finds anything: boot code, a table, or the mark of one."""
        return any(self.content[:SECTOR])


class MemorySource:
    """Gives `data` in order; a transfer may be cut and begin again from byte 0."""

    def __init__(self, data: bytes = IMAGE, *, size: int | None = -1, seekable: bool = True) -> None:
        self.data = data
        self.size = len(data) if size == -1 else size
        self.seekable = seekable
        self.opened: str | None = None
        self.length_checked = True
        self.given = 0
        """Bytes that went out by `fill`, those of a transfer that was cut included."""
        self.ranges: list[tuple[int, int]] = []
        self.restarts_at: list[int] = []
        """Where the transfer is cut, one position for each time."""
        self.before_fill: Callable[[], None] = lambda: None
        self.position = 0

    async def open(self) -> SourceInfo:
        return SourceInfo("memory:", self.size, self.seekable, self.length_checked, self.opened)

    async def fill(self, buffer: memoryview) -> int:
        self.before_fill()
        if self.restarts_at and self.position >= self.restarts_at[0]:
            del self.restarts_at[0]
            self.position = 0
            raise TransferRestart
        piece = self.data[self.position : self.position + len(buffer)]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        self.given += len(piece)
        return len(piece)

    async def read_at(self, offset: int, length: int) -> bytes | None:
        self.ranges.append((offset, length))
        return self.data[offset : offset + length] if self.seekable else None

    async def close(self) -> None:
        pass


class MemoryMachine:
    """A machine with one disk. What libparted and the ESP's reader say is what a test puts here."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.identity = disk.identity
        self.busy: str | None = None
        self.stopped: tuple[str, ...] = ()
        self.asked_to_stop = False
        self.settled = 0
        self.settle_fault: Exception | None = None
        self.shared: str | None = None
        self.available = GiB
        self.libparted_refuses: str | None = None
        self.libparted_missing = False
        self.libparted_asked = 0
        self.esp_files: set[str] = set()

    def open_disk(self, path: str) -> MemoryDisk:
        assert path == PATH
        if self.busy is not None:
            raise OSError(errno.EBUSY, self.busy, path)
        return self.disk

    def identity_at(self, path: str) -> tuple[int, ...]:
        return self.identity

    def stop_stacks(self, disk: Disk) -> tuple[str, ...]:
        self.asked_to_stop = True
        return self.stopped

    def settle(self) -> None:
        self.settled += 1
        if self.settle_fault is not None:
            raise self.settle_fault

    def shared_storage(self, image: str, disk: str) -> str | None:
        return self.shared

    def available_memory(self) -> int:
        return self.available

    def total_memory(self) -> int:
        return GiB

    def partitions_on(self, path: str) -> ParttableReport:
        return self._report(self.disk.read(0, MiB))

    def partitions_in(self, writes, size: int) -> ParttableReport:
        return self._report(dict(writes)[0])

    def _report(self, head: bytes) -> ParttableReport:
        self.libparted_asked += 1
        if self.libparted_missing:
            raise PartedMissing(errno.ENOPKG, "pyparted is not installed")
        if self.libparted_refuses is not None:
            raise TableRefused(errno.EINVAL, self.libparted_refuses, PATH)
        table = read_table(head, SECTOR)
        assert table is not None
        parts = tuple(PartitionSeen(part.number, part.start, part.size, None) for part in table.partitions)
        return ParttableReport("gpt", SECTOR, parts, ())

    def esp_has_file(self, path: str, offset: int, name: str) -> bool:
        return name in self.esp_files

    def grub_configs(self, path: str, offset: int) -> dict[str, bytes]:
        return {}


class Stages:
    """One deployment in memory, up to the stage that a test is about."""

    def __init__(
        self,
        source: MemorySource | None = None,
        disk: MemoryDisk | None = None,
        drive: Drive | None = None,
        *,
        reads_back: bool = False,
        **job,
    ) -> None:
        self.source = source or MemorySource()
        self.disk = disk or MemoryDisk()
        self.machine = MemoryMachine(self.disk)
        self.notes: list[str] = []
        self.restarts = 0
        document = {"URL": "http://a.example/image?t=secret", "type": "raw"} | job
        self.ctx = Context(
            job=parse_job(document),
            targets=(Target(Disk(PATH, self.disk.size, identity=IDENTITY)),),
            source=self.source,
            drive=drive,
            drive_tree={},
            note=self.notes.append,
            machine=self.machine,
            reads_back=reads_back,
        )

    @property
    def target(self) -> Target:
        """The only disk."""
        return self.ctx.targets[0]

    async def preflight(self) -> None:
        await probe_image(self.ctx)

    async def claimed(self) -> None:
        await self.preflight()
        claim(self.ctx)

    async def write(self) -> None:
        await write_image(self.ctx, self._restarted)

    def _restarted(self) -> None:
        self.restarts += 1

    async def written(self) -> None:
        await self.claimed()
        await self.write()

    async def finished(self) -> None:
        await self.written()
        verify(self.ctx)
        finish(self.ctx)


def sha256(data: bytes) -> dict[str, str]:
    """The job's members for the checksum of these bytes."""
    return {"checkSum": hashlib.sha256(data).hexdigest(), "checkSumType": "sha256"}


def empty_qcow2(virtual_size: int) -> bytes:
    """A qcow2 image of version 3 that maps no cluster: its header, an empty L1 table and a refcount table."""
    cluster_bits, l1_entries = 16, 1
    l1_offset, refcount_offset = 1 << cluster_bits, 2 << cluster_bits
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, 0, 0, cluster_bits, virtual_size, 0, l1_entries, l1_offset, refcount_offset, 1),
        *(0, 0, 0, 0, 0, 4, 104),
    )
    return header.ljust(3 << cluster_bits, b"\0")
