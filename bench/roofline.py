"""The roofline plot: what passes attain against what the machine allows, from saved rows."""

from pathlib import Path
from typing import Any

import matplotlib

from bench.kernel_rows import Measurements, roof
from bench.operation import OURS, Shape, shape_name
from bench.plots import OUR_COLOUR, PEER_COLOURS, PEER_MARKERS, STYLE

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
        figure.legend(
            handles, labels, loc="outside upper center", ncols=len(labels), frameon=False
        )
        figure.savefig(path, dpi=130)
        plt.close(figure)
    return path


def _panel(axis: Any, found: Measurements, shapes: list[Shape], dtype: str) -> None:
    """Draw a dtype's roof, the peers' points and ours with their labels."""
    axis.set(xscale="log", yscale="log")
    limits = found.machine[THREADS]
    at = {shape: _intensity(found, shape, dtype) for shape in shapes}
    ends = min(at.values()) / 3, max(at.values()) * 4
    ridge = limits.peak[dtype] / limits.bandwidth
    xs = sorted({ends[0], *([ridge] if ends[0] < ridge < ends[1] else []), ends[1]})
    axis.plot(xs, [roof(limits, dtype, x) / 1e9 for x in xs], color="#333333", label="roof")
    axis.plot(xs, [0.6 * roof(limits, dtype, x) / 1e9 for x in xs], color="#333333",
              linestyle=":", linewidth=1.2, label="60 % of it")  # fmt: skip
    for i, peer in enumerate(found.peers(OPERATION)):
        points = [(at[s], _gigaflops(found, s, dtype, peer)) for s in shapes]
        axis.scatter(*zip(*points, strict=True), s=32, color=PEER_COLOURS[i], alpha=0.45,
                     marker=PEER_MARKERS[i], label=peer, linewidths=0, zorder=3)  # fmt: skip
    points = [(at[s], _gigaflops(found, s, dtype, OURS)) for s in shapes]
    axis.scatter(*zip(*points, strict=True), s=64, color=OUR_COLOUR, label=OURS, zorder=4)
    axis.set_xlim(*ends)
    lowest = min(y for collection in axis.collections for _, y in collection.get_offsets())
    axis.set_ylim(lowest / 2, 3 * limits.peak[dtype] / 1e9)
    _label(axis, dict(zip(shapes, points, strict=True)), found, dtype)
    axis.set_title(
        f"{dtype}: {limits.bandwidth / 1e9:.0f} GB/s, {limits.peak[dtype] / 1e9:.0f} GFLOP/s "
        f"({limits.peak_by[dtype]}), 2 threads",
        loc="left", fontsize=11, color="#333333",
    )  # fmt: skip


def _label(
    axis: Any, points: dict[Shape, tuple[float, float]], found: Measurements, dtype: str
) -> None:
    """Write each shape and its share of the bound above the roof, and a line to its point.

    Shapes share intensities (it depends on K only), so names beside the points would collide;
    above the roof they stand in columns, in the order of the points.
    """
    columns: dict[float, list[Shape]] = {}
    for shape in sorted(points, key=lambda s: points[s]):
        columns.setdefault(points[shape][0], []).append(shape)
    for shapes in columns.values():
        heights = [points[s][1] for s in shapes]
        for previous, shape in enumerate(shapes, start=-1):
            height = points[shape][1]
            if previous >= 0:  # at least a line of text apart from the one below
                height = max(height, 1.28 * heights[previous])
            heights[previous + 1] = height
            share = found.attained(OPERATION, shape, dtype, THREADS)
            axis.annotate(
                f"{shape_name(shape)}  {100 * share:.0f} %",
                points[shape],
                xytext=(points[shape][0] * 1.22, height),
                fontsize=8,
                color="#333333",
                va="center",
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6},
                zorder=5,
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
