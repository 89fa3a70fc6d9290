"""One of the disks that an image goes to: what is known of it, and what the stages do with it."""

from dataclasses import dataclass

from agent.formats.image import ImageFacts
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.layout import DriveSlot
from agent.host.wipe import wipe_ends
from agent.model.disks import Disk
from agent.stages.held_ends import HeldEnds
from agent.stages.machine import OpenDisk
from agent.transfer.record import Record


@dataclass(slots=True)
class Target:
    """One disk of a deployment. Each stage fills in its part."""

    found: Disk
    """As the inventory had it."""
    failed: str | None = None
    """Why it is kept out of the deployment, which goes on with the others; None as a rule. Set by the context alone."""
    # From claim:
    disk: OpenDisk | None = None
    sink: HeldEnds | None = None
    wiped: bool = False
    """Whether what was on it before cannot boot any more."""
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

    def blank(self) -> str | None:
        """Zero both ends once more; says why they could not be. Blocking."""
        disk, _ = self.opened()
        try:
            wipe_ends(disk)
        except OSError as error:
            return f"the ends of {disk.path} could not be wiped: {error.strerror or type(error).__name__}"
        return None

    def close(self) -> None:
        """Give the disk back. No thread may be at work on it any more."""
        if self.disk is not None:
            self.disk.close()
        self.sink = self.record = None
