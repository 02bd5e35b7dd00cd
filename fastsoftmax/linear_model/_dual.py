"""Sparse data with many features, from the dual: the first solver for texts.

Each sample's variables see what all others left, so that a few epochs do what takes L-BFGS dozens
of passes; and it takes one array of coefficients, no copy of X by columns, no preconditioner. It
slows down where the penalty is weak. Then `fastsoftmax.linear_model._vocabulary` goes on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import DualAscent, SparseDesign
from fastsoftmax._solvers import (
    IterationState,
    Outcome,
    SolverResult,
    Status,
    Stopping,
    ascend,
)
from fastsoftmax.linear_model._vocabulary import has_vocabulary
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]

#: A distance to the minimum below this share of the loss means that an ascent has got somewhere.
_ARRIVED = 0.1
#: Duals, entries of X and products of these are to be between this and its inverse.
_LEAST = 1e-12


def has_dual(objective: SoftmaxObjective, start: Vector) -> bool:
    """Tell whether a fit can begin in the dual: coefficients of 0 have duals of 0."""
    return (
        has_vocabulary(objective)
        and bool(np.ptp(objective.l2[:-1]) == 0.0)
        and not objective.unpack(start)[0].any()
        and _fits_float32(objective)
    )


def _fits_float32(objective: SoftmaxObjective) -> bool:
    """Tell whether squares of entries, and duals times these, are far from the ends of float32."""
    design = objective.design
    assert isinstance(design, SparseDesign)
    data = design.rows.data
    largest = max(float(data.max(initial=0.0)), -float(data.min(initial=0.0))) or 1.0
    dual = 1.0 / float(objective.l2[0]) / design.weight_sum
    return all(_LEAST < x < 1.0 / _LEAST for x in (largest, dual, dual * largest * largest))


class DualFit:
    """The beginning of a fit, or all of it, for which `has_dual` holds.

    Parameters
    ----------
    objective : SoftmaxObjective
    start : ndarray of shape ``objective.shape``, flat
    stopping : Stopping
    """

    def __init__(self, objective: SoftmaxObjective, start: Vector, stopping: Stopping) -> None:
        assert isinstance(objective.design, SparseDesign)
        self._objective, self._start, self._stopping = objective, start, stopping
        intercept = objective.unpack(start)[1]
        has_intercept, strength = objective.fit_intercept, float(objective.l2[0])
        self._dual = DualAscent(objective.design, intercept, has_intercept, strength)

    def run(self) -> tuple[SolverResult, bool]:
        """Return the result, and whether another solver should go on from there."""
        stopping = self._stopping
        stops = self._shows(0)
        outcome = ascend(
            self._dual,
            self._shows,
            tol=stopping["tol"],
            value_scale=stopping["value_scale"],
            max_iter=0 if stops else stopping["max_iter"],
        )
        if stops:
            outcome = outcome._replace(status=Status.STOPPED)
        result = self._result(outcome)
        # If the objective is not finite, what follows refuses to start.
        return result, outcome.status is None or not np.isfinite(result.objective)

    def _result(self, outcome: Outcome) -> SolverResult:
        objective, params = self._objective, self._params()
        if objective.dtype == np.float32 and outcome.status is not None:
            value = outcome.loss + objective.penalty(objective.unpack(params)[0])
        else:
            value = objective.value(params) if np.all(np.isfinite(params)) else np.inf
        distance, norm = outcome.distance, outcome.gradient_norm
        if not (np.isfinite(value) and distance <= _ARRIVED * value):
            # Numbers may overflow, and an ascent of weakly penalised data begin with steps upwards.
            at_start, gradient = objective.value_and_gradient(self._start)
            if not value <= at_start:
                params, value, norm = self._start, at_start, float(np.abs(gradient).max())
                distance = value
        return SolverResult(
            params,
            value,
            norm,
            distance,
            outcome.n_epochs,
            outcome.n_passes,
            outcome.status or Status.MAX_ITERATIONS,
            [(outcome.n_passes, value, norm)],
        )

    def _params(self) -> Vector:
        objective = self._objective
        coef, intercept = self._dual.coefficients
        params = np.zeros(objective.shape)
        # Duals sum to zero but for float32's rounding, of which the penalty should not tell.
        shift = coef.mean(axis=0, dtype=np.float64) if len(coef) > 1 else 0.0
        np.subtract(coef, shift, out=params[:, : objective.n_features])
        if objective.fit_intercept:
            params[:, -1] = intercept
        return params.ravel()

    def _shows(self, n_epochs: int) -> bool:
        """Show the parameters to whoever watches, with their exact value; tell whether to stop."""
        on_iteration = self._stopping["on_iteration"]
        if on_iteration is None:
            return False
        params = self._params()
        if not np.all(np.isfinite(params)):
            return False
        value, norm = self._objective.value(params), self._dual.measure()[1]
        step_size = float(n_epochs > 0)
        return bool(
            on_iteration(IterationState(n_epochs, n_epochs, value, norm, step_size, params))
        )
