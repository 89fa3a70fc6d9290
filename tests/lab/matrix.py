"""The matrix: every way in which a server and an image may meet that the lab tries, each a real boot.

CI runs the cases that say so; `sh tests/lab/run` runs all of them and writes docs/lab.md.
"""

from dataclasses import dataclass

from agent.units import GiB, MiB

PROBE_DISK = GiB + 7 * MiB
CLOUD_DISK = 6 * GiB
PROBE_IMAGE = 160 * MiB


@dataclass(frozen=True, kw_only=True)
class Case:
    """One deployment to one server.

    Attributes:
        firmware: bios or uefi.
        table, sector_size, esp: of the image; the sector size is the disk's as well, if nothing else is said.
        full: the image has nothing free behind its last partition.
        form: the file's, see images.FORMS.
        bus: how the disk is attached, see disks.BUSES.
        system: `probe`, or `cloud` for cloud-init from power-on to the end.
        way: how the daemon is told of the job: pulled and polled from power-on, posted to a saved rescue.
        disk_sectors: of the disk, where they are not the image's.
        registry: the image is in a registry, signed there; it is read back, and the receipt is checked.
        former: an array and a volume group of the disk's former life are alive when the deployment begins.
        group: the job's diskGroupId; the other group's disk stays as it is.
        rescue: the release of Debian that the rescue is made of; empty: the one of the machine that builds it.
        refused: the code of the error that is expected; empty: the system boots.
        untouched: after the refusal the disk is what it was, to the last byte.
        ci: CI runs it.
    """

    firmware: str
    table: str = "gpt"
    form: str = "raw"
    bus: str = "virtio"
    sector_size: int = 512
    esp: bool = True
    full: bool = False
    system: str = "probe"
    way: str = "posted"
    disk_sectors: int = 0
    registry: bool = False
    former: bool = False
    group: int = 0
    disk_size: int = 0
    rescue: str = ""
    refused: str = ""
    untouched: bool = True
    ci: bool = False

    @property
    def name(self) -> str:
        """Unique, and fit for a test id."""
        parts = [self.system, self.firmware, self.table, self.form, self.bus]
        parts += ["4kn"] if self.sector_size == 4096 else []
        parts += [] if self.esp or self.table == "logical" else ["no-esp"]
        parts += ["on-4kn"] if self.disk_sectors else []
        parts += ["registry"] if self.registry else []
        parts += ["former-md-lvm"] if self.former else []
        parts += [f"group-{self.group}"] if self.group else []
        parts += [f"rescue-{self.rescue}"] if self.rescue else []
        parts += [f"refused-{self.refused}"] if self.refused else []
        return "-".join(parts)

    @property
    def disk_sector_size(self) -> int:
        """Of the disk's logical sectors, in bytes."""
        return self.disk_sectors or self.sector_size

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        return self.disk_size or (PROBE_DISK if self.system == "probe" else CLOUD_DISK)


CASES = (
    # From power-on to the end of cloud-init.
    Case(system="cloud", way="pulled", firmware="bios", form="qcow2-zlib", ci=True),
    Case(system="cloud", way="polled", firmware="uefi", form="ova", bus="scsi"),
    Case(system="cloud", way="pulled", firmware="bios", table="mbr", form="raw.zst", bus="nvme"),
    Case(system="cloud", way="polled", firmware="uefi", form="raw", sector_size=4096, bus="scsi"),
    # 8 GiB of disk in 1 GiB of memory.
    Case(system="cloud", firmware="bios", form="qcow2-8gib", disk_size=10 * GiB),
    # The probe: firmware, boot loader, root filesystem, config drive.
    Case(way="polled", firmware="uefi", form="qcow2-zstd", bus="nvme", ci=True),
    Case(way="polled", firmware="uefi", form="vhdx", bus="nvme", rescue="trixie", ci=True),
    Case(way="pulled", firmware="uefi", form="raw.zst", bus="scsi", sector_size=4096),
    Case(way="polled", firmware="bios", table="mbr", form="ova", bus="sata"),
    Case(firmware="bios", table="logical", form="qcow2", bus="scsi", esp=False, ci=True),
    Case(firmware="bios", form="raw", bus="nvme"),
    Case(way="pulled", firmware="bios", form="raw.zst", bus="sata"),
    Case(firmware="bios", form="ova", bus="scsi"),
    Case(firmware="bios", form="qcow2", bus="virtio", esp=False),
    Case(firmware="bios", table="mbr", form="qcow2-zstd", bus="virtio"),
    Case(way="pulled", firmware="uefi", form="qcow2-zlib", bus="sata", registry=True),
    Case(firmware="uefi", form="raw", bus="virtio"),
    Case(firmware="uefi", table="mbr", form="qcow2", bus="scsi"),
    Case(firmware="uefi", form="qcow2-zlib", bus="nvme", sector_size=4096),
    Case(firmware="uefi", form="ova", bus="virtio", sector_size=4096),
    # Servers with a past, and with other disks.
    Case(firmware="bios", table="mbr", form="vmdk.zip", bus="virtio", former=True, ci=True),
    Case(firmware="bios", form="raw.zst", bus="virtio", group=2),
    # What must not be begun.
    Case(firmware="uefi", form="qcow2", bus="virtio", esp=False, refused="boot.esp"),
    Case(firmware="bios", form="qcow2", bus="scsi", disk_sectors=4096, refused="disk.sector_size", ci=True),
    Case(
        firmware="bios",
        form="raw",
        bus="scsi",
        full=True,
        disk_size=PROBE_IMAGE,
        refused="configdrive.create",
    ),
)


def cases(*, everything: bool) -> list[Case]:
    """All cases, or CI's."""
    return [case for case in CASES if everything or case.ci]
