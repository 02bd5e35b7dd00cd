"""``python -m bench l1``: fits with L1 penalties and elastic net, against saga and Cyanure.

A row is one fit; the last row of a curve says why it ends, so that an interrupted run goes on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.adapter import Adapter
from bench.console import messages, progress_bar, rich_table, terminal
from bench.goals import Verdict, at_least, verdicts_table
from bench.l1_libraries import l1_libraries
from bench.operation import OURS
from bench.problems import Problem, ProblemUnavailableError, load_problem
from bench.process import CHILD_LIMIT, Worker, WorkerCutError, WorkerError
from bench.results import NAN, append_csv, read_csv
from bench.run import CUT_FLOOR, Fitter
from bench.score import l1_objective, l2_of
from bench.summary import Duration, level_name, suboptimality, time_to
from bench.tables import NEVER, TextTable, number

FILE = "l1.csv"
SAGA, CYANURE = "sklearn-saga", "cyanure"
SAGA_RATIO, CYANURE_RATIO = 10.0, 1.0
LEVELS = (1e-4, 1e-6)
DONE = 0.5 * LEVELS[-1]  # where a peer's curve ends: the best objective may still fall a little
CUT_RATIO = 1.2 * SAGA_RATIO  # a peer is cut at so many times our seconds to the last level
QUICK_LIMIT = 0.2


@dataclass(frozen=True)
class Case:
    """A penalty for a problem; C or its ratio to `fastsoftmax.c_min` is given."""

    problem: str
    l1_ratio: float = 1.0
    multiple: float = NAN
    C: float = NAN

    def with_C(self, problem: Problem) -> "Case":
        """Return the case with both, in four digits."""
        from fastsoftmax import c_min

        least = c_min(problem.X, problem.y, l1_ratio=self.l1_ratio)
        if math.isnan(self.C):
            return replace(self, C=float(f"{self.multiple * least:.4g}"))
        return replace(self, multiple=float(f"{self.C / least:.4g}"))


MULTIPLES = (1.5, 30.0, 1000.0)
#: Small problems first.
CASES = (
    *(Case("digits", ratio, m) for ratio in (1.0, 0.5) for m in MULTIPLES),
    *(Case("digits", C=C) for C in (1.0, 1000.0)),
    *(Case("diamonds", 1.0, m) for m in MULTIPLES),
    *(Case("flights", 1.0, m) for m in MULTIPLES),
    *(Case("mnist", 1.0, m) for m in MULTIPLES[:2]),
    Case("mnist", C=1.0),
    Case("mnist", 1.0, MULTIPLES[2]),
)
QUICK_CASES = tuple(Case(name, 1.0, m) for name in ("iris", "wine") for m in MULTIPLES[:2])


@dataclass(frozen=True)
class L1Row:
    """One fit, or with the budget ``end`` why a curve goes no further."""

    problem: str
    l1_ratio: float
    multiple: float  # C over c_min
    C: float
    library: str
    version: str
    n_iter: int = -1
    status: str = "ok"  # of the last row: end, cut, failed, skipped
    reason: str = ""
    seconds: float = NAN  # of a curve that was cut, those of its longest fit
    objective: float = NAN
    n_nonzeros: int = -1  # coefficients

    @property
    def group(self) -> tuple[str, ...]:
        """Return what identifies the objective."""
        return self.problem, f"{self.l1_ratio:g}", f"{self.C:g}"

    @property
    def curve(self) -> tuple[str, ...]:
        """Return what identifies the curve."""
        return *self.group, self.library, self.version


def run_l1(folder: Path, fresh: bool, quick: bool, time_limit: float = math.inf) -> int:
    """Measure the curves, write ``l1.csv`` and print the table and the goals."""
    path = folder / FILE
    if fresh:
        path.unlink(missing_ok=True)
    cases = QUICK_CASES if quick else CASES
    time_limit = min(time_limit, QUICK_LIMIT if quick else CHILD_LIMIT)
    missing = []
    with progress_bar(messages()) as progress:
        bar = progress.add_task("starting", total=len(cases) * len(l1_libraries(1.0)))
        for name in dict.fromkeys(case.problem for case in cases):
            progress.update(bar, description=f"{name}: loading")
            try:
                problem = load_problem(name, quick=quick)
            except ProblemUnavailableError as error:
                messages().print(f"skipped {error}")
                missing.append(name)
                continue
            chosen = [case.with_C(problem) for case in cases if case.problem == name]
            for label in _run_problem(path, problem, chosen, quick, time_limit):
                progress.update(bar, description=label)
                progress.advance(bar)
    rows = read_rows(path)
    for table in l1_tables(rows):
        terminal().print(rich_table(table))
    return 1 if missing or any(row.status == "failed" for row in rows) else 0


def _run_problem(
    path: Path, problem: Problem, cases: list[Case], quick: bool, time_limit: float
) -> Iterator[str]:
    """Run the curves of a problem, each library in a process of its own; yield their names."""
    for ratio in dict.fromkeys(case.l1_ratio for case in cases):
        for library, adapter in l1_libraries(ratio).items():
            threads = adapter.threads[-1]
            repeats = 1 if quick else 3
            with Worker(adapter.name, problem.name, "float64", threads, quick, repeats) as worker:
                for case in cases:
                    if case.l1_ratio == ratio:
                        row = L1Row(**asdict(case), library=library, version="")
                        run_l1_curve(path, problem, adapter, row, worker, time_limit)
                        yield f"{problem.name} C={case.C:g} l1_ratio={ratio:g} {library}"


def run_l1_curve(
    path: Path,
    problem: Problem,
    adapter: Adapter,
    row: L1Row,
    worker: Fitter,
    time_limit: float,
) -> None:
    """Run one curve, from where it stands, unless it is complete."""
    row = replace(row, version=adapter.version() or "")
    group = [other for other in latest(read_rows(path)) if other.group == row.group]
    curve = [other for other in group if other.curve == row.curve]
    if any(other.status != "ok" for other in curve):
        return
    if reason := adapter.skip_reason(problem):
        append_csv(path, asdict(replace(row, status="skipped", reason=reason)))
        return
    is_ours = row.library == OURS
    limit = CHILD_LIMIT if is_ours else peer_limit(group, time_limit)
    after = 0 if is_ours else max((other.n_iter for other in curve), default=0)
    end = replace(row, status="end")
    strength = l2_of(row.C, len(problem.y))
    try:
        for reply, params in worker.trace(row.C, after, limit, quick=False):
            point = replace(
                row,
                n_iter=reply["n_iter"],
                seconds=reply["seconds"],
                objective=l1_objective(problem.X, problem.y, params, strength, row.l1_ratio),
                n_nonzeros=int(np.count_nonzero(params[:, :-1])),
            )
            append_csv(path, asdict(point))
            curve.append(point)
            if not is_ours and suboptimality(point, optimum([*group, *curve])) <= DONE:
                break
    except WorkerCutError:
        seconds = max((point.seconds for point in curve), default=limit)
        end = replace(end, status="cut", seconds=seconds)
    except WorkerError as error:
        end = replace(end, status="failed", reason=" ".join(str(error).split()))
    append_csv(path, asdict(end))


def peer_limit(group: Sequence[L1Row], time_limit: float) -> float:
    """Return the seconds at which a peer is cut: max(2, 12 times ours), or the limit."""
    ours = [row for row in group if row.library == OURS]
    seconds = time_to(ours, optimum(ours), LEVELS[-1]).seconds if ours else NAN
    return (
        time_limit if math.isnan(seconds) else min(max(CUT_FLOOR, CUT_RATIO * seconds), time_limit)
    )


def optimum(group: Sequence[L1Row]) -> float:
    """Return the best objective of anybody; nan where nobody has one."""
    return min((row.objective for row in group if row.status == "ok"), default=NAN)


def read_rows(path: Path) -> list[L1Row]:
    """Return the saved rows."""
    kinds: dict[str, Any] = dict(L1Row.__annotations__)
    return [L1Row(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]


def latest(rows: list[L1Row]) -> list[L1Row]:
    """Return the rows of each library's version that was measured last."""
    versions = {row.library: row.version for row in rows}
    return [row for row in rows if row.version == versions[row.library]]


