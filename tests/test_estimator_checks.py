"""scikit-learn's own checks of an estimator: all of them, none expected to fail."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from fastsoftmax import LogisticRegression

# Without an intercept, scikit-learn's own class fails `check_class_weight_classifiers` too: the
# weights ask for a constant prediction, which nothing but the intercept can give.


@parametrize_with_checks(
    [
        LogisticRegression(),
        LogisticRegression(C=10.0, class_weight="balanced"),
        LogisticRegression(warm_start=True, n_jobs=1, tol=1e-8),
    ]
)
def test_scikit_learn_check(estimator, check):
    check(estimator)
