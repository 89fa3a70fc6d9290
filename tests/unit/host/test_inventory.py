"""One disk out of its directory in sysfs, with and without udev; and paths that are no disk."""

import os
from pathlib import Path

import pytest

from agent.errors import DiskUnknown
from agent.host import firmware
from agent.host.inventory import describe_path, disk_from_sysfs, transport_of
from agent.model.selector import hint_values

SCSI = "devices/pci0000:00/0000:00:17.0"


@pytest.fixture
def device(tmp_path):
    def build(path: str, **attributes: str | bytes) -> Path:
        directory = tmp_path / path
        directory.mkdir(parents=True)
        for key, value in attributes.items():
            target = directory / key.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(value if isinstance(value, bytes) else f"{value}\n".encode())
        return directory

    return build


SATA = {
    "size": "7814037168",
    "ro": "0",
    "removable": "0",
    "queue__logical_block_size": "512",
    "queue__physical_block_size": "4096",
    "queue__rotational": "1",
    "device__vendor": "ATA     ",
    "device__model": "ST4000NM0035-1V4",
    "device__wwid": "naa.5000c500a1b2c3d4",
    "device__vpd_pg80": b"\x00\x80\x00\x14            ZC1234AB",
}


def test_a_sata_disk_without_udev(device):
    disk = disk_from_sysfs(device(f"{SCSI}/ata1/host0/target0:0:0/0:0:0:0/block/sda", **SATA), "/dev/sda", {})
    assert (disk.path, disk.kind, disk.transport) == ("/dev/sda", "disk", "sata")
    assert disk.size == 7814037168 * 512
    assert (disk.logical_sector_size, disk.physical_sector_size) == (512, 4096)
    assert disk.rotational
    assert (disk.wwn, disk.serial) == ("0x5000c500a1b2c3d4", "ZC1234AB")
    assert (disk.vendor, disk.model) == ("", "ST4000NM0035-1V4")
    assert not disk.removable
    assert not disk.read_only


def test_udev_adds_its_links_and_what_the_kernel_does_not_tell(device):
    directory = device(f"{SCSI}/ata1/host0/block/sda", size="8")
    properties = {"ID_WWN": "0x5000", "ID_SERIAL_SHORT": "S1", "ID_MODEL": "M_1", "ID_VENDOR": "V"}
    links = {
        "/dev/disk/by-path/pci-0000:00:17.0-ata-1.0",
        "/dev/disk/by-path/pci-0000:00:17.0-ata-1",
        "/dev/disk/by-id/wwn-0x5000",
        "/dev/disk/by-id/ata-M_1_S1",
        "/dev/disk/by-diskseq/1",
    }
    disk = disk_from_sysfs(directory, "/dev/sda", properties, links)
    assert disk.by_id == ("/dev/disk/by-id/ata-M_1_S1", "/dev/disk/by-id/wwn-0x5000")
    assert disk.by_path == "/dev/disk/by-path/pci-0000:00:17.0-ata-1"
    assert (disk.wwn, disk.serial, disk.model, disk.vendor) == ("0x5000", "S1", "M_1", "V")


