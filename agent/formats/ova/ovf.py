"""Reads the OVF descriptor: which file of an OVA is the disk, and how large the disk is.

Called by `agent.formats.ova.decoder`. XML with a DOCTYPE or entities, which could expand without bound or load other
files, is refused before it is parsed. Source: DMTF DSP0243, versions 1.1 and 2.1; of what is read here, the 0.9 drafts
differ only in the namespace.
"""

import codecs
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

from agent.errors import ImageDamaged, ImageUnsafe
from agent.units import MiB, format_size

MAX_DESCRIPTOR = MiB

_NAMESPACES = (
    "http://www.vmware.com/schema/ovf/1/envelope",
    "http://schemas.dmtf.org/ovf/1/envelope",
    "http://schemas.dmtf.org/ovf/envelope/1",
    "http://schemas.dmtf.org/ovf/envelope/2",
)
_UNIT = re.compile(r"byte(?:\s*\*\s*(\d{1,10})(?:\s*\^\s*(\d{1,2}))?)?")
# The unit names of OVF 1.0, singular and plural, and the abbreviations that some tools write.
_NAMED_UNITS = {"": 1, "bytes": 1} | {
    name: 2 ** (10 * power)
    for power, names in enumerate(("kilobyte kb kib", "megabyte mb mib", "gigabyte gb gib"), 1)
    for short in names.split()
    for name in (short, f"{short}s")
}
# Disks that a refusal lists.
_MOST_TOLD = 8
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class OvfDisk:
    """The descriptor's one disk that has a file."""

    disk_id: str
    href: str
    """Name of the file within the archive."""
    gzipped: bool
    """Whether the descriptor says that the file is compressed with gzip."""
    capacity: int | None
    """Bytes; None where the descriptor refers to a property (`${...}`)."""
    capacity_unit: int
    """The unit of the capacity, in bytes."""


def parse_ovf(data: bytes) -> OvfDisk:
    """Read a descriptor.

    Raises:
        ImageUnsafe: DOCTYPE or entities (check `ovf_xml`); not exactly one disk with a file (check `ovf_disk`); a file
            outside the archive (check `ovf_reference`).
        ImageDamaged: it is not an OVF descriptor, or contradicts itself.
    """
    root = _parse_xml(data)
    if _local(root.tag) != "Envelope":
        raise _damaged(f"its root element is {root.tag[:80]!r}")
    files = {_attribute(element, "id"): element for element in _all(root, "File")}
    disks = [element for element in _all(root, "Disk") if _attribute(element, "fileRef")]
    if len(disks) != 1:
        raise _not_one(disks, files)
    disk = disks[0]
    file = files.get(_attribute(disk, "fileRef"))
    if file is None:
        raise _damaged(
            f"disk {_attribute(disk, 'diskId')!r} is in file {_attribute(disk, 'fileRef')!r}, which it does not list"
        )
    _check_format(disk)
    capacity, unit = _capacity(disk)
    return OvfDisk(
        disk_id=_attribute(disk, "diskId"),
        href=_href(file),
        gzipped=_is_gzipped(file),
        capacity=capacity,
        capacity_unit=unit,
    )


def _not_one(disks: list[ET.Element], files: Mapping[str, ET.Element]) -> ImageUnsafe:
    """The refusal of a descriptor without a disk, or with several: it lists them as far as they can be read."""
    if not disks:
        return ImageUnsafe(
            check="ovf_disk",
            detail="the OVF has no disk with a file",
            hint="Export a virtual machine that has a disk, and not its description alone.",
        )
    told = [_words(disk, files) for disk in disks[:_MOST_TOLD]]
    if len(disks) > _MOST_TOLD:
        told.append(f"and {len(disks) - _MOST_TOLD} more")
    return ImageUnsafe(
        check="ovf_disk",
        detail=f"the OVF has {len(disks)} disks with a file, not one: {', '.join(told)}",
        hint="Export a virtual machine with exactly one disk; or unpack the archive (tar -xf), and deploy the"
        " disk that the server is to boot, with type vmdk.",
    )


