"""Which solver and which preconditioner serve an objective: the only place that decides."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from fastsoftmax._solvers import (
    BlockPreconditioner,
    CentredPreconditioner,
    DiagonalPreconditioner,
    IterationState,
    KroneckerPreconditioner,
    NearbyPreconditioner,
    Preconditioner,
    SeparablePenalty,
    SolverResult,
    Status,
    Stopping,
    SumZeroPreconditioner,
    minimize_lbfgs,
    minimize_newton_cg,
)
from fastsoftmax.linear_model._composite import solve_composite
from fastsoftmax.linear_model._dual import DualFit, has_dual
from fastsoftmax.linear_model._recession import recession_test
from fastsoftmax.linear_model._rotated import Rotation, is_wide
from fastsoftmax.linear_model._small import SmallFit, is_small
from fastsoftmax.linear_model._vocabulary import GRAM_COLUMNS, VocabularyFit, has_vocabulary
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]

#: The full Hessian is built where it has at most so many free parameters (its factor takes
#: 0.1 s at 2000) and costs at most so many passes over X (digits: 110, at 45 pairs of classes).
_FULL_HESSIAN = 2000
_FULL_HESSIAN_PASSES = 800.0
#: With `solver="newton-cholesky"` it may have so many free parameters, 3.2 GB.
_MOST_HESSIAN = 20_000
#: Iterations between two full Hessians (lag): L-BFGS bridges the time with cheap passes.
_HESSIAN_LAG = 8

#: Gram matrices have at most `GRAM_COLUMNS` and cost at most so many iterations. There is one per
#: class as long as this costs no more than it saves: mnist then takes 30 passes to 1e-6 in place of
#: 200, and 85 in place of over 1000 at C=100, ...
_GRAM_COST = 100.0
_CLASS_GRAM_COST = 60.0
#: ... and as long as they have at most so many entries, 512 MB.
_CLASS_GRAM_ENTRIES = 2**26
#: Iterations between two Gram preconditioners at least, and from the first one, which tells least
#: of the optimum, to the second: one per class, and one that all share.
_GRAM_LAG, _FIRST_LAG, _FIRST_SHARED_LAG = 16, 8, 5
#: Offset of a feature, in units of its spread, up to which wide data are not centred.
_MILD = 3.0

#: Classes up to which a Hessian at the start is rotated into the eigenvectors of the classes';
#: beyond, all share their mean.
_MOST_ROTATED = 64

#: Penalties that differ by so little, relatively, share a factor: those of folds of all rows.
_LIKE_STRENGTHS = 0.3
#: Near an optimum full Hessians are refreshed sooner, and more pairs are kept.
_NEAR_LAG, _NEAR_MEMORY = 2, 20
#: Where fits are hard, Gram matrices of so many times as many rows need hardly be refreshed: mnist
#: from C=1291 to 1e4 takes 94 passes and one build, not 756 and 44.
_HARD_ROWS = 5

#: What the diagonal of a Gram matrix of all rows is raised by, relatively.
_RIDGE = 1e-10
#: The same of any curvature in float32, without a penalty: there the gradient's noise along columns
#: that depend on one another would make long steps.
_RIDGE32 = 1e-6

#: A class is at least so likely in the first Hessian, and where a fit starts, in units of 1 / K.
#: With the true share, what tells a rare class for certain asks for a first step of 1 / p, and
#: flights at C=1 take 75 passes in place of 34.
_LEAST_PROBABILITY, _LEAST_SHARE = 0.5, 0.01

#: What an iteration takes besides its pass, in operations of a pass: 0.2 ms.
_ITERATION_WORK = 2e7

#: Sums of squares beyond which those of float32 may have been cut off.
_MOST_SQUARE32 = 1e30

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
    at : callable
        Takes the sums over rows at given parameters; returns what makes a preconditioner of them
        for given strengths of the penalty.
    l2 : ndarray of shape (D,)
        Those of the objective.
    first_lag, lag : int
        Iterations until the second one, and from then on until the next one.
    cost : float
        Of building one, in iterations.
    """

    name: str
    at: Callable[[Vector], Callable[[Vector], Preconditioner]]
    l2: Vector
    first_lag: int
    lag: int
    cost: float

    def make(self, params: Vector) -> Preconditioner:
        """Return the preconditioner at given parameters."""
        return self.at(params)(self.l2)

    @property
    def lags(self) -> Iterator[int]:
        """Iterations from one build to the next."""
        return itertools.chain([self.first_lag], itertools.repeat(self.lag))


