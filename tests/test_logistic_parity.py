"""`LogisticRegression` against scikit-learn's class, and against Newton's method in NumPy."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
import reference
from scipy import sparse, special
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from threadpoolctl import threadpool_limits

from fastsoftmax import LogisticRegression

RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")

#: ||difference|| / ||coef|| that the project promises at tight tol.
PROMISE = 1e-6
#: The same in float32: the gradient is good to about n_features * eps of its largest term, and
#: the best conditioned data below amplify that some ten times.
PROMISE_FLOAT32 = 1e-4
#: Relative, of the objective: a coefficient's error enters it squared.
OBJECTIVE = 1e-12

#: Here scikit-learn's solver (tol=1e-10) stops 3e-6 away from the optimum.
STOPS_EARLY = {("digits", "weights", 1e3)}


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread():
    """On a busy machine the references, full of small products, are 10 times slower with two."""
    with threadpool_limits(1, user_api="blas"):
        yield


@cache
def load(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X.flags.writeable = False
    return X, y


@cache
def blobs(n_classes, n_samples=203, n_features=5, seed=0):
    """Classes that overlap, so that the optimum without penalty is finite."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n_samples)
    X = rng.normal(size=(n_samples, n_features)) + 0.7 * rng.normal(size=(n_classes, n_features))[y]
    X.flags.writeable = False
    return X, y


def sample_weights(n_samples):
    return np.random.default_rng(0).uniform(0.0, 3.0, n_samples)


def tight(**params):
    return LogisticRegression(**({"tol": 1e-12, "max_iter": 10_000} | params))


