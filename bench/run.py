"""``python -m bench run``: every curve of every problem and library, row by row.

A curve is what a library reaches on one (problem, C, dtype, threads) from zero after more and more
iterations, in the manner of benchopt; a fit at its defaults follows.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from bench import reference
from bench.adapter import Adapter
from bench.console import progress_bar
from bench.operation import OURS
from bench.problems import Problem, ProblemUnavailableError, load_problem, problem_dtypes
from bench.process import Worker, WorkerCutError, WorkerError
from bench.results import CURVE_END, DEFAULT_BUDGET, ResultsFolder, Row, optimum_key
from bench.score import Float64Array, Score, score, score_one_vs_rest

RIVAL = "sklearn-lbfgs"  # what a user would have instead of us
MEMORY_LIMIT = 8 * 1024**3
LEVEL = 1e-6  # the sub-optimality whose time decides on cuts
CUT_RATIO = 20.0  # a peer is cut at this many times our time to the level ...
CUT_FLOOR = 2.0  # ... but not before so many seconds
NO_RIVAL = 60.0  # where we have not reached the level
HOPELESS_RATIO = 3.0  # or at this many times the best peer's: it cannot become the best
OUR_LIMIT = 120.0  # seconds; nothing stands in for us
DONE = 1e-11  # sub-optimality at which a curve has nothing more to tell
FLAT = 1e-9  # relative change of the objective that ends a curve when seen twice


class Fitter(Protocol):
    """What a curve needs of a worker."""

    warmup_seconds: float

    def fit(self, C: float, limit: float) -> tuple[dict[str, Any], Float64Array]:
        """Return reply and params at the defaults; see `Worker`."""

    def trace(
        self, C: float, after: int, limit: float, quick: bool
    ) -> Iterator[tuple[dict[str, Any], Float64Array]]:
        """Yield replies and params along a curve; see `Worker`."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    problems: list[str]
    libraries: list[Adapter]
    dtypes: list[str] | None = None  # None: each problem's own
    C: list[float] | None = None  # None: each problem's own list
    quick: bool = False
    time_limit: float = math.inf  # at which a peer is cut in any case


@dataclass(frozen=True)
class Limit:
    """Seconds after which a fit is cut, and what they follow from."""

    seconds: float
    reason: str


def run(plan: Plan, results: ResultsFolder, console: Console) -> list[str]:
    """Run the plan and return messages about problems that could not be loaded."""
    missing = []
    cases = [
        (name, dtype) for name in plan.problems for dtype in plan.dtypes or problem_dtypes(name)
    ]
    with progress_bar(console) as progress:
        n_curves = len(cases) * sum(len(adapter.threads) for adapter in plan.libraries)
        task = progress.add_task("starting", total=n_curves)
        for name, dtype in cases:
            progress.update(task, description=f"{name}: loading")
            try:
                problem = load_problem(name, dtype, plan.quick)
            except ProblemUnavailableError as error:
                console.print(f"skipped {error}")
                missing.append(str(error))
            else:
                _run_problem(plan, results, problem, console, progress, task)
    return missing


def _run_problem(
    plan: Plan,
    results: ResultsFolder,
    problem: Problem,
    console: Console,
    progress: Progress,
    task: TaskID,
) -> None:
    """Run ours, find the optimum, and run the peers, whose cuts depend on both."""
    ours = [adapter for adapter in plan.libraries if adapter.name == OURS]
    peers = [adapter for adapter in plan.libraries if adapter.name != OURS]
    peers.sort(key=lambda adapter: not adapter.cuts_itself)  # a cut of the others kills a process
    for adapter in [*ours, None, *peers]:
        if adapter is None:
            progress.update(task, description=f"{problem.name}: reference optimum")
            find_optima(results, problem, plan.C or problem.C, plan.quick)
            continue
        for threads in adapter.threads:
            label = f"{problem.name} {problem.X.dtype} {adapter.name}, {threads} BLAS threads"
            say = partial(_describe, progress, task, label)
            _run_library(plan, results, problem, adapter, threads, say)
            outcome = _outcome(results, problem, adapter, threads)
            console.print(f"{label}: {outcome}", soft_wrap=True)
            progress.advance(task)


