"""``python -m bench small``: whole fits of small data, validation included, against scikit-learn.

The measuring process is this module, too: one task of one library, warmed up and then repeated.
"""

import importlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.console import messages, progress_bar, rich_table, terminal
from bench.goals import Verdict, at_least, verdicts_table
from bench.operation import OURS, installed_version
from bench.process import ChildError, run_child
from bench.results import NAN, append_csv, read_csv
from bench.summary import geometric_mean
from bench.tables import TextTable, number

PEER = "scikit-learn"
GRID = "grid search on digits"
#: Tasks and how often each is done at least; the last is ``GridSearchCV`` over ten C, five folds.
REPEATS = {"iris": 30, "wine": 30, "breast_cancer": 30, "digits": 20, GRID: 3}
QUICK_REPEATS = {"iris": 3, "wine": 3}
LEAST_SECONDS = 0.5  # for which a fit is repeated at least ...
MOST_REPEATS = 1000  # ... but not more often
FIT_RATIO = 10.0
GRID_RATIO = 5.0
THREADS = {OURS: ("installed",), PEER: ("1", "2")}


@dataclass(frozen=True)
class SmallRow:
    """The median seconds of one task. The first four fields are its key."""

    task: str
    library: str
    threads: str
    version: str
    status: str = "ok"
    reason: str = ""
    seconds: float = NAN
    repeats: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        """Return what identifies the measurement."""
        return self.task, self.library, self.threads, self.version


def run_small(folder: Path, fresh: bool, quick: bool) -> int:
    """Measure the tasks, write ``small.csv`` and print the table and the goals."""
    path = folder / "small.csv"
    if fresh:
        path.unlink(missing_ok=True)
    repeats = QUICK_REPEATS if quick else REPEATS
    todo = [
        SmallRow(task, library, threads, installed_version(library) or "")
        for task in repeats
        for library, counts in THREADS.items()
        for threads in counts
    ]
    done = {row.key for row in read_rows(path)}
    with progress_bar(messages()) as progress:
        bar = progress.add_task("starting", total=len(todo))
        for row in todo:
            progress.update(bar, description=" ".join(row.key[:-1]))
            if row.key not in done:
                append_csv(path, asdict(_measured(row, repeats[row.task])))
            progress.advance(bar)
    keys = {row.key for row in todo}
    rows = [row for row in read_rows(path) if row.key in keys]
    for table in small_tables(rows):
        terminal().print(rich_table(table))
    return 1 if any(row.status != "ok" for row in rows) else 0


def read_rows(path: Path) -> list[SmallRow]:
    """Return the saved rows."""
    kinds: dict[str, Any] = dict.fromkeys(SmallRow.__annotations__, str)
    kinds |= {"seconds": float, "repeats": int}
    return [SmallRow(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]


def latest(rows: list[SmallRow]) -> list[SmallRow]:
    """Return the rows of each library's version that was measured last."""
    versions = {row.library: row.version for row in rows}
    return [row for row in rows if row.version == versions[row.library]]


def small_tables(rows: list[SmallRow]) -> list[TextTable]:
    """Return the table and the goals."""
    columns = [(library, threads) for library, counts in THREADS.items() for threads in counts]
    found = {row.key[:3]: row for row in rows}
    lines = []
    for task in dict.fromkeys(row.task for row in rows):
        cells = [found.get((task, *column)) for column in columns]
        times = [number(1e3 * row.seconds) if row else "" for row in cells]
        reasons = "; ".join(dict.fromkeys(row.reason for row in cells if row and row.reason))
        lines.append([task, *times, number(_ratio(found, task), "x"), reasons])
    header = ["", f"{OURS}, ms", f"{PEER}, 1 BLAS thread", "2 threads", "ratio", ""]
    note = (
        "Median milliseconds of `LogisticRegression().fit(X, y)`, after a warm-up, on the data "
        "that scikit-learn bundles, unscaled; and of `GridSearchCV(LogisticRegression(), "
        "{'C': np.logspace(-4, 4, 10)}, cv=5).fit(X, y)`. The ratio is that of scikit-learn's "
        "better thread count."
    )
    table = TextTable("Small data", header, lines, note)
    return [table, verdicts_table(small_goals(rows), "Goals on small data")]


def small_goals(rows: list[SmallRow]) -> list[Verdict]:
    """Return the verdicts on the ratios."""
    found = {row.key[:3]: row for row in rows}
    ratios = [(task, _ratio(found, task)) for task in dict.fromkeys(row.task for row in rows)]
    fits = [(task, ratio) for task, ratio in ratios if task != GRID]
    mean = geometric_mean([ratio for _, ratio in fits if ratio > 0])
    return [
        at_least(f"a fit of small data is {FIT_RATIO:g}x scikit-learn's", FIT_RATIO, fits),
        at_least("... as geometric mean", FIT_RATIO, [("geometric mean", mean)]),
        at_least(
            f"a grid search on digits is {GRID_RATIO:g}x scikit-learn's",
            GRID_RATIO,
            [(task, ratio) for task, ratio in ratios if task == GRID],
        ),
    ]


def _ratio(found: dict[tuple[str, ...], SmallRow], task: str) -> float:
    """Return scikit-learn's seconds at its better thread count over ours; nan: not measured."""
    ours = found.get((task, OURS, *THREADS[OURS]))
    peers = [found.get((task, PEER, threads)) for threads in THREADS[PEER]]
    seconds = [row.seconds for row in peers if row is not None and row.status == "ok"]
    if ours is None or ours.status != "ok" or not seconds:
        return NAN
    return min(seconds) / ours.seconds


def _measured(row: SmallRow, repeats: int) -> SmallRow:
    try:
        reply = run_child(["bench.small", row.task, row.library, str(repeats)], row.threads)
    except ChildError as error:
        return replace(row, status=error.status, reason=str(error))
    return replace(row, **reply)


# --- The measuring process ------------------------------------------------------------------------


def seconds_of(task: str, library: str, repeats: int) -> dict[str, Any]:
    """Return the median seconds of a task and how often it was done."""
    work = _work(task, library)
    work()
    seconds: list[float] = []
    while len(seconds) < repeats or (
        sum(seconds) < LEAST_SECONDS and repeats <= len(seconds) < MOST_REPEATS
    ):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds), "repeats": len(seconds)}


def _work(task: str, library: str) -> Callable[[], Any]:
    """Return what is timed: a new estimator's fit."""
    from sklearn import datasets
    from sklearn.model_selection import GridSearchCV

    module = "fastsoftmax" if library == OURS else "sklearn.linear_model"
    estimator = importlib.import_module(module).LogisticRegression
    name = "digits" if task == GRID else task
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if task == GRID:
        grid = {"C": np.logspace(-4, 4, 10)}
        return lambda: GridSearchCV(estimator(), grid, cv=5).fit(X, y)
    return lambda: estimator().fit(X, y)


def main() -> None:
    """Print one JSON object; the arguments are task, library and repeats."""
    task, library, repeats = sys.argv[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn does not converge at its defaults
        print(json.dumps(seconds_of(task, library, int(repeats))))


if __name__ == "__main__":
    main()
