"""Sparse X in every form that SciPy and users give it: the results of its dense copy."""

from __future__ import annotations

import functools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import reference
from child import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import accuracy_score, log_loss, make_scorer
from tight import OBJECTIVE, PROMISE, PROMISE_FLOAT32, RESPONSES, relative_distance
from tight import tight as tightly

from fastsoftmax import LogisticRegression, LogisticRegressionCV, SoftmaxObjective, c_min
from fastsoftmax._validation import as_csr
from fastsoftmax.linear_model._parameters import ALGORITHMS

DTYPES = (np.float64, np.float32)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
properties = settings(deadline=None, derandomize=True, max_examples=60, database=None)

#: Of the distance between coefficients, and of objectives, relative.
COEF = {np.float64: PROMISE, np.float32: PROMISE_FLOAT32}
#: A float32 coefficient is rounded where the objective is flat.
VALUE = {np.float64: OBJECTIVE, np.float32: 1e-6}

N_SAMPLES, N_FEATURES = 91, 12


@functools.cache
def data(n_classes=3, dtype=np.float64):
    """Return X and y; quarters up to 4, which float16 holds, in a quarter of X."""
    rng = np.random.default_rng(0)
    X = rng.integers(-16, 17, (N_SAMPLES, N_FEATURES)) / 4.0
    X[rng.random(X.shape) < 0.75] = 0.0
    logits = X @ rng.normal(size=(N_FEATURES, n_classes)) + rng.gumbel(size=(N_SAMPLES, n_classes))
    X[[0, 5, 6, N_SAMPLES - 1]] = 0.0
    X[:, [3, N_FEATURES - 1]] = 0.0
    X.flags.writeable = False
    return X.astype(dtype), logits.argmax(axis=1)


# --- Forms ----------------------------------------------------------------------------------------


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    return np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(array.dtype)


def strided(array):
    return np.repeat(array, 2)[::2]


def mapped(array, path, name):
    if not array.size:
        return array  # an empty file cannot be mapped
    file = np.memmap(path / name, array.dtype, "w+", shape=array.shape)
    file[...] = array
    return np.memmap(path / name, array.dtype, "r", shape=array.shape)


def with_arrays(X, **changes):
    """Apply functions to some of the arrays of a matrix, whatever its constructor would say."""
    for name, change in changes.items():
        setattr(X, name, change(getattr(X, name)))
    return X


def all_arrays(X, change):
    return with_arrays(X, data=change, indices=change, indptr=change)


def of_dtypes(X, indices, indptr):
    X = sparse.csr_array(X)
    return with_arrays(X, indices=lambda a: a.astype(indices), indptr=lambda a: a.astype(indptr))


def triplets(X, *, cancelling=True, seed=0):
    """Return values, rows and columns in a random order: entries in two parts, zeros from two."""
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(X)
    values = X[rows, columns] * 0.5
    empty = np.argwhere(X == 0)[:: 5 if cancelling else X.size]
    values = np.concatenate([values, values, np.full(len(empty), 2.5), np.full(len(empty), -2.5)])
    rows = np.concatenate([rows, rows, empty[:, 0], empty[:, 0]])
    columns = np.concatenate([columns, columns, empty[:, 1], empty[:, 1]])
    order = rng.permutation(len(values))
    return values[order].astype(X.dtype), rows[order], columns[order]


def repeated(X, format):
    """Return X with repeated entries in a random order, some of which add up to 0."""
    values, rows, columns = triplets(X)
    if format == "coo":
        return sparse.coo_array((values, (rows, columns)), shape=X.shape)
    lines, others = (columns, rows) if format == "csc" else (rows, columns)
    order = np.argsort(lines, kind="stable")
    pointers = np.append(0, np.cumsum(np.bincount(lines, minlength=X.shape[format == "csc"])))
    make = {"csr": sparse.csr_array, "csc": sparse.csc_array, "bsr": sparse.bsr_array}[format]
    data = values[order].reshape(-1, 1, 1) if format == "bsr" else values[order]
    made = make((data, others[order], pointers), shape=X.shape)
    assert not made.has_canonical_format
    return made


def with_stored_zeros(X):
    n, d = X.shape
    columns = np.tile(np.arange(d), n)
    return sparse.csr_array((X.ravel(), columns, np.arange(n + 1) * d), shape=X.shape)


def with_spare_entries(X):
    """Return X with entries beyond the last pointer, which nobody may look at."""
    return with_arrays(
        sparse.csr_array(X),
        data=lambda a: np.append(a, [np.nan, np.inf]).astype(a.dtype),
        indices=lambda a: np.append(a, [10**6, -(10**6)]).astype(a.dtype),
    )