def _describe(progress: Progress, task: TaskID, label: str, text: str) -> None:
    progress.update(task, description=f"{label}: {text}")


def _run_library(
    plan: Plan,
    results: ResultsFolder,
    problem: Problem,
    adapter: Adapter,
    threads: str,
    say: Callable[[str], None],
) -> None:
    """Run an adapter's curves of all C, at a number of threads."""
    dtype = str(problem.X.dtype)
    estimate = adapter.memory_estimate(problem)
    reason = adapter.skip_reason(problem)
    if reason is None and estimate > MEMORY_LIMIT:
        reason = f"would need about {estimate / 1e9:.1f} GB"
    repeats = 1 if plan.quick else 3
    with Worker(adapter.name, problem.name, dtype, threads, plan.quick, repeats) as worker:
        for C in plan.C or problem.C:
            row = Row(
                problem=problem.name,
                C=C,
                dtype=dtype,
                library=adapter.name,
                threads=threads,
                budget=DEFAULT_BUDGET,
                version=adapter.version() or "",
                memory_estimate=estimate,
            )
            why = reason or _slower_threads(results, row)
            if why is not None:
                if row.key not in results.rows:
                    results.append(replace(row, status="skipped", reason=why))
                continue
            if adapter.same_objective:
                run_curve(problem, row, worker, results, plan, say, adapter.cuts_itself)
            else:
                _run_defaults(problem, row, worker, results, plan, say, score_one_vs_rest)


def _slower_threads(results: ResultsFolder, row: Row) -> str | None:
    """Return why a number of threads cannot be a library's best one on a problem, or None.

    What an iteration takes depends on the problem, not on C: the number of threads that was faster
    at another C is the one that counts.
    """
    seconds: dict[str, float] = {}
    for other in results.rows.values():
        alike = (other.problem, other.dtype, other.library) == (row.problem, row.dtype, row.library)
        if alike and other.C != row.C and other.status == "ok" and other.n_iter > 0:
            pace = other.seconds / other.n_iter
            seconds[other.threads] = min(pace, seconds.get(other.threads, math.inf))
    if len(seconds) < 2 or seconds.get(row.threads, math.inf) == min(seconds.values()):
        return None
    return f"{min(seconds, key=seconds.__getitem__)} BLAS threads were faster at another C"


def fit_limit(results: ResultsFolder, row: Row, ceiling: float) -> Limit:
    """Return when a fit is cut: max(2 s, 20 times our time to 1e-6), or the ceiling."""
    if row.library == OURS:
        return Limit(OUR_LIMIT, f"longer than {OUR_LIMIT:g} s")
    ours = _seconds_to(LEVEL, results, row, lambda other: other.library == OURS)
    seconds = min(max(CUT_FLOOR, CUT_RATIO * ours), ceiling) if ours else min(NO_RIVAL, ceiling)
    return Limit(seconds, f"longer than {seconds:.3g} s")


def curve_limit(results: ResultsFolder, row: Row, ceiling: float) -> Limit:
    """Return when a curve is cut: as a fit is, or when it cannot be the best peer's any more."""
    limit = fit_limit(results, row, ceiling)
    if row.library == OURS:
        return limit
    best = _seconds_to(LEVEL, results, row, lambda other: _is_rival(other, row))
    if best is None:
        return limit
    seconds = max(CUT_FLOOR, HOPELESS_RATIO * best)
    if seconds >= limit.seconds:
        return limit
    return Limit(seconds, f"past {HOPELESS_RATIO:g} times the best peer's time, {seconds:.3g} s")


def _is_rival(other: Row, row: Row) -> bool:
    """Whether a row is of another peer, or of the same one with other threads."""
    return other.library != OURS and (other.library, other.threads) != (row.library, row.threads)


def _in_group(results: ResultsFolder, like: Row) -> list[Row]:
    """Return the scored rows of a row's problem, C and dtype."""
    return [
        row for row in results.rows.values() if row.status == "ok" and row.key[:3] == like.key[:3]
    ]


