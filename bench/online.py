"""``python -m bench online``: one pass of `partial_fit` over a stream, against a fit of all rows.

The measuring process is this module, too: one problem at one C, a fit and then the streams. Rows
come in the order of the file, and in a shuffled one: they come sorted in some files.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.console import messages, progress_bar, rich_table, terminal
from bench.goals import Verdict, at_most, verdicts_table
from bench.operation import OURS, installed_version
from bench.problems import Problem, load_problem, problem_dtypes
from bench.process import ChildError, run_child
from bench.results import NAN, append_csv, read_csv
from bench.score import score
from bench.tables import TextTable, number

FILE = "online.csv"
LIMIT = 1200.0  # seconds of one process
#: Rows of a batch; all of them for the fit.
FIT = 0
BATCHES = (100, 1000, 5000)
SMALL_BATCHES = (1, 10, 100)
IN_ORDER, SHUFFLED = "file", "shuffled"


@dataclass(frozen=True)
class Case:
    """A stream: a problem, C, the rows' order, and the sizes of the batches."""

    problem: str
    C: float
    order: str = SHUFFLED
    batches: tuple[int, ...] = BATCHES


CASES = (
    *(Case("mnist", C) for C in (0.01, 1.0, 100.0)),
    *(Case("debian_sections", C) for C in (0.1, 1.0, 100.0)),
    Case("debian_sections", 1.0, IN_ORDER),
    Case("diamonds", 1.0),
    Case("digits", 1.0, batches=SMALL_BATCHES),
    Case("breast_cancer", 1.0, batches=SMALL_BATCHES),
    Case("iris", 1.0, batches=SMALL_BATCHES),
    Case("mnist_raw", 1.0),
)
QUICK_CASES = (Case("iris", 1.0, batches=(10,)),)
GOAL_PROBLEMS = ("mnist", "mnist_raw", "debian_sections")
#: Held-out log-loss after one pass, in units of the fit's, and the time.
LOSS_RATIO = 1.05
TIME_RATIO = 5.0


@dataclass(frozen=True)
class OnlineRow:
    """A fit, or one pass over a stream. The first five fields are its key."""

    problem: str
    C: float
    order: str
    batch: int
    version: str
    status: str = "ok"
    reason: str = ""
    seconds: float = NAN
    test_log_loss: float = NAN
    test_accuracy: float = NAN
    solver: str = ""

    @property
    def group(self) -> tuple[str, str, str]:
        """Return what a fit and its streams have in common."""
        return self.problem, f"{self.C:g}", self.order


def run_online(folder: Path, fresh: bool, quick: bool) -> int:
    """Measure the streams, write ``online.csv`` and print the table and the goals."""
    path = folder / FILE
    if fresh:
        path.unlink(missing_ok=True)
    cases = QUICK_CASES if quick else CASES
    version = installed_version(OURS) or ""
    done = {(*row.group, row.batch) for row in read_rows(path) if row.version == version}
    with progress_bar(messages()) as progress:
        bar = progress.add_task("starting", total=len(cases))
        for case in cases:
            progress.update(bar, description=f"{case.problem}, C = {case.C:g}, {case.order}")
            blank = OnlineRow(case.problem, case.C, case.order, FIT, version)
            if any((*blank.group, batch) not in done for batch in (FIT, *case.batches)):
                for row in _measured(blank, case.batches):
                    append_csv(path, asdict(row))
            progress.advance(bar)
    rows = latest(read_rows(path))
    for table in online_tables(rows):
        terminal().print(rich_table(table))
    return 1 if any(row.status != "ok" for row in rows) else 0


