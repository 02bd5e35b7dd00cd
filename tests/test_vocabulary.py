"""Sparse data with many features: features joined or left out, and the fit of the dense copy."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from tight import OBJECTIVE, PROMISE, PROMISE_FLOAT32, pack, relative_distance, sample_weights
from tight import tight as tightly

from fastsoftmax import LogisticRegression, LogisticRegressionCV, SoftmaxObjective
from fastsoftmax.linear_model import _solve, _vocabulary
from fastsoftmax.linear_model._vocabulary import (
    _orthonormal_features,
    _product,
    has_vocabulary,
)

DTYPES = (np.float32, np.float64)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
both_numbers_of_classes = pytest.mark.parametrize("n_classes", [2, 3])
PRIMAL = "lbfgs (diagonal, feature-major)"
NAMES = (PRIMAL, "dual coordinate ascent", f"dual coordinate ascent, then {PRIMAL}")

COEF = {np.float64: PROMISE, np.float32: PROMISE_FLOAT32}
VALUE = {np.float64: OBJECTIVE, np.float32: 1e-6}

#: Columns of `data`: with several entries, of which one is a stored zero; with none; with one; with
#: one that is a stored zero.
COMMON, EMPTY, SINGLE, ZERO = slice(0, 8), slice(8, 14), slice(14, 30), slice(30, 33)
N_SAMPLES, N_FEATURES = 75, 33


@functools.cache
def data(n_classes=3, dtype=np.float64):
    """Return a CSR matrix, with singles in few samples, several in some; and labels."""
    rng = np.random.default_rng(0)
    rows, columns = np.nonzero(rng.random((N_SAMPLES, 8)) < 0.3)
    values = rng.normal(size=len(rows))
    values[5] = 0.0
    owners = rng.integers(0, 9, 16) * 8
    rows = np.concatenate([rows, owners, [3, 3, 16]])
    columns = np.concatenate([columns, np.arange(14, 33)])
    values = np.concatenate([values, rng.normal(size=16) + 0.5, np.zeros(3)])
    X = sparse.coo_array((values, (rows, columns)), shape=(N_SAMPLES, N_FEATURES)).tocsr()
    assert X.nnz == len(values)
    logits = X @ rng.normal(size=(N_FEATURES, n_classes)) * 2.0
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    labels[:n_classes] = np.arange(n_classes)
    return X.astype(dtype), labels


@pytest.fixture(params=["from the dual", "primal only"])
def few(request, monkeypatch):
    """A few features count as many."""
    monkeypatch.setattr(_vocabulary, "GRAM_COLUMNS", 5)
    if request.param == "primal only":
        monkeypatch.setattr(_solve, "has_dual", lambda objective, start: False)


def oracle_of(X, labels, C=1.0, weights=None, fit_intercept=True):
    n_classes = int(labels.max()) + 1
    X = X.toarray().astype(float)
    return reference.logistic_optimum(X, labels, n_classes, C, weights, fit_intercept)


def assert_optimal(model, X, labels, C=1.0, weights=None, fit_intercept=True):
    """Assert that a tight fit found the oracle's optimum."""
    dtype = X.dtype.type
    params, oracle = oracle_of(X, labels, C, weights, fit_intercept)
    least = oracle.value(params)
    assert model.solver_ in NAMES
    assert model.converged_
    assert (model.coef_.dtype, model.intercept_.dtype) == (dtype, dtype)
    assert model.coef_.shape == (len(params), X.shape[1])
    assert oracle.value(pack(model)) - least <= VALUE[dtype] * least
    assert relative_distance(pack(model), params) <= COEF[dtype]
    assert not model.coef_[:, np.bincount(X.indices, X.data != 0, X.shape[1]) == 0].any()


# --- The map of features --------------------------------------------------------------------------