class Neighbour:
    """Curvature at an optimum, for fits that start near it: of other strengths, and of folds.

    Built when it is first asked for. The sums over rows are kept, so that another strength takes
    no more than a factor.

    Parameters
    ----------
    objective : SoftmaxObjective
    params : ndarray of shape ``objective.shape`` or its ravel
    is_hard : bool
        Whether fits nearby take so many iterations that better curvature pays.
    """

    def __init__(self, objective: SoftmaxObjective, params: Vector, is_hard: bool) -> None:
        self._objective, self._params, self.is_hard = objective, params, is_hard
        self._made: tuple[Vector, Preconditioner] | None = None

    @cached_property
    def _sums(self) -> Callable[[Vector], Preconditioner]:
        objective = self._objective
        curvature = _choose(objective, _centre(objective), True, self.is_hard)
        return curvature.at(self._params.ravel())

    def preconditioner(self, l2: Vector) -> Preconditioner:
        """Return the preconditioner for penalties of given strengths, (D,), or nearly those."""
        if self._made is None or not np.allclose(l2, self._made[0], rtol=_LIKE_STRENGTHS, atol=0.0):
            self._made = None  # a factor may be large
            self._made = l2, NearbyPreconditioner(self._sums(l2))
        return self._made[1]


def solve(
    objective: SoftmaxObjective,
    start: Vector,
    *,
    solver: str = "auto",
    tol: float,
    max_iter: int,
    on_iteration: Callable[[IterationState], bool | None] | None = None,
    penalty: SeparablePenalty | None = None,
    near: Neighbour | None = None,
) -> tuple[SolverResult, str]:
    """Minimise an objective, or one plus a separable penalty.

    Parameters
    ----------
    objective : SoftmaxObjective
    start : ndarray of shape ``objective.shape``
    solver : {'auto', 'lbfgs', 'newton-cholesky', 'newton-cg'}
        See `fastsoftmax.LogisticRegression`. Ignored where `penalty` is not smooth.
    tol, max_iter, on_iteration
        See `fastsoftmax._solvers.Stopping`.
    penalty : SeparablePenalty, default=None
        Where it is not smooth there is one solver only.
    near : Neighbour, default=None
        What the start is close to. Its curvature is the first one of ``'auto'`` and ``'lbfgs'``.

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
    result, name = _solve(objective, start, solver, tol, max_iter, on_iteration, penalty, near)
    if result.status is Status.FLOOR and _may_fall(objective, penalty, result, tol):
        result = replace(result, status=Status.LINE_SEARCH)
    return result, name


def _may_fall(
    objective: SoftmaxObjective, penalty: SeparablePenalty | None, result: SolverResult, tol: float
) -> bool:
    """Tell whether the objective still falls along a coordinate by more than rounding.

    Then a solver's metric misled it. With ``p (1 - p) <= 1/4`` the curvature along a coefficient is
    at most ``c = mean(w x²) / 4 + l2``, and a step of size ``t <= |g| / c`` gains at least
    ``|g| t / 2``, unless it meets a kink.
    """
    design, K = objective.design, objective.n_classes
    if result.gradient_norm <= tol or design.has_offset:
        return False
    eps = float(np.finfo(objective.dtype).eps)
    zeros = np.zeros((objective.n_rows, design.n_features)), np.zeros(objective.n_rows)
    value, gradient = objective.value_and_gradient(result.params.ravel())
    squares = design.class_diagonals(*zeros, shared=True)[0, : objective.shape[1]]
    if objective.dtype == np.float32 and not squares.max() < _MOST_SQUARE32:
        return False
    squares = np.tile(squares / design.weight_sum * K**2 / (K - 1.0), objective.n_rows)
    l2 = np.tile(objective.l2[: objective.shape[1]], objective.n_rows)
    params, sizes = result.params.ravel(), np.sqrt(squares)
    logits = float((np.abs(params) * sizes).reshape(objective.shape).sum(axis=1).max())
    room = np.full(params.size, np.inf)
    if penalty is not None and not penalty.is_smooth:
        gradient = penalty.least_subgradient(params, gradient)
        room = np.where(gradient > 0.0, params - penalty.lower, penalty.upper - params)
        room = np.minimum(room, np.where(params == 0.0, np.inf, np.abs(params)))
    slopes = np.maximum(np.abs(gradient) - tol - 16.0 * eps * (1.0 + logits) * sizes, 0.0)
    curvatures = squares / 4.0 + l2
    steps = np.minimum(slopes / np.where(curvatures > 0.0, curvatures, np.inf), room)
    return bool(np.any(0.5 * slopes * steps > 4e3 * eps * value))


def _solve(
    objective: SoftmaxObjective,
    start: Vector,
    solver: str,
    tol: float,
    max_iter: int,
    on_iteration: Callable[[IterationState], bool | None] | None,
    penalty: SeparablePenalty | None,
    near: Neighbour | None,
) -> tuple[SolverResult, str]:
    """Do what `solve` promises."""

    def null_curvature() -> Preconditioner:
        curvature = _choose(objective, _centre(objective), with_hessian=False)
        return curvature.make(np.zeros(start.size))

    stopping: Stopping = {
        "tol": tol,
        # Where a class separates, the loss falls towards 0 for ever: a thousandth of the loss
        # at zero coefficients is as good as 0 for the relative part of tol.
        "value_scale": 1e-3 * float(np.log(objective.n_classes)),
        "max_iter": max_iter,
        "noise": 4.0 * float(np.finfo(objective.dtype).eps) * objective.design.cancellation(),
        "on_iteration": on_iteration,
        # Without a penalty there may be no finite optimum, and people should be told.
        "recedes": None if objective.l2[:-1].all() else recession_test(objective, null_curvature),
    }
    x = start.ravel()
    if penalty is not None and not penalty.is_smooth:
        stopping["recedes"] = None
        return solve_composite(objective, penalty, x, _centre(objective), stopping)
    if solver in ("auto", "lbfgs") and has_vocabulary(objective):
        name = "lbfgs (diagonal, feature-major)"
        if solver == "lbfgs" or not has_dual(objective, x):
            return VocabularyFit(objective).run(x, stopping), name
        early, goes_on = DualFit(objective, x, stopping).run()
        if not goes_on:
            return early, "dual coordinate ascent"
        late = VocabularyFit(objective).run(early.params, _going_on(stopping, early))
        return _joined(early, late), f"dual coordinate ascent, then {name}"
    if solver != "auto":
        return _iterate(objective, solver, x, stopping, near if solver == "lbfgs" else None)
    # Small data first: then a row of weight 2 is treated like the row twice, also in wide data.
    if is_small(objective) and stopping["recedes"] is None:
        early, goes_on = SmallFit(objective, x, _centre(objective), stopping).run()
        name = "compiled lbfgs (a Gram matrix per class)"
    elif (rotation := _rotation(objective, x)) is not None:
        inner, name = solve(
            rotation.objective,
            rotation.start(x),
            tol=tol,
            max_iter=max_iter,
            on_iteration=rotation.original_callback(on_iteration),
        )
        early, name = rotation.original_result(inner), f"{name} on rotated rows"
        # A component of the gradient can be larger than all of the rotated one. If the objective is
        # not finite, what follows refuses to start.
        goes_on = early.converged and early.gradient_norm > tol
        goes_on |= not np.isfinite(early.objective)
    else:
        return _iterate(objective, solver, x, stopping, near)
    if not goes_on:
        return early, name
    # Rounding, overflow, a line search that failed: what follows is made for that.
    rest = _going_on(stopping, early)
    late, late_name = _iterate(objective, solver, early.params, rest)
    return _joined(early, late), f"{name}, then {late_name}"


def intercept_only(objective: SoftmaxObjective) -> Vector:
    """Return where a fit starts, shape ``objective.shape``: the best parameters without features.

    The intercepts are logarithms of the classes' shares, but for rare classes. With an offset, or
    without intercept, all is zero.
    """
    params = np.zeros(objective.shape)
    design = objective.design
    if objective.fit_intercept and not design.has_offset:
        shares = design.class_weights() / design.weight_sum
        logits = np.log(np.maximum(shares, _LEAST_SHARE / design.n_classes))
        one_logit = objective.n_rows == 1
        params[:, -1] = logits[1] - logits[0] if one_logit else logits - logits.mean()
    return params


def _rotation(objective: SoftmaxObjective, x: Vector) -> Rotation | None:
    if is_wide(objective) and not objective.unpack(x)[0].any():
        # Centring copies X.
        is_near = objective.design.cancellation() <= _MILD
        centre = np.zeros(objective.n_features) if is_near else _centre(objective)
        with contextlib.suppress(ValueError):  # products of rows overflow, logits need not
            return Rotation(objective, centre)
    return None


def _iterate(
    objective: SoftmaxObjective,
    solver: str,
    x: Vector,
    stopping: Stopping,
    near: Neighbour | None = None,
) -> tuple[SolverResult, str]:
    """Run a solver that knows callables only."""
    function, centre = objective.value_and_gradient, _centre(objective)
    if solver == "newton-cholesky":
        curvature = replace(_full_hessian(objective, centre), first_lag=1, lag=1, cost=0.0)
    else:
        is_hard = near is not None and near.is_hard
        curvature = _choose(objective, centre, solver != "newton-cg", is_hard)
    metric = curvature.make, curvature.lags, curvature.cost
    if solver == "newton-cg":
        result = minimize_newton_cg(function, objective.hessian_operator, x, *metric, **stopping)
    elif near is not None:
        first = iter([near.preconditioner])
        lag = min(curvature.lag, _NEAR_LAG) if curvature.name == "full Hessian" else curvature.lag

        def make(params: Vector) -> Preconditioner:
            of_neighbour = next(first, None)
            return curvature.make(params) if of_neighbour is None else of_neighbour(curvature.l2)

        lags = itertools.repeat(lag)
        result = minimize_lbfgs(
            function, x, make, lags, curvature.cost, damping=0.0, memory=_NEAR_MEMORY, **stopping
        )
    else:
        result = minimize_lbfgs(function, x, *metric, **stopping)
    name = "lbfgs" if solver == "auto" else solver
    return result, f"{name} ({curvature.name})"


def _going_on(stopping: Stopping, early: SolverResult) -> Stopping:
    """Return what is left after `early`; the callback counts on, and skips the start."""
    on_iteration = stopping["on_iteration"]

    def counted(state: IterationState) -> bool | None:
        assert on_iteration is not None
        if state.iteration == 0:
            return None
        later = replace(
            state,
            iteration=state.iteration + early.n_iterations,
            n_passes=state.n_passes + early.n_passes,
        )
        return on_iteration(later)

    max_iter = stopping["max_iter"] - early.n_iterations
    watcher = None if on_iteration is None else counted
    return {**stopping, "max_iter": max_iter, "on_iteration": watcher}


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


def _choose(
    objective: SoftmaxObjective, centre: Vector, with_hessian: bool, is_hard: bool = False
) -> _Curvature:
    """Return the preconditioner that suits an objective's shape."""
    design, (n_rows, D) = objective.design, objective.shape
    if (
        with_hessian
        and max(1, n_rows - 1) * D <= _FULL_HESSIAN
        and design.hessian_passes(n_rows, centre) <= _FULL_HESSIAN_PASSES
    ):
        return _full_hessian(objective, centre)
    if D <= GRAM_COLUMNS:
        # With as few samples as columns the penalty is most of the curvature, for all classes.
        is_short = design.n_samples <= D
        for shared in (is_short or n_rows * D**2 > _CLASS_GRAM_ENTRIES, True):
            most_rows = max(3 * D, 1500)
            curvature = _grams(objective, centre, most_rows, shared)
            if curvature.cost <= (_GRAM_COST if shared else _CLASS_GRAM_COST):
                if is_hard:
                    return _grams(objective, centre, _HARD_ROWS * most_rows, shared)
                return curvature
    return _diagonal(objective, centre)