def by_group(rows: list[L1Row]) -> dict[tuple[str, ...], dict[str, list[L1Row]]]:
    """Return the rows of each library, for each objective."""
    found: dict[tuple[str, ...], dict[str, list[L1Row]]] = {}
    for row in latest(rows):
        found.setdefault(row.group, {}).setdefault(row.library, []).append(row)
    return found


def l1_tables(rows: list[L1Row]) -> list[TextTable]:
    """Return the table and the goals."""
    lines = []
    for curves in by_group(rows).values():
        best = optimum([row for curve in curves.values() for row in curve])
        ours = curves.get(OURS, [])
        for library, curve in curves.items():
            row = curve[0]
            line = [row.problem, f"{row.C:.3g}", number(row.multiple), f"{row.l1_ratio:g}", library]
            for level in LEVELS:
                ratio = _ratio(curve, ours, best, level)
                known = library != OURS and not math.isnan(ratio.seconds)
                line += [str(time_to(curve, best, level)), f"{ratio}x" if known else NEVER]
            scored = [point for point in curve if point.status == "ok"]
            last = min(scored, key=lambda point: point.objective, default=None)
            line += [str(last.n_nonzeros), _gap(last, best)] if last else [NEVER, NEVER]
            lines.append([*line, "; ".join(point.reason for point in curve if point.reason)])
    header = ["", "C", "/ c_min", "l1_ratio", "library"]
    for level in LEVELS:
        header += [f"{level_name(level)}, s", "ratio"]
    header += ["non-zeros", "sub-opt.", ""]
    note = (
        "Seconds of one fit from zero until the objective, scored in float64 NumPy, is within that "
        "factor of the best that anybody found; the ratio is to ours. Ours is fitted at decreasing "
        "tol, a peer with 1, 2, 4, ... iterations. `>`: it was cut before it got there. Then the "
        "coefficients that are not zero, and the sub-optimality, of its best fit."
    )
    table = TextTable("L1 penalties and elastic net", header, lines, note)
    return [table, verdicts_table(l1_goals(rows), "Goals on L1 penalties")]