CLASSES = ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")
FORMS = {
    f"{name} {kind}": (lambda X, path, make=f"{name}_{kind}": getattr(sparse, make)(X))
    for name in CLASSES
    for kind in ("array", "matrix")
} | {
    "int64": lambda X, path: of_dtypes(X, np.int64, np.int64),
    "int64 pointers": lambda X, path: of_dtypes(X, np.int32, np.int64),
    "int64 indices": lambda X, path: of_dtypes(X, np.int64, np.int32),
    "int8 indices": lambda X, path: of_dtypes(X, np.int8, np.int16),
    "unsigned indices": lambda X, path: of_dtypes(X, np.uint64, np.uint32),
    "big-endian indices": lambda X, path: of_dtypes(X, ">i4", ">i8"),
    "big-endian": lambda X, path: with_arrays(
        sparse.csr_array(X), data=lambda a: a.astype(a.dtype.newbyteorder(">"))
    ),
    "int64 csc": lambda X, path: of_dtypes(X.T, np.int64, np.int64).T,
    "unsorted": lambda X, path: sparse.csr_array(X[:, ::-1])[:, ::-1],
    "repeated csr": lambda X, path: repeated(X, "csr"),
    "repeated csr, int64": lambda X, path: with_arrays(
        repeated(X, "csr"),
        indices=lambda a: a.astype(np.int64),
        indptr=lambda a: a.astype(np.int64),
    ),
    "repeated csc": lambda X, path: repeated(X, "csc"),
    "repeated coo": lambda X, path: repeated(X, "coo"),
    "repeated bsr": lambda X, path: repeated(X, "bsr"),
    "blocks": lambda X, path: sparse.csr_array(X).tobsr((7 if len(X) % 7 == 0 else 1, 3)),
    "stored zeros": lambda X, path: with_stored_zeros(X),
    "spare entries": lambda X, path: with_spare_entries(X),
    "read-only": lambda X, path: all_arrays(sparse.csr_array(X), read_only),
    "read-only csc": lambda X, path: all_arrays(sparse.csc_array(X), read_only),
    "read-only, repeated": lambda X, path: all_arrays(repeated(X, "csr"), read_only),
    "memory-mapped": lambda X, path: with_arrays(
        sparse.csr_array(X),
        data=lambda a: mapped(a, path, "data"),
        indices=lambda a: mapped(a, path, "indices"),
        indptr=lambda a: mapped(a, path, "indptr"),
    ),
    "unaligned": lambda X, path: all_arrays(sparse.csr_array(X), unaligned),
    "strided": lambda X, path: all_arrays(sparse.csr_array(X), strided),
    "rows of a matrix": lambda X, path: sparse.csr_array(np.vstack([X, X, X]))[len(X) : 2 * len(X)],
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def contents(X):
    """Return all that a matrix holds: arrays by their place, dtype and bytes."""
    if X.format == "dok":
        return dict(X.items())
    if X.format == "lil":
        return X.rows.tolist(), X.data.tolist()
    arrays = [X.data, *(X.coords if X.format == "coo" else ())]
    arrays += [getattr(X, name) for name in ("indices", "indptr", "offsets") if hasattr(X, name)]
    return type(X), X.shape, [(a.ctypes.data, a.dtype.str, a.tobytes()) for a in arrays]


def assert_same_fit(found, expected, dtype=np.float64):
    assert found.coef_.dtype == found.intercept_.dtype == dtype
    assert relative_distance(found.coef_, expected.coef_) < COEF[dtype]
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=10 * COEF[dtype])
    np.testing.assert_allclose(found.objective_, expected.objective_, rtol=VALUE[dtype])
    assert found.converged_ == expected.converged_
    np.testing.assert_array_equal(found.classes_, expected.classes_)


def assert_same_responses(model, X, dense, **params):
    """Assert that a model says the same of X and its dense copy, up to rounding."""
    assert sparse.issparse(X)
    eps = np.finfo(model.coef_.dtype).eps
    for response in RESPONSES:
        found, expected = (getattr(model, response)(Z, **params) for Z in (X, dense))
        assert found.dtype == expected.dtype
        if response == "predict":
            P = np.sort(model.predict_proba(dense, **params), axis=1)
            is_clear = P[:, -1] - P[:, -2] > 1e3 * eps  # rounding decides ties
            assert is_clear.mean() > 0.9 or len(P) == 1
            np.testing.assert_array_equal(found[is_clear], expected[is_clear])
        else:  # logits are sums of at most 12 terms below 10
            np.testing.assert_allclose(found, expected, rtol=200 * eps, atol=200 * eps)


@functools.cache
def dense_fit(n_classes, dtype):
    return tightly().fit(*data(n_classes, dtype))


