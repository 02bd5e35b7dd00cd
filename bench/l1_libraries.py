"""The libraries that fit L1 penalties, one adapter for each ``l1_ratio``."""

import functools
from collections.abc import Iterator
from typing import Any

from bench.adapter import MAX_BUDGET, Adapter, Effort, Fit, OutOfTimeError, middle
from bench.libraries.cyanure import Cyanure
from bench.libraries.fastsoftmax import FastSoftmax
from bench.libraries.scikit_learn import Saga
from bench.operation import OURS
from bench.problems import Problem

RATIOS = (1.0, 0.5)
#: 1e-4 is the default.
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-6, 1e-9)
MOST_ITERATIONS = 10_000
FULL = 0.9  # share of the limit at which a budget fills it


def l1_name(library: str, l1_ratio: float) -> str:
    """Return the name of an adapter as a worker knows it."""
    return f"{library} l1_ratio={l1_ratio:g}"


class FastSoftmaxL1(FastSoftmax):
    """Ours, at smaller and smaller ``tol``."""

    def __init__(self, l1_ratio: float) -> None:
        self.l1_ratio = l1_ratio
        self.name = l1_name(OURS, l1_ratio)

    def estimator(self, C: float, **options: Any) -> Any:
        """Return the estimator at its defaults but for penalty and options."""
        return super().estimator(C, l1_ratio=self.l1_ratio, **options)

    def trace(self, problem: Problem, C: float, effort: Effort) -> Iterator[Fit]:
        """Yield a fit for each tolerance."""
        for tol in TOLERANCES:
            fit = functools.partial(self.fit_with, problem, C, tol=tol, max_iter=MOST_ITERATIONS)
            yield middle(fit, lambda fit: fit.seconds, effort.repeats)


class DoublingAdapter(Adapter):
    """A library whose curve has budgets 1, 2, 4, ... and a last one that fills the limit."""

    cuts_itself = True

    def trace(self, problem: Problem, C: float, effort: Effort) -> Iterator[Fit]:
        """Yield fits until the library stops before its budget.

        Raises
        ------
        OutOfTimeError
            After the budget that filled the limit.
        """
        budget = max(1, 2 * effort.after)
        while budget <= MAX_BUDGET:
            fit = self.timed_fit(problem, C, budget, effort.repeats)
            yield fit
            if fit.n_iter < budget:
                return
            affordable = min(2 * budget, int(budget * effort.limit / fit.seconds))
            if FULL * affordable < budget:
                raise OutOfTimeError
            budget = affordable


class SagaL1(DoublingAdapter, Saga):
    """scikit-learn's stochastic solver."""

    def __init__(self, l1_ratio: float) -> None:
        super().__init__()
        self.l1_ratio = l1_ratio
        self.name = l1_name(self.name, l1_ratio)

    def estimator(self, C: float, **options: Any) -> Any:
        """Return the estimator with a fixed order of rows."""
        return super().estimator(C, l1_ratio=self.l1_ratio, **options)


class CyanureL1(DoublingAdapter, Cyanure):
    """Cyanure, with the solver that it chooses or a quasi-Newton one."""

    def __init__(self, solver: str, l1_ratio: float) -> None:
        self.solver, self.l1_ratio = solver, l1_ratio
        self.name = l1_name(f"cyanure-{solver}", l1_ratio)

    def penalty(self, strength: float) -> dict[str, Any]:
        """Return the options for a penalty of this strength beside the mean loss."""
        l1, l2 = strength * self.l1_ratio, strength * (1.0 - self.l1_ratio)
        if l2 == 0.0:
            return {"penalty": "l1", "lambda_1": l1, "solver": self.solver}
        return {"penalty": "elasticnet", "lambda_1": l1, "lambda_2": l2, "solver": self.solver}


def l1_libraries(l1_ratio: float) -> dict[str, Adapter]:
    """Return the adapters by the names of their libraries, ours first."""
    return {
        OURS: FastSoftmaxL1(l1_ratio),
        "sklearn-saga": SagaL1(l1_ratio),
        "cyanure-auto": CyanureL1("auto", l1_ratio),
        "cyanure-qning-ista": CyanureL1("qning-ista", l1_ratio),
    }


def find_l1_libraries() -> dict[str, Adapter]:
    """Return all adapters by their own names."""
    return {a.name: a for ratio in RATIOS for a in l1_libraries(ratio).values()}
