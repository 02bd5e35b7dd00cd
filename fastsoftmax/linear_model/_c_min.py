"""Where a path of L1 penalties begins."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning

from fastsoftmax._solvers import SeparablePenalty
from fastsoftmax.linear_model._logistic import LogisticRegression, explained_overflow
from fastsoftmax.linear_model._problem import make_problem
from fastsoftmax.linear_model._solve import intercept_only, solve

_TOL = 1e-12


def c_min(
    X: Any,
    y: ArrayLike,
    *,
    l1_ratio: float = 1.0,
    fit_intercept: bool = True,
    class_weight: dict[Any, float] | str | None = None,
    penalty_weights: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    offset: ArrayLike | None = None,
) -> float:
    """Return the C up to which all coefficients of an L1 penalised model are zero.

    A bit above it, the first one is not. For several classes this is what `sklearn.svm.l1_min_c`
    is for two.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_classes)
        Class labels, or soft targets.
    l1_ratio : float, default=1.0
        In (0, 1].
    fit_intercept, class_weight, penalty_weights
        See `LogisticRegression`. Features whose penalty weight is 0 are fitted.
    sample_weight, offset
        See `LogisticRegression.fit`.

    Returns
    -------
    float
        In (0, inf]; infinite where no C makes a difference.

    Raises
    ------
    ValueError
        If an argument is not as described.

    References
    ----------
    Friedman, Hastie & Tibshirani (2010), J. Stat. Softw. 33, section 2.5.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastsoftmax import LogisticRegression, c_min
    >>> X, y = load_iris(return_X_y=True)
    >>> C = c_min(X, y)
    >>> int((LogisticRegression(C=0.99 * C, l1_ratio=1).fit(X, y).coef_ != 0).sum())
    0
    >>> int((LogisticRegression(C=1.01 * C, l1_ratio=1).fit(X, y).coef_ != 0).sum())
    1
    """
    if not 0.0 < l1_ratio <= 1.0:
        raise ValueError(
            f"l1_ratio must be in (0, 1], got {l1_ratio!r}: without an L1 penalty no C sets "
            "coefficients to zero."
        )
    estimator = LogisticRegression(
        C=1.0,
        l1_ratio=l1_ratio,
        fit_intercept=fit_intercept,
        class_weight=class_weight,
        penalty_weights=penalty_weights,
    )
    problem = make_problem(estimator, X, y, sample_weight, offset, reset=True)
    l1 = problem.penalty.l1.reshape(problem.objective.shape)[:, : problem.objective.n_features]
    is_penalised = l1[0] > 0.0
    if not is_penalised.any():
        return float("inf")
    # The model without these features, to as many digits as there are.
    held = np.zeros(problem.objective.shape, bool)
    held[:, : -1 if fit_intercept else None] = is_penalised
    bounds = [np.where(held.ravel(), 0.0, bound) for bound in (-np.inf, np.inf)]
    with explained_overflow(problem.objective.dtype):
        result, _ = solve(
            problem.objective,
            intercept_only(problem.objective),
            tol=_TOL,
            max_iter=1000,
            penalty=SeparablePenalty(np.zeros(held.size), *bounds),
        )
    if not result.converged:
        warnings.warn(result.message, ConvergenceWarning, stacklevel=2)
    gradient = problem.objective.value_and_gradient(result.params)[1].reshape(held.shape)
    slopes = np.abs(gradient[:, : problem.objective.n_features])[:, is_penalised].max(axis=0)
    with np.errstate(divide="ignore"):
        return float(np.min(l1[0, is_penalised] / slopes))
