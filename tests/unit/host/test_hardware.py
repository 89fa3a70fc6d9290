"""The inventory of a server for Ironic, from a made-up tree of sysfs and /proc."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.host.hardware import disk_entry, hardware_inventory, inspection_data
from agent.host.interfaces import list_interfaces, mac_addresses
from agent.model.disk_names import NAME_KEYS, Names
from agent.model.disks import Disk
from agent.model.selector import hint_values
from agent.units import GiB
from tests.unit.formats.test_smbios import BIOS, END, device

CPU = """processor\t: {number}
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Silver 4314 CPU @ 2.40GHz
cpu MHz\t\t: 800.034
physical id\t: {socket}
flags\t\t: fpu vmx aes

"""
SATA = Disk(
    "/dev/sda",
    480 * GiB,
    transport="sata",
    wwn="0x5002538e40123456",
    serial="S3EVNX0J500123",
    model="Samsung SSD 860",
    vendor="Samsung",
    by_path="/dev/disk/by-path/pci-0000:00:17.0-ata-1",
    names=Names(vendor=("ATA",), hctl=("0:0:1:0",)),
)


class Server:
    """A tree with the files that a kernel would show."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, path: str, content: str | bytes) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def link(self, path: str, target: str) -> None:
        (self.root / target).mkdir(parents=True, exist_ok=True)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).symlink_to(self.root / target)

    def interface(self, name: str, mac: str, **attributes: str) -> None:
        for key, value in ({"address": mac, "type": "1"} | attributes).items():
            self.put(f"sys/class/net/{name}/{key.replace('__', '/')}", f"{value}\n")

    def card(
        self, name: str, mac: str, at: str = "pci0000:00/0000:00:1c.0/0000:19:00.0", **attributes: str
    ) -> None:
        self.interface(name, mac, **attributes)
        self.link(f"sys/class/net/{name}/device", f"sys/devices/{at}")

    def inventory(self, *disks: Disk, **options):
        return hardware_inventory(disks, str(self.root), addresses=options.pop("addresses", {}), **options)


