"""The kept corpus: for each subject of the images storm a few files that take its reader through different lines.

They were found by tests/storm/fuzz and are in one archive for each subject. To read them again takes no fuzzer.
"""

import lzma
import random
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from agent.units import KiB
from tests.kit.commands import ROOT
from tests.kit.decoding import guest
from tests.storm.images import Storm, read
from tests.storm.subject import Subject

DIRECTORY = Path(__file__).parent / "corpus"
MOST_BYTES = 16 * KiB
"""Of one archive: all of them stay below a MiB."""
MOST_FILES = 32
CONTENT = guest(1 * KiB) + bytes(31 * KiB) + guest(KiB // 2) + bytes(31 * KiB + KiB // 2)
"""The disk in the images: small, so that a fuzzer reads many of them."""
AGENT = str(ROOT / "agent") + "/"

Line = tuple[str, int, int]
"""A file of the agent, a line, and the line before it."""


def path_of(subject: Subject) -> Path:
    return DIRECTORY / f"{subject.name.replace(' ', '-')}.zip"


def chance_of(data: bytes) -> random.Random:
    """Chance, the same whenever the same file is read."""
    return random.Random(zlib.crc32(data))


def load(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


def keep(path: Path, inputs: Iterable[bytes]) -> None:
    """Write the archive: the same inputs make the same one."""
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for data in inputs:
            entry = zipfile.ZipInfo(f"{zlib.crc32(data):08x}")
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, data)


def replay(storm: Storm, subject: Subject, data: bytes) -> str:
    """Read a file as a run of the storm does."""
    return storm.try_one(subject, data, chance_of(data))


def minimised(subject: Subject, inputs: Iterable[bytes]) -> list[bytes]:
    """Those inputs, the smallest first, each of which goes where neither the sample nor one before it has gone."""
    packed = {data: len(lzma.compress(data)) for data in inputs}
    seen = lines_of(subject, subject.data)
    kept: list[bytes] = []
    room = MOST_BYTES
    for data in sorted(packed, key=lambda data: (packed[data], data)):
        new = lines_of(subject, data) - seen
        if new and packed[data] <= room and len(kept) < MOST_FILES:
            kept.append(data)
            seen |= new
            room -= packed[data]
    return kept


def lines_of(subject: Subject, data: bytes) -> set[Line]:
    """The agent's lines that run when a file is read, each with the one before it."""
    seen: set[Line] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        if not name.startswith(AGENT):
            return None
        before = 0

        def line(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            nonlocal before
            if event == "line":
                seen.add((name, before, frame.f_lineno))
                before = frame.f_lineno
            return line

        return line

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        read(subject, data, chance_of(data))
    finally:
        sys.settrace(old)
    return seen