def _seconds_to(
    level: float, results: ResultsFolder, like: Row, counts: Callable[[Row], bool]
) -> float | None:
    """Return the least seconds to a sub-optimality of some rows of a group; None: not reached."""
    optimum = results.optima().get(optimum_key(like.problem, like.C))
    if optimum is None:
        return None
    seconds = [
        row.seconds
        for row in _in_group(results, like)
        if counts(row) and row.objective <= optimum["objective"] * (1.0 + level)
    ]
    return min(seconds, default=None)


def _lags(results: ResultsFolder, row: Row) -> bool:
    """Whether another peer got as far in a third of the time."""
    return row.seconds > CUT_FLOOR and any(
        other.objective <= row.objective and HOPELESS_RATIO * other.seconds < row.seconds
        for other in _in_group(results, row)
        if _is_rival(other, row)
    )


def run_curve(
    problem: Problem,
    template: Row,
    worker: Fitter,
    results: ResultsFolder,
    plan: Plan,
    say: Callable[[str], None] = lambda text: None,
    traced: bool = False,
) -> None:
    """Run a curve until it is complete, and then the defaults.

    What stands in the results is not measured again, so that an interrupted curve goes on where
    it stopped. A curve ends when a fit fails or is cut, when the library stops by itself, at the
    optimum, or when the objective has not moved over two points. One that is not ``traced``, so
    that every point is another fit, ends where it lags, too.
    """
    end = replace(template, budget=CURVE_END)
    if end.key not in results.rows:
        limit = curve_limit(results, end, plan.time_limit)
        say("curve")
        try:
            if traced and (silent := _was_silent(results, end, limit)):
                limit = replace(limit, reason=silent)
                raise WorkerCutError
            points = _points(problem, end, worker, results, plan, limit)
            results.append(_last_row(results, end, points, traced, say))
        except (WorkerCutError, WorkerError) as error:
            results.append(_ended(end, error, limit))
    default = replace(template, budget=DEFAULT_BUDGET)
    if default.key in results.rows:
        return
    ended = results.rows[end.key].status
    # A goal compares our defaults with lbfgs's: those two are fitted in any case.
    if ended != "end" and template.library not in (OURS, RIVAL):
        results.append(replace(default, status="skipped", reason=f"its curve: {ended}"))
        return
    _run_defaults(problem, default, worker, results, plan, say)


def _run_defaults(
    problem: Problem,
    default: Row,
    worker: Fitter,
    results: ResultsFolder,
    plan: Plan,
    say: Callable[[str], None],
    scored_by: Callable[[Problem, Float64Array], Score] | None = None,
) -> None:
    """Run the fit at the library's defaults, unless its row stands."""
    if default.key in results.rows:
        return
    say("defaults")
    limit = fit_limit(results, default, plan.time_limit)
    try:
        reply, params = worker.fit(default.C, limit.seconds)
    except (WorkerCutError, WorkerError) as error:
        results.append(_ended(default, error, limit))
    else:
        _save(problem, default, worker, results, reply, params, scored_by)


def _points(
    problem: Problem,
    end: Row,
    worker: Fitter,
    results: ResultsFolder,
    plan: Plan,
    limit: Limit,
) -> Iterator[Row]:
    """Yield the rows of a curve: the known ones, then those that are measured and saved now."""
    known = [row for row in results.curve(end) if row.budget != DEFAULT_BUDGET]
    yield from known
    after = max((row.n_iter for row in known), default=0)
    for reply, params in worker.trace(end.C, after, limit.seconds, plan.quick):
        row = replace(end, budget=str(reply["n_iter"]))
        yield _save(problem, row, worker, results, reply, params)


