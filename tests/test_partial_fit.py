"""Learning from a stream: against the fit of all rows, and against formulas."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from reference import logistic_objective, logistic_optimum
from scipy import optimize, sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import learning_curve
from sklearn.multiclass import OneVsRestClassifier

from fastsoftmax import LogisticRegression, LogisticRegressionCV
from fastsoftmax.linear_model import _online


def shuffled(load):
    X, y = load(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))
    return X[rows], y[rows]


def learnt(X, y, batch, classes=None, weights=None, model=None, **parameters):
    """Return a model that has seen all rows once."""
    model = LogisticRegression(**parameters) if model is None else model
    classes = np.unique(y) if classes is None else classes
    for first in range(0, len(y), batch):
        rows = slice(first, first + batch)
        some = None if weights is None else weights[rows]
        model.partial_fit(X[rows], y[rows], classes=classes, sample_weight=some)
    return model


def params_of(model):
    return np.column_stack([model.coef_, model.intercept_])


@pytest.fixture
def small():
    """Three classes of 60 samples, 3 features."""
    rng = np.random.default_rng(1)
    y = np.arange(60) % 3
    return rng.normal(size=(60, 3)) + np.eye(3)[y], y


@pytest.fixture
def diagonal(monkeypatch):
    """Keep diagonals however few the features are."""
    monkeypatch.setattr(_online, "_GRAM_ENTRIES", 0)


# What it computes


@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_one_batch_of_all_rows_is_a_fit(load, C):
    X, y = shuffled(load)
    model = LogisticRegression(C=C, tol=1e-9).partial_fit(X, y)
    optimum, objective = logistic_optimum(X, y, len(np.unique(y)), C)
    least = objective.value(optimum)
    assert objective.value(params_of(model)) == pytest.approx(least, rel=1e-9)
    np.testing.assert_array_equal(params_of(model), params_of(clone(model).fit(X, y)))


def least_of_two(X, y, batch, C, weights):
    """Return what two batches of two classes come to, by the formula, with SciPy.

    The first one's optimum, then ``argmin loss_2(w) + (w - v)ᵀ (H_1 + I / C) (w - v) / 2``, where
    H_1 is the first one's Hessian there.
    """
    A = np.column_stack([X, np.ones(len(X))])
    l2 = np.append(np.full(X.shape[1], 1.0 / C), 0.0)
    v = logistic_optimum(X[:batch], y[:batch], 2, C, weights[:batch])[0].ravel()
    first, w = A[:batch], weights[:batch]
    p = 1.0 / (1.0 + np.exp(-first @ v))
    h = w * p * (1.0 - p)
    precision = (first * h[:, None]).T @ first + np.diag(l2)

    def value(params):
        loss = logistic_objective(
            params[None], A[batch:], y[batch:], weights[batch:], np.zeros_like(l2)
        )
        return loss + 0.5 * (params - v) @ precision @ (params - v)

    found = optimize.minimize(value, v, tol=1e-12)
    return found.x


def test_a_second_batch_is_the_formulas():
    X, y = shuffled(load_breast_cancer)
    X = (X - X.mean(axis=0))[:, :3] / X.std(axis=0)[:3]
    weights = np.random.default_rng(2).uniform(0.5, 2.0, len(y))
    model = learnt(X, y, 300, weights=weights, C=0.3, tol=1e-10)
    expected = least_of_two(X, y, 300, 0.3, weights)
    # What is left is 1e-4 nats, and the precision began as that of one row.
    np.testing.assert_allclose(params_of(model).ravel(), expected, atol=5e-3)


def test_where_the_loss_is_quadratic_batches_are_the_fit():
    """Coefficients so small that probabilities hardly change: curvature is the same everywhere."""
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(4000, 5)), rng.integers(2, size=4000)
    fit = LogisticRegression(tol=1e-8).fit(X, y)
    stream = learnt(X, y, 400, tol=1e-8)
    np.testing.assert_allclose(params_of(stream), params_of(fit), atol=2e-3)


def test_the_penalty_counts_once():
    """The precision is 1 / C, and what rows add, whatever the number of batches."""
    X, y = shuffled(load_iris)
    model = learnt(X, y, 25, C=1e-6)
    # The penalty is all there is: coefficients are C times the gradient at zero, summed.
    centred = np.eye(3)[y] - np.eye(3)[y].mean(axis=0)
    expected = 1e-6 * centred.T @ X
    np.testing.assert_allclose(model.coef_, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("load", "batch", "C", "most"),
    [
        (load_digits, 1000, 1.0, 1.05),
        (load_digits, 100, 1.0, 1.0),
        (load_digits, 10, 1.0, 1.1),
        (load_digits, 10, 100.0, 1.2),
        (load_digits, 100, 0.01, 1.3),
        (load_breast_cancer, 50, 1.0, 1.7),
        (load_iris, 50, 1.0, 1.1),
    ],
)
def test_one_pass_is_nearly_a_fit(load, batch, C, most):
    X, y = shuffled(load)
    n = 4 * len(y) // 5
    fit = LogisticRegression(C=C).fit(X[:n], y[:n])
    stream = learnt(X[:n], y[:n], batch, C=C)
    losses = [log_loss(y[n:], model.predict_proba(X[n:])) for model in (stream, fit)]
    assert losses[0] <= most * losses[1]


def test_diagonals_learn_too(diagonal):
    X, y = shuffled(load_digits)
    fit = LogisticRegression().fit(X[:1400], y[:1400])
    stream = learnt(X[:1400], y[:1400], 100)
    losses = [log_loss(y[1400:], model.predict_proba(X[1400:])) for model in (stream, fit)]
    assert stream.solver_ == "online Newton (diagonal)"
    assert losses[0] <= 1.5 * losses[1]


# Batches


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_a_weight_of_2_is_the_row_twice(small, batch):
    X, y = small
    weights = 1.0 + (np.arange(60) % 4 == 0)
    weighted = learnt(X, y, batch, weights=weights)
    model = LogisticRegression()
    for first in range(0, 60, batch):
        rows = np.arange(first, min(first + batch, 60))
        rows = np.repeat(rows, weights[rows].astype(int))
        model.partial_fit(X[rows], y[rows], classes=range(3))
    # Where each starts from may differ, and with it what is left of the way.
    np.testing.assert_allclose(params_of(weighted), params_of(model), atol=2e-2)


def test_a_row_of_weight_0_is_no_row(small):
    X, y = small
    weights = np.where(np.arange(60) % 5 == 0, 0.0, 1.0)
    X[weights == 0] = 1e6
    keep = weights > 0
    model = LogisticRegression()
    for rows in (slice(0, 30), slice(30, 60)):
        some = keep[rows]
        model.partial_fit(X[rows][some], y[rows][some], classes=range(3))
    np.testing.assert_allclose(
        params_of(learnt(X, y, 30, weights=weights)), params_of(model), atol=1e-6
    )


@pytest.mark.parametrize("is_diagonal", [False, True])
def test_the_same_stream_gives_the_same_bits(is_diagonal, small, monkeypatch):
    if is_diagonal:
        monkeypatch.setattr(_online, "_GRAM_ENTRIES", 0)
    X, y = small
    first, second = (learnt(X, y, 7, n_jobs=n_jobs) for n_jobs in (1, 2))
    np.testing.assert_array_equal(params_of(first), params_of(second))
    other = learnt(X[::-1], y[::-1], 7)
    assert not np.array_equal(params_of(first), params_of(other))


def test_rows_are_learnt_in_pieces_where_diagonals_are_kept(small, diagonal, monkeypatch):
    X, y = small
    # Rows are taken around a centre, which the first batch chooses.
    monkeypatch.setattr("fastsoftmax._designs.DenseDesign.typical_row", lambda _: np.zeros(3))
    in_batches = learnt(X, y, 20)
    monkeypatch.setattr(_online, "_PIECE", 20)
    np.testing.assert_array_equal(params_of(learnt(X, y, 60)), params_of(in_batches))


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("order", ["sorted", "mixed"])
@pytest.mark.parametrize("is_diagonal", [False, True])
def test_single_rows_of_separable_and_unscaled_data(scale, order, is_diagonal, monkeypatch):
    """Whatever comes first, all stays finite, and classes far apart are told apart."""
    if is_diagonal:
        monkeypatch.setattr(_online, "_GRAM_ENTRIES", 0)
    rng = np.random.default_rng(4)
    y = np.arange(60) % 3
    y = np.sort(y) if order == "sorted" else y
    X = scale * (rng.normal(size=(60, 3)) + 10.0 * np.eye(3)[y]) + 5.0 * scale
    model = learnt(X, y, 1)
    assert np.all(np.isfinite(params_of(model)))
    assert model.score(X, y) > 0.75


def test_a_class_that_comes_late(small):
    X, y = small
    order = np.argsort(y == 2, kind="stable")
    X, y = X[order], y[order]
    model = learnt(X[:40], y[:40], 10, classes=[0, 1, 2])
    assert model.predict_proba(X)[:, 2].max() < 0.1
    model = learnt(X[40:], y[40:], 10, classes=[0, 1, 2], model=model)
    assert model.predict_proba(X[40:])[:, 2].mean() > 0.3


# Data


@pytest.mark.parametrize("is_diagonal", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_sparse_is_dense(small, is_diagonal, n_classes, fit_intercept, monkeypatch):
    if is_diagonal:
        monkeypatch.setattr(_online, "_GRAM_ENTRIES", 0)
    X, y = small
    X, y = np.where(np.abs(X) > 0.7, X, 0.0), y % n_classes
    parameters = {"tol": 1e-8, "fit_intercept": fit_intercept}
    # Dense rows are taken around a centre, which diagonals notice.
    monkeypatch.setattr("fastsoftmax._designs.DenseDesign.typical_row", lambda _: np.zeros(3))
    dense = learnt(X, y, 20, **parameters)
    compressed = learnt(sparse.csr_array(X), y, 20, **parameters)
    np.testing.assert_allclose(params_of(compressed), params_of(dense), atol=1e-5)
    assert np.any(dense.intercept_) == fit_intercept


def test_columns_that_a_sparse_batch_lacks_stay(small, diagonal):
    X, y = small
    X[:, 2] = 0.0
    X[:20, 2] = 1.0
    model = learnt(sparse.csr_array(X[:20]), y[:20], 20, classes=range(3))
    before = model.coef_.copy()
    model.partial_fit(sparse.csr_array(X[20:]), y[20:])
    np.testing.assert_array_equal(model.coef_[:, 2], before[:, 2])
    assert np.all(model.coef_[:, :2] != before[:, :2])


def test_float32_is_kept_until_a_float64_comes(small):
    X, y = small
    model = learnt(X.astype(np.float32), y, 20)
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    np.testing.assert_allclose(params_of(model), params_of(learnt(X, y, 20)), rtol=1e-3, atol=1e-3)
    assert model.partial_fit(X, y).coef_.dtype == np.float64


@pytest.mark.parametrize("labels", [["a", "bb", "ccc"], [-1, 3, 7], [0.0, 1.0, 2.0]])
def test_labels_of_any_kind(small, labels):
    X, y = small
    labels = np.array(labels)
    model = learnt(X, labels[y], 20, classes=labels)
    np.testing.assert_array_equal(model.classes_, labels)
    np.testing.assert_array_equal(params_of(model), params_of(learnt(X, y, 20)))
    assert set(model.predict(X)) <= set(labels.tolist())


def test_class_weights(small):
    X, y = small
    weights = {0: 1.0, 1: 2.0, 2: 0.5}
    by_class = learnt(X, y, 20, class_weight=weights)
    by_row = learnt(X, y, 20, weights=np.array([1.0, 2.0, 0.5])[y])
    np.testing.assert_array_equal(params_of(by_class), params_of(by_row))


def test_balanced_by_what_was_seen():
    X, y = shuffled(load_iris)
    some = np.r_[np.flatnonzero(y == 0)[:10], np.flatnonzero(y != 0)]
    X, y = X[some], y[some]
    model = LogisticRegression(class_weight="balanced").partial_fit(X, y)
    np.testing.assert_allclose(params_of(model), params_of(clone(model).fit(X, y)), rtol=1e-10)
    shares = np.array([10.0, 50.0, 50.0])
    counted = LogisticRegression().partial_fit(X, y, sample_weight=(110 / (3 * shares))[y])
    # The next batch has none of class 0, and 20 more of class 1.
    model.partial_fit(X[y == 1][:20], y[y == 1][:20])
    weight = 130 / (3 * 70.0)
    counted.partial_fit(X[y == 1][:20], y[y == 1][:20], sample_weight=np.full(20, weight))
    np.testing.assert_allclose(params_of(model), params_of(counted), atol=1e-8)


def test_label_smoothing_and_penalty_weights(small):
    X, y = small
    parameters = {"label_smoothing": 0.2, "penalty_weights": [1.0, 10.0, 100.0]}
    model = LogisticRegression(**parameters).partial_fit(X, y)
    np.testing.assert_array_equal(params_of(model), params_of(clone(model).fit(X, y)))
    model.partial_fit(X, y)
    assert np.all(np.isfinite(model.coef_))


# The estimator


def test_attributes(small):
    X, y = small
    model = LogisticRegression().partial_fit(X[:20], y[:20])
    assert model.n_samples_seen_ == 20
    model.partial_fit(X[20:], y[20:])
    assert model.n_samples_seen_ == 60
    assert model.n_features_in_ == 3
    assert model.converged_
    assert model.n_iter_.shape == (1,)
    assert "60 rows of a stream" in model.status_
    assert not hasattr(model, "objective_")
    np.testing.assert_allclose(model.coef_.sum(axis=0), 0.0, atol=1e-12)


def test_a_fit_forgets_the_stream(small):
    X, y = small
    model = learnt(X, y, 20).fit(X, y)
    assert not hasattr(model, "n_samples_seen_")
    np.testing.assert_array_equal(params_of(model), params_of(LogisticRegression().fit(X, y)))
    assert clone(model).partial_fit(X, y).n_samples_seen_ == 60


@pytest.mark.parametrize("is_diagonal", [False, True])
def test_after_a_fit_a_batch_stands_for_its_rows(is_diagonal, monkeypatch):
    if is_diagonal:
        monkeypatch.setattr(_online, "_GRAM_ENTRIES", 0)
    X, y = shuffled(load_digits)
    model = LogisticRegression().fit(X[:1000], y[:1000])
    before = log_loss(y[1400:], model.predict_proba(X[1400:]))
    model.partial_fit(X[1000:1400], y[1000:1400])
    assert model.n_samples_seen_ == 400
    assert not hasattr(model, "gradient_norm_")
    assert log_loss(y[1400:], model.predict_proba(X[1400:])) < 1.05 * before
    with pytest.raises(ValueError, match="not the same"):
        clone(model).fit(X, y).partial_fit(X, y, classes=range(9))


@pytest.mark.parametrize("is_diagonal", [False, True])
def test_pickle_keeps_the_stream_and_clone_drops_it(small, is_diagonal, monkeypatch):
    if is_diagonal:
        monkeypatch.setattr(_online, "_GRAM_ENTRIES", 0)
    X, y = small
    model = learnt(X[:40], y[:40], 20)
    again = pickle.loads(pickle.dumps(model))
    for each in (model, again):
        each.partial_fit(X[40:], y[40:])
    np.testing.assert_array_equal(params_of(model), params_of(again))
    assert not hasattr(clone(model), "_stream")
    assert all(isinstance(value, np.ndarray) for value in model._stream.values())
    np.testing.assert_allclose(
        model.to_sklearn().predict_proba(X), model.predict_proba(X), rtol=1e-10
    )


def test_frames_have_names(small):
    X, y = small
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = LogisticRegression().partial_fit(frame, y)
    np.testing.assert_array_equal(model.feature_names_in_, ["a", "b", "c"])
    with pytest.raises(ValueError, match="feature names should match"):
        model.partial_fit(frame.rename(columns={"a": "z"}), y)


def test_a_failed_call_changes_nothing(small, monkeypatch):
    X, y = small
    model = learnt(X, y, 20)
    before = pickle.dumps(model)
    monkeypatch.setattr(_online._Memory, "metric", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.partial_fit(X, y)
    assert pickle.dumps(model) == before
    new = LogisticRegression()
    with pytest.raises(ValueError, match="NaN"):
        new.partial_fit(np.full((2, 2), np.nan), [0, 1])
    assert vars(new) == vars(LogisticRegression())


def test_arrays_that_were_handed_out_stay(small):
    X, y = small
    model = learnt(X, y, 20)
    coef, before = model.coef_, model.coef_.copy()
    model.partial_fit(X, y)
    np.testing.assert_array_equal(coef, before)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"l1_ratio": 1.0}, "L1 penalty nor bounds"),
        ({"positive": True}, "L1 penalty nor bounds"),
        ({"bounds": (-1.0, 1.0)}, "L1 penalty nor bounds"),
        ({"C": np.inf}, "needs a penalty"),
        ({"C": 1e-310}, "overflows"),
        ({"penalty_weights": [1.0, 0.0, 1.0]}, "above 0"),
        ({"solver": "liblinear"}, "does not support multiclass"),
    ],
)
def test_what_a_gaussian_cannot_remember_is_refused(small, parameters, words):
    model = LogisticRegression(**parameters)
    with pytest.raises(ValueError, match=words):
        model.partial_fit(*small)
    assert not hasattr(model, "classes_")


def test_labels_and_classes_that_do_not_fit(small):
    X, y = small
    model = LogisticRegression()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X[:1], y[:1])
    with pytest.raises(ValueError, match=r"not among the classes of the stream: \[2\]"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="only one class"):
        model.partial_fit(X, y, classes=[0])
    with pytest.raises(ValueError, match="takes labels"):
        model.partial_fit(X, np.eye(3)[y])
    model.partial_fit(X[:2], y[:2])
    with pytest.raises(ValueError, match=r"not among the classes of the stream: \[2\]"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="not the same as on last call to partial_fit"):
        model.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="3 features"):
        model.partial_fit(X[:, :2], y % 2)
    with pytest.raises(ValueError, match="changed in the middle"):
        model.set_params(fit_intercept=False).partial_fit(X, y % 2)


def test_weights_that_are_none(small):
    X, y = small
    model = learnt(X, y, 20)
    for weights, words in (([-1.0] + [1.0] * 59, "Negative"), ([0.0] * 60, "non-zero")):
        with pytest.raises(ValueError, match=words):
            model.partial_fit(X, y, sample_weight=weights)


def test_deprecated_parameters_are_told(small):
    with pytest.warns(FutureWarning, match="'penalty' was deprecated"):
        LogisticRegression(penalty="l2").partial_fit(*small)


def test_too_few_iterations_are_told(small):
    X, y = small
    model = LogisticRegression(max_iter=1)
    with pytest.warns(ConvergenceWarning, match="increase max_iter"):
        model.partial_fit(X, y)
    assert not model.converged_


def test_a_cross_validated_model_has_no_partial_fit():
    assert not hasattr(LogisticRegressionCV(), "partial_fit")


def test_others_call_it(small):
    """As dask-ml's `Incremental` does, and scikit-learn's learning curves and one-vs-rest."""
    X, y = small
    incremental = clone(LogisticRegression(C=2.0))
    for rows in np.array_split(np.arange(60), 4):
        incremental.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert incremental.score(X, y) > 0.5
    sizes, _, scores = learning_curve(
        LogisticRegression(),
        X,
        y,
        train_sizes=[10, 20, 40],
        cv=3,
        exploit_incremental_learning=True,
    )
    assert len(sizes) == 3
    assert scores[-1].mean() > 0.4
    one_vs_rest = OneVsRestClassifier(LogisticRegression())
    for rows in np.array_split(np.arange(60), 4):
        one_vs_rest.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert one_vs_rest.score(X, y) > 0.5
