"""Predictions skip validation where it could only say yes: nobody may be able to tell."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.exceptions import NotFittedError

import fastsoftmax.linear_model._logistic as module
from fastsoftmax import LogisticRegression
from fastsoftmax._designs import Response, predict
from fastsoftmax._validation import passes_if_finite

RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")
both_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])
every_response = pytest.mark.parametrize("response", RESPONSES)

N_SAMPLES, N_FEATURES = 70, 5  # more than a block, and no multiple of 4
NAMES = list("abcde")


class Subclass(np.ndarray):
    pass


class Convertible:
    """An object that becomes an array when asked, and takes part in NumPy's dispatch."""

    def __init__(self, X):
        self.X = X

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.X, dtype)

    def __array_function__(self, function, types, args, kwargs):
        return NotImplemented


def rows(dtype, n_classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(N_SAMPLES) % n_classes
    X = rng.normal(size=(N_SAMPLES, N_FEATURES)) + np.eye(n_classes, N_FEATURES)[y]
    return X.astype(dtype), y


def fitted(dtype, n_classes=3, **params):
    return LogisticRegression(**params).fit(*rows(dtype, n_classes))


def changed(X, index, value):
    X = X.copy()
    X[index] = value
    return X


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def unaligned(X):
    return np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(X.dtype).reshape(X.shape)


def memmapped(X, path):
    file = np.memmap(path / "X", X.dtype, "w+", shape=X.shape)
    file[...] = X
    return file


def matrix(X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(X)


class SparseSubclass(sparse.csr_array):
    pass


def csr(X, **arrays):
    """Return what is beyond 0.3 in X as CSR, with some of its arrays replaced."""
    made = sparse.csr_array(np.where(np.abs(X) > 0.3, X, 0) + np.where(np.isfinite(X), 0, X))
    for name, change in arrays.items():
        setattr(made, name, change(getattr(made, name)))
    return made


def with_nan(X):
    return changed(X, (3, 1), np.nan)


def of_width(itemsize):
    return {name: lambda a: a.astype(f"i{itemsize}") for name in ("indices", "indptr")}


def repeated_and_unsorted(X):
    """Return CSR with every entry as two halves, columns backwards."""
    n, d = X.shape
    columns = np.tile(np.repeat(np.arange(d)[::-1], 2), n)
    values = np.repeat(X[:, ::-1], 2, axis=1).ravel() / 2
    return sparse.csr_array((values, columns, np.arange(n + 1) * 2 * d), shape=X.shape)


# What passes without validation, and what does not
PASSING_SPARSE = {
    "CSR": lambda X, path: csr(X),
    "CSR matrix": lambda X, path: sparse.csr_matrix(csr(X)),
    "CSR, one row": lambda X, path: csr(X)[:1],
    "CSR, one row matrix": lambda X, path: sparse.csr_matrix(csr(X))[3],
    "CSR, 64 bits": lambda X, path: csr(X, **of_width(8)),
    "CSR, read-only": lambda X, path: csr(X, data=read_only, indices=read_only, indptr=read_only),
    "CSR, memmap": lambda X, path: csr(X, data=lambda a: memmapped(a, path)),
    "CSR, repeated and unsorted": lambda X, path: repeated_and_unsorted(X),
    "CSR, zeros": lambda X, path: csr(0 * X),
    "CSR, stored zeros": lambda X, path: csr(X, data=lambda a: 0 * a),
    "CSR, the other float": lambda X, path: csr(
        X.astype(np.float32 if X.itemsize == 8 else np.float64)
    ),
    "CSR, huge": lambda X, path: csr(X * X.dtype.type(np.finfo(X.dtype).max / 100)),
    "CSR, NaN": lambda X, path: csr(with_nan(X)),
    "CSR, infinity": lambda X, path: csr(changed(X, (-1, -1), np.inf)),
    "CSR, minus infinity": lambda X, path: csr(changed(X, (0, 0), -np.inf)),
    "CSR, infinities of both signs": lambda X, path: csr(changed(X, 3, [np.inf, -np.inf, 0, 0, 0])),
}
PASSING = {
    "an array": lambda X, path: X,
    "one row": lambda X, path: X[:1],
    "rows of an array": lambda X, path: X[7:40],
    "read-only": lambda X, path: read_only(X),
    "a memmap": memmapped,
    "the other float": lambda X, path: X.astype(np.float32 if X.itemsize == 8 else np.float64),
    "huge": lambda X, path: X * X.dtype.type(np.finfo(X.dtype).max / 100),
    "NaN": lambda X, path: changed(X, (3, 1), np.nan),
    "infinity": lambda X, path: changed(X, (-1, -1), np.inf),
    "minus infinity": lambda X, path: changed(X, (0, 0), -np.inf),
    "NaN and infinity": lambda X, path: changed(changed(X, (3, 1), np.nan), (3, 2), np.inf),
    "infinities of both signs": lambda X, path: changed(X, 3, [np.inf, -np.inf, 0, 0, 0]),
    "a memmap with NaN": lambda X, path: memmapped(changed(X, (3, 1), np.nan), path),
} | PASSING_SPARSE
OTHERS = {
    "Fortran": lambda X, path: np.asfortranarray(X),
    "every other row": lambda X, path: X[::2],
    "columns of an array": lambda X, path: np.hstack([X, X])[:, :N_FEATURES],
    "reversed": lambda X, path: X[::-1],
    "unaligned": lambda X, path: unaligned(X),
    "big-endian": lambda X, path: X.astype(X.dtype.newbyteorder(">")),
    "big-endian with NaN": lambda X, path: changed(X, (3, 1), np.nan).astype(">f8"),
    "float16": lambda X, path: X.astype(np.float16),
    "longdouble": lambda X, path: X.astype(np.longdouble),
    "int": lambda X, path: (10 * X).astype(int),
    "complex": lambda X, path: X + 0j,
    "object": lambda X, path: X.astype(object),
    "object with None": lambda X, path: changed(X.astype(object), (3, 1), None),
    "words": lambda X, path: np.full(X.shape, "a"),
    "list": lambda X, path: X.tolist(),
    "None": lambda X, path: None,
    "number": lambda X, path: 3.0,
    "matrix": lambda X, path: matrix(X),
    "subclass": lambda X, path: X.view(Subclass),
    "masked": lambda X, path: np.ma.array(X, mask=X > 1),
    "masked NaN": lambda X, path: np.ma.masked_invalid(changed(X, (3, 1), np.nan)),
    "object with __array__": lambda X, path: Convertible(X),
    "frame": lambda X, path: pd.DataFrame(X, columns=NAMES),
    "frame without names": lambda X, path: pd.DataFrame(X),
    "frame with NaN": lambda X, path: pd.DataFrame(changed(X, (3, 1), np.nan), columns=NAMES),
    "CSC": lambda X, path: csr(X).tocsc(),
    "COO with NaN": lambda X, path: csr(with_nan(X)).tocoo(),
    "LIL": lambda X, path: csr(X).tolil(),
    "CSR, subclass": lambda X, path: SparseSubclass(csr(X)),
    "CSR, int": lambda X, path: csr((10 * X).astype(int)),
    "CSR, bool": lambda X, path: csr(X > 0),
    "CSR, complex": lambda X, path: csr(X + 0j),
    "CSR, big-endian": lambda X, path: csr(X, data=lambda a: a.astype(a.dtype.newbyteorder(">"))),
    "CSR, unaligned": lambda X, path: csr(X, data=lambda a: unaligned(a)),
    "CSR, every other number": lambda X, path: csr(X, data=lambda a: np.repeat(a, 2)[::2]),
    "CSR, 16 bits": lambda X, path: csr(X, **of_width(2)),
    "CSR, two widths": lambda X, path: csr(X, indptr=lambda a: a.astype(np.int64)),
    "CSR, spare entries": lambda X, path: csr(
        X, data=lambda a: np.append(a, np.nan), indices=lambda a: np.append(a, 10**6)
    ),
    "CSR, index too large": lambda X, path: csr(X, indices=lambda a: changed(a, 5, 2**30)),
    "CSR, negative index": lambda X, path: csr(X, indices=lambda a: changed(a, 5, -1)),
    "CSR, pointers decrease": lambda X, path: csr(X, indptr=lambda a: changed(a, 3, 10**6)),
    "CSR, pointers end late": lambda X, path: csr(X, indptr=lambda a: changed(a, -1, 10**6)),
    "COO, 1-D": lambda X, path: sparse.coo_array(X[0]),
    "CSR, too narrow": lambda X, path: csr(X[:, :-1]),
    "CSR, too wide": lambda X, path: csr(np.hstack([X, X])),
    "CSR, no rows": lambda X, path: csr(X[:0]),
    "CSR, no columns": lambda X, path: csr(X[:, :0]),
    "sparse frame": lambda X, path: pd.DataFrame.sparse.from_spmatrix(csr(X)),
    "1-D": lambda X, path: X[0],
    "0-D": lambda X, path: X[0, 0],
    "3-D": lambda X, path: X[None],
    "too narrow": lambda X, path: X[:, :-1].copy(),
    "too wide": lambda X, path: np.hstack([X, X]),
    "too narrow, with NaN": lambda X, path: changed(X, (3, 1), np.nan)[:, :-1].copy(),
    "no rows": lambda X, path: X[:0],
    "no columns": lambda X, path: X[:, :0],
}
EVERYTHING = PASSING | OTHERS
every_input = pytest.mark.parametrize("made", EVERYTHING.values(), ids=EVERYTHING.keys())


def outcome(model, response, X):
    """Return all that a caller can see: bits, or the error; and the warnings."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            result = getattr(model, response)(X)
            seen = (result.dtype, result.shape, result.tobytes())
        except Exception as error:
            seen = (type(error), str(error), str(error.__cause__), str(error.__context__))
    return seen, [(warning.category, str(warning.message)) for warning in record]


def assert_validation_changes_nothing(monkeypatch, model, response, X):
    found = outcome(model, response, X)
    with monkeypatch.context() as patch:
        patch.setattr(module, "passes_if_finite", lambda X, estimator: False)
        expected = outcome(model, response, X)
    assert found == expected
    return found


@both_dtypes
@pytest.mark.parametrize("name", EVERYTHING)
def test_what_passes(tmp_path, name, dtype):
    X, model = rows(dtype)[0], fitted(dtype)
    assert passes_if_finite(EVERYTHING[name](X, tmp_path), model) == (name in PASSING)
    model.feature_names_in_ = np.array(NAMES, object)
    assert not passes_if_finite(EVERYTHING[name](X, tmp_path), model)
    assert not passes_if_finite(EVERYTHING[name](X, tmp_path), LogisticRegression())


@both_dtypes
@every_response
@every_input
def test_validation_changes_nothing(monkeypatch, tmp_path, made, response, dtype):
    X = made(rows(dtype)[0], tmp_path)
    assert_validation_changes_nothing(monkeypatch, fitted(dtype), response, X)


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("name", ["an array", "NaN", "infinity", "huge"])
@every_response
def test_validation_changes_nothing_for_other_numbers_of_classes(
    monkeypatch, tmp_path, name, response, n_classes
):
    X = EVERYTHING[name](rows(np.float64)[0], tmp_path)
    assert_validation_changes_nothing(monkeypatch, fitted(np.float64, n_classes), response, X)


@every_response
@every_input
def test_validation_changes_nothing_after_a_fit_with_names(monkeypatch, tmp_path, made, response):
    X, y = rows(np.float64)
    model = LogisticRegression().fit(pd.DataFrame(X, columns=NAMES), y)
    assert_validation_changes_nothing(monkeypatch, model, response, made(X, tmp_path))


@every_input
def test_validation_changes_nothing_before_a_fit(monkeypatch, tmp_path, made):
    X = made(rows(np.float64)[0], tmp_path)
    (seen, _) = assert_validation_changes_nothing(
        monkeypatch, LogisticRegression(), "predict_proba", X
    )
    assert seen[0] is NotFittedError


@pytest.mark.parametrize("config", [{"assume_finite": True}, {"enable_metadata_routing": True}])
@every_input
def test_validation_changes_nothing_whatever_the_configuration(monkeypatch, tmp_path, made, config):
    model, X = fitted(np.float64), made(rows(np.float64)[0], tmp_path)
    with sklearn.config_context(**config):
        assert_validation_changes_nothing(monkeypatch, model, "predict_proba", X)


@pytest.mark.parametrize("name", PASSING)
def test_validation_changes_nothing_for_wrong_parameters_or_attributes(monkeypatch, tmp_path, name):
    X = PASSING[name](rows(np.float64)[0], tmp_path)
    changes = {
        "n_jobs": 0,
        "coef_": np.ones((3, N_FEATURES + 1)),
        "intercept_": np.ones(2),
        "classes_": np.arange(1),
    }
    for attribute, value in changes.items():
        model = fitted(np.float64)
        setattr(model, attribute, value)
        assert_validation_changes_nothing(monkeypatch, model, "predict", X)


@both_dtypes
@every_response
def test_a_finite_array_is_not_validated(monkeypatch, tmp_path, response, dtype):
    X, model = rows(dtype)[0], fitted(dtype)
    refused = []
    monkeypatch.setattr(module, "validated", lambda *args, **kwargs: refused.append(1))
    dense = ("an array", "one row", "rows of an array", "read-only", "a memmap")
    for name in (*dense, *(name for name in PASSING_SPARSE if not re.search("huge|NaN|inf", name))):
        getattr(model, response)(PASSING[name](X, tmp_path))
    assert not refused


@every_response
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "^Input X contains NaN"), (-np.inf, "X contains infinity")]
)
def test_infinite_numbers_get_scikit_learns_error(value, message, response):
    X, model = rows(np.float64)[0], fitted(np.float64)
    with pytest.raises(ValueError, match=message):
        getattr(model, response)(changed(X, (3, 1), value))
    # Finite numbers whose products are not have an error of their own.
    with pytest.raises(ValueError, match=r"^X times the coefficients overflows"):
        getattr(model, response)(np.sign(model.coef_[:1]) * 1.7e308)
    with (
        sklearn.config_context(assume_finite=True),
        pytest.raises(ValueError, match=r"^X times the coefficients overflows"),
    ):
        getattr(model, response)(changed(X, (3, 1), value))


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("n_features", [1, 2, 7, 8, 33])
def test_every_infinite_number_makes_a_logit_infinite(n_features, n_rows, dtype):
    """Whatever tile, lane or vector it falls in, and however small the coefficients."""
    rng = np.random.default_rng(0)
    n_samples = 67
    X = rng.normal(size=(n_samples, n_features)).astype(dtype)
    tiny = np.full((n_rows, n_features), np.finfo(dtype).smallest_subnormal, dtype)
    for coef in (rng.normal(size=tiny.shape), 0.0 * tiny, -0.0 * tiny, tiny):
        for i in (0, 1, 2, 3, 4, 31, 63, 64, 65, 66):
            for j in range(n_features):
                bad = X.copy()
                bad[i, j] = (np.nan, np.inf, -np.inf)[(i + j) % 3]
                if j + 1 < n_features and i % 2:
                    bad[i, j + 1] = -bad[i, j]  # the sum must not come back from infinity
                with pytest.raises(ValueError, match="not finite"):
                    predict(bad, coef, np.zeros(n_rows), Response((i + j) % 4))


@both_dtypes
@pytest.mark.parametrize("n_features", [1, 3, 2000])  # few entries for so many features, or many
@pytest.mark.parametrize("n_rows", [1, 2, 9])
def test_every_infinite_number_of_csr_makes_a_logit_infinite(n_rows, n_features, dtype):
    rng = np.random.default_rng(0)
    n_samples, n_entries = 67, 3
    columns = rng.integers(0, n_features, n_samples * n_entries)  # some of them repeated
    pointers = np.arange(n_samples + 1) * n_entries
    tiny = np.full((n_rows, n_features), np.finfo(dtype).smallest_subnormal, dtype)
    for coef in (rng.normal(size=tiny.shape), 0.0 * tiny, -0.0 * tiny, tiny):
        for entry in (0, 1, 2, 100, len(columns) - 1):
            for value in (np.nan, np.inf, -np.inf):
                values = rng.normal(size=len(columns)).astype(dtype)
                values[entry] = value
                if entry % 2:
                    values[entry - 1] = -value  # the sum must not come back from infinity
                X = sparse.csr_array((values, columns, pointers), shape=(n_samples, n_features))
                row = X[[entry // n_entries]]
                for bad in (X, row):
                    with pytest.raises(ValueError, match="not finite"):
                        predict(bad, coef, np.zeros(n_rows), Response(entry % 4))


def test_attributes_that_do_not_fit_are_refused():
    """And never read beyond their end."""
    X, model = rows(np.float64)[0], fitted(np.float64)
    model.coef_ = np.ones((3, N_FEATURES + 1))
    with pytest.raises(ValueError, match=r"coef_ has shape \(3, 6\), but X has 5 features"):
        model.predict(X)
    model.coef_ = np.ones(N_FEATURES)
    with pytest.raises(ValueError, match=r"coef_ has shape \(5,\)"):
        model.predict(X)
    model = fitted(np.float64)
    model.intercept_ = np.ones(2)
    with pytest.raises(ValueError, match="broadcast"):
        model.predict(X)
    model.intercept_ = 0.0  # scikit-learn broadcasts, too
    expected = X @ model.coef_.T
    np.testing.assert_allclose(model.decision_function(X), expected, atol=1e-12)


@pytest.mark.parametrize(
    "classes",
    [
        np.array([3, 5, 9]),
        np.array([0.5, 1.0, 2.0]),
        np.array(["a", "bb", "ccc"]),
        np.array(["a", "bb", "ccc"], object),
        np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "M8[D]"),
    ],
    ids=lambda classes: classes.dtype.str,
)
def test_labels_are_those_of_the_largest_probabilities(classes):
    X, model = rows(np.float64)[0], fitted(np.float64)
    model.classes_ = classes
    labels = model.predict(X)
    assert labels.dtype == classes.dtype
    np.testing.assert_array_equal(labels, classes[model.predict_proba(X).argmax(axis=1)])