def _last_row(
    results: ResultsFolder,
    end: Row,
    points: Iterator[Row],
    traced: bool,
    say: Callable[[str], None],
) -> Row:
    """Take the points of a curve until it is complete, and return the row that says why it is."""
    optimum = results.optima().get(optimum_key(end.problem, end.C))
    target = optimum["objective"] * (1.0 + DONE) if optimum else -math.inf
    objectives: list[float] = []
    end = replace(end, status="end")
    for row in points:
        say(f"{row.budget} iterations")
        if row.status != "ok":
            return replace(end, status="failed", reason=row.reason)
        objectives.append(row.objective)
        if row.objective <= target:
            return replace(end, reason="at the optimum")
        if len(objectives) >= 3 and np.ptp(objectives[-3:]) < FLAT * abs(row.objective):
            return replace(end, reason="the objective stands still")
        if not traced and _lags(results, row):
            reason = f"another peer got as far {HOPELESS_RATIO:g} times as fast"
            return replace(end, status="lags", reason=reason)
    return replace(end, reason="the library stopped by itself, or at the last budget")


def _was_silent(results: ResultsFolder, end: Row, limit: Limit) -> str | None:
    """Return why a traced curve would be cut before its first iterate, or None.

    It would where the library was killed without one at another C, or with other threads: that was
    at twice a limit as long as this one, and two threads are at most twice as fast as one. So
    newton-cholesky is tried once on mnist, whose Hessian takes it over a minute.
    """
    for other in results.rows.values():
        alike = (other.problem, other.dtype, other.library) == (end.problem, end.dtype, end.library)
        if alike and other.budget == CURVE_END and other.status == "cut":
            scored = [row for row in results.curve(other) if row.status == "ok"]
            if not scored and other.seconds >= limit.seconds:
                return f"no iterate at C = {other.C:g} with {other.threads} BLAS threads"
    return None


def _ended(row: Row, error: Exception, limit: Limit) -> Row:
    """Return the row of a fit or a curve that was cut or has failed."""
    if isinstance(error, WorkerCutError):
        return replace(row, status="cut", reason=limit.reason, seconds=limit.seconds)
    return replace(row, status="failed", reason=" ".join(str(error).split()))


def _save(
    problem: Problem,
    row: Row,
    worker: Fitter,
    results: ResultsFolder,
    reply: dict[str, Any],
    params: Float64Array,
    scored_by: Callable[[Problem, Float64Array], Score] | None = None,
) -> Row:
    """Append and return the row of one fit, with its score or why it has none."""
    expected = (problem.n_rows, problem.X.shape[1] + 1)
    row = replace(row, warmup_seconds=worker.warmup_seconds, **reply)
    if params.shape != expected or not np.isfinite(params).all():
        what = f"params of shape {params.shape}" if params.shape != expected else "not finite"
        row = replace(row, status="failed", reason=f"unusable coefficients: {what}")
    elif scored_by is not None:
        row = replace(row, **asdict(scored_by(problem, params)))
    else:
        row = replace(row, **asdict(score(problem, row.C, params)))
        results.keep_if_best(row, params)
    results.append(row)
    return row


def find_optima(
    results: ResultsFolder,
    problem: Problem,
    C_values: "list[float] | tuple[float, ...]",
    quick: bool,
) -> None:
    """Save the optimum of each C, from the best params so far, unless a certified one stands."""
    optima = results.optima()
    todo = [C for C in C_values if not optima.get(optimum_key(problem.name, C), {}).get("reached")]
    if todo and problem.X.dtype != np.float64:
        problem = load_problem(problem.name, "float64", quick)
    for C in todo:
        start = results.best_params(problem.name, C)
        results.save_optimum(problem.name, C, reference.minimise(problem, C, start))


def _outcome(results: ResultsFolder, problem: Problem, adapter: Adapter, threads: str) -> str:
    """Return one line about a library's rows on a problem."""
    rows = [
        row
        for row in results.rows.values()
        if (row.problem, row.dtype) == (problem.name, str(problem.X.dtype))
        and (row.library, row.threads) == (adapter.name, threads)
    ]
    ended = [f"{row.status}, {row.reason}" for row in rows if row.status not in ("ok", "end")]
    n_points = sum(row.status == "ok" for row in rows)
    return "; ".join([f"{n_points} points", *dict.fromkeys(ended)])
