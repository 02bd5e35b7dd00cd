"""``python -m bench cv``: choosing C by cross-validation, against one fit and scikit-learn's.

The measuring process is this module, too: one task of one library on one problem, warmed up on a
few rows. scikit-learn's is cut after a time, which is then a lower bound.
"""

import importlib
import json
import math
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.console import messages, progress_bar, rich_table, terminal
from bench.goals import Verdict, at_least, at_most, verdicts_table
from bench.operation import OURS, installed_version
from bench.problems import load_problem
from bench.process import CHILD_LIMIT, ChildError, run_child
from bench.results import NAN, append_csv, read_csv
from bench.tables import TextTable, number

PEER = "scikit-learn"
FIT, CV = "one fit", "cross-validation"
PROBLEMS = ("iris", "digits", "flights", "mnist")
FILE = "cv.csv"
QUICK_PROBLEMS = ("iris",)
#: A fit at the default C, against a grid of 50 fits and the refit.
FIT_RATIO = 15.0
PEER_RATIO = 20.0
SCORE_DIFFERENCE = 1e-3
#: scikit-learn's is cut after so many times our seconds, the goal and a little.
CUT = 1.1 * PEER_RATIO
LEAST_LIMIT = 60.0
SMALL = 2**20  # bytes of X up to which all of it warms up
#: What it takes it to converge: at its defaults it stops early, with a warning.
PEER_PARAMETERS = {"max_iter": 100_000, "tol": 1e-6}


@dataclass(frozen=True)
class CVRow:
    """One task of one library on one problem. The first four fields are its key."""

    problem: str
    task: str
    library: str
    version: str
    status: str = "ok"
    reason: str = ""
    seconds: float = NAN
    n_passes: float = NAN
    C: float = NAN
    scores: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """Return what identifies the measurement."""
        return self.problem, self.task, self.library, self.version


def run_cv(folder: Path, fresh: bool, quick: bool, time_limit: float = math.inf) -> int:
    """Measure the tasks, write ``cv.csv`` and print the table and the goals."""
    path = folder / FILE
    if fresh:
        path.unlink(missing_ok=True)
    todo = [
        CVRow(problem, task, library, installed_version(library) or "")
        for problem in (QUICK_PROBLEMS if quick else PROBLEMS)
        for task, library in ((FIT, OURS), (CV, OURS), (CV, PEER))
    ]
    done = {row.key: row for row in read_rows(path)}
    with progress_bar(messages()) as progress:
        bar = progress.add_task("starting", total=len(todo))
        limit = math.inf
        for row in todo:
            progress.update(bar, description=" ".join(row.key[:-1]))
            if row.key not in done:
                done[row.key] = _measured(row, limit)
                append_csv(path, asdict(done[row.key]))
            if row.library == OURS:
                limit = min(time_limit, max(LEAST_LIMIT, CUT * done[row.key].seconds))
            progress.advance(bar)
    rows = [done[row.key] for row in todo]
    for table in cv_tables(rows):
        terminal().print(rich_table(table))
    return 1 if any(row.status == "failed" for row in rows) else 0


