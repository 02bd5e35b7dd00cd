"""Ways out: the same model as an object of another library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from fastsoftmax.linear_model._logistic import LogisticRegression

#: Parameters that mean the same in both.
_SHARED_PARAMETERS = (
    *("tol", "fit_intercept", "class_weight", "random_state", "max_iter", "verbose"),
    "warm_start",
)


def to_sklearn(estimator: LogisticRegression) -> SklearnLogisticRegression:
    """Return scikit-learn's estimator with the parameters and attributes of a fitted one."""
    check_is_fitted(estimator)
    parameters = {name: getattr(estimator, name) for name in _SHARED_PARAMETERS}
    # n_jobs stays behind: scikit-learn's has no effect, and setting it warns.
    settings = estimator._settings()
    solver = "saga" if settings.l1_ratio else "lbfgs"
    other = SklearnLogisticRegression(
        C=settings.C, l1_ratio=settings.l1_ratio, solver=solver, **parameters
    )
    coef, intercept = estimator._coefficients()
    other.coef_, other.intercept_ = coef.copy(), intercept.copy()
    other.classes_ = np.array(estimator.classes_)
    other.n_iter_ = np.array(estimator.n_iter_)
    other.n_features_in_ = estimator.n_features_in_
    if hasattr(estimator, "feature_names_in_"):
        other.feature_names_in_ = np.array(estimator.feature_names_in_)
    return other
