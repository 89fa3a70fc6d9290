"""Every refusal that this version can give: its code, its words, its exit status, and a disk that was left alone."""

import fcntl
import gzip
import json
import os
from pathlib import Path

import pytest

from agent.units import KiB, MiB
from tests.kit.commands import run
from tests.kit.deployments import DRIVE, Outcome
from tests.kit.disks import is_untouched, make_disk
from tests.kit.images import BIOS_PIECE, ESP_PIECE, ROOT_PIECE, SIZE_MIB, Piece
from tests.kit.xz import stored_xz

SIZE = 64 * MiB
IMAGE_SIZE = SIZE_MIB * MiB
BLAMES = {"request", "image", "network", "disk", "agent"}


@pytest.fixture
def target(tmp_path):
    return make_disk(tmp_path / "disk.img", SIZE)


def assert_refused(outcome: Outcome, code: str, message: str, status: int = 1) -> dict:
    """The error as people and programs are told it; gives the document's error."""
    assert outcome.status == status, outcome.err
    document = outcome.document
    assert {"servername", "status", "message", "checksum"} <= set(document)
    assert (document["status"], document["message"]) == ("error", message)
    error = document["error"]
    assert (error["code"], error["message"]) == (code, message)
    assert error["blame"] in BLAMES
    assert set(error) >= {"code", "blame", "retryable", "message", "detail", "hint"}
    assert f"error: {message}" in outcome.err
    for text in (error["detail"], error["hint"]):
        assert text is None or text in outcome.err
    return error


def assert_untouched(target: Path) -> None:
    assert is_untouched(target, SIZE)


# -- the job -------------------------------------------------------------------------------------------------

BAD_JOBS = {
    "type": ({"type": "qed"}, "image.format", "Bad format image, expected: qcow2, raw, ova."),
    "checksum type": (
        {"checkSumType": "crc32"},
        "checksum.type",
        "Bad checkSumType, expected: md5, sha1, sha256, sha512.",
    ),
    "checksum without type": (
        {"checkSumType": None},
        "checksum.pair",
        "Please provide checkSum AND checkSumType or none of them",
    ),
    "type without checksum": (
        {"checkSum": None},
        "checksum.pair",
        "Please provide checkSum AND checkSumType or none of them",
    ),
}


@pytest.mark.parametrize("fault", BAD_JOBS)
def test_a_bad_job_is_told_in_the_words_that_clients_know(gpt_image, deploy, target, web, fault):
    members, code, message = BAD_JOBS[fault]
    outcome = deploy(gpt_image, target, **members)
    assert_refused(outcome, code, message, status=2)
    assert web.requests == []
    assert_untouched(target)


def test_all_faults_of_a_job_are_listed_with_their_paths(byoi, target):
    job = {
        "url": "http://127.0.0.1/image",
        "type": "iso",
        "checkSum": "abc",
        "checkSumType": "sha256",
        "diskGroupId": "first",
        "httpHeader": [{"key": "A b", "value": "x"}, {"key": "Range", "value": "bytes=0-"}, {"name": "X"}],
        "configdrive": {"enable": "yes", "hostname": "-a-", "userMetadatas": 7, "userdata": "x"},
        "efiBootloaderPath": "EFI/boot",
    }
    outcome = byoi("write", "-", "--disk", target, "--json", stdin=json.dumps(job).encode())
    assert outcome.status == 2
    paths = {fault["path"] for fault in outcome.error["faults"]}
    assert paths == {
        "url",
        "URL",
        "type",
        "checkSum",
        "diskGroupId",
        "httpHeader[0].key",
        "httpHeader[1].key",
        "httpHeader[2].key",
        "httpHeader[2].name",
        "configdrive.enable",
        "configdrive.hostname",
        "configdrive.userMetadatas",
        "configdrive.userdata",
        "efiBootloaderPath",
    }
    assert all(f"  {path}: " in outcome.err for path in paths)
    assert_untouched(target)


# -- the image -----------------------------------------------------------------------------------------------


def no_table(kind: str) -> str:
    return (
        "image provided format is not of type raw because no partition table was found."
        f" It seems to contain: `{kind}`"
    )


def make_content(kind: str, image: Path, directory: Path) -> bytes:
    """Files that people have given instead of an image."""
    made = directory / f"content.{kind}"
    if kind == "qcow2":
        run("qemu-img", "convert", "-O", "qcow2", image, made)
        return made.read_bytes()
    return {
        "html": b"<!DOCTYPE html>\n<html><head><title>Sign in</title>".ljust(1024),
        "ext4": image.read_bytes()[ROOT_PIECE.start * MiB :],
        "text": gzip.compress(b"what is compressed is looked into\n" * 1000),
        "nothing": b"",
    }[kind]


