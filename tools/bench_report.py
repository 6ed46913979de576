"""Results of `bench` as a table for a terminal or a page, and as a chart."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = ("name", "ours", "peer", "ratio", "")
LINE, LABELS, WIDTH = 26, 230, 420  # pixels of the picture: of a row, of the names, of the bars
OURS, PEERS = "#2b7a78", "#b8b8b8"


@dataclass(frozen=True)
class Measured:
    """One line of the JSON file: a figure of this project and of a peer, and all they depend on."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float  # ours / the peer's: below one is better
    conditions: str


def cells(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """A line of text cells for each."""
    return [
        (each.name, amount(each.value, each.unit), amount(each.peer_value, each.unit), f"{each.ratio:.2f}", each.peer)
        for each in measured
    ]


def amount(value: float, unit: str) -> str:
    """A number with three digits that say something, and its unit."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{min(decimals, 3)}f} {unit}"


def table(measured: Sequence[Measured]) -> str:
    """Columns for a terminal."""
    lines = [COLUMNS, *cells(measured)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < column < 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(measured: Sequence[Measured]) -> str:
    """The same as a table of a README."""
    head = ["| name | this project | peer | ratio | the peer |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in cells(measured))])


def plot(measured: Sequence[Measured]) -> str:
    """An SVG with two bars for each figure, as long as their values are to each other."""
    height = LINE * (len(measured) + 1)
    size = f'width="{LABELS + WIDTH + 160}" height="{height + 10}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LABELS}" y="16" fill="{OURS}">this project</text>',
        f'<text x="{LABELS + 80}" y="16" fill="#777">the peer; shorter is better</text>',
    ]
    for index, each in enumerate(measured, 1):
        top, longest = index * LINE, max(each.value, each.peer_value) or 1.0
        said = f"{amount(each.value, each.unit)} / {amount(each.peer_value, each.unit)} = {each.ratio:.2f}"
        parts.append(f'<text x="{LABELS - 8}" y="{top + 15}" text-anchor="end">{html.escape(each.name)}</text>')
        for value, colour, offset in ((each.value, OURS, 2), (each.peer_value, PEERS, 11)):
            length = value / longest * WIDTH * 0.75
            parts.append(f'<rect x="{LABELS}" y="{top + offset}" width="{length:.1f}" height="8" fill="{colour}"/>')
        end = LABELS + WIDTH * 0.75 + 8
        parts.append(
            f'<text x="{end:.0f}" y="{top + 15}">{html.escape(said)}<title>{html.escape(each.peer)}: '
            f"{html.escape(each.conditions)}</title></text>"
        )
    return "\n".join([*parts, "</svg>", ""])
