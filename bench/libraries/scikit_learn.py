"""scikit-learn's LogisticRegression, one adapter for each solver."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from typing import Any
from unittest.mock import patch

from bench.adapter import TINY_TOLERANCE, EstimatorAdapter, register
from bench.problems import Array, Problem
from bench.recorder import Recorder, TracedAdapter


class ScikitLearn(EstimatorAdapter):
    """``sklearn.linear_model.LogisticRegression`` with one solver."""

    distribution = "scikit-learn"

    def __init__(self, solver: str) -> None:
        self.solver = solver
        self.name = f"sklearn-{solver}"

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


class Saga(ScikitLearn):
    """The stochastic solver: its iterations are passes, hidden in compiled code."""

    threads = ("1",)  # it has one thread and calls no BLAS
    on_by_default = False  # slow wherever features are not scaled alike

    def __init__(self) -> None:
        super().__init__("saga")

    def estimator(self, C: float, **options: Any) -> Any:
        """Return the estimator with a fixed order of rows."""
        return super().estimator(C, random_state=0, **options)


class TracedScikitLearn(ScikitLearn, TracedAdapter):
    """A solver whose iterates pass through Python; the hook is where each of them is known."""

    def __init__(self, solver: str, hook: Callable[[Recorder], Any]) -> None:
        super().__init__(solver)
        self.hook = hook

    def run_recorded(self, problem: Problem, C: float, budget: int, recorder: Recorder) -> None:
        """Fit with the solver's loop patched."""
        model = self.estimator(C, tol=TINY_TOLERANCE, max_iter=budget)
        with self.hook(recorder):
            model.fit(problem.X, problem.y)

    def unpack(self, problem: Problem, params: Array) -> tuple[Array, Array]:
        """Return coef and intercept: scikit-learn ravels columns first, the intercept last."""
        params = params.reshape(problem.n_rows, -1, order="F")
        return params[:, :-1], params[:, -1]


def record_minimize(recorder: Recorder) -> Any:
    """Return a patch of SciPy's ``minimize`` that calls back at every iterate."""
    from scipy import optimize

    minimize = optimize.minimize

    def recorded(*arguments: Any, callback: Any = None, **options: Any) -> Any:
        return minimize(*arguments, callback=recorder.record, **options)

    return patch.object(optimize, "minimize", recorded)


def record_newton_cg(recorder: Recorder) -> Any:
    """Return a patch of scikit-learn's ``_newton_cg``: each iteration asks for one Hessian."""
    from sklearn.linear_model import _logistic

    newton_cg = _logistic._newton_cg

    def recorded(*, grad_hess: Any, **options: Any) -> Any:
        n_calls = count()

        def watched(params: Array, *arguments: Any) -> Any:
            if next(n_calls):  # the first is at zero
                recorder.record(params)
            return grad_hess(params, *arguments)

        return newton_cg(grad_hess=watched, **options)

    return patch.object(_logistic, "_newton_cg", recorded)


def record_newton_cholesky(recorder: Recorder) -> Any:
    """Return a patch of the Newton solver's convergence check, which ends an iteration.

    Where its Hessian is singular the solver goes on with L-BFGS, and so does the recorder.
    """
    from sklearn.linear_model._glm._newton_solver import NewtonCholeskySolver

    check = NewtonCholeskySolver.check_convergence

    def recorded(solver: Any, X: Any, y: Any, sample_weight: Any) -> None:
        recorder.record(solver.coef)
        check(solver, X=X, y=y, sample_weight=sample_weight)

    patches = ExitStack()
    patches.enter_context(patch.object(NewtonCholeskySolver, "check_convergence", recorded))
    patches.enter_context(record_minimize(recorder))
    return patches


# The order is the one in which they run: the first to finish spare the slow ones time.
register(TracedScikitLearn("lbfgs", record_minimize))
register(TracedScikitLearn("newton-cholesky", record_newton_cholesky))
register(TracedScikitLearn("newton-cg", record_newton_cg))
register(Saga())