@both_dtypes
@settings(deadline=None, derandomize=True, max_examples=100, database=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 40)),
    share=st.floats(0, 0.4),
    share_of_zeros=st.sampled_from([0.0, 0.3, 1.0]),
    may_join=st.booleans(),
    spread=st.sampled_from([0, 10, 150]),
)
def test_the_map_is_orthonormal_and_loses_nothing(
    dtype, seed, shape, share, share_of_zeros, may_join, spread
):
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(rng.random(shape) < share)
    values = rng.normal(size=len(rows))
    values *= 10.0 ** rng.uniform(-1, 1, shape[0])[rows] ** (spread if dtype == np.float64 else 8)
    values[rng.random(len(rows)) < share_of_zeros] = 0.0
    X = sparse.coo_array((values.astype(dtype), (rows, columns)), shape=shape).tocsr()
    T = _orthonormal_features(X, may_join)
    counts = np.bincount(columns, minlength=shape[1])
    is_whole = np.all(counts > (1 if may_join else 0))
    assert (T is None) == (is_whole or not values.any())
    if T is None:
        return
    assert T.dtype == dtype
    few_ulps = 8 * float(np.finfo(dtype).eps)
    identity = (T.T @ T).toarray()
    is_empty = not X.data.any() and T.shape[1] == 1  # then one feature stands for none
    identity[0, 0] += is_empty and not identity[0, 0]
    np.testing.assert_allclose(identity, np.eye(T.shape[1]), rtol=0, atol=few_ulps)
    inner = (X @ T).toarray()
    before = X.copy()
    product = _product(X, T)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(X, name), getattr(before, name))
    assert product.has_canonical_format
    assert 0 <= product.indices.min(initial=0) <= product.indices.max(initial=0) < T.shape[1]
    np.testing.assert_allclose(product.toarray(), inner, rtol=few_ulps, atol=0)
    scale = np.abs(inner).max(axis=1, initial=0.0)
    error = np.abs(inner @ T.T.toarray() - X.toarray()).max(axis=1, initial=0.0)
    assert np.all(error <= few_ulps * scale)
    n_singles = len(np.unique(rows[(counts == 1)[columns] & (values != 0)]))
    n_kept = np.sum(counts > 1)
    assert T.shape[1] == max(1, n_kept + n_singles if may_join else np.sum(counts > 0))


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("other", [1e-300, 1.0, 1e200, 1e308])
def test_a_samples_singles_keep_their_shares_whatever_others_hold(other, scale):
    values = np.array([[3.0 * scale, 4.0 * scale, 0.0], [0.0, 0.0, other]])
    X = sparse.csr_array(values)
    T = _orthonormal_features(X, True).toarray()
    np.testing.assert_allclose(T, [[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]], rtol=1e-15)


def test_signs_are_kept():
    X = sparse.csr_array(np.array([[-3.0, 4.0]]))
    assert (X @ _orthonormal_features(X, True)).toarray() == pytest.approx(np.array([[5.0]]))
    X = sparse.csr_array(np.array([[-2.0, 0.0]]))
    assert (X @ _orthonormal_features(X, True)).toarray() == pytest.approx(np.array([[2.0]]))


# --- The optimum ----------------------------------------------------------------------------------


@both_dtypes
@both_numbers_of_classes
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [1e-4, 1.0, 1e4])
def test_the_optimum(C, fit_intercept, n_classes, dtype, few):
    X, y = data(n_classes, dtype)
    model = tightly(C=C, fit_intercept=fit_intercept).fit(X, y)
    if dtype == np.float32 and C == 1e4:  # flat: the objective tells, coefficients do not
        params, oracle = oracle_of(X, y, C, None, fit_intercept)
        assert oracle.value(pack(model)) <= (1 + 1e-5) * oracle.value(params)
        assert not model.coef_[:, EMPTY].any()
    else:
        assert_optimal(model, X, y, C, None, fit_intercept)
    assert np.all(model.intercept_ == 0) == (not fit_intercept)
    dense = tightly(C=C, fit_intercept=fit_intercept).fit(X.toarray(), y)
    assert dense.solver_ not in NAMES
    bound = max(COEF[dtype], 1e-2 if dtype == np.float32 and C == 1e4 else 0.0)
    assert relative_distance(pack(model), pack(dense)) <= bound
    single = model.coef_[:, SINGLE]
    assert relative_distance(single, dense.coef_[:, SINGLE]) <= 10 * bound
    assert not model.coef_[:, ZERO].any()


