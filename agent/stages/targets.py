"""One of the disks that an image goes to: what is known of it, and what the stages do with it."""

from dataclasses import dataclass

from agent.formats.image import ImageFacts
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.layout import DriveSlot
from agent.model.disks import Disk
from agent.stages.held_ends import HeldEnds
from agent.stages.machine import OpenDisk
from agent.transfer.record import Record


@dataclass(slots=True)
class Target:
    """One disk of a deployment. Each stage fills in its part."""

    found: Disk
    """As the inventory had it."""
    # From claim:
    disk: OpenDisk | None = None
    sink: HeldEnds | None = None
    # From finish:
    slot: DriveSlot | None = None
    record: Record | None = None
    """Of what finish has written to this disk; None where it is not to be read back."""

    def opened(self) -> tuple[OpenDisk, HeldEnds]:
        """The claimed disk and the sink over it."""
        if self.disk is None or self.sink is None:
            raise RuntimeError("the disk is used before it was claimed")
        return self.disk, self.sink

    def begin_record(self) -> Record:
        """Have a record made of what is written to this disk from now on."""
        disk, sink = self.opened()
        self.record = Record(disk.size)
        sink.record(self.record)
        return self.record

    def table_window(self, image: ImageFacts) -> bytes:
        """The first bytes of the guest disk as it will be, as far as its partition table reaches."""
        _, sink = self.opened()
        reach = image.table.primary_end if isinstance(image.table, Gpt) else 0
        return sink.read(0, max(len(sink.head), reach))

    def close(self) -> None:
        """Give the disk back. No thread may be at work on it any more."""
        if self.disk is not None:
            self.disk.close()
        self.sink = self.record = None
