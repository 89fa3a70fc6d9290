"""What cannot be deployed: the operator reads in Ironic why, in our words, and the disk never boots."""

import pytest

from tests.ironic.conftest import MakeMachine
from tests.kit.checks import assert_nothing_boots
from tests.kit.commands import run
from tests.kit.disks import DIRT
from tests.kit.images import Image
from tests.kit.ironic.drive import packed
from tests.kit.ironic.machine import Machine, source
from tests.kit.ironic.rest import Refused
from tests.kit.pages import Web
from tests.kit.server import Request


def assert_untouched(one: Machine) -> None:
    with one.disk.open("rb") as file:
        assert set(file.read()) == set(DIRT)


def test_a_wrong_checksum(make_machine: MakeMachine, web: Web, image: Image):
    one = make_machine()
    told = one.fail(source(web.publish(image.path), "00" * 32))
    assert f"Bad sha256 for downloaded file, got: {image.sha256}" in told
    assert "while expecting 0000" in told
    assert_nothing_boots(one.disk)


def test_an_image_that_is_gone_when_the_agent_comes(make_machine: MakeMachine, web: Web, image: Image):
    """Ironic has seen it (HEAD); one that it does not see is refused by itself."""
    url = web.publish(image.path)
    known = web.server.answer

    def answer(request: Request) -> None:
        known(request) if request.method == "HEAD" else request.reply(404)

    web.server.answer = answer
    one = make_machine()
    told = one.fail(source(url, image.sha256))
    assert f"Could not download image located: {url}" in told
    assert "404" in told
    assert_untouched(one)


def test_a_qcow2_file_that_needs_another_file(make_machine: MakeMachine, web: Web, image: Image, tmp_path):
    path = tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.path, "-F", "raw", path)
    overlay = Image(path)
    one = make_machine()
    told = one.fail(source(web.publish(path, "image.qcow2"), overlay.sha256, "qcow2"))
    assert "backing_file" in told
    assert_untouched(one)


def test_a_disk_hint_that_fits_none(make_machine: MakeMachine, web: Web, image: Image):
    """Ironic itself does not look at hints: it knows no disks."""
    one = make_machine(properties={"root_device": {"serial": "s== S3NT1NEL"}})
    told = one.fail(source(web.publish(image.path), image.sha256))
    assert "S3NT1NEL" in told
    assert_untouched(one)


@pytest.mark.parametrize("drive", ["hello world", packed(b"no file system")], ids=["text", "gzip"])
def test_garbage_for_a_config_drive(make_machine: MakeMachine, web: Web, image: Image, drive: str):
    """Ironic hands on whatever it was given."""
    one = make_machine()
    told = one.fail(source(web.publish(image.path), image.sha256), drive)
    assert "configdrive" in told.replace(" ", "").lower()
    assert_untouched(one)


def test_an_image_without_a_checksum_is_refused_by_ironic(make_machine: MakeMachine, web: Web, image: Image):
    one = make_machine()
    with pytest.raises(Refused, match="checksum") as refused:
        one.order(source(web.publish(image.path)))
    assert refused.value.status == 400
    assert one.node.state == "available"
    assert_untouched(one)


def test_after_a_failure_the_same_agent_deploys_what_is_right(
    make_machine: MakeMachine, web: Web, image: Image
):
    from tests.kit.checks import assert_system

    one = make_machine()
    url = web.publish(image.path)
    one.fail(source(url, "00" * 32))
    one.deploy(source(url, image.sha256))
    assert_system(one.disk, image)
