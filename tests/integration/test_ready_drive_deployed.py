"""Config drives that other tools made: in the job, behind a URL, by the option; and what is none."""

import base64
import gzip
import json
import os

import pytest

from agent.host.drive import fit_drive, read_drive
from agent.units import KiB, MiB
from tests.kit.commands import run
from tests.kit.deployments import job

SIZE = 64 * MiB
FILES = {
    "openstack/latest/meta_data.json": b'{"uuid": "made-elsewhere"}',
    "openstack/latest/user_data": b"#!/bin/sh\r\n",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("drive")
    for name, content in FILES.items():
        (path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "tree" / name).write_bytes(content)
    return path


def make_iso(directory, label="config-2", *options: str) -> bytes:
    path = directory / "drive.iso"
    run(
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        *(options or ("-R", "-J")),
        "-V",
        label,
        "-o",
        path,
        directory / "tree",
    )
    return path.read_bytes()


def make_fat(directory, *options: object, size: int = MiB) -> bytes:
    path = directory / "drive.fat"
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, size)
    run("mkfs.vfat", "-n", "config-2", *options, path)
    run("mcopy", "-s", "-i", path, directory / "tree" / "openstack", "::/")
    return path.read_bytes()


@pytest.fixture(scope="module")
def iso(directory):
    return make_iso(directory)


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xa5" * SIZE)
    return path


@pytest.fixture
def write(byoi, web, gpt_image, target):
    def deploy(content: object, *options: object, enable: bool | None = True, **drive: object):
        members = {"enable": enable, "content": content} | drive
        document = job(web.publish(gpt_image.path), gpt_image.sha256, configdrive=members)
        return byoi("write", "-", "--disk", target, "--json", *options, stdin=json.dumps(document).encode())

    return deploy


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def partition(disk) -> bytes:
    """The last partition of a disk."""
    last = json.loads(run("sfdisk", "--json", disk))["partitiontable"]["partitions"][-1]
    with disk.open("rb") as file:
        file.seek(last["start"] * 512)
        return file.read(last["size"] * 512)


# -- as it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "gzip", "lines", "fat", "odd length"])
def test_it_is_written_as_it_is(write, iso, directory, target, form):
    drive = make_fat(directory, "-S", "4096", size=4 * MiB) if form == "fat" else iso
    drive += b"tail" if form == "odd length" else b""
    content = encoded(gzip.compress(drive) if form == "gzip" else drive)
    if form == "lines":
        content = base64.encodebytes(drive).decode()
    outcome = write(content, enable=None)
    assert outcome.status == 0, outcome.err
    written = partition(target)
    assert written[: len(drive)] == drive
    assert written[len(drive) :] == bytes(len(written) - len(drive))
    assert outcome.document["job"]["configdrive"] == {"enable": True, "content": "***"}
    assert content[:64] not in outcome.out + outcome.err


def test_it_is_fetched_from_a_url(write, web, iso, target, gpt_image):
    url = web.publish(gzip.compress(iso), "drive.gz")
    outcome = write(f"{url}?sig=abc")
    assert outcome.status == 0, outcome.err
    assert partition(target).startswith(iso)
    assert outcome.document["job"]["configdrive"]["content"] == f"{url}?sig=***"
    # Before the image: a drive that cannot be had costs no download.
    assert [request.target for request in web.requests] == ["/drive.gz?sig=abc", "/image.raw"]


def test_the_option_takes_a_file_or_a_url(byoi, web, iso, gpt_image, target, tmp_path):
    image = web.publish(gpt_image.path)
    file = tmp_path / "drive.iso"
    file.write_bytes(iso)
    for given in (file, web.publish(iso, "drive.iso")):
        outcome = byoi("write", "--url", image, "--config-drive", given, "--disk", target, "--json")
        assert outcome.status == 0, outcome.err
        assert partition(target).startswith(iso)
    beside = byoi("write", "--url", image, "--config-drive", file, "--hostname", "h1", "--disk", target)
    assert beside.status == 2
    assert "--hostname: stands beside a ready-made drive (configdrive.content)" in beside.err
    alone = byoi("write", "--url", image, "--config-drive", "--disk", target, "--json")
    assert alone.status == 0
    missing = byoi("write", "--url", image, "--config-drive", tmp_path / "none", "--disk", target)
    assert "--config-drive: " in missing.err
    assert "there is no such file" in missing.err