def _in_iterations(
    objective: SoftmaxObjective, n_passes: float, n_factors: int, order: int
) -> float:
    """Return what passes cost in iterations, each a pass and solves with factors of an order."""
    pass_work = objective.design.pass_work(objective.n_rows)
    # Triangular solves run at a tenth of the speed of a pass.
    return n_passes * pass_work / (pass_work + _ITERATION_WORK + 40.0 * n_factors * order**2)


def _centre(objective: SoftmaxObjective) -> Vector:
    """Return the point around which second-order sums are taken; only an intercept can move it."""
    design = objective.design
    return design.typical_row() if objective.fit_intercept else np.zeros(design.n_features)


def _centred(preconditioner: Preconditioner, centre: Vector) -> Preconditioner:
    return CentredPreconditioner(preconditioner, centre) if centre.any() else preconditioner


def _full_hessian(objective: SoftmaxObjective, centre: Vector) -> _Curvature:
    design, (n_rows, D) = objective.design, objective.shape
    n_free, extended = max(1, n_rows - 1), design.n_features + 1
    if n_free * D > _MOST_HESSIAN:
        raise ValueError(
            f"solver='newton-cholesky' needs a Hessian of {n_free * D} x {n_free * D} numbers for "
            f"{design.n_features} features and {design.n_classes} classes; use solver='auto' or "
            "'newton-cg'."
        )

    @cache
    def gram() -> NDArray[np.float64]:
        return _gram(objective, centre, design.n_samples)

    @cache
    def of_uniform_probabilities() -> NDArray[np.float64]:
        uniform = np.full(n_free, 1.0 / design.n_classes)
        return np.kron(np.diag(uniform) - np.outer(uniform, uniform), gram())

    def at(params: Vector) -> Callable[[Vector], Preconditioner]:
        p = _common_probabilities(objective, params)
        if p is not None and n_rows <= _MOST_ROTATED:
            return _without_features(centre, p, gram(), keeps_scale=True)
        full = design.hessian(*objective.unpack(params), centre)
        full /= design.weight_sum
        blocks = full.reshape(n_free, extended, n_free, extended)[:, :D, :, :D]
        hessian = np.ascontiguousarray(blocks).reshape(n_free * D, n_free * D)
        hessian[np.diag_indices(n_free * D)] *= 1.0 + _noise_ridge(objective)
        has_reference = n_free * D <= _FULL_HESSIAN and not design.has_offset
        reference = of_uniform_probabilities if has_reference else None
        return lambda l2: _centred(SumZeroPreconditioner(hessian, l2, n_rows, reference), centre)

    n_passes = design.hessian_passes(n_rows, centre)
    n_passes += 0.9 * (n_free * D) ** 3 / design.pass_work(n_rows)  # a factor, at 35 GFLOP/s
    cost = _in_iterations(objective, n_passes, 1, n_free * D)
    l2 = objective.l2[:D]
    return _Curvature("full Hessian", at, l2, _HESSIAN_LAG, _HESSIAN_LAG, cost)


