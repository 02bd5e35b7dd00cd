"""From an estimator's parameters and the user's data to what a solver minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.utils.validation import validate_data

from fastsoftmax._designs import make_design
from fastsoftmax._solvers import SeparablePenalty
from fastsoftmax._validation import (
    FLOATS,
    Targets,
    Weights,
    apply_class_weight,
    check_masses,
    check_offset,
    check_sparse_indices,
    check_targets,
    check_weights,
    class_factors,
    encode_labels,
    refuse_missing_labels,
    shape_of,
)
from fastsoftmax.linear_model._parameters import Settings, check_n_classes
from fastsoftmax.objective import SoftmaxObjective

if TYPE_CHECKING:
    from fastsoftmax.linear_model._logistic import LogisticRegression


@dataclass(frozen=True, eq=False)
class Problem:
    """What a fit minimises: an objective plus a penalty that is not smooth.

    Attributes
    ----------
    objective : SoftmaxObjective
        Mean loss and L2 penalty.
    penalty : SeparablePenalty
        L1 penalty and bounds; see `SeparablePenalty.is_smooth`.
    classes : ndarray of shape (n_classes,)
    """

    objective: SoftmaxObjective
    penalty: SeparablePenalty
    classes: NDArray[Any]

    def coefficients(self, params: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return coefficients and intercepts, copied, in the dtype of X, from a solver's."""
        coef, intercept = self.objective.unpack(params)
        if len(coef) > 1:
            # Intercepts may shift alike for all classes: those of mean zero represent the rest.
            intercept = intercept - intercept.mean()
            if self.penalty.is_smooth:
                # The penalty makes the optimum's rows sum to zero; without one they may shift.
                coef = coef - coef.mean(axis=0)
        dtype = self.objective.dtype
        return np.array(coef, dtype, order="C"), np.array(intercept, dtype)


def make_problem(
    estimator: LogisticRegression,
    X: Any,
    y: Any,
    sample_weight: ArrayLike | None,
    offset: ArrayLike | None,
    *,
    reset: bool,
    dtype: Any = FLOATS,
) -> Problem:
    """Return what `fit` minimises.

    Parameters
    ----------
    estimator : LogisticRegression
        Whose parameters are valid each by itself.
    X, y, sample_weight, offset
        See `LogisticRegression.fit`.
    reset : bool
        Whether the estimator takes the number and names of features from X, or checks them.
    dtype : dtype or tuple of dtypes
        To which X is converted unless it is one of them.

    Raises
    ------
    ValueError
        If they do not fit together.
    """
    check_sparse_indices(X)
    if are_soft(y):
        X, targets, weights, classes = _soft_targets(
            estimator, X, y, sample_weight, reset=reset, dtype=dtype
        )
    else:
        X, targets, weights, classes = _labels(
            estimator, X, y, sample_weight, reset=reset, dtype=dtype
        )
    check_n_classes(estimator.solver, len(classes))
    settings = estimator._settings()
    n_rows = 1 if len(classes) == 2 else len(classes)
    if offset is not None:
        offset = check_offset(offset, X, n_rows)
    strength = weights.penalty_strength(settings.C)
    factors = _penalty_weights(estimator.penalty_weights, X.shape[1])
    l2, l1_of_features = _strengths(settings, strength, factors)
    objective = SoftmaxObjective.from_design(
        make_design(X, _smoothed(targets, estimator.label_smoothing, X.dtype), weights, offset),
        l2=l2,
        fit_intercept=estimator.fit_intercept,
    )
    l1 = np.zeros(objective.shape)
    l1[:, : objective.n_features] = l1_of_features
    lower, upper = _bounds(estimator, objective)
    return Problem(objective, SeparablePenalty(l1.ravel(), lower, upper), classes)


def are_soft(y: Any) -> bool:
    """Tell rows of masses from labels, which may come as a column.

    Raises
    ------
    ValueError
        If rows differ in length, or one column holds what are no labels.
    """
    if sparse.issparse(y):
        return False
    try:
        shape = shape_of(y)
    except ValueError as error:
        raise ValueError(
            f"y has rows of different lengths ({error}). Give labels, or soft targets with one "
            "column per class."
        ) from error
    if len(shape) == 2 and shape[1] == 1:
        column = np.asarray(y)
        if column.dtype.kind == "f" and np.any(np.isfinite(column) & (column != np.floor(column))):
            raise ValueError(
                f"y of shape {shape} holds numbers that are no labels, in one column. Soft targets "
                "have one column per class: for two classes, np.column_stack([1 - p, p])."
            )
        return False
    return len(shape) > 1


def _labels(
    estimator: LogisticRegression, X: Any, y: Any, sample_weight: ArrayLike | None, **options: Any
) -> tuple[Any, Targets, Weights, NDArray[Any]]:
    refuse_missing_labels(y)
    X, y = validate_data(estimator, X, y, accept_sparse="csr", order="C", **options)
    classes, labels = encode_labels(y)
    sample_weight = apply_class_weight(estimator.class_weight, classes, labels, y, sample_weight, X)
    targets = Targets(labels, np.empty((0, 0), X.dtype), len(classes))
    return X, targets, check_weights(sample_weight, X), classes


