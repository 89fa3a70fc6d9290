import asyncio
import dataclasses
import io
import re

import pytest

from agent.cli.bar import Bar
from agent.cli.lines import REPEAT_SECONDS, Lines
from agent.cli.progress import is_plain, is_serial, show_progress
from agent.cli.surroundings import Contact, contact_words
from agent.cli.words import amounts, summary
from agent.errors import ImageDownload
from agent.model.events import Finished, Noted, StageBegan, StageEnded
from agent.model.stage import State
from agent.model.status import Progress, StageTime, Status
from agent.units import GiB, MiB

STATUS = Status(
    server_name=None,
    state=State.WRITE,
    message="",
    checksum="sha256:abc",
    percent=41.27,
    attempt=1,
    progress=Progress(
        bytes_downloaded=512 * MiB, bytes_total=GiB, rate=100 * MiB, eta=5.12, waiting_on="network"
    ),
    started_at=1000.0,
    updated_at=1010.0,
    finished_at=1012.5,
    disks=({"path": "/dev/sda"},),
    job={"checkSum": "abc"},
)


def printed(stream: io.StringIO) -> list[str]:
    """The lines without their times."""
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    return [line[9:] for line in lines]


def test_amounts_in_words():
    assert amounts(STATUS) == "512.0 MiB of 1.0 GiB, 100.0 MiB/s, 5.1 s left, waiting on network"
    unknown = dataclasses.replace(STATUS, progress=Progress(bytes_downloaded=3))
    assert amounts(unknown) == "3 B"


def test_the_last_line():
    assert summary(STATUS) == "done: 512.0 MiB deployed to /dev/sda in 12.5 s (sha256:abc)"
    unchecked = summary(dataclasses.replace(STATUS, job={"checkSum": None}))
    assert unchecked.endswith(" (sha256:abc; only the length was verified)")
    lost = {"path": "/dev/sdb", "failed": "it is worn"}
    said = summary(dataclasses.replace(STATUS, disks=(lost, *STATUS.disks)))
    assert said.startswith("done: 512.0 MiB deployed to /dev/sda in")
    assert said.endswith("; /dev/sdb failed and was kept out")


def test_events_are_lines():
    stream = io.StringIO()
    lines = Lines(stream)
    failed = dataclasses.replace(STATUS, error=ImageDownload(url="http://a.example/x").document())
    for event in (StageBegan(State.CLAIM), StageEnded(State.CLAIM, 0.26), Noted("again"), Finished(failed)):
        lines.listen(event)
    # What went wrong is printed by the command, once.
    assert printed(stream) == ["claim: begins", "claim: 0.3 s", "note: again"]
    lines.listen(StageEnded(State.WRITE, 2, failed=True))
    assert printed(stream)[-1] == "write: failed after 2.0 s"
    lines.listen(Finished(STATUS))
    assert printed(stream)[-1] == summary(STATUS)


async def test_progress_comes_at_a_steady_pace_and_only_while_bytes_flow():
    stream = io.StringIO()
    lines = Lines(stream)
    lines.interval_seconds = 0.01
    async with lines.following(lambda: dataclasses.replace(STATUS, state=State.CLAIM)):
        await asyncio.sleep(0.05)
    assert printed(stream) == []
    async with lines.following(lambda: STATUS):
        await asyncio.sleep(0.2)
    count = len(printed(stream))
    assert 2 <= count <= 20
    assert set(printed(stream)) == {" 41.3 % " + amounts(STATUS)}
    await asyncio.sleep(0.05)
    assert len(printed(stream)) == count


def test_a_console_that_went_away_fails_nothing():
    stream = io.StringIO()
    lines = Lines(stream)
    stream.close()
    lines.listen(Noted("nobody reads this"))


