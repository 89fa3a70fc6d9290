"""Reads all names of a disk, for disk selectors: those of the kernel, of udev and of lsblk, which differ.

Blocks, and only reads. Texts that come from the firmware of disks are cut at 256 characters and made printable.

Ironic's own agent compares a hint with what lsblk prints or with a property of udev; hints are copied from there, or
from the inventory that an inspection has left in Ironic. lsblk (util-linux 2.38) takes udev's properties too, in this
order: for the serial number SCSI_IDENT_SERIAL, ID_SCSI_SERIAL, ID_SERIAL_SHORT, ID_SERIAL; for the model ID_MODEL_ENC,
ID_MODEL.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agent.host.blocktree import read_attribute
from agent.model.disk_names import Names, distinct
from agent.text import printable

_MAX_TEXT = 256
_MAX_LINKS = 64
_SERIALS = ("SCSI_IDENT_SERIAL", "ID_SCSI_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL")
_HCTL = re.compile(r"\d+:\d+:\d+:\d+")
# SPC-4, NAA IEEE Registered Extended: 16 digits, and 16 more that the vendor chooses.
_EXTENDED = re.compile(r"(?:naa\.|0x)(6[0-9a-f]{15})([0-9a-f]{16})", re.IGNORECASE)


def read_names(directory: Path, properties: Mapping[str, str], by_path: Sequence[str]) -> Names:
    """What a disk is called.

    Args:
        directory: the device's own directory in sysfs, links resolved.
        properties: udev's properties, if there are any.
        by_path: its links in /dev/disk/by-path.
    """
    wwn, extension = _wwn(directory)
    udev = {key: clean(value) for key, value in properties.items() if key.startswith(("ID_", "SCSI_"))}
    model = _decoded(properties.get("ID_MODEL_ENC", ""))
    attributes = [clean(read_attribute(directory / name)) for name in ("serial", "device/serial")]
    return Names(
        serial=distinct(*attributes, *(udev.get(key, "") for key in _SERIALS), vpd_serial(directory)),
        wwn=distinct(wwn, udev.get("ID_WWN", ""), udev.get("ID_WWN_WITH_EXTENSION", "")),
        wwn_with_extension=distinct(udev.get("ID_WWN_WITH_EXTENSION", "")),
        wwn_vendor_extension=distinct(extension, udev.get("ID_WWN_VENDOR_EXTENSION", "")),
        model=distinct(_attribute(directory, "model"), model, udev.get("ID_MODEL", "")),
        vendor=distinct(_attribute(directory, "vendor"), udev.get("ID_VENDOR", "")),
        by_path=tuple(by_path[:_MAX_LINKS]),
        name=tuple(by_path[:_MAX_LINKS]),
        hctl=distinct(_hctl(directory)),
        tran=("nvme",) if directory.name.startswith("nvme") else (),
    )


def vpd_serial(directory: Path) -> str:
    """The unit serial number of a SCSI disk; empty where it tells none."""
    # SPC-4, unit serial number page: a header of four bytes, of which the last two are the length.
    try:
        with (directory / "device/vpd_pg80").open("rb") as file:
            page = file.read(4 + _MAX_TEXT)
    except OSError:
        return ""
    length = int.from_bytes(page[2:4], "big")
    return clean(page[4 : 4 + length].decode("ascii", "replace"))


def clean(text: str) -> str:
    """A text of a disk's firmware: printable, bounded, with single blanks."""
    return " ".join(printable(text[:_MAX_TEXT].replace("\0", " ")).split())


def _attribute(directory: Path, name: str) -> str:
    return clean(read_attribute(directory / "device" / name))


def _decoded(text: str) -> str:
    r"""A property in which udev has written some bytes as `\x20`."""
    return clean(re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text))


def _wwn(directory: Path) -> tuple[str, str]:
    """The WWN without the vendor's extension, and that extension, of one that has both; else empty."""
    for attribute in ("wwid", "device/wwid"):
        if found := _EXTENDED.fullmatch(read_attribute(directory / attribute)):
            return f"0x{found[1]}", f"0x{found[2]}"
    return "", ""


def _hctl(directory: Path) -> str:
    with suppress(OSError):
        names = sorted(os.listdir(directory / "device/scsi_device"))  # noqa: PTH208 - names are wanted
        return next((name for name in names if _HCTL.fullmatch(name)), "")
    return ""
