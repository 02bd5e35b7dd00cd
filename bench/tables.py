"""A table as text, for the terminal and for Markdown alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

NEVER = "-"


@dataclass(frozen=True)
class TextTable:
    """A title, what it means, a header and rows of text."""

    title: str
    header: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def lines(self) -> list[list[str]]:
        """Return the header and the rows, without columns that have neither name nor text."""
        lines = [list(self.header), *self.rows]
        keep = [i for i in range(len(self.header)) if any(line[i] for line in lines)]
        return [[line[i] for i in keep] for line in lines]

    def markdown(self) -> str:
        """Return the heading, the note and the table of a page."""
        header, *rows = self.lines()
        table = markdown_table(header, rows)
        return "\n\n".join(filter(None, [f"## {self.title}", self.note, table]))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def number(value: float, unit: str = "") -> str:
    """Return three significant digits without an exponent, ``-`` for nan."""
    if math.isnan(value):
        return NEVER
    if abs(value) >= 100:
        return f"{value:.0f}{unit}"
    return f"{value:.3g}{unit}" if abs(value) >= 0.001 else f"{value:.1g}{unit}"
