"""Which solver and which preconditioner serve an objective: the only place that decides."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._solvers import (
    BlockPreconditioner,
    CentredPreconditioner,
    DiagonalPreconditioner,
    IterationState,
    Preconditioner,
    SolverResult,
    Stopping,
    SumZeroPreconditioner,
    minimize_lbfgs,
    minimize_newton_cg,
)
from fastsoftmax.linear_model._rotated import Rotation, is_wide
from fastsoftmax.linear_model._small import SmallFit, is_small
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]

#: The full Hessian is built where it has at most so many free parameters (its factor takes
#: 0.1 s at 2000) and costs at most so many passes over X (digits: 110, at 45 pairs of classes).
_FULL_HESSIAN = 2000
_FULL_HESSIAN_PASSES = 200.0
#: With `solver="newton-cholesky"` it may have so many free parameters, 3.2 GB.
_MOST_HESSIAN = 20_000
#: Iterations between two full Hessians (lag): L-BFGS bridges the time with cheap passes.
_HESSIAN_LAG = 8

#: Gram matrices have at most so many columns and cost at most so many passes. There is one per
#: class as long as this costs little: mnist then takes 25 passes to 1e-6 in place of 150, ...
_GRAM_COLUMNS = 2500
_GRAM_PASSES = 100.0
_CLASS_GRAM_PASSES = 20.0
#: ... and as long as they have at most so many entries, 512 MB.
_CLASS_GRAM_ENTRIES = 2**26
#: Iterations between two Gram preconditioners.
_GRAM_LAG = 16

#: A class that has become certain everywhere keeps this share of its first curvature: without
#: it the first steps on raw mnist are so long that nothing else happens in 300 passes.
_LEAST_CURVATURE = 1e-3


@dataclass(frozen=True)
class _Curvature:
    """A way to build preconditioners, and when to do so again.

    Attributes
    ----------
    name : str
        For people.
    make : callable
        Builds a preconditioner at given parameters.
    lag : int
        Iterations until the next one.
    is_exact : bool
        Whether it is the inverse Hessian where it was built.
    """

    name: str
    make: Callable[[Vector], Preconditioner]
    lag: int
    is_exact: bool = False

    @property
    def refresh_at(self) -> Iterator[int]:
        """The iterations before which to build it anew, the first one being short."""
        return itertools.chain([min(8, self.lag)], itertools.count(self.lag, self.lag))


def solve(
    objective: SoftmaxObjective,
    start: Vector,
    *,
    solver: str = "auto",
    tol: float,
    max_iter: int,
    on_iteration: Callable[[IterationState], bool | None] | None = None,
) -> tuple[SolverResult, str]:
    """Minimise an objective.

    Parameters
    ----------
    objective : SoftmaxObjective
    start : ndarray of shape ``objective.shape``
    solver : {'auto', 'lbfgs', 'newton-cholesky', 'newton-cg'}
        See `fastsoftmax.LogisticRegression`.
    tol, max_iter, on_iteration
        See `fastsoftmax._solvers.Stopping`.

    Returns
    -------
    result : SolverResult
    name : str
        The solver that ran, and its preconditioner.

    Raises
    ------
    FloatingPointError
        If the objective or its curvature overflows at the start.
    ValueError
        If ``solver='newton-cholesky'`` would need a Hessian of more than 3.2 GB.
    """
    stopping: Stopping = {
        "tol": tol,
        # Where a class separates, the loss falls towards 0 for ever: a thousandth of the loss
        # at zero coefficients is as good as 0 for the relative part of tol.
        "value_scale": 1e-3 * float(np.log(objective.n_classes)),
        "max_iter": max_iter,
        "noise": 4.0 * float(np.finfo(objective.dtype).eps) * objective.design.cancellation(),
        "on_iteration": on_iteration,
        # Without a penalty there may be no finite optimum, and people should be told.
        "recedes": None if objective.l2[:-1].all() else _recession(objective),
    }
    x = start.ravel()
    if solver != "auto":
        return _iterate(objective, solver, x, stopping)
    # Small data first: then a row of weight 2 is treated like the row twice, also in wide data.
    if is_small(objective) and stopping["recedes"] is None:
        early, goes_on = SmallFit(objective, x, _centre(objective), stopping).run()
        name = "compiled lbfgs (a Gram matrix per class)"
    elif (rotation := _rotation(objective, x)) is not None:
        inner, name = solve(
            rotation.objective,
            np.zeros(rotation.objective.shape),
            tol=tol,
            max_iter=max_iter,
            on_iteration=rotation.original_callback(on_iteration),
        )
        early, name = rotation.original_result(inner), f"{name} on rotated rows"
        # A component of the gradient can be larger than all of the rotated one.
        goes_on = early.converged and early.gradient_norm > tol
    else:
        return _iterate(objective, solver, x, stopping)
    if not goes_on:
        return early, name
    # Rounding, overflow, or a line search that failed: what follows is made for that.
    late, late_name = _iterate(objective, solver, early.params, _going_on(stopping, early))
    return _joined(early, late), f"{name}, then {late_name}"


def _rotation(objective: SoftmaxObjective, x: Vector) -> Rotation | None:
    if is_wide(objective, x):
        with contextlib.suppress(ValueError):  # products of rows overflow, logits need not
            return Rotation(objective, _centre(objective))
    return None


def _iterate(
    objective: SoftmaxObjective,
    solver: str,
    x: Vector,
    stopping: Stopping,
) -> tuple[SolverResult, str]:
    """Run a solver that knows callables only."""
    function = objective.value_and_gradient
    if solver == "newton-cholesky":
        curvature = _full_hessian(objective, lag=1)
    else:
        curvature = _choose(objective, with_hessian=solver != "newton-cg")
    metric = curvature.make, curvature.refresh_at
    if solver == "newton-cg":
        result = minimize_newton_cg(function, objective.hessian_operator, x, *metric, **stopping)
    else:
        result = minimize_lbfgs(
            function, x, *metric, exact_curvature=curvature.is_exact, **stopping
        )
    name = "lbfgs" if solver == "auto" else solver
    return result, f"{name} ({curvature.name})"


def _going_on(stopping: Stopping, early: SolverResult) -> Stopping:
    """Return what is left after `early`; the callback counts on, and skips the start."""
    on_iteration = stopping["on_iteration"]

    def counted(state: IterationState) -> bool | None:
        if on_iteration is None or state.iteration == 0:
            return None
        later = replace(
            state,
            iteration=state.iteration + early.n_iterations,
            n_passes=state.n_passes + early.n_passes,
        )
        return on_iteration(later)

    max_iter = stopping["max_iter"] - early.n_iterations
    return {**stopping, "max_iter": max_iter, "on_iteration": counted}


def _joined(early: SolverResult, late: SolverResult) -> SolverResult:
    """Return one result of two runs, the second of which went on where the first one ended."""
    passes = early.n_passes
    history = [(n + passes, value, norm) for n, value, norm in late.history[1:]]
    return replace(
        late,
        n_iterations=early.n_iterations + late.n_iterations,
        n_passes=passes + late.n_passes,
        history=[*early.history, *history],
    )


def _choose(objective: SoftmaxObjective, with_hessian: bool) -> _Curvature:
    """Return the preconditioner that suits an objective's shape."""
    design, (n_rows, D) = objective.design, objective.shape
    centre = _centre(objective)
    if (
        with_hessian
        and max(1, n_rows - 1) * D <= _FULL_HESSIAN
        and design.hessian_passes(n_rows, centre) <= _FULL_HESSIAN_PASSES
    ):
        return _full_hessian(objective, lag=_HESSIAN_LAG)
    if D <= _GRAM_COLUMNS:
        most_rows = max(3 * D, 1500)
        costs = {shared: design.class_gram_passes(n_rows, most_rows, shared, centre)
                 for shared in (False, True)}  # fmt: skip
        few_entries = n_rows * D**2 <= _CLASS_GRAM_ENTRIES
        shared = not (few_entries and costs[False] <= _CLASS_GRAM_PASSES)
        if costs[shared] <= _GRAM_PASSES:
            return _grams(objective, most_rows, shared, costs[shared])
    return _diagonal(objective)


