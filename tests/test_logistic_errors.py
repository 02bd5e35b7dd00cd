"""Bad input: scikit-learn's error, or a stricter one, and the remedy. `bad_inputs` has the table.

Corrupt sparse matrices of every kind are in test_sparse_inputs.py, generated inputs in
test_fuzz.py.
"""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import sklearn
from bad_inputs import CRASH, LOG, OK, OTHERS, X, changed, outcome, y
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.utils.fixes import parse_version
from tight import RESPONSES

from fastsoftmax import LogisticRegression

CASES = LOG | OTHERS
VERSION = parse_version(sklearn.__version__)
as_in_the_log = pytest.mark.skipif(
    parse_version("1.9") > VERSION, reason="the log is of scikit-learn 1.9"
)
#: How two fits to many digits may differ, by the dtype of their coefficients.
TOLERANCES = {np.dtype(np.float64): 1e-5, np.dtype(np.float32): 2e-3}


def run(model, case):
    """Fit a model to a case's arguments; return it, or its answer."""
    model.fit(**case.arguments)
    return model if case.ask is None else case.ask(model)


def peer(**params):
    defaults = {} if "solver" in params else {"solver": "newton-cholesky"}
    return SklearnLogisticRegression(**defaults | {"max_iter": 10_000, "tol": 1e-10} | params)


def names_where(condition):
    return [name for name, case in CASES.items() if condition(case)]


def test_every_case_of_the_log_is_here():
    assert len(LOG) == 145
    assert not LOG.keys() & OTHERS.keys()
    assert all(case.theirs is not None for case in LOG.values())


@pytest.mark.parametrize("name", CASES)
def test_input(name):
    """A result, or an error of the right type that says what to do and leaves the model alone."""
    case = CASES[name]
    if parse_version(case.since) > VERSION:
        pytest.skip(f"scikit-learn {sklearn.__version__} fails otherwise than {case.since}")
    model = LogisticRegression(tol=1e-8).fit(X, y).set_params(**case.params)
    if case.ask is not None:
        model.fit(**case.arguments)
    before = dict(vars(model))
    act = (lambda: model.fit(**case.arguments)) if case.ask is None else lambda: case.ask(model)
    found, warned = outcome(act)
    assert tuple(map(type, warned)) == case.warns
    if case.ours is OK:
        assert not isinstance(found, Exception), found
        return
    assert type(found) is case.ours, found
    assert re.search(case.words, str(found), re.DOTALL), found
    assert list(vars(model)) == list(before)
    assert all(vars(model)[key] is value for key, value in before.items())
    assert len(str(found)) < 600 or case.theirs is case.ours, "an array is printed"


@as_in_the_log
@pytest.mark.parametrize("name", names_where(lambda case: case.theirs not in (None, CRASH)))
def test_scikit_learn_does_what_the_table_says(name):
    case = CASES[name]
    found, warned = outcome(lambda: run(SklearnLogisticRegression(**case.params), case))
    if case.theirs is OK:
        assert not isinstance(found, Exception), found
    else:
        assert type(found) is case.theirs, found
    assert set(case.warns) <= set(map(type, warned))


