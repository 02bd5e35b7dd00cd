"""Objectives with an L1 penalty or bounds: which metric serves them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import ColumnAccess, PartsDesign
from fastsoftmax._solvers import SeparablePenalty, SolverResult, Stopping, minimize_composite
from fastsoftmax._solvers.active_set import ColumnMetric, TrustRegion
from fastsoftmax._solvers.model import Metric
from fastsoftmax.linear_model._vocabulary import GRAM_COLUMNS
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]

#: The full Hessian is built where it has at most so many rows and costs so many iterations.
_FULL_HESSIAN, _FULL_HESSIAN_COST = 2000, 100.0
#: There is a Gram matrix per class up to so many entries in all.
_CLASS_GRAM_ENTRIES = 2**26
#: Iterations between two Hessians, and two sets of Gram matrices.
_HESSIAN_LAG, _GRAM_LAG = 8, 16
#: Share of its first curvature that a class keeps; see `_solve`.
_LEAST_CURVATURE = 1e-3
#: Rounding of a class's curvature that is a sum of others', relative to these.
_ROUNDING = 8.0 * float(np.finfo(np.float64).eps)
#: Share of `tol` at which it stops: which coefficients are 0 settles later than the objective, and
#: another digit takes a few iterations.
_TOL_SHARE = 0.1


def solve_composite(
    objective: SoftmaxObjective,
    penalty: SeparablePenalty,
    start: Vector,
    centre: Vector,
    stopping: Stopping,
) -> tuple[SolverResult, str]:
    """Minimise an objective plus a separable penalty.

    Parameters
    ----------
    objective : SoftmaxObjective
    penalty : SeparablePenalty
        Of all parameters; the intercepts have none.
    start : ndarray of shape (n,)
    centre : ndarray of shape (n_features,)
        Around which second-order sums are taken.
    stopping : Stopping

    Returns
    -------
    result : SolverResult
    name : str
        The solver, and its metric.
    """
    name, make_metric, lag, cost = _metric(objective, centre)
    stopping = {**stopping, "tol": _TOL_SHARE * stopping["tol"]}
    result = minimize_composite(
        objective.value_and_gradient,
        penalty,
        start,
        make_metric,
        itertools.repeat(lag),
        cost,
        balanced=_balance(objective, penalty),
        **stopping,
    )
    return result, f"proximal {name}"


def _metric(
    objective: SoftmaxObjective, centre: Vector
) -> tuple[str, Callable[[Vector], Metric | ColumnMetric], int, float]:
    """Return a method's name, what builds its metric at given parameters, its lag, and its cost."""
    design, (n_rows, D) = objective.design, objective.shape
    l2 = np.tile(objective.l2[:D], n_rows)
    moves = centre if objective.fit_intercept and centre.any() else np.empty(0)
    least: list[Vector] = []

    @cache
    def is_constant() -> NDArray[np.bool_]:
        zeros = np.zeros((n_rows, design.n_features)), np.zeros(n_rows)
        diagonal: NDArray[np.float64] = design.class_diagonals(*zeros, centre, shared=True)
        return diagonal[0, :D] == 0.0

    def positive(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
        if not np.all(np.isfinite(blocks)):
            raise FloatingPointError("the Hessian overflows")
        # The slope of a column that equals its centre is rounding, and a step of rounding through
        # a curvature of 0 would be anything. In other columns 0 means that all are certain.
        np.einsum("kjj->kj", blocks).reshape(-1, D)[:, is_constant()] = 1.0
        return blocks

    def hessian(params: Vector) -> Metric:
        full = design.hessian(*objective.unpack(params), centre) / design.weight_sum
        blocks = _all_rows(full, n_rows, design.n_features + 1, D)
        return Metric(positive(blocks), l2, moves, True)

    def class_grams(params: Vector) -> Metric:
        coefficients = objective.unpack(params)
        grams = design.class_grams(*coefficients, max(3 * D, 1500), False, centre)[:, :D, :D]
        grams /= design.weight_sum
        if not least:
            least.append(_LEAST_CURVATURE * np.einsum("kjj->kj", grams))
        grams[:, np.arange(D), np.arange(D)] += least[0]
        return Metric(positive(np.ascontiguousarray(grams)), l2, moves, False)

    def diagonals(params: Vector) -> Metric:
        diagonal = design.class_diagonals(*objective.unpack(params), centre)[:, :D]
        blocks = diagonal.reshape(-1, 1, 1) / design.weight_sum
        return Metric(positive(blocks), l2, moves, False)

    def active_columns() -> Callable[[Vector], ColumnMetric]:
        access, trust = ColumnAccess(design, centre), TrustRegion()

        def make(params: Vector) -> ColumnMetric:
            probabilities = access.probabilities(*objective.unpack(params))
            return ColumnMetric(l2, moves, probabilities, access.weights, access.pick, trust)

        return make

    n, work = n_rows * D, design.pass_work(n_rows)
    # In iterations, each of which takes a pass, some 20 sweeps, and the factor of a face.
    cost = design.hessian_passes(n_rows, centre) * work / (work + 40.0 * n**2 + n**3 / 3.0)
    if n <= _FULL_HESSIAN and cost <= _FULL_HESSIAN_COST:
        return "quasi-Newton (full Hessian)", hessian, _HESSIAN_LAG, cost
    # A step of a coordinate reads a column of X here, and a row of a Gram matrix there.
    if design.n_entries < design.n_features**2 and not isinstance(design, PartsDesign):
        return "Newton (active columns)", active_columns(), 1, -np.inf
    if D <= GRAM_COLUMNS and n_rows * D**2 <= _CLASS_GRAM_ENTRIES:
        passes = design.class_gram_passes(n_rows, max(3 * D, 1500), False, centre)
        return (
            "quasi-Newton (a Gram matrix per class)",
            class_grams,
            max(_GRAM_LAG, round(passes)),
            passes,
        )
    return "quasi-Newton (diagonal)", diagonals, _GRAM_LAG, 2.0


@np.errstate(over="ignore", invalid="ignore")  # whoever takes it looks for what is not finite
def _all_rows(full: NDArray[np.float64], n_rows: int, extended: int, D: int) -> Vector:
    """Return the Hessian of all rows, (1, n_rows D, n_rows D), from that of the free ones.

    A shift common to all classes changes nothing, so that rows and columns sum to zero over them.
    """
    n_free = max(1, n_rows - 1)
    free = full.reshape(n_free, extended, n_free, extended)[:, :D, :, :D]
    hessian = np.zeros((n_rows, D, n_rows, D))
    hessian[:n_free, :, :n_free, :] = free
    if n_rows > 1:
        hessian[-1, :, :-1, :] = -free.sum(axis=0)
        hessian[:-1, :, -1, :] = -free.sum(axis=2)
        hessian[-1, :, -1, :] = free.sum(axis=(0, 2))
    return hessian.reshape(1, n_rows * D, n_rows * D)


def _balance(
    objective: SoftmaxObjective, penalty: SeparablePenalty
) -> Callable[[Vector], Vector] | None:
    """Return what shifts each column's coefficients, for all classes alike, where that pays.

    Logits then shift alike, too, so that only the penalty tells how far to go: until the L1 norm
    is least, which is where half of the coefficients are on either side of 0, or a bound stops
    them. Without a penalty their mean is to be 0; the rounding of gradients would move it, in
    float32 by hundreds. A square of the norm tells by itself.
    """
    n_rows, D = objective.shape
    if n_rows == 1:
        return None
    l1 = penalty.l1.reshape(objective.shape)
    lower, upper = (bound.reshape(objective.shape) for bound in (penalty.lower, penalty.upper))
    has_l1 = l1.all(axis=0) & (l1 == l1[0]).all(axis=0)
    may_shift = (objective.l2[:D] == 0.0) & (has_l1 | ~l1.any(axis=0))

    def balanced(params: Vector) -> Vector:
        packed = params.reshape(objective.shape)
        # Others are in the middle.
        columns = np.flatnonzero(may_shift & packed.any(axis=0))
        own = packed[:, columns]
        ordered = np.sort(own, axis=0)
        to_middle = np.clip(0.0, ordered[(n_rows - 1) // 2], ordered[n_rows // 2])
        shift = np.where(has_l1[columns], to_middle, own.mean(axis=0))
        room = (own - upper[:, columns]).max(axis=0), (own - lower[:, columns]).min(axis=0)
        shifted: Vector = packed.copy()
        shifted[:, columns] -= np.clip(shift, *room)
        return shifted.ravel()

    return balanced
