"""Ways out: scikit-learn's estimator, ONNX through it, skops files, sparse coefficients."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastsoftmax import LogisticRegression

#: Logits of order 10 are rounded to some 1e-15, and so are probabilities, relatively.
RTOL = {np.float64: 1e-12, np.float32: 1e-5}
RESPONSES = ("predict_proba", "predict_log_proba", "decision_function")


def make_data(n_classes, dtype=np.float64):
    rng = np.random.default_rng(n_classes)
    y = np.arange(200) % n_classes
    X = rng.normal(size=(200, 5)) + 1.5 * np.eye(n_classes, 5)[y]
    X[rng.uniform(size=X.shape) < 0.3] = 0.0
    return X.astype(dtype), y


def assert_same_predictions(actual, desired, X, rtol):
    predicted = actual.predict(X)
    np.testing.assert_array_equal(predicted, desired.predict(X))
    assert predicted.dtype == desired.predict(X).dtype
    # scikit-learn takes the first of two probabilities as 1 minus the second one.
    lost = 2 * np.finfo(actual.coef_.dtype).eps if len(actual.classes_) == 2 else 0.0
    least = desired.predict_proba(X).min()
    # A logit, and a logarithm, near 0 is a difference of numbers near 1.
    atols = {"predict_proba": lost, "predict_log_proba": rtol + lost / least}
    for response in RESPONSES:
        ours, theirs = getattr(desired, response)(X), getattr(actual, response)(X)
        assert theirs.dtype == ours.dtype
        atol = atols.get(response, rtol)
        np.testing.assert_allclose(theirs, ours, rtol=rtol, atol=atol, err_msg=response)


# scikit-learn


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_scikit_learns_estimator_predicts_the_same(n_classes, dtype, fit_intercept):
    X, y = make_data(n_classes, dtype)
    model = LogisticRegression(fit_intercept=fit_intercept).fit(X, y)
    other = model.to_sklearn()
    assert type(other) is SklearnLogisticRegression
    assert other.coef_.dtype == dtype
    assert_same_predictions(other, model, X, RTOL[dtype])
    assert_same_predictions(other, model, sparse.csr_array(X), RTOL[dtype])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_labels_and_names(n_classes):
    X, y = make_data(n_classes)
    labels = np.array(["ant", "bee", "cat"])[y]
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = LogisticRegression().fit(frame, labels)
    other = model.to_sklearn()
    assert_same_predictions(other, model, frame, RTOL[np.float64])
    np.testing.assert_array_equal(other.classes_, model.classes_)
    np.testing.assert_array_equal(other.feature_names_in_, list("abcde"))
    with pytest.raises(ValueError, match="feature names"):
        other.predict(frame[list("edcba")])
    with pytest.warns(UserWarning, match="feature names"):
        other.predict(X)


def test_parameters_are_taken_over():
    X, y = make_data(3)
    parameters = {
        "C": 0.3,
        "tol": 1e-7,
        "fit_intercept": False,
        "class_weight": {0: 1.0, 1: 2.0, 2: 0.5},
        "max_iter": 321,
        "warm_start": True,
        "random_state": 5,
        "verbose": 0,
        "l1_ratio": 0.0,
    }
    model = LogisticRegression(n_jobs=1, solver="newton-cg", **parameters).fit(X, y)
    other = model.to_sklearn()
    assert {name: other.get_params()[name] for name in parameters} == parameters
    assert other.solver == "lbfgs"
    assert other.n_jobs is None
    np.testing.assert_array_equal(other.n_iter_, model.n_iter_)
    assert other.n_features_in_ == 5
    assert model.set_params(l1_ratio=0.5, solver="auto").to_sklearn().solver == "saga"


# scikit-learn 1.8 warns of what it makes of C=inf itself.
@pytest.mark.filterwarnings("ignore:Setting penalty=None:UserWarning:sklearn")
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("C", [0.5, np.inf])
def test_it_fits_the_same_model(n_classes, C):
    """Parameters mean the same: fitted again, from there or anew, it stays where it is."""
    X, y = make_data(n_classes)
    model = LogisticRegression(C=C, tol=1e-8).fit(X, y)
    other = model.to_sklearn().set_params(warm_start=True).fit(X, y)
    np.testing.assert_allclose(other.predict_proba(X), model.predict_proba(X), atol=1e-5)
    anew = clone(model.to_sklearn()).fit(X, y)
    np.testing.assert_allclose(anew.predict_proba(X), model.predict_proba(X), atol=1e-5)


def test_the_copy_is_independent():
    X, y = make_data(3)
    model = LogisticRegression().fit(X, y)
    other = model.to_sklearn()
    before = model.predict_proba(X)
    for name in ("coef_", "intercept_", "n_iter_", "classes_"):
        getattr(other, name)[:] = 0
    np.testing.assert_array_equal(model.predict_proba(X), before)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])


def test_it_works_in_a_pipeline_and_a_pickle():
    X, y = make_data(3)
    scaler = StandardScaler().fit(X)
    model = LogisticRegression().fit(scaler.transform(X), y)
    pipeline = make_pipeline(scaler, model.to_sklearn())
    np.testing.assert_array_equal(pipeline.predict(X), model.predict(scaler.transform(X)))
    payload = pickle.dumps(model.to_sklearn())
    assert b"fastsoftmax" not in payload
    assert_same_predictions(pickle.loads(payload), model, X, RTOL[np.float64])


def test_before_fit():
    with pytest.raises(NotFittedError):
        LogisticRegression().to_sklearn()


# Sparse coefficients


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", RTOL)
def test_sparse_coefficients(n_classes, dtype):
    X, y = make_data(n_classes, dtype)
    X[:, 1] = 0  # a coefficient of exactly 0
    model = LogisticRegression().fit(X, y)
    before = {name: getattr(model, name)(X) for name in (*RESPONSES, "predict")}
    assert sparse.issparse(model.sparsify().coef_)
    assert model.coef_.nnz < 5 * model.coef_.shape[0]
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(model, name)(X), value)
    other = model.to_sklearn()
    assert isinstance(other.coef_, np.ndarray)
    assert_same_predictions(other, model, X, RTOL[dtype])
    assert_same_predictions(other.sparsify(), model, X, RTOL[dtype])
    model.densify()
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(model, name)(X), value)


# skops


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_skops_keeps_bits(n_classes, is_sparse):
    io = pytest.importorskip("skops.io")
    X, y = make_data(n_classes)
    labels = np.array(["ant", "bee", "cat"])[y]
    model = LogisticRegression(C=np.inf, class_weight="balanced", n_jobs=1).fit(X, labels)
    if is_sparse:
        model.sparsify()
    payload = io.dumps(model)
    unknown = io.get_untrusted_types(data=payload)
    ours = [name for name in unknown if not name.startswith("scipy.sparse.")]
    assert ours == ["fastsoftmax.linear_model._logistic.LogisticRegression"]
    copy = io.loads(payload, trusted=unknown)
    assert copy.get_params() == model.get_params()
    assert vars(copy).keys() == vars(model).keys()
    for name in (*RESPONSES, "predict"):
        np.testing.assert_array_equal(getattr(copy, name)(X), getattr(model, name)(X))
    model.densify()
    copy.densify()
    for name, value in vars(model).items():
        assert type(getattr(copy, name)) is type(value), name
        np.testing.assert_array_equal(getattr(copy, name), value, err_msg=name)
    errors = copy.set_params(C=1.0).fit(X, labels).standard_errors(X, labels)
    assert np.all(errors.coef > 0)


# ONNX


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("has_names", [False, True])
def test_onnx_predicts_the_same(n_classes, has_names):
    skl2onnx = pytest.importorskip("skl2onnx", exc_type=ImportError)
    onnxruntime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    X, y = make_data(n_classes, np.float32)
    labels = np.array(["ant", "bee", "cat"])[y] if has_names else y
    model = LogisticRegression().fit(X, labels)

    def session_of(estimator):
        converted = skl2onnx.to_onnx(estimator, X[:1], options={"zipmap": False})
        return onnxruntime.InferenceSession(
            converted.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    try:
        session_of(SklearnLogisticRegression().fit(X, labels))
    except Exception as error:  # as new a scikit-learn, or an opset, may be unknown to either
        versions = f"skl2onnx {skl2onnx.__version__} with onnxruntime {onnxruntime.__version__}"
        pytest.skip(f"{versions} fail on an estimator that scikit-learn fitted: {error}")
    session = session_of(model.to_sklearn())
    predicted, probabilities = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_array_equal(predicted, model.predict(X))
    np.testing.assert_allclose(probabilities, model.predict_proba(X), rtol=1e-5, atol=1e-7)