@both_dtypes
@both_numbers_of_classes
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_weights(class_weight, n_classes, dtype, few):
    """A row of weight 0 is as if removed, also where it is what makes a column have an entry."""
    X, y = data(n_classes, dtype)
    weights = sample_weights(N_SAMPLES)
    model = tightly(class_weight=class_weight).fit(X, y, weights)
    factors = np.ones(n_classes)
    if class_weight == "balanced":
        factors = weights.sum() / (n_classes * np.bincount(y, weights))
    elif class_weight:
        factors[[0, 1]] = 3.0, 0.5
    whole = weights * factors[y]
    params, oracle = oracle_of(X, y, 1.0, whole)
    assert model.solver_ in NAMES
    assert oracle.value(pack(model)) <= (1 + VALUE[dtype]) * oracle.value(params)
    assert relative_distance(pack(model), params) <= COEF[dtype]
    kept = weights > 0
    fewer = tightly(class_weight=class_weight).fit(X[kept], y[kept], weights[kept])
    assert relative_distance(pack(model), pack(fewer)) <= COEF[dtype]


KINDS = {
    "label smoothing": ({"label_smoothing": 0.2}, {}),
    "soft": ({}, {}),
    "offset": ({}, {"offset": True}),
    "penalty weights": ({"penalty_weights": np.geomspace(0.1, 10.0, N_FEATURES)}, {}),
    "equal penalty weights": ({"penalty_weights": np.full(N_FEATURES, 3.0)}, {}),
    "all": (
        {"label_smoothing": 0.1, "penalty_weights": np.geomspace(1.0, 3.0, N_FEATURES)},
        {"offset": True, "sample_weight": sample_weights(N_SAMPLES)},
    ),
}


@both_dtypes
@both_numbers_of_classes
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_with_a_problem(kind, n_classes, dtype, few):
    X, y = data(n_classes, dtype)
    params, given_data = KINDS[kind]
    rng = np.random.default_rng(1)
    if "offset" in given_data:
        shape = N_SAMPLES if n_classes == 2 else (N_SAMPLES, n_classes)
        given_data = given_data | {"offset": rng.normal(size=shape)}
    if kind in ("soft", "all"):
        y = rng.uniform(0, 2, (N_SAMPLES, n_classes))
    model = tightly(**params).fit(X, y, **given_data)
    dense = tightly(**params).fit(X.toarray(), y, **given_data)
    assert model.solver_ in NAMES
    assert dense.solver_ not in NAMES
    assert model.converged_
    assert relative_distance(pack(model), pack(dense)) <= 2 * COEF[dtype]
    assert model.objective_ == pytest.approx(dense.objective_, rel=10 * VALUE[dtype])
    assert not model.coef_[:, EMPTY].any()
    assert not model.coef_[:, ZERO].any()


def test_singles_of_unequal_penalties_are_not_joined(few):
    X, y = data()
    whole = SoftmaxObjective(X, y, l2=0.1)
    unequal = SoftmaxObjective(X, y, l2=np.linspace(0.1, 0.2, N_FEATURES))
    n_singles = len(np.unique(X.tocsc()[:, SINGLE].indices))
    assert n_singles < 16
    assert _vocabulary.VocabularyFit(whole)._design.n_features == 8 + n_singles
    assert _vocabulary.VocabularyFit(unequal)._design.n_features == 8 + 16 + 3


