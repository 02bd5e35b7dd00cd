"""The roofline plot: what passes attain against what the machine allows, from saved rows."""

from pathlib import Path
from typing import Any

import matplotlib

from bench.kernel_rows import Measurements, roof
from bench.operation import OURS, Shape, shape_name
from bench.plots import STYLE, library_styles

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OPERATION = "value_and_gradient"
THREADS = "2"


def plot_roofline(found: Measurements, path: Path) -> Path | None:
    """Write a PNG with a panel for each dtype: a point per shape and library, under the roof.

    Parameters
    ----------
    found : Measurements
        Ours with two threads count, and the peers' better thread counts.
    path : Path
        The file to write.

    Returns
    -------
    Path or None
        `path`, or None if nothing of ours was measured.
    """
    cases = [case for case in found.cases(OPERATION) if _ours(found, *case)]
    dtypes = list(dict.fromkeys(dtype for _, dtype in cases))
    if not dtypes:
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(dtypes), figsize=(7.4 * len(dtypes), 6.0), squeeze=False, layout="constrained"
        )
        for axis, dtype in zip(axes.flat, dtypes, strict=True):
            _panel(axis, found, [shape for shape, other in cases if other == dtype], dtype)
        figure.supxlabel("arithmetic intensity, flops per byte of X", color="#333333")
        figure.supylabel("GFLOP/s of value and gradient", color="#333333")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        figure.savefig(path, dpi=130)
        plt.close(figure)
    return path


def _panel(axis: Any, found: Measurements, shapes: list[Shape], dtype: str) -> None:
    """Draw a dtype's roof, the peers' points, and ours with numbers and a key."""
    axis.set(xscale="log", yscale="log")
    limits = found.machine[THREADS]
    at = {shape: _intensity(found, shape, dtype) for shape in shapes}
    ends = min(at.values()) / 3, max(at.values()) * 3
    ridge = limits.peak[dtype] / limits.bandwidth
    xs = sorted({ends[0], *([ridge] if ends[0] < ridge < ends[1] else []), ends[1]})
    axis.plot(xs, [roof(limits, dtype, x) / 1e9 for x in xs], color="#333333", label="roof")
    axis.plot(xs, [0.6 * roof(limits, dtype, x) / 1e9 for x in xs], color="#333333",
              linestyle=":", linewidth=1.2, label="60 % of it")  # fmt: skip
    styles = library_styles(found.peers(OPERATION))
    for peer in found.peers(OPERATION):
        points = [(at[s], _gigaflops(found, s, dtype, peer)) for s in shapes]
        axis.scatter(*zip(*points, strict=True), s=32, color=styles[peer][0], alpha=0.45,
                     marker=styles[peer][1], label=peer, linewidths=0, zorder=3)  # fmt: skip
    ours = {s: (at[s], _gigaflops(found, s, dtype, OURS)) for s in shapes}
    for i, (x, y) in enumerate(ours.values(), start=1):
        axis.scatter(x, y, s=150, color=styles[OURS][0], edgecolors="white", linewidths=0.8,
                     zorder=5 + i, label=OURS if i == 1 else None)  # fmt: skip
    axis.set_xlim(*ends)
    lowest = min(y for collection in axis.collections for _, y in collection.get_offsets())
    axis.set_ylim(lowest / 2, 2 * limits.peak[dtype] / 1e9)
    _key(axis, found, ours, dtype)
    axis.set_title(
        f"{dtype}: {limits.bandwidth / 1e9:.0f} GB/s, {limits.peak[dtype] / 1e9:.0f} GFLOP/s "
        f"({limits.peak_by[dtype]}), 2 threads",
        loc="left", fontsize=11, color="#333333",
    )  # fmt: skip


def _key(axis: Any, found: Measurements, points: dict[Shape, Any], dtype: str) -> None:
    """Write a number on each point, and shapes and shares of the bound in a corner.

    Names beside the points would hide each other: under a flat roof points stand side by side.
    """
    lines = []
    for i, (shape, point) in enumerate(points.items(), start=1):
        axis.annotate(str(i), point, color="white", fontsize=8, weight="bold", ha="center",
                      va="center", zorder=5 + i)  # fmt: skip
        share = found.attained(OPERATION, shape, dtype, THREADS)
        lines.append(f"{i:2} {shape_name(shape):>15} {100 * share:3.0f} %")
    axis.text(
        *(0.985, 0.02, "\n".join([f"{'n x d x K':>18} bound", *lines])),
        transform=axis.transAxes,
        ha="right",
        va="bottom",
        fontsize=9,
        family="monospace",
        color="#333333",
        bbox={"facecolor": "white", "edgecolor": "#CCCCCC", "pad": 5},
        zorder=6,
    )


def _intensity(found: Measurements, shape: Shape, dtype: str) -> float:
    n_bytes, n_flops, _ = found.operations[OPERATION].bound_arguments(shape, dtype)
    return n_flops / n_bytes


def _ours(found: Measurements, shape: Shape, dtype: str) -> bool:
    return found.find(OPERATION, shape, dtype, threads=THREADS) is not None


def _gigaflops(found: Measurements, shape: Shape, dtype: str, library: str) -> float:
    """Return the flops of a pass over its time; ours with two threads, as the roof."""
    threads = THREADS if library == OURS else None
    row = found.find(OPERATION, shape, dtype, library, threads)
    flops = found.operations[OPERATION].bound_arguments(shape, dtype)[1]
    return float("nan") if row is None else flops / row.seconds / 1e9