def test_without_enable_it_is_not_written_and_that_is_said(write, iso):
    outcome = write(encoded(iso), "--dry-run", enable=False)
    assert "configdrive.enable is not true" in outcome.out


# -- disks with large sectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["iso", "small FAT"])
def test_a_drive_that_linux_cannot_read_there_is_made_anew(directory, iso, form):
    image, filesystem = (iso, "iso9660") if form == "iso" else (make_fat(directory), "vfat")
    drive, tree = fit_drive(image, filesystem, 4096)
    assert (drive.filesystem, drive.ready_made) == ("vfat", False)
    assert read_drive(drive.image, "vfat") == tree == FILES


def test_one_that_fits_stays(directory):
    image = make_fat(directory, "-S", "4096", size=4 * MiB)
    drive, tree = fit_drive(image, "vfat", 4096)
    assert (drive.image, drive.ready_made, tree) == (image, True, {})


def test_an_iso_without_rock_ridge_cannot_be_made_anew(directory):
    with pytest.raises(OSError, match="Rock Ridge"):
        fit_drive(make_iso(directory, "config-2", "--norock", "-J"), "iso9660", 4096)


# -- what is none ------------------------------------------------------------------------------------------------

GARBAGE = {
    "no base64": ("hello world", "neither base64 nor the URL"),
    "nothing": ("=", "neither base64 nor the URL"),
    "text": (encoded(b"hello world"), "but text"),
    "another label": (lambda directory: encoded(make_iso(directory, "cidata")), "its label is cidata"),
    "cut": (lambda directory: encoded(make_iso(directory)[: 64 * KiB]), "bytes of the"),
    "cut gzip": (lambda directory: encoded(gzip.compress(make_iso(directory))[:-20]), "gzip that was cut"),
    "a bomb": (encoded(gzip.compress(bytes(65 * MiB))), "larger than 64.0 MiB"),
}


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        (kind, way)
        for kind in GARBAGE
        for way in ("inline", "url")
        if way == "inline" or "base64" not in GARBAGE[kind][1]
    ],
)
def test_garbage_is_refused_before_the_first_write(write, web, target, directory, kind, way):
    content, words = GARBAGE[kind]
    content = content(directory) if callable(content) else content
    content = web.publish(base64.b64decode(content), "drive") if way == "url" else content
    outcome = write(content)
    assert outcome.status == 2
    error = outcome.error
    assert (error["code"], error["blame"]) == ("configdrive.content", "request")
    assert words in error["message"]
    assert target.read_bytes() == b"\xa5" * SIZE
    assert "/image.raw" not in [request.target for request in web.requests]


@pytest.mark.parametrize(("options", "words"), [({"status": 404}, "404"), ({"status": 501}, "501")])
def test_one_that_cannot_be_fetched_is_told(write, web, target, options, words):
    outcome = write(web.publish(b"", "drive", **options) + "?sig=abc")
    error = outcome.error
    assert error["code"] == "configdrive.content"
    assert "cannot be fetched" in error["message"]
    assert words in error["detail"]
    assert "abc" not in json.dumps(outcome.document)
    assert target.read_bytes() == b"\xa5" * SIZE


def test_the_other_members_do_not_stand_beside_it(write, iso):
    outcome = write(encoded(iso), hostname="h1", userMetadatas=[], networkData={})
    assert outcome.status == 2
    faults = {fault["path"]: fault["message"] for fault in outcome.error["faults"]}
    assert set(faults) == {"configdrive.hostname", "configdrive.userMetadatas", "configdrive.networkData"}
    assert all("configdrive.content" in message for message in faults.values())
