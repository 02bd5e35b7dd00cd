"""Cyanure: variance-reduced and quasi-Newton solvers in C++, chosen by itself."""

import time
from typing import Any

import numpy as np

from bench.adapter import TINY_TOLERANCE, Adapter, Fit, register
from bench.problems import Problem

CHECKED_EVERY = 5  # passes; n_iter_ is the last pass at which it looked for convergence


class Cyanure(Adapter):
    """``cyanure.estimators.Classifier``; its iterations are passes over X.

    It minimises mean loss + lambda_1/2 ||W||² with a free intercept, and takes one logit row for
    two classes, so that lambda_1 = 1 / (C n) is the common objective exactly.
    """

    name = "cyanure"
    distribution = "cyanure"
    threads = ("2",)  # its own, and the BLAS's

    def memory_estimate(self, problem: Problem) -> int:
        """Return X and its copy, two (n, K) arrays and twenty pairs of params with buffers."""
        itemsize = int(problem.X.dtype.itemsize)
        return (
            2 * problem.X_bytes
            + 2 * len(problem.y) * problem.n_rows * itemsize
            + 60 * problem.n_params * itemsize
        )

    def penalty(self, strength: float) -> dict[str, Any]:
        """Return the options for a penalty of this strength beside the mean loss."""
        return {"penalty": "l2", "lambda_1": strength}

    def fit(self, problem: Problem, C: float, budget: int | None) -> Fit:
        """Fit a new estimator and time ``fit`` alone."""
        from cyanure.estimators import Classifier

        options: dict[str, Any] = {}
        if budget is not None:
            options = {"tol": TINY_TOLERANCE, "max_iter": budget}
        model = Classifier(
            loss="logistic" if problem.n_classes == 2 else "multiclass-logistic",
            fit_intercept=True,
            n_threads=int(self.threads[0]),
            verbose=False,
            **self.penalty(1.0 / (C * len(problem.y))),
            **options,
        )
        begin = time.perf_counter()
        model.fit(problem.X, problem.y)
        seconds = time.perf_counter() - begin
        n_iter = int(max(model.n_iter_))
        if budget is not None and n_iter > budget - CHECKED_EVERY:
            n_iter = budget
        coef = np.reshape(model.coef_, (-1, problem.n_rows)).T
        return Fit(coef, np.ravel(model.intercept_), n_iter, seconds)


register(Cyanure())
