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
    check_offset,
    check_sparse_indices,
    check_targets,
    check_weights,
    class_factors,
    encode_labels,
    refuse_missing_labels,
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
    check_sparse_indices(X)
    if _are_soft(y):
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
    objective = SoftmaxObjective.from_design(
        make_design(X, _smoothed(targets, estimator.label_smoothing, X.dtype), weights, offset),
        l2=(1.0 - settings.l1_ratio) * strength * factors,
        fit_intercept=estimator.fit_intercept,
    )
    l1 = np.zeros(objective.shape)
    l1[:, : objective.n_features] = settings.l1_ratio * strength * factors
    lower, upper = _bounds(estimator, objective)
    return Problem(objective, SeparablePenalty(l1.ravel(), lower, upper), classes)


def _are_soft(y: Any) -> bool:
    """Tell rows of masses from labels, which may come as a column."""
    if sparse.issparse(y):
        return False
    shape = np.shape(y)
    return len(shape) == 2 and shape[1] > 1


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
    names = getattr(Y, "columns", None)
    Y = np.asarray(Y)
    classes = np.arange(Y.shape[1]) if names is None else np.asarray(names)
    if estimator.class_weight is not None:
        targets, weights = check_targets(Y, X, None, sample_weight)  # refuses what is no mass
        masses = np.asarray(Y, dtype=np.float64)
        Y = masses * class_factors(estimator.class_weight, classes, masses, sample_weight)
    targets, weights = check_targets(Y, X, None, sample_weight)
    return X, targets, weights, classes


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
    factors = np.asarray(weights, dtype=np.float64)
    if factors.shape != (n_features,):
        raise ValueError(
            f"penalty_weights must have shape (n_features,) = ({n_features},), got "
            f"{factors.shape}. Give one number per feature, 0 for one without a penalty."
        )
    if not (np.all(np.isfinite(factors)) and np.all(factors >= 0.0)):
        raise ValueError(
            "penalty_weights must be finite and not negative; a feature is left out by dropping "
            "its column, or by bounds of 0."
        )
    return factors


def _bounds(
    estimator: LogisticRegression, objective: SoftmaxObjective
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lower and upper bounds of all parameters; the intercepts have none."""
    n_rows, d = objective.n_rows, objective.n_features
    lower, upper = np.full(objective.shape, -np.inf), np.full(objective.shape, np.inf)
    if estimator.bounds is not None:
        if len(estimator.bounds) != 2:
            raise ValueError(
                f"bounds must be a pair (lower, upper), got {len(estimator.bounds)} elements."
            )
        for side, bound in zip((lower, upper), estimator.bounds, strict=True):
            try:
                side[:, :d] = np.asarray(bound, dtype=np.float64)
            except (TypeError, ValueError):
                raise ValueError(
                    f"bounds must hold numbers, or arrays that broadcast to the shape of coef_, "
                    f"({n_rows}, {d}); got {bound!r}."
                ) from None
    if estimator.positive:
        lower[:, :d] = np.maximum(lower[:, :d], 0.0)
    if not np.all(lower <= upper):
        raise ValueError(
            "bounds must not be NaN, and no lower bound above its upper bound"
            f"{' (positive=True makes the lower ones at least 0)' if estimator.positive else ''}."
        )
    return lower.ravel(), upper.ravel()
