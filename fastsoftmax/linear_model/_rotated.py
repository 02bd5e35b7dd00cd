"""Far more features than samples: the same fit in as many dimensions as there are samples.

The optimum's coefficients are combinations of rows, ``W = A U`` with ``U = X - centre``
(representer theorem; the intercept is not penalised, so that the combinations sum to zero and any
centre will do). With ``U Uᵀ = L Lᵀ`` and ``V = A L`` the logits are ``L Vᵀ``, but for the
intercept, and ``||W|| = ||V||``: the fit of a square X, L, with the same penalty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import DenseDesign
from fastsoftmax._solvers import IterationState, SolverResult
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]
Callback = Callable[[IterationState], bool | None]
Minimise = Callable[[SoftmaxObjective, Vector, Callback | None], tuple[SolverResult, str]]

#: Features per sample from which rotating pays, and samples up to which it is cheap.
_LEAST_RATIO = 2
_MOST_SAMPLES = 3000
#: X is copied, so it must not be large: 256 MB.
_MOST_ENTRIES = 2**25


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
        and objective.n_samples * objective.n_features <= _MOST_ENTRIES
        and l2[0] > 0.0
        and bool(np.all(l2 == l2[0]))
        and not start.any()
    )


def solve_rotated(
    objective: SoftmaxObjective,
    centre: Vector,
    on_iteration: Callback | None,
    minimise: Minimise,
) -> tuple[SolverResult, str]:
    """Minimise an objective for which `is_wide` holds, from zero.

    Parameters
    ----------
    objective : SoftmaxObjective
    centre : ndarray of shape (n_features,)
    on_iteration : callable
        Sees the gradient norm of the rotated objective.
    minimise : callable
        ``minimise(rotated_objective, start, on_iteration)``.

    Returns
    -------
    result : SolverResult
        The gradient norm is that of `objective`: it may be larger than the rotated one.
    name : str

    Raises
    ------
    ValueError
        If products of rows overflow.
    """
    design = objective.design
    assert isinstance(design, DenseDesign)
    rotated, back = design.rotated(centre)
    inner = SoftmaxObjective.from_design(
        rotated,
        l2=objective.l2[0],
        fit_intercept=objective.fit_intercept,
        n_rows=objective.n_rows,
    )
    n = inner.n_features

    def original(params: Vector) -> Vector:
        packed = params.reshape(inner.shape)
        coef = back(packed[:, :n])
        intercept = packed[:, n:] - np.einsum("kj,j->k", coef, centre)[:, None]
        return np.hstack([coef, intercept[:, : packed.shape[1] - n]]).ravel()

    def report(state: IterationState) -> bool | None:
        assert on_iteration is not None
        return on_iteration(replace(state, params=original(state.params)))

    callback = None if on_iteration is None else report
    result, name = minimise(inner, np.zeros(inner.shape), callback)
    params = original(result.params)
    value, gradient = objective.value_and_gradient(params)
    found = replace(
        result,
        params=params,
        objective=value,
        gradient_norm=float(np.abs(gradient).max()),
        n_passes=result.n_passes + 1,
    )
    return found, f"{name} on rotated rows"
