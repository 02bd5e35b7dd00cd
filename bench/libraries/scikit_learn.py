"""scikit-learn's LogisticRegression, one adapter for each solver."""

from typing import Any

from bench.adapter import EstimatorAdapter, register
from bench.problems import Problem


class ScikitLearn(EstimatorAdapter):
    """``sklearn.linear_model.LogisticRegression`` with one solver."""

    distribution = "scikit-learn"

    def __init__(self, solver: str, on_by_default: bool = True) -> None:
        self.solver = solver
        self.name = f"sklearn-{solver}"
        self.on_by_default = on_by_default

    def memory_estimate(self, problem: Problem) -> int:
        """Return X, four (n, K) arrays and what the solver holds.

        newton-cholesky has the Hessian over all params, its copy for the factorisation and a
        weighted copy of X; the others some twenty vectors of params (L-BFGS keeps ten pairs).
        """
        itemsize = int(problem.X.dtype.itemsize)
        total = problem.X_bytes + 4 * len(problem.y) * problem.n_rows * itemsize
        if self.solver == "newton-cholesky":
            return total + problem.X_bytes + 2 * problem.n_params**2 * itemsize
        return total + 24 * problem.n_params * 8

    def estimator(self, C: float, **options: Any) -> Any:
        """Return the estimator at its defaults but for solver, C and the budget."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=C, solver=self.solver, **options)


register(ScikitLearn("lbfgs"))
register(ScikitLearn("newton-cg"))
register(ScikitLearn("newton-cholesky"))
register(ScikitLearn("saga", on_by_default=False))