def read_rows(path: Path) -> list[CVRow]:
    """Return the saved rows."""
    kinds: dict[str, Any] = dict.fromkeys(CVRow.__annotations__, str)
    kinds |= dict.fromkeys(("seconds", "n_passes", "C"), float)
    return [CVRow(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]


def latest(rows: list[CVRow]) -> list[CVRow]:
    """Return the rows of each library's version that was measured last."""
    versions = {row.library: row.version for row in rows}
    return [row for row in rows if row.version == versions[row.library]]


def cv_tables(rows: list[CVRow]) -> list[TextTable]:
    """Return the table and the goals."""
    found = {row.key[:3]: row for row in rows}
    lines = []
    for problem in dict.fromkeys(row.problem for row in rows):
        fit, ours, peer = (
            found.get((problem, *key)) for key in ((FIT, OURS), (CV, OURS), (CV, PEER))
        )
        if fit is None or ours is None or peer is None:
            continue
        bound = "> " if peer.status == "cut" else ""
        lines.append(
            [
                problem,
                number(fit.seconds),
                number(ours.seconds),
                number(ours.seconds / fit.seconds, "x"),
                number(ours.n_passes),
                bound + number(peer.seconds),
                bound + number(peer.seconds / ours.seconds, "x"),
                number(_difference(ours, peer)),
                "; ".join(filter(None, (fit.reason, ours.reason, peer.reason))),
            ]
        )
    header = [
        "",
        "one fit, s",
        "CV, s",
        "in fits",
        "passes",
        f"{PEER}, s",
        "ratio",
        "scores differ by",
        "",
    ]
    note = (
        "`LogisticRegressionCV(scoring='neg_log_loss')` with its defaults, ten C from 1e-4 to 1e4 "
        "and five folds, beside `LogisticRegression().fit(X, y)`, both after a warm-up. "
        f"{PEER}'s runs with max_iter={PEER_PARAMETERS['max_iter']}, "
        f"tol={PEER_PARAMETERS['tol']:g}; where it was cut, its time is a lower bound."
    )
    table = TextTable("Cross-validation", header, lines, note)
    return [table, verdicts_table(cv_goals(rows), "Goals on cross-validation")]


def cv_goals(rows: list[CVRow]) -> list[Verdict]:
    """Return the verdicts."""
    found = {row.key[:3]: row for row in rows if row.status != "failed"}
    in_fits, ratios, differences = [], [], []
    for problem in dict.fromkeys(row.problem for row in rows):
        ours = found.get((problem, CV, OURS))
        fit, peer = found.get((problem, FIT, OURS)), found.get((problem, CV, PEER))
        if ours is None:
            continue
        if fit is not None:
            in_fits.append((problem, ours.seconds / fit.seconds))
        if peer is not None:
            cut = ", cut" * (peer.status == "cut")
            ratios.append((problem + cut, peer.seconds / ours.seconds))
            if peer.status == "ok":
                differences.append((problem, _difference(ours, peer)))
    return [
        at_most(f"51 fits cost at most {FIT_RATIO:g} default fits", FIT_RATIO, in_fits, "x"),
        at_least(f"{PEER_RATIO:g}x {PEER}'s, run to convergence", PEER_RATIO, ratios),
        at_most(f"scores within {SCORE_DIFFERENCE:g}", SCORE_DIFFERENCE, differences),
    ]


def _difference(ours: CVRow, peer: CVRow) -> float:
    """Return the largest difference of mean scores, or nan."""
    if not (ours.scores and peer.scores):
        return NAN
    a, b = (np.array(json.loads(row.scores)) for row in (ours, peer))
    return float(np.abs(a - b).max())


def _measured(row: CVRow, limit: float) -> CVRow:
    is_ours = row.library == OURS
    try:
        reply = run_child(
            ["bench.cv", row.problem, row.task, row.library],
            "installed" if is_ours else "2",
            limit=CHILD_LIMIT if is_ours else limit,
        )
    except ChildError as error:
        seconds = limit if error.status == "cut" else NAN
        return replace(row, status=error.status, reason=str(error), seconds=seconds)
    return replace(row, **reply)


# --- The measuring process ------------------------------------------------------------------------


def measure(problem_name: str, task: str, library: str) -> dict[str, Any]:
    """Return the seconds of a task, and what it found."""
    problem = load_problem(problem_name)
    module = importlib.import_module("fastsoftmax" if library == OURS else "sklearn.linear_model")
    shared = {
        "l1_ratios": (0.0,),
        "scoring": "neg_log_loss",
        "use_legacy_attributes": False,
        **(PEER_PARAMETERS if library == PEER else {}),
    }

    def work(X: Any, y: Any) -> Any:
        if task == FIT:
            return module.LogisticRegression().fit(X, y)
        return module.LogisticRegressionCV(**shared).fit(X, y)

    if library == OURS:  # of all rows: which kernels are loaded depends on the size
        module.LogisticRegression().fit(problem.X, problem.y)
    warm_up = problem if problem.X_bytes < SMALL else problem.sample(per_class=10)
    work(warm_up.X, warm_up.y)
    begin = time.perf_counter()
    model = work(problem.X, problem.y)
    seconds = time.perf_counter() - begin
    n_passes = float(getattr(model, "n_passes_", NAN))
    reply: dict[str, Any] = {"seconds": seconds, "n_passes": n_passes}
    if task == CV:
        reply |= {"C": model.C_, "scores": json.dumps(model.scores_.mean(axis=(0, 1)).tolist())}
    return reply


def main() -> None:
    """Print one JSON object; the arguments are problem, task and library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(json.dumps(measure(*sys.argv[1:])))


if __name__ == "__main__":
    main()