def _common_probabilities(objective: SoftmaxObjective, params: Vector) -> Vector | None:
    """Return the logit rows' probabilities where all samples have the same, (n_rows,), or None.

    Rare classes count as more likely: with 1 / p, what tells them for certain would ask for steps
    too long.
    """
    coef, intercept = objective.unpack(params)
    n_rows = len(intercept)
    if coef.any() or objective.design.has_offset:
        return None
    least = _LEAST_PROBABILITY / objective.n_classes
    if n_rows == 1:
        return np.clip(expit(intercept), least, 1.0 - least)
    p: Vector = np.maximum(softmax(intercept), least)
    return p / p.sum()


def _without_features(
    centre: Vector, p: Vector, gram: NDArray[np.float64], keeps_scale: bool
) -> Callable[[Vector], Preconditioner]:
    """Return nearly the inverse Hessian where all samples have the probabilities p, given l2."""
    by_class = np.diag(p) - np.outer(p, p)
    return lambda l2: _centred(KroneckerPreconditioner(by_class, gram, l2, keeps_scale), centre)


def _gram(objective: SoftmaxObjective, centre: Vector, most_rows: int) -> NDArray[np.float64]:
    """Return the weighted mean of ``u uᵀ``, (D, D), of data without offset; see `class_grams`."""
    D, design = objective.shape[1], objective.design
    half = np.zeros((1, objective.n_features)), np.zeros(1)  # one logit, a curvature of 1/4
    gram = design.class_grams(*half, most_rows, True, centre)[0, :D, :D]
    gram *= 4.0 / design.weight_sum
    # Columns that depend on one another must not turn rounding into steps, nor directions in
    # which the rows picked do not vary into long ones.
    exact = design.n_samples <= most_rows
    gram[np.diag_indices(D)] *= 1.0 + (_RIDGE if exact else _LEAST_CURVATURE)
    gram[np.diag_indices(D)] *= 1.0 + _noise_ridge(objective)
    return gram


