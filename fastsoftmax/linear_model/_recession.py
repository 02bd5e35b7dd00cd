"""Whether an objective falls for ever along some direction: then it has no minimiser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs.base import Margins
from fastsoftmax._solvers import Preconditioner, minimize_lbfgs
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]

#: Logits that a receding step moves apart at least.
_LEAST_MARGIN = 1e-2
#: The share of the largest margin by which another may shrink: of a step, and once made right.
_STEP_SLACK, _SLACK = 0.05, 0.01
#: How far a step is followed, in logits, and by what share of the objective it may then rise: a
#: single sample among 100 000 on the wrong side raises it by more.
_FAR, _NEAR = 30.0, 10.0
_RISE = 1e-5
#: Iterations in which a step is made right: flights takes 30.
_MAX_ITER = 60


def recession_test(
    objective: SoftmaxObjective, make_preconditioner: Callable[[], Preconditioner]
) -> Callable[[Vector, Vector, bool], bool]:
    """Return a test whether a step leads away for ever while the objective does not grow.

    Without a penalty on a feature that separates classes there is no finite optimum. The steps
    of a second-order method then approach a direction of recession: every sample's margin grows
    or stays, and it does not shrink. As steps only approach it, some slack is allowed; what that
    might hide shows further out.

    Where it matters whether some categories occur together, steps approach it slowly: the margins
    that are large already shrink while others grow, without a loss that would tell. Then the
    nearest direction whose margins are all nonnegative is sought, by minimising the sum of the
    squares of the negative ones from that step. If there is none, the minimiser is 0.

    Parameters
    ----------
    objective : SoftmaxObjective
    make_preconditioner : callable
        Returns nearly the inverse of a Hessian of `objective`, up to a factor.

    Returns
    -------
    recedes : callable
        See `fastsoftmax._solvers.Stopping`.

    References
    ----------
    Albert & Anderson (1984), Biometrika 71, section 2. Correia, Guimarães & Zylkin (2019),
    arXiv:1903.01633, also look for the direction by least squares.
    """
    D = objective.n_features
    is_free = np.ones(objective.shape)
    is_free[:, :D] = objective.l2[:D] == 0.0

    def margins(step: Vector) -> Margins | None:
        packed = step.reshape(objective.shape)
        intercept = packed[:, -1] if objective.fit_intercept else np.zeros(len(packed))
        return objective.design.margins(packed[:, :D], intercept)

    def rise(params: Vector, step: Vector) -> float:
        return objective.value(params + step) - objective.value(params)

    def is_near_receding(params: Vector, step: Vector, most: float) -> bool:
        is_found = False

        def shortfall_and_gradient(direction: Vector) -> tuple[float, Vector]:
            nonlocal is_found
            found = margins(direction)
            assert found is not None
            if found.high >= _LEAST_MARGIN and found.low >= -_SLACK * found.high:
                is_found |= rise(params, _NEAR / found.high * direction) <= most
            gradient = found.coef_gradient
            if objective.fit_intercept:
                gradient = np.column_stack([gradient, found.intercept_gradient])
            return found.shortfall, gradient.ravel()

        minimize_lbfgs(
            shortfall_and_gradient,
            step,
            lambda direction: make_preconditioner(),
            tol=0.0,
            max_iter=_MAX_ITER,
            on_iteration=lambda state: is_found,
        )
        return is_found

    def recedes(params: Vector, step: Vector, settled: bool) -> bool:
        step = step * is_free.ravel()
        found = margins(step)
        if found is None or found.high < _LEAST_MARGIN:
            return False
        step = step / found.high
        if found.low >= -_STEP_SLACK * found.high and rise(params, _FAR * step) <= 0.0:
            return True
        most = _RISE * objective.value(params)
        # With penalised features besides, the search would have to leave these out.
        if not (settled and is_free.all()) or rise(params, _NEAR * step) > most:
            return False
        return is_near_receding(params, step, most)

    return recedes