@pytest.mark.parametrize("name", names_where(lambda case: case.ours is OK and case.like))
def test_result_is_scikit_learns(name):
    case = CASES[name]
    like = dict(case.like)
    expected = peer(**like.pop("params"))
    found = LogisticRegression(**{"tol": 1e-8} | case.params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.fit(**case.arguments)
        expected.fit(**like)
        answers = [case.ask(model) for model in (found, expected)] if case.ask else []
    np.testing.assert_array_equal(found.classes_, expected.classes_)
    assert found.classes_.dtype == expected.classes_.dtype
    names = [getattr(model, "feature_names_in_", None) for model in (found, expected)]
    np.testing.assert_array_equal(*names)
    if parse_version("1.9") <= VERSION:  # before, newton-cholesky made float64 of float32
        assert found.coef_.dtype == expected.coef_.dtype
    tolerance = TOLERANCES[found.coef_.dtype]
    for attribute in ("coef_", "intercept_"):
        values = [np.asarray(getattr(model, attribute)) for model in (found, expected)]
        if len(values[0]) > 1:  # what is the same for all classes is free without a penalty
            values = [value - value.mean(axis=0) for value in values]
        np.testing.assert_allclose(*values, rtol=tolerance, atol=tolerance, err_msg=attribute)
    if answers:
        is_labels = answers[0].dtype == found.classes_.dtype
        np.testing.assert_allclose(*answers, rtol=0, atol=0 if is_labels else tolerance)


def test_a_class_without_weight_is_never_predicted():
    case = LOG["sample_weight zero for a whole class"]
    model = LogisticRegression().fit(**case.arguments)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert np.all(model.predict_proba(X)[:, 0] < 1e-3)


# Predictions

BAD_ROWS = {
    "NaN": (changed(X, (3, 1), np.nan), "X contains NaN.*imputer"),
    "inf": (changed(X, (3, 1), np.inf), "X contains infinity.*[Rr]eplace"),
    "inf and -inf": (changed(X, (3, slice(2)), [np.inf, -np.inf]), "X contains infinity"),
    "three columns": (X[:, :3], "X has 3 features, but .* is expecting 4.*Give"),
    "sparse, three columns": (sparse.csr_array(X[:, :3]), "X has 3 features"),
    "no rows": (X[:0], r"0 sample\(s\)"),
    "1-D": (X[0], "Expected 2D array.*[Rr]eshape"),
    "words": (np.full((60, 4), "a"), "could not convert string.*Encode"),
}


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize(("rows", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_input_of_predictions(rows, message, response):
    expected, _ = outcome(lambda: getattr(peer().fit(X, y), response)(rows))
    model = LogisticRegression().fit(X, y)
    before = dict(vars(model))
    found, warned = outcome(lambda: getattr(model, response)(rows))
    assert type(found) is type(expected)
    assert re.search(message, str(found), re.DOTALL)
    assert not warned
    assert vars(model) == before


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("size", [1e10, 1e300, 2e307])
def test_huge_rows_give_finite_answers_or_an_error(size, n_classes, storage, response):
    """At 2e307 times coefficients of order 10 some logits overflow."""
    kept = y < n_classes
    model = LogisticRegression(C=1e3).fit(X[kept], y[kept])
    if size == 2e307:
        model.coef_ = 50.0 * model.coef_
    rows = storage(np.clip(X, -3.0, 3.0) * size)
    if size == 2e307:
        with pytest.raises(ValueError, match=r"overflow.*[Ss]cale X"):
            getattr(model, response)(rows)
        return
    answer = getattr(model, response)(rows)
    assert np.all(np.isfinite(answer))
    direction = X @ model.coef_.T  # an intercept is nothing beside it
    best = (direction[:, 0] > 0).astype(int) if n_classes == 2 else direction.argmax(axis=1)
    clipped = np.all(np.abs(X) <= 3.0, axis=1)
    if response == "predict":
        np.testing.assert_array_equal(answer[clipped], best[clipped])
    if response == "predict_proba":
        np.testing.assert_array_equal(answer[clipped], np.eye(n_classes)[best[clipped]])


# Overflow


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize(
    ("dtype", "exponents"), [(np.float64, range(140, 308, 8)), (np.float32, range(12, 38, 2))]
)
def test_overflow_never_passes_for_an_answer(dtype, exponents, storage):
    """From where squares overflow to where sums do: an error, or a result that fits."""
    n_fits = 0
    for exponent in exponents:
        scaled = storage((X * 10.0**exponent).astype(dtype))
        model, warned = outcome(lambda scaled=scaled: LogisticRegression().fit(scaled, y))
        assert not warned, exponent
        if isinstance(model, Exception):
            assert type(model) is ValueError, model
            assert "scale X" in str(model)
            continue
        n_fits += 1
        assert np.all(np.isfinite(model.coef_)), exponent
        assert model.score(scaled, y) > 0.6, exponent
    assert n_fits > 0


def test_the_scale_of_huge_features_does_not_matter():
    """At 1e100 there is hardly a penalty; scikit-learn stops at the start."""
    found = LogisticRegression().fit(1e100 * X, y)
    expected = LogisticRegression(C=np.inf).fit(X, y)
    np.testing.assert_allclose(found.coef_ * 1e100, expected.coef_, atol=1e-2)


def test_unconverged_fit_warns_instead_of_failing():
    with pytest.warns(ConvergenceWarning, match="increase max_iter"):
        LogisticRegression(max_iter=1).fit(X, y)
