"""Power cuts: every disk that one could leave behind is looked at.

A deployment's writes, zeroings and flushes are recorded. What has been flushed is on the disk; of what has not been,
any sector may be there or not. Each prefix of the record is replayed with many such choices, and each disk that comes
out is the old one to the last byte, or has no first sector, or is the new one to the last byte.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.units import MiB
from tests.kit.checks import assert_complete
from tests.kit.crashes import Medium, crashes, state, steps
from tests.kit.deployments import Driver, Outcome, driving, job
from tests.kit.images import Image, make_image, make_old_disk
from tests.kit.server import serving


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"), 12 * MiB)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> bytes:
    return make_old_disk(tmp_path_factory.mktemp("old"), 16 * MiB)


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Driver]:
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture
def disk(tmp_path: Path, old: bytes) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(old)
    return path


@pytest.fixture
def url(image: Image) -> Iterator[str]:
    with serving(lambda request: request.file(image.data)) as server:
        yield server.url


def survey(outcome: Outcome, old: bytes, new: bytes | None) -> list[set[str]]:
    """The states that a power cut could leave after each step of the record."""
    record = list(steps(outcome))
    chance = random.Random(random.getrandbits(32))  # repeated by the seed that pytest-randomly shows
    seen: list[set[str]] = [set() for _ in range(len(record) + 1)]
    seen[0] = {"old"}
    for number, content in crashes(old, record, chance):
        seen[number].add(state(content, old, new))
    return seen


def test_power_cut_at_any_instant_of_a_deployment(driver, url, image, old, disk: Path):
    outcome = driver.deploy(disk, job(url, image.sha256), record=True)
    assert outcome.status["status"] == "done"
    new = disk.read_bytes()
    whole = Medium(old)
    assert whole.replay(steps(outcome)) == [], "what is done is durable"
    assert whole.content == new, "the record is the whole truth"
    assert_complete(disk, image, disk.parent)

    seen = survey(outcome, old, new)
    assert not any("BROKEN" in states for states in seen), seen
    by_stage: dict[str, set[str]] = {}
    for number, states in enumerate(seen[1:]):
        by_stage.setdefault(outcome.stage_of_call(number), set()).update(states)
    assert by_stage == {
        "claim": {"old", "headless", "blank"},
        "write": {"blank"},
        "finish": {"blank"},
        "commit": {"blank", "headless", "new"},
    }
    assert seen[-1] == {"new"}


def test_power_cut_at_any_instant_of_a_deployment_that_fails(driver, url, old, disk: Path):
    outcome = driver.deploy(disk, job(url, "0" * 64), record=True)
    assert outcome.error_code == "checksum.mismatch"
    seen = survey(outcome, old, None)
    assert set().union(*seen) == {"old", "headless", "blank"}, seen
    assert seen[-1] == {"blank"}


@pytest.mark.parametrize("from_end", [1, 2, 3])
def test_power_cut_while_a_failed_commit_is_undone(driver, url, image, old, disk: Path, from_end: int):
    whole = driver.deploy(disk, job(url, image.sha256), record=True)
    disk.write_bytes(old)
    stop = {"by": "eio", "at": "call", "number": len(whole.calls) - from_end}
    outcome = driver.deploy(disk, job(url, image.sha256), record=True, stop=stop)
    assert outcome.error_code == "disk.io"
    medium = Medium(old)
    # All that came before the failure: with it the first sector may have reached the disk, whatever the disk says.
    failed = next(number for number, entry in enumerate(outcome.trace) if "failed" in entry)
    before = Outcome(0, 0.0, outcome.trace[:failed], b"")
    medium.replay(list(steps(outcome))[: len(before.calls)])
    seen = survey(outcome, old, bytes(medium.content))
    assert not any("BROKEN" in states for states in seen), seen
    assert seen[-1] == {"blank"}


def test_power_cut_while_a_cancelled_write_is_undone(driver, url, image, old, disk: Path):
    stop = {"by": "cancel", "at": "event", "number": 4}
    outcome = driver.deploy(disk, job(url, image.sha256), record=True, stop=stop)
    assert outcome.error_code == "job.cancelled"
    assert outcome.events[4] == "write begins"
    seen = survey(outcome, old, None)
    assert set().union(*seen) == {"old", "headless", "blank"}, seen
    assert seen[-1] == {"blank"}
