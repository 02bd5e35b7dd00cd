"""Learning from a stream: what is left of rows that are gone is a Gaussian; `partial_fit`.

Online Laplace approximation. The losses of all rows so far, and the penalty, are replaced by their
second-order expansion around the latest parameters V, where their gradient is zero:
``(W - V)ᵀ P (W - V) / 2``. A batch moves them to

    argmin_W  sum_i s_i loss_i(W) + (W - V)ᵀ P (W - V) / 2

and then adds the curvature of its losses there to the precision P, which begins as the penalty's,
or that of a single row where this is larger (`_ROWS_KNOWN`).

Of the curvature of each row of X only what concerns one class is kept, ``p_k (1 - p_k) x xᵀ``,
times K / (K - 1) for K > 1 logit rows. Where all classes are as probable that is the softmax
Hessian, as steps need not sum to zero over the classes: the loss does not see a shift that these
have in common, and the minimum chooses it so that it costs least.

All is in coefficients of ``x - centre``, which only the intercept notices.

References
----------
Spiegelhalter & Lauritzen (1990), Sequential updating of conditional probabilities on directed
graphical structures, Networks 20. Opper (1998), A Bayesian approach to on-line learning, in Saad
(ed.), On-Line Learning in Neural Networks. Toulis & Airoldi (2017), Asymptotic and finite-sample
properties of estimators based on stochastic gradients, Ann. Statist. 45 (the implicit step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.utils.multiclass import unique_labels

from fastsoftmax._designs import Design, make_design
from fastsoftmax._solvers import (
    BlockPreconditioner,
    DiagonalPreconditioner,
    Preconditioner,
    step_towards_minimum,
)
from fastsoftmax._validation import (
    Targets,
    Weights,
    apply_class_weight,
    check_weights,
    refuse_missing_labels,
    validated,
)
from fastsoftmax.linear_model._parameters import check_n_classes
from fastsoftmax.linear_model._problem import are_soft, penalty_factors, smoothed
from fastsoftmax.linear_model._solve import intercept_only, solve
from fastsoftmax.objective import SoftmaxObjective

if TYPE_CHECKING:
    from fastsoftmax.linear_model._logistic import LogisticRegression

Float64Array = NDArray[np.float64]

#: A Gram matrix is kept for each class where they have at most so many entries, 8 MB, as each
#: batch needs a factor of them; else their diagonals. On mnist, whose matrices have 6 million
#: entries, these take a hundredth of the time, and held-out losses are about the same.
_GRAM_ENTRIES = 2**20
#: Before the first row as much is known as of so many rows like those of the first batch, at equal
#: probabilities, however weak the penalty. Else small first batches, being separable, are fitted
#: with certainty.
_ROWS_KNOWN = 1.0
#: Where diagonals are kept, so many rows are learnt at a time. A diagonal holds on to what a large
#: batch found in directions that hardly matter to it: on mnist a first batch of 5000 rows, fitted
#: to its optimum, leaves the stream at a log-loss of 0.30, 1000 rows at 0.277.
_PIECE = 1000
#: Share of a batch's distance to its minimum that may be left, since it is never made up for ...
_SHARE = 1e-3
#: ... and nats, where Gram matrices are kept: digits at C=100 in batches of 10 rows end near the
#: loss of a fit, and at 30 times that without. Diagonals gain nothing from it, at twice the passes.
_MOST_LEFT = 1e-4


@dataclass(frozen=True, eq=False)
class Batch:
    """Valid rows of a stream.

    Attributes
    ----------
    X : ndarray or CSR matrix
    targets, weights
        As designs take them.
    classes : ndarray of shape (n_classes,)
    masses : ndarray of shape (n_classes,)
        Weight of each class in the stream so far, these rows included.
    """

    X: Any
    targets: Targets
    weights: Weights
    classes: NDArray[Any]
    masses: Float64Array

    @property
    def n_rows(self) -> int:
        """Number of logit rows."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def pieces(self, most: int) -> Iterator[Batch]:
        """Yield the rows in order, at most so many at a time; none of weight 0 alone."""
        n = self.X.shape[0]
        for first in range(0, n, most):
            rows = slice(first, min(first + most, n))
            labels, soft = self.targets.labels[rows], self.targets.soft[rows]
            scaled = self.weights.scaled[rows]
            total = float(scaled.sum(dtype=np.float64) if scaled.size else rows.stop - first)
            if total > 0.0:
                yield replace(
                    self,
                    X=self.X[rows],
                    targets=replace(self.targets, labels=labels, soft=soft),
                    weights=replace(self.weights, scaled=scaled, total=total),
                )

    def design(self) -> Design:
        """Return the design of these rows."""
        return make_design(self.X, self.targets, self.weights)


