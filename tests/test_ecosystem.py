"""scikit-learn's meta-estimators and tools around `LogisticRegression`, and around its own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
from child import run_python
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import RFE, RFECV, SelectFromModel, SequentialFeatureSelector
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    cross_val_score,
    learning_curve,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version
from threadpoolctl import threadpool_limits

from fastsoftmax import LogisticRegression

#: Share of samples whose two best classes may be so close that two solvers order them differently.
TIES = 0.001
#: Of probabilities: both optima are good to 1e-6 relative, the logits are of order 10.
PROBABILITY = 1e-5


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread():
    """On a busy machine scikit-learn's own fits are 10 times slower with two."""
    with threadpool_limits(1, user_api="blas"):
        yield


def ours(**params):
    return LogisticRegression(**({"tol": 1e-9} | params))


def theirs(**params):
    return SklearnLogisticRegression(**({"solver": "newton-cholesky", "tol": 1e-8} | params))


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:600], y[:600]


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def assert_same_predictions(actual, desired):
    assert actual.dtype == desired.dtype
    assert np.mean(actual != desired) <= TIES


def test_grid_search_over_a_pipeline_in_two_processes():
    X, y = load_digits(return_X_y=True)
    grid = {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]}

    def search(classifier):
        pipeline = make_pipeline(StandardScaler(), classifier)
        return GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(X, y)

    found, expected = search(LogisticRegression()), search(theirs())
    assert found.best_params_ == expected.best_params_
    scores = "mean_test_score"
    np.testing.assert_allclose(
        found.cv_results_[scores], expected.cv_results_[scores], atol=2 * TIES
    )
    assert_same_predictions(found.predict(X), expected.predict(X))


def test_processes_and_threads_give_the_same_bits(digits):
    X, y = digits
    results = [
        cross_val_predict(
            GridSearchCV(LogisticRegression(), {"C": [1e-3, 1e-2]}, cv=2, n_jobs=inner),
            X,
            y,
            cv=2,
            n_jobs=outer,
            method="decision_function",
        )
        for outer, inner in ((1, 1), (2, 1), (1, 2))
    ]
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_cross_val_predict(digits, method):
    X, y = digits
    actual, desired = (cross_val_predict(e, X, y, cv=3, method=method) for e in (ours(), theirs()))
    if method == "predict":
        assert_same_predictions(actual, desired)
    else:
        # Logits of separable digits reach 100.
        np.testing.assert_allclose(actual, desired, rtol=PROBABILITY, atol=10 * PROBABILITY)


def test_scorers(cancer):
    X, y = cancer
    for scoring in ("accuracy", "neg_log_loss", "roc_auc", "neg_brier_score"):
        actual, desired = (cross_val_score(e, X, y, scoring=scoring) for e in (ours(), theirs()))
        np.testing.assert_allclose(actual, desired, rtol=PROBABILITY, err_msg=scoring)


@pytest.mark.parametrize("data", ["iris", "cancer", "digits"])
def test_rfe_ranks_as_around_scikit_learn(request, data):
    X, y = request.getfixturevalue(data)
    step = 1 if data != "digits" else 8
    actual, desired = (
        RFE(e, n_features_to_select=2, step=step).fit(X, y) for e in (ours(), theirs())
    )
    np.testing.assert_array_equal(actual.ranking_, desired.ranking_)
    assert_same_predictions(actual.predict(X), desired.predict(X))


def test_rfecv(cancer):
    X, y = cancer
    actual, desired = (RFECV(e, step=5, cv=3).fit(X, y) for e in (ours(), theirs()))
    assert actual.n_features_ == desired.n_features_
    np.testing.assert_array_equal(actual.support_, desired.support_)


@pytest.mark.parametrize("threshold", ["mean", "median", "1.2*mean"])
@pytest.mark.parametrize("data", ["cancer", "digits"])
def test_select_from_model(request, data, threshold):
    X, y = request.getfixturevalue(data)
    actual, desired = (
        SelectFromModel(e, threshold=threshold).fit(X, y) for e in (ours(), theirs())
    )
    # The median is a coefficient itself: rounding decides on it.
    assert np.sum(actual.get_support() != desired.get_support()) <= (threshold == "median")
    np.testing.assert_allclose(actual.threshold_, desired.threshold_, rtol=1e-6)


def test_sequential_feature_selector(iris):
    X, y = iris
    actual, desired = (
        SequentialFeatureSelector(e, n_features_to_select=2).fit(X, y) for e in (ours(), theirs())
    )
    np.testing.assert_array_equal(actual.get_support(), desired.get_support())