def test_all_names_are_kept_that_a_hint_may_have_been_copied_from(device):
    """The properties are those of a SATA disk behind udev 252."""
    directory = device(f"{SCSI}/ata1/host0/target0:0:0/0:0:0:0/block/sda", **SATA)
    (directory / "device/scsi_device/0:0:0:0").mkdir(parents=True)
    links = ["/dev/disk/by-path/pci-0000:00:17.0-ata-1", "/dev/disk/by-path/pci-0000:00:17.0-ata-1.0"]
    properties = {
        "ID_MODEL": "ST4000NM0035-1V4107_X",
        "ID_MODEL_ENC": r"ST4000NM0035-1V4107\x20X\x20\x20\x1b",
        "ID_SERIAL": "ST4000NM0035-1V4107_ZC1234AB",
        "ID_SERIAL_SHORT": "ZC1234AB",
        "ID_SCSI_SERIAL": "ZC1234AB",
        "ID_WWN": "0x5000c500a1b2c3d4",
        "ID_WWN_WITH_EXTENSION": "0x5000c500a1b2c3d4",
    }
    names = disk_from_sysfs(directory, "/dev/sda", properties, links).names
    assert names.serial == ("ZC1234AB", "ST4000NM0035-1V4107_ZC1234AB")
    assert names.model == ("ST4000NM0035-1V4", "ST4000NM0035-1V4107 X ?", "ST4000NM0035-1V4107_X")
    assert names.vendor == ("ATA",)
    assert names.wwn == names.wwn_with_extension == ("0x5000c500a1b2c3d4",)
    assert names.wwn_vendor_extension == ()
    assert names.by_path == tuple(links)
    assert names.hctl == ("0:0:0:0",)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {
            "ID_WWN": "0x600508b1001c79ad",
            "ID_WWN_VENDOR_EXTENSION": "0xe5178f0626caaa9c",
            "ID_WWN_WITH_EXTENSION": "0x600508b1001c79ade5178f0626caaa9c",
        },
    ],
    ids=["without udev", "with udev"],
)
def test_a_wwn_is_taken_apart_where_the_vendor_has_extended_it(device, properties):
    path = f"{SCSI}/host0/target0:0:0/0:0:0:1/block/sdb"
    directory = device(path, device__wwid="naa.600508b1001c79ade5178f0626caaa9c")
    hints = hint_values(disk_from_sysfs(directory, "/dev/sdb", properties))
    short, extension = "0x600508b1001c79ad", "0xe5178f0626caaa9c"
    assert hints["wwn"] == [short + extension[2:], short]
    assert hints["wwn_with_extension"] == [short + extension[2:]]
    assert hints["wwn_vendor_extension"] == [extension]


def test_the_kernels_name_for_a_disk_wins_so_that_it_is_the_same_without_udev(device):
    directory = device(f"{SCSI}/ata1/host0/block/sda", **SATA)
    disk = disk_from_sysfs(directory, "/dev/sda", {"ID_WWN_WITH_EXTENSION": "0xother"})
    assert disk.wwn == "0x5000c500a1b2c3d4"


def test_an_nvme_disk_of_4096_bytes(device):
    directory = device(
        "devices/pci0000:00/0000:00:03.0/nvme/nvme0/nvme0n1",
        size="400088457216",
        wwid="eui.002538b911b0ae0a",
        queue__logical_block_size="4096",
        queue__physical_block_size="4096",
        queue__rotational="0",
        device__model="SAMSUNG MZQL2   ",
        device__serial="S64FNE0R",
        device__transport="pcie",
    )
    disk = disk_from_sysfs(directory, "/dev/nvme0n1", {})
    assert (disk.transport, disk.kind, disk.wwn) == ("nvme", "disk", "eui.002538b911b0ae0a")
    assert (disk.serial, disk.model, disk.logical_sector_size) == ("S64FNE0R", "SAMSUNG MZQL2", 4096)
    assert disk.size == 400088457216 * 512


@pytest.mark.parametrize(
    ("path", "transport"),
    [
        (f"{SCSI}/ata3/host2/target2:0:0/2:0:0:0/block/sda", "sata"),
        ("devices/pci0000:00/0000:03:00.0/host0/port-0:0/end_device-0:0/target0:0:0/block/sda", "sas"),
        ("devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/target6:0:0/block/sda", "usb"),
        ("devices/platform/host3/session1/target3:0:0/3:0:0:1/block/sda", "iscsi"),
        ("devices/pci0000:00/0000:05:00.0/host1/rport-1:0-2/target1:0:0/block/sda", "fc"),
        ("devices/pci0000:00/0000:00:02.0/virtio0/host0/target0:0:0/block/sda", "scsi"),
        ("devices/pci0000:00/0000:00:02.0/virtio1/block/vda", "virtio"),
        ("devices/pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "mmc"),
        ("devices/vbd-768/block/xvda", "xen"),
        ("devices/virtual/block/loop0", "loop"),
        ("devices/virtual/block/zram0", "zram"),
        ("devices/virtual/block/drbd0", "other"),
    ],
)
def test_the_transport_is_read_from_the_way_to_the_device(device, path, transport):
    assert transport_of(device(path)) == transport


def test_a_sata_disk_behind_a_sas_controller_is_a_sata_disk(device):
    path = "devices/pci0000:00/0000:03:00.0/host0/end_device-0:0/target0:0:0/0:0:0:0/block/sda"
    assert transport_of(device(path, device__vendor="ATA     ")) == "sata"


def test_an_nvme_disk_over_a_network_is_not_a_local_one(device):
    directory = device("devices/virtual/nvme-fabrics/ctl/nvme1/nvme1n1", device__transport="tcp")
    assert transport_of(directory) == "nvme-tcp"
    shared = device("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", device__nvme0__transport="rdma")
    assert transport_of(shared) == "nvme-rdma"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sda", "disk"),
        ("nvme0n1", "disk"),
        ("mmcblk0", "disk"),
        ("mmcblk0boot0", "other"),
        ("sr0", "optical"),
        ("fd0", "floppy"),
        ("loop7", "loop"),
        ("zram0", "zram"),
        ("ram3", "ram"),
        ("dm-3", "dm"),
        ("md127", "md"),
    ],
)
def test_kinds(device, name, kind):
    assert disk_from_sysfs(device(f"devices/virtual/block/{name}"), f"/dev/{name}", {}).kind == kind


