"""Which figures of a run are drawn, and how."""

from statistics import median

from report import Entry, Results, of_kind, ours, values
from svg import COLOURS, Bar, Line, bars, lines

STAGES = ("start", "preflight", "claim", "write", "verify", "finish", "commit")
"""Of a deployment. The start is what is left: the interpreter, imports, and the end of the process."""
VERIFIED, UNVERIFIED = "a peer that verifies", "a peer that does not"
STEPS = {"download": "its download", "hash": "its hash", "convert": "its conversion", "write": "its writing"}
"""Of a peer that does one thing after the other. The others do everything at once."""


def draw(results: Results) -> dict[str, str]:
    """Every plot that the results have figures for, by the name of its file."""
    rows = list(results["rows"].values())
    found = {"stages.svg": _stages([row for row in rows if row["x"] is None])}
    if several := next((row for row in rows if row["series"] == "connections"), None):
        found["connections.svg"] = _connections(several)
    by_cores = [row for row in rows if row["series"].startswith("cores: ")]
    if len({row["x"] for row in by_cores}) > 1:
        found["cores.svg"] = _over_rows(
            by_cores,
            "Unpacking on several cores",
            "cores that the command was left, the server beside it",
            "MB/s of the disk",
        )
    fragments = [row for row in rows if row["series"] == "fragments"]
    if len(fragments) > 1:
        found["fragments.svg"] = _over_rows(
            fragments, "qcow2 in fragments, all in random order", "KiB of a cluster", "MB/s of the disk"
        )
    return found


def _stages(rows: list[Entry]) -> str:
    names = [*STAGES, *STEPS.values(), VERIFIED, UNVERIFIED]
    palette = (*COLOURS[:6], "#54aeff", "#e8b04b", "#8c6d1f", "#f5d67b", "#c9a227", "#8c959f", "#d0d7de")
    groups = []
    for row in rows:
        own = [Bar(ours(row)["name"], _own_pieces(ours(row)), bold=True)]
        groups.append(
            (row["title"], [*own, *(Bar(peer["name"], _pieces(peer)) for peer in of_kind(row, "peer"))])
        )
    return bars("Time by stage, medians", "s", groups, dict(zip(names, palette, strict=True)))


def _own_pieces(command: Entry) -> list[tuple[str, float]]:
    wall = median(values(command, "wall"))
    stages = {name: median(sample["steps"][name] for sample in command["samples"]) for name in STAGES[1:]}
    return [("start", max(0.0, wall - sum(stages.values()))), *stages.items()]


def _pieces(command: Entry) -> list[tuple[str, float]]:
    steps = command["samples"][0]["steps"]
    if len(steps) > 1 and set(steps) <= set(STEPS):
        return [
            (STEPS[name], median(sample["steps"][name] for sample in command["samples"])) for name in steps
        ]
    return [(VERIFIED if command["verifies"] else UNVERIFIED, median(values(command, "wall")))]


def _connections(row: Entry) -> str:
    peers = [peer for peer in of_kind(row, "peer") if peer["x"] is not None]
    others = [peer for peer in of_kind(row, "peer") if peer["x"] is None]
    found = [
        Line(f"{ours(row)['name']}, as many as it takes by itself", [(1, _speed(row, ours(row)))]),
        Line("aria2c -xN; dd oflag=direct", [(peer["x"], _speed(row, peer)) for peer in peers]),
        *(Line(peer["name"], [(1, _speed(row, peer))], dashed=True) for peer in others),
    ]
    return lines(f"Several connections: {row['title']}", "connections", "MB/s, start to end", found)


def _over_rows(rows: list[Entry], title: str, x_label: str, y_label: str) -> str:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        packed = row["series"].removeprefix("cores: ") if row["series"].startswith("cores") else ""
        for command in (ours(row), *of_kind(row, "peer")):
            label = f"{packed}: {command['name']}" if packed else command["name"]
            found.setdefault(label, []).append((row["x"], _speed(row, command)))
    own = ours(rows[0])["name"]
    return lines(
        title,
        x_label,
        y_label,
        [Line(label, points, dashed=not label.endswith(own)) for label, points in found.items()],
    )


def _speed(row: Entry, command: Entry) -> float:
    """MB of the disk a second, the whole command."""
    return row["guest"] / 1e6 / median(values(command, "wall"))