@both_dtypes
@every_form
def test_a_fit_is_that_of_the_dense_copy(form, dtype, tmp_path):
    X, y = data(3, dtype)
    made = form(X, tmp_path)
    before = contents(made)
    model = tightly().fit(made, y)
    expected = dense_fit(3, dtype)
    if made.dtype in DTYPES:
        assert_same_fit(model, expected, dtype)
    else:  # neither NumPy's float64 nor float32: as a dense array, taken to float64
        assert_same_fit(model, dense_fit(3, np.float64))
    assert_same_responses(expected, made, X.astype(made.dtype))
    assert model.score(made, y) == expected.score(X, y)
    assert expected.score(made, y, np.arange(N_SAMPLES)) == pytest.approx(
        accuracy_score(y, expected.predict(X), sample_weight=np.arange(N_SAMPLES)), rel=1e-12
    )
    assert contents(made) == before


@every_form
def test_a_row_is_that_of_the_dense_copy(form, tmp_path):
    X, _ = data()
    model = dense_fit(3, np.float64)
    for i in (0, 1, 2):  # the first one is empty
        row = form(X[[i]], tmp_path)
        before = contents(row)
        assert_same_responses(model, row, X[[i]])
        assert contents(row) == before
    wide = LogisticRegression().fit(np.pad(X, ((0, 0), (0, 500))), data()[1])
    row = sparse.csr_array(np.pad(X[[1]], ((0, 0), (0, 500))))  # few entries for its columns
    assert_same_responses(wide, row, row.toarray())


@every_form
@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_objective_is_that_of_the_dense_copy(form, n_classes, tmp_path):
    X, y = data(n_classes)
    made = form(X, tmp_path)
    before = contents(made)
    weights = np.random.default_rng(1).uniform(size=N_SAMPLES) * (np.arange(N_SAMPLES) % 5 > 0)
    found = SoftmaxObjective(made, y, sample_weight=weights, l2=0.1)
    oracle = reference.LinearModel(X, reference.one_hot(y, n_classes), weights, l2=0.1)
    params, direction = np.random.default_rng(2).normal(size=(2, *found.shape))
    value, gradient = found.value_and_gradient(params)
    assert value == found.value(params)
    assert value == pytest.approx(oracle.value(params), rel=1e-13)
    np.testing.assert_allclose(gradient, oracle.gradient(params), atol=1e-13)
    expected = oracle.hessian(params) @ direction.ravel()
    for product in (
        found.hessian_vector_product(params, direction),
        found.hessian_operator(params)(direction),
    ):
        np.testing.assert_allclose(product.ravel(), expected, atol=1e-12)
    assert contents(made) == before


# Values that are no floats of NumPy's are taken to float64


def of_value(dtype):
    return {
        "csr": lambda X: with_arrays(sparse.csr_array(X), data=lambda a: a.astype(dtype)),
        "csc": lambda X: with_arrays(sparse.csc_array(X), data=lambda a: a.astype(dtype)),
        "coo": lambda X: with_arrays(sparse.coo_array(X), data=lambda a: a.astype(dtype)),
        "bsr": lambda X: with_arrays(sparse.bsr_array(X), data=lambda a: a.astype(dtype)),
    }


VALUES = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "g", "f4", "f8")


@pytest.mark.parametrize("dtype", VALUES)
@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr"])
def test_values_of_any_dtype(format, dtype):
    X, y = data()
    X = np.abs(4 * X).astype(dtype)
    model = tightly(C=0.1)
    made = of_value(dtype)[format](X.astype(np.float64))
    assert made.dtype == np.dtype(dtype)
    before = contents(made)
    expected = tightly(C=0.1).fit(X, y)
    assert_same_fit(model.fit(made, y), expected, np.float32 if dtype == "f4" else np.float64)
    assert_same_responses(expected, made, X)
    assert contents(made) == before


@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
def test_repeated_integers_are_added_up_as_floats(format):
    """Whose sums int8 could not hold."""
    X, y = data()
    coo = sparse.coo_array(np.abs(4 * X))
    parts = (np.tile(coo.data.astype(np.int8), 20), tuple(np.tile(a, 20) for a in coo.coords))
    made = sparse.coo_array(parts, shape=X.shape)
    if format == "csr":
        made = from_coo(made)
    if format == "csc":
        made = from_coo(sparse.coo_array((made.data, made.coords[::-1]), shape=X.shape[::-1])).T
    assert made.dtype == np.int8
    assert made.nnz == 20 * coo.nnz
    assert made.format == format
    # Its columns are of size 100, where 1e-12 of the gradient is rounding.
    found = LogisticRegression(tol=1e-8).fit(made, y)
    expected = LogisticRegression(tol=1e-8).fit(20 * np.abs(4 * X), y)
    assert_same_responses(expected, made, 20 * np.abs(4 * X))
    np.testing.assert_allclose(found.objective_, expected.objective_, rtol=1e-9)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-5)


def from_coo(coo):
    """Return CSR with the repeated entries of a COO matrix."""
    rows, columns = coo.coords
    order = np.argsort(rows, kind="stable")
    pointers = np.append(0, np.cumsum(np.bincount(rows, minlength=coo.shape[0])))
    return sparse.csr_array((coo.data[order], columns[order], pointers), shape=coo.shape)


