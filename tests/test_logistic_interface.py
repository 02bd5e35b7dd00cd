"""How `LogisticRegression` behaves as an object: parameters, containers, state, routing."""

from __future__ import annotations

import doctest
import inspect
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

import fastsoftmax.linear_model._logistic as module
from fastsoftmax import LogisticRegression
from fastsoftmax._validation import encode_labels

RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")


@pytest.fixture
def data():
    """Three classes of 90 samples, 4 features: small integers, exact in every dtype."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = rng.integers(-20, 20, (90, 4)) + 10.0 * np.eye(3, 4)[y]
    return X, y


@pytest.fixture
def fitted(data):
    return LogisticRegression().fit(*data)


def attributes(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_")}


def assert_same_fit(actual, desired):
    """Compare all fitted attributes bit by bit."""
    actual, desired = attributes(actual), attributes(desired)
    assert actual.keys() == desired.keys()
    for name, value in desired.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
        assert getattr(actual[name], "dtype", None) == getattr(value, "dtype", None), name


# Parameters


#: Parameters that scikit-learn's class has not, at their defaults: they change nothing.
OURS = {"label_smoothing": 0.0, "penalty_weights": None, "positive": False, "bounds": None}


def test_parameters_are_scikit_learns_and_some_more():
    ours = LogisticRegression().get_params()
    theirs = SklearnLogisticRegression().get_params()
    names = list(inspect.signature(SklearnLogisticRegression).parameters)
    assert list(inspect.signature(LogisticRegression).parameters) == [*names, *OURS]
    assert ours == theirs | {"solver": "auto", "max_iter": 1000} | OURS
    assert LogisticRegression("l2").penalty == "l2"
    with pytest.raises(TypeError, match="positional"):
        LogisticRegression("l2", 1.0)


def test_clone_and_set_params(data):
    params = {"C": 2.0, "tol": 1e-6, "class_weight": {0: 2.0}, "max_iter": 50, "n_jobs": 1}
    model = LogisticRegression(**params).fit(*data)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not attributes(copy)
    other = LogisticRegression().set_params(**params)
    assert_same_fit(other.fit(*data), model)
    with pytest.raises(ValueError, match="multi_class"):
        other.set_params(multi_class="ovr")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_keeps_bits(data, fitted, protocol):
    X, _ = data
    copy = pickle.loads(pickle.dumps(fitted, protocol))
    assert_same_fit(copy, fitted)
    for response in RESPONSES:
        np.testing.assert_array_equal(getattr(copy, response)(X), getattr(fitted, response)(X))


def test_fitted_state_is_arrays_and_plain_values(fitted):
    for name, value in attributes(fitted).items():
        assert isinstance(value, np.ndarray | int | float | str), name
        assert getattr(value, "base", None) is None, f"{name} keeps a larger array alive"


def test_representations(fitted):
    assert repr(LogisticRegression(C=3.0)) == "LogisticRegression(C=3.0)"
    page = fitted._repr_html_()
    assert "LogisticRegression" in page
    assert "Fitted" in page
    assert "Not fitted" in LogisticRegression()._repr_html_()


# Iterations, warnings, printing


def test_warm_start_needs_fewer_iterations(data):
    X, y = data
    model = LogisticRegression(tol=1e-10, warm_start=True).fit(X, y)
    cold, coef = model.n_iter_[0], model.coef_.copy()
    warm = model.fit(X, y)
    assert warm.n_iter_[0] < cold
    np.testing.assert_allclose(warm.coef_, coef, atol=1e-9)
    neighbour = model.set_params(C=1.1).fit(X, y)
    assert neighbour.n_iter_[0] < cold
    np.testing.assert_allclose(
        neighbour.coef_, LogisticRegression(C=1.1, tol=1e-10).fit(X, y).coef_, atol=1e-8
    )


def test_warm_start_begins_at_the_previous_fit(data):
    X, y = data
    model = LogisticRegression(warm_start=True, max_iter=0)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model.fit(X, y)
    model.coef_ = np.arange(12.0).reshape(3, 4)
    model.intercept_ = np.array([1.0, 2.0, 6.0])
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model.fit(X, y)
    np.testing.assert_allclose(model.coef_, np.arange(12.0).reshape(3, 4) - [[4, 5, 6, 7]])
    np.testing.assert_allclose(model.intercept_, [-2.0, -1.0, 3.0])


def test_warm_start_from_sparse_coefficients_and_without_intercept(data):
    X, y = data
    model = LogisticRegression(tol=1e-10, warm_start=True).fit(X, y).sparsify()
    model.set_params(fit_intercept=False).fit(X, y)
    cold = LogisticRegression(tol=1e-10, fit_intercept=False).fit(X, y)
    np.testing.assert_allclose(model.coef_, cold.coef_, atol=1e-9)
    np.testing.assert_array_equal(model.intercept_, np.zeros(3))


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cholesky", "newton-cg"])
def test_warm_start_from_coefficients_that_do_not_sum_to_zero(data, solver):
    """As from those that do; no step would change their mean, which the penalty pulls at."""
    X, y = data
    model = LogisticRegression(tol=1e-8, solver=solver, warm_start=True).fit(X, y)
    coef = model.coef_.copy()
    model.coef_ = coef + 100.0
    model.fit(X, y)
    assert model.gradient_norm_ <= 1e-8
    np.testing.assert_allclose(model.coef_, coef, rtol=0, atol=1e-7)


@pytest.mark.parametrize("change", ["features", "classes"])
def test_warm_start_refuses_another_shape(data, change):
    X, y = data
    model = LogisticRegression(warm_start=True).fit(X, y)
    before = dict(vars(model))
    X, y = (X[:, :3], y) if change == "features" else (X[y < 2], y[y < 2])
    with pytest.raises(ValueError, match="warm_start"):
        model.fit(X, y)
    assert vars(model) == before


@pytest.mark.parametrize("max_iter", [0, 1])
def test_too_few_iterations_warn_at_the_callers_line(data, max_iter):
    model = LogisticRegression(max_iter=max_iter)
    with pytest.warns(ConvergenceWarning, match=r"increase max_iter") as record:
        model.fit(*data)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert model.n_iter_ == [max_iter]
    assert np.all(model.coef_ == 0) == (max_iter == 0)


def test_prints_only_when_asked(data, capfd):
    X, y = data
    model = LogisticRegression().fit(X, y)
    for response in RESPONSES:
        getattr(model, response)(X)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    verbose = LogisticRegression(verbose=1).fit(X, y)
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == verbose.n_iter_[0] + 2  # the start, every iteration, the verdict
    assert all("objective" in line for line in lines)
    assert_same_fit(verbose, model)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_same_bits_for_any_n_jobs(n_classes):
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, 5003)
    X = rng.normal(size=(5003, 23)) + rng.normal(size=(n_classes, 23))[y]  # work for two threads
    one = LogisticRegression(n_jobs=1).fit(X, y)
    for n_jobs in (None, 2, -1, -2, -100, 100):
        model = LogisticRegression(n_jobs=n_jobs).fit(X, y)
        assert_same_fit(model, one)
        for response in RESPONSES:
            np.testing.assert_array_equal(getattr(model, response)(X), getattr(one, response)(X))


def test_fitting_twice_gives_the_same_bits(data):
    X, y = data
    assert_same_fit(LogisticRegression().fit(X, y), LogisticRegression(random_state=3).fit(X, y))


def test_examples_of_the_docstrings():
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted >= 11


# Containers


def memmapped(X, path):
    joblib.dump(X, path / "X")
    return joblib.load(path / "X", mmap_mode="r")


def read_only(X, path):
    X = X.copy()
    X.flags.writeable = False
    return X


def wider(X, path):
    """Every other column of every other row of a larger array."""
    Z = np.full((2 * X.shape[0], 2 * X.shape[1]), np.nan)
    Z[::2, ::2] = X
    return Z[::2, ::2]


CONTAINERS = {
    "list": lambda X, path: X.tolist(),
    "int64": lambda X, path: X.astype(np.int64),
    "int8": lambda X, path: X.astype(np.int8),
    "float16": lambda X, path: X.astype(np.float16),
    "longdouble": lambda X, path: X.astype(np.longdouble),
    "object": lambda X, path: X.astype(object),
    "big-endian": lambda X, path: X.astype(">f8"),
    "Fortran": lambda X, path: np.asfortranarray(X),
    "negative strides": lambda X, path: X[::-1, ::-1].copy()[::-1, ::-1],
    "strided": wider,
    "read-only": read_only,
    "memmap": memmapped,
    "unaligned": lambda X, path: (
        np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(np.float64).reshape(X.shape)
    ),
    "pandas": lambda X, path: pd.DataFrame(X).to_numpy(),
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_container_does_not_matter(data, fitted, tmp_path, container):
    X, y = data
    held = container(X, tmp_path)
    model = LogisticRegression().fit(held, y)
    assert_same_fit(model, fitted)
    for response in RESPONSES:
        np.testing.assert_array_equal(getattr(model, response)(held), getattr(fitted, response)(X))


@pytest.mark.parametrize(
    "labels",
    [
        list,
        tuple,
        pd.Series,
        pd.Categorical,
        pl.Series,
        pytest.param(lambda y: y.astype(np.uint8), id="uint8"),
        pytest.param(lambda y: y.astype(">i4"), id="big-endian"),
        pytest.param(lambda y: y.astype(float), id="float"),
        pytest.param(lambda y: pd.Series(y, dtype="Int64"), id="Int64"),
        pytest.param(lambda y: np.repeat(y, 2)[::2], id="strided"),
    ],
    ids=lambda container: container.__name__,
)
def test_container_of_y_does_not_matter(data, fitted, labels):
    X, y = data
    model = LogisticRegression().fit(X, labels(y))
    np.testing.assert_array_equal(model.coef_, fitted.coef_)
    np.testing.assert_array_equal(model.predict(X), fitted.predict(X))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("storage", [np.array, np.asfortranarray, sparse.csr_array])
def test_arguments_are_not_modified(data, storage, dtype):
    X, y = data
    X = storage(X.astype(dtype))
    weights, y = np.linspace(0.0, 2.0, len(y)), y.copy()
    before = [X.copy(), y.copy(), weights.copy()]
    model = LogisticRegression(class_weight="balanced").fit(X, y, sample_weight=weights)
    for response in RESPONSES:
        getattr(model, response)(X)
    for now, then in zip((X, y, weights), before, strict=True):
        now, then = (a.toarray() if sparse.issparse(a) else a for a in (now, then))
        np.testing.assert_array_equal(now, then)


def test_sample_weight_of_ones_or_a_scalar(data, fitted):
    X, y = data
    for weights in (np.ones(len(y)), [1] * len(y), 1.0, pd.Series(np.ones(len(y)))):
        model = LogisticRegression().fit(X, y, weights)
        np.testing.assert_allclose(model.coef_, fitted.coef_, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "frame", [pd.DataFrame, lambda X, columns: pl.DataFrame(X, schema=columns)], ids=["pd", "pl"]
)
def test_frames_have_names(data, fitted, frame):
    X, y = data
    names = ["a", "b", "c", "d"]
    model = LogisticRegression().fit(frame(X, columns=names), y)
    np.testing.assert_array_equal(model.feature_names_in_, names)
    assert model.feature_names_in_.dtype == object
    np.testing.assert_array_equal(model.coef_, fitted.coef_)
    np.testing.assert_array_equal(model.predict(frame(X, columns=names)), fitted.predict(X))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame(X, columns=["a", "b", "c", "e"]))
    with pytest.raises(ValueError, match="same order"):
        model.predict(frame(X, columns=names[::-1]))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        fitted.predict(frame(X, columns=names))
    model.fit(X, y)
    assert not hasattr(model, "feature_names_in_")


def test_frames_of_mixed_columns(data):
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcd")).astype({"a": "float32", "b": "int8"})
    frame["c"] = frame["c"].astype("Int64")
    model = LogisticRegression().fit(frame, y)
    assert model.coef_.dtype == np.float64
    np.testing.assert_array_equal(model.coef_, LogisticRegression().fit(X, y).coef_)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_set_output_upstream(data, kind):
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcd"))
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    named = make_pipeline(StandardScaler(), LogisticRegression())
    named[0].set_output(transform=kind)
    named.fit(frame, y)
    np.testing.assert_array_equal(named[-1].feature_names_in_, list("abcd"))
    np.testing.assert_allclose(named[-1].coef_, plain[-1].coef_, rtol=1e-12)
    np.testing.assert_array_equal(named.predict(frame), plain.predict(X))


def test_sparsify_and_densify(data, fitted):
    X, _ = data
    before = {response: getattr(fitted, response)(X) for response in RESPONSES}
    assert sparse.issparse(fitted.sparsify().coef_)
    for response, value in before.items():
        np.testing.assert_array_equal(getattr(fitted, response)(X), value)
    coef = fitted.densify().coef_
    assert isinstance(coef, np.ndarray)
    for response, value in before.items():
        np.testing.assert_array_equal(getattr(fitted, response)(X), value)


# Metadata routing


def test_sample_weight_is_routed(data):
    X, y = data
    weights = np.where(y == 0, 5.0, 0.5)
    expected = {
        C: LogisticRegression(C=C).fit(StandardScaler().fit_transform(X), y, weights)
        for C in (1e-4, 1.0)
    }
    with sklearn.config_context(enable_metadata_routing=True):
        model = LogisticRegression().set_fit_request(sample_weight=True)
        request = get_routing_for_object(model)
        assert request.fit.requests == {"sample_weight": True, "offset": None}
        pipeline = make_pipeline(StandardScaler(), model)
        # Not routed to the scaler, which would accept them.
        pipeline[0].set_fit_request(sample_weight=False)
        model.set_score_request(sample_weight=True)
        pipeline.fit(X, y, sample_weight=weights)
        np.testing.assert_array_equal(pipeline[-1].coef_, expected[1.0].coef_)
        search = GridSearchCV(pipeline, {"logisticregression__C": [1e-4, 1.0]}, cv=2)
        search.fit(X, y, sample_weight=weights)
        best = search.best_params_["logisticregression__C"]
        np.testing.assert_array_equal(search.best_estimator_[-1].coef_, expected[best].coef_)


def test_unrequested_sample_weight_is_refused(data):
    X, y = data
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), LogisticRegression())
        pipeline[0].set_fit_request(sample_weight=False)
        with pytest.raises(ValueError, match="not explicitly set as requested or not"):
            pipeline.fit(X, y, sample_weight=np.ones(len(y)))


# What a failed fit leaves behind


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def _exhaust(*args, **kwargs):
    raise MemoryError


@pytest.mark.parametrize("frame_first", [False, True])
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("missing value", ValueError),
        ("one class", ValueError),
        ("negative weight", ValueError),
        ("parameter", ValueError),
        ("interrupt", KeyboardInterrupt),
        ("memory", MemoryError),
        ("warning", ConvergenceWarning),
        ("names", TypeError),
    ],
)
def test_failed_fit_changes_nothing(data, monkeypatch, failure, error, frame_first):
    X, y = data
    model = LogisticRegression()
    model.fit(pd.DataFrame(X, columns=list("abcd")) if frame_first else X, y)
    model.set_params(C=2.0)
    weights = np.ones(len(y))
    X, y = X[:, :3].copy(), np.where(y == 2, 7, y)  # other features, other classes
    if failure == "missing value":
        X[5, 1] = np.nan
    elif failure == "one class":
        y = np.zeros(len(y))
    elif failure == "negative weight":
        weights[3] = -1.0
    elif failure == "parameter":
        model.C = -1.0
    elif failure == "interrupt":
        monkeypatch.setattr(module, "solve", _interrupt)
    elif failure == "memory":
        monkeypatch.setattr(module, "solve", _exhaust)
    elif failure == "warning":  # an error in this test suite
        model.max_iter = 1
    elif failure == "names":
        X = pd.DataFrame(X, columns=["a", 0, "b"])
    before = dict(vars(model))
    bits = {name: value.copy() for name, value in before.items() if isinstance(value, np.ndarray)}
    with pytest.raises(error):
        model.fit(X, y, weights)
    assert list(vars(model)) == list(before)
    assert all(vars(model)[name] is value for name, value in before.items())
    for name, value in bits.items():
        np.testing.assert_array_equal(getattr(model, name), value)


def test_an_interrupt_before_the_fit_begins_undoes_nothing_later(data, fitted):
    """It leaves a context manager that was entered but never left, until its traceback goes."""
    X, y = data
    interrupted = module.unchanged_on_failure(fitted)
    interrupted.__enter__()
    coef = fitted.set_params(C=0.01).fit(X, y).coef_
    del interrupted
    assert fitted.C == 0.01
    assert fitted.coef_ is coef


def test_failed_first_fit_leaves_an_unfitted_estimator(data, monkeypatch):
    X, y = data
    monkeypatch.setattr(module, "solve", _interrupt)
    model = LogisticRegression()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert vars(model) == vars(LogisticRegression())
    with pytest.raises(NotFittedError, match="fit"):
        model.predict(X)


def test_failed_prediction_changes_nothing(data, fitted):
    X, _ = data
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match="expecting 4 features"):
        fitted.predict(X[:, :3])
    assert vars(fitted) == before


@pytest.mark.parametrize("response", [*RESPONSES, "sparsify", "densify"])
def test_not_fitted(data, response):
    X, _ = data
    arguments = (X,) if response in RESPONSES else ()
    with pytest.raises(NotFittedError, match=r"not fitted yet|must be fitted"):
        getattr(LogisticRegression(), response)(*arguments)


def test_no_warning_in_ordinary_use(data):
    X, y = data
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        LogisticRegression().fit(X, y).predict_proba(X)
    assert not record


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_data_without_penalty_end_soon(n_classes, dtype):
    """The loss falls towards 0 for ever; a fit must not follow it down to its underflow."""
    rng = np.random.default_rng(0)
    y = np.arange(150) % n_classes
    X = (rng.normal(size=(150, 3)) + 20.0 * np.eye(n_classes, 3)[y]).astype(dtype)
    model = LogisticRegression(C=np.inf).fit(X, y)
    assert model.n_iter_[0] < 60
    assert np.abs(model.coef_).max() < 1e3
    assert model.score(X, y) == 1.0


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_row_of_weight_zero_is_no_row_even_if_its_logits_overflow(n_classes, dtype, storage):
    rng = np.random.default_rng(1)
    y = np.arange(90) % n_classes
    X = (rng.normal(size=(90, 4)) + np.eye(n_classes, 4)[y]).astype(dtype)
    # float32: 1e38 times coefficients of order 1 and their sums reach infinity.
    huge = np.full((1, 4), np.finfo(dtype).max / 4, dtype)
    expected = LogisticRegression(C=100.0, tol=1e-8).fit(storage(X), y)
    extended = storage(np.vstack([X[:40], huge, X[40:]]))
    weights = np.insert(np.ones(90), 40, 0.0)
    found = LogisticRegression(C=100.0, tol=1e-8).fit(extended, np.insert(y, 40, 0), weights)
    tolerance = 1e-6 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=tolerance)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
@pytest.mark.parametrize("spread", [1, 40, 120])
def test_integer_labels_are_encoded_as_by_unique(dtype, spread):
    rng = np.random.default_rng(0)
    low = -100 if np.dtype(dtype).kind == "i" else 3
    y = (low + spread * rng.integers(0, 2, 70_000)).astype(dtype)
    y[5] = 7
    classes, labels = encode_labels(y)
    expected, inverse = np.unique(y, return_inverse=True)
    assert classes.dtype == y.dtype
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_array_equal(labels, inverse)
    assert labels.dtype == np.int32


def test_large_unsigned_labels_are_encoded_as_by_unique():
    y = np.array([2**64 - 1, 2**64 - 3, 2**64 - 1], np.uint64)
    classes, labels = encode_labels(y)
    np.testing.assert_array_equal(classes, np.unique(y))
    assert labels.tolist() == [1, 0, 1]