def peer(**params):
    return SklearnLogisticRegression(
        **({"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 10_000} | params)
    )


def pack(model):
    """Return coefficients and intercepts side by side."""
    return np.column_stack([model.coef_, model.intercept_]).astype(float)


def relative_distance(actual, desired):
    return np.linalg.norm(actual - desired) / np.linalg.norm(desired)


def problem(X, labels, weights, C, fit_intercept):
    """Return the arguments of the oracle: columns, labels, weights, penalty per column."""
    A = np.column_stack([X, np.ones(len(X))]) if fit_intercept else np.asarray(X, float)
    l2 = np.zeros(A.shape[1])
    l2[: X.shape[1]] = 1.0 / C
    return A, labels, np.ones(len(X)) if weights is None else weights, l2


CASES = [
    (name, kind, C)
    for name in ("iris", "wine", "breast_cancer", "digits")
    for kind in ("plain", "weights", "no intercept", "binary")
    for C in (1e-3, 1e-1, 1.0, 10.0, 1e3)
    if (name, kind) != ("breast_cancer", "binary")  # it is binary anyway
]


@pytest.mark.parametrize(("name", "kind", "C"), CASES)
def test_objective_and_coefficients_are_scikit_learns(name, kind, C):
    X, y = load(name)
    y = y % 2 if kind == "binary" else y
    weights = sample_weights(len(y)) if kind == "weights" else None
    options = {"C": C, "fit_intercept": kind != "no intercept"}
    ours = tight(**options).fit(X, y, weights)
    theirs = peer(**options).fit(X, y, weights)

    n_columns = X.shape[1] + options["fit_intercept"]
    arguments = problem(X, y, weights, C, options["fit_intercept"])
    optimum = reference.logistic_newton(pack(theirs)[:, :n_columns], *arguments)
    least = reference.logistic_objective(optimum, *arguments)
    found = reference.logistic_objective(pack(ours)[:, :n_columns], *arguments)
    assert found == pytest.approx(least, rel=OBJECTIVE)
    assert relative_distance(ours.coef_, optimum[:, : X.shape[1]]) < PROMISE
    assert relative_distance(pack(ours)[:, :n_columns], optimum) < PROMISE
    if (name, kind, C) not in STOPS_EARLY:
        assert relative_distance(ours.coef_, theirs.coef_) < PROMISE
        assert relative_distance(pack(ours), pack(theirs)) < PROMISE
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.intercept_.shape == theirs.intercept_.shape


@pytest.mark.filterwarnings("ignore:Setting penalty=None:UserWarning")  # scikit-learn 1.8
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_without_penalty(n_classes, fit_intercept):
    X, y = blobs(n_classes)
    ours = tight(C=np.inf, fit_intercept=fit_intercept).fit(X, y)
    arguments = problem(X, y, None, np.inf, fit_intercept)
    start = np.zeros((1 if n_classes == 2 else n_classes, X.shape[1] + fit_intercept))
    optimum = reference.logistic_newton(start, *arguments)
    theirs = peer(C=np.inf, fit_intercept=fit_intercept).fit(X, y)
    assert relative_distance(pack(ours)[:, : optimum.shape[1]], optimum) < PROMISE
    assert relative_distance(pack(ours), pack(theirs)) < PROMISE


@pytest.mark.parametrize("C", [1e-2, 1.0, 1e3])
def test_default_tolerance_is_enough_for_predictions(C):
    X, y = load("digits")
    probabilities = LogisticRegression(C=C).fit(X, y).predict_proba(X)
    exact = tight(C=C).fit(X, y).predict_proba(X)
    # `tol` bounds the excess of the mean objective by 1e-6 of it; a probability's error is at
    # most of the order of the root of that, 1e-3 times the root of the objective.
    np.testing.assert_allclose(probabilities, exact, atol=5e-3)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_float32(n_classes):
    X, y = blobs(n_classes)
    ours = tight().fit(X.astype(np.float32), y)
    assert ours.coef_.dtype == ours.intercept_.dtype == np.float32
    assert relative_distance(pack(ours), pack(peer().fit(X, y))) < PROMISE_FLOAT32


@pytest.mark.parametrize("class_weight", [{0: 3.0, 1: 0.5, 2: 1.0}, {1: 4.0}, {}, "balanced"])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weight(class_weight, weighted):
    X, y = blobs(3)
    weights = sample_weights(len(y)) if weighted else None
    ours = tight(class_weight=class_weight).fit(X, y, weights)
    theirs = peer(class_weight=class_weight).fit(X, y, weights)
    assert relative_distance(pack(ours), pack(theirs)) < PROMISE


def test_balanced_beside_a_class_without_weight():
    X, y = blobs(3)
    weights = np.where(y == 0, 0.0, 1.0)
    balanced = tight(class_weight="balanced").fit(X, y, weights)
    counts = np.bincount(y)
    total = counts[1] + counts[2]
    class_weight = {0: 0.0, 1: total / (3 * counts[1]), 2: total / (3 * counts[2])}
    explicit = tight(class_weight=class_weight).fit(X, y)
    np.testing.assert_array_equal(balanced.classes_, [0, 1, 2])
    assert np.all(balanced.predict(X) != 0)
    np.testing.assert_allclose(balanced.coef_, explicit.coef_, atol=1e-7)


def test_labels_are_only_names():
    X, y = blobs(3)
    plain = tight().fit(X, y)
    names = np.array(["pear", "apple", "fig"])  # sorted: apple 1, fig 2, pear 0
    named = tight().fit(X, names[y])
    np.testing.assert_array_equal(named.classes_, ["apple", "fig", "pear"])
    np.testing.assert_allclose(named.coef_, plain.coef_[[1, 2, 0]], atol=1e-9)
    np.testing.assert_array_equal(named.predict(X), names[plain.predict(X)])
    booleans = tight().fit(X, y == 1)
    np.testing.assert_array_equal(booleans.classes_, [False, True])
    assert booleans.predict(X).dtype == bool
    assert booleans.score(X, y == 1) == np.mean(booleans.predict(X) == (y == 1))


def test_swapping_two_classes_negates_the_logit():
    X, y = blobs(2)
    one, other = tight().fit(X, y), tight().fit(X, 1 - y)
    np.testing.assert_allclose(one.coef_, -other.coef_, atol=1e-9)
    np.testing.assert_allclose(one.intercept_, -other.intercept_, atol=1e-9)


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("dtypes", [("f8", "f8"), ("f4", "f4"), ("f4", "f8"), ("f8", "f4")])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_responses_at_the_same_coefficients(n_classes, dtypes, storage):
    X, y = blobs(n_classes)
    ours = LogisticRegression().fit(X.astype(dtypes[0]), y)
    theirs = SklearnLogisticRegression().fit(X.astype(dtypes[0]), y)
    theirs.coef_, theirs.intercept_ = ours.coef_, ours.intercept_
    X = storage(X.astype(dtypes[1]))
    for response in RESPONSES:
        actual, desired = getattr(ours, response)(X), getattr(theirs, response)(X)
        assert actual.shape == desired.shape, response
        assert actual.dtype == desired.dtype, response
        # Logits are sums of six terms of order 1; what follows adds a few roundings.
        tolerance = 32 * np.finfo(actual.dtype).eps if response != "predict" else 0.0
        if response == "predict_log_proba":  # scikit-learn's is the logarithm of 1 - p
            tolerance /= ours.predict_proba(X).min()
        np.testing.assert_allclose(
            actual, desired, rtol=tolerance, atol=tolerance, err_msg=response
        )


@pytest.mark.parametrize("n_classes", [2, 4])
def test_responses_agree_with_each_other(n_classes):
    X, y = blobs(n_classes)
    model = LogisticRegression().fit(X, y)
    probabilities = model.predict_proba(X)
    logits = model.decision_function(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=8 * np.finfo(float).eps)
    wide = logits if logits.ndim == 2 else np.column_stack([np.zeros_like(logits), logits])
    np.testing.assert_allclose(
        model.predict_log_proba(X), special.log_softmax(wide, axis=1), atol=1e-14, rtol=1e-14
    )
    np.testing.assert_array_equal(model.predict(X), probabilities.argmax(axis=1))
    expected = X @ model.coef_.T + model.intercept_
    np.testing.assert_allclose(logits, expected.squeeze(), atol=1e-13)


def _int64_indices(X):
    X = sparse.csr_array(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def _unsorted_with_duplicates(X):
    """Every entry as two halves, columns backwards."""
    n, d = X.shape
    columns = np.tile(np.repeat(np.arange(d)[::-1], 2), n)
    values = np.repeat(X[:, ::-1], 2, axis=1).ravel() / 2
    return sparse.csr_array((values, columns, np.arange(n + 1) * 2 * d), shape=X.shape)


STORAGES = {
    "csr": sparse.csr_array,
    "csr matrix": sparse.csr_matrix,
    "csc": sparse.csc_array,
    "coo": sparse.coo_array,
    "bsr": sparse.bsr_array,
    "lil": sparse.lil_array,
    "dok": sparse.dok_array,
    "int64": _int64_indices,
    "unsorted, duplicates": _unsorted_with_duplicates,
}


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES.keys())
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sparse_is_dense(storage, dtype):
    X, y = load("digits")
    X, y = (X[:300, 2:30] * (X[:300, 2:30] > 5)).astype(dtype), y[:300] % 3
    weights = sample_weights(len(y))
    dense = tight(C=0.1).fit(X, y, weights)
    X_sparse = storage(X)
    model = tight(C=0.1).fit(X_sparse, y, weights)
    assert model.coef_.dtype == dtype
    assert relative_distance(pack(model), pack(dense)) < (
        PROMISE if dtype == np.float64 else PROMISE_FLOAT32
    )
    for response in RESPONSES:
        at_sparse, at_dense = getattr(model, response)(X_sparse), getattr(model, response)(X)
        eps = np.finfo(dtype).eps
        # logits are sums of 28 terms, up to 16 times a coefficient of order 0.3
        np.testing.assert_allclose(at_sparse, at_dense, rtol=100 * eps, atol=100 * eps)


@pytest.mark.parametrize("C", [1e-2, 1.0, 1e3, np.inf])
def test_rows_have_mean_zero(C):
    X, y = blobs(4)
    model = LogisticRegression(C=C).fit(X, y)
    eps = np.finfo(float).eps
    np.testing.assert_allclose(model.coef_.mean(axis=0), 0, atol=4 * eps * abs(model.coef_).max())
    assert abs(model.intercept_.mean()) <= 4 * eps * abs(model.intercept_).max()


def test_no_intercept_is_zeros():
    X, y = blobs(4)
    np.testing.assert_array_equal(
        LogisticRegression(fit_intercept=False).fit(X, y).intercept_, np.zeros(4)
    )


def test_n_iter_counts_iterations():
    X, y = blobs(3)
    n_iter = tight().fit(X, y).n_iter_
    assert n_iter.shape == (1,)
    assert n_iter.dtype == np.int32
    assert n_iter[0] > 2
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        assert tight(max_iter=2).fit(X, y).n_iter_[0] == 2
    tight(max_iter=int(n_iter[0])).fit(X, y)  # enough: no warning


@pytest.mark.parametrize("C", [1e6, np.inf])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_data_give_finite_results(n_classes, C):
    X, y = load("iris")
    X, y = X[y < n_classes], y[y < n_classes]
    if n_classes == 3:  # take the overlap of the last two away
        X = X + 100.0 * np.eye(3, X.shape[1])[y]
    model = LogisticRegression(C=C)
    with warnings.catch_warnings():  # without penalty there is no optimum to converge to
        warnings.simplefilter("ignore" if np.isinf(C) else "error", ConvergenceWarning)
        model.fit(X, y)
    assert np.all(np.isfinite(model.coef_))
    assert model.score(X, y) == 1.0
    assert np.all(np.isfinite(model.predict_log_proba(X)))


def test_weights_are_repetitions():
    X, y = blobs(3)
    counts = np.random.default_rng(1).integers(0, 4, len(y))
    weighted = tight().fit(X, y, counts)
    repeated = tight().fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    assert relative_distance(pack(weighted), pack(repeated)) < 1e-9


@pytest.mark.parametrize("factor", [1e-300, 1e-8, 1e8, 1e300])
def test_scale_of_weights_is_the_inverse_scale_of_C(factor):
    X, y = blobs(3)
    weights = sample_weights(len(y))
    scaled = tight(C=1.0 / factor).fit(X, y, factor * weights)
    assert relative_distance(pack(scaled), pack(tight().fit(X, y, weights))) < 1e-9