# Random structures


@st.composite
def matrices(draw):
    """Return entries (value, row, column), repeated as they come, a shape, and a format."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    entry = st.tuples(st.integers(-8, 8), st.integers(0, n - 1), st.integers(0, d - 1))
    entries = draw(st.lists(entry, max_size=40))
    if draw(st.booleans()):  # pairs that cancel
        entries += [(-value, row, column) for value, row, column in entries[::2]]
    index_dtypes = draw(st.tuples(*[st.sampled_from([np.int32, np.int64])] * 2))
    return entries, (n, d), index_dtypes, draw(st.sampled_from(CLASSES)), draw(st.booleans())


@properties
@given(matrices(), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_any_structure_is_the_sum_of_its_entries(matrix, dtype, seed):
    entries, shape, index_dtypes, format, is_matrix = matrix
    values, rows, columns = np.array(entries, int).reshape(-1, 3).T
    dense = np.zeros(shape)
    np.add.at(dense, (rows, columns), values / 4.0)
    coo = sparse.coo_array((values.astype(dtype) / dtype(4.0), (rows, columns)), shape=shape)
    made = from_coo(coo) if format == "csr" else coo.asformat(format)
    if is_matrix:
        made = getattr(sparse, f"{format}_matrix")(made)
    if format in ("csr", "csc", "bsr"):
        made.indices, made.indptr = (
            a.astype(t) for a, t in zip((made.indices, made.indptr), index_dtypes, strict=True)
        )
    before = contents(made)
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, shape[0])
    found = SoftmaxObjective(made, y, n_classes=3, l2=0.5)
    params, direction = rng.normal(size=(2, *found.shape)).astype(np.float32).astype(np.float64)
    oracle = reference.LinearModel(dense, reference.one_hot(y, 3), l2=0.5)
    bound = 1000 * float(np.finfo(dtype).eps)
    value, gradient = found.value_and_gradient(params)
    assert found.dtype == dtype
    assert value == pytest.approx(oracle.value(params), rel=bound)
    np.testing.assert_allclose(gradient, oracle.gradient(params), atol=bound)
    np.testing.assert_allclose(
        found.hessian_vector_product(params, direction).ravel(),
        oracle.hessian(params) @ direction.ravel(),
        atol=10 * bound,
    )
    model = LogisticRegression()
    model.classes_, model.n_features_in_ = np.arange(3), shape[1]
    model.coef_, model.intercept_ = params[:, :-1].astype(dtype), params[:, -1].astype(dtype)
    logits = oracle.logits(params)
    np.testing.assert_allclose(model.decision_function(made), logits, atol=bound)
    np.testing.assert_allclose(model.predict_proba(made), reference.softmax(logits), atol=bound)
    assert contents(made) == before


# --- Options --------------------------------------------------------------------------------------


@functools.cache
def weights():
    values = np.random.default_rng(1).uniform(0.0, 3.0, N_SAMPLES)
    values[::7] = 0.0
    return values


def offsets(n_classes):
    shape = (N_SAMPLES, n_classes)
    return np.random.default_rng(2).normal(size=shape)


L1 = {"tol": 1e-9, "C": 0.5}
OPTIONS = {
    "default": {},
    "without intercept": {"fit_intercept": False},
    "strong penalty": {"C": 1e-2},
    "no penalty": {"C": np.inf, "tol": 1e-9},
    "class weights": {"class_weight": {0: 1.5, 1: 0.25}},
    "balanced": {"class_weight": "balanced"},
    "l1": {**L1, "l1_ratio": 1.0},
    "l1, saga": {**L1, "l1_ratio": 1.0, "solver": "saga"},
    "elastic net": {**L1, "l1_ratio": 0.4},
    "l1, weights of the penalty": {
        **L1,
        "l1_ratio": 0.5,
        "penalty_weights": np.arange(N_FEATURES) / 4.0,
    },
    "smoothing": {"label_smoothing": 0.2},
    "positive": {"positive": True, "tol": 1e-9},
    "bounds": {"bounds": (-0.1, 0.2), "tol": 1e-9},
    "weights of the penalty": {"penalty_weights": np.linspace(0.5, 3, N_FEATURES)},
} | {name: {"solver": name} for name in sorted(ALGORITHMS) if name != "liblinear"}


def both(n_classes, X_form, y, options, **params):
    X, labels = data(n_classes)
    y = labels if y is None else y
    return [tightly(**options).fit(Z, y, **params) for Z in (X_form, X)]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(name, n_classes):
    X, y = data(n_classes)
    if name == "no penalty":  # rare columns separate: drop them
        X, y = (
            np.tile(X[:, :3], (6, 1)),
            np.random.default_rng(0).integers(0, n_classes, 6 * len(X)),
        )
        found, expected = (tightly(**OPTIONS[name]).fit(Z, y) for Z in (repeated(X, "csr"), X))
    else:
        found, expected = both(n_classes, repeated(X, "csr"), None, OPTIONS[name])
    assert_same_fit(found, expected)
    assert_same_responses(found, repeated(X, "csr"), X)
    if "l1_ratio" in OPTIONS[name] or "bounds" in OPTIONS[name] or "positive" in OPTIONS[name]:
        assert 0 < np.count_nonzero(expected.coef_) < expected.coef_.size
        np.testing.assert_array_equal(found.coef_ == 0, expected.coef_ == 0)


def test_liblinear():
    X, _ = data(2)
    for options in ({}, {"l1_ratio": 1.0, **L1}):
        assert_same_fit(*both(2, repeated(X, "csr"), None, {"solver": "liblinear", **options}))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_comes_with_samples(n_classes):
    X, _ = data(n_classes)
    csr, csc = repeated(X, "csr"), repeated(X, "csc")
    masses = np.random.default_rng(3).exponential(size=(N_SAMPLES, n_classes))
    masses[4] = 0.0
    offset = offsets(n_classes)
    for form in (csr, csc):
        assert_same_fit(*both(n_classes, form, None, {}, sample_weight=weights()))
        found, expected = both(n_classes, form, masses, {}, sample_weight=weights())
        assert_same_fit(found, expected)
        assert found.score(form, masses) == pytest.approx(expected.score(X, masses), rel=1e-12)
        found, expected = both(n_classes, form, None, {}, offset=offset)
        assert_same_fit(found, expected)
        assert_same_responses(found, form, X, offset=offset)
    found, expected = both(
        n_classes, csr, masses, {**L1, "l1_ratio": 0.3}, sample_weight=weights(), offset=offset
    )
    assert_same_fit(found, expected)


@pytest.mark.parametrize("solver", ["auto", "newton-cg"])
def test_warm_start(solver):
    X, y = data()
    csr = repeated(X, "csr")
    options = {"warm_start": True, "solver": solver}
    found, expected = both(3, csr, None, options)
    n_iterations = found.n_iter_[0]
    for model, Z in ((found, csr), (expected, X)):
        model.set_params(C=1.1).fit(Z, y)
    assert_same_fit(found, expected)
    assert_same_fit(found, tightly(C=1.1).fit(X, y))
    # From the dense model to sparse X and back: attributes know nothing of X.
    n_iterations = found.n_iter_[0]
    assert found.fit(X, y).n_iter_[0] < n_iterations
    assert expected.fit(csr, y).n_iter_[0] < n_iterations


def test_equal_to_the_oracle():
    X, y = data()
    optimum, oracle = reference.logistic_optimum(X, y, 3, C=0.7, weights=weights())
    model = tightly(C=0.7).fit(repeated(X, "csr"), y, weights())
    params = np.column_stack([model.coef_, model.intercept_])
    # The class of intercepts is free by a shift.
    optimum[:, -1] -= optimum[:, -1].mean()
    assert relative_distance(params, optimum) < PROMISE
    assert model.objective_ == pytest.approx(oracle.value(optimum), rel=OBJECTIVE)


SCORINGS = {
    "default": None,
    "log-loss": "neg_log_loss",
    "another": make_scorer(log_loss, response_method="predict_proba", labels=[0, 1, 2]),
    "a function": lambda model, X, y: np.mean(model.predict(X) == y),
}


@pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS.keys())
@pytest.mark.parametrize("form", ["csr array", "int64", "repeated csr", "csc matrix"])
def test_cross_validation(form, scoring, tmp_path):
    X, y = data()
    made = FORMS[form](X, tmp_path)
    before = contents(made)
    options = {"Cs": [0.05, 1.0], "cv": 3, "tol": 1e-10, "max_iter": 10_000, "scoring": scoring}
    options |= {"use_legacy_attributes": False, "l1_ratios": (0.0,)}
    found, expected = (LogisticRegressionCV(**options).fit(Z, y) for Z in (made, X))
    np.testing.assert_allclose(found.scores_, expected.scores_, rtol=1e-6)
    np.testing.assert_allclose(found.coefs_paths_, expected.coefs_paths_, atol=1e-6)
    assert found.C_ == expected.C_
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-6)
    assert_same_responses(expected, made, X)
    assert found.score(made, y) == pytest.approx(expected.score(X, y), rel=1e-6)
    assert contents(made) == before


@pytest.mark.parametrize("l1_ratios", [(1.0,), (0.0, 0.6)])
def test_cross_validation_with_weights_and_an_l1_penalty(l1_ratios):
    X, y = data(2)
    options = {"Cs": [0.2, 1.0], "cv": 3, "tol": 1e-9, "max_iter": 10_000, "solver": "saga"}
    options |= {"scoring": "neg_log_loss", "l1_ratios": l1_ratios, "use_legacy_attributes": False}
    found, expected = (
        LogisticRegressionCV(**options).fit(Z, y, weights()) for Z in (repeated(X, "csr"), X)
    )
    np.testing.assert_allclose(found.scores_, expected.scores_, rtol=1e-5)
    np.testing.assert_allclose(found.coefs_paths_, expected.coefs_paths_, atol=1e-5)
    assert (found.C_, found.l1_ratio_) == (expected.C_, expected.l1_ratio_)


@pytest.mark.parametrize("form", ["csr array", "repeated csr", "coo matrix"])
def test_c_min(form, tmp_path):
    X, y = data()
    found, expected = (c_min(Z, y, sample_weight=weights()) for Z in (FORMS[form](X, tmp_path), X))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("form", ["csr array", "repeated csr", "csc matrix"])
def test_inference(form, tmp_path):
    X, y = data()
    made = FORMS[form](X, tmp_path)
    model = dense_fit(3, np.float64)
    found, expected = (model.standard_errors(Z, y) for Z in (made, X))
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-9)
    np.testing.assert_allclose(found.intercept, expected.intercept, rtol=1e-9)
    found, expected = (model.summary(Z, y, baseline=0) for Z in (made, X))
    assert str(found) == str(expected)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_to_sklearn(n_classes):
    X, y = data(n_classes)
    csr = sparse.csr_array(X)
    model = tightly().fit(csr, y)
    other = model.to_sklearn()
    np.testing.assert_allclose(other.predict_proba(csr), model.predict_proba(csr), atol=1e-14)
    np.testing.assert_array_equal(other.predict(csr), model.predict(csr))


def test_sparse_coefficients_at_sparse_rows():
    X, y = data()
    model = tightly(l1_ratio=1.0, C=0.5, tol=1e-9).fit(sparse.csr_array(X), y)
    dense = model.predict_proba(X)
    model.sparsify()
    np.testing.assert_allclose(model.predict_proba(repeated(X, "csr")), dense, atol=1e-14)


# --- Sizes ----------------------------------------------------------------------------------------


@both_dtypes
def test_no_entries(dtype):
    X = sparse.csr_array((30, 4), dtype=dtype)
    y = np.arange(30) % 5 % 3
    model = tightly().fit(X, y)
    assert not model.coef_.any()
    shares = np.bincount(y) / 30
    np.testing.assert_allclose(model.predict_proba(X[:2]), [shares] * 2, rtol=1e-5)


def test_one_column():
    X, y = data()
    found, expected = (tightly().fit(Z, y) for Z in (sparse.csr_array(X[:, [0]]), X[:, [0]]))
    assert_same_fit(found, expected)
    assert_same_responses(found, sparse.csr_matrix(X[:, [0]]), X[:, [0]])


def spread(X, n_features):
    """Return X as CSR with its columns spread over `n_features`, and their places."""
    places = np.sort(np.random.default_rng(4).choice(n_features, X.shape[1], replace=False))
    places[-1] = n_features - 1
    csr = sparse.csr_array(X)
    arrays = (csr.data, places[csr.indices].astype(np.int64), csr.indptr.astype(np.int64))
    return sparse.csr_array(arrays, shape=(len(X), n_features)), places


@pytest.mark.parametrize("n_classes", [2, 3])
def test_columns_without_entries_change_nothing(n_classes):
    X, y = data(n_classes)
    wide, places = spread(X, 100_000)
    assert wide.indices.dtype == np.int64
    found, expected = (LogisticRegression(tol=1e-9).fit(Z, y) for Z in (wide, X))
    np.testing.assert_allclose(found.coef_[:, places], expected.coef_, atol=1e-6)
    assert np.count_nonzero(found.coef_) == np.count_nonzero(found.coef_[:, places])
    for rows in (slice(0, 1), slice(1, 2), slice(0, 50)):
        np.testing.assert_allclose(
            found.predict_proba(wide[rows]), expected.predict_proba(X[rows]), atol=1e-7
        )


def test_nothing_is_densified():
    """Not X of 8 GB, nor one of its rows for each sample of a pass."""
    rng = np.random.default_rng(0)
    n_samples, n_features, n_entries = 4000, 2**18, 6
    columns = rng.integers(0, n_features, (n_samples, n_entries))
    y = rng.integers(0, 2, n_samples)
    columns[:, 0] = 7 + y * (rng.random(n_samples) < 0.8)
    X = sparse.csr_array(
        (np.ones(columns.size), columns.ravel(), np.arange(n_samples + 1) * n_entries),
        shape=(n_samples, n_features),
    )
    model = LogisticRegression(tol=1e-2).fit(X, y)  # imports and compiles, too
    assert model.score(X, y) > 0.6
    peaks = []
    for call in (lambda: model.fit(X, y), lambda: model.predict_proba(X)):
        tracemalloc.start()
        try:
            call()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[0] < n_samples * n_features / 2  # a sixteenth of a dense X; vectors of a solver
    assert peaks[1] < 2**24


# --- Corrupt matrices: SciPy's conversions, and so scikit-learn, crash on some of these -----------


def entry(position, value):
    def change(array):
        array = array.copy()
        array[position] = value
        return array

    return change


def without_last(array):
    return array[:-1]


def with_one_more(array):
    return np.append(array, array[-1:])


def as_floats(array):
    return array.astype(np.float64)


def as_column(array):
    return array[:, None]


def compressed(format):
    shape = (7, 3) if format == "bsr" else None

    def make(X, **changes):
        csr = sparse.csr_array(X)
        made = csr.tobsr(shape) if shape else csr.asformat(format)
        return with_arrays(made.copy(), **changes)

    wrong = {
        "an index too large": ({"indices": entry(5, 1000)}, "must be in .0, .*there is 1000"),
        "an index far too large": ({"indices": entry(5, 2**30)}, "there is 1073741824"),
        "the first index too large": ({"indices": entry(-1, X_WIDTH[format])}, "indices must be"),
        "a negative index": ({"indices": entry(0, -1)}, "there is -1"),
        "a far negative index": ({"indices": entry(0, -(2**31))}, "there is -2147483648"),
        "indices of floats": ({"indices": as_floats}, "indices must hold integers.*float64"),
        "pointers of floats": ({"indptr": as_floats}, "indptr must hold integers.*float64"),
        "too few indices": ({"indices": without_last}, "indices for .* entries of data"),
        "too many indices": ({"indices": with_one_more}, "indices for .* entries of data"),
        "too few entries": ({"data": without_last}, "indices for .* entries of data"),
        "too few of both": (
            {"data": without_last, "indices": without_last},
            "indptr ends with .*, but there are",
        ),
        "too few pointers": ({"indptr": without_last}, "shape .* asks for"),
        "too many pointers": ({"indptr": with_one_more}, "shape .* asks for"),
        "no pointers": ({"indptr": lambda a: a[:0]}, "indptr has 0 entries"),
        "pointers that start late": ({"indptr": entry(0, 1)}, "starts with 1"),
        "pointers that start early": ({"indptr": entry(0, -3)}, "starts with -3"),
        "pointers that jump": ({"indptr": entry(2, 10_000)}, "must not decrease"),
        "pointers that fall": ({"indptr": entry(2, -10_000)}, "must not decrease"),
        "a late end": ({"indptr": entry(-1, 10_000)}, "ends with 10000"),
        "a negative end": ({"indptr": entry(-1, -5)}, "must not decrease"),
        "indices in two dimensions": ({"indices": as_column}, "indices and indptr one"),
        "pointers in two dimensions": ({"indptr": as_column}, "indices and indptr one"),
        "data in other dimensions": (
            {"data": lambda a: a[0] if format == "bsr" else a[:, None]},
            "data must have . dimensions",
        ),
    }
    return {
        f"{format}, {name}": (format, functools.partial(make, **changes), message)
        for name, (changes, message) in wrong.items()
    }


#: What the indices must be below.
X_WIDTH = {"csr": N_FEATURES, "csc": N_SAMPLES, "bsr": N_FEATURES // 3}


def coordinates(axis, change):
    def make(X):
        coo = sparse.coo_array(X)
        coo.coords = tuple(change(a) if k == axis else a for k, a in enumerate(coo.coords))
        return coo

    return make


def lists(row, columns, values):
    def make(X):
        lil = sparse.lil_array(X)
        lil.rows[row], lil.data[row] = columns, values
        return lil

    return make


def with_key(key):
    def make(X):
        dok = sparse.dok_array(X)
        dok._dict[key] = 1.0
        return dok

    return make


CORRUPT = {
    **compressed("csr"),
    **compressed("csc"),
    **compressed("bsr"),
    "bsr, blocks that do not fit": (
        "bsr",
        lambda X: with_arrays(
            sparse.csr_array(X).tobsr((7, 3)), data=lambda a: np.zeros((len(a), 7, 5))
        ),
        "not divisible",
    ),
    "csr, narrow negative indices": (
        "csr",
        lambda X: with_arrays(sparse.csr_array(X), indices=lambda a: entry(3, -7)(a.astype("i1"))),
        "there is -7",
    ),
    "csr, a 64-bit index": (
        "csr",
        lambda X: with_arrays(
            sparse.csr_array(X), indices=lambda a: entry(3, 2**32)(a.astype("i8"))
        ),
        "there is 4294967296",
    ),
    **{
        f"coo, {name} {axis}": ("coo", coordinates(axis, change), message)
        for axis in (0, 1)
        for name, change, message in (
            ("too large", entry(5, 1000), f"axis {axis} must be in .*there is 1000"),
            ("far too large", entry(5, 2**30), f"axis {axis} must be in .*there is"),
            ("negative", entry(0, -1), "there is -1"),
            ("far negative", entry(0, -5_000_000), "there is -5000000"),
            ("floats", as_floats, "must hold integers"),
            ("too few", without_last, "coordinates for"),
        )
    },
    "lil, column too large": ("lil", lists(2, [1000], [1.0]), "there is 1000"),
    "lil, negative column": ("lil", lists(2, [-5], [1.0]), "there is -5"),
    "lil, too many values": ("lil", lists(2, [1], [1.0] * 5000), "as many columns as values"),
    "lil, too few values": ("lil", lists(2, [1, 2, 3], [1.0]), "as many columns as values"),
    "lil, names": ("lil", lists(2, ["a"], [1.0]), "integer"),
    "lil, too few rows": (
        "lil",
        lambda X: with_arrays(sparse.lil_array(X), rows=lambda a: a[:3]),
        "rows has shape",
    ),
    "dok, row too large": ("dok", with_key((1000, 2)), "1000"),
    "dok, column too large": ("dok", with_key((2, 1000)), "1000"),
    "dok, negative column": ("dok", with_key((2, -1000)), "negative"),
    "dia, too many offsets": (
        "dia",
        lambda X: with_arrays(sparse.dia_array(X), offsets=lambda a: np.arange(1000)),
        "offsets of shape",
    ),
    "dia, flat data": (
        "dia",
        lambda X: with_arrays(sparse.dia_array(X), data=lambda a: a[0]),
        "offsets of shape",
    ),
    "dia, repeated offsets": (
        "dia",
        lambda X: with_arrays(sparse.dia_array(X), offsets=np.zeros_like),
        "each of them once",
    ),
}


@functools.cache
def calls():
    """Return all that takes X, as functions of it."""
    X, y = data()
    model = LogisticRegression().fit(X, y)
    options = {"l1_ratios": (0.0,), "use_legacy_attributes": False, "scoring": "neg_log_loss"}
    validated = LogisticRegressionCV(Cs=[0.1], cv=2, **options).fit(X, y)
    masses = np.eye(3)[y]
    return {
        "fit": lambda Z: LogisticRegression().fit(Z, y),
        "fit of masses": lambda Z: LogisticRegression().fit(Z, masses),
        "refit": lambda Z: model.fit(Z, y),
        **{response: getattr(model, response) for response in RESPONSES},
        "score": lambda Z: model.score(Z, y),
        "score of masses": lambda Z: model.score(Z, masses),
        "standard errors": lambda Z: model.standard_errors(Z, y),
        "objective": lambda Z: SoftmaxObjective(Z, y),
        "c_min": lambda Z: c_min(Z, y),
        "cross-validation": lambda Z: validated.fit(Z, y),
        "cross-validated": validated.predict_proba,
        "cross-validated score": lambda Z: validated.score(Z, y),
    }


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("name", CORRUPT)
def test_what_is_wrong_with_a_matrix(name):
    format, make, message = CORRUPT[name]
    with pytest.raises(
        ValueError, match=rf"^X is a corrupt {format.upper()} matrix: .*{message}.*\. Rebuild it"
    ):
        as_csr(make(data()[0]))


def refuse_all():
    """Refuse every corrupt matrix, wherever X is taken, and return how many."""
    X, _ = data()
    n = 0
    for call_name, call in calls().items():
        for name, (format, make, _) in CORRUPT.items():
            with pytest.raises(ValueError, match=f"corrupt {format.upper()} matrix") as refusal:
                call(make(X))
            assert "Rebuild it" in str(refusal.value), (call_name, name)
            n += 1
    return n


def test_corrupt_matrices_are_refused_wherever_x_is_taken():
    """In a process of its own, which might not survive."""
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_sparse_inputs import refuse_all
        print(refuse_all())
    """
    assert int(run_python(code)) == len(CORRUPT) * len(calls())


@pytest.mark.parametrize("form", [name for name in FORMS if name.split()[0] in (*CLASSES, "int64")])
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "Input X contains NaN"), (-np.inf, "X contains infinity")]
)
def test_numbers_that_are_not_finite_are_refused(form, value, message, tmp_path):
    X, _ = data()
    bad = X.copy()
    bad[2, 3] = value
    for name, call in calls().items():
        with pytest.raises(ValueError, match=message):
            call(FORMS[form](bad, tmp_path))
        assert name


@pytest.mark.parametrize("format", CLASSES)
def test_shapes_that_do_not_fit_are_refused(format):
    X, _ = data()
    model = dense_fit(3, np.float64)
    narrow, short = sparse.csr_array(X[:, 1:]), sparse.csr_array(X[:-1])
    for response in RESPONSES:
        with pytest.raises(ValueError, match=r"X has 11 features, but .* expecting 12"):
            getattr(model, response)(narrow.asformat(format))
    for call in ("fit", "objective", "cross-validation", "score", "c_min"):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            calls()[call](short.asformat(format))
