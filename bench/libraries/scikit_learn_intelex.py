"""scikit-learn-intelex: SciPy's L-BFGS over oneDAL's kernels, which have threads of their own."""

import logging
from typing import Any

import numpy as np

from bench.adapter import TINY_TOLERANCE, EstimatorAdapter, register
from bench.libraries.scikit_learn import record_minimize
from bench.problems import Array, Problem
from bench.recorder import Recorder, TracedAdapter

ACCELERATED = "running accelerated version on CPU"


class Intelex(EstimatorAdapter, TracedAdapter):
    """``sklearnex.linear_model.LogisticRegression``; newton-cg, its other solver, is slower."""

    name = "intelex-lbfgs"
    distribution = "scikit-learn-intelex"
    threads = ("2",)  # given as n_jobs, and to the BLAS

    def skip_reason(self, problem: Problem) -> str | None:
        """Return why not: it is not installed, or X is sparse."""
        reason = super().skip_reason(problem)
        return reason or ("has no sparse path" if hasattr(problem.X, "indptr") else None)

    def memory_estimate(self, problem: Problem) -> int:
        """Return X, three (n, K) arrays of oneDAL and fifty pairs of float64 params."""
        itemsize = int(problem.X.dtype.itemsize)
        return (
            problem.X_bytes
            + 3 * len(problem.y) * problem.n_rows * itemsize
            + 110 * problem.n_params * 8
        )

    def estimator(self, C: float, **options: Any) -> Any:
        """Return the estimator at its defaults but for C, the threads and the budget."""
        from sklearnex.linear_model import LogisticRegression

        return LogisticRegression(C=C, n_jobs=int(self.threads[0]), **options)

    def warm_up(self, problem: Problem) -> None:
        """Fit a few rows; where scikit-learn's code would run instead, refuse."""
        said = _Messages()
        logger = logging.getLogger("sklearnex")
        level = logger.level
        logger.addHandler(said)
        logger.setLevel(logging.INFO)
        try:
            super().warm_up(problem)
        finally:
            logger.removeHandler(said)
            logger.setLevel(level)
        if not any(ACCELERATED in line for line in said.lines):
            raise RuntimeError("scikit-learn-intelex fell back to scikit-learn")

    def run_recorded(self, problem: Problem, C: float, budget: int, recorder: Recorder) -> None:
        """Fit with SciPy's loop patched."""
        model = self.estimator(C, tol=TINY_TOLERANCE, max_iter=budget)
        with record_minimize(recorder):
            model.fit(problem.X, problem.y)

    def unpack(self, problem: Problem, params: Array) -> tuple[Array, Array]:
        """Return coef and intercept: oneDAL's rows begin with the intercept."""
        rows = np.reshape(params, (problem.n_rows, -1))
        return rows[:, 1:], rows[:, 0]


class _Messages(logging.Handler):
    """Collects what a logger says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.lines.append(record.getMessage())


register(Intelex())
