"""Fixtures and manners that every ring shares: the order of the rings, loop devices, the real cloud image."""

import contextlib
import os
import signal
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from blockbuster import BlockBusterFunction, blockbuster_ctx
from coverage import Coverage
from hypothesis import HealthCheck, settings

from agent import logs
from tests.kit import loops
from tests.kit.commands import ROOT, attempt

RINGS = ("lint", "unit", "integration", "storm", "ironic", "blockdev", "packaging", "lab")
"""In this order they run in one process: the cheap ones first."""
SIDE_BY_SIDE = ("lint", "lab", "blockdev", "ironic", "packaging", "storm", "integration", "unit")
"""In this order their files are given to several processes: nothing long is begun last."""
ONE_AT_A_TIME = {
    "blockdev": "its tests detach loop devices and take the same ones again",
    "ironic": "its tests share one conductor, which takes seconds to start",
    "lab": "a machine is slow enough while it is the only one",
}
NEEDS_ROOT = {
    "storm": "attaches loop devices and mounts a filesystem",
    "ironic": "makes networks for its servers",
    "blockdev": "attaches loop devices",
    "packaging": "installs into chroots",
    "lab": "builds systems",
}
CLOUD_IMAGE_BUILD_SECONDS = 900

# How fast an example is says more of what else the machine does than of the code.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

AttachLoop = Callable[..., Path]


def _ring(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """What one process runs in a row: a file, whose tests share fixtures, or a whole ring of those above."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            ring = Path(file).relative_to("tests").parts[0]
            return ring if ring in ONE_AT_A_TIME else file

    config.option.loadscopereorder = False  # by the number of tests, which says little of how long they take
    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort by rings. Inside of a ring the order stays random: the sort is stable."""
    order = SIDE_BY_SIDE if hasattr(config, "workerinput") else RINGS
    items.sort(key=lambda item: order.index(_ring(item)) if _ring(item) in order else len(order))
    for item in items:
        # For decoders, counting lines takes three quarters of their time again (docs/testing.md, Coverage).
        if "formats" in item.path.parts:
            item.add_marker("no_cover")
    if "BYOI_CLOUD_IMAGE" in os.environ:
        return
    for item in items:
        # The first test that asks for the image may have to build it. Who set a limit of their own keeps it.
        asks = "cloud_image" in getattr(item, "fixturenames", ())
        if asks and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(CLOUD_IMAGE_BUILD_SECONDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long the tests of each ring took, one after the other."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[Path(report.nodeid).parts[1]] += report.duration
    rings = (f"{ring} {round(seconds[ring])}" for ring in RINGS if ring in seconds)
    terminalreporter.write_line(f"seconds by ring: {', '.join(rings)}")


def pytest_configure() -> None:
    """A shell's background job ignores SIGINT, and so would every process of the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A ring that cannot run fails. A skip would look like a pass."""
    why = NEEDS_ROOT.get(_ring(item))
    if why and os.geteuid() != 0:
        pytest.fail(f"the {_ring(item)} ring {why}: run it as root", pytrace=False)


@pytest.fixture(autouse=True)
def _event_loops_never_block(request: pytest.FixtureRequest) -> Iterator[None]:
    """Code of the agent that blocks the event loop fails its test: it belongs into `agent.aio.run_blocking`.

    Child processes are not seen.
    """
    if _ring(request.node) not in ("unit", "integration"):
        yield
        return
    with blockbuster_ctx("agent") as blockbuster:
        for function in blockbuster.functions.values():
            # A command reads what it was called with before anything else runs on its loop.
            function.can_block_in("agent/cli/job_options.py", {"_read", "_url"})
            function.can_block_in("agent/cli/groups.py", "configured_groups")
            # Its lock is held for a few lines at a time, and never while something is unpacked or waited for.
            function.can_block_in("agent/transfer/unpack.py", "stop")
            # A few bytes of /proc, which no disk is asked for.
            function.can_block_in("prometheus_client/process_collector.py", "collect")
        for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            _let_coverage_lock(blockbuster.functions[name])
        yield


def _let_coverage_lock(function: BlockBusterFunction) -> None:
    """Coverage takes a lock of its own as it enters a function that it counts, whatever that function does."""
    allowed = function.can_block_predicate
    current = Coverage.current()
    collector = current and current._collector
    lock = collector and collector.data_lock
    function.deactivate()
    function.can_block_predicate = lambda taken, *how, **more: taken is lock or allowed(taken, *how, **more)
    function.activate()


@pytest.fixture(autouse=True)
def _plain_log() -> Iterator[None]:
    """Log as the agent does: structlog by itself looks at source files to print a traceback, which blocks the loop.

    Commands set the log up for their whole process; the next test must not inherit it.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            logs._render_exception,
            structlog.processors.JSONRenderer(),
        ]
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
def loop_device() -> Iterator[AttachLoop]:
    """A function `attach(file, sector_size=512, *, read_only=False)`: makes the file a disk, gives its path.

    Every device is detached after the test, whatever became of it. The file's size has to be a multiple of
    the sector size.
    """
    attached: list[loops.Loop] = []

    def attach(file: Path, sector_size: int = 512, *, read_only: bool = False) -> Path:
        attached.append(loops.attach(file, sector_size, read_only=read_only))
        return attached[-1].device

    yield attach
    failures = []
    for loop in reversed(attached):
        try:
            loop.detach()
        except AssertionError as failure:
            failures.append(str(failure))
    if failures:
        pytest.fail("; ".join(failures))


@pytest.fixture
def partition_node() -> Iterator[Callable[[Path, int], Path]]:
    """A function `node(device, number)`: the path of a partition that the kernel knows of.

    Where no udevd or devtmpfs makes its node (a chroot, a container) the fixture does, and removes it again.
    """
    made: list[Path] = []

    def node(device: Path, number: int) -> Path:
        separator = "p" if device.name[-1].isdigit() else ""
        path = device.with_name(f"{device.name}{separator}{number}")
        major, minor = Path("/sys/class/block", path.name, "dev").read_text().split(":")
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFBLK | 0o660, os.makedev(int(major), int(minor)))
            made.append(path)
        return path

    yield node
    for path in made:
        path.unlink()


@pytest.fixture(scope="session")
def cloud_image() -> Path:
    """The real Debian 12 cloud image: raw, GPT, 2 GiB, read-only and shared by all. Copy it to change it."""
    ready = os.environ.get("BYOI_CLOUD_IMAGE")
    if ready:
        return Path(ready)
    done = attempt("sh", ROOT / "packaging/dev/cloud-image")
    if done.returncode != 0:
        pytest.fail(f"no cloud image:\n{done.stderr}", pytrace=False)
    return Path(done.stdout.splitlines()[-1])
