"""Runs the table and writes it down: each tool in each case, on loop devices, and what was on the disk afterwards.

sh tests/peers/run                            all of it, some minutes; prints the table
sh tests/peers/run --case EIO --tool byoi     some
sh tests/peers/run --publish                  into docs/comparison.md, between its marks
"""

import argparse
import datetime as dt
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.kit.commands import run
from tests.kit.disks import make_disk
from tests.kit.images import BIOS_PIECE, NOISE, ROOT_PIECE, ImageMaker, install, make_system
from tests.kit.loops import attach
from tests.kit.server import Request, Server
from tests.peers.cases import CASES, IMAGE_BYTES, SECRET, Case, Served, mounted_at, slow
from tests.peers.judge import Outcome, what_is_on
from tests.peers.tools import TOOLS, Tool

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/comparison.md"
BEGIN, END = "<!-- made by tests/peers/run: begin -->", "<!-- made by tests/peers/run: end -->"
RESCUE_SECRET = b"what only the rescue knows\n" * 100
SLOW = Case("percent", "", slow)
MAX_HANGS = 2
DRAIN_SECONDS = 3
"""For what the server has given to come to the disk."""
_PERCENT = re.compile(r"\b(\d{1,3})(?:\.\d+)?(?: ?%|/100\b)")


@dataclass(frozen=True)
class File:
    """What is served, and what a machine has to see on its disk."""

    data: bytes
    guest: bytes
    kind: str = "raw"


def make_files(directory: Path) -> dict[str, File]:
    """The images of the cases, by their recipes."""
    gpt = make_system(directory / "gpt.raw", IMAGE_BYTES, NOISE, "new-root").read_bytes()
    without = make_disk(directory / "no-esp.raw", IMAGE_BYTES, NOISE)
    install(without, "gpt", (BIOS_PIECE, ROOT_PIECE))
    no_esp = without.read_bytes()
    holes = ImageMaker(directory).gpt().data
    secret = directory / "secret"
    secret.write_bytes(RESCUE_SECRET.ljust(len(gpt), b"\0"))
    backing = directory / "backing.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", backing)
    return {
        "gpt": File(gpt, gpt),
        "no-esp": File(no_esp, no_esp),
        "sparse": File(holes, holes),
        "backing": File(backing.read_bytes(), secret.read_bytes(), "qcow2"),
    }


@contextmanager
def disk_for(case: Case, directory: Path) -> Iterator[tuple[Path, Path]]:
    """A dirty loop device, and the file below it."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        if case.room is not None:
            stack.callback(run, "umount", "--lazy", directory)
            run("mount", "-t", "tmpfs", "-o", f"size={case.room}", "tmpfs", directory)
        backing = directory / "disk"
        if case.room is None:
            make_disk(backing, case.disk_bytes)
        else:
            backing.touch()
            os.truncate(backing, case.disk_bytes)
        stack.callback(backing.unlink)
        loop = attach(backing, case.sector_size)
        stack.callback(loop.detach)
        if case.before is not None:
            case.before(loop.device)
            where = mounted_at(loop.device)
            if where.exists():
                stack.callback(where.rmdir)
                stack.callback(run, "umount", where)
        run("blockdev", "--flushbufs", loop.device)
        yield loop.device, backing


def try_out(tool: Tool, case: Case, file: File, environment: dict[str, str], directory: Path) -> Outcome:
    """One cell."""
    outcome = _try_once(tool, case, file, environment, directory)
    for _ in range(MAX_HANGS if tool.hangs else 0):
        if outcome.ended == "waits":
            outcome = _try_once(tool, case, file, environment, directory)
    return outcome


def _try_once(tool: Tool, case: Case, file: File, environment: dict[str, str], directory: Path) -> Outcome:
    script = getattr(tool, case.variant) if case.variant else tool.script
    if not script:
        return Outcome(
            f"not run: {'it takes no header' if case.variant == 'header' else 'it writes any file as it is'}"
        )
    if case.options and tool is TOOLS[0]:
        script = script.replace("--yes", f"--yes {case.options}")
    with ExitStack() as stack:
        disk, backing = stack.enter_context(disk_for(case, directory))
        stage = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)), "stage")
        stage.mkdir()
        if case.memory is not None:
            run("mount", "-t", "tmpfs", "-o", f"size={case.memory}", "tmpfs", stage)
            stack.callback(run, "umount", "--lazy", stage)
        old = backing.read_bytes()
        served = Served(file.data)
        server = Server(lambda request: case.answer(request, served))
        stack.callback(server.stop)
        of_case = {
            "URL": server.url,
            "SHA256": hashlib.sha256(file.data).hexdigest(),
            "DISK": str(disk),
            "KIND": file.kind,
            "STAGE": str(stage),
            "TMPDIR": str(stage),
            "STEPS": "/dev/null",
        }
        ended, told = _run(script, environment | of_case, case, served, stage.with_suffix(".output"))
        with suppress(OSError):  # of a disk that fails
            run("blockdev", "--flushbufs", disk)
        content = backing.read_bytes()
        traces = [case.traces(disk)] if case.traces else []
        traces += ["the secret went to the second origin"] * _was_sent_on(server)
        traces += ["a file of the rescue is on the disk"] * (
            file.kind == "qcow2" and RESCUE_SECRET in content
        )
        return Outcome(
            ended, what_is_on(disk, content, old, file.guest), told, "; ".join(filter(None, traces))
        )


def _run(script: str, environment: dict[str, str], case: Case, served: Served, said: Path) -> tuple[str, str]:
    """How it ended, and its last words; all that it said goes into a file."""
    with said.open("w+", errors="replace") as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            if case.signal:
                served.half_sent.wait(case.patience)
                time.sleep(DRAIN_SECONDS)
                os.killpg(process.pid, getattr(signal, f"SIG{case.signal}"))
                process.wait(case.patience)
                ended = {"KILL": "killed", "TERM": "cancelled"}[case.signal]
            else:
                ended = "error" if process.wait(case.patience) else "done"
        except subprocess.TimeoutExpired:
            ended = "waits"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output.seek(0)
        lines = output.read().split("\n")
    return ended, next((line.strip() for line in reversed(lines) if line.strip()), "")


def _was_sent_on(server: Server) -> bool:
    def secret(request: Request) -> bool:
        return request.header("X-Secret") == SECRET and "localhost" in (request.header("Host") or "")

    return any(secret(request) for request in server.requests)


def tells_percent(tool: Tool, file: File, environment: dict[str, str], directory: Path) -> Outcome:
    """Whether whoever called it sees how far it is."""
    if not tool.percent:
        return Outcome("not told")
    with ExitStack() as stack:
        disk, _ = stack.enter_context(disk_for(SLOW, directory))
        stage = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        served = Served(file.data)
        server = Server(lambda request: SLOW.answer(request, served))
        stack.callback(server.stop)
        output = stage.with_suffix(".output")
        of_run = {
            "URL": server.url,
            "DISK": str(disk),
            "STAGE": str(stage),
            "KIND": "raw",
            "STEPS": "/dev/null",
        }
        digest = hashlib.sha256(file.data).hexdigest()
        _run(tool.percent, environment | of_run | {"SHA256": digest}, SLOW, served, output)
        said = output.read_text(errors="replace")
        output.unlink()
    found = set(_PERCENT.findall(said))
    return Outcome("told" if len(found) > 1 else "not told")


def environment_of(home: Path) -> dict[str, str]:
    """What the commands of all tools need, but for an interpreter with ironic-python-agent."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
        "BENCH": str(ROOT / "tests/bench"),
    }


