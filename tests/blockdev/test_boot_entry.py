r"""Boot entries made by the real efibootmgr, in variables that are files (`EFIVARFS_PATH`), for disks that are real.

The machine's own firmware is not asked. A disk has an ESP as a distribution lays it out.
"""

import errno
import os
import struct
import uuid
from pathlib import Path

import pytest

from agent.errors import BootEntryFailed, BootEsp, ToolMissing
from agent.host import process
from agent.host.boot_entry import Loader, find_loader, make_boot_entry
from agent.host.inventory import describe_path
from agent.model.boot_entries import parse_entries
from agent.units import MiB
from tests.kit.commands import run

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # the namespace of UEFI's own variables
FALLBACK = r"\EFI\BOOT\BOOTX64.EFI"
SHIM = r"\EFI\debian\shimx64.efi"


def node(kind: int, subkind: int, data: bytes) -> bytes:
    return struct.pack("<BBH", kind, subkind, 4 + len(data)) + data


END = node(0x7F, 0xFF, b"")
NETWORK = node(3, 11, bytes.fromhex("525400123456").ljust(32, b"\0") + b"\1") + node(3, 12, bytes(23))
OTHER_DISK = (
    node(4, 1, struct.pack("<IQQ", 1, 2048, 8192) + uuid.UUID(int=7).bytes_le + b"\2\2")
    + node(4, 4, "\\EFI\\other\\grubx64.efi\0".encode("utf-16-le"))
)  # fmt: skip