def _centre(objective: SoftmaxObjective) -> Vector:
    """Return the point around which second-order sums are taken; only an intercept can move it."""
    design = objective.design
    return design.typical_row() if objective.fit_intercept else np.zeros(design.n_features)


def _centred(preconditioner: Preconditioner, centre: Vector) -> Preconditioner:
    return CentredPreconditioner(preconditioner, centre) if centre.any() else preconditioner


def _coefficients(objective: SoftmaxObjective, params: Vector) -> tuple[Vector, Vector]:
    packed = params.reshape(objective.shape)
    if objective.fit_intercept:
        return packed[:, :-1], packed[:, -1]
    return packed, np.zeros(len(packed))


def _full_hessian(objective: SoftmaxObjective, lag: int) -> _Curvature:
    design, (n_rows, D) = objective.design, objective.shape
    n_free, extended = max(1, n_rows - 1), design.n_features + 1
    if n_free * D > _MOST_HESSIAN:
        raise ValueError(
            f"solver='newton-cholesky' needs a Hessian of {n_free * D} x {n_free * D} numbers for "
            f"{design.n_features} features and {design.n_classes} classes; use solver='auto' or "
            "'newton-cg'."
        )
    centre, l2 = _centre(objective), objective.l2[:D]

    def make(params: Vector) -> Preconditioner:
        full = design.hessian(*_coefficients(objective, params), centre)
        full /= design.weight_sum
        blocks = full.reshape(n_free, extended, n_free, extended)[:, :D, :, :D]
        hessian = np.ascontiguousarray(blocks).reshape(n_free * D, n_free * D)
        return _centred(SumZeroPreconditioner(hessian, l2, n_rows), centre)

    return _Curvature("full Hessian", make, lag, is_exact=True)


