"""What an unexpected fault leaves in the log: its kind and its places, and nothing that was being worked on."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECRET = "canary-of-the-user"
# The secret comes by an environment variable, so it is not in the source that a traceback would quote.
PROGRAM = """
import asyncio, logging, os, sys, threading
import structlog
from {module} import {function}
{function}({arguments})
log = structlog.get_logger("test")

def crash():
    secret = os.environ["CANARY"]
    job = {{"userData": secret}}
    try:
        raise KeyError(secret)
    except KeyError as error:
        raise ValueError(f"cannot use {{secret}}") from error

async def fails():
    crash()

async def main():
    try:
        crash()
    except ValueError:
        log.exception("crashed_here")
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda secret: crash(), os.environ["CANARY"])
    task = loop.create_task(fails())
    await asyncio.sleep(0.01)
    del task
    import gc; gc.collect()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
    except ExceptionGroup:
        log.exception("group_here")
    try:
        crash()
    except ValueError as error:
        logging.getLogger("aiohttp.server").error("Error handling request from %r", error, exc_info=error)
    await asyncio.sleep(0.01)

asyncio.run(main())
thread = threading.Thread(target=crash)
thread.start()
thread.join()
print("went on")
crash()
"""
DAEMON = {"module": "agent.logs", "function": "configure_logs"}
LOGS = {
    "daemon": DAEMON | {"arguments": '"debug", "auto"'},
}


def start(program: str, *, input: bool = False, **options) -> subprocess.Popen[bytes]:  # noqa: A002
    env = {"PATH": os.environ["PATH"], "CANARY": SECRET, "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE if input else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=env,
        **options,
    )


def on_terminal(program: str) -> tuple[str, str]:
    """What it printed, and what a terminal showed of its stderr."""
    master, slave = pty.openpty()
    process = start(program, stderr=slave)
    os.close(slave)
    shown = []

    def read() -> None:
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            shown.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    out, _ = process.communicate(timeout=60)
    reader.join()
    os.close(master)
    return out.decode(), b"".join(shown).decode()


def assert_kinds_and_places_only(text: str) -> None:
    assert SECRET not in text
    assert "cannot use" not in text
    assert "Traceback" not in text
    for needed in ("crashed_here", "group_here", "ValueError", "KeyError", "<string>:14 in crash", "in main"):
        assert needed in text, text


@pytest.mark.parametrize("who", LOGS)
def test_a_terminal_shows_kinds_and_places_and_no_values(who):
    out, shown = on_terminal(PROGRAM.format(**LOGS[who]))
    assert out == "went on\n", shown
    assert_kinds_and_places_only(shown)


def test_json_has_kinds_and_places_and_no_values():
    process = start(PROGRAM.format(**LOGS["daemon"]), stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    text = err.decode()
    assert out == b"went on\n", text
    assert_kinds_and_places_only(text.replace("\\n", "\n"))
    lines = [json.loads(line) for line in text.splitlines()]
    told = [line["event"] for line in lines]
    assert told.count("library_log") == 3
    assert told.count("crashed") == 2
    library = [line["text"] for line in lines if line["event"] == "library_log"]
    assert "Task exception was never retrieved" in library
    assert "Exception in callback main." in library


@pytest.mark.parametrize("who", LOGS)
def test_a_log_that_nobody_reads_stops_nothing(who):
    program = f"{PROGRAM.format(**LOGS[who])}".replace(
        'print("went on")', 'print("went on"); sys.excepthook = lambda *_: None'
    )
    process = start(f"import sys; sys.stdin.read()\n{program}", stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    out, _ = process.communicate(timeout=60)
    assert out == b"went on\n"


FLOOD = """
import sys, time
from agent.logs import configure_logs, dropped_lines
import structlog
configure_logs("{level}", "auto")
log = structlog.get_logger("test")
for number in range(3000):
    log.error("flood", number=number, text="x" * 1000)
print(dropped_lines(), flush=True)
sys.stdin.readline()
log.error("after")
"""


@pytest.mark.parametrize("level", ["info", "error"])
def test_lines_that_nobody_takes_are_dropped_and_told_when_somebody_does(level):
    process = start(FLOOD.format(level=level), stderr=subprocess.PIPE, input=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    dropped = int(process.stdout.readline())
    assert 1000 < dropped < 3000
    kept = [json.loads(process.stderr.readline())["number"] for _ in range(3000 - dropped)]
    # The pipe takes its share while lines are dropped already, which makes room for later ones: there are gaps.
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    process.stdin.close()
    told = json.loads(process.stderr.readline())
    assert (told["event"], told["count"]) == ("log_lines_dropped", dropped)
    assert json.loads(process.stderr.readline())["event"] == "after"
    assert process.wait(60) == 0
    process.stdout.close()
    process.stderr.close()
