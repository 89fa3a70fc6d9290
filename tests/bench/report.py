"""What the samples of a run say: tables in Markdown, for the terminal and for the page alike.

`results` is the document that comparison.py writes. Ratios are taken in each round, and their median is shown.
"""

from statistics import median
from typing import Any

MIB = 1 << 20

Results = dict[str, Any]
Entry = dict[str, Any]
"""A row of the results, or a command of one."""

PARTS = {
    "receive": "the network",
    "hash": "the hash, on one core",
    "write": "the disk",
    "unpack": "unpacking",
}


def text(results: Results) -> str:
    """Everything."""
    rows = results["rows"].values()
    parts = [machine(results), verdict(results), summary(rows)]
    parts += [
        f"**{row['title']}**, {_size(row)}\n\n{commands(row)}"
        for row in rows
        if not (row["series"] and row["x"])
    ]
    parts += [f"**{title}**\n\n{table}" for title, table in series(rows)]
    return "\n\n".join(part for part in parts if part)


# -- figures ---------------------------------------------------------------------------------------------------------


def ours(row: Entry) -> Entry:
    """The command that is ours."""
    return next(command for command in row["commands"] if command["kind"] == "ours")


def of_kind(row: Entry, kind: str) -> list[Entry]:
    """Commands of this kind: ours, peer, limit."""
    return [command for command in row["commands"] if command["kind"] == kind]


def values(command: Entry, key: str) -> list[float]:
    """Of each round."""
    return [sample[key] for sample in command["samples"]]


def seconds(command: Entry) -> list[float]:
    """Of each round: of a part alone without its start, else of the whole command."""
    parts = values(command, "part")
    return parts if command["kind"] == "limit" and None not in parts else values(command, "wall")


def ratio(command: Entry, base: Entry) -> float:
    """How many times as long as the base it takes."""
    return median(a / b for a, b in zip(values(command, "wall"), values(base, "wall"), strict=True))


def hashed(row: Entry, command: Entry) -> list[float] | None:
    """An unverified peer's seconds with a pass of the hash behind it; None where the hash was not measured."""
    price = next((c for c in of_kind(row, "limit") if c["name"].startswith("hash ")), None)
    if price is None:
        return None
    return [a + b for a, b in zip(values(command, "wall"), seconds(price), strict=True)]


def faster_verifying(results: Results) -> list[tuple[Entry, Entry]]:
    """Each row and verifying peer that takes less time than ours."""
    return [
        (row, peer)
        for row in results["rows"].values()
        for peer in of_kind(row, "peer")
        if peer["verifies"] and ratio(peer, ours(row)) < 1
    ]


def bound(row: Entry) -> tuple[str, float] | None:
    """The part that takes longest alone, and what our write stage reaches of its speed."""
    alone = {
        name: command
        for command in of_kind(row, "limit")
        for name, what in PARTS.items()
        if command["name"].startswith(f"{name} alone")
    }
    if not alone:
        return None
    slowest = max(alone, key=lambda name: median(seconds(alone[name])))
    stage = values(ours(row), "part")
    return PARTS[slowest], median(a / b for a, b in zip(seconds(alone[slowest]), stage, strict=True))


# -- tables ----------------------------------------------------------------------------------------------------------


def machine(results: Results) -> str:
    """Where and when that was."""
    about = results["about"]
    rounds = {len(command["samples"]) for row in results["rows"].values() for command in row["commands"]}
    server = next(iter(results["rows"].values()))["server"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['date']}; {about['cores']} cores ({about['cpu']}), which also ran the server; "
        f"Linux {about['kernel']}, Python {about['python']}, {server}, {versions}. "
        f"Disk: loop device with direct I/O over a file on {about['filesystem']}. "
        f"Load {about['load before']:.1f} before and {about['load after']:.1f} after. {_rounds(rounds)}"
    )


def _rounds(found: set[int]) -> str:
    if found == {1}:
        return "One round."
    return f"Medians of {' or '.join(map(str, sorted(found)))} rounds, with the least and the most."


def is_busy(results: Results) -> bool:
    """Whether the machine had something else to do when it began."""
    return bool(results["about"]["load before"] > results["about"]["cores"])


def verdict(results: Results) -> str:
    """The goal, and where it is missed."""
    if is_busy(results):
        return "**The machine was busy with other things: these figures show no more than that every command works.**"
    missed = faster_verifying(results)
    if not missed:
        return "**No peer that verifies the image is faster in any row.**"
    listed = "; ".join(
        f"{row['title']}: `{peer['name']}` takes {ratio(peer, ours(row)):.2f} of our time"
        for row, peer in missed
    )
    return f"**Missed**: a peer that verifies the image is faster here. {listed}."


