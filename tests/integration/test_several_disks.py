"""One image onto several disks: each is whole, or blank, or as it was, whatever stops the deployment and wherever."""

import signal
from pathlib import Path

import pytest

from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.model.job import parse_job
from agent.units import MiB
from tests.kit import deployments
from tests.kit.checks import assert_complete, what_is_on
from tests.kit.commands import run
from tests.kit.deployments import Driver, Outcome, driving
from tests.kit.disks import DIRT, DISK_SIZE, is_untouched, make_disk
from tests.kit.images import Image, make_image
from tests.kit.server import serving


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return make_image(tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture(scope="module")
def url(image):
    with serving(lambda request: request.file(image.data)) as server:
        yield server.url


@pytest.fixture
def disks(tmp_path) -> tuple[Path, Path]:
    """Two dirty disks, the second one larger."""
    return make_disk(tmp_path / "a"), make_disk(tmp_path / "b", DISK_SIZE + 8 * MiB)


def guids(disk: Path) -> list[str]:
    """The GUIDs of the disk and of its partitions."""
    words = run("sfdisk", "--dump", disk).replace(",", " ").split()
    ids = [words[words.index("label-id:") + 1]]
    return ids + [word.partition("=")[2] for word in words if word.startswith("uuid=")]


def deploy(driver: Driver, url: str, image: Image, disks: tuple[Path, ...], **order) -> Outcome:
    job = deployments.job(url, image.sha256) | order.pop("job", {})
    return driver.deploy(disks[0], job, others=[str(disk) for disk in disks[1:]], **order)


def test_each_disk_gets_the_whole_system_and_guids_of_its_own(driver, url, image, disks, tmp_path):
    status = deploy(driver, url, image, disks).status
    assert status["status"] == "done", status["error"]
    assert [disk["path"] for disk in status["disks"]] == [str(disk) for disk in disks]
    assert status["disk"] == status["disks"][0]
    for number, disk in enumerate(disks):
        scratch = tmp_path / f"scratch{number}"
        scratch.mkdir()
        assert_complete(disk, image, scratch)
    first, second = map(guids, disks)
    assert guids(image.path) == first[:-1], "what is alone on its disk keeps the image's"
    assert len(first) == len(second) == len({*first, *second}) / 2


def test_three_disks_from_a_qcow2_by_the_command(byoi, web, image, tmp_path):
    packed = tmp_path / "image.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image.path, packed)
    disks = [tmp_path / name for name in ("a", "b", "c")]
    named = [word for disk in disks for word in ("--disk", disk)]
    url = web.publish(packed, packed.name)
    outcome = byoi("write", "--url", url, *named, "--size", "24M", "--hostname", "h1", "--json")
    assert outcome.status == 0
    assert len(outcome.document["disks"]) == 3
    for disk in disks:
        assert disk.read_bytes()[MiB : 15 * MiB] == image.data[MiB : 15 * MiB]


def test_the_plan_names_all_disks_and_what_is_on_each(byoi, image, disks):
    outcome = byoi(
        "write", "--url", image.path, "--disk", disks[0], "--disk", disks[1], "--dry-run", "--json"
    )
    assert outcome.status == 0
    assert [entry["disk"]["path"] for entry in outcome.document["disks"]] == [str(disk) for disk in disks]
    assert all(entry["contents"] is not None for entry in outcome.document["disks"])
    assert f"take {disks[0]} and {disks[1]} and zero both their ends" in str(outcome.document["steps"])


def test_one_disk_twice_is_refused(byoi, image, disks, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(disks[0])
    outcome = byoi("write", "--url", image.path, "--disk", disks[0], "--disk", link)
    assert outcome.status == 2
    assert "the same disk" in outcome.err
    assert is_untouched(disks[0])


def test_a_disk_that_is_too_small_is_named_and_no_disk_is_touched(byoi, image, disks, tmp_path):
    small = make_disk(tmp_path / "small", 12 * MiB)
    outcome = byoi("write", "--url", image.path, "--disk", disks[0], "--disk", small, "--json")
    assert (outcome.status, outcome.document["error"]["code"]) == (1, "image.size")
    assert str(small) in outcome.document["error"]["message"]
    assert is_untouched(disks[0])
    assert is_untouched(small, 12 * MiB)


async def test_the_event_loop_waits_for_no_disk(url, image, disks):
    job = parse_job(deployments.job(url, image.sha256))
    status = await Deployment(job, Options(disks=tuple(map(str, disks)))).run()
    assert status.status == "done", status.error


# -- stopped anywhere ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(driver, url, image, tmp_path_factory) -> Outcome:
    """A deployment that nothing stops."""
    directory = tmp_path_factory.mktemp("reference")
    outcome = deploy(driver, url, image, (make_disk(directory / "a"), make_disk(directory / "b")))
    assert outcome.status["status"] == "done"
    return outcome


def worth_trying(reference: Outcome) -> list[int]:
    """All calls but the many like ones in the middle of the write."""
    numbers = range(len(reference.calls))
    middle = [number for number in numbers if reference.stage_of_call(number) == "write"][2:-3]
    return [number for number in numbers if number not in middle]


def states(disks: tuple[Path, ...], image: Image, scratch: Path) -> list[str]:
    """What is on each disk; where there is a first sector, all of the system is."""
    found = []
    for number, disk in enumerate(disks):
        old = DIRT * disk.stat().st_size
        state = what_is_on(disk, old)
        if state == "system" and disk.read_bytes()[:2] != DIRT * 2:
            place = scratch / f"scratch{number}"
            place.mkdir(exist_ok=True)
            assert_complete(disk, image, place)
        elif state == "system":
            state = "old"  # but for what the claim has begun to wipe
        found.append(state)
    return found


def test_killed_after_every_call_each_disk_is_blank_or_whole(driver, url, image, disks, tmp_path, reference):
    seen = set()
    for number in worth_trying(reference):
        for disk in disks:
            make_disk(disk, disk.stat().st_size)
        outcome = deploy(driver, url, image, disks, stop={"by": "kill", "at": "call", "number": number})
        assert outcome.signal == signal.SIGKILL
        found, stage = states(disks, image, tmp_path), reference.stage_of_call(number)
        seen.add((stage, *found))
        if stage == "claim":
            assert set(found) <= {"old", "headless", "blank"}, (number, found)
        elif stage == "commit":
            assert set(found) <= {"blank", "headless", "system"}, (number, found)
            assert (found[0] == "system") >= (found[1] == "system"), "one after the other"
            assert "system" not in found or "blank" not in found, (
                "all that is before the first sectors is there"
            )
        else:
            assert found == ["blank", "blank"], (number, stage)
    assert {("commit", "system", "headless"), ("commit", "system", "system")} <= seen
    assert deploy(driver, url, image, disks).status["status"] == "done"


def test_where_one_disk_fails_all_are_blanked_and_it_is_named(driver, url, image, disks, tmp_path, reference):
    for number in worth_trying(reference):
        for disk in disks:
            make_disk(disk, disk.stat().st_size)
        outcome = deploy(driver, url, image, disks, stop={"by": "eio", "at": "call", "number": number})
        error = outcome.status["error"]
        assert error is not None, number
        failed = f"{error['message']} {error['detail']}"
        assert any(str(disk) in failed for disk in disks), (number, error)
        assert states(disks, image, tmp_path) == ["blank", "blank"], (number, outcome.trace[-4:])
        assert error["diskState"] == "empty"