def _grams(
    objective: SoftmaxObjective, most_rows: int, shared: bool, n_passes: float
) -> _Curvature:
    design, (n_rows, D) = objective.design, objective.shape
    centre, l2 = _centre(objective), objective.l2[:D]
    least: list[Vector] = []

    def make(params: Vector) -> Preconditioner:
        coef, intercept = _coefficients(objective, params)
        one, share = shared, 1.0 / design.weight_sum
        if not (params.any() or design.has_offset):
            # All classes are equally likely: their matrices are the same.
            coef, intercept, one = coef[:1], intercept[:1], True
            share *= (1.0 - 1.0 / design.n_classes) / design.n_classes / 0.25
        grams = design.class_grams(coef, intercept, most_rows, one, centre)[:, :D, :D]
        grams *= share
        if not least:
            least.append(_LEAST_CURVATURE * np.einsum("kjj->j", grams) / len(grams))
        grams[:, np.arange(D), np.arange(D)] += least[0]
        return _centred(BlockPreconditioner(grams, l2, n_rows), centre)

    name = "one Gram matrix" if shared else "a Gram matrix per class"
    return _Curvature(name, make, max(_GRAM_LAG, round(2.0 * n_passes)))


def _diagonal(objective: SoftmaxObjective) -> _Curvature:
    design, (n_rows, D) = objective.design, objective.shape
    centre, l2 = _centre(objective), objective.l2[:D]

    def make(params: Vector) -> Preconditioner:
        coefficients = _coefficients(objective, params)
        # The mean over classes: a step must stay a step when a class has hardly any weight.
        diagonal = design.class_diagonals(*coefficients, centre, shared=True)[:, :D]
        diagonal = diagonal / design.weight_sum + l2
        return _centred(DiagonalPreconditioner(diagonal * np.ones((n_rows, 1))), centre)

    return _Curvature("diagonal", make, _GRAM_LAG)


#: Logits that a receding step moves apart at least, the share of it by which one may shrink, and
#: how far the step is then followed.
_RECESSION = 1e-2
_RECESSION_SLACK = 0.05
_FAR = 30.0


def _recession(objective: SoftmaxObjective) -> Callable[[Vector, Vector], bool]:
    """Return a test whether a step leads away for ever while the objective does not grow.

    Without a penalty on a feature that separates classes there is no finite optimum. The steps
    of a second-order method then approach a direction of recession: every sample's margin grows
    or stays (Albert & Anderson 1984, Biometrika 71, section 2), and it does not shrink. As steps
    only approach it, some slack is allowed; what that might hide shows further out.
    """
    is_penalised = objective.l2[:-1] > 0.0

    def recedes(params: Vector, step: Vector) -> bool:
        coef, intercept = _coefficients(objective, step)
        margins = objective.design.margins(np.where(is_penalised, 0.0, coef), intercept)
        if margins is None:
            return False
        low, high = margins
        if not (high >= _RECESSION and low >= -_RECESSION_SLACK * high):
            return False
        far = objective.value(params + _FAR / high * step)
        return far <= objective.value(params)

    return recedes
