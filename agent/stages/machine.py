"""What the stages ask of the machine that they run on, apart from the disk's bytes: one small protocol.

`LocalMachine` is this machine, by the functions of `agent.host`. Tests give one in memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from agent.host import fat, holders, memory, parttable, udev
from agent.host.disk import TargetDisk, read_identity
from agent.host.same import shared_storage
from agent.model.disks import Disk


class OpenDisk(Protocol):
    """A disk that was opened for a deployment and is held by it; see `agent.host.disk.TargetDisk`.

    All of it blocks, and raises OSError with the path in it.
    """

    path: str
    size: int
    """Bytes."""
    sector_size: int | None
    """Logical sector size in bytes; None for a regular file, which takes the image's."""
    identity: tuple[int, ...]
    """Tells it from another disk that bears its name."""
    operations: int
    """How many reads, writes and zeroed steps have ended."""

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data`."""

    def start(self, writes: Sequence[tuple[int, memoryview]]) -> None:
        """Begin several writes; see `agent.transfer.sink.Sink`."""

    def finish(self) -> None:
        """Wait for all that was begun."""

    def zero(self, offset: int, length: int) -> None:
        """Make the range read back as zeros."""

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes."""

    def flush(self) -> None:
        """Make everything written durable."""

    def drop_cache(self) -> None:
        """Flush; what is read next comes from the device."""

    def read_back(self, offset: int, length: int) -> memoryview:
        """Read exactly `length` bytes from the device; see `agent.host.disk.TargetDisk.read_back`."""

    def reread_partitions(self) -> bool:
        """Tell the kernel about a changed table; False where it cannot."""

    def close(self) -> None:
        """Give the disk back; safe to call twice."""


class Machine(Protocol):
    """Disks by their paths, and the tools that look at them. All of it blocks, and raises OSError."""

    def open_disk(self, path: str) -> OpenDisk:
        """Open and claim a disk; nothing is written. EBUSY where something else holds it."""

    def identity_at(self, path: str) -> tuple[int, ...]:
        """The identity of the disk that a path leads to now, without claiming it."""

    def stop_stacks(self, disk: Disk) -> Iterable[object]:
        """Stop md, LVM and dm on a disk; gives what was stopped, in words. EBUSY where something is in use."""

    def settle(self) -> None:
        """Wait until udev has seen what the kernel was told; raises ToolMissing where there is no udevadm."""

    def shared_storage(self, image: str, disk: str) -> str | None:
        """Why the file of an image and the disk are on the same storage, in words; None where they are not."""

    def available_memory(self) -> int:
        """Bytes that this process may still take."""

    def total_memory(self) -> int:
        """Bytes that the machine has."""

    def partitions_on(self, path: str) -> parttable.ParttableReport:
        """What libparted finds on a disk; raises TableRefused where it does not read the table, or PartedMissing."""

    def partitions_in(self, writes: Iterable[tuple[int, bytes]], size: int) -> parttable.ParttableReport:
        """The same of a disk of `size` bytes that has nothing on it but these writes."""

    def esp_has_file(self, path: str, offset: int, name: str) -> bool:
        """Whether the FAT at `offset` of a disk has a file; raises FatUnsound where it cannot be read."""

    def grub_configs(self, path: str, offset: int) -> Mapping[str, bytes]:
        """Every grub.cfg in the FAT at `offset` of a disk, by its path there; raises FatUnsound as above."""


class LocalMachine:
    """This machine."""

    def open_disk(self, path: str) -> OpenDisk:
        """See `Machine.open_disk`."""
        return TargetDisk(path)

    def identity_at(self, path: str) -> tuple[int, ...]:
        """See `Machine.identity_at`."""
        return read_identity(path)

    def stop_stacks(self, disk: Disk) -> Iterable[object]:
        """See `Machine.stop_stacks`."""
        return holders.release(disk)

    def settle(self) -> None:
        """See `Machine.settle`."""
        udev.settle()

    def shared_storage(self, image: str, disk: str) -> str | None:
        """See `Machine.shared_storage`."""
        return shared_storage(image, disk)

    def available_memory(self) -> int:
        """See `Machine.available_memory`."""
        return memory.available_memory()

    def total_memory(self) -> int:
        """See `Machine.total_memory`."""
        return memory.total_memory()

    def partitions_on(self, path: str) -> parttable.ParttableReport:
        """See `Machine.partitions_on`."""
        return parttable.read_partitions(path)

    def partitions_in(self, writes: Iterable[tuple[int, bytes]], size: int) -> parttable.ParttableReport:
        """See `Machine.partitions_in`."""
        return parttable.read_written(writes, size)

    def esp_has_file(self, path: str, offset: int, name: str) -> bool:
        """See `Machine.esp_has_file`."""
        return fat.fat_has_file(path, offset, name)

    def grub_configs(self, path: str, offset: int) -> Mapping[str, bytes]:
        """See `Machine.grub_configs`."""
        return fat.fat_grub_configs(path, offset)
