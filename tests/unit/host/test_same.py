"""Two paths to one file. Devices and what is made of them are tried in tests/blockdev/test_same_disk.py."""

import pytest

from agent.host.same import shared_storage


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.raw"
    path.write_bytes(bytes(4096))
    return path


def test_a_file_is_itself_whatever_leads_to_it(tmp_path, image):
    (tmp_path / "link").symlink_to(image)
    (tmp_path / "second").hardlink_to(image)
    (tmp_path / "directory").mkdir()
    for other in (image, tmp_path / "link", tmp_path / "second", tmp_path / "directory" / ".." / "image.raw"):
        assert shared_storage(str(image), str(other)) == f"{image} is the target {other} itself"


def test_two_files_of_one_filesystem_share_nothing(tmp_path, image):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    assert shared_storage(str(image), str(disk)) is None


@pytest.mark.parametrize("absent", ["source", "target"])
def test_a_path_to_nothing_is_told(tmp_path, image, absent):
    missing = str(tmp_path / "missing")
    source, target = (missing, str(image)) if absent == "source" else (str(image), missing)
    with pytest.raises(FileNotFoundError) as caught:
        shared_storage(source, target)
    assert caught.value.filename == missing
