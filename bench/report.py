"""``python -m bench report``: Markdown tables and plots, and the table on the terminal."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.console import rich_table
from bench.operation import OURS
from bench.plots import OVERVIEWS, plot_all
from bench.results import ResultsFolder
from bench.solver_tables import apart_table
from bench.summary import (
    APART_HEADER,
    HEADER,
    LEVELS,
    Group,
    cells,
    cells_apart,
    dense_and_sparse,
    geometric_mean,
    level_name,
    middle_of_each,
    short,
    summarise,
)
from bench.tables import NEVER, TextTable, markdown_table

#: The lines of a page between which `insert_headline` writes, on dense problems and on sparse ones.
MARKERS = ("<!-- bench -->", "<!-- /bench -->")
SPARSE_MARKERS = ("<!-- bench sparse -->", "<!-- /bench sparse -->")

LEGEND = (
    "Seconds of one fit from zero; `to 1e-6`: the shortest fit whose objective, scored in "
    "float64 NumPy, is within a factor 1 + 1e-6 of the optimum. `>`: cut there. `-`: never "
    "reached, or given up because another peer was three times as fast. BLAS "
    "threads: the better of those tried."
)


def write_report(results: ResultsFolder, folder: Path) -> list[Path]:
    """Write ``report.md`` and the plots, and return their paths."""
    groups = summarise(results)
    folder.mkdir(parents=True, exist_ok=True)
    plots = plot_all(groups, folder)
    parts = ["# Benchmark report", _environment(results), "## Summary", _summary(groups), LEGEND]
    linked: set[str] = set()
    for name in OVERVIEWS:
        if folder / name in plots:
            parts.append(f"![Sub-optimality against time]({name})")
    for group in groups:
        parts += [f"## {group.title}", _certificate(group)]
        plot = f"suboptimality_{group.problem}_{group.dtype}.png"
        if plot not in linked and folder / plot in plots:
            parts.append(f"![{group.problem}, {group.dtype}]({plot})")
            linked.add(plot)
        parts.append(markdown_table(HEADER, [cells(entry) for entry in group.entries]))
        if group.apart:
            parts.append(markdown_table(APART_HEADER, [cells_apart(row) for row in group.apart]))
    path = folder / "report.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path, *plots]


def insert_headline(results: ResultsFolder, page: Path, folder: Path) -> None:
    """Replace what stands between the bench's markers of a page, for the README.

    Each dense problem appears at the middle one of its C, each sparse one at all of them. What has
    no rows in the results stays as it is on the page.

    Raises
    ------
    ValueError
        If the page lacks the markers.
    """
    text = page.read_text(encoding="utf-8")
    dense, sparse = dense_and_sparse(summarise(results))
    plots = [Path(os.path.relpath(folder / n, page.parent)).as_posix() for n in OVERVIEWS]
    images = [f"![Sub-optimality against time]({plot})" for plot in plots]
    if dense:
        text = _between(text, MARKERS, [_headline(middle_of_each(dense)), images[0]], page)
    if sparse:
        parts = [_headline(sparse)]
        if (apart := apart_table(results, sparse)).rows:
            parts += [apart.note, markdown_table(apart.header, apart.rows)]
        text = _between(text, SPARSE_MARKERS, [*parts, images[1]], page)
    page.write_text(text, encoding="utf-8")


def _between(text: str, markers: tuple[str, str], parts: list[str], page: Path) -> str:
    """Return a page's text with these parts between its markers."""
    if markers[0] not in text or markers[1] not in text:
        raise ValueError(f"{page} needs the lines {markers[0]} and {markers[1]}")
    before, rest = text.split(markers[0])
    after = rest.split(markers[1])[1]
    return before + "\n\n".join([markers[0], *parts, markers[1]]) + after


def _headline(groups: list[Group]) -> str:
    """Return a table of one row per group: ours against the best peer, and the defaults."""
    header = ["", "to", "fastsoftmax", "best peer", "", "ratio"]
    rows = []
    for group in groups:
        ours = next(entry for entry in group.entries if entry.library == OURS)
        for level in LEVELS[:2]:
            ratio = group.ratio(level)
            title = group.title if level == LEVELS[0] else ""
            if ratio is None:
                rows.append([title, f"{level:.0e}", f"{ours.time_to(level)} s", NEVER, "", NEVER])
                continue
            times, name = ratio
            peer = next(entry for entry in group.entries if entry.library == name)
            line = [title, f"{level:.0e}".replace("e-0", "e-"), f"{ours.time_to(level)} s"]
            rows.append([*line, f"{peer.time_to(level)} s", name, f"{times}x"])
    return markdown_table(header, rows)


def print_tables(results: ResultsFolder, console: Console) -> None:
    """Print one table per (problem, C, dtype), the notes below it, and the ratios."""
    groups = summarise(results)
    for group in groups:
        table = Table(title=f"{group.title}: {_certificate(group)}", title_justify="left")
        for name in HEADER[:-1]:
            table.add_column(name, justify="left" if name == "library" else "right")
        for entry in group.entries:
            table.add_row(*cells(entry)[:-1])
        console.print(table)
        for entry in group.entries:
            if notes := cells(entry)[-1]:
                console.print(f"  {entry.library}: {notes}", soft_wrap=True, highlight=False)
        if group.apart:
            lines = [cells_apart(row) for row in group.apart]
            console.print(rich_table(TextTable("", APART_HEADER, lines)))
    table = Table(title="Best peer's time over fastsoftmax's", title_justify="left")
    for name in ("", *map(level_name, LEVELS)):
        table.add_column(name)
    for line in _ratios(groups):
        table.add_row(*line)
    console.print(table)


def _certificate(group: Group) -> str:
    mark = "" if group.reached else " (the reference did NOT reach 1e-12: a bound from above)"
    return f"f* = {group.optimum:.12g}{mark}"


def _ratios(groups: list[Group]) -> list[list[str]]:
    """Return the best peer's time over ours at each level: for each group, and on the average."""
    return [line for part in dense_and_sparse(groups) if part for line in _part_ratios(part)]


def _part_ratios(groups: list[Group]) -> list[list[str]]:
    lines = []
    logs: dict[float, list[Any]] = {level: [] for level in LEVELS}
    for group in groups:
        line = [group.title]
        for level in LEVELS:
            ratio = group.ratio(level)
            if ratio is None:
                line.append(NEVER)
                continue
            duration, peer = ratio
            logs[level].append(duration)
            line.append(f"{duration}x ({peer})")
        lines.append(line)
    last = ["geometric mean"]
    for level in LEVELS:
        mean = geometric_mean([duration.seconds for duration in logs[level]])
        bounds = sum(duration.is_bound for duration in logs[level])
        note = f", {bounds} of them bounds" if bounds else ""
        last.append(f"{short(mean)}x of {len(logs[level])}{note}" if logs[level] else NEVER)
    return [*lines, last]


def _summary(groups: list[Group]) -> str:
    header = ["best peer's time over fastsoftmax's", *map(level_name, LEVELS)]
    return markdown_table(header, _ratios(groups))


def _environment(results: ResultsFolder) -> str:
    saved = results.read_json("environment.json")
    if not saved:
        return "The environment was not saved."
    libraries = ", ".join(f"{name} {version}" for name, version in saved["libraries"].items())
    return (
        f"{saved['date']}, commit {saved['git_commit']}, Python {saved['python']}, "
        f"{saved['cpu']} ({saved['n_cores']} cores). {libraries}."
    )