def learnt(
    estimator: LogisticRegression,
    X: Any,
    y: Any,
    classes: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> tuple[dict[str, Any], str | None]:
    """Return the attributes that a batch leaves an estimator with, and a warning or None.

    The attributes it has are not written to.

    Parameters
    ----------
    estimator : LogisticRegression
        Nothing but the number and names of features is set.
    X, y, classes, sample_weight
        See `LogisticRegression.partial_fit`.

    Raises
    ------
    ValueError
        As `partial_fit`.
    FloatingPointError
        If the loss is not finite where the batch finds the parameters.
    """
    strength = _strength(estimator)
    state: dict[str, Any] | None = vars(estimator).get("_stream")
    is_fitted = hasattr(estimator, "classes_")
    batch = _check_batch(estimator, X, y, classes, sample_weight, state)
    factors = penalty_factors(estimator.penalty_weights, batch.X.shape[1])
    if not np.all(factors > 0.0):
        raise ValueError(
            "partial_fit needs penalty_weights above 0: what the first rows do not tell, nothing "
            "else limits. Use small ones."
        )
    if state is not None:
        memory, model = _remembered(estimator, state)
    else:
        memory = _begun(estimator, batch, strength * factors)
        coef = np.zeros((batch.n_rows, batch.X.shape[1]), batch.X.dtype)
        model = _Model(coef, np.zeros(batch.n_rows))
        if is_fitted:
            model = _after_fit(estimator, batch, memory)
    if not is_fitted and memory.is_full and np.all(batch.masses > 0.0):
        _fitted(estimator, batch, memory, model, strength * factors)
    else:
        for piece in batch.pieces(batch.X.shape[0] if memory.is_full else _PIECE):
            _moved(estimator, piece, memory, model)
    return _attributes(estimator, batch, memory, model)


# --- What a call is given -------------------------------------------------------------------------


def _strength(estimator: LogisticRegression) -> float:
    """Return 1 / C, after a look at whether a stream can be learnt from at all."""
    settings = estimator._settings()
    if settings.l1_ratio > 0.0 or estimator.positive or estimator.bounds is not None:
        raise ValueError(
            "partial_fit knows neither an L1 penalty nor bounds: a Gaussian cannot remember them. "
            "Use l1_ratio=0, positive=False and bounds=None, or fit."
        )
    if np.isinf(settings.C):
        raise ValueError(
            "partial_fit needs a penalty: the first rows of a stream are separable, and have no "
            "finite optimum without one. Set C to a large number; the penalty's weight falls as "
            "rows come in."
        )
    with np.errstate(over="ignore"):
        strength = float(np.float64(1.0) / settings.C)
    if not np.isfinite(strength):
        raise ValueError(f"The penalty 1/C overflows: C={settings.C!r}. Increase C.")
    return strength


def _check_batch(
    estimator: LogisticRegression,
    X: Any,
    y: Any,
    classes: ArrayLike | None,
    sample_weight: ArrayLike | None,
    state: dict[str, Any] | None,
) -> Batch:
    if are_soft(y):
        raise ValueError(
            "partial_fit takes labels, not soft targets. Give a row once for each class, with its "
            "mass as sample_weight."
        )
    refuse_missing_labels(y)
    is_first = not hasattr(estimator, "classes_")
    X, y = validated(estimator, X, y, reset=is_first)
    known = _check_classes(estimator, y, classes, is_first)
    check_n_classes(estimator.solver, len(known))
    labels = _indices(y, known)
    check_weights(sample_weight, X)  # refuses what is no weight
    counts = np.asarray(1.0 if sample_weight is None else sample_weight, dtype=np.float64)
    counts = np.broadcast_to(counts, labels.shape)
    masses = np.bincount(labels, counts, len(known)).astype(np.float64)
    if state is not None:
        masses += state["masses"]
    if isinstance(estimator.class_weight, str):  # balanced, by what has been seen so far
        seen = masses > 0.0
        sample_weight = counts * (masses.sum() / (seen.sum() * np.where(seen, masses, 1.0)))[labels]
    else:
        sample_weight = apply_class_weight(
            estimator.class_weight, known, labels, y, sample_weight, X
        )
    targets = Targets(labels, np.empty((0, 0), X.dtype), len(known))
    targets = smoothed(targets, estimator.label_smoothing, X.dtype)
    return Batch(X, targets, check_weights(sample_weight, X), known, masses)


def _check_classes(
    estimator: LogisticRegression, y: NDArray[Any], classes: ArrayLike | None, is_first: bool
) -> NDArray[Any]:
    """Return the classes of the stream."""
    if not is_first:
        known: NDArray[Any] = estimator.classes_
        if classes is not None and not np.array_equal(known, unique_labels(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{known!r}. Begin another stream with a clone of the estimator."
            )
        return known
    known = unique_labels(y if classes is None else classes)
    if len(known) < 2:
        raise ValueError(
            "classes must be passed on the first call to partial_fit, unless y holds all of them; "
            f"here there is only one class: {known[0]!r}."
        )
    return known


def _indices(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int32]:
    """Return each label's index into the classes."""
    found, inverse = np.unique(y, return_inverse=True)
    places = {label: k for k, label in enumerate(classes.tolist())}
    if unknown := [label for label in found.tolist() if label not in places]:
        raise ValueError(
            f"y contains labels that are not among the classes of the stream: {unknown}; these "
            f"are {classes.tolist()}. Pass all of them as `classes` on the first call to "
            "partial_fit."
        )
    indices = np.array([places[label] for label in found.tolist()], dtype=np.int32)
    return indices[inverse.reshape(-1)]


# --- What is remembered ---------------------------------------------------------------------------


class _Memory:
    """A precision by class: Gram matrices (n_rows, D, D), or their diagonals (n_rows, D)."""

    def __init__(self, precision: NDArray[Any], centre: Float64Array, fit_intercept: bool) -> None:
        self.precision, self.centre = precision, centre
        self.D = precision.shape[1]
        self.fit_intercept = fit_intercept

    @property
    def is_full(self) -> bool:
        """Whether features have to do with one another."""
        return self.precision.ndim == 3

    @property
    def name(self) -> str:
        """Return what is remembered, in words."""
        return f"online Newton ({'a Gram matrix per class' if self.is_full else 'diagonal'})"

    def unpack(self, params: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return coefficients and intercepts of x from parameters of x - centre."""
        if not self.fit_intercept:
            return params, np.zeros(len(params))
        coef = params[:, :-1]
        return coef, params[:, -1] - np.einsum("kj,j->k", coef, self.centre)

    def pack(self, coef: NDArray[Any], intercept: NDArray[Any]) -> Float64Array:
        """Return parameters of x - centre, (n_rows, D), from coefficients and intercepts of x."""
        params = np.empty((len(coef), self.D))
        params[:, : coef.shape[1]] = coef
        if self.fit_intercept:
            params[:, -1] = intercept + np.einsum("kj,j->k", params[:, :-1], self.centre)
        return params

    def pull(self, step: Float64Array) -> Float64Array:
        """Return the product of the precision with a step, (n_rows, D)."""
        if self.is_full:
            return np.einsum("kij,kj->ki", self.precision, step)
        return self.precision * step

    def curvature(self, design: Design, params: Float64Array) -> Float64Array:
        """Return that of the losses of a design, shaped like the precision."""
        coef, intercept = self.unpack(params)
        if self.is_full:
            own = design.class_grams(coef, intercept, design.n_samples, False, self.centre)
            own = own[:, : self.D, : self.D]
        else:
            own = design.class_diagonals(coef, intercept, self.centre)[:, : self.D]
        n_rows = len(coef)
        own *= design.weight_scale * (n_rows / (n_rows - 1.0) if n_rows > 1 else 1.0)
        return own

    def metric(self, curvature: Float64Array) -> Preconditioner:
        """Return the inverse of the precision plus a curvature."""
        precision = self.precision + curvature
        if self.is_full:
            zeros = np.zeros(self.D)
            return BlockPreconditioner(precision, zeros, len(precision), sums_to_zero=False)
        return DiagonalPreconditioner(precision, sums_to_zero=False)

    def function(
        self, design: Design, anchor: Float64Array
    ) -> Callable[[Float64Array], tuple[float, Float64Array]]:
        """Return value and gradient of what a batch minimises."""

        @np.errstate(over="ignore", invalid="ignore")
        def value_and_gradient(x: Float64Array) -> tuple[float, Float64Array]:
            params = x.reshape(anchor.shape)
            loss, gradient = design.loss_and_gradient(*self.unpack(params))
            if self.fit_intercept:
                gradient[:, :-1] -= gradient[:, -1:] * self.centre
            else:
                gradient = gradient[:, :-1]
            step = params - anchor
            pull = self.pull(step)
            value = design.weight_scale * loss + 0.5 * float(np.einsum("kj,kj->", step, pull))
            if not np.isfinite(value):
                return np.inf, np.full(x.shape, np.inf)
            gradient *= design.weight_scale
            gradient += pull
            return value, gradient.ravel()

        return value_and_gradient

    def columns(self, used: NDArray[np.intp]) -> _Memory:
        """Return a copy of what concerns some features; of diagonals."""
        precision = self.precision[:, self._entries(used)].astype(np.float64)
        return _Memory(precision, self.centre[used], self.fit_intercept)

    def add(self, curvature: Float64Array, used: Any) -> None:
        """Add a curvature that concerns some features, or all."""
        if isinstance(used, slice):
            self.precision += curvature
        else:
            self.precision[:, self._entries(used)] += curvature

    def _entries(self, used: NDArray[np.intp]) -> NDArray[np.intp]:
        return np.append(used, self.D - 1) if self.fit_intercept else used


@dataclass
class _Model:
    """Coefficients (n_rows, n_features) and intercepts (n_rows,), and what is told of a call."""

    coef: NDArray[Any]
    intercept: Float64Array
    n_iterations: int = 0
    n_passes: int = 0
    is_enough: bool = True
    solver: str = ""


# --- What a batch changes -------------------------------------------------------------------------


def _begun(estimator: LogisticRegression, batch: Batch, strengths: Float64Array) -> _Memory:
    """Return what is known before the first batch; see `_ROWS_KNOWN`."""
    design, fit_intercept = batch.design(), estimator.fit_intercept
    D = design.n_features + int(fit_intercept)
    centre = design.typical_row() if fit_intercept else np.zeros(design.n_features)
    memory = _Memory(np.zeros((batch.n_rows, D)), centre, fit_intercept)
    known = memory.curvature(design, np.zeros((batch.n_rows, D)))
    known *= _ROWS_KNOWN / (design.weight_scale * design.weight_sum)
    known = np.maximum(known, np.append(strengths, _ROWS_KNOWN / design.n_classes)[:D])
    if batch.n_rows * D * D > _GRAM_ENTRIES:
        return _Memory(known.astype(design.dtype), centre, fit_intercept)
    precision = np.zeros((batch.n_rows, D, D))
    precision[:, np.arange(D), np.arange(D)] = known
    return _Memory(precision, centre, fit_intercept)


def _after_fit(estimator: LogisticRegression, batch: Batch, memory: _Memory) -> _Model:
    """Return the fitted model; its rows, which are gone, count as like those of the batch."""
    coef, intercept = estimator._coefficients()
    design = batch.design()
    share = getattr(estimator, "_fitted_mass", 0.0) / (design.weight_scale * design.weight_sum)
    memory.precision += share * memory.curvature(design, memory.pack(coef, intercept))
    return _Model(coef.copy(), intercept.astype(np.float64))


def _remembered(estimator: LogisticRegression, state: dict[str, Any]) -> tuple[_Memory, _Model]:
    """Return copies of what earlier calls have left."""
    coef, intercept = estimator._coefficients()
    memory = _Memory(state["precision"].copy(), state["centre"], estimator.fit_intercept)
    if (len(coef), coef.shape[1] + estimator.fit_intercept) != memory.precision.shape[:2]:
        raise ValueError(
            "fit_intercept or coef_ was changed in the middle of a stream: what is remembered of "
            f"it has shape {memory.precision.shape}, coef_ {coef.shape}. Begin another stream with "
            "a clone of the estimator."
        )
    return memory, _Model(coef.copy(), intercept.astype(np.float64))


def _fitted(
    estimator: LogisticRegression,
    batch: Batch,
    memory: _Memory,
    model: _Model,
    strengths: Float64Array,
) -> None:
    """Learn a first batch that has rows of all classes, by an ordinary fit."""
    design = batch.design()
    objective = SoftmaxObjective.from_design(
        design,
        l2=strengths / (design.weight_scale * design.weight_sum),
        fit_intercept=estimator.fit_intercept,
    )
    result, model.solver = solve(
        objective,
        intercept_only(objective),
        solver="auto",
        tol=estimator.tol,
        max_iter=estimator.max_iter,
    )
    coef, model.intercept = map(_centred, objective.unpack(result.params))
    memory.precision += memory.curvature(design, memory.pack(coef, model.intercept))
    model.coef = coef
    model.n_iterations, model.n_passes = result.n_iterations, result.n_passes
    model.is_enough = result.converged


def _moved(estimator: LogisticRegression, batch: Batch, memory: _Memory, model: _Model) -> None:
    """Learn a batch."""
    if memory.is_full or not sparse.issparse(batch.X):
        used: Any = slice(None)
        some = memory
    else:  # other columns cannot move
        batch, used = _reduced(batch)
        some = memory.columns(used)
    design = batch.design()
    anchor = some.pack(model.coef[:, used], model.intercept)
    step = step_towards_minimum(
        some.function(design, anchor),
        anchor.ravel(),
        some.metric(some.curvature(design, anchor)),
        share=_SHARE,
        most=_MOST_LEFT if memory.is_full else np.inf,
        noise=4.0 * float(np.finfo(design.dtype).eps) * design.cancellation(),
        max_iter=estimator.max_iter,
    )
    params = _centred(step.params.reshape(anchor.shape))
    memory.add(some.curvature(design, params), used)
    model.coef[:, used], model.intercept = some.unpack(params)
    model.n_iterations += step.n_iterations
    model.n_passes += step.n_passes
    model.is_enough &= step.is_enough
    model.solver = memory.name


def _reduced(batch: Batch) -> tuple[Batch, NDArray[np.intp]]:
    """Return a batch of sparse rows without columns that have no entries, and the others."""
    X = batch.X
    places = np.zeros(X.shape[1], X.indices.dtype)
    places[X.indices] = 1
    used = np.flatnonzero(places)
    places[used] = np.arange(len(used), dtype=places.dtype)
    arrays = (X.data, places[X.indices], X.indptr)
    return replace(batch, X=type(X)(arrays, shape=(X.shape[0], len(used)))), used


def _centred(rows: Float64Array) -> Float64Array:
    """Return rows of coefficients that sum to zero, with the same probabilities."""
    return rows - rows.mean(axis=0) if len(rows) > 1 else rows


def _attributes(
    estimator: LogisticRegression, batch: Batch, memory: _Memory, model: _Model
) -> tuple[dict[str, Any], str | None]:
    dtype = batch.X.dtype
    if hasattr(estimator, "coef_"):
        dtype = np.result_type(dtype, estimator.coef_.dtype)
    n_samples = batch.X.shape[0] + getattr(estimator, "n_samples_seen_", 0)
    status = (
        f"Learnt from {n_samples} rows of a stream, batch after batch, which approximates a fit of "
        f"all of them. The latest call took {model.n_iterations} iterations"
    )
    warning = None
    if model.is_enough:
        status += "."
    else:
        status += " and did not reach its minimum: increase max_iter, or scale X."
        warning = status
    attributes = {
        "classes_": batch.classes,
        "coef_": np.array(model.coef, dtype, order="C", copy=None),
        "intercept_": model.intercept.astype(dtype),
        "n_iter_": np.array([model.n_iterations], dtype=np.int32),
        "n_passes_": model.n_passes,
        "n_samples_seen_": n_samples,
        "solver_": model.solver,
        "converged_": model.is_enough,
        "status_": status,
        "_stream": {
            "precision": memory.precision,
            "centre": memory.centre,
            "masses": batch.masses,
        },
    }
    return attributes, warning
