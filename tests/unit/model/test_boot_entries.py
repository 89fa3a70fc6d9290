r"""Boot entries as efibootmgr prints them, and the order with a new one in it.

`samples/efibootmgr-*.txt` are the output of efibootmgr 17 and 18 for the same variables (`EFIVARFS_PATH`).
"""

from pathlib import Path

import pytest

from agent.model.boot_entries import (
    BootEntries,
    BootEntry,
    fallback_loader,
    label_for,
    loaders_in,
    order_with,
    parse_csv,
    parse_entries,
)

SAMPLES = Path(__file__).parent / "samples"
PXE, DVD, DISK, SETUP = (
    "MAC(525400123456,1)/IPv4(0.0.0.0)",
    "Sata(1)/CDROM(0,0x10)",
    "HD(1,GPT,",
    "FvFile(46)",
)


@pytest.fixture(params=[17, 18])
def shown(request) -> BootEntries:
    return parse_entries((SAMPLES / f"efibootmgr-{request.param}.txt").read_text())


def test_both_versions_tell_the_same(shown):
    assert shown.order == ("0007", "0001", "0002", "0003", "0004", "0005", "0006", "0010", "0012")
    assert shown.next == ""
    assert [entry.number for entry in shown.entries if not entry.active] == ["000A"]
    kinds = {entry.number: entry.kind for entry in shown.entries}
    assert {number for number, kind in kinds.items() if kind == "network"} == {"0001", "0002", "0003"}
    assert {number for number, kind in kinds.items() if kind == "firmware"} == {"0000", "0011"}
    assert {number for number, kind in kinds.items() if kind == "removable"} == {"0007"}
    assert {number for number, kind in kinds.items() if kind == "disk"} == {
        "0004",
        "0005",
        "0006",
        "000A",
        "0010",
        "0012",
    }


def test_labels_and_partitions_are_told(shown):
    (ours,) = shown.labelled("byoi-agent QM00001")
    assert (ours.number, ours.partition) == ("0005", (15, "a1b2c3d4-0000-1111-2222-333344445555"))
    assert shown.labelled("byoi-agent") == ()
    assert shown.labelled("UEFI QEMU DVD-ROM QM00003 ")[0].partition is None


@pytest.mark.parametrize(
    "output", ["", "BootOrder: \nBoot0001", "EFI variables are not supported\n", "BootOrder: 1"]
)
def test_what_is_not_understood_is_ignored(output):
    assert parse_entries(output) == BootEntries()


def test_the_next_start_and_an_empty_order_are_told():
    assert parse_entries(
        "BootNext: 001F\nBootCurrent: 0001\nNo BootOrder is set; firmware will attempt recovery\n"
    ) == (BootEntries(next="001F"))


def entries(*paths: str) -> BootEntries:
    known = tuple(BootEntry(f"{number:04X}", f"entry {number}", path) for number, path in enumerate(paths))
    return BootEntries(known, tuple(entry.number for entry in known))


@pytest.mark.parametrize(
    ("paths", "order"),
    [
        ((), ["00FF"]),
        ((PXE, PXE, DISK), ["0000", "0001", "00FF", "0002"]),
        ((DVD, PXE, SETUP, DISK), ["0000", "0001", "00FF", "0002", "0003"]),
        ((DISK, PXE), ["00FF", "0000", "0001"]),
        ((PXE, DISK, PXE), ["0000", "00FF", "0001", "0002"]),
        ((DVD, SETUP, DISK), ["00FF", "0000", "0001", "0002"]),
        ((SETUP, DVD), ["00FF", "0000", "0001"]),
    ],
)
def test_the_network_stays_first_only_where_it_was(paths, order):
    assert order_with(entries(*paths), "00FF", network_first=True) == tuple(order)


def test_the_disk_goes_first_where_that_is_wanted():
    assert order_with(entries(PXE, DISK), "00FF", network_first=False) == ("00FF", "0000", "0001")


def test_what_was_removed_leaves_the_order_and_nothing_is_in_it_twice():
    before = entries(PXE, DISK, DISK)
    assert order_with(before, "0002", ("0001",), network_first=True) == ("0000", "0002")


def test_an_order_that_names_no_entry_is_lived_with():
    before = BootEntries((BootEntry("0001", "net", PXE),), ("00AA", "0001"))
    assert order_with(before, "0002", network_first=True) == ("00AA", "0001", "0002")


# -- loaders -------------------------------------------------------------------------------------------------


def test_the_shim_comes_before_the_loader_that_it_starts():
    assert loaders_in("debian", "X64") == (r"\EFI\debian\shimx64.efi", r"\EFI\debian\grubx64.efi")
    assert loaders_in("systemd", "AA64") == (r"\EFI\systemd\systemd-bootaa64.efi",)
    assert loaders_in("Microsoft", "X64") == (r"\EFI\Microsoft\Boot\bootmgfw.efi",)
    assert fallback_loader("AA64") == r"\EFI\BOOT\BOOTAA64.EFI"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\ufeffshimx64.efi,debian,,This is the boot entry for debian\r\n", "shimx64.efi"),
        ("shimx64.efi,Fedora,,\ngrubx64.efi,second,,\n", "shimx64.efi"),
        (r"..\..\evil.efi,x,,", ""),
        ("../evil.efi,x", ""),
        ("", ""),
        ("\n", ""),
    ],
)
def test_the_loader_of_a_csv(text, name):
    assert parse_csv(text.encode("utf-16-le")) == name
    assert parse_csv(text.encode("utf-16-le") + b"\n") == name, "an odd byte at the end"


def test_a_label_is_the_same_for_one_disk_and_different_for_two():
    assert label_for("byoi-agent", ("QM00001", "0x5000", "/dev/sda")) == "byoi-agent QM00001"
    assert label_for("byoi-agent", ("", "0x5000c500a1b2c3d4", "/dev/sda")) == "byoi-agent 0x5000c500a1b2c3d4"
    assert label_for("byoi-agent", ("", "")) == "byoi-agent"
    assert len(label_for("byoi-agent", ("S" * 256,))) == 64
