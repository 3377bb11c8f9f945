"""A plot of rates over sizes as SVG, both axes logarithmic, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "Panel", "plot"]

WIDTH, HEIGHT = 400, 300
"""Of the area with the lines, in each panel."""
LEFT, TOP, GAP, BELOW = 104, 40, 60, 92
COLOURS = ("#d1495b", "#2e86ab", "#7fb0c9", "#8a9a5b", "#b08bbb")
"""Middling in lightness, as the text is: they stand out on white and on near black."""
TICKS = (
    (2**20, "1 MiB/s"),
    (2**22, "4 MiB/s"),
    (2**24, "16 MiB/s"),
    (2**26, "64 MiB/s"),
    (2**28, "256 MiB/s"),
    (2**30, "1 GiB/s"),
    (2**32, "4 GiB/s"),
    (2**34, "16 GiB/s"),
)
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #7a7a7a }
.title { font-weight: 600 }
.grid { stroke: #888; stroke-opacity: .3 }
.axis { stroke: #888; fill: none }
.line { fill: none; stroke-width: 2 }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One server."""

    label: str
    points: list[tuple[int, float]]
    """Bytes of a range, bytes a second."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One payload; the panels of a plot have the same lines."""

    title: str
    lines: list[Line]


def plot(panels: Sequence[Panel], sizes: Sequence[tuple[int, str]]) -> str:
    """The SVG; `sizes` are the places on the x axis with their labels."""
    rates = [rate for panel in panels for line in panel.lines for _, rate in line.points]
    ticks = [(rate, label) for rate, label in TICKS if min(rates) / 4 < rate < max(rates) * 4]
    low, high = math.log2(ticks[0][0]), math.log2(ticks[-1][0])
    first, last = math.log2(sizes[0][0]), math.log2(sizes[-1][0])

    def across(size: float) -> float:
        return 24 + (math.log2(size) - first) / ((last - first) or 1) * (WIDTH - 48)

    def down(rate: float) -> float:
        return HEIGHT - (math.log2(rate) - low) / ((high - low) or 1) * HEIGHT

    width = LEFT + len(panels) * (WIDTH + GAP) - GAP + 20
    height = TOP + HEIGHT + BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">',
        "<title>Bytes a second over the size of the ranges, for each server</title>",
        f"<style>\n{STYLE}</style>",
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({LEFT + number * (WIDTH + GAP)} {TOP})">')
        parts.append(_text(WIDTH / 2, -14, f"blocks of {panel.title}", "middle", "title"))
        for rate, label in ticks:
            y = down(rate)
            parts.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
            if number == 0:
                parts.append(_text(-8, y + 4, label, "end"))
        for size, label in sizes:
            x = across(size)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT}" y2="{HEIGHT + 5}"/>')
            parts.append(_text(x, HEIGHT + 20, label, "middle"))
        parts.append(f'<rect class="axis" width="{WIDTH}" height="{HEIGHT}"/>')
        parts.append(_text(WIDTH / 2, HEIGHT + 42, "size of a range", "middle"))
        # Backwards: the first line, which is ours, lies on top.
        for index in reversed(range(len(panel.lines))):
            parts += _line(panel.lines[index], COLOURS[index % len(COLOURS)], across, down)
        parts.append("</g>")
    across_page = f'<g transform="translate(16 {TOP + HEIGHT / 2}) rotate(-90)">'
    parts += [across_page, _text(0, 0, "bytes a second", "middle"), "</g>"]
    at = LEFT
    for index, line in enumerate(panels[0].lines):
        y, colour = TOP + HEIGHT + 74, COLOURS[index % len(COLOURS)]
        parts.append(
            f'<line class="line" stroke="{colour}" x1="{at}" x2="{at + 24}" y1="{y - 4}" y2="{y - 4}"/>'
        )
        parts.append(_text(at + 30, y, line.label, "start"))
        at += 60 + 8 * len(line.label)
    return "\n".join([*parts, "</svg>", ""])


def _line(
    line: Line, colour: str, across: Callable[[float], float], down: Callable[[float], float]
) -> list[str]:
    places = [(across(size), down(rate)) for size, rate in line.points]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [f'<polyline class="line" stroke="{colour}" points="{points}"/>']
    drawn += [f'<circle fill="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
    return drawn


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