@pytest.fixture
def server(tmp_path) -> Server:
    server = Server(tmp_path)
    server.card("eno1", "52:54:00:AA:BB:01", carrier="1", speed="25000")
    device_directory = "sys/devices/pci0000:00/0000:00:1c.0/0000:19:00.0"
    server.put(f"{device_directory}/vendor", "0x8086\n")
    server.put(f"{device_directory}/device", "0x159b\n")
    server.link(f"{device_directory}/driver", "sys/bus/pci/drivers/ice")
    server.interface("lo", "00:00:00:00:00:00", type="772")
    server.put("sys/class/net/bonding_masters", "bond0\n")
    server.put("proc/cpuinfo", CPU.format(number=0, socket=0) + CPU.format(number=1, socket=1))
    for number in (0, 1):
        server.put(f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id", f"{number}\n")
    server.put("proc/meminfo", f"MemTotal:       {30 * 1024 * 1024} kB\nMemFree: 1 kB\n")
    server.put("proc/cmdline", "BOOT_IMAGE=k console=ttyS0 BOOTIF=01-52-54-00-aa-bb-01 quiet\n")
    server.put("proc/sys/kernel/hostname", "rescue\n")
    return server


# -- the whole -----------------------------------------------------------------------------------------------


def test_the_members_are_those_that_ironic_reads(server):
    inventory = server.inventory(SATA)
    assert set(inventory) == {
        "interfaces",
        "cpu",
        "disks",
        "memory",
        "bmc_address",
        "bmc_v6address",
        "system_vendor",
        "boot",
        "hostname",
    }
    assert inventory["hostname"] == "rescue"
    assert inventory["boot"] == {"current_boot_mode": "bios", "pxe_interface": "01-52-54-00-aa-bb-01"}
    assert inventory["bmc_address"] is None


def test_a_server_that_tells_nothing_of_itself_has_an_inventory_all_the_same(tmp_path):
    bare = Server(tmp_path)
    bare.card("eth0", "52:54:00:00:00:01")
    inventory = bare.inventory()
    assert inventory["memory"] == {"total": None, "physical_mb": None}
    assert inventory["cpu"]["count"] == 0
    assert inventory["cpu"]["flags"] == []
    assert inventory["boot"]["pxe_interface"] is None
    assert inventory["system_vendor"]["serial_number"] == ""


def test_what_is_posted_has_the_disk_that_would_be_deployed_to(server):
    inventory = server.inventory(SATA)
    data = inspection_data(inventory, SATA)
    assert data["inventory"] == inventory
    assert data["root_disk"] == inventory["disks"][0]
    assert (data["boot_interface"], data["error"]) == ("01-52-54-00-aa-bb-01", None)
    assert "root_disk" not in inspection_data(inventory, None)


# -- processors, memory, vendor ------------------------------------------------------------------------------


def test_processors_and_sockets_are_counted(server):
    server.put("sys/devices/system/cpu/cpufreq/policy0/x", "")
    cpu = server.inventory()["cpu"]
    assert (cpu["count"], cpu["socket_count"]) == (2, 2)
    assert cpu["model_name"] == "Intel(R) Xeon(R) Silver 4314 CPU @ 2.40GHz"
    assert cpu["flags"] == ["fpu", "vmx", "aes"]
    assert cpu["frequency"] == "800.034"


def test_the_highest_frequency_counts_where_it_is_known(server):
    server.put("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3400000\n")
    assert server.inventory()["cpu"]["frequency"] == "3400.0000"


def test_the_memory_is_what_is_installed_and_not_what_the_kernel_has(server):
    assert server.inventory()["memory"] == {"total": 30 * GiB, "physical_mb": 30 * 1024}
    for number in range(16):
        server.put(f"sys/devices/system/memory/memory{number}/online", "1\n")
    server.put("sys/devices/system/memory/block_size_bytes", "7c000000\n")
    assert server.inventory()["memory"]["physical_mb"] == 16 * 0x7C000000 // 1024**2
    server.put("sys/firmware/dmi/tables/DMI", BIOS + device(16384) * 2 + END)
    assert server.inventory()["memory"] == {"total": 30 * GiB, "physical_mb": 32 * 1024}


def test_the_vendor_is_told(server):
    texts = {
        "product_name": "PowerEdge R650",
        "product_serial": "ABC1234",
        "sys_vendor": "Dell Inc.",
        "bios_vendor": "Dell Inc.",
        "bios_version": "1.12.1",
        "bios_date": "11/16/2023",
    }
    for name, text in texts.items():
        server.put(f"sys/class/dmi/id/{name}", f"{text}\n")
    assert server.inventory()["system_vendor"] == {
        "product_name": "PowerEdge R650",
        "serial_number": "ABC1234",
        "manufacturer": "Dell Inc.",
        "firmware": {"vendor": "Dell Inc.", "version": "1.12.1", "build_date": "11/16/2023"},
    }


# -- disks ---------------------------------------------------------------------------------------------------


def test_a_disk_has_what_hints_are_compared_with(server):
    (entry,) = server.inventory(SATA)["disks"]
    assert entry == {
        "name": "/dev/sda",
        "model": "Samsung SSD 860",
        "size": 480 * GiB,
        "rotational": False,
        "wwn": "0x5002538e40123456",
        "serial": "S3EVNX0J500123",
        "vendor": "Samsung",
        "wwn_with_extension": "0x5002538e40123456",
        "wwn_vendor_extension": None,
        "hctl": "0:0:1:0",
        "by_path": "/dev/disk/by-path/pci-0000:00:17.0-ata-1",
        "logical_sectors": 512,
        "physical_sectors": 512,
        "tran": "sata",
    }


EXTENDED = replace(
    SATA,
    vendor="",
    wwn="0x600508b1001c7e9a52c4a8d9a3d6c0b4",
    names=Names(wwn=("0x600508b1001c7e9a",), wwn_vendor_extension=("0x52c4a8d9a3d6c0b4",), vendor=("ATA",)),
)
NVME = Disk("/dev/nvme0n1", GiB, transport="nvme", wwn="eui.0025385b71b00a1f")


def test_the_extension_of_a_wwn_is_told_apart():
    entry = disk_entry(EXTENDED)
    assert (entry["wwn"], entry["wwn_vendor_extension"]) == ("0x600508b1001c7e9a", "0x52c4a8d9a3d6c0b4")
    assert entry["wwn_with_extension"] == "0x600508b1001c7e9a52c4a8d9a3d6c0b4"
    assert (disk_entry(NVME)["wwn"], disk_entry(NVME)["wwn_vendor_extension"]) == (
        "eui.0025385b71b00a1f",
        None,
    )


@pytest.mark.parametrize("disk", [SATA, EXTENDED, NVME], ids=lambda disk: disk.path + disk.wwn[-1])
def test_whatever_is_told_of_a_disk_can_be_a_hint_for_it(disk):
    """Operators copy hints from the inventory."""
    known = hint_values(disk)
    told = {key: value for key, value in disk_entry(disk).items() if key in NAME_KEYS and value is not None}
    assert {key: value for key, value in told.items() if value not in known[key]} == {}


def test_what_no_system_can_be_written_to_is_no_disk(server):
    others = (
        Disk("/dev/sr0", GiB, kind="optical"),
        Disk("/dev/loop0", GiB, kind="loop"),
        Disk("/dev/sdb", 0),
        Disk("/dev/mmcblk0boot0", GiB, kind="other"),
    )
    assert [entry["name"] for entry in server.inventory(*others, SATA)["disks"]] == ["/dev/sda"]


# -- interfaces ----------------------------------------------------------------------------------------------


def test_a_card_is_told_with_its_link_driver_and_place(server):
    (entry,) = server.inventory(addresses={"eno1": ("192.0.2.7", "2001:db8::7", "fe80::1")})["interfaces"]
    assert entry == {
        "name": "eno1",
        "mac_address": "52:54:00:aa:bb:01",
        "ipv4_address": "192.0.2.7",
        "ipv6_address": "2001:db8::7",
        "has_carrier": True,
        "lldp": None,
        "vendor": "0x8086",
        "product": "0x159b",
        "client_id": None,
        "biosdevname": None,
        "speed_mbps": 25000,
        "pci_address": "0000:19:00.0",
        "driver": "ice",
    }


def test_a_card_without_a_link_has_no_speed(server):
    server.card("eno2", "52:54:00:aa:bb:02", carrier="0", speed="-1")
    entry = server.inventory()["interfaces"][1]
    assert (entry["has_carrier"], entry["speed_mbps"], entry["ipv4_address"]) == (False, None, None)


def test_a_virtio_card_is_on_the_pci_device_below_it(server):
    server.card("eth0", "52:54:00:00:00:01", at="pci0000:00/0000:00:03.0/virtio2")
    assert server.inventory()["interfaces"][1]["pci_address"] == "0000:00:03.0"
    server.card("eth1", "52:54:00:00:00:02", at="platform/soc/ethernet")
    assert server.inventory()["interfaces"][2]["pci_address"] is None


def test_bonds_and_vlans_are_interfaces_and_tunnels_are_not(server):
    server.card("eno2", "52:54:00:aa:bb:01", bonding_slave__perm_hwaddr="52:54:00:aa:bb:02")
    server.interface("bond0", "52:54:00:aa:bb:01", bonding__mode="active-backup 1")
    server.interface("bond0.100", "52:54:00:aa:bb:01")
    server.interface("docker0", "02:42:00:00:00:01")
    server.interface("tun0", "", type="65534")
    names = [interface.name for interface in list_interfaces(str(server.root))]
    assert names == ["bond0", "bond0.100", "eno1", "eno2"]
    assert mac_addresses(str(server.root)) == ("52:54:00:aa:bb:01", "52:54:00:aa:bb:02")


def test_infiniband_and_nonsense_have_no_mac_address(server):
    long = ":".join(["80"] * 20)
    server.card("ib0", long, type="32")
    server.card("eth8", "00:00:00:00:00:00")
    server.card("eth9", "no address")
    assert mac_addresses(str(server.root)) == ("52:54:00:aa:bb:01",)


def test_where_there_is_no_card_whatever_has_an_address_counts(tmp_path):
    namespace = Server(tmp_path)
    namespace.interface("lo", "00:00:00:00:00:00", type="772")
    namespace.interface("veth0", "52:54:00:00:00:09")
    assert mac_addresses(str(tmp_path)) == ("52:54:00:00:00:09",)
