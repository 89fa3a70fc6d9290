"""Progress on real terminals: what is drawn where, and what becomes of a deployment whose terminal goes away."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.units import MiB

ROOT = Path(__file__).parents[2]


class OnTerminal:
    """`byoi` with stderr on a terminal of `columns` columns; `text` is all that it drew so far."""

    def __init__(self, *arguments: object, columns: int = 80, **environment: str) -> None:
        self.text = ""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)} | environment
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=slave,
            env=env,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        data = b""
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                piece = b""
            if not piece:
                break
            data += piece
            self.text = data.decode(errors="replace")
        os.close(self.master)

    def hang_up(self) -> None:
        """Nobody is behind the terminal from here on: writing to it fails."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, self.master)
        os.close(null)

    def finish(self) -> int:
        status = self.process.wait(100)
        self._reader.join(60)
        return status

    def wait_for(self, text: str) -> None:
        for _ in range(1200):
            if text in self.text:
                return
            threading.Event().wait(0.05)
        pytest.fail(f"{text!r} is not in {self.text!r}")


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., OnTerminal]]:
    started: list[OnTerminal] = []

    def start(*arguments: object, **options: Any) -> OnTerminal:
        started.append(OnTerminal(*arguments, **options))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.finish()


@pytest.fixture
def target(tmp_path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 64 * MiB)
    return path


@pytest.fixture
def slow_url(web, gpt_image) -> str:
    return web.publish(gpt_image.path, "slow.raw", pause_at=20 * MiB)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_bar_on_a_terminal(on_terminal, web, slow_url, target, columns):
    running = on_terminal(
        "write", "--url", slow_url, "--type", "raw", "--disk", target, TERM="xterm-256color", columns=columns
    )
    running.wait_for("of 48.0 MiB")
    web.resume.set()
    assert running.finish() == 0
    assert "━" in running.text
    assert "\x1b[?25l" in running.text  # the cursor is hidden while the bar moves, and comes back
    assert running.text.rindex("\x1b[?25h") > running.text.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", running.text)
    assert re.findall(r"✓ (\w+) +[\d.]+ s", plain) == [
        "preflight",
        "claim",
        "write",
        "verify",
        "finish",
        "commit",
    ]
    assert "done: 48.0 MiB deployed to" in plain
    # What the terminal itself folds cannot be erased.
    bars = [line for line in re.split(r"[\r\n]+", plain) if "%" in line]
    assert bars
    assert max(map(len, bars)) <= columns


def test_a_terminal_that_is_made_narrower(on_terminal, web, slow_url, target):
    running = on_terminal(
        "write", "--url", slow_url, "--type", "raw", "--disk", target, TERM="xterm", columns=120
    )
    running.wait_for("of 48.0 MiB")
    fcntl.ioctl(running.master, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 40, 0, 0))
    running.wait_for(" % \r\n  ")  # the words are below the bar
    web.resume.set()
    assert running.finish() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_cursor_is_back_after_a_signal(on_terminal, slow_url, target, number):
    running = on_terminal("write", "--url", slow_url, "--type", "raw", "--disk", target, TERM="xterm")
    running.wait_for("of 48.0 MiB")
    running.process.send_signal(number)
    assert running.finish() == 130
    assert running.text.rindex("\x1b[?25h") > running.text.rindex("\x1b[?25l")
    assert "%" not in running.text.rpartition("\x1b[J")[2]  # no bar is left behind


def test_the_linux_console_gets_what_its_fonts_have(on_terminal, web, slow_url, target):
    running = on_terminal("write", "--url", slow_url, "--type", "raw", "--disk", target, TERM="linux")
    running.wait_for("of 48.0 MiB")
    web.resume.set()
    assert running.finish() == 0
    assert running.text.isascii()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", running.text)
    assert re.search(r"#+-+ +\d+\.\d %", plain)
    assert re.search(r"\+ write +[\d.]+ s", plain)


@pytest.mark.parametrize("term", ["dumb", "vt220", ""])
def test_plain_lines_where_a_bar_cannot_be_drawn(on_terminal, slow_url, web, target, term):
    web.resume.set()
    running = on_terminal("write", "--url", slow_url, "--type", "raw", "--disk", target, TERM=term)
    assert running.finish() == 0
    assert "\x1b" not in running.text
    assert "write: begins\r\n" in running.text


def test_a_terminal_that_goes_away_fails_no_deployment(on_terminal, web, slow_url, target, gpt_image):
    running = on_terminal("write", "--url", slow_url, "--type", "raw", "--disk", target, TERM="xterm")
    running.wait_for("of 48.0 MiB")
    running.hang_up()
    web.resume.set()
    assert running.process.wait(100) == 0
    assert target.read_bytes()[MiB : 40 * MiB] == gpt_image.read(MiB, 39 * MiB)


def test_a_console_waits_for_the_agent_and_is_stopped_well(on_terminal, tmp_path):
    running = on_terminal(
        "status", "--watch", "--forever", "--socket", tmp_path / "absent.sock", TERM="linux"
    )
    running.wait_for("byoi-agent is not running")
    running.wait_for("systemctl start byoi-agent")
    running.process.send_signal(signal.SIGTERM)
    assert running.finish() == 0
    assert running.text.rindex("\x1b[?25h") > running.text.rindex("\x1b[?25l")
