"""``python -m bench growth``: how time and memory of our fit grow with n, d and K.

The measuring process is this module, too.
"""

import io
import json
import re
import statistics
import sys
import time
import warnings
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.console import messages, progress_bar, rich_table, terminal
from bench.memory import GIVE_BACK, forget_peak, status_bytes
from bench.operation import OURS, Shape, installed_version, parse_shape, shape_name
from bench.problems import drawn_labels
from bench.process import ChildError, run_child
from bench.results import NAN, append_csv, read_csv
from bench.tables import NEVER, TextTable, number

AXES = ("n", "d", "K")
BASE: Shape = (20_000, 50, 5)
QUICK_BASE: Shape = (1000, 10, 3)
DOUBLINGS = 3
REPEATS = 3


@dataclass(frozen=True)
class GrowthRow:
    """One fit at the defaults. The first three fields are its key."""

    shape: str
    axis: str  # "n", "d" or "K": what was doubled; "" for the base
    version: str
    status: str = "ok"
    reason: str = ""
    seconds: float = NAN  # median
    extra_bytes: int = 0  # beside X; 0 where the system does not tell
    n_passes: int = 0  # over X, as the fit reports them

    @property
    def key(self) -> tuple[str, ...]:
        """Return what identifies the measurement."""
        return self.shape, self.axis, self.version


def doublings(base: Shape, n_doublings: int) -> list[tuple[Shape, str]]:
    """Return the base, without an axis, and then shapes with each axis doubled again and again."""
    return [(base, "")] + [
        (tuple(size * 2 ** (i * (at == axis)) for at, size in zip(AXES, base, strict=True)), axis)
        for axis in AXES
        for i in range(1, n_doublings + 1)
    ]


def run_growth(folder: Path, fresh: bool, quick: bool) -> int:
    """Measure the fits, write ``growth.csv`` and print the table."""
    path = folder / "growth.csv"
    if fresh:
        path.unlink(missing_ok=True)
    version = installed_version(OURS) or ""
    cases = doublings(QUICK_BASE, 1) if quick else doublings(BASE, DOUBLINGS)
    todo = [GrowthRow(shape_name(shape), axis, version) for shape, axis in cases]
    done = {row.key for row in read_rows(path)}
    with progress_bar(messages()) as progress:
        task = progress.add_task("starting", total=len(todo))
        for row in todo:
            progress.update(task, description=row.shape)
            if row.key not in done:
                append_csv(path, asdict(_measured(row)))
            progress.advance(task)
    keys = {row.key for row in todo}
    rows = [row for row in read_rows(path) if row.key in keys]
    terminal().print(rich_table(growth_table(rows)))
    return 1 if any(row.status != "ok" for row in rows) else 0


def read_rows(path: Path) -> list[GrowthRow]:
    """Return the saved rows."""
    kinds: dict[str, Any] = dict.fromkeys(GrowthRow.__annotations__, str)
    kinds |= {"seconds": float, "extra_bytes": int, "n_passes": int}
    return [GrowthRow(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]


def latest(rows: list[GrowthRow]) -> list[GrowthRow]:
    """Return the rows of the version that was measured last."""
    return [row for row in rows if row.version == rows[-1].version]


def growth_table(rows: list[GrowthRow]) -> TextTable:
    """Return times and memory, and by what each doubling multiplies them."""
    lines = []
    last: dict[str, GrowthRow] = {row.axis: row for row in rows if not row.axis}
    for row in rows:
        before = last.get(row.axis, last.get(""))
        ratios = [NEVER] * 3
        if row.axis and before is not None:
            ratios = [
                number(row.seconds / before.seconds, "x"),
                number(_per_pass(row) / _per_pass(before), "x"),
                number(row.extra_bytes / before.extra_bytes if before.extra_bytes else NAN, "x"),
            ]
        lines.append(
            [
                row.shape,
                row.axis,
                number(1e3 * row.seconds),
                ratios[0],
                str(row.n_passes),
                ratios[1],
                number(row.extra_bytes / 1e6),
                ratios[2],
                row.reason,
            ]
        )
        last[row.axis] = row
    header = ["n x d x K", "doubled", "ms", "ratio", "passes", "ratio of ms per pass",
              "extra MB", "ratio of MB", ""]  # fmt: skip
    note = (
        "Median milliseconds of our fit at its defaults on normal features and labels drawn from a "
        "softmax model, float64; passes over X as the fit reports them, without those of its "
        "preconditioner; extra is how far the fit raises the largest resident size."
    )
    return TextTable("Growth with n, d and K", header, lines, note)


def _per_pass(row: GrowthRow) -> float:
    return row.seconds / max(row.n_passes, 1)


def _measured(row: GrowthRow) -> GrowthRow:
    try:
        reply = run_child(["bench.growth", row.shape], "installed", GIVE_BACK)
    except ChildError as error:
        return replace(row, status=error.status, reason=str(error))
    return replace(row, **reply)


# --- The measuring process ------------------------------------------------------------------------


def costs(shape: Shape) -> dict[str, Any]:
    """Return median seconds, extra bytes and passes of a fit of that shape."""
    from fastsoftmax import LogisticRegression

    n_samples, n_features, n_classes = shape
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, n_features))
    y = drawn_labels(X, rng.standard_normal((n_features, n_classes)), rng, spread=2.0)
    said = io.StringIO()
    with redirect_stdout(said):  # the first fit, which may compile, says how many passes it took
        LogisticRegression(verbose=1).fit(X, y)
    passes = re.findall(r"passes\s+(\d+)", said.getvalue())
    tells_memory = Path("/proc/self/clear_refs").exists()
    if tells_memory:
        forget_peak()
    before = status_bytes("VmRSS") if tells_memory else 0
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        LogisticRegression().fit(X, y)
        seconds.append(time.perf_counter() - begin)
    extra = max(0, status_bytes("VmHWM") - before) if tells_memory else 0
    return {
        "seconds": statistics.median(seconds),
        "extra_bytes": extra,
        "n_passes": int(passes[-1]) if passes else 0,
    }


def main() -> None:
    """Print one JSON object; the argument is the shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(json.dumps(costs(parse_shape(sys.argv[1]))))


if __name__ == "__main__":
    main()
