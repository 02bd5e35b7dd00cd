"""``python -m bench run``: every curve of every problem and library, row by row.

A curve is a library's fits on one (problem, C, dtype, threads): first at its defaults, then
from zero with a growing number of iterations, in the manner of benchopt.
"""

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
from bench.problems import Problem, ProblemUnavailableError, load_problem
from bench.process import Worker, WorkerCutError, WorkerError
from bench.results import DEFAULT_BUDGET, ResultsFolder, Row, optimum_key
from bench.score import Float64Array, score

OURS = "fastsoftmax"
MEMORY_LIMIT = 8 * 1024**3
CUT_RATIO = 20.0  # a peer is cut at this many times our default fit, or at the time limit
OUR_PATIENCE = 10.0  # nothing stands in for us, so our own fits get this many time limits
FLAT = 1e-9  # relative change of the objective that ends a curve when seen twice
MAX_BUDGET = 20_000


class Fitter(Protocol):
    """What a curve needs of a worker."""

    warmup_seconds: float

    def fit(
        self, C: float, budget: int | None, limit: float
    ) -> tuple[dict[str, Any], Float64Array]:
        """Return the reply and the params, or raise ``WorkerError`` or ``WorkerCutError``."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    problems: list[str]
    libraries: list[Adapter]
    dtypes: list[str]
    C: list[float] | None = None  # None: each problem's own list
    quick: bool = False
    time_limit: float | None = None  # None: each problem's own


def growing_budgets(quick: bool) -> Iterator[int]:
    """Yield 1, 2, 3, 5, 8, 12, 18, 27, ...; in quick runs a few of them."""
    budget = 1
    while budget <= (100 if quick else MAX_BUDGET):
        yield budget
        budget = budget * 4 if quick else -(-budget * 3 // 2)


def run(plan: Plan, results: ResultsFolder, console: Console) -> list[str]:
    """Run the plan and return messages about problems that could not be loaded."""
    missing = []
    # Ours first: the peers' cut depends on it.
    libraries = sorted(plan.libraries, key=lambda adapter: adapter.name != OURS)
    with progress_bar(console) as progress:
        n_curves = len(plan.problems) * len(plan.dtypes) * sum(len(a.threads) for a in libraries)
        task = progress.add_task("starting", total=n_curves)
        for name in plan.problems:
            for dtype in plan.dtypes:
                progress.update(task, description=f"{name}: loading")
                try:
                    problem = load_problem(name, dtype, plan.quick)
                except ProblemUnavailableError as error:
                    console.print(f"skipped {error}")
                    missing.append(str(error))
                    break
                for adapter in libraries:
                    for threads in adapter.threads:
                        label = f"{name} {dtype} {adapter.name}, {threads} BLAS threads"
                        say = partial(_describe, progress, task, label)
                        _run_library(plan, results, problem, adapter, threads, say)
                        console.print(
                            f"{label}: {_outcome(results, problem, adapter, threads)}",
                            soft_wrap=True,
                        )
                        progress.advance(task)
                progress.update(task, description=f"{name}: reference optimum")
                find_optima(results, problem, plan.C or problem.C, plan.quick)
    return missing


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
            if reason is not None:
                if row.key not in results.rows:
                    results.append(replace(row, status="skipped", reason=reason))
                continue
            limit = fit_limit(results, row, plan.time_limit or problem.time_limit)
            run_curve(problem, row, worker, results, growing_budgets(plan.quick), limit, say)


def fit_limit(results: ResultsFolder, row: Row, time_limit: float) -> float:
    """Return the seconds after which a fit is cut: max(time limit, 20 times our default fit)."""
    if row.library == OURS:
        return OUR_PATIENCE * time_limit
    ours = results.rows.get(replace(row, library=OURS, threads="installed").key)
    if ours is None or ours.status != "ok":
        return time_limit
    return max(time_limit, CUT_RATIO * ours.seconds)


def run_curve(
    problem: Problem,
    template: Row,
    worker: Fitter,
    results: ResultsFolder,
    budgets: Iterator[int],
    limit: float,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Run the defaults and then growing budgets until the curve is complete.

    A row that stands in the results is taken from there, so that an interrupted curve goes on
    where it stopped. The curve ends when a fit fails or is cut, when the library stopped before
    its budget, or when the objective has not moved over two budgets.
    """

    def row_for(budget: int | None) -> Row:
        row = replace(template, budget=DEFAULT_BUDGET if budget is None else str(budget))
        if row.key not in results.rows:
            say("defaults" if budget is None else f"max_iter={budget}")
            _measure(problem, row, worker, results, budget, limit)
        return results.rows[row.key]

    if row_for(None).status not in ("ok", "cut"):
        return
    objectives: list[float] = []
    for budget in budgets:
        row = row_for(budget)
        if row.status != "ok" or row.n_iter < budget:
            return
        objectives.append(row.objective)
        if len(objectives) >= 3 and np.ptp(objectives[-3:]) < FLAT * abs(objectives[-1]):
            return


def _measure(
    problem: Problem,
    row: Row,
    worker: Fitter,
    results: ResultsFolder,
    budget: int | None,
    limit: float,
) -> None:
    """Append the row of one fit: its score, or why there is none."""
    try:
        reply, params = worker.fit(row.C, budget, limit)
    except WorkerCutError as error:
        results.append(replace(row, status="cut", reason=str(error), seconds=limit))
        return
    except WorkerError as error:
        results.append(replace(row, status="failed", reason=" ".join(str(error).split())))
        return
    expected = (problem.n_rows, problem.X.shape[1] + 1)
    row = replace(row, warmup_seconds=worker.warmup_seconds, **reply)
    if params.shape != expected or not np.isfinite(params).all():
        what = f"params of shape {params.shape}" if params.shape != expected else "not finite"
        results.append(replace(row, status="failed", reason=f"unusable coefficients: {what}"))
        return
    row = replace(row, **asdict(score(problem, row.C, params)))
    results.keep_if_best(row, params)
    results.append(row)


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
    ended = [f"{row.status}, {row.reason}" for row in rows if row.status != "ok"]
    n_fits = sum(row.status == "ok" for row in rows)
    return "; ".join([f"{n_fits} fits", *dict.fromkeys(ended)])