def read_rows(path: Path) -> list[OnlineRow]:
    """Return the saved rows."""
    kinds: dict[str, Any] = dict.fromkeys(OnlineRow.__annotations__, str)
    kinds |= dict.fromkeys(("C", "seconds", "test_log_loss", "test_accuracy"), float)
    kinds["batch"] = int
    return [OnlineRow(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]


def latest(rows: list[OnlineRow]) -> list[OnlineRow]:
    """Return the rows of the version that was measured last."""
    return [row for row in rows if row.version == rows[-1].version]


def online_tables(rows: list[OnlineRow]) -> list[TextTable]:
    """Return the table and the goals."""
    lines = []
    for row, fit in _with_fits(rows):
        lines.append(
            [
                *row.group,
                str(row.batch),
                number(fit.test_log_loss),
                number(row.test_log_loss),
                f"{row.test_log_loss / fit.test_log_loss:.3f}x",
                f"{fit.test_accuracy:.4f}",
                f"{row.test_accuracy:.4f}",
                number(fit.seconds),
                number(row.seconds),
                row.solver,
                row.reason,
            ]
        )
    header = [
        *("", "C", "order of rows", "rows of a batch", "log-loss, fit", "partial_fit", "ratio"),
        *("accuracy, fit", "partial_fit", "fit, s", "partial_fit, s", "solver_", ""),
    ]
    note = (
        "Held-out log-loss and accuracy of `LogisticRegression(C=C).fit(X, y)`, and of one pass of "
        "`partial_fit` over the same rows."
    )
    table = TextTable("Streams", header, lines, note)
    return [table, verdicts_table(online_goals(rows), "Goals on streams")]


def online_goals(rows: list[OnlineRow]) -> list[Verdict]:
    """Return the verdicts."""
    losses, times = [], []
    for row, fit in _with_fits(rows):
        if row.problem in GOAL_PROBLEMS and row.order == SHUFFLED:
            name = f"{row.problem}, C = {row.C:g}, batches of {row.batch}"
            losses.append((name, row.test_log_loss / fit.test_log_loss))
            times.append((name, row.seconds / fit.seconds))
    return [
        at_most("one pass: held-out log-loss within 5 % of a fit's", LOSS_RATIO, losses, "x"),
        at_most(f"... in at most {TIME_RATIO:g} times a fit's time", TIME_RATIO, times, "x"),
    ]


def _with_fits(rows: list[OnlineRow]) -> list[tuple[OnlineRow, OnlineRow]]:
    """Return the streams, each with its fit."""
    fits = {row.group: row for row in rows if row.batch == FIT and row.status == "ok"}
    return [(row, fits[row.group]) for row in rows if row.batch != FIT and row.group in fits]


def _measured(blank: OnlineRow, batches: tuple[int, ...]) -> list[OnlineRow]:
    arguments = [blank.problem, f"{blank.C:g}", blank.order, *map(str, batches)]
    try:
        reply = run_child(["bench.online", *arguments], "installed", limit=LIMIT)
    except ChildError as error:
        return [replace(blank, status=error.status, reason=str(error))]
    return [replace(blank, **found) for found in reply["rows"]]


# --- The measuring process ------------------------------------------------------------------------


def measure(name: str, C: float, order: str, batches: list[int]) -> list[dict[str, Any]]:
    """Return what a fit and streams of some sizes of batches took, and what they are worth."""
    from fastsoftmax import LogisticRegression

    problem = load_problem(name, problem_dtypes(name)[0])
    if order == SHUFFLED:
        rows = np.random.default_rng(0).permutation(len(problem.y))
        problem = replace(problem, X=problem.X[rows], y=problem.y[rows])

    def fit() -> Any:
        return LogisticRegression(C=C).fit(problem.X, problem.y)

    def pass_of(batch: int, most: int | None = None) -> Any:
        model = LogisticRegression(C=C)
        for first in range(0, most or len(problem.y), batch):
            some = slice(first, first + batch)
            model.partial_fit(problem.X[some], problem.y[some], classes=classes)
        return model

    classes = np.arange(problem.n_classes)
    fit()  # warms up
    found = [_timed(problem, C, FIT, fit)]
    for batch in batches:
        pass_of(batch, most=2 * batch)
        found.append(_timed(problem, C, batch, partial(pass_of, batch)))
    return found


def _timed(problem: Problem, C: float, batch: int, work: Callable[[], Any]) -> dict[str, Any]:
    begin = time.perf_counter()
    model = work()
    seconds = time.perf_counter() - begin
    params = np.column_stack([model.coef_, model.intercept_]).astype(np.float64)
    worth = score(problem, C, params)
    return {
        "batch": batch,
        "seconds": seconds,
        "test_log_loss": worth.test_log_loss,
        "test_accuracy": worth.test_accuracy,
        "solver": model.solver_,
    }


def main() -> None:
    """Print one JSON object; the arguments are problem, C, order and sizes of batches."""
    name, C, order, *batches = sys.argv[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(json.dumps({"rows": measure(name, float(C), order, [int(b) for b in batches])}))


if __name__ == "__main__":
    main()
