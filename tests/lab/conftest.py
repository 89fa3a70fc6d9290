"""The ring of QEMU machines: which cases run, what they share, and the table of results."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import web
from tests.kit.pages import Web
from tests.lab import daemon, deploy, images, rescue
from tests.lab.matrix import Case, cases
from tests.lab.registry import Signed, signed_registry
from tests.lab.site import site

__all__ = ["web"]

EVERYTHING = os.environ.get("BYOI_LAB") == "matrix"
TEST_SECONDS = 1800
RESULTS = os.environ.get("BYOI_LAB_RESULTS")
"""A file that gets one line of JSON for each case."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What a long run alone has is not even told of in others."""
    if not EVERYTHING:
        long = [item for item in items if item.get_closest_marker("long_run") is not None]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        if "lab" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a `probe_case`, a `cloud_case` or a `refused_case` runs for each of them."""
    kinds: dict[str, Callable[[Case], bool]] = {
        "probe_case": lambda case: case.system == "probe" and not case.refused,
        "cloud_case": lambda case: case.system == "cloud" and not case.refused,
        "refused_case": lambda case: bool(case.refused),
    }
    for name, wanted in kinds.items():
        if name in metafunc.fixturenames:
            chosen = [case for case in cases(everything=EVERYTHING) if wanted(case)]
            metafunc.parametrize(name, chosen, ids=[case.name for case in chosen])


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    images.check_tools()


@pytest.fixture(scope="session")
def deployer() -> deploy.Deploy:
    """How cases are deployed."""
    return {"host": deploy.on_host, "daemon": daemon.by_daemon}[os.environ.get("BYOI_LAB_DEPLOY", "daemon")]


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    """A registry with TLS, for images that are signed in it."""
    directory = tmp_path_factory.mktemp("registry")
    with signed_registry(directory, site()) as running:
        yield running
    shutil.rmtree(directory)


@pytest.fixture
def job_for(request: pytest.FixtureRequest, web: Web) -> Callable[[Case, dict[str, Any]], dict[str, Any]]:
    """Serve the image of a case, and give the job for it: job_for(case, members of the config drive). It blocks."""

    def make(case: Case, drive: dict[str, Any]) -> dict[str, Any]:
        found = images.image(
            case.system, case.table, case.sector_size, case.form, esp=case.esp, full=case.full
        )
        if case.registry:
            signed: Signed = request.getfixturevalue("registry")
            return signed.job(found, drive)
        job = deploy.make_job(found, web.publish(found.path, found.path.name), drive)
        return job | ({"diskGroupId": case.group} if case.group else {})

    return make


@dataclass
class Record:
    """What is noted of a case while it runs; in seconds where it is a time."""

    seconds: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[what] = round(time.monotonic() - began, 1)


SECOND_START = "started a second time, for the emulated kernel died before its userland's first word"
OUTCOME = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if call.when == "call":
        item.stash[OUTCOME] = report.outcome
    return report


@pytest.fixture(autouse=True)
def _second_starts(request: pytest.FixtureRequest) -> Iterator[None]:
    """A machine that had to be started twice is told of in the run's summary, whatever becomes of the test."""
    rescue.second_starts.clear()
    yield
    request.node.user_properties += [(SECOND_START, panic) for panic in rescue.second_starts]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for each in terminalreporter.stats.values() for report in each]
    for report in reports:
        if getattr(report, "when", None) == "teardown":
            for name, panic in report.user_properties:
                if name == SECOND_START:
                    terminalreporter.write_line(f"{name}: {report.nodeid}\n{panic}")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """Notes for the table of results."""
    noted = Record()
    yield noted
    if RESULTS is not None:
        parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
        case = next((value.name for value in parameters.values() if isinstance(value, Case)), None)
        outcome = request.node.stash.get(OUTCOME, "failed")
        line = {"test": request.node.originalname, "case": case, "outcome": outcome}
        notes = noted.notes | ({"panics": rescue.second_starts} if rescue.second_starts else {})
        line |= {"seconds": noted.seconds, "notes": notes}
        with Path(RESULTS).open("a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.fixture
def disk_file(tmp_path: Path) -> Iterator[Path]:
    """Where a machine's disk goes. It is removed at once: pytest would keep it for three runs."""
    path = tmp_path / "disk.raw"
    yield path
    for file in tmp_path.iterdir():
        if file.is_file():
            file.unlink()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
