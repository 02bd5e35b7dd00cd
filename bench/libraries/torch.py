"""PyTorch's L-BFGS on the full batch, as it is written by hand where there is no estimator."""

import time
from typing import Any

import numpy as np

from bench.adapter import TINY_TOLERANCE, Fit, register
from bench.problems import Array, Problem
from bench.recorder import Recorder, TracedAdapter
from bench.score import l2_of

TIGHT: dict[str, Any] = {"tolerance_grad": TINY_TOLERANCE, "tolerance_change": TINY_TOLERANCE}
NO_LIMIT = 1 << 30


class TorchLBFGS(TracedAdapter):
    """``torch.optim.LBFGS`` with ten pairs and strong Wolfe steps, in the dtype of X.

    Its defaults are no line search and 20 iterations; the fit that counts as the default here
    has scikit-learn's 100 iterations and torch's own tolerances.
    """

    name = "torch-lbfgs"
    distribution = "torch"

    def skip_reason(self, problem: Problem) -> str | None:
        """Return why not: it is not installed, or X is sparse."""
        reason = super().skip_reason(problem)
        return reason or ("has no sparse path" if hasattr(problem.X, "indptr") else None)

    def memory_estimate(self, problem: Problem) -> int:
        """Return X, six (n, K) arrays that the gradient needs and thirty vectors of params."""
        itemsize = int(problem.X.dtype.itemsize)
        return (
            problem.X_bytes
            + 6 * len(problem.y) * problem.n_rows * itemsize
            + 30 * problem.n_params * itemsize
        )

    def fit(self, problem: Problem, C: float, budget: int | None) -> Fit:
        """Fit new params and time all but the import."""
        begin = time.perf_counter()
        if budget is None:
            params, n_iter = _minimised(problem, C, max_iter=100)
        else:
            params, n_iter = _minimised(problem, C, max_iter=budget, **TIGHT)
        seconds = time.perf_counter() - begin
        return Fit(*self.unpack(problem, params), n_iter, seconds)

    def run_recorded(self, problem: Problem, C: float, budget: int, recorder: Recorder) -> None:
        """Fit with an optimiser that tells of its iterates."""
        params, _ = _minimised(problem, C, recorder, max_iter=budget, **TIGHT)
        recorder.record(params)

    def unpack(self, problem: Problem, params: Array) -> tuple[Array, Array]:
        """Return coef and intercept, the last column."""
        rows = np.reshape(params, (problem.n_rows, -1))
        return rows[:, :-1], rows[:, -1]


def _minimised(
    problem: Problem, C: float, recorder: Recorder | None = None, **options: Any
) -> tuple[Array, int]:
    """Return params, coef and intercept side by side, and the number of iterations."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    X = torch.from_numpy(problem.X)
    y = torch.from_numpy(problem.y)
    binary = problem.n_rows == 1
    if binary:
        y = y.to(X.dtype)
    l2 = l2_of(C, len(y))
    params = torch.zeros((problem.n_rows, X.shape[1] + 1), dtype=X.dtype, requires_grad=True)

    class Optimiser(torch.optim.LBFGS):
        def _clone_param(self) -> Any:
            # Called once at the start of each iteration, when params are the last one's result.
            if recorder is not None and self.state[params]["n_iter"] > 1:
                recorder.record(params.detach().numpy().ravel())
            return super()._clone_param()

    optimiser = Optimiser(
        [params], max_eval=NO_LIMIT, history_size=10, line_search_fn="strong_wolfe", **options
    )

    def closure() -> Any:
        optimiser.zero_grad()
        coef, intercept = params[:, :-1], params[:, -1]
        logits = torch.addmm(intercept, X, coef.T)
        if binary:
            loss = binary_cross_entropy_with_logits(logits[:, 0], y)
        else:
            loss = cross_entropy(logits, y)
        loss = loss + 0.5 * l2 * (coef * coef).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return params.detach().numpy().ravel(), int(optimiser.state[params]["n_iter"])


register(TorchLBFGS())
