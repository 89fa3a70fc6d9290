import errno
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.host.fat import (
    MAX_FILES,
    FatUnsound,
    build_fat,
    fat_directories,
    fat_file,
    fat_has_file,
    geometry_for,
    read_fat,
)
from agent.units import KiB, MiB

ROOT = Path(__file__).parents[3]
LATEST = "openstack/latest"
TREE = {
    f"{LATEST}/meta_data.json": b'{"uuid": "1"}',
    f"{LATEST}/user_data": b"a\r\nb\\n\0\xff no line end",
    f"{LATEST}/vendor_data.json": b"",
    f"{LATEST}/network_data.json": bytes(range(256)) * 40,
}
ESP_OFFSET = MiB


def output_of(*argv) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "drive.img"
    path.write_bytes(build_fat(TREE))
    return path


@pytest.fixture
def disk(tmp_path):
    """A disk whose ESP (FAT32, as firmware likes it) begins at 1 MiB; its loader is a hidden file."""
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 64 * MiB)
    esp = f"{path}@@{ESP_OFFSET}"
    blocks = str(60 * MiB // KiB)
    subprocess.run(
        ["mkfs.vfat", "-F", "32", "--offset", str(ESP_OFFSET // 512), path, blocks],
        check=True,
        capture_output=True,
    )
    subprocess.run(["mmd", "-i", esp, "::/EFI", "::/EFI/Debian Linux", "::/EFI/BOOT"], check=True)
    for name in ("::/EFI/BOOT/BOOTX64.EFI", "::/EFI/Debian Linux/grubx64.efi"):
        subprocess.run(["mcopy", "-i", esp, "-", name], input=b"MZ", check=True)
    subprocess.run(["mattrib", "+h", "+s", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI"], check=True)
    return path


def test_the_label_is_config_2_in_lower_case_in_both_places(image):
    probed = output_of("blkid", "-p", "-o", "export", image)
    wanted = {"LABEL=config-2", "LABEL_FATBOOT=config-2", "TYPE=vfat", "BLOCK_SIZE=4096"}
    assert wanted <= set(probed.splitlines())
    assert "config-2" in output_of("mlabel", "-s", "-i", image, "::")


@pytest.mark.parametrize("length", [0, 3000, 15 * MiB, 16 * MiB])
def test_fsck_finds_nothing_to_complain_about(tmp_path, length):
    image = tmp_path / "drive.img"
    image.write_bytes(build_fat(TREE | {f"{LATEST}/user_data": bytes(length)}))
    done = subprocess.run(["fsck.vfat", "-n", image], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_mtools_finds_the_real_names_and_the_same_bytes(image, tmp_path):
    subprocess.run(["mcopy", "-s", "-i", image, "::/openstack", tmp_path], check=True)
    found = {str(p.relative_to(tmp_path)): p.read_bytes() for p in (tmp_path / LATEST).iterdir()}
    assert found == TREE


def test_a_small_drive_is_small_and_a_multiple_of_its_sectors():
    size = len(build_fat(TREE))
    assert size % 4096 == 0
    assert size < 256 * KiB


def test_the_largest_drive_costs_under_one_percent():
    geometry = geometry_for({f"{LATEST}/user_data": bytes(16 * MiB)}, 4096)
    assert geometry.bits == 16
    assert geometry.size < 16.6 * MiB


@pytest.mark.parametrize("clusters_of_content", [3980, 3990, 4080, 4085, 4090])
def test_no_geometry_comes_near_the_border_between_fat12_and_fat16(clusters_of_content):
    geometry = geometry_for({"user_data": bytes(clusters_of_content * 4096)}, 4096)
    assert geometry.clusters <= 4000 if geometry.bits == 12 else geometry.clusters >= 4200


def test_a_tree_beyond_fat16_is_refused_with_both_numbers():
    with pytest.raises(OSError, match=r"65\d\d\d clusters, at most 65500") as caught:
        geometry_for({"user_data": bytes(65500 * 16)}, 16)
    assert caught.value.errno == errno.EFBIG


def test_many_long_names_find_room_in_their_directory():
    tree = {f"{LATEST}/{'n' * 100}{number}": b"x" for number in range(50)}
    assert read_fat(build_fat(tree)) == tree


def test_large_user_data_comes_back():
    tree = {f"{LATEST}/user_data": os.urandom(5 * MiB + 1)}
    assert read_fat(build_fat(tree)) == tree


@settings(max_examples=15)
@given(st.binary(max_size=10000))
def test_any_bytes_come_back(user_data):
    tree = TREE | {f"{LATEST}/user_data": user_data}
    assert read_fat(build_fat(tree)) == tree


def test_no_descriptor_is_left_behind():
    before = len(list(Path("/proc/self/fd").iterdir()))
    read_fat(build_fat(TREE))
    with pytest.raises(OSError, match="non DOS media"):
        read_fat(bytes(MiB))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_process_that_is_killed_leaves_no_drive_behind(tmp_path):
    """Killed at any instant: nothing sweeps up after it, so there is nothing to sweep up at any time."""
    builds = (
        "from agent.host.fat import build_fat, read_fat\n"
        "print('begins', flush=True)\n"
        "while True: read_fat(build_fat({'openstack/latest/user_data': b'canary' * 10000}))\n"
    )
    for number in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", builds], env={"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.03 * number)
        process.kill()
        process.communicate()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["a*", "a?b", "[a]", "../x", "a//b", "", ".", "a/..", "a\nb", "é", "a:b"])
def test_names_that_mtools_would_interpret_are_refused(path):
    with pytest.raises(OSError, match="not a path"):
        build_fat({path: b""})


def test_a_drive_with_too_many_files_is_refused():
    with pytest.raises(OSError, match=f"more than {MAX_FILES} files"):
        read_fat(build_fat({f"f{n}": b"" for n in range(MAX_FILES + 1)}))


def test_a_directory_that_contains_itself_ends_in_an_error():
    image = bytearray(build_fat({"openstack/x": b"1", "user_data": b"2"}))
    entry = image.index(b"X          ")
    directory = image.rindex(b".          ", 0, entry) // 4096
    # The file's entry becomes a directory whose first cluster is the one it stands in (the first: number 2).
    assert image[directory * 4096 :].startswith(b".          ")
    image[entry + 11] = 0x10
    image[entry + 26 : entry + 28] = (2).to_bytes(2, "little")
    with pytest.raises(OSError, match="levels") as caught:
        read_fat(bytes(image))
    assert caught.value.errno in (errno.EFBIG, errno.EIO)


@pytest.mark.parametrize(
    "path",
    [
        "\\EFI\\BOOT\\BOOTX64.EFI",
        "/EFI/BOOT/BOOTX64.EFI",
        "\\efi\\boot\\bootx64.efi",
        "efi/Boot\\bootx64.EFI",
        "\\EFI\\debian linux\\GRUBX64.efi",
    ],
)
def test_a_boot_loader_is_found_in_any_spelling(disk, path):
    assert fat_has_file(disk, ESP_OFFSET, path)


@pytest.mark.parametrize(
    "path",
    ["\\EFI\\BOOT\\BOOTIA32.EFI", "\\EFI\\none\\x.efi", "\\EFI\\BOOT", "/EFI/BOOT/BOOTX64.EFI/x", "/x"],
)
def test_what_is_not_there_or_is_a_directory_is_no_boot_loader(disk, path):
    assert not fat_has_file(disk, ESP_OFFSET, path)


@pytest.mark.parametrize(
    "path", ["", "/", "\\EFI\\*\\BOOTX64.EFI", "/EFI/../x", "/EFI//x", "/" + "a/" * 20 + "x"]
)
def test_a_path_that_is_none_is_refused(disk, path):
    with pytest.raises(OSError, match="not a path") as caught:
        fat_has_file(disk, ESP_OFFSET, path)
    assert caught.value.errno == errno.EINVAL


def test_the_directories_of_the_loaders_are_listed(disk):
    assert sorted(fat_directories(disk, ESP_OFFSET, r"\efi")) == ["BOOT", "Debian Linux"]
    assert fat_directories(disk, ESP_OFFSET, r"\EFI\BOOT") == ()
    assert fat_directories(disk, ESP_OFFSET, r"\EFI\BOOT\BOOTX64.EFI") == ()
    assert fat_directories(disk, ESP_OFFSET, r"\nowhere") == ()


def test_a_file_is_read_in_any_spelling_and_within_bounds(disk):
    assert fat_file(disk, ESP_OFFSET, r"\efi\boot\bootx64.efi") == b"MZ"
    with pytest.raises(FatUnsound):
        fat_file(disk, ESP_OFFSET, r"\EFI\BOOT\MISSING.EFI")
    large = ["mcopy", "-i", f"{disk}@@{ESP_OFFSET}", "-", "::/EFI/large"]
    subprocess.run(large, input=bytes(MiB + 1), check=True)
    with pytest.raises(FatUnsound):
        fat_file(disk, ESP_OFFSET, r"\EFI\large")


def test_the_look_into_a_disk_changes_nothing(disk):
    disk.chmod(0o400)
    before = disk.read_bytes()
    fat_has_file(disk, ESP_OFFSET, "/EFI/BOOT/BOOTX64.EFI")
    assert disk.read_bytes() == before


def test_a_disk_without_fat_is_an_error_that_names_it(disk, tmp_path):
    with pytest.raises(FatUnsound, match=r"disk\.img"):
        fat_has_file(disk, 0, "/EFI/BOOT/BOOTX64.EFI")
    with pytest.raises(OSError, match=r"gone\.img"):
        fat_has_file(tmp_path / "gone.img", 0, "/EFI/BOOT/BOOTX64.EFI")


def test_a_relative_path_is_that_of_the_caller(disk, monkeypatch):
    monkeypatch.chdir(disk.parent)
    assert fat_has_file(disk.name, ESP_OFFSET, "/EFI/BOOT/BOOTX64.EFI")


def test_a_disk_whose_name_mtools_would_cut_is_refused():
    with pytest.raises(OSError, match="@@"):
        fat_has_file(Path("/nowhere/a@@512"), 0, "/x")


LOADER = "/EFI/BOOT/BOOTX64.EFI"


def test_a_filesystem_that_crashes_mtools_is_at_fault_itself(disk):
    with disk.open("r+b") as file:
        file.seek(ESP_OFFSET + 13)
        file.write(b"\0")  # sectors in a cluster: mtools divides by them
    with pytest.raises(FatUnsound, match="SIGFPE"):
        fat_has_file(disk, ESP_OFFSET, LOADER)


def test_a_disk_that_fails_is_told_as_the_disk():
    # Reading this file at its beginning gives EIO.
    with pytest.raises(OSError, match="Input/output error") as caught:
        fat_has_file("/proc/self/mem", 0, LOADER)
    assert not isinstance(caught.value, FatUnsound)


def test_an_endless_directory_costs_no_endless_memory(tmp_path):
    """64 MiB of it took 300 MB, 4 GiB took gigabytes."""
    path, clusters = tmp_path / "disk.img", 128 * KiB
    path.touch()
    os.truncate(path, 104 * MiB)
    subprocess.run(["mkfs.vfat", "-F", "32", "-s", "1", path], check=True, capture_output=True)
    with path.open("r+b") as file:
        head = file.read(512)
        reserved, fat_sectors = struct.unpack_from("<H", head, 14)[0], struct.unpack_from("<I", head, 36)[0]
        chain = struct.pack(f"<{clusters}I", *range(3, clusters + 2), 0x0FFFFFFF)
        for copy in range(2):
            file.seek((reserved + copy * fat_sectors) * 512 + 2 * 4)
            file.write(chain)
        file.seek((reserved + 2 * fat_sectors) * 512)
        file.writelines(b"%08X   \x20" % number + bytes(20) for number in range(clusters * 16))
    script = (
        "import resource, sys; from agent.host.fat import fat_has_file, FatUnsound\n"
        "try: fat_has_file(sys.argv[1], 0, '/EFI/x')\n"
        "except FatUnsound: print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    assert int(output_of(sys.executable, "-c", script, path)) * KiB < 140 * MiB