@both_dtypes
@both_numbers_of_classes
@pytest.mark.parametrize("case", ["only singles", "no entries", "no entries, no columns left"])
def test_little_is_left(case, n_classes, dtype, few):
    rng = np.random.default_rng(0)
    y = np.arange(30) % n_classes
    X = sparse.csr_array((30, 40), dtype=dtype)
    if case == "only singles":
        rows = rng.integers(0, 30, 40)
        values = rng.normal(size=40).astype(dtype)
        X = sparse.coo_array((values, (rows, np.arange(40))), shape=(30, 40)).tocsr()
    elif case == "no entries":
        X = sparse.csr_array((np.zeros(2, dtype), ([1, 2], [3, 4])), shape=(30, 40))
    for fit_intercept in (True, False):
        model = tightly(fit_intercept=fit_intercept).fit(X, y)
        if case == "only singles":
            assert_optimal(model, X, y, fit_intercept=fit_intercept)
        else:
            assert not model.coef_.any()
            np.testing.assert_allclose(model.intercept_, 0.0, atol=1e-6)
            assert model.converged_
        found, expected = model.predict_proba(X[:5]), model.predict_proba(X[:5].toarray())
        np.testing.assert_allclose(found, expected, rtol=8 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("scale", [1e-150, 1e-10, 1e3, 1e10])
@both_numbers_of_classes
def test_magnitudes(scale, n_classes, few):
    """Singles of a sample, huge or tiny beside ordinary columns: those find the same optimum."""
    X, y = data(n_classes)
    is_single = (X.indices >= 14) & (X.indices < 30)
    samples = np.searchsorted(X.indptr, np.arange(X.nnz), side="right") - 1
    owner = np.bincount(samples[is_single]).argmax()
    own = is_single & (samples == owner)
    columns = X.indices[own]
    assert len(columns) > 1
    scaled = X.copy()
    scaled.data[own] *= scale
    model = tightly(tol=1e-9).fit(scaled, y)
    assert model.solver_ in NAMES
    assert model.converged_
    shares = model.coef_[0, columns] / scaled.data[own]  # are in proportion to the values
    np.testing.assert_allclose(shares, shares[0], rtol=1e-12)
    # A tiny one tells nothing; a huge one tells its sample's class for certain, which is then out.
    rows = np.arange(N_SAMPLES)
    without = scaled.copy()
    without.data[own] = 0.0
    weights = np.ones(N_SAMPLES)
    weights[owner] = 1.0 if scale < 1 else 1e-300
    params, _ = oracle_of(without[rows], y, 1.0, weights)
    ordinary = params[:, COMMON]
    # What a huge one leaves of its sample is 1 / scale**2 or so, times a logarithm.
    bound = 1e-6 if scale != 1e3 else 1e-4
    assert relative_distance(model.coef_[:, COMMON], ordinary) <= bound


@both_numbers_of_classes
@pytest.mark.parametrize("scale", [1e150, 1e300])
def test_magnitudes_that_no_tolerance_can_meet(scale, n_classes, few):
    """Their gradient is a rounding times 1e150: the fit may say so, in finite numbers."""
    X, y = data(n_classes)
    X = X.copy()
    X.data[X.indices == 14] *= scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression().fit(X, y)
    assert model.solver_ in NAMES
    assert np.all(np.isfinite(pack(model)))
    assert model.objective_ < np.log(n_classes)


@both_dtypes
def test_rows_of_weight_zero_may_hold_anything(dtype, few):
    """Huge single entries there take nothing from those of others."""
    X, y = data(3, dtype)
    weights = np.ones(N_SAMPLES)
    owner = np.flatnonzero(np.diff(X.indptr) > 2)[0]
    weights[owner] = 0.0
    huge = X.copy()
    huge.data[X.indptr[owner] : X.indptr[owner + 1]] = np.finfo(dtype).max / 4
    extra = sparse.csr_array(([np.finfo(dtype).max / 4], ([owner], [0])), (N_SAMPLES, 1), dtype)
    X, huge = sparse.hstack([X, 0 * extra], "csr"), sparse.hstack([huge, extra], "csr")
    model = tightly().fit(huge, y, weights)
    expected = tightly().fit(X, y, weights)
    assert model.solver_ in NAMES
    assert model.converged_
    assert relative_distance(pack(model), pack(expected)) <= COEF[dtype]


# --- Starts ---------------------------------------------------------------------------------------


@both_dtypes
@both_numbers_of_classes
def test_a_warm_start_anywhere_leads_to_the_optimum(n_classes, dtype, few):
    """Columns without entries are 0 there, and shares of singles right, whatever the start is."""
    X, y = data(n_classes, dtype)
    model = tightly(warm_start=True).fit(X, y)
    rng = np.random.default_rng(0)
    model.coef_ = rng.normal(size=model.coef_.shape).astype(dtype)
    model.intercept_ = rng.normal(size=model.intercept_.shape).astype(dtype)
    model.fit(X, y)
    assert model.n_iter_[0] > 0
    assert_optimal(model, X, y)
    again = tightly(warm_start=True, tol=1e-4)
    again.fit(X, y).fit(X, y)
    assert again.n_iter_[0] <= 1


@both_dtypes
@both_numbers_of_classes
@pytest.mark.parametrize("size", [30.0, 1e3])
def test_a_start_where_all_is_certain(size, n_classes, dtype, few):
    """Probabilities of 0 and 1 have no curvature, which has no inverse."""
    X, y = data(n_classes, dtype)
    model = tightly(warm_start=True, tol=1e-6).fit(X, y)
    expected = pack(model)
    model.intercept_ = (size * np.arange(len(model.intercept_), 0, -1)).astype(dtype)
    model.fit(X, y)
    assert model.converged_
    assert relative_distance(pack(model), expected) <= 1e-3


@pytest.mark.parametrize("C", [1e25, 1e45])
@both_dtypes
def test_a_penalty_that_hardly_counts(C, dtype, few):
    """As little as float32 can hold, and less."""
    X, y = data(3, dtype)
    X = X[:, COMMON]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=C, max_iter=300).fit(X, y)
    assert model.solver_ in NAMES
    assert np.all(np.isfinite(pack(model)))
    dense = LogisticRegression(C=1e6).fit(X.toarray(), y)
    assert model.objective_ <= dense.objective_ + 1e-3


