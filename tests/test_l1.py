"""L1 and elastic net: optimality by conditions written out here, and scikit-learn's objective."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, log_softmax, softmax
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.svm import l1_min_c

from fastsoftmax import LogisticRegression, c_min


def one_hot(y, n_classes):
    return np.eye(n_classes)[y]


def objective(model, X, y, C, l1_ratio, weight=None):
    """Return the mean objective and the gradient of its smooth part, in plain NumPy."""
    X = np.asarray(X.todense() if sparse.issparse(X) else X, dtype=np.float64)
    w = np.ones(len(y)) if weight is None else weight
    coef, intercept = model.coef_.astype(float), model.intercept_.astype(float)
    labels = np.searchsorted(model.classes_, y)
    z = X @ coef.T + intercept
    if len(coef) == 1:
        signed = np.where(labels == 1, z[:, 0], -z[:, 0])
        loss = w @ np.logaddexp(0.0, -signed)
        residual = w[:, None] * (expit(z) - labels[:, None])
    else:
        loss = -w @ log_softmax(z, axis=1)[np.arange(len(y)), labels]
        residual = w[:, None] * (softmax(z, axis=1) - one_hot(labels, len(model.classes_)))
    strength = 1.0 / (C * w.sum())
    value = loss / w.sum() + strength * (
        l1_ratio * np.abs(coef).sum() + 0.5 * (1.0 - l1_ratio) * (coef**2).sum()
    )
    gradient = residual.T @ X / w.sum() + strength * (1.0 - l1_ratio) * coef
    return value, gradient, residual.sum(axis=0) / w.sum(), strength * l1_ratio


def assert_optimal(model, X, y, C, l1_ratio, slack, weight=None):
    """Karush, Kuhn & Tucker: zeros where the slope is below l1, slope -l1 sign(w) elsewhere."""
    _, gradient, of_intercept, l1 = objective(model, X, y, C, l1_ratio, weight)
    is_zero = model.coef_ == 0.0
    assert np.all(np.abs(gradient[is_zero]) <= l1 + slack)
    rest = gradient + l1 * np.sign(model.coef_)
    assert np.abs(rest[~is_zero]).max(initial=0.0) <= slack
    if model.fit_intercept:
        assert np.abs(of_intercept).max() <= slack


DATA = {
    "iris": load_iris(return_X_y=True),
    "wine": load_wine(return_X_y=True),
    "breast_cancer": load_breast_cancer(return_X_y=True),
    "digits": load_digits(return_X_y=True),
}


@pytest.mark.parametrize("C", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("name", DATA)
def test_conditions_of_optimality(name, C, l1_ratio):
    X, y = DATA[name]
    model = LogisticRegression(C=C, l1_ratio=l1_ratio, tol=1e-6).fit(X, y)
    assert model.converged_
    assert model.gradient_norm_ <= 1e-6
    assert_optimal(model, X, y, C, l1_ratio, 1.1e-6)
    assert model.objective_ == pytest.approx(objective(model, X, y, C, l1_ratio)[0], rel=1e-9)
    if l1_ratio == 1.0:
        assert (model.coef_ == 0).any()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_no_objective_of_scikit_learn_is_lower(n_classes, fit_intercept):
    X, y = DATA["wine"]
    X, y = X[y < n_classes], y[y < n_classes]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    for C, l1_ratio in ((0.1, 1.0), (1.0, 0.5), (10.0, 0.9)):
        options = {"C": C, "l1_ratio": l1_ratio, "fit_intercept": fit_intercept}
        ours = LogisticRegression(tol=1e-8, **options).fit(X, y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs = SklearnLogisticRegression(
                solver="saga", tol=1e-10, max_iter=20_000, **options
            ).fit(X, y)
        value = objective(ours, X, y, C, l1_ratio)[0]
        assert value <= objective(theirs, X, y, C, l1_ratio)[0] + 1e-12
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3)


def test_elastic_net_is_l2_at_0_and_l1_at_1():
    X, y = DATA["iris"]
    almost = [LogisticRegression(l1_ratio=r, tol=1e-10).fit(X, y) for r in (1e-9, 1.0 - 1e-9)]
    for model, share in zip(almost, (0.0, 1.0), strict=True):
        exact = LogisticRegression(l1_ratio=share, tol=1e-10).fit(X, y)
        np.testing.assert_allclose(model.predict_proba(X), exact.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.3])
def test_dense_and_sparse_are_the_same(l1_ratio):
    rng = np.random.default_rng(0)
    X = sparse.csr_array(rng.standard_normal((200, 60)) * (rng.random((200, 60)) < 0.1))
    y = (X @ rng.standard_normal((60, 3)) + 0.3 * rng.gumbel(size=(200, 3))).argmax(axis=1)
    options = {"C": 3.0, "l1_ratio": l1_ratio, "tol": 1e-8}
    dense, csr = (LogisticRegression(**options).fit(Z, y) for Z in (X.toarray(), X))
    np.testing.assert_array_equal(dense.coef_ == 0, csr.coef_ == 0)
    np.testing.assert_allclose(csr.coef_, dense.coef_, atol=1e-6)
    assert_optimal(csr, X, y, 3.0, l1_ratio, 1e-7)


def test_weights_are_repeated_rows():
    X, y = DATA["iris"]
    weight = np.random.default_rng(1).integers(0, 4, len(y)).astype(float)
    weighted = LogisticRegression(l1_ratio=1, tol=1e-9).fit(X, y, weight)
    repeated = LogisticRegression(l1_ratio=1, tol=1e-9).fit(
        np.repeat(X, weight.astype(int), axis=0), np.repeat(y, weight.astype(int))
    )
    np.testing.assert_array_equal(weighted.coef_ == 0, repeated.coef_ == 0)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-6)
    assert_optimal(weighted, X, y, 1.0, 1.0, 1e-8, weight)


def hard(name):
    rng = np.random.default_rng(2)
    X, y = make_blobs(150, 6, centers=3, cluster_std=4.0, random_state=0)
    if name == "collinear":
        X = np.hstack([X, X[:, :2], X @ rng.standard_normal((6, 2)), np.ones((150, 2))])
    elif name == "one-hot groups":
        groups = [one_hot(rng.integers(0, k, 150), k) for k in (3, 5, 9)]
        X = np.hstack(groups)
        y = (X @ rng.standard_normal((17, 4)) + rng.gumbel(size=(150, 4))).argmax(axis=1)
    elif name == "scales":
        X = X * np.geomspace(1e-6, 1e6, 6)
    elif name == "offset":
        X = X + 1e4
    elif name == "wide":
        X = np.hstack([X, rng.standard_normal((150, 900))])
    elif name == "one sample":
        y[y == 2] = 0
        y[7] = 2
    elif name == "separable":
        X[:, 0] = 10.0 * y
    elif name == "many classes":
        X = rng.standard_normal((600, 40))
        y = np.arange(600) % 20
    return X, y


@pytest.mark.parametrize("C", [0.1, 1000.0])
@pytest.mark.parametrize(
    "name",
    [
        *("collinear", "one-hot groups", "scales", "offset", "wide", "one sample", "separable"),
        "many classes",
    ],
)
def test_hard_data(name, C):
    X, y = hard(name)
    # An offset of 1e4 costs four digits of the logits: with 1e-5 it warns on some machines.
    tol = 1e-4 if name == "offset" else 1e-5
    model = LogisticRegression(C=C, l1_ratio=1.0, tol=tol).fit(X, y)
    assert model.converged_
    scale = np.abs(X).max()
    assert_optimal(model, X, y, C, 1.0, 1e-5 * max(1.0, 1e-10 * scale))


def test_no_class_is_the_baseline():
    """A column's coefficients are shifted to the least L1 norm: 0 lies in the middle."""
    X, y = DATA["digits"]
    coef = LogisticRegression(l1_ratio=1, C=10.0, tol=1e-6).fit(X, y).coef_
    assert np.all(np.minimum((coef > 0).sum(axis=0), (coef < 0).sum(axis=0)) <= 5)
    assert np.all(np.median(coef, axis=0) <= np.abs(coef).max(axis=0))
    lower, upper = np.sort(coef, axis=0)[4:6]
    assert np.all((lower <= 0.0) & (upper >= 0.0))