def test_a_disk_that_takes_only_sequential_writes_is_of_a_kind_of_its_own(device):
    directory = device("devices/x/ata1/block/sda", queue__zoned="host-managed")
    assert disk_from_sysfs(directory, "/dev/sda", {}).kind == "zoned"


def test_a_stick_is_removable_and_a_disk_in_a_hot_plug_bay_is_not(device):
    stick = device("devices/pci0/usb1/1-2/host6/block/sdb", removable="1")
    bay = device("devices/pci0/ata2/host1/block/sdc", removable="1")
    drive = device("devices/pci0/ata3/host2/block/sr0", removable="1")
    assert disk_from_sysfs(stick, "/dev/sdb", {}).removable
    assert not disk_from_sysfs(bay, "/dev/sdc", {}).removable
    assert disk_from_sysfs(drive, "/dev/sr0", {}).removable


def test_hostile_texts_are_cut_and_made_printable(device):
    directory = device(
        "devices/x/host0/block/sda",
        size="99999999999999999999999999",
        queue__logical_block_size="-5",
        device__model=b"A\x1b[2J\xff\n" + b"B" * 100_000,
        device__vpd_pg80=b"\x00\x80\xff\xff" + b"S" * 5000,
    )
    disk = disk_from_sysfs(directory, "/dev/sda", {"ID_WWN": "x" * 10_000})
    assert disk.model.startswith("A?[2J")
    assert disk.model.isprintable()
    assert len(disk.model) <= 256
    assert len(disk.serial) <= 256
    assert len(disk.wwn) <= 256
    assert (disk.size, disk.logical_sector_size) == (0, 512)


def test_a_device_that_vanishes_reads_as_empty(tmp_path):
    disk = disk_from_sysfs(tmp_path / "sda", "/dev/sda", {})
    assert (disk.size, disk.serial, disk.kind) == (0, "", "disk")


# -- paths ---------------------------------------------------------------------------------------------------


def test_a_file_stands_in_for_a_disk(tmp_path, monkeypatch):
    (tmp_path / "disk.img").write_bytes(bytes(5000))
    monkeypatch.chdir(tmp_path)
    disk = describe_path("disk.img")
    assert disk.path == str(tmp_path / "disk.img")
    assert (disk.kind, disk.transport, disk.size) == ("file", "file", 5000)
    assert (disk.logical_sector_size, disk.holders, disk.boot_medium) == (512, (), False)


@pytest.mark.parametrize("path", ["/dev/null", "/", "/no/such/disk", "/dev/nul\0l", ""])
def test_what_is_no_disk_is_refused(path):
    with pytest.raises(DiskUnknown):
        describe_path(path)


def test_a_pipe_is_refused_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DiskUnknown) as caught:
        describe_path(str(tmp_path / "pipe"))
    assert caught.value.detail == "neither a block device nor a file"


def test_the_firmware_is_told_by_the_directory_that_only_uefi_has(tmp_path):
    assert firmware.detect(str(tmp_path)) == "uefi"
    assert firmware.detect(str(tmp_path / "efi")) == "bios"
    assert firmware.detect() in ("uefi", "bios")
