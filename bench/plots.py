"""Plots of sub-optimality against time, from saved results only."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

from bench.operation import OURS
from bench.summary import Entry, Group, by_problem, dense_and_sparse, middle_of_each

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

# Okabe and Ito's palette, and two of Tol's: told apart with any kind of colour vision. A library
# has its colour and marker in every plot.
LIBRARY_STYLES = {
    OURS: ("#D55E00", "o"),
    "sklearn-lbfgs": ("#0072B2", "s"),
    "sklearn-newton-cholesky": ("#009E73", "^"),
    "sklearn-newton-cg": ("#56B4E9", "v"),
    "sklearn-saga": ("#7F7F7F", "h"),
    "intelex-lbfgs": ("#CC79A7", "D"),
    "torch-lbfgs": ("#000000", "p"),
    "cyanure": ("#E69F00", "P"),
    "scikit-learn": ("#0072B2", "s"),  # of kernels, where there are no solvers
    "torch": ("#000000", "p"),
}
#: Of dense problems and of sparse ones.
OVERVIEWS = ("suboptimality.png", "sparse.png")
OTHERS = [("#882255", "X"), ("#999933", "d"), ("#44AA99", "<")]
FLOOR = 1e-10  # the reference is good to 1e-12; what is below would only look like a difference
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#333333",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "savefig.facecolor": "white",
}


def plot_all(groups: list[Group], folder: Path) -> list[Path]:
    """Write a PNG per problem and dtype, a panel for each C, and the `OVERVIEWS`.

    These have a panel for each problem at the middle one of its C.
    """
    drawable = [g for g in groups if any(entry.scored for entry in g.entries)]
    if not drawable:
        return []
    colours = library_styles(entry.library for group in drawable for entry in group.entries)
    paths = []
    with plt.rc_context(STYLE):
        for panels in by_problem(drawable):
            path = folder / f"suboptimality_{panels[0].problem}_{panels[0].dtype}.png"
            paths.append(_figure(panels, colours, path))
        for name, part in zip(OVERVIEWS, dense_and_sparse(drawable), strict=True):
            if part:
                paths.append(_figure(middle_of_each(part), colours, folder / name))
    return paths


def library_styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker by library."""
    others = sorted(set(names) - set(LIBRARY_STYLES))
    return LIBRARY_STYLES | dict(zip(others, cycle(OTHERS), strict=False))


def _figure(groups: list[Group], colours: dict[str, tuple[str, str]], path: Path) -> Path:
    n_columns = min(len(groups), 3) if len(groups) != 4 else 2
    n_rows = -(-len(groups) // n_columns)
    size = (7.2, 4.8) if len(groups) == 1 else (4.6 * n_columns, 3.4 * n_rows + 0.8)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=size, squeeze=False, layout="constrained"
    )
    shown: dict[str, Any] = {}
    for axis, group in zip(axes.flat, groups, strict=False):
        # Before drawing: limits found on a linear scale cut the highest points of a log one.
        axis.set(xscale="log", yscale="log")
        for entry in sorted(group.entries, key=lambda entry: entry.library == OURS):
            if entry.scored or any(row.status == "cut" for row in entry.rows):
                shown[entry.library] = _draw(axis, entry, *colours[entry.library])
        axis.set_ylim(FLOOR / 2, 5.0 * max(1.0, axis.dataLim.y1))
        axis.set_title(group.title, loc="left", fontsize=11, color="#333333")
    for axis in list(axes.flat)[len(groups) :]:
        axis.remove()
    figure.supxlabel("seconds of one fit from zero", fontsize=10, color="#333333")
    figure.supylabel("sub-optimality (f - f*) / f*", fontsize=10, color="#333333")
    names = sorted(shown, key=lambda name: (name != OURS, name))
    marks = {"at its defaults": "*"}
    if any(row.status == "cut" for group in groups for e in group.entries for row in e.rows):
        marks["cut"] = "$>$"
    for name, marker in marks.items():
        shown[name] = Line2D([], [], linestyle="", marker=marker, markersize=11, color="#555555")
    names += marks
    per_line = (3, 5, 6)[n_columns - 1]
    n_lines = -(-len(names) // per_line)
    figure.legend(
        [shown[name] for name in names],
        names,
        loc="outside upper center",
        ncols=-(-len(names) // n_lines),
        frameon=False,
    )
    figure.savefig(path, dpi=160)
    plt.close(figure)
    return path


def _draw(axis: Any, entry: Entry, colour: str, marker: str) -> Any:
    """Draw a library's curve, a star at its defaults and an arrow where it was cut."""
    ours = entry.library == OURS
    curve = [row for row in entry.scored if row is not entry.default]
    curve.sort(key=lambda row: row.seconds)
    levels = [max(entry.suboptimality(row), FLOOR) for row in curve]
    # What comes after the first point on the floor says nothing more.
    n_shown = levels.index(FLOOR) + 1 if FLOOR in levels else len(levels)
    curve, levels = curve[:n_shown], levels[:n_shown]
    (line,) = axis.plot(
        [row.seconds for row in curve],
        levels,
        color=colour,
        marker=marker,
        markersize=4.5 if ours else 3,
        linewidth=2.4 if ours else 1.3,
        zorder=4 if ours else 3,
    )
    default = entry.default
    if default.status == "ok":
        level = max(entry.suboptimality(default), FLOOR)
        axis.plot(
            [default.seconds],
            [level],
            color=colour,
            marker="*",
            markersize=13,
            markeredgecolor="white",
            zorder=6,
        )
    cuts = [row.seconds for row in entry.rows if row.status == "cut"]
    if cuts:
        level = levels[-1] if levels else 1.0
        at = max(cuts)
        if curve:  # whose last iterate may have come after the limit
            at = max(at, curve[-1].seconds)
            axis.plot([curve[-1].seconds, at], [level] * 2, color=colour, linestyle=":")
        axis.annotate(
            ">", (at, level), color=colour, fontsize=14, weight="bold", ha="center", va="center"
        )
    return line