def _noise_ridge(objective: SoftmaxObjective) -> float:
    is_penalised = objective.l2[:-1].all()
    return 0.0 if is_penalised or objective.dtype == np.float64 else _RIDGE32


def _grams(objective: SoftmaxObjective, centre: Vector, most_rows: int, shared: bool) -> _Curvature:
    design, (n_rows, D) = objective.design, objective.shape
    least: list[Vector] = []

    def at(params: Vector) -> Callable[[Vector], Preconditioner]:
        p = _common_probabilities(objective, params)
        if p is not None:
            # One matrix may have as many rows as all of them together.
            gram = _gram(objective, centre, most_rows * (1 if shared else min(n_rows, 10)))
            if not least:
                least.append(_LEAST_CURVATURE * np.mean(p * (1.0 - p)) * np.diag(gram))
            if n_rows > _MOST_ROTATED:
                mean = np.mean(p * (1.0 - p)) * gram[None]
                return lambda l2: _centred(BlockPreconditioner(mean, l2, n_rows), centre)
            return _without_features(centre, p, gram, keeps_scale=False)
        coef, intercept = objective.unpack(params)
        grams = design.class_grams(coef, intercept, most_rows, shared, centre)[:, :D, :D]
        grams /= design.weight_sum
        if not least:
            least.append(_LEAST_CURVATURE * np.einsum("kjj->j", grams) / len(grams))
        grams[:, np.arange(D), np.arange(D)] += least[0]
        return lambda l2: _centred(BlockPreconditioner(grams, l2, n_rows), centre)

    name = "one Gram matrix" if shared else "a Gram matrix per class"
    n_passes = design.class_gram_passes(n_rows, most_rows, shared, centre)
    cost = _in_iterations(objective, n_passes, n_rows, D)
    first_lag = _FIRST_SHARED_LAG if shared else _FIRST_LAG
    lag = max(_GRAM_LAG, round(cost))
    return _Curvature(name, at, objective.l2[:D], first_lag, lag, cost)


def _diagonal(objective: SoftmaxObjective, centre: Vector) -> _Curvature:
    design, (n_rows, D) = objective.design, objective.shape

    def at(params: Vector) -> Callable[[Vector], Preconditioner]:
        coefficients = objective.unpack(params)
        # The mean over classes: a step must stay a step when a class has hardly any weight.
        diagonal = design.class_diagonals(*coefficients, centre, shared=True)[:, :D]
        rows = diagonal / design.weight_sum * np.ones((n_rows, 1))
        return lambda l2: _centred(DiagonalPreconditioner(rows + l2), centre)

    return _Curvature("diagonal", at, objective.l2[:D], _FIRST_LAG, _GRAM_LAG, cost=2.0)