@pytest.mark.parametrize("kind", ["html", "qcow2", "ext4", "text", "nothing"])
def test_what_is_no_raw_image_is_named_before_the_first_write(gpt_image, web, byoi, tmp_path, target, kind):
    content = make_content(kind, gpt_image.path, tmp_path)
    url = web.publish(content, "image.raw", content_type="application/octet-stream")
    outcome = byoi("write", "--url", url, "--type", "raw", "--disk", target, "--json", "--hostname", "a")
    error = assert_refused(outcome, "image.no_table", no_table(kind))
    assert error["blame"] == "image"
    assert ("Set type to qcow2" in error["hint"]) == (kind == "qcow2")
    assert_untouched(target)


@pytest.mark.parametrize("kind", ["vmdk", "vhdx"])
def test_what_is_of_another_type_is_told_which(gpt_image, byoi, tmp_path, target, kind):
    path = tmp_path / "image"
    run("qemu-img", "convert", "-O", kind, gpt_image.path, path)
    outcome = byoi("write", "--url", path, "--type", "raw", "--disk", target, "--json")
    error = assert_refused(outcome, "image.no_table", no_table(kind))
    assert f"Set type to {kind}," in error["hint"]
    assert outcome.document["imageType"] == kind
    assert_untouched(target)


@pytest.mark.parametrize("kind", ["qcow", "dmg"])
def test_what_can_be_converted_is_told_how(gpt_image, byoi, tmp_path, target, kind):
    path = tmp_path / "image"
    if kind == "dmg":
        path.write_bytes(b"\x78\x01\x63\xf8" * MiB + b"koly".ljust(512, b"\0"))
    else:
        run("qemu-img", "convert", "-O", kind, gpt_image.path, path)
    for options in ((), ("--type", "raw")):
        outcome = byoi("write", "--url", path, *options, "--disk", target, "--json")
        error = assert_refused(outcome, "image.no_table", no_table(kind))
        assert "qemu-img convert -O qcow2" in error["hint"]
        assert outcome.document["imageType"] == kind
    assert_untouched(target)


def test_an_xz_file_that_was_cut_is_refused_before_the_first_write(image_maker, byoi, tmp_path, target):
    """Its first 12 MiB are sound, so only its end tells."""
    path, noise = tmp_path / "image.xz", Piece(10, 30, "noise", "type=linux")
    content = stored_xz(image_maker.gpt((BIOS_PIECE, ESP_PIECE, noise)).path.read_bytes())
    path.write_bytes(content[:-100])
    outcome = byoi("write", "--url", path, "--type", "raw", "--disk", target, "--json")
    assert outcome.error["code"] == "image.damaged"
    assert "it was cut" in outcome.error["message"]
    assert_untouched(target)


def test_a_file_that_is_compressed_twice_is_told_to_be_unpacked(gpt_image, web, byoi, target):
    url = web.publish(gzip.compress(gzip.compress(gpt_image.path.read_bytes())))
    outcome = byoi("write", "--url", url, "--type", "raw", "--disk", target, "--json")
    assert outcome.error["code"] == "image.unsafe"
    assert "Decompress it" in outcome.error["hint"]
    assert_untouched(target)


def test_no_table_is_told_with_the_type_of_the_job(byoi, tmp_path, target):
    plain, path = tmp_path / "ext4", tmp_path / "image.qcow2"
    plain.write_bytes(bytes(8 * MiB))
    run("mkfs.ext4", "-q", plain)
    run("qemu-img", "convert", "-O", "qcow2", plain, path)
    outcome = byoi("write", "--url", path, "--type", "qcow2", "--disk", target, "--json")
    message = (
        "image provided format is not of type qcow2 because no partition table was found."
        " It seems to contain: `ext4`"
    )
    assert_refused(outcome, "image.no_table", message)
    assert_untouched(target)


def test_an_image_is_known_by_its_content_and_not_by_what_the_server_calls_it(gpt_image, web, byoi, target):
    url = web.publish(gpt_image.path, "page.html", content_type="text/html")
    assert byoi("write", "--url", url, "--type", "raw", "--disk", target).status == 0


