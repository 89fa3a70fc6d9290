"""Progress on real terminals: what is drawn where, and what becomes of a deployment whose terminal goes away."""

import fcntl
import os
import re
import signal
import struct
import termios
from pathlib import Path

import pytest

from agent.units import MiB


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