# --- Which objectives -----------------------------------------------------------------------------


def test_which_objectives_are_of_this_kind():
    X = sparse.csr_array(np.eye(20, 2501))
    y = np.arange(20) % 2
    assert has_vocabulary(SoftmaxObjective(X, y, l2=1.0))
    assert has_vocabulary(SoftmaxObjective(X[:, :2500], y, l2=1.0))  # and the intercept
    assert not has_vocabulary(SoftmaxObjective(X[:, :2500], y, l2=1.0, fit_intercept=False))
    assert not has_vocabulary(SoftmaxObjective(X[:, :2499], y, l2=1.0))
    assert not has_vocabulary(SoftmaxObjective(X.toarray(), y, l2=1.0))
    assert not has_vocabulary(SoftmaxObjective(X, y))
    assert not has_vocabulary(SoftmaxObjective(X, y, l2=np.arange(2501.0)))
    for params, is_so in [
        ({}, True),
        ({"solver": "lbfgs"}, True),
        ({"solver": "saga"}, True),
        ({"solver": "newton-cg"}, False),
        ({"l1_ratio": 0.5, "solver": "saga"}, False),
        ({"positive": True}, False),
    ]:
        assert (LogisticRegression(**params).fit(X, y).solver_ in NAMES) == is_so
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert LogisticRegression(C=np.inf, max_iter=2).fit(X, y).solver_ not in NAMES


@both_dtypes
@both_numbers_of_classes
def test_more_features_than_the_limit(n_classes, dtype):
    rng = np.random.default_rng(0)
    X = sparse.random_array((400, 2600), density=0.004, random_state=rng, dtype=dtype).tocsr()
    y = np.arange(400) % n_classes
    model = tightly(C=3.0).fit(X, y)
    assert model.solver_ in NAMES
    dense = tightly(C=3.0).fit(X.toarray(), y)
    assert relative_distance(pack(model), pack(dense)) <= COEF[dtype]
    counts = np.bincount(X.indices, minlength=2600)
    assert np.sum(counts == 0) > 50
    assert np.sum(counts == 1) > 50
    assert not model.coef_[:, counts == 0].any()


# --- What a fit reports ---------------------------------------------------------------------------


