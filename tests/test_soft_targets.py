"""Soft targets and label smoothing, against rows written out and a minimiser of SciPy's."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pandas as pd
import polars as pl
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.class_weight import compute_class_weight
from tight import (
    OBJECTIVE,
    PROMISE,
    PROMISE_FLOAT32,
    RESPONSES,
    SOLVERS,
    pack,
    relative_distance,
    sample_weights,
    tight,
)

from fastsoftmax import LogisticRegression


@cache
def data(n_classes, n_samples=120, n_features=4, seed=0):
    """Rows and masses: some are 0, and the rows sum to anything."""
    rng = np.random.default_rng(seed)
    Y = rng.gamma(0.5, size=(n_samples, n_classes))
    Y[rng.random(Y.shape) < 0.2] = 0.0
    X = rng.normal(size=(n_samples, n_features)) + Y @ rng.normal(size=(n_classes, n_features))
    X.flags.writeable = Y.flags.writeable = False
    return X, Y


def written_out(X, Y, weights=None):
    """Return each row once for each class, its label, and the mass times its weight."""
    n_samples, n_classes = Y.shape
    weights = np.ones(n_samples) if weights is None else weights
    labels = np.tile(np.arange(n_classes), n_samples)
    return np.repeat(X, n_classes, axis=0), labels, (weights[:, None] * Y).ravel()


def oracle(X, Y, C=1.0, weights=None, fit_intercept=True):
    w = np.ones(len(Y)) if weights is None else weights
    l2 = 1.0 / (C * np.sum(w * Y.sum(axis=1)))
    model = reference.LinearModel(X, Y, w, l2)
    n_rows = 1 if Y.shape[1] == 2 else Y.shape[1]
    return reference.constrained_optimum(model, n_rows, fit_intercept), model


# The optimum


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_soft_targets_reach_the_optimum(n_classes, C, fit_intercept, weighted):
    X, Y = data(n_classes)
    weights = sample_weights(len(Y)) if weighted else None
    optimum, model = oracle(X, Y, C, weights, fit_intercept)
    found = tight(C=C, fit_intercept=fit_intercept).fit(X, Y, weights)
    assert relative_distance(pack(found), optimum) < PROMISE
    assert model.value(pack(found)) == pytest.approx(model.value(optimum), rel=OBJECTIVE)
    assert found.objective_ == pytest.approx(model.value(optimum), rel=1e-10)
    np.testing.assert_array_equal(found.classes_, np.arange(n_classes))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_soft_targets_are_rows_written_out(n_classes, weighted):
    X, Y = data(n_classes)
    weights = sample_weights(len(Y)) if weighted else None
    soft = tight().fit(X, Y, weights)
    hard = tight().fit(*written_out(X, Y, weights))
    theirs = SklearnLogisticRegression(solver="newton-cholesky", tol=1e-10).fit(
        *written_out(X, Y, weights)
    )
    assert relative_distance(pack(soft), pack(hard)) < PROMISE
    assert relative_distance(pack(soft), pack(theirs)) < PROMISE


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_masses_are_rows_written_out(draw):
    n_classes = draw.draw(st.integers(2, 4), label="classes")
    n_samples = draw.draw(st.integers(2, 12), label="samples")
    mass = st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.integers(1, 5).map(float))
    rows = st.lists(mass, min_size=n_classes, max_size=n_classes)
    Y = np.array(draw.draw(st.lists(rows, min_size=n_samples, max_size=n_samples), label="Y"))
    weights = np.array(
        draw.draw(st.lists(mass, min_size=n_samples, max_size=n_samples), label="weights")
    )
    options = {
        "C": draw.draw(st.sampled_from([0.01, 1.0]), label="C"),
        "fit_intercept": draw.draw(st.booleans(), label="intercept"),
        "class_weight": draw.draw(st.sampled_from([None, "balanced", {1: 3.0}]), label="class"),
    }
    if not np.all(weights @ Y > 0):  # such a class's intercept has no optimum
        options["fit_intercept"] = False
    if not np.any(weights @ Y > 0):
        with pytest.raises(ValueError, match=r"y holds no mass|non-zero number"):
            tight(**options).fit(np.ones((n_samples, 1)), Y, weights)
        return
    X = np.random.default_rng(n_samples).normal(size=(n_samples, 3))
    soft = tight(**options).fit(X, Y, weights)
    hard = tight(**options).fit(*written_out(X, Y, weights))
    # The penalty may be 1e-5 of the curvature: an objective off by 1e-15 is then off by 1e-5.
    assert soft.objective_ == pytest.approx(hard.objective_, rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(soft.predict_proba(X), hard.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_one_hot_rows_are_labels(n_classes, solver):
    """To the last bit, and so with the same statuses where no optimum is finite."""
    X, Y = data(n_classes)
    y = Y.argmax(axis=1)
    labels = LogisticRegression(solver=solver).fit(X, y)
    for one_hot in (np.eye(n_classes, dtype=int)[y], np.eye(n_classes)[y] > 0):
        soft = LogisticRegression(solver=solver).fit(X, one_hot)
        np.testing.assert_array_equal(pack(soft), pack(labels))
    counts = Y.sum(axis=1)
    weighted = LogisticRegression(solver=solver).fit(X, y, counts)
    soft = LogisticRegression(solver=solver).fit(X, counts[:, None] * np.eye(n_classes)[y])
    np.testing.assert_array_equal(pack(soft), pack(weighted))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_reaches_the_optimum(solver):
    X, Y = data(3)
    optimum, _ = oracle(X, Y)
    assert relative_distance(pack(tight(solver=solver).fit(X, Y)), optimum) < PROMISE


def test_wide_data():
    X, Y = data(3, n_samples=60, n_features=2000)
    found = tight().fit(X, Y)
    assert "rotated" in found.solver_
    model = reference.LinearModel(X, Y, l2=1.0 / Y.sum())
    assert np.abs(model.gradient(pack(found))).max() < 1e-9


def test_masses_count_like_numbers_of_rows_in_C():
    """The penalty is 1 / (C * sum of masses): three times the mass is three times C."""
    X, Y = data(3)
    weights = sample_weights(len(Y))
    times_3 = tight(C=0.1).fit(X, 3.0 * Y, weights)
    assert relative_distance(pack(times_3), pack(tight(C=0.3).fit(X, Y, weights))) < 1e-9
    assert relative_distance(pack(times_3), pack(tight(C=0.1).fit(X, Y, 3.0 * weights))) < 1e-9
    shares = Y / Y.sum(axis=1, keepdims=True)
    apart = tight(C=0.3).fit(X, shares, weights * Y.sum(axis=1))
    assert relative_distance(pack(times_3), pack(apart)) < 1e-9


@pytest.mark.parametrize("n_classes", [2, 3])
def test_rows_without_weight_or_mass_are_no_rows(n_classes):
    X, Y = data(n_classes)
    Y = Y.copy()
    Y[5::9] = 0.0
    weights = sample_weights(len(Y))
    kept = (weights > 0) & (Y.sum(axis=1) > 0)
    fewer = tight().fit(X[kept], Y[kept], weights[kept])
    assert relative_distance(pack(tight().fit(X, Y, weights)), pack(fewer)) < 1e-9


def test_masses_in_every_class_are_not_separable():
    X = np.repeat([[-1.0], [1.0]], 10, axis=0)
    Y = np.where(X > 0, [[0.1, 0.9]], [[0.9, 0.1]])
    found = tight(C=np.inf).fit(X, Y)
    np.testing.assert_allclose(found.coef_, [[np.log(9.0)]], rtol=1e-9)
    certain = LogisticRegression(C=np.inf).fit(X, Y.round())
    assert "separable" in certain.status_


def test_weak_labels_of_one_class_only_are_fitted():
    """As with labels, a class without weight stays."""
    X, _ = data(3)
    found = LogisticRegression().fit(X, np.eye(3)[np.zeros(len(X), int)])
    assert found.predict_proba(X)[:, 0].min() > 0.99


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_float32_is_kept(n_classes, fit_intercept):
    X, Y = data(n_classes)
    optimum, _ = oracle(X, Y, fit_intercept=fit_intercept)
    found = tight(fit_intercept=fit_intercept).fit(X.astype(np.float32), Y)
    assert found.coef_.dtype == found.intercept_.dtype == np.float32
    assert relative_distance(pack(found), optimum) < PROMISE_FLOAT32


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sparse_is_dense(dtype, n_classes, smoothing):
    X, Y = data(n_classes)
    X = np.where(np.abs(X) > 0.5, X, 0.0).astype(dtype)
    weights = sample_weights(len(Y))
    dense = tight(label_smoothing=smoothing).fit(X, Y, weights)
    found = tight(label_smoothing=smoothing).fit(sparse.csr_array(X), Y, weights)
    assert found.coef_.dtype == dtype
    tolerance = PROMISE if dtype == np.float64 else PROMISE_FLOAT32
    assert relative_distance(pack(found), pack(dense)) < tolerance


# Class weights


@pytest.mark.parametrize("class_weight", [{0: 3.0, 1: 0.5, 2: 1.0}, {1: 4.0}, {}, "balanced"])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_are_those_of_rows_written_out(class_weight, weighted):
    X, Y = data(3)
    weights = sample_weights(len(Y)) if weighted else None
    soft = tight(class_weight=class_weight).fit(X, Y, weights)
    rows, labels, masses = written_out(X, Y, weights)
    hard = tight(class_weight=class_weight).fit(rows, labels, masses)
    assert relative_distance(pack(soft), pack(hard)) < PROMISE
    factors = compute_class_weight(
        class_weight, classes=np.arange(3), y=labels, sample_weight=masses
    )
    assert relative_distance(pack(soft), oracle(X, Y * factors, 1.0, weights)[0]) < PROMISE


def test_balanced_beside_a_class_without_mass():
    X, Y = data(3)
    Y = Y * [1.0, 0.0, 1.0]
    found = tight(class_weight="balanced", fit_intercept=False).fit(X, Y)
    totals = Y.sum(axis=0)
    factors = totals.sum() / (3 * np.where(totals > 0, totals, np.inf))
    assert relative_distance(pack(found), oracle(X, Y * factors, fit_intercept=False)[0]) < PROMISE


# Label smoothing


def smoothed(Y, share):
    """Szegedy et al. (2016): ``(1 - share) q + share / K``, for each unit of mass."""
    return (1.0 - share) * Y + share * Y.sum(axis=1, keepdims=True) / Y.shape[1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_label_smoothing_of_labels(n_classes, share, weighted):
    """As torch's: ``(1 - share) nll + share mean_k(-log p_k)``, here with weights per sample."""
    X, Y = data(n_classes)
    y = Y.argmax(axis=1)
    weights = sample_weights(len(Y)) if weighted else np.ones(len(Y))
    found = tight(C=10.0, label_smoothing=share).fit(X, y, weights if weighted else None)
    optimum, model = oracle(X, smoothed(np.eye(n_classes)[y], share), 10.0, weights)
    assert relative_distance(pack(found), optimum) < PROMISE
    logarithms = found.predict_log_proba(X)
    own = logarithms[np.arange(len(y)), y]
    losses = -(1.0 - share) * own - share * logarithms.mean(axis=1)
    penalty = 0.5 * np.sum(found.coef_**2) / (10.0 * weights.sum())
    expected = np.average(losses, weights=weights) + penalty
    assert found.objective_ == pytest.approx(expected, rel=1e-10)
    assert model.value(pack(found)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_label_smoothing_of_soft_targets(n_classes):
    X, Y = data(n_classes)
    weights = sample_weights(len(Y))
    found = tight(label_smoothing=0.3).fit(X, Y, weights)
    assert relative_distance(pack(found), oracle(X, smoothed(Y, 0.3), 1.0, weights)[0]) < PROMISE


def test_class_weights_come_before_label_smoothing():
    """They weigh samples by their label, as a sample weight would."""
    X, Y = data(3)
    y = Y.argmax(axis=1)
    factors = np.array([1.0, 4.0, 0.5])
    found = tight(class_weight=dict(enumerate(factors)), label_smoothing=0.2).fit(X, y)
    expected = tight(label_smoothing=0.2).fit(X, y, factors[y])
    assert relative_distance(pack(found), pack(expected)) < PROMISE


def test_no_label_smoothing_is_the_same_bits():
    X, Y = data(3)
    y = Y.argmax(axis=1)
    none = LogisticRegression(label_smoothing=0.0).fit(X, y)
    np.testing.assert_array_equal(none.coef_, LogisticRegression().fit(X, y).coef_)


def test_label_smoothing_bounds_separable_fits():
    """The logits are to differ by log((1 - share/2) / (share/2)), where labels ask for infinity."""
    X = np.repeat([[-1.0], [1.0]], 10, axis=0)
    found = tight(C=np.inf, label_smoothing=0.2).fit(X, X[:, 0] > 0)
    np.testing.assert_allclose(found.coef_, [[np.log(9.0)]], rtol=1e-9)
    np.testing.assert_array_equal(found.classes_, [False, True])


# Names


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_columns_of_a_frame_are_the_classes(frame):
    X, Y = data(3)
    names = ["pear", "apple", "fig"]
    named = tight().fit(X, frame(dict(zip(names, Y.T, strict=True))))
    plain = tight().fit(X, Y)
    np.testing.assert_array_equal(named.classes_, names)  # in their order
    np.testing.assert_array_equal(named.coef_, plain.coef_)
    np.testing.assert_array_equal(named.predict(X), np.array(names)[plain.predict(X)])
    weighed = tight(class_weight={"fig": 5.0}).fit(X, frame(dict(zip(names, Y.T, strict=True))))
    np.testing.assert_array_equal(weighed.coef_, tight(class_weight={2: 5.0}).fit(X, Y).coef_)


def test_numbers_and_tuples_are_names_too():
    X, Y = data(3)
    numbered = LogisticRegression().fit(X, pd.DataFrame(Y, columns=[10, 5, 7]))
    np.testing.assert_array_equal(numbered.classes_, [10, 5, 7])
    assert numbered.predict(X).dtype.kind == "i"
    pairs = [("a", 1), ("a", 2), ("b", 1)]
    paired = LogisticRegression().fit(X, pd.DataFrame(Y, columns=pd.MultiIndex.from_tuples(pairs)))
    assert list(paired.classes_) == pairs
    assert set(paired.predict(X)) <= set(pairs)


@pytest.mark.parametrize(
    "container", [np.ndarray.tolist, np.asfortranarray, pd.DataFrame, lambda Y: Y.astype(">f8")]
)
def test_container_of_Y_does_not_matter(container):
    X, Y = data(3)
    expected = LogisticRegression().fit(X, Y)
    np.testing.assert_array_equal(LogisticRegression().fit(X, container(Y)).coef_, expected.coef_)


# The estimator as an object


def test_arguments_are_not_modified():
    X, Y = (a.copy() for a in data(3))
    weights = sample_weights(len(Y))
    before = [a.copy() for a in (X, Y, weights)]
    LogisticRegression(class_weight="balanced", label_smoothing=0.1).fit(X, Y, weights)
    for now, then in zip((X, Y, weights), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_same_bits_for_any_n_jobs():
    X, Y = data(4, n_samples=5003, n_features=23)
    one = LogisticRegression(n_jobs=1, label_smoothing=0.1).fit(X, Y)
    two = LogisticRegression(n_jobs=2, label_smoothing=0.1).fit(X, Y)
    np.testing.assert_array_equal(two.coef_, one.coef_)
    np.testing.assert_array_equal(two.intercept_, one.intercept_)


def test_clone_pickle_and_warm_start():
    X, Y = data(3)
    model = LogisticRegression(label_smoothing=0.25, tol=1e-10, warm_start=True).fit(X, Y)
    assert clone(model).get_params() == model.get_params()
    assert "label_smoothing=0.25" in repr(model)
    copy = pickle.loads(pickle.dumps(model))
    for response in RESPONSES:
        np.testing.assert_array_equal(getattr(copy, response)(X), getattr(model, response)(X))
    n_iter, coef = model.n_iter_[0], model.coef_
    assert model.fit(X, Y).n_iter_[0] < n_iter
    np.testing.assert_allclose(model.coef_, coef, atol=1e-8)


def test_a_failed_fit_changes_nothing():
    X, Y = data(3)
    model = LogisticRegression().fit(X, Y)
    before = dict(vars(model))
    for wrong in (-Y, np.full_like(Y, np.nan), Y[:-1], Y * 0.0):
        with pytest.raises(ValueError, match=r"y|samples"):
            model.fit(X[:, :2], wrong)
        assert vars(model) == before
    fresh = LogisticRegression()
    with pytest.raises(ValueError, match="negative"):
        fresh.fit(X, -Y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_score_is_that_of_rows_written_out(n_classes, weighted):
    X, Y = data(n_classes)
    weights = sample_weights(len(Y)) if weighted else None
    model = LogisticRegression().fit(X, Y)
    rows, labels, masses = written_out(X, Y, weights)
    expected = accuracy_score(labels, model.predict(rows), sample_weight=masses)
    assert model.score(X, Y, weights) == pytest.approx(expected, rel=1e-12)
    # Integer features must not make integers of shares.
    assert model.score(X, Y / Y.sum(), weights) == pytest.approx(expected, rel=1e-12)


def test_score_refuses_other_classes():
    X, Y = data(3)
    model = LogisticRegression().fit(X, Y)
    with pytest.raises(ValueError, match=r"columns for the classes .*'a'.*fitted to .*same order"):
        model.score(X, pd.DataFrame(Y, columns=list("abc")))
    with pytest.raises(ValueError, match="same columns"):
        model.score(X, Y[:, :2])


def test_searches_over_label_smoothing():
    X, Y = data(3)
    y = Y.argmax(axis=1)
    shares = [0.0, 0.2, 0.8]
    search = GridSearchCV(LogisticRegression(), {"label_smoothing": shares}, cv=3).fit(X, y)
    best = LogisticRegression(label_smoothing=search.best_params_["label_smoothing"]).fit(X, y)
    np.testing.assert_array_equal(search.best_estimator_.coef_, best.coef_)
    soft = GridSearchCV(LogisticRegression(), {"label_smoothing": shares}, cv=3).fit(X, Y)
    assert np.all(np.isfinite(soft.cv_results_["mean_test_score"]))
    scores = cross_val_score(LogisticRegression(label_smoothing=shares[0]), X, Y, cv=3)
    assert soft.cv_results_["mean_test_score"][0] == pytest.approx(scores.mean())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_standard_errors_are_those_of_rows_written_out(n_classes):
    X, Y = data(n_classes)
    weights = sample_weights(len(Y))
    rows = written_out(X, Y, weights)
    soft = tight().fit(X, Y, weights).standard_errors(X, Y, weights)
    hard = tight().fit(*rows).standard_errors(*rows)
    np.testing.assert_allclose(soft.coef, hard.coef, rtol=1e-6)
    np.testing.assert_allclose(soft.intercept, hard.intercept, rtol=1e-6)
