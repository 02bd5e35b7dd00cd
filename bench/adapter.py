"""What a library has to offer to be measured, and the registry that finds it."""

import importlib
import math
import pkgutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

from bench.problems import Array, Problem

# So small that only the budget ends a fit; not 0, which some solvers refuse.
TINY_TOLERANCE = 1e-14
SHORT_FIT = 0.2  # seconds below which one timing is mostly noise
MAX_BUDGET = 1_000_000  # more than a limit allows: 20 000 passes over wine take half a second

T = TypeVar("T")


class Fit(NamedTuple):
    """The result of one fit; ``seconds`` is the library's own call and nothing else."""

    coef: Array
    intercept: Array
    n_iter: int
    seconds: float


@dataclass(frozen=True)
class Effort:
    """How long and how finely a curve is measured."""

    limit: float = math.inf  # seconds after which a traced fit cuts itself
    after: int = 0  # iterations of the last point that is already known
    repeats: int = 3  # of a fit shorter than `SHORT_FIT`
    quick: bool = False  # a few points only


class OutOfTimeError(Exception):
    """A traced fit has passed its limit; what it reached before has been yielded."""


class Adapter(ABC):
    """One library, or one of its solvers, on the common objective.

    objective = mean(loss) + ||W||^2 / (2 C n), intercept free; two classes use one logit row.
    """

    name: str
    distribution: str
    # BLAS thread counts to try, each in a process of its own; "installed" sets nothing.
    threads: tuple[str, ...] = ("1", "2")
    on_by_default: bool = True
    # Whether `trace` heeds the limit; else the parent kills the process there.
    cuts_itself: bool = False
    growth: float = 1.5  # ratio of two budgets of a curve
    # Whether it minimises the objective below; else it is fitted at its defaults and shown apart.
    same_objective: bool = True

    def version(self) -> str | None:
        """Return the installed version, or None."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def skip_reason(self, problem: Problem) -> str | None:
        """Return why this library cannot take this problem, or None."""
        return None if self.version() else f"{self.distribution} is not installed"

    @abstractmethod
    def memory_estimate(self, problem: Problem) -> int:
        """Return the expected peak of a fit in bytes, with the data."""

    @abstractmethod
    def fit(self, problem: Problem, C: float, budget: int | None) -> Fit:
        """Fit from zero with at most ``budget`` iterations; None: the library's defaults."""

    def timed_fit(self, problem: Problem, C: float, budget: int | None, repeats: int) -> Fit:
        """Fit, and several times where a fit is short: the one of median seconds is returned."""
        return middle(lambda: self.fit(problem, C, budget), lambda fit: fit.seconds, repeats)

    def trace(self, problem: Problem, C: float, effort: Effort) -> Iterator[Fit]:
        """Yield what is reached after more and more iterations from zero.

        Here by one fit for each budget, until the library stops before its budget; a library
        that lets its iterates be seen yields them from one fit.
        """
        for budget in growing_budgets(effort.quick, self.growth):
            if budget > effort.after:
                fit = self.timed_fit(problem, C, budget, effort.repeats)
                yield fit
                if fit.n_iter < budget:
                    return

    def warm_up(self, problem: Problem) -> None:
        """Compile and import what a first fit would; timed apart."""
        self.fit(problem.sample(), 1.0, 2)


def growing_budgets(quick: bool, growth: float) -> Iterator[int]:
    """Yield 1, 2, 3, 5, 8, 12, ... for a growth of 1.5; in quick runs 1, 4, 16, 64."""
    budget = 1
    while budget <= (100 if quick else MAX_BUDGET):
        yield budget
        budget = 4 * budget if quick else math.ceil(budget * growth)


def middle(run: Callable[[], T], seconds: Callable[[T], float], repeats: int) -> T:
    """Return the result of a run; of several, by median seconds, where it is a short one."""
    runs = [run()]
    if seconds(runs[0]) < SHORT_FIT:
        runs += [run() for _ in range(repeats - 1)]
    return sorted(runs, key=seconds)[len(runs) // 2]


class EstimatorAdapter(Adapter):
    """A library with scikit-learn's estimator interface."""

    @abstractmethod
    def estimator(self, C: float, **options: Any) -> Any:
        """Return the unfitted estimator; ``options`` are empty or ``tol`` and ``max_iter``."""

    def fit(self, problem: Problem, C: float, budget: int | None) -> Fit:
        """Fit a new estimator and time ``fit`` alone."""
        options = {} if budget is None else {"tol": TINY_TOLERANCE, "max_iter": budget}
        return self.fit_with(problem, C, **options)

    def fit_with(self, problem: Problem, C: float, **options: Any) -> Fit:
        """Fit a new estimator with these options and time ``fit`` alone."""
        model = self.estimator(C, **options)
        begin = time.perf_counter()
        model.fit(problem.X, problem.y)
        seconds = time.perf_counter() - begin
        n_iter = int(max(model.n_iter_))
        return Fit(model.coef_, model.intercept_, n_iter, seconds)


LIBRARIES: dict[str, Adapter] = {}


def register(adapter: Adapter) -> None:
    """Make an adapter known under its name."""
    LIBRARIES[adapter.name] = adapter


def libraries_apart() -> set[str]:
    """Return the names of the libraries that minimise something else."""
    return {adapter.name for adapter in find_libraries().values() if not adapter.same_objective}


def find_libraries() -> dict[str, Adapter]:
    """Import every module of ``bench/libraries`` and return the adapters by name."""
    import bench.libraries

    for module in pkgutil.iter_modules(bench.libraries.__path__):
        importlib.import_module(f"bench.libraries.{module.name}")
    return LIBRARIES