@pytest.mark.parametrize("kind", ["qcow2", "ova"])
def test_a_raw_image_that_is_called_something_else(gpt_image, deploy, web, target, kind):
    outcome = deploy(gpt_image, target, type=kind)
    message = f"image provided format is `raw` which does not match expected {kind} format"
    assert_refused(outcome, "image.type", message)
    assert_untouched(target)


def test_an_image_larger_than_the_disk(gpt_image, deploy, tmp_path):
    small = tmp_path / "small.img"
    make_disk(small, 16 * MiB)
    outcome = deploy(gpt_image, small)
    message = (
        f"image provided has a size of `{IMAGE_SIZE}` bytes"
        f" which is larger than `{small}` of `{16 * MiB}` bytes"
    )
    assert_refused(outcome, "image.size", message)
    assert is_untouched(small, 16 * MiB)


def publish_changed(web, image, offset: int, data: bytes, size: int | None = None) -> str:
    content = bytearray(image.path.read_bytes()[:size])
    content[offset : offset + len(data)] = data
    return web.publish(bytes(content))


def test_a_damaged_primary_table(gpt_image, web, byoi, target):
    url = publish_changed(web, gpt_image, 512 + 16, b"\0\0\0\0")
    outcome = byoi("write", "--url", url, "--type", "raw", "--disk", target, "--json")
    message = "Can not move backup GPT data structures to the end of disk."
    error = assert_refused(outcome, "gpt.relocate", message)
    assert "header CRC" in error["detail"]
    assert "gdisk" in error["hint"]
    assert_untouched(target)


def test_an_image_that_ends_before_its_last_partition(gpt_image, web, byoi, target):
    url = publish_changed(web, gpt_image, 0, b"", 30 * MiB)
    outcome = byoi("write", "--url", url, "--type", "raw", "--disk", target, "--json")
    message = f"The image ends at byte {30 * MiB}, but its partition table reaches to byte {40 * MiB}."
    assert_refused(outcome, "image.truncated", message)
    assert_untouched(target)


def test_an_image_without_its_backup_table_gets_a_new_one(gpt_image, web, byoi, target):
    url = publish_changed(web, gpt_image, 0, b"", 45 * MiB)
    outcome = byoi("write", "--url", url, "--type", "raw", "--disk", target, "--json")
    assert outcome.status == 0
    assert "No problems found" in run("sgdisk", "-v", target)
    assert any("backup GPT" in note for note in outcome.document["notes"])


def test_another_checksum(gpt_image, deploy, target):
    outcome = deploy(gpt_image, target, checkSum="ab" * 32)
    message = f"Bad sha256 for downloaded file, got: {gpt_image.sha256} while expecting {'ab' * 32}."
    error = assert_refused(outcome, "checksum.mismatch", message)
    assert not error["retryable"]
    data = target.read_bytes()
    assert data[:MiB] == data[-MiB:] == bytes(MiB)
    assert outcome.document["checksum"] is None


@pytest.mark.parametrize(("algorithm", "length"), [("md5", 32), ("sha1", 40), ("sha512", 128)])
def test_the_other_checksums(gpt_image, deploy, target, algorithm, length):
    outcome = deploy(gpt_image, target, checkSum="0" * length, checkSumType=algorithm)
    right = run(f"{algorithm}sum", gpt_image.path).split()[0]
    message = f"Bad {algorithm} for downloaded file, got: {right} while expecting {'0' * length}."
    assert_refused(outcome, "checksum.mismatch", message)
    again = deploy(gpt_image, target, checkSum=right.upper(), checkSumType=algorithm)
    assert (again.status, again.document["checksum"]) == (0, f"{algorithm}:{right}")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_server_that_has_no_image(gpt_image, web, byoi, target, status):
    url = web.publish(b"<html>no", status=status, content_type="text/html")
    outcome = byoi("write", "--url", url, "--type", "raw", "--disk", target, "--json")
    error = assert_refused(outcome, "image.download", f"Could not download image located: {url}")
    assert (error["blame"], error["retryable"]) == ("request", False)
    assert str(status) in error["detail"]
    assert len(web.requests) == 1
    assert_untouched(target)


def test_a_path_without_an_image(byoi, target, tmp_path):
    for path in (tmp_path / "absent.raw", tmp_path):
        url = path.as_uri()
        outcome = byoi("write", "--url", url, "--type", "raw", "--disk", target, "--json")
        assert_refused(outcome, "image.download", f"Could not download image located: {url}")
    assert_untouched(target)


