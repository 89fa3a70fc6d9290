"""What all storms share: runs by their seeds, in several processes, and what came of them.

A suite is a module beside this one, with three names:

    NEEDS_ROOT          whether only root can run it
    prepare(directory)  makes, once, what all its runs share: images, for the most part
    opened(directory)   a context, one in each process: gives the function that carries out one run

That function is called with the seed of the run, from which everything is drawn, and gives what came of it in a word or
two. Whatever it raises is a violation: the run is told with its seed, and the parts are made anew.
"""

import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

SUITES = ("network", "process", "disk", "power", "api", "images")
ENOUGH = 10
"""Violations after which a storm ends: there is something to be mended first."""

END_SECONDS = 60

Try = Callable[[int], str]


class Suite(Protocol):
    """The module of a suite."""

    NEEDS_ROOT: bool

    def prepare(self, directory: Path) -> None: ...
    def opened(self, directory: Path) -> AbstractContextManager[Try]: ...


@dataclass(frozen=True)
class Order:
    """What is to be run."""

    suite: str
    runs: int
    seed: int
    """Of the first run; the next one has the next number."""
    processes: int = 1
    minutes: float = float("inf")
    """No run begins later."""
    commit: str = ""
    """What is tried, for the proof."""


@dataclass
class Result:
    """What came of it."""

    order: Order
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)
    """Seeds, and what was seen."""

    @property
    def runs(self) -> int:
        return self.outcomes.total() + len(self.violations)


def suite_of(name: str) -> Suite:
    module: Any = importlib.import_module(f"tests.storm.{name}")
    suite: Suite = module
    return suite


def storm(order: Order, told: Callable[[int, str], None]) -> Result:
    """Carry out all runs; `told` hears of each violation at once."""
    result = Result(order)
    with tempfile.TemporaryDirectory(prefix="byoi-storm-") as scratch:
        directory = Path(scratch)
        suite_of(order.suite).prepare(directory)
        for seed, outcome, violation in _reports(order, directory):
            if violation is None:
                result.outcomes[outcome] += 1
                continue
            result.violations.append((seed, violation))
            told(seed, violation)
            if len(result.violations) == ENOUGH:
                break
    return result


Report = tuple[int, str, str | None]
"""Of a run: its seed, what came of it, and what was wrong."""


def _reports(order: Order, directory: Path) -> Iterator[Report]:
    """The reports of all processes, as they come. A process that dies is a violation of the run that it was at."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = []
        for number in range(min(order.processes, order.runs)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(order, number, directory, theirs))
            process.start()
            theirs.close()
            stack.callback(_end, process)
            workers.append((ours, process))
        pipes = dict(workers)
        begun: dict[Any, int] = {}
        while pipes:
            for pipe in multiprocessing.connection.wait(list(pipes)):
                try:
                    report = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    process = pipes.pop(pipe)  # type: ignore[index]
                    process.join()
                    if pipe in begun or process.exitcode != 0:
                        yield begun.get(pipe, order.seed), "", f"the process ended with {process.exitcode}"
                    continue
                if isinstance(report, int):
                    begun[pipe] = report
                else:
                    begun.pop(pipe, None)
                    yield report


def _end(process: Any) -> None:
    """It takes its parts down by itself."""
    process.terminate()
    process.join(END_SECONDS)
    process.kill()
    process.join()


def leave_on_sigterm() -> None:
    """As on an error: whatever is open is closed."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _work(order: Order, number: int, directory: Path, pipe: Any) -> None:
    """Be one of the processes: every so-manieth run is its own."""
    leave_on_sigterm()
    suite = suite_of(order.suite)
    seeds = iter(range(order.seed + number, order.seed + order.runs, min(order.processes, order.runs)))
    ends = time.monotonic() + order.minutes * 60
    scratch = directory / f"process-{number}"
    going = True
    while going:
        scratch.mkdir()
        (scratch / "shared").symlink_to(directory)
        going = _work_on(suite, scratch, seeds, ends, pipe)
        shutil.rmtree(scratch)


def _work_on(suite: Suite, scratch: Path, seeds: Iterator[int], ends: float, pipe: Any) -> bool:
    """Carry out runs until there is none left, or one has failed; whether there may be more of them."""
    seed = None
    try:
        with suite.opened(scratch) as attempt:
            for seed in seeds:
                if time.monotonic() > ends:
                    return False
                pipe.send(seed)
                pipe.send((seed, attempt(seed), None))
    except Exception:
        if seed is None:
            raise
        pipe.send((seed, "", traceback.format_exc()))
        return True
    return False


def cores() -> int:
    """How many runs go on side by side by default: as many as there are cores, and one that waits."""
    return (os.cpu_count() or 1) + 1
