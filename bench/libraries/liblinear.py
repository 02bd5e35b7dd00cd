"""scikit-learn's liblinear, one logistic regression per class: a different objective."""

import time
from typing import Any

import numpy as np

from bench.adapter import EstimatorAdapter, Fit, register
from bench.problems import Problem


class Liblinear(EstimatorAdapter):
    """``OneVsRestClassifier(LogisticRegression(solver="liblinear"))``, what many use on text.

    Its intercepts are penalised, too. What it finds is no point of a curve of ours, so it is fitted
    at its defaults alone, and shown apart with its held-out log-loss.
    """

    name = "sklearn-liblinear"
    distribution = "scikit-learn"
    threads = ("1",)  # it has no others
    on_by_default = False
    same_objective = False

    def skip_reason(self, problem: Problem) -> str | None:
        """Return why not: X is dense."""
        reason = super().skip_reason(problem)
        return reason or (None if hasattr(problem.X, "indptr") else "shown where X is sparse")

    def memory_estimate(self, problem: Problem) -> int:
        """Return X, a copy of it in nodes of 16 bytes, and the coefficients twice."""
        nodes = 16 * (int(problem.X.nnz) + 2 * len(problem.y))
        return problem.X_bytes + nodes + 16 * problem.n_params

    def estimator(self, C: float, **options: Any) -> Any:
        """Return the estimator at its defaults but for C and the budget."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        return OneVsRestClassifier(LogisticRegression(C=C, solver="liblinear", **options))

    def fit_with(self, problem: Problem, C: float, **options: Any) -> Fit:
        """Fit a new estimator and time ``fit`` alone."""
        model = self.estimator(C, **options)
        begin = time.perf_counter()
        model.fit(problem.X, problem.y)
        seconds = time.perf_counter() - begin
        parts = model.estimators_
        coef = np.concatenate([part.coef_ for part in parts])
        intercept = np.concatenate([part.intercept_ for part in parts])
        return Fit(coef, intercept, int(max(part.n_iter_[0] for part in parts)), seconds)


register(Liblinear())
