"""Two kinds of charts as SVG, written by hand: a library would be larger than they are, and would change its output
with each release.

The same figures give the same bytes. Text is in the reader's own sans-serif.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

FONT = 12
BAR = 14
WIDTH = 900
INK, GRID = "#24292f", "#d0d7de"
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#57606a", "#0550ae")


@dataclass(frozen=True)
class Bar:
    """A bar of pieces: each a length and the name of what it is."""

    label: str
    pieces: Sequence[tuple[str, float]]
    bold: bool = False


@dataclass(frozen=True)
class Line:
    """A line through points. One with no more than one point is drawn across the whole chart."""

    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def bars(title: str, unit: str, groups: Sequence[tuple[str, Sequence[Bar]]], colours: dict[str, str]) -> str:
    """Groups of horizontal bars; `colours` has the names of the pieces, in the order of the legend."""
    left, top, step = 400, 82, BAR + 4
    rows = sum(len(found) for _, found in groups) + 2 * len(groups)
    height = top + rows * step + 24
    most = max((sum(n for _, n in bar.pieces) for _, found in groups for bar in found), default=1.0) or 1.0
    ticks = _ticks(most)
    scale = (WIDTH - left - 60) / max(ticks[-1], most)
    out = [_text(16, 24, title, bold=True), *_legend(colours, 46)]
    for tick in ticks:
        x = left + tick * scale
        out += [_rule(x, top, x, height - 24), _text(x, height - 8, f"{tick:g} {unit}", anchor="middle")]
    y = top
    for name, found in groups:
        y += step
        out.append(_text(16, y + BAR - 3, name, bold=True))
        y += step
        for bar in found:
            out.append(_text(left - 8, y + BAR - 3, bar.label, anchor="end", bold=bar.bold))
            x = float(left)
            for piece, length in bar.pieces:
                out.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{length * scale:.1f}" height="{BAR}" fill="{colours[piece]}"/>'
                )
                x += length * scale
            out.append(_text(x + 4, y + BAR - 3, f"{sum(n for _, n in bar.pieces):.2f}"))
            y += step
    return _document(height, out)


def lines(title: str, x_label: str, y_label: str, found: Sequence[Line]) -> str:
    """Lines over an axis in powers of two."""
    left, top, right, bottom = 64, 60, WIDTH - 16, 360
    places = sorted({x for line in found for x, _ in line.points if len(line.points) > 1})
    low, high = math.log2(places[0]), math.log2(places[-1])
    most = max(y for line in found for _, y in line.points)
    ticks = _ticks(most)
    top_value = max(ticks[-1], most)

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log2(x) - low) / (high - low) if high > low else 0.5
        return left + 30 + share * (right - left - 60), bottom - y / top_value * (bottom - top)

    out = [_text(16, 24, title, bold=True), _text(16, 42, y_label)]
    out.append(_text((left + right) / 2, bottom + 36, x_label, anchor="middle"))
    for tick in ticks:
        _, y = at(places[0], tick)
        out += [_rule(left, y, right, y), _text(left - 6, y + 4, f"{tick:g}", anchor="end")]
    out += [_text(at(place, 0)[0], bottom + 18, f"{place:g}", anchor="middle") for place in places]
    for number, line in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        points = [at(x, y) for x, y in line.points]
        if len(points) == 1:
            height = at(places[0], line.points[0][1])[1]
            points = [(float(left), height), (float(right), height)]
        else:
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        y = bottom + 60 + number * 18
        out.append(f'<rect x="{left}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        out.append(_text(left + 16, y, line.label))
    return _document(bottom + 60 + len(found) * 18, out)


def _ticks(most: float) -> list[float]:
    """From 0 to at least `most`, in four to eight round steps."""
    rough = most / 6 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
    return [round(step * n, 10) for n in range(math.ceil(most / step) + 1)]


def _legend(colours: dict[str, str], y: int) -> list[str]:
    out, x = [], 16.0
    for name, colour in colours.items():
        width = 26 + 6.6 * len(name)
        if x + width > WIDTH:
            x, y = 16.0, y + 18
        out += [
            f'<rect x="{x:.0f}" y="{y - 9}" width="10" height="10" fill="{colour}"/>',
            _text(x + 14, y, name),
        ]
        x += width
    return out


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GRID}"/>'


def _document(height: float, content: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" '
        f'font-size="{FONT}" fill="{INK}">\n<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    )
    return "\n".join([head, *content, "</svg>", ""])
