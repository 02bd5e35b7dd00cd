"""Which solver and which preconditioner serve an objective: the only place that decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._solvers import (
    BlockPreconditioner,
    DiagonalPreconditioner,
    IterationState,
    Preconditioner,
    SolverResult,
    SumZeroPreconditioner,
    minimize_lbfgs,
)
from fastsoftmax.objective import SoftmaxObjective

#: The full Hessian is built where it has at most so many free parameters (its factor takes
#: 0.1 s at 2000) and costs at most so many passes over X (digits: 110, at 45 pairs of classes).
_FULL_HESSIAN = 2000
_FULL_HESSIAN_PASSES = 200.0
#: Gram matrices per class are built up to so many columns and at most this cost (mnist: 4).
_CLASS_GRAMS = 2500
_CLASS_GRAM_PASSES = 100.0

#: Entries of all class Gram matrices, 512 MB, beyond which one matrix serves all classes.
_CLASS_GRAM_ENTRIES = 2**26

#: Iterations between two full Hessians (lag): L-BFGS bridges the time with cheap passes.
_HESSIAN_LAG = 8


def solve(
    objective: SoftmaxObjective,
    start: NDArray[np.float64],
    *,
    tol: float,
    max_iter: int,
    on_iteration: Callable[[IterationState], bool | None] | None = None,
) -> SolverResult:
    """Minimise an objective by L-BFGS over a lagged estimate of its curvature.

    Parameters
    ----------
    objective : SoftmaxObjective
    start : ndarray of shape ``objective.shape``
    tol, max_iter, on_iteration
        See `fastsoftmax._solvers.minimize_lbfgs`.

    Raises
    ------
    FloatingPointError
        If the objective or its curvature overflows at the start.
    """
    make_preconditioner, refresh_at, exact = _curvature(objective)
    return minimize_lbfgs(
        objective.value_and_gradient,
        start.ravel(),
        make_preconditioner=make_preconditioner,
        refresh_at=refresh_at,
        exact_curvature=exact,
        tol=tol,
        # Where a class separates, the loss falls towards 0 for ever: a thousandth of the loss
        # at zero coefficients is as good as 0 for the relative part of tol.
        value_scale=1e-3 * float(np.log(objective.n_classes)),
        max_iter=max_iter,
        noise=4.0 * float(np.finfo(objective.dtype).eps),
        on_iteration=on_iteration,
    )


def _curvature(
    objective: SoftmaxObjective,
) -> tuple[Callable[[NDArray[np.float64]], Preconditioner], Iterator[int], bool]:
    """Return the preconditioner's maker, its refresh schedule, and whether it is a full Hessian."""
    design, n_rows = objective.design, objective.n_rows
    D = objective.shape[1]
    l2 = objective.l2[:D]
    weight_sum = design.weight_sum
    most_rows = max(4 * D, 3000)

    def coefficients(params: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        packed = params.reshape(objective.shape)
        if objective.fit_intercept:
            return packed[:, :-1], packed[:, -1]
        return packed, np.zeros(n_rows)

    def full_hessian(params: NDArray[np.float64]) -> Preconditioner:
        full = design.hessian(*coefficients(params)) / weight_sum
        n_free, extended = max(1, n_rows - 1), design.n_features + 1
        blocks = full.reshape(n_free, extended, n_free, extended)[:, :D, :, :D]
        return SumZeroPreconditioner(blocks.reshape(n_free * D, n_free * D).copy(), l2, n_rows)

    def class_grams(params: NDArray[np.float64]) -> Preconditioner:
        coef, intercept = coefficients(params)
        shared = n_rows * D**2 > _CLASS_GRAM_ENTRIES
        if not (
            params.any() or design.has_offset
        ):  # all classes are equally likely: their matrices are the same
            coef, intercept, shared = coef[:1], intercept[:1], True
            share = (1.0 - 1.0 / design.n_classes) / design.n_classes / 0.25
        else:
            share = 1.0
        grams = share * design.class_grams(coef, intercept, most_rows, shared)
        return BlockPreconditioner(grams[:, :D, :D] / weight_sum, l2, n_rows)

    def class_diagonals(params: NDArray[np.float64]) -> Preconditioner:
        diagonals = design.class_diagonals(*coefficients(params))[:, :D] / weight_sum
        # The mean over classes: a step must stay a step when a class has hardly any weight.
        return DiagonalPreconditioner(diagonals.mean(axis=0) * np.ones((n_rows, 1)) + l2)

    if (
        max(1, n_rows - 1) * D <= _FULL_HESSIAN
        and design.hessian_passes(n_rows) <= _FULL_HESSIAN_PASSES
    ):
        return full_hessian, itertools.count(_HESSIAN_LAG, _HESSIAN_LAG), True
    if D <= _CLASS_GRAMS and design.class_gram_passes(n_rows, most_rows) <= _CLASS_GRAM_PASSES:
        return class_grams, (8 * 2**i for i in itertools.count()), False
    return class_diagonals, iter((16, 64)), False