class Variables:
    """A directory of EFI variables, and efibootmgr at work on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: list[tuple[str, ...]] = []

    def put(self, name: str, data: bytes) -> None:
        (self.directory / f"{name}-{GLOBAL}").write_bytes(struct.pack("<I", 7) + data)

    def entry(self, number: int, label: str, path: bytes) -> None:
        description = f"{label}\0".encode("utf-16-le")
        head = struct.pack("<IH", 1, len(path) + len(END))
        self.put(f"Boot{number:04X}", head + description + path + END)

    def order(self, *numbers: int) -> None:
        self.put("BootOrder", struct.pack(f"<{len(numbers)}H", *numbers))

    def __call__(self, argv, *, timeout=60.0) -> bytes:
        self.calls.append(tuple(argv))
        return process.run(argv, env_extra={"EFIVARFS_PATH": f"{self.directory}/"}, timeout=timeout).stdout

    @property
    def now(self):
        return parse_entries(self(("efibootmgr", "--verbose")).decode())


@pytest.fixture
def variables(tmp_path) -> Variables:
    (tmp_path / "efivars").mkdir()
    variables = Variables(tmp_path / "efivars")
    variables.entry(0, "UEFI PXEv4 (MAC:525400123456)", NETWORK)
    variables.entry(1, "other", OTHER_DISK)
    variables.order(0, 1)
    return variables


@pytest.fixture
def make_esp(make_disk):
    """A disk whose first partition is a config drive and whose third is the ESP with these files."""

    def make(files: dict[str, bytes], sector_size: int = 512):
        disk = make_disk(80 * MiB, sector_size)
        sectors = MiB // sector_size
        table = f"label: gpt\n3: start={sectors}, size={64 * sectors}, type=uefi\n"
        run("sfdisk", "--quiet", disk.device, stdin=table)
        count = 64 * MiB // 1024
        run("mkfs.vfat", "-S", sector_size, "--offset", sectors, disk.device, count)
        image = f"{disk.device}@@{MiB}"
        for directory in sorted({str(up) for path in files for up in Path(path).parents if str(up) != "."}):
            run("mmd", "-i", image, f"::/{directory}")
        for path, content in files.items():
            source = disk.file.with_suffix(".content")
            source.write_bytes(content)
            run("mcopy", "-i", image, source, f"::/{path}")
        os.sync()
        return describe_path(str(disk.device))

    return make


@pytest.fixture
def disk(make_esp):
    return make_esp({"EFI/BOOT/BOOTX64.EFI": b"MZ"})


# -- the loader ----------------------------------------------------------------------------------------------

CSV = "\ufeffshimx64.efi,debian,,This is the boot entry for debian\n".encode("utf-16-le")


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_what_the_distribution_names_comes_first(make_esp, sector_size):
    names = ("BOOT/BOOTX64.EFI", "debian/shimx64.efi", "debian/grubx64.efi", "arch/grubx64.efi")
    files = {f"EFI/{name}": b"MZ" for name in names} | {"EFI/debian/BOOTX64.CSV": CSV}
    assert find_loader(make_esp(files, sector_size), machine="x86_64") == Loader(3, SHIM)


def test_a_csv_that_names_no_file_is_lived_with(make_esp):
    files = {"EFI/BOOT/BOOTX64.EFI": b"MZ", "EFI/debian/BOOTX64.CSV": CSV, "EFI/fedora/grubx64.efi": b"MZ"}
    assert find_loader(make_esp(files), machine="x86_64").path == r"\EFI\fedora\grubx64.efi"


def test_without_a_distribution_it_is_what_firmware_looks_for(disk):
    assert find_loader(disk, machine="x86_64") == Loader(3, FALLBACK)


def test_a_loader_for_another_machine_is_none(disk):
    with pytest.raises(BootEsp) as caught:
        find_loader(disk, machine="aarch64")
    assert caught.value.detail == f"the ESP of {disk.path} does not have a loader for AA64"


def test_a_wanted_loader_is_taken_or_missed(disk):
    assert find_loader(disk, "efi/boot/bootx64.efi") == Loader(3, r"\efi\boot\bootx64.efi")
    with pytest.raises(BootEsp) as caught:
        find_loader(disk, SHIM)
    assert SHIM in caught.value.detail


def test_a_disk_without_an_esp_or_with_a_damaged_one_is_told(make_disk, make_esp):
    with pytest.raises(BootEsp) as caught:
        find_loader(describe_path(str(make_disk(8 * MiB).device)))
    assert "has no EFI system partition" in caught.value.detail
    damaged = make_esp({})
    with Path(damaged.path).open("r+b") as device:
        device.seek(MiB)
        device.write(bytes(MiB))
    os.sync()
    with pytest.raises(BootEsp) as caught:
        find_loader(damaged)
    assert "cannot be read" in caught.value.detail


# -- the entry -----------------------------------------------------------------------------------------------


def test_the_entry_goes_behind_the_network_and_leads_to_the_disk(variables, disk):
    made = make_boot_entry(disk, find_loader(disk, machine="x86_64"), tool=variables)
    assert (made.number, made.label, made.removed) == ("0002", f"byoi-agent {disk.path}", ())
    assert made.order == variables.now.order == ("0000", "0002", "0001")
    assert not made.boot_next
    (entry,) = variables.now.labelled(made.label)
    guid = run("sfdisk", "--part-uuid", disk.path, 3).strip().lower()
    assert entry.partition == (3, guid)
    assert FALLBACK in entry.path
    assert entry.active


def test_the_next_deployment_takes_the_place_of_the_one_before(variables, disk):
    for _ in range(3):
        made = make_boot_entry(disk, Loader(3, FALLBACK), tool=variables)
    assert made.removed == ("0002",)
    assert len(variables.now.entries) == 3
    assert variables.now.order == ("0000", "0002", "0001")


def test_two_disks_have_an_entry_each(variables, disk, make_esp):
    first = make_boot_entry(disk, Loader(3, FALLBACK), tool=variables)
    second = make_boot_entry(make_esp({}), Loader(3, FALLBACK), tool=variables)
    assert second.removed == ()
    assert {first.number, second.number} <= set(variables.now.order)


def test_the_disk_goes_first_and_next_where_that_is_wanted(variables, disk):
    made = make_boot_entry(disk, Loader(3, FALLBACK), network_first=False, boot_next=True, tool=variables)
    assert made.order == ("0002", "0000", "0001")
    assert made.boot_next
    assert variables.now.next == "0002"


def test_a_firmware_without_any_entry_gets_its_first(variables, disk):
    for file in variables.directory.iterdir():
        file.unlink()
    assert make_boot_entry(disk, Loader(3, FALLBACK), tool=variables).order == ("0000",)


def test_the_command_names_disk_partition_and_loader(variables, disk):
    make_boot_entry(disk, Loader(3, SHIM), tool=variables)
    (create,) = (call for call in variables.calls if "--create-only" in call)
    at = ("--disk", disk.path, "--part", "3", "--loader", SHIM)
    assert create == ("efibootmgr", "--quiet", "--create-only", *at, "--label", f"byoi-agent {disk.path}")


# -- firmware that does not take it --------------------------------------------------------------------------


def test_a_machine_without_variables_is_told_what_to_mount(disk):
    with pytest.raises(BootEntryFailed) as caught:
        make_boot_entry(disk, Loader(3, FALLBACK), tool=Variables(Path("/nowhere")))
    assert (caught.value.code, disk.path in caught.value.message) == ("boot.entry", True)
    assert "efivarfs" in caught.value.hint


def test_variables_that_are_full_are_told(variables, disk):
    def full(argv, *, timeout=60.0) -> bytes:
        if "--create-only" in argv:
            said = b"Could not prepare Boot variable: No space left on device"
            raise process.ProcessFailed(errno.EIO, argv, "exit status 5", said)
        return variables(argv, timeout=timeout)

    with pytest.raises(BootEntryFailed, match="No space left on device"):
        make_boot_entry(disk, Loader(3, FALLBACK), tool=full)
    assert variables.now.order == ("0000", "0001")


def test_a_firmware_that_forgets_the_entry_is_not_believed(variables, disk):
    def forgetful(argv, *, timeout=60.0) -> bytes:
        return b"" if "--create-only" in argv else variables(argv, timeout=timeout)

    with pytest.raises(BootEntryFailed, match="does not keep the new entry"):
        make_boot_entry(disk, Loader(3, FALLBACK), tool=forgetful)


def test_a_rescue_system_without_efibootmgr_is_told(disk):
    def missing(argv, *, timeout=60.0) -> bytes:
        raise ToolMissing(tool=argv[0])

    with pytest.raises(ToolMissing, match="lacks efibootmgr"):
        make_boot_entry(disk, Loader(3, FALLBACK), tool=missing)
