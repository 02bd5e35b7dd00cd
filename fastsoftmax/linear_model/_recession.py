"""Whether an objective falls for ever along some direction: then it has no minimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs.base import Coefficients, Margins
from fastsoftmax._solvers import Preconditioner, minimize_lbfgs
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]

#: Logits by which a receding step moves classes apart at least.
_LEAST_MARGIN = 1e-2
#: The share of the largest margin by which another may shrink: of a step, and once made right.
_STEP_SLACK, _SLACK = 0.05, 0.01
#: How far a step is followed, in logits of samples that are not certain yet (one far out would be
#: the measure of all others), and by what share of the objective it may then rise.
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
    that are large already shrink while others grow, without a loss that would tell. Then a
    direction whose margins are all nonnegative, up to a slack, is sought near the step, by
    minimising the sum of the squares of the negative ones. If there is none, the minimiser is 0.
    Its passes do not count among those of the fit.

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

    def coefficients(params: Vector) -> Coefficients:
        packed = params.reshape(objective.shape)
        return packed[:, :D], packed[:, -1] if objective.fit_intercept else np.zeros(len(packed))

    def margins(direction: Vector, params: Vector) -> Margins | None:
        return objective.design.margins(coefficients(direction), coefficients(params))

    def end(params: Vector, direction: Vector, found: Margins, logits: float) -> float:
        """Return the objective where uncertain margins are so many logits larger."""
        if not found.uncertain_high >= _LEAST_MARGIN * found.high > 0.0:
            return np.inf
        return objective.value(params + logits / found.uncertain_high * direction)

    def leads_near(params: Vector, step: Vector, most: float) -> bool:
        """Tell whether a direction near the step ends no higher than at `most`."""
        is_found = False

        def shortfall_and_gradient(direction: Vector) -> tuple[float, Vector]:
            nonlocal is_found
            here = objective.design.margins(coefficients(direction), want_gradient=True)
            assert here is not None
            if not is_found and here.high >= _LEAST_MARGIN and here.low >= -_SLACK * here.high:
                found = margins(direction, params)
                assert found is not None
                is_found = end(params, direction, found, _NEAR) <= most
            gradient = here.coef_gradient
            if objective.fit_intercept:
                gradient = np.column_stack([gradient, here.intercept_gradient])
            return here.shortfall, gradient.ravel()

        with contextlib.suppress(FloatingPointError):  # margins, or the curvature, overflow
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
        found = margins(step, params)
        if found is None or not found.high >= _LEAST_MARGIN:
            return False
        value = objective.value(params)
        hardly_shrinks = found.low >= -_STEP_SLACK * found.high
        if hardly_shrinks and end(params, step, found, _FAR) <= value:
            return True
        most = value + _RISE * value
        # With penalised features besides, the search would have to leave these out.
        if not (settled and is_free.all()) or end(params, step, found, _NEAR) > most:
            return False
        return leads_near(params, step / found.high, most)

    return recedes