def test_the_footer_is_printed_when_it_changes_and_once_in_a_while():
    now = [1000.0]
    stream = io.StringIO()
    lines = Lines(stream, clock=lambda: now[0])
    lines.keep_footer(lambda: ("waiting",))
    for _ in range(5):
        now[0] += 5
        lines.tick(lambda: None)
    assert printed(stream) == ["waiting"]
    now[0] += REPEAT_SECONDS
    lines.tick(lambda: None)
    assert printed(stream) == ["waiting"] * 2
    lines.keep_footer(lambda: (f"rebooting in {now[0]:.0f} s",))
    now[0] += 5
    lines.tick(lambda: None)
    assert printed(stream)[2:] == ["rebooting in 1085 s"]  # that a countdown goes on is no news
    lines.keep_footer(lambda: ("error: x", "hint: y"))
    lines.keep_footer(lambda: ())
    lines.tick(lambda: None)
    assert printed(stream)[3:] == ["error: x", "hint: y"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("byoi-agent 0.2.0 on a; address: 192.0.2.7", "byoi-agent 0.2.0 on a; address: 192.0.2.8"),
        ("byoi-agent 0.2.0 on a; address: 192.0.2.7", "byoi-agent 0.2.1 on a; address: 192.0.2.7"),
        ("error: its configuration has 3 faults.", "error: its configuration has 2 faults."),
    ],
)
def test_another_number_is_news(before, after):
    stream = io.StringIO()
    lines = Lines(stream, clock=lambda: 1000.0)
    for footer in (before, after, after):
        lines.keep_footer(lambda footer=footer: (footer,))
    assert printed(stream) == [before, after]


def test_time_that_goes_by_is_no_news():
    stream = io.StringIO()
    lines = Lines(stream, clock=lambda: 1000.0)
    for since, left in ((9.9, 3600), (59.9, 61), (61, 60), (3599, 2.5), (3600, 0)):
        plane = Contact("https://c", "failing", 100.0, "no answer within 30 s", 100.0 + since + left)
        text = contact_words(plane, 100.0 + since)
        lines.keep_footer(lambda text=text: (text,))
    lines.keep_footer(lambda: ("rebooting to disk in 42 s at most",))
    lines.keep_footer(lambda: ("rebooting to disk in 2 h 00 min at most",))
    assert printed(stream) == [
        "https://c fails: no answer within 30 s (for 9.9 s, next try in 1 h 00 min)",
        "rebooting to disk in 42 s at most",
    ]


def test_notes_hold_nothing_that_a_terminal_obeys():
    stream = io.StringIO()
    Lines(stream).listen(Noted("redirected to \x1b]0;x\x07"))
    assert printed(stream) == ["note: redirected to ?]0;x?"]


SERIAL = ("/dev/ttyS0", "/dev/ttyAMA0", "/dev/ttyUSB1", "/dev/hvc0", "/dev/ttysclp0", "/dev/console")
SCREENS = ("/dev/tty1", "/dev/tty", "/dev/pts/3")


def test_serial_lines_are_known_by_their_device():
    assert [device for device in SERIAL if not is_serial(device)] == []
    assert [device for device in SCREENS if is_serial(device)] == []


def test_a_pipe_is_no_terminal():
    assert is_plain(io.StringIO(), {"TERM": "xterm"})


async def test_quiet_says_nothing(capsys):
    display = show_progress(quiet=True)
    display.listen(Noted("x"))
    async with display.following(lambda: STATUS):
        pass
    assert capsys.readouterr() == ("", "")


async def test_a_bar_on_a_terminal(monkeypatch):
    """Stages that are over stay on the screen; the bar itself does not."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    display = show_progress(quiet=False)
    async with display.following(lambda: STATUS):
        await asyncio.sleep(0.5)
        display.listen(StageEnded(State.WRITE, 3))
        display.listen(Noted("a note [with brackets]"))
        display.listen(StageEnded(State.VERIFY, 1, failed=True))
    display.listen(Finished(STATUS))
    text = drawn(terminal)
    assert " 41.3 %" in text
    assert re.search(r"✓ write +3\.0 s", text)
    assert "note: a note [with brackets]" in text
    assert re.search(r"✗ verify +1\.0 s", text)
    assert text.rstrip().endswith(summary(STATUS))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(terminal: io.StringIO) -> str:
    """What was drawn, without the sequences that move the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