@both_dtypes
@both_numbers_of_classes
@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_tol_is_honoured_and_attributes_tell_the_truth(tol, C, n_classes, dtype, few):
    X, y = data(n_classes, dtype)
    model = LogisticRegression(C=C, tol=tol, max_iter=5000).fit(X, y)
    params, oracle = oracle_of(X, y, C)
    least, value = oracle.value(params), oracle.value(pack(model))
    eps = float(np.finfo(dtype).eps)
    assert model.converged_
    assert model.solver_ in NAMES
    assert model.objective_ == pytest.approx(value, rel=64 * eps)
    norm = np.abs(oracle.gradient(pack(model))).max()
    is_float32 = model.solver_ == "dual coordinate ascent"  # it measures so
    assert model.gradient_norm_ == pytest.approx(norm, abs=1e-7 if is_float32 else 64 * eps)
    assert model.gradient_norm_ <= tol or "No further progress" in model.status_
    enough = 0.01 * tol * max(value, 1e-3)
    assert value - least <= 3 * enough + 64 * eps * value
    assert model.n_passes_ > model.n_iter_[0] > 0
    assert model.n_iter_.dtype == np.int32


@pytest.mark.parametrize("max_iter", [0, 1, 4])
def test_max_iter_warns(max_iter, few):
    X, y = data()
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model = LogisticRegression(max_iter=max_iter, tol=1e-9).fit(X, y)
    assert (model.n_iter_, model.converged_) == ([max_iter], False)
    assert model.status_.startswith("The limit of iterations was reached")
    assert max_iter > 0 or not pack(model).any()


def test_several_iterations_more_lower_the_objective(few):
    X, y = data()
    found = []
    for max_iter in range(6):
        with pytest.warns(ConvergenceWarning):
            found.append(LogisticRegression(max_iter=max_iter, tol=1e-9).fit(X, y).objective_)
    assert found == sorted(found, reverse=True)


def test_data_that_overflow_leave_the_estimator_as_it_was(few):
    X, y = data()
    model = LogisticRegression(warm_start=True).fit(X, y)
    before = dict(vars(model))
    huge = X.copy()
    huge.data[...] = 1e308
    for wrong, message in [(huge, "too large"), (X * np.nan, "NaN"), (X[:, :9], "shape")]:
        with pytest.raises(ValueError, match=message):
            model.fit(wrong, y)
        assert list(vars(model)) == list(before)
        assert all(vars(model)[name] is value for name, value in before.items())


@pytest.mark.parametrize("writeable", [False, True])
def test_data_are_not_written_to(writeable, few):
    X, y = data()
    X, before = X.copy(), X.copy()
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = writeable
    tightly().fit(X, y, sample_weights(N_SAMPLES))
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(X, name), getattr(before, name))


@pytest.mark.parametrize("form", ["csr_matrix", "csc_array", "coo_matrix", "lil_array"])
def test_any_sparse_form(form, few):
    X, y = data()
    expected = LogisticRegression().fit(X, y)
    model = LogisticRegression().fit(getattr(sparse, form)(X), y)
    assert model.solver_ in NAMES
    assert relative_distance(pack(model), pack(expected)) <= 1e-12


