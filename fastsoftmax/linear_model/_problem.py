"""From an estimator's parameters and the user's data to what a solver minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from fastsoftmax._designs import Design, make_design
from fastsoftmax._solvers import SeparablePenalty
from fastsoftmax._validation import (
    FLOATS,
    Targets,
    Weights,
    apply_class_weight,
    check_masses,
    check_offset,
    check_targets,
    check_weights,
    class_factors,
    encode_labels,
    refuse_missing_labels,
    shape_of,
    validated,
)
from fastsoftmax.linear_model._parameters import check_n_classes
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
    if are_soft(y):
        X, targets, weights, classes = _soft_targets(
            estimator, X, y, sample_weight, reset=reset, dtype=dtype
        )
    else:
        X, targets, weights, classes = _labels(
            estimator, X, y, sample_weight, reset=reset, dtype=dtype
        )
    check_n_classes(estimator.solver, len(classes))
    if offset is not None:
        offset = check_offset(offset, X, 1 if len(classes) == 2 else len(classes))
    targets = smoothed(targets, estimator.label_smoothing, X.dtype)
    return with_penalty(estimator, make_design(X, targets, weights, offset), weights, classes)


def with_penalty(
    estimator: LogisticRegression, design: Design, weights: Weights, classes: NDArray[Any]
) -> Problem:
    """Return what an estimator's penalty and bounds make of the rows of a design.

    Raises
    ------
    ValueError
        As `make_problem`.
    """
    settings = estimator._settings()
    bounds = None
    if estimator.bounds is not None or estimator.positive:
        n_rows = 1 if len(classes) == 2 else len(classes)
        bounds = _bounds(estimator, (n_rows, design.n_features))
    return penalised(
        *(design, weights, classes, settings.C, settings.l1_ratio, estimator.fit_intercept),
        factors=penalty_factors(estimator.penalty_weights, design.n_features),
        bounds=bounds,
    )


def penalised(
    design: Design,
    weights: Weights,
    classes: NDArray[Any],
    C: float,
    l1_ratio: float,
    fit_intercept: bool,
    *,
    factors: NDArray[np.float64] | None = None,
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> Problem:
    """Return what a penalty of strength 1 / C makes of the rows of a design.

    Parameters
    ----------
    design : Design
    weights : Weights
        Those of the design.
    classes : ndarray of shape (n_classes,)
    C, l1_ratio, fit_intercept
        See `LogisticRegression`.
    factors : ndarray of shape (n_features,), default=None
        Of the penalty of each feature; None is 1.
    bounds : tuple of ndarray of shape (n_rows, n_features), default=None
        Lower and upper ones of the coefficients.

    Raises
    ------
    ValueError
        If the penalty overflows.
    """
    strengths = np.ones(design.n_features) if factors is None else factors
    with np.errstate(over="ignore"):
        strengths = weights.penalty_strength(C) * strengths
    if not np.all(np.isfinite(strengths)):
        largest = 1.0 if factors is None else factors.max()
        raise ValueError(
            f"The penalty, penalty_weights / (C * sum(sample_weight)), overflows: C={C!r} and the "
            f"largest of penalty_weights is {largest}. Increase C, or divide "
            "penalty_weights."
        )
    objective = SoftmaxObjective.from_design(
        design, l2=(1.0 - l1_ratio) * strengths, fit_intercept=fit_intercept
    )
    if l1_ratio == 0.0 and bounds is None:
        # Three vectors of zeros and infinities would count where features are many.
        none = np.empty(0)
        return Problem(objective, SeparablePenalty(none, none, none), classes)
    d = objective.n_features
    l1 = np.zeros(objective.shape)
    l1[:, :d] = l1_ratio * strengths
    lower, upper = np.full(objective.shape, -np.inf), np.full(objective.shape, np.inf)
    if bounds is not None:
        lower[:, :d], upper[:, :d] = bounds
    penalty = SeparablePenalty(l1.ravel(), lower.ravel(), upper.ravel())
    return Problem(objective, penalty, classes)


def check_rows(
    estimator: LogisticRegression, X: Any, y: Any, *, reset: bool = True, dtype: Any = FLOATS
) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[np.int32]]:
    """Return valid X and labels y, the classes, and each row's index into them."""
    refuse_missing_labels(y)
    X, y = validated(estimator, X, y, reset=reset, dtype=dtype)
    return X, y, *encode_labels(y)


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
    X, y, classes, labels = check_rows(estimator, X, y, **options)
    sample_weight = apply_class_weight(estimator.class_weight, classes, labels, y, sample_weight, X)
    targets = Targets(labels, np.empty((0, 0), X.dtype), len(classes))
    return X, targets, check_weights(sample_weight, X), classes


def _soft_targets(
    estimator: LogisticRegression, X: Any, Y: Any, sample_weight: ArrayLike | None, **options: Any
) -> tuple[Any, Targets, Weights, NDArray[Any]]:
    X = validated(estimator, X, **options)
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


def smoothed(targets: Targets, share: float, dtype: np.dtype[Any]) -> Targets:
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


def penalty_factors(weights: ArrayLike | None, n_features: int) -> NDArray[np.float64]:
    """Return the factor of each feature's penalty, (n_features,).

    Raises
    ------
    ValueError
        Unless they are finite and not negative, one per feature.
    """
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


def _real(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise TypeError(f"dtype {array.dtype} is not real")
    return array


def _bounds(
    estimator: LogisticRegression, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower and upper bounds of the coefficients."""
    lower, upper = np.full(shape, -np.inf), np.full(shape, np.inf)
    if estimator.bounds is not None:
        if len(estimator.bounds) != 2:
            raise ValueError(
                f"bounds must be a pair (lower, upper), got {len(estimator.bounds)} elements. Each "
                "of the two is a number, or an array with a bound per feature."
            )
        for side, bound in zip((lower, upper), estimator.bounds, strict=True):
            try:
                side[:] = np.asarray(_real(bound), dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"bounds must hold numbers, or arrays that broadcast to the shape of coef_, "
                    f"{shape}: {error}."
                ) from None
    if estimator.positive:
        lower = np.maximum(lower, 0.0)
    possible = (lower <= upper) & (lower < np.inf) & (upper > -np.inf)
    if not possible.all():
        k, j = np.argwhere(~possible)[0]
        also = ", with positive=True, which makes lower bounds at least 0" * estimator.positive
        raise ValueError(
            f"bounds leave no number for coef_[{k}, {j}]: from {lower[k, j]} to {upper[k, j]}"
            f"{also}. No lower bound may be above its upper bound; -np.inf and np.inf, not NaN or "
            "None, stand for no bound."
        )
    return lower, upper
