"""OVF descriptors of several products and versions, and those that are refused."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.formats.ova.ovf import parse_ovf
from agent.units import GiB, MiB
from tests.kit.fuzz import examples

OVF1 = "http://schemas.dmtf.org/ovf/envelope/1"
VMDK = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


def envelope(files='ovf:id="file1" ovf:href="box-disk001.vmdk"', disks=None, namespace=OVF1, head=""):
    if disks is None:
        disks = f'<Disk ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="{VMDK}"/>'  # noqa: E501
    text = f"""<?xml version="1.0" encoding="UTF-8"?>{head}
<Envelope xmlns="{namespace}" xmlns:ovf="{namespace}" xmlns:rasd="http://example.org/rasd" xmlns:vbox="urn:vbox">
  <References>{"".join(f"<File {file}/>" for file in ([files] if isinstance(files, str) else files))}</References>
  <DiskSection><Info>Disks</Info>{disks}</DiskSection>
  <VirtualSystem ovf:id="vm"><Info>A machine</Info>
    <VirtualHardwareSection><Item><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource></Item>
    </VirtualHardwareSection><vbox:Disk fileRef="other"/></VirtualSystem>
</Envelope>"""
    return text.encode()


def disk(**attributes):
    given = {"capacity": "100", "diskId": "d", "fileRef": "file1", "format": VMDK} | attributes
    return (
        "<Disk "
        + " ".join(f'ovf:{key}="{value}"' for key, value in given.items() if value is not None)
        + "/>"
    )


@pytest.mark.parametrize(
    "namespace",
    [OVF1, "http://schemas.dmtf.org/ovf/envelope/2", "http://www.vmware.com/schema/ovf/1/envelope"],
)
def test_the_disk_and_its_file_are_found(namespace):
    found = parse_ovf(envelope(namespace=namespace))
    assert (found.disk_id, found.href, found.gzipped) == ("vmdisk1", "box-disk001.vmdk", False)
    assert (found.capacity, found.capacity_unit) == (8 * GiB, GiB)


def test_a_byte_order_mark_and_unprefixed_attributes():
    data = envelope('id="file1" href="d.vmdk" compression="gzip"', disk().replace("ovf:", ""))
    found = parse_ovf(b"\xef\xbb\xbf" + data)
    assert (found.href, found.gzipped, found.capacity) == ("d.vmdk", True, 100)


@pytest.mark.parametrize(
    ("units", "capacity"),
    [
        (None, 100),
        ("byte", 100),
        ("byte * 2^20", 100 * MiB),
        ("byte*2^10", 102400),
        ("byte * 10^3", 100_000),
        ("MegaBytes", 100 * MiB),
        ("GigaBytes", 100 * GiB),
        ("kilobyte", 102400),
        ("MB", 100 * MiB),
        ("GiB", 100 * GiB),
        ("byte * 1048576", 100 * MiB),
    ],
)
def test_units_of_the_capacity(units, capacity):
    assert parse_ovf(envelope(disks=disk(capacityAllocationUnits=units))).capacity == capacity


def test_a_capacity_that_is_a_property_is_left_open():
    assert parse_ovf(envelope(disks=disk(capacity="${disk.size}"))).capacity is None


@pytest.mark.parametrize(
    "faulty", [{"capacity": "-1"}, {"capacity": "9" * 19}, {"capacityAllocationUnits": "miles"}]
)
def test_a_capacity_that_is_none_is_damage(faulty):
    with pytest.raises(ImageDamaged):
        parse_ovf(envelope(disks=disk(**faulty)))


def test_an_empty_disk_beside_the_one_with_a_file_does_not_matter():
    assert parse_ovf(envelope(disks=disk(diskId="empty", fileRef=None) + disk())).disk_id == "d"


@pytest.mark.parametrize(
    ("disks", "told"),
    [
        ("", "no disk"),
        (disk(fileRef=None), "no disk"),
        (
            disk(capacity="8", capacityAllocationUnits="byte * 2^30") + disk(fileRef="file2", capacity="512"),
            "2 disks with a file, not one: 'box-disk001.vmdk' (8.0 GiB), 'data.vmdk' (512 B)",
        ),
        (
            disk(capacity="${size}") + disk(fileRef="file3", diskId="third", capacity="much"),
            "'box-disk001.vmdk' (of unknown size), 'third' (of unknown size)",
        ),
        (disk() * 10, "10 disks"),
        (disk() * 10, ", and 2 more"),
    ],
)
def test_none_or_several_disks_are_refused_and_listed(disks, told):
    files = ['ovf:id="file1" ovf:href="box-disk001.vmdk"', 'ovf:id="file2" ovf:href="data.vmdk"']
    with pytest.raises(ImageUnsafe, match="ovf_disk") as caught:
        parse_ovf(envelope(files, disks=disks))
    assert told in caught.value.detail


def test_a_disk_in_a_file_that_is_not_listed_is_damage():
    with pytest.raises(ImageDamaged, match="'file9'"):
        parse_ovf(envelope(disks=disk(fileRef="file9")))


@pytest.mark.parametrize(
    "href",
    [
        "http://example.org/d.vmdk",
        "file:///etc/shadow",
        "/etc/shadow",
        "../d.vmdk",
        "a/../../d",
        "a\\b",
        "",
        "c:d.vmdk",
    ],
)
def test_files_outside_of_the_archive_are_refused(href):
    with pytest.raises(ImageUnsafe, match="ovf_reference"):
        parse_ovf(envelope(f'ovf:id="file1" ovf:href="{href}"'))


@pytest.mark.parametrize(
    "attribute", ['ovf:chunkSize="100"', 'ovf:compression="bzip2"', 'ovf:compression="x"']
)
def test_chunks_and_other_compression_are_refused(attribute):
    with pytest.raises(ImageUnsafe, match="ovf_reference"):
        parse_ovf(envelope(f'ovf:id="file1" ovf:href="d.vmdk" {attribute}'))


def test_a_disk_in_chunks_is_told_with_a_way_out():
    with pytest.raises(ImageUnsafe) as caught:
        parse_ovf(envelope('ovf:id="file1" ovf:href="d.vmdk" ovf:chunkSize="2147483648"'))
    assert "'d.vmdk' in several files, in chunks" in caught.value.detail
    assert "without chunks" in caught.value.hint
    assert "join them" in caught.value.hint


@pytest.mark.parametrize("uri", [None, ""])
def test_a_disk_without_a_format_is_what_its_file_is(uri):
    assert parse_ovf(envelope(disks=disk(format=uri))).href == "box-disk001.vmdk"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_with_its_byte_order_mark(encoding):
    text = envelope('ovf:id="file1" ovf:href="d\u00fcsk.vmdk"').decode()
    for declared in ("UTF-16", "utf-8"):
        found = parse_ovf(("\ufeff" + text.replace("UTF-8", declared)).encode(encoding))
        assert (found.href, found.capacity) == ("d\u00fcsk.vmdk", 8 * GiB)
    with pytest.raises(ImageUnsafe, match="ovf_xml"):
        parse_ovf(("\ufeff" + envelope(head=BOMB).decode()).encode(encoding))
    for cut in (1, 3):
        with pytest.raises(ImageDamaged):
            parse_ovf(("\ufeff" + text).encode(encoding)[:-cut])


def test_a_difference_to_another_disk_is_refused():
    with pytest.raises(ImageUnsafe, match="backing_file"):
        parse_ovf(envelope(disks=disk(parentRef="base")))


def test_a_disk_of_another_format_is_refused():
    with pytest.raises(ImageUnsafe, match="ovf_disk"):
        parse_ovf(envelope(disks=disk(format="http://www.microsoft.com/vhd")))


BOMB = '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize("head", [BOMB, '<!DOCTYPE x SYSTEM "file:///etc/shadow">', "<!DOCTYPE Envelope>"])
def test_doctype_and_entities_are_refused_before_parsing(head):
    with pytest.raises(ImageUnsafe, match="ovf_xml"):
        parse_ovf(envelope(head=head))


@pytest.mark.parametrize("encoding", ["utf-16", "cp037", "utf-7"])
def test_another_encoding_cannot_hide_them(encoding):
    text = envelope(head=BOMB).decode().replace("UTF-8", encoding)
    with pytest.raises((ImageDamaged, ImageUnsafe)):
        parse_ovf(text.encode(encoding))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"<a/>",
        b"not XML",
        b"<Envelope>",
        b"\xff\xfe<",
        b"<a>" * 300_000,
        b"<Envelope>&x;</Envelope>",
    ],
)
def test_what_is_no_descriptor_is_damage(data):
    with pytest.raises(ImageDamaged):
        parse_ovf(data)


def test_an_envelope_of_nothing_has_no_disk():
    with pytest.raises(ImageUnsafe, match="ovf_disk"):
        parse_ovf(b"<Envelope/>")


SAMPLE = envelope()


@settings(max_examples=examples(300))
@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=3)), min_size=1, max_size=5))
def test_mutants_raise_the_known_errors_only(changes):
    data = bytearray(SAMPLE)
    for at, value in changes:
        data[at % len(data) : at % len(data) + len(value)] = value
    with contextlib.suppress(DeployError):
        parse_ovf(bytes(data))
