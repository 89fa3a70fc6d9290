"""Config drives that somebody else made: what is unpacked, and what is taken for one."""

import base64
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigDriveContent
from agent.formats.ready_drive import filesystem_of, unpack
from agent.host.iso import build_iso
from agent.model.job import MAX_DRIVE_BYTES
from agent.units import KiB, MiB

TREE = {"openstack/latest/meta_data.json": b'{"uuid": "1"}'}


@pytest.fixture(scope="module")
def iso():
    return build_iso(TREE)


def refusal(act) -> str:
    with pytest.raises(ConfigDriveContent) as caught:
        act()
    assert caught.value.code == "configdrive.content"
    return caught.value.message


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.booleans())
def test_gzip_of_any_number_of_members_is_unpacked(parts, padded):
    packed = b"".join(gzip.compress(part) for part in parts) + bytes(16 if padded else 0)
    assert unpack(packed) == b"".join(parts)


def test_what_is_not_packed_stays_as_it_is(iso):
    assert unpack(iso) is iso


@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])
def test_base64_is_decoded_as_ironic_keeps_drives_behind_urls(iso, encode):
    assert unpack(encode(gzip.compress(iso))) == iso
    assert unpack(encode(iso)) == iso
    assert "damaged base64" in refusal(lambda: unpack(encode(iso)[:-7]))


def test_a_bomb_is_stopped_at_the_limit():
    bomb = gzip.compress(bytes(MAX_DRIVE_BYTES + MiB))
    for data in (
        bomb,
        gzip.compress(bytes(MAX_DRIVE_BYTES)) + gzip.compress(b"x"),
        bytes(MAX_DRIVE_BYTES + 1),
    ):
        assert "larger than 64.0 MiB" in refusal(lambda data=data: unpack(data))
    assert len(unpack(gzip.compress(bytes(MAX_DRIVE_BYTES)))) == MAX_DRIVE_BYTES


def test_gzip_that_is_cut_or_damaged_is_told(iso):
    packed = gzip.compress(iso)
    assert "was cut" in refusal(lambda: unpack(packed[:-1]))
    assert "damaged gzip" in refusal(lambda: unpack(packed[:-8] + bytes(8)))
    assert "damaged gzip" in refusal(lambda: unpack(packed + b"more"))


def test_an_iso_that_is_cut_within_the_descriptor_of_its_length_is_told(iso):
    for length in range(32 * KiB + 72, 32 * KiB + 200):
        assert f"it has {length} bytes" in refusal(lambda length=length: filesystem_of(iso[:length]))


@pytest.mark.parametrize("label", ["config-2", "CONFIG-2"])
def test_an_iso_with_the_label_is_taken(label):
    assert filesystem_of(build_iso(TREE, label)) == "iso9660"


def test_what_is_no_drive_is_named(iso):
    assert "its label is cidata, and readers look for config-2" in refusal(
        lambda: filesystem_of(build_iso(TREE, "cidata"))
    )
    assert f"it has {len(iso) - 2048} bytes of the {len(iso)} bytes" in refusal(
        lambda: filesystem_of(iso[:-2048])
    )
    for data, name in (
        (b"", "empty"),
        (b"hello world", "unknown data"),
        (b"QFI\xfb\0\0\0\3" + bytes(600), "qcow2"),
    ):
        assert "neither an ISO 9660 nor a FAT filesystem but" in refusal(
            lambda data=data: filesystem_of(data)
        ), name


@given(st.binary(max_size=600), st.integers(0, 40 * 1024))
def test_any_bytes_are_a_drive_or_refused(iso, data, at):
    for changed in (data, iso[:at] + data + iso[at + len(data) :]):
        try:
            filesystem_of(changed)
        except ConfigDriveContent:
            continue
        assert len(changed) >= 36 * 1024
