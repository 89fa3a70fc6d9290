"""What a real Ironic deploys by this agent: from an enrolled server to `active`, and what is on its disk then."""

import pytest

from tests.ironic.conftest import MakeMachine
from tests.kit.checks import assert_complete, assert_system, config_drive, partitions
from tests.kit.images import Image
from tests.kit.ironic.drive import drive_iso, packed
from tests.kit.ironic.machine import source
from tests.kit.pages import Web


@pytest.mark.parametrize("boot_mode", ["uefi", "bios"])
def test_a_raw_image(make_machine: MakeMachine, web: Web, image: Image, boot_mode: str):
    one = make_machine(properties={"capabilities": f"boot_mode:{boot_mode}"})
    node = one.deploy(source(web.publish(image.path), image.sha256))
    assert_system(one.disk, image)
    assert len(partitions(one.disk)) == len(partitions(image.path))
    assert node["last_error"] is None
    one.agent.wait(lambda: one.powered_off, "the server is powered off")
    assert not one.agent.rebooted.exists()


def test_a_qcow2_image(make_machine: MakeMachine, web: Web, image: Image, qcow2: Image):
    one = make_machine()
    one.deploy(source(web.publish(qcow2.path, "image.qcow2"), qcow2.sha256, "qcow2"))
    assert_system(one.disk, image)


def test_an_image_whose_format_nobody_names(make_machine: MakeMachine, web: Web, image: Image, qcow2: Image):
    one = make_machine()
    one.deploy(source(web.publish(qcow2.path, "image"), qcow2.sha256, None))
    assert_system(one.disk, image)


def test_a_checksum_that_is_the_url_of_a_file(make_machine: MakeMachine, web: Web, image: Image):
    """Ironic hands the URL on as it is."""
    one = make_machine()
    sums = f"{'0' * 64}  other.raw\n{image.sha256}  image.raw\n"
    url = web.publish(sums.encode(), "SHA256SUMS", content_type="text/plain")
    one.deploy(source(web.publish(image.path), url))
    assert_system(one.disk, image)


def test_a_checksum_without_its_kind(make_machine: MakeMachine, web: Web, image: Image):
    one = make_machine()
    one.deploy(source(web.publish(image.path), image_checksum=image.sha256))
    assert_system(one.disk, image)


def test_the_config_drive_of_a_call_byte_for_byte(
    make_machine: MakeMachine, web: Web, image: Image, tmp_path
):
    one, iso = make_machine(), drive_iso(b"#!/bin/sh\necho of Nova\n")
    one.deploy(source(web.publish(image.path), image.sha256), packed(iso))
    assert_complete(one.disk, image, tmp_path)
    assert config_drive(one.disk)[: len(iso)] == iso


def test_a_config_drive_at_a_url(make_machine: MakeMachine, web: Web, image: Image, tmp_path):
    """There it is as it would stand in the call."""
    one, iso = make_machine(), drive_iso(b"#!/bin/sh\necho of a URL\n")
    url = web.publish(packed(iso).encode(), "drive", content_type="text/plain")
    one.deploy(source(web.publish(image.path), image.sha256), url)
    assert_complete(one.disk, image, tmp_path)
    assert config_drive(one.disk)[: len(iso)] == iso


def test_a_config_drive_that_ironic_makes_of_json(
    make_machine: MakeMachine, web: Web, image: Image, tmp_path
):
    one = make_machine()
    drive = {"meta_data": {"hostname": "of-metal3"}, "user_data": "#cloud-config\n{}\n"}
    one.deploy(source(web.publish(image.path), image.sha256), drive)
    assert_complete(one.disk, image, tmp_path)
    assert b'"hostname": "of-metal3"' in config_drive(one.disk)


@pytest.mark.timeout(300)
def test_a_config_drive_of_28_mb_is_84_mb_of_a_command(
    make_machine: MakeMachine, web: Web, image: Image, tmp_path
):
    """It is three times in the command."""
    import os

    from agent.units import MiB
    from tests.kit.disks import make_disk

    one, iso = make_machine(), drive_iso(more={"content/0000": os.urandom(21 * MiB)})
    drive = packed(iso)
    assert len(drive) > 28_000_000
    make_disk(one.disk, 64 * MiB)
    one.deploy(source(web.publish(image.path), image.sha256), drive)
    assert_complete(one.disk, image, tmp_path)
    assert config_drive(one.disk)[: len(iso)] == iso
    assert one.agent.most_memory < 256 * MiB  # it keeps the drive once (docs/architecture.md)