def _words(disk: ET.Element, files: Mapping[str, ET.Element]) -> str:
    """A disk for people: the name of its file, or its own where that is not listed, and its capacity."""
    file = files.get(_attribute(disk, "fileRef"))
    name = _attribute(disk, "diskId") if file is None else _attribute(file, "href")
    try:
        capacity, _ = _capacity(disk)
    except ImageDamaged:
        capacity = None
    return f"{name[:80]!r} ({'of unknown size' if capacity is None else format_size(capacity)})"


def _parse_xml(data: bytes) -> ET.Element:
    # XML in UTF-16 must begin with a byte order mark (XML 1.0, section 4.3.3).
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _damaged(f"it is neither in UTF-8 nor in UTF-16: {error.reason}") from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ImageUnsafe(check="ovf_xml", detail="the OVF descriptor has a DOCTYPE or entities")
    try:
        # Passed as text: the parser then ignores the declared encoding, which could yield other characters than those
        # that were checked above.
        return ET.fromstring(text)  # noqa: S314 - no DOCTYPE, no entities
    except (ET.ParseError, ValueError) as error:
        raise _damaged(f"it is not well-formed XML: {error}") from None


def _all(root: ET.Element, name: str) -> list[ET.Element]:
    """All elements of this name in one of OVF's namespaces."""
    tags = {f"{{{namespace}}}{name}" for namespace in _NAMESPACES}
    return [element for element in root.iter() if element.tag in tags]


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _attribute(element: ET.Element, name: str) -> str:
    """The value of an attribute in one of OVF's namespaces or in none; empty if it is missing."""
    for namespace in _NAMESPACES:
        value = element.get(f"{{{namespace}}}{name}")
        if value is not None:
            return value
    return element.get(name, "")


def _href(file: ET.Element) -> str:
    href = _attribute(file, "href").removeprefix("./")
    if not href or href.startswith("/") or "\\" in href or ".." in href.split("/") or _SCHEME.match(href):
        raise ImageUnsafe(
            check="ovf_reference", detail=f"the OVF names the file {href[:200]!r}, outside of the archive"
        )
    if _attribute(file, "chunkSize"):
        raise ImageUnsafe(
            check="ovf_reference",
            detail=f"the OVF has {href[:200]!r} in several files, in chunks (ovf:chunkSize)",
            hint="Export it again without chunks (ovftool without --chunkSize); or join them in order, take"
            " ovf:chunkSize out of the descriptor, and pack the OVA again without its manifest.",
        )
    return href


def _is_gzipped(file: ET.Element) -> bool:
    compression = _attribute(file, "compression").lower()
    if compression not in ("", "identity", "gzip"):
        raise ImageUnsafe(
            check="ovf_reference", detail=f"the OVF has a file compressed with {compression[:40]!r}"
        )
    return compression == "gzip"


def _check_format(disk: ET.Element) -> None:
    # Some tools leave the format out; the file's first bytes are checked later anyway.
    uri = _attribute(disk, "format")
    if uri and "vmdk" not in uri.lower():
        raise ImageUnsafe(check="ovf_disk", detail=f"the OVF has a disk of format {uri[:200]!r}, not VMDK")
    if _attribute(disk, "parentRef"):
        raise ImageUnsafe(
            check="backing_file",
            detail=f"disk {_attribute(disk, 'diskId')!r} is only the difference to {_attribute(disk, 'parentRef')!r}",
        )


def _capacity(disk: ET.Element) -> tuple[int | None, int]:
    unit_text = _attribute(disk, "capacityAllocationUnits").strip().lower()
    match = _UNIT.fullmatch(unit_text)
    if match is not None:
        unit = int(match[1] or 1) ** int(match[2] or 1)
    elif unit_text in _NAMED_UNITS:
        unit = _NAMED_UNITS[unit_text]
    else:
        raise _damaged(f"it counts capacity in {unit_text[:40]!r}")
    text = _attribute(disk, "capacity").strip()
    if text.startswith("${"):
        return None, unit
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) * unit >= 2**63:
        raise _damaged(f"it has a disk of capacity {text[:40]!r}")
    return int(text) * unit, unit


def _damaged(reason: str) -> ImageDamaged:
    return ImageDamaged(format="ovf", reason=reason)