def with_ipa(environment: dict[str, str]) -> dict[str, str]:
    """That interpreter as well; made in half a minute where it is not there."""
    made = run("sh", ROOT / "packaging/dev/ipa-environment").splitlines()[-1]
    return environment | {"IPA": f"{made}/bin/python"}


def measure(cases: list[Case], tools: list[Tool]) -> dict[str, dict[str, Outcome]]:
    """All cells that are asked for, by case and tool. The tools of a case run side by side, each on its own disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, ThreadPoolExecutor(len(tools)) as threads:
        directory = Path(name)
        files, environment = make_files(directory), with_ipa(environment_of(directory))

        def row(cell: Callable[[Tool], Outcome]) -> dict[str, Outcome]:
            return dict(zip((tool.name for tool in tools), threads.map(cell, tools), strict=True))

        table: dict[str, dict[str, Outcome]] = {}
        for case in cases:
            table[case.name] = row(
                partial(
                    try_out, case=case, file=files[case.image], environment=environment, directory=directory
                )
            )
            for tool, found in table[case.name].items():
                print(f"{case.name:10} {tool:30} {found}", flush=True)
        table["percent"] = row(
            partial(tells_percent, file=files["gpt"], environment=environment, directory=directory)
        )
        return table


def page_of(table: dict[str, dict[str, Outcome]], versions: dict[str, str]) -> str:
    """The table as a page has it."""
    names = [tool.name for tool in TOOLS]
    head = [f"| what happens | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    rows = [
        f"| {case.title} | {' | '.join(cell_of(table[case.name][name], case) for name in names)} |"
        for case in CASES
    ]
    percent = " | ".join(
        f"{'✓' if table['percent'][name].ended == 'told' else '✗'} {table['percent'][name].ended}"
        for name in names
    )
    about = [f"{name}: {version}." for name, version in versions.items()]
    return "\n".join([*head, *rows, f"| whoever called it sees how far it is | {percent} |", "", *about])


def cell_of(outcome: Outcome, case: Case) -> str:
    """As the page has it."""
    if outcome.ended.startswith("not run"):
        return f"— {outcome.ended.partition(': ')[2]}"
    mark = "✓" if outcome.is_right(refused=case.refused) else "✗"
    said = "; ".join(filter(None, (outcome.ended, outcome.disk, outcome.traces)))
    return f"{mark} {said}"


def versions(environment: dict[str, str]) -> dict[str, str]:
    """What the tools say that they are, and where they ran."""
    found = {
        tool.name: subprocess.run(
            ["bash", "-c", tool.version], env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
        for tool in TOOLS
    }
    commit = run("git", "-c", "safe.directory=*", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()
    today = dt.datetime.now(dt.UTC).date()
    return found | {"Run": f"{today}, commit {commit}, Linux {platform.release()}, loop devices"}


def published(page: str, table: str) -> str:
    """The page with another table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", help="of this name; may be given again")
    parser.add_argument("--tool", action="append", help="whose name begins so; may be given again")
    parser.add_argument("--publish", action="store_true", help="into docs/comparison.md; all of it")
    parser.add_argument("--json", type=Path, help="the cells, into a file")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.case or case.name in options.case]
    tools = [tool for tool in TOOLS if not options.tool or tool.name.startswith(tuple(options.tool))]
    if options.publish and (len(cases), len(tools)) != (len(CASES), len(TOOLS)):
        parser.error("--publish takes the whole table")
    table = measure(cases, tools)
    if options.json:
        cells: dict[str, Any] = {
            case: {tool: asdict(cell) for tool, cell in row.items()} for case, row in table.items()
        }
        options.json.write_text(json.dumps(cells, indent=1))
    if options.publish:
        with tempfile.TemporaryDirectory() as directory:
            text = page_of(table, versions(with_ipa(environment_of(Path(directory)))))
        PAGE.write_text(published(PAGE.read_text(), text))


if __name__ == "__main__":
    main()