WRAPPERS = {
    "calibrated, sigmoid": lambda e: CalibratedClassifierCV(e, cv=3),
    "calibrated, isotonic": lambda e: CalibratedClassifierCV(e, cv=3, method="isotonic"),
    "calibrated, temperature": lambda e: CalibratedClassifierCV(
        e, cv=3, method="temperature", ensemble=False
    ),
    "stacking": lambda e: StackingClassifier(
        [("linear", e), ("bayes", GaussianNB())], final_estimator=e, cv=3
    ),
    "stacking, passthrough": lambda e: StackingClassifier(
        [("bayes", GaussianNB())], final_estimator=e, cv=3, passthrough=True
    ),
    "soft voting": lambda e: VotingClassifier(
        [("linear", e), ("bayes", GaussianNB())], voting="soft"
    ),
    "hard voting": lambda e: VotingClassifier([("linear", e), ("bayes", GaussianNB())]),
    "one versus rest": OneVsRestClassifier,
    "one versus one": OneVsOneClassifier,
    "bagging": lambda e: BaggingClassifier(e, n_estimators=3, random_state=0),
    "pipeline": lambda e: make_pipeline(StandardScaler(), e),
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize("data", ["iris", "cancer", "digits"])
def test_wrapped_as_scikit_learns(request, data, wrapper):
    X, y = request.getfixturevalue(data)
    # Both optima to full precision; C keeps the separable subproblems well conditioned.
    actual, desired = (wrapper(make(C=0.1)).fit(X, y) for make in (ours, theirs))
    assert_same_predictions(actual.predict(X), desired.predict(X))
    if hasattr(desired, "predict_proba"):
        np.testing.assert_allclose(
            actual.predict_proba(X), desired.predict_proba(X), atol=PROBABILITY
        )


def test_several_outputs(iris):
    X, y = iris
    Y = np.column_stack([y > 0, y == 1]).astype(int)
    for wrapper in (MultiOutputClassifier, ClassifierChain):
        actual, desired = (wrapper(make()).fit(X, Y).predict(X) for make in (ours, theirs))
        np.testing.assert_array_equal(actual, desired)


def test_learning_and_validation_curves(iris):
    X, y = iris
    options = {"cv": 3, "scoring": "neg_log_loss"}
    actual, desired = (
        learning_curve(e, X, y, train_sizes=[0.5, 1.0], shuffle=True, random_state=0, **options)
        for e in (ours(), theirs())
    )
    for a, d in zip(actual, desired, strict=True):
        np.testing.assert_allclose(a, d, rtol=PROBABILITY)
    actual, desired = (
        validation_curve(e, X, y, param_name="C", param_range=[0.1, 10.0], **options)
        for e in (ours(), theirs())
    )
    for a, d in zip(actual, desired, strict=True):
        np.testing.assert_allclose(a, d, rtol=PROBABILITY)


def test_permutation_importance(cancer):
    X, y = cancer
    actual, desired = (
        permutation_importance(
            e.fit(X, y), X, y, n_repeats=2, random_state=0, scoring="neg_log_loss"
        ).importances
        for e in (ours(), theirs())
    )
    np.testing.assert_allclose(actual, desired, atol=PROBABILITY)


FOREIGN = """
    import numpy as np
    import sklearn
    from sklearn.datasets import load_iris
    from fastsoftmax import LogisticRegression, LogisticRegressionCV

    class Foreign:
        # An array of another library, which knows the way to NumPy.
        def __init__(self, array):
            self.array, self.dtype = array, array.dtype
            self.shape, self.ndim = array.shape, array.ndim
        def __array__(self, dtype=None, copy=None):
            return np.array(self.array, dtype=dtype)
        def __array_namespace__(self, api_version=None):
            raise AssertionError("asked for its namespace")
        def __len__(self):
            return len(self.array)

    X, y = load_iris(return_X_y=True)
    expected = LogisticRegression().fit(X, y)
    sklearn.set_config(array_api_dispatch=True)
    found = LogisticRegression().fit(Foreign(X), Foreign(y))
    assert type(found.coef_) is type(found.predict_proba(Foreign(X))) is np.ndarray
    assert np.array_equal(found.coef_, expected.coef_)
    assert np.array_equal(found.predict(Foreign(X)), expected.predict(X))
    options = {"l1_ratios": (0.0,), "scoring": "accuracy", "use_legacy_attributes": False}
    search = LogisticRegressionCV(Cs=2, cv=3, **options).fit(Foreign(X), Foreign(y))
    assert type(search.coef_) is np.ndarray
"""


@pytest.mark.skipif(
    parse_version(scipy.__version__) < parse_version("1.14"),
    reason="scikit-learn cannot be told to keep arrays with this SciPy",
)
def test_arrays_of_other_libraries_become_numpys():
    run_python(FOREIGN, SCIPY_ARRAY_API="1")
