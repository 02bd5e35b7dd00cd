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

from fastsoftmax._designs import DenseDesign, rotate
from fastsoftmax._solvers import IterationState, SolverResult
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]

#: Features per sample from which rotating pays, and samples up to which it is cheap.
_LEAST_RATIO = 2
_MOST_SAMPLES = 3000
#: X may have to be copied in float64, so it must not be large: 256 MB.
_MOST_ENTRIES = 2**25


def is_wide(objective: SoftmaxObjective) -> bool:
    """Tell whether an objective is better minimised in the space of its rows.

    A penalty that differs between features, or is 0, is not kept by a rotation.
    """
    l2 = objective.l2[:-1]
    return (
        isinstance(objective.design, DenseDesign)
        and _LEAST_RATIO * objective.n_samples <= objective.n_features
        and objective.n_samples <= _MOST_SAMPLES
        and objective.n_samples * objective.n_features <= _MOST_ENTRIES
        and l2[0] > 0.0
        and bool(np.all(l2 == l2[0]))
    )


class Rotation:
    """An objective for which `is_wide` holds, in the space of its rows.

    Parameters
    ----------
    objective : SoftmaxObjective
    centre : ndarray of shape (n_features,)

    Attributes
    ----------
    objective : SoftmaxObjective
        Has as many features as samples, in float64; its values are those of the original at
        `original`.

    Raises
    ------
    ValueError
        If products of rows overflow; logits need not.
    """

    def __init__(self, objective: SoftmaxObjective, centre: Vector) -> None:
        design = objective.design
        assert isinstance(design, DenseDesign)
        rotated, self._back = rotate(design, centre)
        self._full, self._centre = objective, centre
        self.objective = SoftmaxObjective.from_design(
            rotated,
            l2=objective.l2[0],
            fit_intercept=objective.fit_intercept,
            n_rows=objective.n_rows,
        )

    def start(self, params: Vector) -> Vector:
        """Return the rotated parameters for the original's, whose coefficients are zero."""
        rotated = np.zeros(self.objective.shape)
        if self.objective.fit_intercept:
            rotated[:, -1] = params.reshape(self._full.shape)[:, -1]
        return rotated

    def original(self, params: Vector) -> Vector:
        """Return the original's flat parameters for some of the rotated objective."""
        inner = self.objective
        packed = params.reshape(inner.shape)
        coef = self._back(packed[:, : inner.n_features])
        if not inner.fit_intercept:
            return coef.ravel()
        intercept = packed[:, -1] - np.einsum("kj,j->k", coef, self._centre)
        return np.column_stack([coef, intercept]).ravel()

    def original_result(self, result: SolverResult) -> SolverResult:
        """Return a result for the original, whose gradient norm may be larger."""
        params = self.original(result.params)
        value, gradient = self._full.value_and_gradient(params)
        return replace(
            result,
            params=params,
            objective=value,
            gradient_norm=float(np.abs(gradient).max()),
            n_passes=result.n_passes + 1,
        )

    def original_callback(
        self, on_iteration: Callable[[IterationState], bool | None] | None
    ) -> Callable[[IterationState], bool | None] | None:
        """Return a callback that shows the original parameters and the rotated gradient norm."""
        if on_iteration is None:
            return None
        return lambda state: on_iteration(replace(state, params=self.original(state.params)))