def summary(rows: Any) -> str:
    """One line a row."""
    lines = [
        _line(
            [
                "image",
                "`byoi write`, s",
                "times faster than the fastest that verifies",
                "than the fastest that does not",
                "than that one with the hash",
                "slowest part alone",
                "write stage reaches of it",
            ]
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = bound(row)
        limit, reached = (found[0], f"{found[1]:.2f}") if found else ("", "")
        verifying = [peer for peer in of_kind(row, "peer") if peer["verifies"]]
        others = [peer for peer in of_kind(row, "peer") if not peer["verifies"]]
        cells = [
            row["title"],
            _span(values(ours(row), "wall")),
            _fastest(row, verifying),
            _fastest(row, others),
        ]
        lines.append(_line([*cells, _fastest_hashed(row, others), limit, reached]))
    return "\n".join(lines)


def _fastest(row: Entry, peers: list[Entry]) -> str:
    if not peers:
        return ""
    best = min(peers, key=lambda peer: ratio(peer, ours(row)))
    return f"{ratio(best, ours(row)):.2f} ({_code(best['name'])})"


def _fastest_hashed(row: Entry, peers: list[Entry]) -> str:
    ratios = [
        median(a / b for a, b in zip(total, values(ours(row), "wall"), strict=True))
        for peer in peers
        if (total := hashed(row, peer))
    ]
    return f"{min(ratios):.2f}" if ratios else ""


def commands(row: Entry) -> str:
    """All commands of a row."""
    lines = [
        "| | verifies | wall s (min to max) | processor s | peak MiB | wall / ours | with the hash / ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for command in row["commands"]:
        limit = command["kind"] == "limit"
        price = "" if limit or command["verifies"] else _hashed_ratio(row, command)
        lines.append(
            _line(
                [
                    _name(command),
                    "" if limit else command["verifies"] or "**nothing**",
                    _span(seconds(command)),
                    f"{median(values(command, 'cpu')):.2f}",
                    _memory(command),
                    "" if limit else f"{ratio(command, ours(row)):.2f}",
                    price,
                ]
            )
        )
    lines += [f"\n`{name}` is left out: it hung again and again." for name in row["given up"]]
    return "\n".join(lines)


def _hashed_ratio(row: Entry, command: Entry) -> str:
    total = hashed(row, command)
    if total is None:
        return ""
    return f"{median(a / b for a, b in zip(total, values(ours(row), 'wall'), strict=True)):.2f}"


def series(rows: Any) -> list[tuple[str, str]]:
    """A table for each plot whose points are rows: what it is about, and the table."""
    found: dict[str, list[Entry]] = {}
    for row in rows:
        if row["series"] and row["x"] is not None:
            found.setdefault(row["series"], []).append(row)
    tables = []
    for name, points in found.items():
        peers = [peer["name"] for peer in of_kind(points[0], "peer")]
        lines = [
            _line(["", *(f"{_code(c)}, s" for c in (ours(points[0])["name"], *peers)), "times faster"]),
            "|---" * (len(peers) + 3) + "|",
        ]
        for row in points:
            own, others = ours(row), of_kind(row, "peer")
            lines.append(
                _line(
                    [
                        row["title"],
                        *(_span(values(command, "wall")) for command in (own, *others)),
                        f"{min(ratio(peer, own) for peer in others):.2f}",
                    ]
                )
            )
        tables.append((name, "\n".join(lines)))
    return tables


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(name: str) -> str:
    """A pipe inside of a table's cell has to be marked, in code too."""
    return f"`{name.replace('|', chr(92) + '|')}`"


def _name(command: Entry) -> str:
    hung = command["hung"]
    return _code(command["name"]) + (f" (hung and run again: {hung})" if hung else "")


def _span(found: list[float]) -> str:
    if len(found) == 1:
        return f"{found[0]:.2f}"
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def _memory(command: Entry) -> str:
    peak = f"{max(values(command, 'peak')) / MIB:.0f}"
    return f"{peak} + {command['staged'] / MIB:.0f} stored" if command["staged"] else peak


def _size(row: Entry) -> str:
    return f"{row['size'] / MIB:.0f} MiB for a disk of {row['guest'] / MIB:.0f}"