async def test_the_footer_is_below_the_bar_and_cannot_steer_the_terminal():
    terminal = Terminal()
    bar = Bar(terminal, {"TERM": "xterm", "COLUMNS": "100"}, clock=lambda: 1004.0)
    bar.interval_seconds = 0.01
    footer = [("rebooting to disk in [bold]42 s[/bold]",)]
    bar.keep_footer(lambda: footer[0])
    stages = (StageTime("verify", 1000.0, None),)
    status = [dataclasses.replace(STATUS, state=State.VERIFY, stages=stages), None]
    async with bar.following(lambda: status[0]):
        await asyncio.sleep(0.1)
        bar.listen(Noted("\x1b]0;x\x07[red]"))
        status.pop(0)
        footer[0] = ("error: it failed", "hint: do something")
        await asyncio.sleep(0.1)
    text = drawn(terminal)
    assert re.search(
        r"verify +━+-+ +41\.3 % 4\.0 s *\n· finish  · commit\n *rebooting to disk in \[bold\]42 s\[/bold\]",
        text,
    )
    assert "note: ?]0;x?[red]" in text
    assert "error: it failed" in text
    assert "hint: do something" in text
    assert "\x1b]0" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (
            120,
            [
                "  write      ━━━━━━━━━━━━------------------  41.3 % " + amounts(STATUS),
                "· verify  · finish  · commit",
                "rebooting soon",
            ],
        ),
        (
            80,
            [
                "  write      ━━━━━━━━━━━━------------------  41.3 % 512.0 MiB of 1.0 GiB, 100.0",
                " " * 52 + "MiB/s, 5.1 s left, waiting",
                " " * 52 + "on network",
                "· verify  · finish  · commit",
                "rebooting soon",
            ],
        ),
        (
            40,
            [
                "  write      ━━━━━━━-----------  41.3 % ",
                "  512.0 MiB of 1.0 GiB, 100.0 MiB/s, 5.1",
                "  s left, waiting on network",
                "· verify  · finish  · commit",
                "rebooting soon",
            ],
        ),
    ],
)
async def test_a_narrow_terminal_has_the_words_below_the_bar(columns, lines):
    terminal = Terminal()
    bar = Bar(terminal, {"TERM": "xterm", "COLUMNS": str(columns)})
    bar.keep_footer(lambda: ("rebooting soon",))
    async with bar.following(lambda: STATUS):
        bar.tick(lambda: STATUS)
        assert drawn(terminal).splitlines() == lines


async def test_a_long_footer_leaves_room_for_the_others_and_is_cut_at_the_end_of_the_terminal():
    terminal = Terminal()  # of 25 lines
    bar = Bar(terminal, {"TERM": "linux", "COLUMNS": "40"})
    footer = [f"{number} " + "word " * 100 for number in range(7)]
    bar.keep_footer(lambda: tuple(footer))
    async with bar.following(lambda: None):
        bar.tick(lambda: None)
        lines = drawn(terminal).splitlines()
    assert len(lines) == 25
    assert [line[0] for line in lines[::5]] == ["0", "1", "2", "3", "4"]
    assert all(line.endswith("...") for line in lines[4::5])


@pytest.mark.parametrize(
    ("environ", "bar"),
    [
        ({}, "\x1b[32m" + "━" * 12 + "\x1b[0m\x1b[90m" + "-" * 18 + "\x1b[0m"),
        ({"NO_COLOR": "1"}, "━" * 12 + "-" * 18),
        ({"TERM": "linux", "NO_COLOR": "1"}, "#" * 12 + "-" * 18),
    ],
)
async def test_what_is_left_of_the_bar_is_seen_without_colours(environ, bar):
    terminal = Terminal()
    display = Bar(terminal, environ)
    async with display.following(lambda: STATUS):
        display.tick(lambda: STATUS)
    assert f"write      {bar}  41.3 %" in terminal.getvalue()
