"""Writes what a run of the lab gave into docs/lab.md: the section of the matrix, of the power cuts, or of the mirrors.

    python -m tests.lab.results matrix RESULTS
    python -m tests.lab.results power-cuts RESULTS
    python -m tests.lab.results mirrors RESULTS

RESULTS has one line of JSON for each test (see conftest.py). The rest of the document stays as it is.
"""

import json
import os
import platform
import re
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.kit.commands import run
from tests.lab.matrix import CASES, Case

UNKNOWN = "not told"
DEBIAN = {"trixie": 13}
DOCUMENT = Path(__file__).parents[2] / "docs/lab.md"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def where() -> str:
    """The machine and the date, for figures that depend on both."""
    qemu = re.search(r"version (\S+)", run("qemu-system-x86_64", "--version"))
    version = "" if qemu is None else f" {qemu[1]}"
    today = datetime.now(UTC).date().isoformat()
    cores = f"{os.cpu_count()} cores ({platform.machine()}) with a load of {os.getloadavg()[2]:.0f}"
    return f"{today}, QEMU{version} without KVM, on {cores}"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = [" | ".join(heads), " | ".join("---" for _ in heads), *(" | ".join(row) for row in rows)]
    return [f"| {line} |" for line in lines]


def seconds(result: dict[str, Any], name: str) -> str:
    found = result["seconds"].get(name)
    return "" if found is None else f"{found:.0f}"


def matrix(results: list[dict[str, Any]]) -> list[str]:
    """One row for each case, also for one that has no result."""
    by_case = {result["case"]: result for result in results if result["case"]}
    rows = [row(case, by_case.get(case.name)) for case in CASES]
    passed = sum(r["outcome"] == "passed" for name, r in by_case.items())
    heads = [
        "system",
        "job",
        "firmware",
        "table",
        "sectors",
        "image",
        "disk",
        "further",
        "expected",
        "result",
        "deploy s",
        "boot s",
    ]
    summary = f"{passed} of {len(CASES)} cases passed ({where()}; CI runs those marked with *)."
    return [summary, "", *table(heads, rows)]


def further(case: Case) -> str:
    """What else is special about the server."""
    said = []
    said += ["a disk of 4096-byte sectors"] if case.disk_sectors else []
    said += ["from a registry, signed there, read back, with a receipt"] if case.registry else []
    said += ["an old array and volume group are alive"] if case.former else []
    said += [f"a rescue of Debian {DEBIAN[case.rescue]}"] if case.rescue else []
    said += [f"two disks, diskGroupId {case.group}"] if case.group else []
    said += ["the image ends with its root"] if case.full else []
    return ", ".join(said)


def row(case: Case, result: dict[str, Any] | None) -> list[str]:
    server = [
        case.system + ("*" if case.ci else ""),
        case.way,
        case.firmware,
        case.table + ("" if case.esp else ", no ESP"),
    ]
    image = [str(case.sector_size), case.form, case.bus, further(case)]
    expected = f"refused: `{case.refused}`" if case.refused else "boots"
    if result is None:
        return [*server, *image, expected, "**not run**", "", ""]
    outcome = "passed" if result["outcome"] == "passed" else f"**{result['outcome']}**"
    outcome += " at a second start" if result["notes"].get("panics") else ""
    return [*server, *image, expected, outcome, seconds(result, "deploy"), seconds(result, "boot")]


def power_cuts(results: list[dict[str, Any]]) -> list[str]:
    """How many cuts in each stage that had been reached, and what they left."""
    cuts = [result for result in results if "cut" in result["notes"]]
    passed = [cut for cut in cuts if cut["outcome"] == "passed"]
    counted = Counter(
        (cut["notes"].get("reached", UNKNOWN), cut["notes"].get("left", "**its test failed**"))
        for cut in cuts
    )
    order = ["starting", "preflight", "claim", "write", "verify", "finish", "commit", "done", UNKNOWN]
    rows = [
        [stage, left, str(count)]
        for (stage, left), count in sorted(
            counted.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
        )
    ]
    seeds = ", ".join(sorted({cut["notes"]["seed"] for cut in cuts}))
    summary = f"{len(passed)} of {len(cuts)} power cuts passed ({where()}; seed {seeds})."
    return [summary, "", *table(["stage reached", "what it left on the disk", "cuts"], rows)]


def mirrors(results: list[dict[str, Any]]) -> list[str]:
    """One row for each start of a mirror."""
    starts = [result for result in results if "disks" in result["notes"]]
    passed = sum(start["outcome"] == "passed" for start in starts)
    rows = [
        [
            start["notes"]["disks"],
            start["notes"]["firmware"],
            start["notes"]["found"],
            "passed" if start["outcome"] == "passed" else f"**{start['outcome']}**",
            seconds(start, "boot"),
        ]
        for start in starts
    ]
    heads = ["disks", "firmware", "expected", "result", "boot s"]
    return [f"{passed} of {len(starts)} starts passed ({where()}).", "", *table(heads, rows)]


SECTIONS = {"matrix": matrix, "power-cuts": power_cuts, "mirrors": mirrors}


def replace_section(document: str, name: str, lines: list[str]) -> str:
    """Put lines between a section's marks.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = f"<!-- {name}: written by the lab -->", f"<!-- {name}: end -->"
    head, found, rest = document.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no marks of {name}")
    return "\n".join([head + begin, "", *lines, "", end]) + tail


def main(name: str, results: str) -> None:
    lines = SECTIONS[name](read(Path(results)))
    DOCUMENT.write_text(replace_section(DOCUMENT.read_text(), name, lines))
    print(lines[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