def test_float32_is_kept():
    X, y = DATA["wine"]
    single = LogisticRegression(l1_ratio=1).fit(X.astype(np.float32), y)
    double = LogisticRegression(l1_ratio=1).fit(X, y)
    assert single.coef_.dtype == single.predict_proba(X.astype(np.float32)).dtype == np.float32
    assert single.converged_
    assert single.objective_ == pytest.approx(double.objective_, rel=1e-4)


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_same_bits_for_any_number_of_threads(name):
    X, y = DATA[name]
    X = np.tile(X, (8, 1)) + np.random.default_rng(3).standard_normal((8 * len(X), X.shape[1]))
    y = np.tile(y, 8)
    one, two = (LogisticRegression(l1_ratio=1, C=0.1, n_jobs=n).fit(X, y) for n in (1, 2))
    np.testing.assert_array_equal(one.coef_, two.coef_)


def test_warm_start_and_limit():
    X, y = DATA["digits"]
    model = LogisticRegression(l1_ratio=1, C=0.1, max_iter=2)
    with pytest.warns(ConvergenceWarning, match=r"limit of iterations.*max \|gradient\|"):
        model.fit(X, y)
    assert model.n_iter_ == 2
    model.set_params(max_iter=1000).fit(X, y)
    cold = model.n_iter_[0]
    model.set_params(warm_start=True).fit(X, y)
    assert model.n_iter_[0] < cold
    assert "proximal" in model.solver_


