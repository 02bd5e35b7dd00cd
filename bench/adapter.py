"""What a library has to offer to be measured, and the registry that finds it."""

import importlib
import pkgutil
import time
from abc import ABC, abstractmethod
from importlib import metadata
from typing import Any, NamedTuple

from bench.problems import Array, Problem

# So small that only the budget ends a fit; not 0, which some solvers refuse.
TINY_TOLERANCE = 1e-14


class Fit(NamedTuple):
    """The result of one fit; ``seconds`` is the library's own call and nothing else."""

    coef: Array
    intercept: Array
    n_iter: int
    seconds: float


class Adapter(ABC):
    """One library, or one of its solvers, on the common objective.

    objective = mean(loss) + ||W||^2 / (2 C n), intercept free; two classes use one logit row.
    """

    name: str
    distribution: str
    # BLAS thread counts to try, each in a process of its own; "installed" sets nothing.
    threads: tuple[str, ...] = ("1", "2")
    on_by_default: bool = True

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

    def warm_up(self, problem: Problem) -> None:
        """Compile and import what a first fit would; timed apart."""
        self.fit(problem.few_rows(), 1.0, 2)


class EstimatorAdapter(Adapter):
    """A library with scikit-learn's estimator interface."""

    @abstractmethod
    def estimator(self, C: float, **options: Any) -> Any:
        """Return the unfitted estimator; ``options`` are empty or ``tol`` and ``max_iter``."""

    def fit(self, problem: Problem, C: float, budget: int | None) -> Fit:
        """Fit a new estimator and time ``fit`` alone."""
        options = {} if budget is None else {"tol": TINY_TOLERANCE, "max_iter": budget}
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


def find_libraries() -> dict[str, Adapter]:
    """Import every module of ``bench/libraries`` and return the adapters by name."""
    import bench.libraries

    for module in pkgutil.iter_modules(bench.libraries.__path__):
        importlib.import_module(f"bench.libraries.{module.name}")
    return LIBRARIES
