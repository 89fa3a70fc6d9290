import pytest

from agent.host.drive import Drive, build_drive, read_drive, verify_drive

USER_DATA = "openstack/latest/user_data"
TREE = {"openstack/latest/meta_data.json": b'{"uuid": "1"}', USER_DATA: b"s3cret"}


@pytest.fixture(params=[512, 4096])
def drive(request):
    return build_drive(TREE, request.param)


def test_the_sector_size_of_the_disk_decides_the_filesystem():
    assert build_drive(TREE, 512).filesystem == "iso9660"
    assert build_drive(TREE, 4096).filesystem == "vfat"


def test_an_untouched_drive_is_verified_also_in_a_larger_partition(drive):
    assert read_drive(drive.image, drive.filesystem) == TREE
    assert verify_drive(drive.image, drive, TREE) is None
    assert verify_drive(drive.image + b"left over", drive, TREE) is None


def test_one_flipped_bit_is_told_with_its_place(drive):
    for offset in (0, len(drive.image) // 2, len(drive.image) - 1):
        data = bytearray(drive.image)
        data[offset] ^= 1
        assert str(offset) in (verify_drive(bytes(data), drive, TREE) or "")


def test_a_short_read_is_told_with_both_numbers(drive):
    size = len(drive.image)
    reason = verify_drive(drive.image[:-1], drive, TREE) or ""
    assert str(size) in reason
    assert str(size - 1) in reason


@pytest.mark.parametrize(
    ("meant", "reason"),
    [
        (TREE | {"openstack/latest/vendor_data.json": b""}, "lacks openstack/latest/vendor_data.json"),
        ({USER_DATA: b"s3cret"}, "holds openstack/latest/meta_data.json"),
        (TREE | {USER_DATA: b"s3cre"}, "6 bytes that are not the 5 bytes meant"),
        (TREE | {USER_DATA: b"S3cret"}, USER_DATA),
    ],
)
def test_a_drive_that_was_built_from_another_tree_is_told(drive, meant, reason):
    found = verify_drive(drive.image, drive, meant) or ""
    assert reason in found
    assert "s3cret" not in found


def test_a_drive_that_is_no_filesystem_is_told(drive):
    broken = Drive(bytes(len(drive.image)), drive.filesystem)
    assert "cannot be read" in (verify_drive(broken.image, broken, TREE) or "")


def test_the_representation_tells_no_secret(drive):
    assert repr(drive) == f"Drive(filesystem='{drive.filesystem}', ready_made=False)"