def test_l1_needs_no_bounds_on_separable_data_but_no_penalty_does():
    X, y = hard("separable")
    model = LogisticRegression(C=np.inf, l1_ratio=1.0).fit(X, y)
    assert "separable" in model.status_


@pytest.mark.parametrize("options", [{}, {"l1_ratio": 0.5}, {"fit_intercept": False}])
@pytest.mark.parametrize("name", DATA)
def test_c_min(name, options):
    X, y = DATA[name]
    C = c_min(X, y, **options)
    options = {"l1_ratio": 1.0, "tol": 1e-9} | options
    assert not LogisticRegression(C=0.999 * C, **options).fit(X, y).coef_.any()
    assert LogisticRegression(C=1.001 * C, **options).fit(X, y).coef_.any()


def test_c_min_is_scikit_learns_for_two_classes():
    X, y = DATA["breast_cancer"]
    expected = l1_min_c(X, y, loss="log", fit_intercept=False)
    assert c_min(X, y, fit_intercept=False) == pytest.approx(expected, rel=1e-12)


def test_c_min_with_weights_offsets_and_free_features():
    X, y = DATA["iris"]
    rng = np.random.default_rng(4)
    data = {"sample_weight": rng.random(len(y)), "offset": rng.standard_normal((len(y), 3))}
    factors = np.array([1.0, 0.0, 2.0, 0.5])
    options = {"penalty_weights": factors, "class_weight": "balanced"}
    C = c_min(X, y, **options, **data)
    for factor, n_features in ((0.99, 1), (1.01, 2)):
        model = LogisticRegression(C=factor * C, l1_ratio=1, tol=1e-8, **options)
        model.fit(X, y, **data)
        assert model.coef_.any(axis=0).sum() == n_features
        assert model.coef_[:, 1].any()
    assert c_min(X, y, penalty_weights=np.zeros(4)) == np.inf


@pytest.mark.parametrize("l1_ratio", [0.0, 1.5])
def test_c_min_refuses_other_penalties(l1_ratio):
    with pytest.raises(ValueError, match="l1_ratio must be in"):
        c_min(*DATA["iris"], l1_ratio=l1_ratio)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_constant_column_without_a_penalty(n_classes, fit_intercept):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((200, 4))
    y = (X[:, 1] + rng.standard_normal(200) > 0).astype(int) + (n_classes > 2) * (X[:, 2] > 0.5)
    X[:, 0] = 3.0
    options = {"fit_intercept": fit_intercept, "tol": 1e-6}
    free = LogisticRegression(l1_ratio=1, penalty_weights=[0, 1, 1, 1], **options).fit(X, y)
    assert free.converged_
    without = LogisticRegression(l1_ratio=1, tol=1e-6).fit(X[:, 1:], y)
    np.testing.assert_allclose(free.predict_proba(X), without.predict_proba(X[:, 1:]), atol=1e-4)
    positive = LogisticRegression(C=np.inf, positive=True, **options).fit(X, y)
    assert positive.converged_
    assert np.abs(positive.coef_).max() < 20.0


@pytest.mark.parametrize(
    "params",
    [
        {"l1_ratio": 1, "penalty_weights": [0, 1, 1, 1, 1, 1]},
        {"C": np.inf, "positive": True},
        {"C": np.inf, "bounds": (-np.inf, 9.0)},
    ],
)
def test_float32_does_not_drift_along_shifts_common_to_all_classes(params):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 6))
    y = (X[:, 0] + rng.logistic(size=300) > 0).astype(int) + (X[:, 1] > 0.5)
    single, double = (LogisticRegression(**params).fit(Z, y) for Z in (X.astype("f"), X))
    assert single.converged_
    np.testing.assert_allclose(
        single.predict_proba(X.astype("f")), double.predict_proba(X), atol=2e-3
    )
    assert np.abs(single.coef_).max() < 2.0 * np.abs(double.coef_).max() + 1.0
