"""docs/proof.md: the last long run of each suite, in a table that the runs write."""

import re
from datetime import UTC, datetime
from pathlib import Path

from tests.kit.commands import ROOT, run
from tests.storm.frame import SUITES, Result

PAGE = ROOT / "docs/proof.md"
BEGIN, END = "<!-- written by sh tests/storm/run --write -->", "<!-- end -->"
HEADS = ("suite", "runs", "first seed", "date", "commit", "violations")


def write(result: Result, page: Path = PAGE) -> None:
    """Put the row of this run in the place of the one that its suite had."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    rows = dict(re.findall(r"^\| (\w+) \|(.*)$", table, re.MULTILINE))
    rows[result.order.suite] = " " + " | ".join(_cells(result)) + " |"
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    lines += [f"| {name} |{rows[name]}" for name in SUITES if name in rows]
    page.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after)


def _cells(result: Result) -> list[str]:
    return [
        str(result.runs),
        str(result.order.seed),
        datetime.now(UTC).date().isoformat(),
        result.order.commit,
        str(len(result.violations)),
    ]


def commit() -> str:
    """What is being tried, as it is now."""
    git = ("git", "-c", "safe.directory=*", "-C", ROOT)
    changed = run(*git, "status", "--porcelain", "agent").strip()
    return run(*git, "rev-parse", "--short=9", "HEAD").strip() + (", changed" if changed else "")