# -- the config drive and what boots -------------------------------------------------------------------------


def test_no_room_for_a_config_drive(image_maker, deploy, tmp_path):
    target = tmp_path / "equal.img"
    make_disk(target, IMAGE_SIZE)
    image = image_maker.gpt((BIOS_PIECE, ESP_PIECE, Piece(10, SIZE_MIB - 11, "ext4", "type=linux")))
    outcome = deploy(image, target, configdrive={"enable": True, "userData": "x" * 2 * MiB})
    assert_refused(outcome, "configdrive.create", "Could not create configdrive on disk.")
    assert is_untouched(target, IMAGE_SIZE)


def test_a_config_drive_that_is_too_large_is_a_fault_of_the_job(gpt_image, deploy, target):
    outcome = deploy(gpt_image, target, configdrive={"enable": True, "userData": "x" * (8 * MiB + 1)})
    assert outcome.status == 2
    assert [fault["path"] for fault in outcome.error["faults"]] == ["configdrive.userData"]
    assert_untouched(target)


def test_no_esp_for_a_uefi_server(image_maker, deploy, target):
    image = image_maker.gpt((BIOS_PIECE, ROOT_PIECE))
    outcome = deploy(image, target, "--firmware", "uefi")
    error = assert_refused(outcome, "boot.esp", "The server boots by UEFI, but the image cannot.")
    assert "EFI system partition" in error["detail"]
    assert_untouched(target)


def test_no_boot_code_for_a_legacy_server(image_maker, deploy, target):
    outcome = deploy(image_maker.gpt(boot_code=False), target, "--firmware", "bios")
    message = "The server boots in legacy mode, but the image has no boot code in its first sector."
    assert_refused(outcome, "boot.code", message)
    assert_untouched(target)


# -- the disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nowhere/disk.img", "/dev/null", "/tmp"])
def test_what_is_no_disk(gpt_image, deploy, path):
    outcome = deploy(gpt_image, path)
    assert_refused(outcome, "disk.unknown", f"{path} is neither a whole disk nor a regular file.", status=2)


def test_a_disk_group_that_does_not_exist(gpt_image, byoi, make_job):
    outcome = byoi("write", make_job(gpt_image, diskGroupId=4711), "--json")
    message = "Disk group 4711 does not exist on this server."
    error = assert_refused(outcome, "disk.group", message, status=2)
    assert "byoi disks" in error["hint"]


@pytest.mark.parametrize("size", [0, 512 * KiB])
def test_a_file_too_small_to_be_a_disk(gpt_image, deploy, tmp_path, size):
    path = tmp_path / "tiny.img"
    make_disk(path, size)
    outcome = deploy(gpt_image, path)
    assert (outcome.status, outcome.error["code"]) == (1, "disk.ineligible")
    assert str(path) in outcome.error["message"]
    assert is_untouched(path, size)


def test_a_file_that_another_process_writes(gpt_image, deploy, target):
    with target.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        outcome = deploy(gpt_image, target)
    message = f"{target} is in use: another process writes to this file."
    assert_refused(outcome, "disk.busy", message)
    assert_untouched(target)


def test_a_file_on_a_full_filesystem_is_a_fault_of_the_disk(gpt_image, deploy, target):
    """Without root there is no filesystem to fill: a limit on the size of files does the same."""
    import resource

    path = target.with_name("new.img")
    path.touch()
    os.truncate(path, SIZE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 * MiB, before[1]))
    try:
        outcome = deploy(gpt_image, path, configdrive=DRIVE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = assert_refused(outcome, "image.write", "Can't write raw on disk.")
    assert error["blame"] == "disk"
    assert "File too large" in error["detail"]
    data = path.read_bytes()
    assert data[:MiB] == data[-MiB:] == bytes(MiB)


def test_an_esp_that_crashes_its_reader_is_a_fault_of_the_image(gpt_image, web, byoi, make_job, target):
    url = publish_changed(web, gpt_image, ESP_PIECE.start * MiB + 13, b"\0")  # sectors in a cluster
    job = make_job(gpt_image, URL=url, checkSum=None, checkSumType=None, efiBootloaderPath="\\EFI\\x.efi")
    outcome = byoi("write", job, "--disk", target, "--json")
    error = assert_refused(outcome, "boot.esp", "The server boots by UEFI, but the image cannot.")
    assert error["blame"] == "image"
    assert "SIGFPE" in error["detail"]
    assert "SMART" not in error["hint"]