def _soft_targets(
    estimator: LogisticRegression, X: Any, Y: Any, sample_weight: ArrayLike | None, **options: Any
) -> tuple[Any, Targets, Weights, NDArray[Any]]:
    X = validate_data(estimator, X, accept_sparse="csr", order="C", **options)
    classes, masses = column_names(Y), check_masses(Y)
    if estimator.class_weight is not None:
        check_targets(masses, X, None, sample_weight)  # refuses what is no weight
        masses = masses * class_factors(estimator.class_weight, classes, masses, sample_weight)
    targets, weights = check_targets(masses, X, None, sample_weight)
    if np.all(np.count_nonzero(masses, axis=1) <= 1):  # labels after all: less memory, same bits
        labels = masses.argmax(axis=1).astype(np.int32)
        targets = Targets(labels, np.empty((0, 0), X.dtype), len(classes))
    return X, targets, weights, classes


def column_names(Y: Any) -> NDArray[Any]:
    """Return what the columns of soft targets stand for: a frame's names, or their numbers.

    Raises
    ------
    ValueError
        If two columns have the same name.
    """
    if (columns := getattr(Y, "columns", None)) is None:
        return np.arange(shape_of(Y)[1])
    names = list(columns)
    if repeated := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(
            f"y has several columns of the same name: {', '.join(repeated)}. The names of soft "
            "targets become classes_: add these columns up, or rename them."
        )
    classes = np.empty(len(names), dtype=object)
    classes[:] = names  # one by one: those of a MultiIndex are tuples
    return classes if any(isinstance(name, tuple) for name in names) else np.asarray(columns)


def _smoothed(targets: Targets, share: float, dtype: np.dtype[Any]) -> Targets:
    """Return targets a share of which is spread evenly over the classes.

    Szegedy et al. (2016), Rethinking the Inception architecture, CVPR, section 7.
    """
    if share == 0.0:
        return targets
    soft = targets.soft
    if not soft.size:
        soft = np.zeros((len(targets.labels), targets.n_classes), dtype)
        np.put_along_axis(soft, targets.labels[:, None], 1.0, axis=1)
    soft = (1.0 - share) * soft + share / targets.n_classes
    return Targets(np.empty(0, np.int32), soft.astype(dtype, copy=False), targets.n_classes)


def _penalty_weights(weights: ArrayLike | None, n_features: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(n_features)
    wanted = (
        f"penalty_weights must hold one number per feature, {n_features}, finite and not negative "
        "(0 for a feature without a penalty)"
    )
    try:
        factors = np.asarray(_real(weights), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{wanted}: {error}.") from None
    if factors.shape != (n_features,):
        raise ValueError(f"{wanted}; got shape {factors.shape}.")
    wrong = np.flatnonzero(~(np.isfinite(factors) & (factors >= 0.0)))
    if wrong.size:
        raise ValueError(
            f"{wanted}; penalty_weights[{wrong[0]}] is {factors[wrong[0]]}. To leave a feature "
            "out, drop its column, or set bounds of 0."
        )
    return factors


def _strengths(settings: Settings, strength: float, factors: NDArray[np.float64]) -> Any:
    """Return the strengths of the squares and of the absolute values, per feature."""
    with np.errstate(over="ignore"):
        strengths = strength * factors
    if not np.all(np.isfinite(strengths)):
        raise ValueError(
            f"The penalty, penalty_weights / (C * sum(sample_weight)), overflows: C={settings.C!r} "
            f"and the largest of penalty_weights is {factors.max()}. Increase C, or divide "
            "penalty_weights."
        )
    return (1.0 - settings.l1_ratio) * strengths, settings.l1_ratio * strengths


def _real(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise TypeError(f"dtype {array.dtype} is not real")
    return array


def _bounds(
    estimator: LogisticRegression, objective: SoftmaxObjective
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower and upper bounds of all parameters; the intercepts have none."""
    n_rows, d = objective.n_rows, objective.n_features
    lower, upper = np.full(objective.shape, -np.inf), np.full(objective.shape, np.inf)
    if estimator.bounds is not None:
        if len(estimator.bounds) != 2:
            raise ValueError(
                f"bounds must be a pair (lower, upper), got {len(estimator.bounds)} elements. Each "
                "of the two is a number, or an array with a bound per feature."
            )
        for side, bound in zip((lower, upper), estimator.bounds, strict=True):
            try:
                side[:, :d] = np.asarray(_real(bound), dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"bounds must hold numbers, or arrays that broadcast to the shape of coef_, "
                    f"({n_rows}, {d}): {error}."
                ) from None
    if estimator.positive:
        lower[:, :d] = np.maximum(lower[:, :d], 0.0)
    possible = (lower <= upper) & (lower < np.inf) & (upper > -np.inf)
    if not possible.all():
        k, j = np.argwhere(~possible)[0]
        also = ", with positive=True, which makes lower bounds at least 0" * estimator.positive
        raise ValueError(
            f"bounds leave no number for coef_[{k}, {j}]: from {lower[k, j]} to {upper[k, j]}"
            f"{also}. No lower bound may be above its upper bound; -np.inf and np.inf, not NaN or "
            "None, stand for no bound."
        )
    return lower.ravel(), upper.ravel()