def test_entries_given_twice_are_one(few):
    """Also where only their sum makes a column one of a single entry."""
    X, y = data()
    halves = sparse.csr_array(
        (np.repeat(0.5 * X.data, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape
    )
    expected = LogisticRegression().fit(X, y)
    np.testing.assert_array_equal(pack(LogisticRegression().fit(halves, y)), pack(expected))


def test_steps_need_not_sum_to_zero(few):
    """What all classes share of the coefficients costs nothing, and is taken away in the end."""
    X, y = data()
    fit = _vocabulary.VocabularyFit(SoftmaxObjective(X, y, l2=0.1))
    start = np.random.default_rng(0).normal(size=(3, N_FEATURES + 1))
    table = fit._table(start.ravel())
    gradient, shifted = np.empty_like(table), np.empty_like(table)
    value = fit._value_and_gradient(table, gradient)
    np.testing.assert_allclose(gradient[:, :3].sum(axis=1), 0.0, atol=1e-15)
    table[:, :3] += np.linspace(-2.0, 5.0, len(table))[:, None]
    assert fit._value_and_gradient(table, shifted) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(shifted, gradient, rtol=0, atol=1e-13)
    params = fit._params(table).reshape(3, -1)
    np.testing.assert_allclose(params[:, :-1].sum(axis=0), 0.0, atol=1e-13)


def test_printing(few, capsys):
    X, y = data()
    model = LogisticRegression(verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_[0] + 2
    assert any(name in lines[-1] for name in NAMES)


# --- Callbacks ------------------------------------------------------------------------------------


class Recorder:
    """Takes down the models shown; may stop the fit, or raise, after some iterations."""

    def __init__(self, stop_at=None, error=None):
        self.stop_at, self.error = stop_at, error
        self.models = []

    def setup(self, estimator, context):
        self.is_set_up = True

    def teardown(self, estimator, context):
        self.is_set_up = False

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata, fitted_estimator):
        pass

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        if context.parent is None or fitted_estimator is None:
            return False
        self.models.append(fitted_estimator)
        if self.error is not None and len(self.models) == 3:
            raise self.error
        return len(self.models) == self.stop_at


@both_dtypes
@both_numbers_of_classes
def test_callbacks_see_models_of_the_users_features(n_classes, dtype, few):
    pytest.importorskip("sklearn.callback", reason="came with scikit-learn 1.9")
    X, y = data(n_classes, dtype)
    recorder = Recorder()
    model = LogisticRegression().set_callbacks(recorder).fit(X, y)
    assert model.solver_ in NAMES
    assert len(recorder.models) == model.n_iter_[0]
    plain = LogisticRegression().fit(X, y)
    np.testing.assert_array_equal(pack(model), pack(plain))
    np.testing.assert_array_equal(pack(recorder.models[-1]), pack(model))
    for i, shown in enumerate(recorder.models[:4], start=1):
        assert shown.coef_.shape == model.coef_.shape
        assert shown.coef_.dtype == dtype
        with pytest.warns(ConvergenceWarning):
            ended = LogisticRegression(max_iter=i, tol=1e-12).fit(X, y)
        np.testing.assert_array_equal(pack(shown), pack(ended))


def test_a_callback_stops_the_fit(few):
    pytest.importorskip("sklearn.callback", reason="came with scikit-learn 1.9")
    X, y = data()
    recorder = Recorder(stop_at=2)
    model = LogisticRegression(tol=1e-12).set_callbacks(recorder).fit(X, y)
    assert (model.n_iter_, model.converged_) == ([2], False)
    assert model.status_.startswith("The caller asked to stop")
    np.testing.assert_array_equal(pack(recorder.models[-1]), pack(model))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_leaves_the_estimator_as_it_was(error, few):
    pytest.importorskip("sklearn.callback", reason="came with scikit-learn 1.9")
    X, y = data()
    model = LogisticRegression(tol=1e-12).fit(X[:50], y[:50])
    recorder = Recorder(error=error())
    model.set_callbacks(recorder)
    before = dict(vars(model))
    with pytest.raises(error):
        model.fit(X, y)
    assert all(vars(model)[name] is value for name, value in before.items())
    assert list(vars(model)) == list(before)
    assert not recorder.is_set_up


# --- Cross-validation -----------------------------------------------------------------------------


@both_dtypes
@both_numbers_of_classes
def test_cross_validation_is_that_of_the_dense_copy(n_classes, dtype, few):
    X, y = data(n_classes, dtype)
    params = {"Cs": [1e-2, 1.0, 1e2], "cv": 3, "scoring": "neg_log_loss", "tol": 1e-8}
    params |= {"max_iter": 3000, "l1_ratios": (0.0,), "use_legacy_attributes": False}
    model = LogisticRegressionCV(**params).fit(X, y)
    dense = LogisticRegressionCV(**params).fit(X.toarray(), y)
    assert np.all(model.C_ == dense.C_)
    bound = 1e-6 if dtype == np.float64 else 2e-3
    np.testing.assert_allclose(np.ravel(model.scores_), np.ravel(dense.scores_), rtol=bound)
    assert relative_distance(pack(model), pack(dense)) <= 10 * bound
    assert not model.coef_[:, EMPTY].any()
