"""Far more features than samples: the same fit in as many dimensions as there are samples.

The optimum's coefficients are combinations of rows of X, ``W = A X`` (representer theorem). With
``X Xᵀ = L Lᵀ`` and ``V = A L`` the logits are ``L Vᵀ`` and ``||W|| = ||V||``: the fit of a square
X, L, with the same penalty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import DenseDesign
from fastsoftmax._solvers import IterationState, SolverResult, Status
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]
Callback = Callable[[IterationState], bool | None]
Minimise = Callable[[SoftmaxObjective, Vector, float, Callback | None], tuple[SolverResult, str]]

#: Features per sample from which rotating pays, and samples up to which it is cheap.
_LEAST_RATIO = 2
_MOST_SAMPLES = 3000


def is_wide(objective: SoftmaxObjective, start: Vector) -> bool:
    """Tell whether an objective is better minimised in the space of its rows.

    In float32 the products of rows lose half of their digits; a penalty that differs between
    features, or is 0, is not kept by a rotation.
    """
    l2 = objective.l2[:-1]
    return (
        isinstance(objective.design, DenseDesign)
        and objective.dtype == np.float64
        and _LEAST_RATIO * objective.n_samples <= objective.n_features
        and objective.n_samples <= _MOST_SAMPLES
        and l2[0] > 0.0
        and bool(np.all(l2 == l2[0]))
        and not start.any()
    )


def solve_rotated(
    objective: SoftmaxObjective, tol: float, on_iteration: Callback | None, minimise: Minimise
) -> tuple[SolverResult, str]:
    """Minimise an objective for which `is_wide` holds, from zero.

    Parameters
    ----------
    objective : SoftmaxObjective
    tol : float
        For the gradient of `objective`, not of the rotated one.
    on_iteration : callable
    minimise : callable
        ``minimise(rotated_objective, start, tol, on_iteration)``.
    """
    design = objective.design
    assert isinstance(design, DenseDesign)
    rotated, back = design.rotated()
    inner = SoftmaxObjective.from_design(
        rotated,
        l2=objective.l2[0],
        fit_intercept=objective.fit_intercept,
        n_rows=objective.n_rows,
    )
    n = inner.n_features

    def original(params: Vector) -> Vector:
        packed = params.reshape(inner.shape)
        whole = np.empty(objective.shape)
        whole[:, : objective.n_features] = back(packed[:, :n])
        whole[:, objective.n_features :] = packed[:, n:]
        return whole.ravel()

    def report(state: IterationState) -> bool | None:
        assert on_iteration is not None
        return on_iteration(replace(state, params=original(state.params)))

    callback = None if on_iteration is None else report
    result, name = minimise(inner, np.zeros(inner.shape), tol, callback)
    params = original(result.params)
    value, gradient = objective.value_and_gradient(params)
    norm = float(np.abs(gradient).max())
    n_passes = result.n_passes + 1
    if result.status is Status.CONVERGED and norm > tol:
        # A component of the gradient can be larger than all of the rotated one, and smaller.
        again, name = minimise(inner, result.params, tol * tol / norm / 2.0, callback)
        params = original(again.params)
        value, gradient = objective.value_and_gradient(params)
        norm = float(np.abs(gradient).max())
        n_passes += again.n_passes + 1
        result = replace(
            again,
            n_iterations=result.n_iterations + again.n_iterations,
            history=[*result.history, *again.history],
        )
    found = replace(result, params=params, objective=value, gradient_norm=norm, n_passes=n_passes)
    return found, f"{name} on rotated rows"
