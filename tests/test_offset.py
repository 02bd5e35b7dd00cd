"""Offsets: what is added to the logits, in fits, predictions and standard errors."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import reference
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object
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
def data(n_classes, n_samples=150, n_features=4, seed=0):
    """Labels that depend on the offset, too; one column of it for two classes."""
    rng = np.random.default_rng(seed)
    n_rows = 1 if n_classes == 2 else n_classes
    X, offset = rng.normal(size=(n_samples, n_features)), 2.0 * rng.normal(size=(n_samples, n_rows))
    z = 0.7 * X @ rng.normal(size=(n_rows, n_features)).T + offset
    z = np.column_stack([np.zeros(n_samples), z]) if n_rows == 1 else z
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    for array in (X, y, offset):
        array.flags.writeable = False
    return X, y, offset


def mean_model(X, y, offset, C=1.0, weights=None):
    n_classes = int(y.max()) + 1
    w = np.ones(len(y)) if weights is None else weights
    return reference.LinearModel(X, reference.one_hot(y, n_classes), w, 1.0 / (C * w.sum()), offset)


def oracle(X, y, offset, C=1.0, weights=None, fit_intercept=True):
    model = mean_model(X, y, offset, C, weights)
    return reference.constrained_optimum(model, np.shape(offset)[1], fit_intercept), model


# Fits


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [0.01, 1.0, np.inf])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_fits_with_an_offset_reach_the_optimum(n_classes, C, fit_intercept, weighted):
    X, y, offset = data(n_classes)
    weights = sample_weights(len(y)) if weighted else None
    optimum, model = oracle(X, y, offset, C, weights, fit_intercept)
    if np.isinf(C) and n_classes > 2:
        optimum = optimum - optimum.mean(axis=0)
    found = tight(C=C, fit_intercept=fit_intercept).fit(X, y, weights, offset=offset)
    assert relative_distance(pack(found), optimum) < PROMISE
    assert model.value(pack(found)) == pytest.approx(model.value(optimum), rel=OBJECTIVE)
    assert found.objective_ == pytest.approx(model.value(optimum), rel=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_solver_takes_an_offset(n_classes, solver):
    X, y, offset = data(n_classes)
    found = tight(solver=solver).fit(X, y, offset=offset)
    assert relative_distance(pack(found), oracle(X, y, offset)[0]) < PROMISE


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("shape", [(60, 2000), (20_000, 30)])
def test_other_shapes(shape, storage):
    X, y, offset = data(3, *shape)
    if storage is sparse.csr_array:
        X = np.where(np.abs(X) > 1.0, X, 0.0)
    found = tight().fit(storage(X), y, offset=offset)
    assert "rotated" in found.solver_ or storage is sparse.csr_array or shape[0] > shape[1]
    assert np.abs(mean_model(X, y, offset).gradient(pack(found))).max() < 1e-9


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_float32_and_sparse(n_classes, dtype):
    X, y, offset = data(n_classes)
    X = np.where(np.abs(X) > 0.3, X, 0.0)
    optimum, _ = oracle(X, y, offset)
    tolerance = PROMISE if dtype == np.float64 else PROMISE_FLOAT32
    answers = []
    for storage in (np.asarray, sparse.csr_array):
        rows = storage(X.astype(dtype))
        found = tight().fit(rows, y, offset=offset)
        assert found.coef_.dtype == found.intercept_.dtype == dtype
        assert relative_distance(pack(found), optimum) < tolerance
        answers.append(found.predict_proba(rows, offset))
        assert answers[-1].dtype == dtype
    np.testing.assert_allclose(*answers, atol=tolerance)


def test_two_classes_take_one_column_or_two():
    X, y, offset = data(2)
    shift = np.linspace(-5.0, 5.0, len(y))
    two = np.column_stack([shift, offset[:, 0] + shift])
    one = tight().fit(X, y, offset=offset)
    for given_offset in (offset[:, 0], offset[:, 0].tolist(), pd.Series(offset[:, 0])):
        np.testing.assert_array_equal(pack(tight().fit(X, y, offset=given_offset)), pack(one))
        for response in RESPONSES:
            answer = getattr(one, response)(X, given_offset)
            np.testing.assert_array_equal(answer, getattr(one, response)(X, offset))
    assert relative_distance(pack(tight().fit(X, y, offset=two)), pack(one)) < 1e-9
    np.testing.assert_allclose(one.predict_proba(X, two), one.predict_proba(X, offset), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 4),
    st.lists(st.floats(-20.0, 20.0), min_size=4, max_size=4),
    st.floats(-50.0, 50.0),
    st.booleans(),
)
def test_what_an_offset_may_add_without_effect(n_classes, constants, common, fit_intercept):
    """The same for all classes: nothing. A constant of each class: the intercept less that."""
    X, y, offset = data(n_classes)
    shifts = np.full(n_classes, common) if n_classes > 2 else np.zeros(1)
    if fit_intercept:
        shifts = shifts + np.array(constants)[: offset.shape[1]]
    plain = tight(fit_intercept=fit_intercept).fit(X, y, offset=offset)
    found = tight(fit_intercept=fit_intercept).fit(X, y, offset=offset + shifts)
    np.testing.assert_allclose(found.coef_, plain.coef_, atol=1e-7)
    if fit_intercept:
        centred = shifts - shifts.mean() if n_classes > 2 else shifts
        np.testing.assert_allclose(found.intercept_, plain.intercept_ - centred, atol=1e-6)
    np.testing.assert_allclose(
        found.predict_proba(X, offset + shifts), plain.predict_proba(X, offset), atol=1e-7
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_offset_linear_in_X_moves_the_coefficients(n_classes):
    """Without a penalty ``offset = X Vᵀ`` is subtracted from W: nobody can tell them apart."""
    X, y, _ = data(n_classes)
    V = np.random.default_rng(5).normal(size=(1 if n_classes == 2 else n_classes, X.shape[1]))
    plain = tight(C=np.inf).fit(X, y)
    found = tight(C=np.inf).fit(X, y, offset=X @ V.T)
    V = V - V.mean(axis=0) if n_classes > 2 else V
    np.testing.assert_allclose(found.coef_, plain.coef_ - V, atol=1e-6)
    none = tight().fit(X, y, offset=np.zeros((len(y), len(V))))
    assert relative_distance(pack(none), pack(tight().fit(X, y))) < 1e-9


def test_an_intercept_alone_with_the_offset():
    """At the optimum the mean probabilities are the shares of the classes."""
    _, y, offset = data(3)
    found = tight().fit(np.zeros((len(y), 1)), y, offset=offset)
    means = found.predict_proba(np.zeros((len(y), 1)), offset).mean(axis=0)
    np.testing.assert_allclose(means, np.bincount(y) / len(y), rtol=1e-9)


def test_separable_classes_are_noticed():
    X, y, offset = data(3)
    X = np.column_stack([X, 10.0 * np.eye(3)[y]])
    found = LogisticRegression(C=np.inf).fit(X, y, offset=offset)
    assert "separable" in found.status_


def test_offsets_with_soft_targets_smoothing_and_class_weights():
    X, y, offset = data(3)
    Y = np.random.default_rng(3).dirichlet(np.ones(3), len(y)) + np.eye(3)[y]
    found = tight(label_smoothing=0.1, class_weight={1: 3.0}).fit(X, Y, offset=offset)
    masses = Y * [1.0, 3.0, 1.0]
    targets = 0.9 * masses + 0.1 * masses.mean(axis=1, keepdims=True)
    model = reference.LinearModel(X, targets, None, 1.0 / masses.sum(), offset)
    optimum = reference.constrained_optimum(model, 3)
    assert relative_distance(pack(found), optimum) < PROMISE


# Predictions


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_predictions_add_the_offset(n_classes, storage):
    X, y, offset = data(n_classes)
    model = LogisticRegression().fit(X, y, offset=offset)
    rows = storage(X)
    logits = X @ model.coef_.T + model.intercept_ + offset
    found = model.decision_function(rows, offset)
    np.testing.assert_allclose(found, logits.ravel() if n_classes == 2 else logits, rtol=1e-11)
    full = np.column_stack([np.zeros(len(y)), logits]) if n_classes == 2 else logits
    probabilities = reference.softmax(full)
    np.testing.assert_allclose(model.predict_proba(rows, offset), probabilities, rtol=1e-11)
    logarithms = model.predict_log_proba(rows, offset=offset)
    np.testing.assert_allclose(logarithms, np.log(probabilities), rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(model.predict(rows, offset), full.argmax(axis=1))
    assert np.any(model.predict(rows, offset) != model.predict(rows))
    weights = sample_weights(len(y))
    expected = accuracy_score(y, full.argmax(axis=1), sample_weight=weights)
    assert model.score(rows, y, weights, offset) == pytest.approx(expected)
    assert model.score(rows, np.eye(n_classes)[y], weights, offset) == pytest.approx(expected)
    assert model.score(rows, y, offset=offset) > model.score(rows, y)


@pytest.mark.parametrize("response", RESPONSES)
def test_a_wrong_offset_of_a_prediction_is_refused(response):
    X, y, offset = data(3)
    model = LogisticRegression().fit(X, y, offset=offset)
    for wrong in (offset[:-1], offset[:, :2], offset[:, 0], 0.5):
        with pytest.raises(ValueError, match=r"offset must .*\(150, 3\)"):
            getattr(model, response)(X, wrong)
    with pytest.raises(ValueError, match="offset contains NaN"):
        getattr(model, response)(X, np.full_like(offset, np.nan))
    with pytest.raises(ValueError, match=r"offset must .*\(1, 3\).*got shape \(150, 3\)"):
        getattr(model, response)(X[:1], offset)


def test_arguments_are_not_modified():
    X, y, offset = (a.copy() for a in data(2))
    two = np.column_stack([np.zeros(len(y)), offset])
    before = [a.copy() for a in (X, y, two)]
    model = LogisticRegression().fit(X, y, offset=two)
    for response in RESPONSES:
        getattr(model, response)(X, two)
    for now, then in zip((X, y, two), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not any(value is two for value in vars(model).values())


def test_same_bits_for_any_n_jobs():
    X, y, offset = data(3, 20_000, 30)
    one = LogisticRegression(n_jobs=1).fit(X, y, offset=offset)
    two = LogisticRegression(n_jobs=2).fit(X, y, offset=offset)
    np.testing.assert_array_equal(pack(two), pack(one))
    for response in RESPONSES:
        answers = (getattr(model, response)(X, offset) for model in (one, two))
        np.testing.assert_array_equal(*answers)


def test_a_failed_fit_changes_nothing():
    X, y, offset = data(3)
    model = LogisticRegression(warm_start=True).fit(X, y)
    before = dict(vars(model))
    for wrong in (offset[:-1], offset[:, 0], np.full_like(offset, np.inf), "abc"):
        with pytest.raises(ValueError, match="offset"):
            model.fit(X, y, offset=wrong)
        assert vars(model) == before
    warm = model.set_params(tol=1e-12).fit(X, y, offset=offset)
    assert relative_distance(pack(warm), oracle(X, y, offset)[0]) < PROMISE


# Standard errors


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_standard_errors_are_those_of_statsmodels(fit_intercept):
    sm = pytest.importorskip("statsmodels.api")
    X, y, offset = data(2)
    columns = np.column_stack([X, np.ones(len(y))]) if fit_intercept else X
    theirs = sm.GLM(y, columns, family=sm.families.Binomial(), offset=offset[:, 0]).fit(tol=1e-14)
    model = tight(C=np.inf, fit_intercept=fit_intercept).fit(X, y, offset=offset)
    errors = model.standard_errors(X, y, offset=offset)
    ours = np.append(errors.coef, errors.intercept)[: columns.shape[1]]
    np.testing.assert_allclose(ours, theirs.bse, rtol=1e-6)
    table = model.summary(X, y, offset=offset)
    np.testing.assert_allclose(table.coef[0], theirs.params, rtol=1e-6)
    np.testing.assert_allclose(table.std_error[0], theirs.bse, rtol=1e-6)
    with pytest.raises(ValueError, match="not fitted to these data"):
        model.standard_errors(X, y)


@pytest.mark.parametrize("C", [1.0, np.inf])
def test_standard_errors_of_three_classes(C):
    X, y, offset = data(3)
    model = tight(C=C).fit(X, y, offset=offset)
    hessian = len(y) * mean_model(X, y, offset, C).hessian(pack(model))
    keep = np.arange(15) >= 5  # against class 0
    difference = np.kron([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]], np.eye(5))
    if np.isinf(C):
        covariance = np.linalg.inv(hessian[np.ix_(keep, keep)])
    else:
        covariance = difference @ np.linalg.pinv(hessian, rcond=1e-11) @ difference.T
    errors = model.standard_errors(X, y, baseline=0, offset=offset)
    found = np.column_stack([errors.coef, errors.intercept])
    np.testing.assert_allclose(found.ravel(), np.sqrt(np.diag(covariance)), rtol=1e-6)


# Metadata routing


def requesting(**params):
    model = LogisticRegression(**params)
    for method in ("fit", "score", *RESPONSES):
        getattr(model, f"set_{method}_request")(offset=True)
    return model


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_pipeline_passes_the_offset_on(n_classes):
    X, y, offset = data(n_classes)
    scaled = StandardScaler().fit_transform(X)
    expected = LogisticRegression().fit(scaled, y, offset=offset)
    with sklearn.config_context(enable_metadata_routing=True):
        model = requesting()
        assert get_routing_for_object(model).predict.requests == {"offset": True}
        pipeline = make_pipeline(StandardScaler(), model).fit(X, y, offset=offset)
        np.testing.assert_array_equal(pack(pipeline[-1]), pack(expected))
        for response in RESPONSES:
            answer = getattr(pipeline, response)(X, offset=offset)
            np.testing.assert_array_equal(answer, getattr(expected, response)(scaled, offset))
        assert pipeline.score(X, y, offset=offset) == expected.score(scaled, y, offset=offset)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_cross_validation_cuts_the_offset(n_classes):
    X, y, offset = data(n_classes)
    folds = KFold(3)
    expected = [
        LogisticRegression()
        .fit(X[train], y[train], offset=offset[train])
        .score(X[test], y[test], offset=offset[test])
        for train, test in folds.split(X)
    ]
    with sklearn.config_context(enable_metadata_routing=True):
        found = cross_validate(requesting(), X, y, cv=folds, params={"offset": offset})
        np.testing.assert_array_equal(found["test_score"], expected)
        search = GridSearchCV(requesting(), {"C": [1e-3, 1.0]}, cv=folds)
        search.fit(X, y, offset=offset)
        np.testing.assert_allclose(search.cv_results_["mean_test_score"][1], np.mean(expected))
        best = LogisticRegression(**search.best_params_).fit(X, y, offset=offset)
        np.testing.assert_array_equal(search.best_estimator_.coef_, best.coef_)


def test_an_offset_that_nobody_requested_is_refused():
    X, y, offset = data(3)
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), LogisticRegression())
        with pytest.raises(UnsetMetadataPassedError, match="offset"):
            pipeline.fit(X, y, offset=offset)
