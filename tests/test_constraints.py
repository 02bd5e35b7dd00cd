"""Bounds, positive coefficients and penalty weights, against minimisers of SciPy and peers."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, sparse
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.model_selection import GridSearchCV
from tight import (
    OBJECTIVE,
    PROMISE,
    PROMISE_FLOAT32,
    SOLVERS,
    pack,
    relative_distance,
    sample_weights,
    tight,
)

from fastsoftmax import LogisticRegression


@cache
def data(n_classes, n_samples=150, n_features=5, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n_samples)
    X = rng.normal(size=(n_samples, n_features)) + rng.normal(size=(n_classes, n_features))[y]
    X.flags.writeable = False
    return X, y


def n_rows_of(n_classes):
    return 1 if n_classes == 2 else n_classes


def mean_model(X, y, n_classes, C=1.0, weights=None, factors=1.0):
    w = np.ones(len(y)) if weights is None else weights
    l2 = np.asarray(factors) / (C * w.sum())
    return reference.LinearModel(X, reference.one_hot(y, n_classes), w, l2)


def oracle(X, y, n_classes, bounds=(-np.inf, np.inf), fit_intercept=True, **options):
    model = mean_model(X, y, n_classes, **options)
    optimum = reference.constrained_optimum(model, n_rows_of(n_classes), fit_intercept, bounds)
    return optimum, model


def per_coefficient(n_classes, n_features=5):
    """Bounds of which some are infinite and some coincide."""
    rng = np.random.default_rng(2)
    centre = 0.5 * rng.normal(size=(n_rows_of(n_classes), n_features))
    lower, upper = centre - rng.random(centre.shape), centre + rng.random(centre.shape)
    lower[:, 1], upper[:, 2] = -np.inf, np.inf
    lower[0, 3] = upper[0, 3] = 0.25
    return lower, upper


BOUNDS = {
    "numbers": lambda n_classes: (-0.3, 0.4),
    "below": lambda n_classes: (-0.2, np.inf),
    "above": lambda n_classes: (-np.inf, 0.1),
    "features": lambda n_classes: ([-0.1, -9.0, 0.0, -np.inf, 0.3], [0.1, 9.0, 0.0, 0.0, 0.3]),
    "away from 0": lambda n_classes: (0.2, 0.5),
    "classes": lambda n_classes: (
        np.linspace(-0.5, 0.0, n_rows_of(n_classes))[:, None],
        np.full((n_rows_of(n_classes), 1), 0.2),
    ),
    "coefficients": per_coefficient,
}


# Bounds


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [0.1, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS.keys())
def test_bounded_fits_reach_the_optimum(bounds, n_classes, C, fit_intercept):
    X, y = data(n_classes)
    lower, upper = bounds(n_classes)
    optimum, model = oracle(X, y, n_classes, (lower, upper), fit_intercept, C=C)
    found = tight(C=C, bounds=(lower, upper), fit_intercept=fit_intercept).fit(X, y)
    assert found.converged_
    assert np.all(found.coef_ >= lower)
    assert np.all(found.coef_ <= upper)
    at_bound = (optimum[:, :-1] == lower) | (optimum[:, :-1] == upper)
    assert at_bound.any()
    np.testing.assert_array_equal(found.coef_[at_bound], optimum[:, :-1][at_bound])
    assert relative_distance(pack(found), optimum) < PROMISE
    assert model.value(pack(found)) == pytest.approx(model.value(optimum), rel=OBJECTIVE)
    assert found.objective_ == pytest.approx(model.value(optimum), rel=1e-10)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_bounds_with_weights_of_samples_and_classes(n_classes):
    X, y = data(n_classes)
    weights, class_weight = sample_weights(len(y)), {0: 3.0, 1: 0.5}
    factors = np.array([class_weight.get(k, 1.0) for k in range(n_classes)])
    optimum, _ = oracle(X, y, n_classes, (-0.2, 0.3), weights=weights * factors[y])
    found = tight(bounds=(-0.2, 0.3), class_weight=class_weight).fit(X, y, weights)
    assert relative_distance(pack(found), optimum) < PROMISE


@pytest.mark.parametrize("n_classes", [2, 3])
def test_positive_coefficients_by_another_minimiser(n_classes):
    """SLSQP on the sum of losses written out, in coefficients that are squares of nothing."""
    X, y = data(n_classes, n_features=3)
    shape = (n_rows_of(n_classes), 4)

    def objective(x):
        W = x.reshape(shape)
        z = X @ W[:, :3].T + W[:, 3]
        z = np.column_stack([np.zeros(len(X)), z]) if n_classes == 2 else z
        losses = logsumexp(z, axis=1) - z[np.arange(len(y)), y]
        return (losses.sum() + 0.5 * np.sum(W[:, :3] ** 2)) / len(y)

    limits = [(None, None) if j % 4 == 3 else (0.0, None) for j in range(np.prod(shape))]
    start = np.zeros(np.prod(shape))
    options = {"ftol": 1e-14, "maxiter": 1000}
    best = optimize.minimize(objective, start, method="SLSQP", bounds=limits, options=options)
    found = tight(positive=True).fit(X, y)
    assert np.all(found.coef_ >= 0.0)
    assert np.any(found.coef_ == 0.0)
    assert objective(pack(found).ravel()) <= best.fun + 1e-12
    # SLSQP takes gradients by differences.
    np.testing.assert_allclose(found.coef_, best.x.reshape(shape)[:, :3], atol=1e-4)


@pytest.mark.parametrize("C", [1.0, np.inf])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_positive_is_a_lower_bound_of_zero(n_classes, C):
    X, y = data(n_classes)
    positive = LogisticRegression(C=C, positive=True).fit(X, y)
    bounded = LogisticRegression(C=C, bounds=(0.0, np.inf)).fit(X, y)
    np.testing.assert_array_equal(pack(positive), pack(bounded))
    both = LogisticRegression(C=C, positive=True, bounds=(-1.0, 0.2)).fit(X, y)
    bounded = LogisticRegression(C=C, bounds=[0.0, 0.2]).fit(X, y)
    np.testing.assert_array_equal(pack(both), pack(bounded))


def test_bounds_without_penalty():
    X, y = data(2)
    optimum, _ = oracle(X, y, 2, (-0.5, 0.5), C=np.inf)
    assert relative_distance(pack(tight(C=np.inf, bounds=(-0.5, 0.5)).fit(X, y)), optimum) < PROMISE
    X, y = data(3)  # where coefficients may shift alike the value is unique, not they
    optimum, model = oracle(X, y, 3, (-0.5, 0.5), C=np.inf)
    found = tight(C=np.inf, bounds=(-0.5, 0.5)).fit(X, y)
    assert model.value(pack(found)) == pytest.approx(model.value(optimum), rel=1e-11)


def test_separable_classes_have_an_optimum_within_bounds():
    X = np.repeat([[-1.0], [1.0]], 10, axis=0)
    found = LogisticRegression(C=np.inf, bounds=(-3.0, 3.0)).fit(X, X[:, 0] > 0)
    assert found.coef_ == [[3.0]]
    assert found.converged_


@pytest.mark.parametrize("n_classes", [2, 3])
def test_bounds_that_do_not_bind_change_nothing(n_classes):
    X, y = data(n_classes)
    free = tight().fit(X, y)
    found = tight(bounds=(-100.0, 100.0)).fit(X, y)
    assert relative_distance(pack(found), pack(free)) < PROMISE
    infinite = tight(bounds=(-np.inf, np.inf), solver="lbfgs").fit(X, y)  # no bounds for any solver
    np.testing.assert_array_equal(pack(infinite), pack(tight(solver="lbfgs").fit(X, y)))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_fixed_coefficient_is_an_offset(n_classes):
    X, y = data(n_classes)
    rows = n_rows_of(n_classes)
    value = np.linspace(-0.5, 0.5, rows)[:, None] if rows > 1 else np.array([[0.7]])
    lower = np.column_stack([np.full((rows, 4), -np.inf), value])
    upper = np.column_stack([np.full((rows, 4), np.inf), value])
    fixed = tight(bounds=(lower, upper)).fit(X, y)
    np.testing.assert_array_equal(fixed.coef_[:, 4:], value)
    offset = tight().fit(X[:, :4], y, offset=X[:, 4:] * value.T)
    assert relative_distance(fixed.coef_[:, :4], offset.coef_) < PROMISE
    np.testing.assert_allclose(fixed.intercept_, offset.intercept_, atol=1e-7)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_coefficient_bound_to_zero_is_no_feature(n_classes):
    X, y = data(n_classes)
    none = [-np.inf, 0.0, -np.inf, 0.0, -np.inf]
    without = tight(bounds=(none, np.negative(none))).fit(X, y)
    assert not without.coef_[:, [1, 3]].any()
    kept = tight().fit(X[:, [0, 2, 4]], y)
    assert relative_distance(without.coef_[:, [0, 2, 4]], kept.coef_) < PROMISE


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_karush_kuhn_and_tucker(draw):
    """The gradient is 0 between bounds, and points outwards at them."""
    n_classes = draw.draw(st.integers(2, 4), label="classes")
    n_features = draw.draw(st.integers(1, 4), label="features")
    shape = (n_rows_of(n_classes), n_features)

    def array(entries):
        size = shape[0] * shape[1]
        return np.reshape(draw.draw(st.lists(entries, min_size=size, max_size=size)), shape)

    widths = st.one_of(st.just(np.inf), st.just(0.0), st.floats(0.0, 2.0))
    middles, below, above = array(st.floats(-1.0, 1.0)), array(widths), array(widths)
    lower, upper = middles - below, middles + above
    C = draw.draw(st.sampled_from([1e-3, 1.0, 1e3]), label="C")
    fit_intercept = draw.draw(st.booleans(), label="intercept")
    X, y = data(n_classes, 40, n_features, seed=draw.draw(st.integers(0, 5), label="seed"))
    tol = 1e-9
    found = LogisticRegression(
        C=C, bounds=(lower, upper), fit_intercept=fit_intercept, tol=tol, max_iter=10_000
    ).fit(X, y)
    assert np.all((lower <= found.coef_) & (found.coef_ <= upper))
    slopes = mean_model(X, y, n_classes, C).gradient(pack(found))
    if fit_intercept:
        assert np.abs(slopes[:, -1]).max() <= 2 * tol
    slopes = slopes[:, :-1]
    pushes = np.where(found.coef_ > lower, slopes, np.minimum(slopes, 0.0))
    pushes = np.where(found.coef_ < upper, pushes, np.maximum(slopes, 0.0))
    pushes[lower == upper] = 0.0
    assert np.abs(pushes).max(initial=0.0) <= 2 * tol


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_float32_and_sparse(n_classes, dtype):
    X, y = data(n_classes)
    X = np.where(np.abs(X) > 0.3, X, 0.0)
    optimum, _ = oracle(X, y, n_classes, (-0.25, 0.25))
    tolerance = PROMISE if dtype == np.float64 else PROMISE_FLOAT32
    for storage in (np.asarray, sparse.csr_array, sparse.csc_array):
        found = tight(bounds=(-0.25, 0.25)).fit(storage(X.astype(dtype)), y)
        assert found.coef_.dtype == found.intercept_.dtype == dtype
        assert np.abs(found.coef_).max() == 0.25
        assert relative_distance(pack(found), optimum) < tolerance


@pytest.mark.parametrize("solver", ["auto", "saga", "liblinear"])
def test_solvers_that_take_bounds(solver):
    X, y = data(2)
    found = tight(positive=True, solver=solver).fit(X, y)
    optimum, _ = oracle(X, y, 2, (0.0, np.inf))
    assert relative_distance(pack(found), optimum) < PROMISE
    assert "proximal" in found.solver_


@pytest.mark.parametrize("shape", [(40, 300), (3000, 40)])
def test_other_shapes(shape):
    X, y = data(3, *shape)
    found = tight(bounds=(-0.05, 0.1), C=0.5).fit(X, y)
    slopes = mean_model(X, y, 3, 0.5).gradient(pack(found))
    coef = found.coef_
    slopes[:, :-1][(coef == -0.05) & (slopes[:, :-1] > 0)] = 0.0
    slopes[:, :-1][(coef == 0.1) & (slopes[:, :-1] < 0)] = 0.0
    assert np.abs(slopes).max() < 1e-9
    assert ((coef == -0.05) | (coef == 0.1)).any()


def test_bounds_beside_an_l1_penalty():
    X, y = data(3)
    model = mean_model(X, y, 3, factors=0.5)
    strength = 0.5 / len(y) * 10.0
    model.l2 *= 10.0
    optimum = reference.constrained_optimum(model, 3, True, (0.0, 0.3), l1=strength)
    found = tight(C=0.1, l1_ratio=0.5, bounds=(0.0, 0.3)).fit(X, y)
    assert relative_distance(pack(found), optimum) < PROMISE
    np.testing.assert_array_equal(found.coef_ == 0.0, optimum[:, :-1] == 0.0)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_bounds_beside_soft_targets_and_an_offset(n_classes):
    X, y = data(n_classes)
    rng = np.random.default_rng(3)
    Y = rng.dirichlet(np.ones(n_classes), len(y)) + np.eye(n_classes)[y]
    offset = rng.normal(size=(len(y), n_rows_of(n_classes)))
    model = reference.LinearModel(X, Y, None, 1.0 / Y.sum(), offset)
    optimum = reference.constrained_optimum(model, n_rows_of(n_classes), True, (-0.3, 0.2))
    found = tight(bounds=(-0.3, 0.2)).fit(X, Y, offset=offset)
    assert relative_distance(pack(found), optimum) < PROMISE


@pytest.mark.parametrize("n_classes", [2, 3])
def test_warm_start_moves_into_the_bounds(n_classes):
    X, y = data(n_classes)
    cold = tight(bounds=(-0.2, 0.3)).fit(X, y)
    model = tight(warm_start=True).fit(X, y)
    assert np.abs(model.coef_).max() > 0.3
    model.set_params(bounds=(-0.2, 0.3)).fit(X, y)
    assert np.all((model.coef_ >= -0.2) & (model.coef_ <= 0.3))
    assert relative_distance(pack(model), pack(cold)) < PROMISE
    again = model.fit(X, y)
    assert again.n_iter_[0] <= 1
    assert relative_distance(pack(again), pack(cold)) < PROMISE
    model.set_params(bounds=None).fit(X, y)
    assert relative_distance(pack(model), pack(tight().fit(X, y))) < PROMISE


def test_no_iterations_stay_within_the_bounds():
    X, y = data(3)
    with pytest.warns(UserWarning, match="max_iter"):
        found = LogisticRegression(bounds=(0.5, 1.0), max_iter=0).fit(X, y)
    np.testing.assert_array_equal(found.coef_, np.full((3, 5), 0.5))


def test_same_bits_for_any_n_jobs():
    X, y = data(4, 5003, 23)
    params = {"bounds": (-0.1, 0.2), "penalty_weights": np.linspace(0.0, 2.0, 23)}
    one = LogisticRegression(n_jobs=1, **params).fit(X, y)
    two = LogisticRegression(n_jobs=2, **params).fit(X, y)
    np.testing.assert_array_equal(pack(two), pack(one))


def test_clone_pickle_representation_and_search():
    X, y = data(3)
    params = {
        "bounds": (np.full(5, -0.1), np.full((3, 5), 0.3)),
        "penalty_weights": np.arange(5.0),
        "positive": True,
    }
    model = LogisticRegression(**params).fit(X, y)
    for copy in (clone(model).fit(X, y), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(pack(copy), pack(model))
    assert model.get_params()["penalty_weights"] is params["penalty_weights"]
    assert "positive=True" in repr(model)
    assert "bounds" in model._repr_html_()
    grid = {"bounds": [None, (0.0, 1.0)], "penalty_weights": [None, [0.0, 1.0, 1.0, 1.0, 1.0]]}
    search = GridSearchCV(LogisticRegression(), grid, cv=2).fit(X, y)
    best = LogisticRegression(**search.best_params_).fit(X, y)
    np.testing.assert_array_equal(search.best_estimator_.coef_, best.coef_)


WRONG = [
    {"bounds": (1.0, 0.0)},
    {"bounds": (0.0, np.zeros(4))},
    {"penalty_weights": [1.0, -1.0, 1.0, 1.0, 1.0]},
    {"penalty_weights": np.ones(4)},
    {"bounds": (0.0, 1.0), "solver": "lbfgs"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_failed_fit_changes_nothing(wrong):
    X, y = data(3)
    model = LogisticRegression().fit(X, y)
    before = dict(vars(model))
    model.set_params(**wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        model.fit(X[:, ::-1] + 1.0, y)
    model.set_params(bounds=None, penalty_weights=None, solver="auto")
    assert vars(model) == before


def test_arguments_are_not_modified():
    X, y = data(3)
    lower, upper, factors = np.full((3, 5), -0.1), np.full(5, 0.1), np.arange(5.0)
    for array in (lower, upper, factors):
        array.flags.writeable = False
    LogisticRegression(bounds=(lower, upper), positive=True, penalty_weights=factors).fit(X, y)


def test_there_are_no_standard_errors():
    X, y = data(2)
    for params in ({"positive": True}, {"bounds": (-1.0, 1.0)}):
        model = LogisticRegression(**params).fit(X, y)
        with pytest.raises(ValueError, match=r"no standard errors with bounds.*bootstrap"):
            model.standard_errors(X, y)


# Penalty weights

FACTORS = np.array([0.5, 1.0, 4.0, 30.0, 0.01])


@pytest.mark.parametrize("C", [0.1, 10.0])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_penalty_weights_are_scales_of_columns(n_classes, solver, C):
    """``w_j W_j² / 2`` is the plain penalty of ``sqrt(w_j) W_j``, which goes with X_j/sqrt(w_j)."""
    X, y = data(n_classes)
    weights = sample_weights(len(y))
    found = tight(C=C, solver=solver, penalty_weights=FACTORS).fit(X, y, weights)
    scaled = SklearnLogisticRegression(C=C, solver="newton-cholesky", tol=1e-10)
    scaled.fit(X / np.sqrt(FACTORS), y, weights)
    assert relative_distance(found.coef_, scaled.coef_ / np.sqrt(FACTORS)) < PROMISE
    np.testing.assert_allclose(found.intercept_, scaled.intercept_, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 300), (60, 2000)])
def test_penalty_weights_of_wide_data(shape):
    """These may not be rotated, but for equal factors."""
    X, y = data(3, *shape)
    factors = np.random.default_rng(0).uniform(0.5, 2.0, shape[1])
    found = tight(penalty_weights=factors).fit(X, y)
    scaled = tight().fit(X / np.sqrt(factors), y)
    assert relative_distance(found.coef_, scaled.coef_ / np.sqrt(factors)) < PROMISE
    slopes = mean_model(X, y, 3, factors=factors).gradient(pack(found))
    assert np.abs(slopes).max() < 1e-9


@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_equal_penalty_weights_are_another_C(n_classes, factor):
    X, y = data(n_classes)
    found = tight(C=2.0, penalty_weights=np.full(5, factor)).fit(X, y)
    expected = tight(C=2.0 / factor if factor else np.inf).fit(X, y)
    assert relative_distance(pack(found), pack(expected)) < PROMISE
    ones = LogisticRegression(penalty_weights=[1] * 5).fit(X, y)
    np.testing.assert_array_equal(pack(ones), pack(LogisticRegression().fit(X, y)))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_penalty_weight_of_zero_is_no_penalty(n_classes, fit_intercept, solver):
    X, y = data(n_classes)
    factors = np.array([0.0, 1.0, 2.0, 0.0, 1.0])
    optimum, model = oracle(X, y, n_classes, fit_intercept=fit_intercept, C=0.01, factors=factors)
    if n_classes > 2:  # what may shift has mean zero
        optimum = optimum - optimum.mean(axis=0)
    options = {"C": 0.01, "fit_intercept": fit_intercept, "solver": solver}
    found = tight(penalty_weights=factors, **options).fit(X, y)
    assert relative_distance(pack(found), optimum) < PROMISE
    assert np.abs(model.gradient(pack(found))[:, :-1]).max() < 1e-8


def test_an_unpenalised_column_of_ones_is_an_intercept():
    X, y = data(3)
    factors = np.append(np.ones(5), 0.0)
    found = tight(fit_intercept=False, penalty_weights=factors).fit(
        np.column_stack([X, np.ones(len(y))]), y
    )
    assert relative_distance(found.coef_, pack(tight().fit(X, y))) < PROMISE


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_penalty_weights_in_float32_and_sparse(n_classes, dtype):
    X, y = data(n_classes)
    X = np.where(np.abs(X) > 0.3, X, 0.0)
    optimum, _ = oracle(X, y, n_classes, factors=FACTORS)
    tolerance = PROMISE if dtype == np.float64 else PROMISE_FLOAT32
    for storage in (np.asarray, sparse.csr_array):
        found = tight(penalty_weights=FACTORS).fit(storage(X.astype(dtype)), y)
        assert found.coef_.dtype == dtype
        assert relative_distance(pack(found), optimum) < tolerance


def test_penalty_weights_of_an_l1_penalty_are_scales_of_columns():
    X, y = data(3)
    found = tight(C=0.1, l1_ratio=1.0, penalty_weights=FACTORS).fit(X, y)
    scaled = tight(C=0.1, l1_ratio=1.0).fit(X / FACTORS, y)
    np.testing.assert_allclose(found.coef_, scaled.coef_ / FACTORS, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.coef_ == 0.0, scaled.coef_ == 0.0)
    assert np.any(found.coef_ == 0.0)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_standard_errors_with_penalty_weights(n_classes):
    """Those of scaled columns, scaled back."""
    X, y = data(n_classes)
    found = tight(penalty_weights=FACTORS).fit(X, y).standard_errors(X, y)
    scaled = X / np.sqrt(FACTORS)
    expected = tight().fit(scaled, y).standard_errors(scaled, y)
    np.testing.assert_allclose(found.coef, expected.coef / np.sqrt(FACTORS), rtol=1e-6)
    np.testing.assert_allclose(found.intercept, expected.intercept, rtol=1e-6)


def test_a_separating_feature_without_penalty_is_noticed():
    X, y = data(2)
    X = np.column_stack([X, np.where(y > 0, 1.0, -1.0)])
    found = LogisticRegression(penalty_weights=[1, 1, 1, 1, 1, 0]).fit(X, y)
    assert "separable" in found.status_