def l1_goals(rows: list[L1Row]) -> list[Verdict]:
    """Return the verdicts on the ratios."""
    goals = [
        (f"L1 to 1e-4 {SAGA_RATIO:g}x saga's", SAGA_RATIO, SAGA, LEVELS[0]),
        ("L1 to 1e-6 never slower than Cyanure's", CYANURE_RATIO, CYANURE, LEVELS[1]),
    ]
    return [
        at_least(goal, least, _best_ratios(rows, peer, level)) for goal, least, peer, level in goals
    ]


def _best_ratios(rows: list[L1Row], peer: str, level: float) -> list[tuple[str, float]]:
    """Return the ratios of a peer's better solver, 0 where we do not get there.

    One that was cut counts with the seconds it had: the ratio is at least that.
    """
    found = []
    for (problem, l1_ratio, C), curves in by_group(rows).items():
        best = optimum([row for curve in curves.values() for row in curve])
        ours = curves.get(OURS, [])
        ratios = [
            _ratio(curve, ours, best, level)
            for library, curve in curves.items()
            if library.startswith(peer)
        ]
        known = [ratio for ratio in ratios if not math.isnan(ratio.seconds)]
        if known and ours:
            ratio = min(known, key=lambda ratio: (ratio.is_bound, ratio.seconds))
            cut = ", cut" if ratio.is_bound else ""
            found.append((f"{problem} C={C} l1_ratio={l1_ratio}{cut}", ratio.seconds))
    return found


def _ratio(peer: list[L1Row], ours: list[L1Row], best: float, level: float) -> Duration:
    """Return a peer's seconds over ours; 0 where we do not get there, nan where it does not."""
    theirs, mine = time_to(peer, best, level), time_to(ours, best, level)
    if math.isnan(theirs.seconds):
        return theirs
    if math.isnan(mine.seconds) or mine.is_bound:
        return Duration(0.0)
    return Duration(theirs.seconds / mine.seconds, theirs.is_bound)


def _gap(row: L1Row, best: float) -> str:
    gap = suboptimality(row, best)
    return "<1e-10" if gap < 1e-10 else f"{gap:.0e}"
