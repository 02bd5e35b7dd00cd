"""Standard errors and summaries against statsmodels, and against a covariance written plainly."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import fastsoftmax.linear_model._inference as module
from fastsoftmax import LogisticRegression

sm = pytest.importorskip("statsmodels.api")

#: Both Hessians are summed in float64; the optima, of relative accuracy 1e-8, differ more.
RTOL = 1e-6
#: Data and coefficients rounded to float32 move standard errors by some multiples of 6e-8.
RTOL32 = 1e-5


def make_data(n_classes, n=400, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    coef = 0.7 * rng.normal(size=(n_classes, d))
    y = (X @ coef.T + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X, y


def fitted(X, y, sample_weight=None, **params):
    return LogisticRegression(**({"tol": 1e-10, "C": np.inf} | params)).fit(X, y, sample_weight)


def packed(errors):
    return np.column_stack([errors.coef, errors.intercept])


def with_ones(X):
    return np.column_stack([X, np.ones(len(X))])


def logit(X, y):
    return sm.Logit(y, X).fit(disp=0, tol=1e-14)


def multinomial_logit(X, y):
    return sm.MNLogit(y, X).fit(disp=0, method="newton", tol=1e-14)


def plain_covariance(X, y, C, weights=None):
    """Return coefficients and their covariance on rows that sum to zero, (K, D, K, D)."""
    n_classes = int(y.max()) + 1
    params, model = reference.logistic_optimum(X, y, n_classes, C, weights)
    rows, D = params.shape
    total = 1.0 if weights is None else float(np.max(weights))
    hessian = total * model.loss_hessian(params)
    hessian += np.diag(np.tile(np.append(np.full(D - 1, 1.0 / C), 0.0), rows))
    if rows == 1:
        return params, np.linalg.inv(hessian).reshape(rows, D, rows, D)
    centring = np.kron(np.eye(rows) - 1.0 / rows, np.eye(D))
    covariance = np.linalg.pinv(centring @ hessian @ centring, rcond=1e-11, hermitian=True)
    return params, covariance.reshape(rows, D, rows, D)


def roots(covariance):
    return np.sqrt(np.einsum("kjkj->kj", covariance))


# Agreement


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_two_classes_are_statsmodels_logit(fit_intercept):
    X, y = make_data(2)
    theirs = logit(with_ones(X) if fit_intercept else X, y)
    model = fitted(X, y, fit_intercept=fit_intercept)
    errors = model.standard_errors(X, y)
    ours = packed(errors) if fit_intercept else errors.coef
    np.testing.assert_allclose(ours, theirs.bse[None], rtol=RTOL)
    np.testing.assert_array_equal(errors.classes, [1])
    assert errors.baseline == 0
    assert fit_intercept or not errors.intercept.any()

    table = model.summary(X, y, confidence=0.9)
    np.testing.assert_allclose(table.coef[0], theirs.params, rtol=RTOL)
    np.testing.assert_allclose(table.std_error[0], theirs.bse, rtol=RTOL)
    np.testing.assert_allclose(table.z[0], theirs.tvalues, rtol=RTOL)
    np.testing.assert_allclose(table.p_value[0], theirs.pvalues, rtol=1e-4)  # exp(-z²/2)
    bounds = np.column_stack([table.lower[0], table.upper[0]])
    np.testing.assert_allclose(bounds, theirs.conf_int(0.1), rtol=RTOL)


@pytest.mark.parametrize("n_classes", [3, 5])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_more_classes_are_statsmodels_mnlogit(n_classes, fit_intercept):
    X, y = make_data(n_classes)
    theirs = multinomial_logit(with_ones(X) if fit_intercept else X, y)
    model = fitted(X, y, fit_intercept=fit_intercept)
    errors = model.standard_errors(X, y)
    ours = packed(errors) if fit_intercept else errors.coef
    np.testing.assert_allclose(ours, theirs.bse.T, rtol=RTOL)
    np.testing.assert_array_equal(errors.classes, np.arange(1, n_classes))
    table = model.summary(X, y)
    np.testing.assert_allclose(table.coef, theirs.params.T, rtol=RTOL, atol=1e-9)
    np.testing.assert_allclose(table.p_value, theirs.pvalues.T, rtol=1e-4)


@pytest.mark.parametrize("baseline", [0, 1, 2])
def test_any_class_may_be_the_baseline(baseline):
    X, y = make_data(3)
    others = [k for k in range(3) if k != baseline]
    relabelled = np.argsort([baseline, *others])[y]
    theirs = multinomial_logit(with_ones(X), relabelled)
    names = np.array(["a", "b", "c"])
    model = fitted(X, names[y])
    table = model.summary(X, names[y], baseline=names[baseline])
    np.testing.assert_allclose(table.coef, theirs.params.T, rtol=RTOL, atol=1e-9)
    np.testing.assert_allclose(table.std_error, theirs.bse.T, rtol=RTOL)
    np.testing.assert_array_equal(table.classes, names[others])
    assert table.baseline == names[baseline]
    errors = model.standard_errors(X, names[y], baseline=names[baseline])
    np.testing.assert_array_equal(packed(errors), table.std_error)


def test_the_other_baseline_of_two_classes_changes_the_sign():
    X, y = make_data(2)
    model = fitted(X, y, C=1.0)
    usual, other = model.summary(X, y), model.summary(X, y, baseline=1)
    np.testing.assert_array_equal(other.coef, -usual.coef)
    np.testing.assert_allclose(other.std_error, usual.std_error, rtol=1e-14)
    np.testing.assert_array_equal(other.classes, [0])


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_with_a_penalty_it_is_the_pseudo_inverse_on_rows_of_sum_zero(n_classes, C):
    X, y = make_data(n_classes)
    params, covariance = plain_covariance(X, y, C)
    table = fitted(X, y, C=C).summary(X, y)
    np.testing.assert_allclose(table.coef, params, rtol=RTOL, atol=1e-8)
    np.testing.assert_allclose(table.std_error, roots(covariance), rtol=RTOL)
    np.testing.assert_array_equal(table.classes, np.arange(n_classes)[-len(params) :])
    assert table.baseline == (0 if n_classes == 2 else None)
    assert table.is_penalised


def test_contrasts_with_a_penalty():
    X, y = make_data(3)
    params, covariance = plain_covariance(X, y, 0.1)
    contrast = np.array([[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]])
    expected = np.einsum("ak,kjlm,bl->ajbm", contrast, covariance, contrast)
    table = fitted(X, y, C=0.1).summary(X, y, baseline=1)
    np.testing.assert_allclose(table.coef, contrast @ params, rtol=RTOL, atol=1e-8)
    np.testing.assert_allclose(table.std_error, roots(expected), rtol=RTOL)


def test_a_weak_penalty_tends_to_none():
    X, y = make_data(3)
    without = fitted(X, y).standard_errors(X, y)
    weak = fitted(X, y, C=1e9).standard_errors(X, y, baseline=0)
    np.testing.assert_allclose(packed(weak), packed(without), rtol=RTOL)


# Weights


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("C", [0.1, np.inf])
def test_a_weight_is_a_number_of_rows(n_classes, C):
    X, y = make_data(n_classes)
    weights = np.random.default_rng(1).integers(0, 4, len(y))
    X[weights == 0] = 1e6  # rows that do not count
    rows = np.repeat(np.arange(len(y)), weights)
    weighted = fitted(X, y, weights, C=C).standard_errors(X, y, weights)
    repeated = fitted(X[rows], y[rows], C=C).standard_errors(X[rows], y[rows])
    np.testing.assert_allclose(packed(weighted), packed(repeated), rtol=RTOL)


def test_weights_that_are_no_counts():
    X, y = make_data(3)
    weights = np.random.default_rng(1).uniform(0.1, 7.0, len(y))
    _, covariance = plain_covariance(X, y, 2.0, weights)
    errors = fitted(X, y, weights, C=2.0).standard_errors(X, y, weights)
    np.testing.assert_allclose(packed(errors), roots(covariance), rtol=RTOL)
    four = fitted(X, y, 4 * weights).standard_errors(X, y, 4 * weights)
    one = fitted(X, y, weights).standard_errors(X, y, weights)
    np.testing.assert_allclose(2 * packed(four), packed(one), rtol=RTOL)


def test_class_weights_multiply():
    X, y = make_data(3)
    factors = np.array([1.0, 3.0, 0.5])
    by_class = fitted(X, y, class_weight=dict(enumerate(factors))).standard_errors(X, y)
    by_row = fitted(X, y, factors[y]).standard_errors(X, y, factors[y])
    np.testing.assert_array_equal(packed(by_class), packed(by_row))


# Scales, storages, dtypes


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("C", [1.0, np.inf])
def test_far_columns_move_only_the_intercept(n_classes, C):
    X, y = make_data(n_classes)
    shift = np.array([1e6, -3e4, 0.0])
    near, far = fitted(X, y, C=C), fitted(X + shift, y, C=C)
    expected, errors = near.standard_errors(X, y), far.standard_errors(X + shift, y)
    # X + shift is rounded: relative to the spread by 1e-10.
    np.testing.assert_allclose(errors.coef, expected.coef, rtol=RTOL)
    assert np.all(errors.intercept > 1e4 * expected.intercept)
    if np.isinf(C):  # statsmodels on the near columns, its covariance moved
        theirs = (logit if n_classes == 2 else multinomial_logit)(with_ones(X), y)
        form = np.append(-shift, 1.0)
        blocks = np.asarray(theirs.cov_params()).reshape(n_classes - 1, 4, n_classes - 1, 4)
        variance = np.einsum("j,kjkl,l->k", form, blocks, form)
        np.testing.assert_allclose(errors.intercept, np.sqrt(variance), rtol=RTOL)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scales_of_columns_divide(n_classes):
    X, y = make_data(n_classes)
    scale = np.array([1e-6, 1.0, 1e7])
    expected = fitted(X, y).standard_errors(X, y)
    errors = fitted(X * scale, y).standard_errors(X * scale, y)
    np.testing.assert_allclose(errors.coef * scale, expected.coef, rtol=RTOL)
    np.testing.assert_allclose(errors.intercept, expected.intercept, rtol=RTOL)


@pytest.mark.parametrize("C", [1.0, np.inf])
def test_storages_agree(C):
    X, y = make_data(3)
    X[X < 0.3] = 0.0
    model = fitted(X, y, C=C)
    expected = packed(model.standard_errors(X, y))
    for same in (sparse.csr_array(X), sparse.csc_matrix(X), np.asfortranarray(X), X.tolist()):
        np.testing.assert_allclose(packed(model.standard_errors(same, y)), expected, rtol=1e-9)
    np.testing.assert_array_equal(packed(model.sparsify().standard_errors(X, y)), expected)


@pytest.mark.parametrize("C", [1.0, np.inf])
def test_float32(C):
    X, y = make_data(3)
    X = (X * [1.0, 1e3, 1e-3] + [30.0, 0.0, 0.0]).astype(np.float32)
    expected = fitted(X.astype(np.float64), y, C=C).standard_errors(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        errors = fitted(X, y, C=C, tol=1e-6).standard_errors(X, y)
    assert errors.coef.dtype == np.float64
    np.testing.assert_allclose(packed(errors), packed(expected), rtol=RTOL32)


def test_nothing_of_the_estimator_changes():
    X, y = make_data(3)
    model = fitted(X, y)
    before = {name: np.copy(value) for name, value in vars(model).items()}
    errors, table = model.standard_errors(X, y), model.summary(X, y)
    table.coef[:] = errors.coef[:] = np.nan
    table.classes[:] = errors.classes[:] = -1
    assert vars(model).keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(vars(model)[name], value, err_msg=name)


# The table


def test_summary_as_text_and_frame():
    X, y = make_data(3)
    frame = pd.DataFrame(X, columns=["age", "height", "weight"])
    labels = np.array(["blue", "green", "red"])[y]
    table = fitted(frame, labels).summary(frame, labels)
    lines = str(table).splitlines()
    assert repr(table) == str(table)
    assert "class blue" in lines[0]
    assert "maximum likelihood" in lines[0]
    assert len(lines) == 2 + 2 * 4
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[1].split()[-2:] == ["0.025", "0.975"]
    assert lines[2].split()[:2] == ["green", "age"]
    assert lines[-1].split()[:2] == ["red", "intercept"]
    assert float(lines[2].split()[3]) == pytest.approx(table.std_error[0, 0], rel=1e-3)

    as_frame = table.to_frame()
    assert list(as_frame.columns) == ["coef", "std_error", "z", "p_value", "lower", "upper"]
    row = as_frame.loc[("red", "height")]
    assert row["std_error"] == table.std_error[1, 1]
    np.testing.assert_allclose(row["p_value"], 2 * stats.norm.sf(abs(row["z"])), rtol=1e-12)
    assert "penalised" in str(fitted(X, y, C=1.0).summary(X, y))
    assert "sums over the classes are 0" in str(fitted(X, y, C=1.0).summary(X, y))


def test_names_without_a_frame_and_without_an_intercept():
    X, y = make_data(2)
    assert list(fitted(X, y).summary(X, y).names) == ["x0", "x1", "x2", "intercept"]
    table = fitted(X, y, fit_intercept=False).summary(X, y)
    assert list(table.names) == ["x0", "x1", "x2"]
    assert table.coef.shape == (1, 3)


def test_to_frame_without_pandas_says_what_to_install(monkeypatch):
    X, y = make_data(2)
    table = fitted(X, y).summary(X, y)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        table.to_frame()


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, -1, np.nan])
def test_confidence_is_a_probability(confidence):
    X, y = make_data(2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        fitted(X, y).summary(X, y, confidence=confidence)


# Refusals


def refuses(model, X, y, match, **arguments):
    for method in (model.standard_errors, model.summary):
        with pytest.raises(ValueError, match=match):
            method(X, y, **arguments)


def test_before_fit():
    X, y = make_data(2)
    with pytest.raises(NotFittedError):
        LogisticRegression().standard_errors(X, y)


def test_l1():
    X, y = make_data(2)
    model = fitted(X, y).set_params(C=1.0, l1_ratio=0.5)
    refuses(model, X, y, "l1_ratio=0")


def test_unknown_baseline():
    X, y = make_data(3)
    refuses(fitted(X, y), X, y, "baseline=7 is none of the classes 0, 1, 2", baseline=7)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_constant_columns_without_a_penalty(n_classes):
    X, y = make_data(n_classes)
    X[:, 1] = 0.1
    refuses(fitted(X, y), X, y, "do not vary.*: x1. Drop")
    assert np.all(fitted(X, y, fit_intercept=False).standard_errors(X, y).coef > 0)
    X[:, 1] = 0.0
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    refuses(fitted(frame, y, fit_intercept=False), frame, y, "are zero.*: b. Drop")
    # With a penalty only the penalty tells: the prior's variance C, on rows that sum to zero.
    share = 1.0 if n_classes == 2 else 1.0 - 1.0 / n_classes
    errors = fitted(X, y, C=4.0).standard_errors(X, y)
    np.testing.assert_allclose(errors.coef[:, 1], 2.0 * np.sqrt(share), rtol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_dependent_columns_without_a_penalty(n_classes, shift):
    X, y = make_data(n_classes, d=5)
    X[:, 3] = X[:, 0] - 2 * X[:, 1] + shift
    refuses(fitted(X, y), X, y, "combinations of one another: x0, x1, x3. Drop columns, or lower C")
    refuses(fitted(X, y, C=1e18), X, y, "x0, x1, x3")
    assert np.all(packed(fitted(X, y, C=1.0).standard_errors(X, y)) > 0)


def test_one_hot_columns_and_the_intercept():
    X, y = make_data(3)
    hot = np.eye(3)[np.arange(len(y)) % 3]
    X = np.column_stack([X, hot])
    refuses(fitted(X, y), X, y, "x3, x4, x5, the intercept")
    refuses(fitted(sparse.csr_array(X), y), sparse.csr_array(X), y, "x3, x4, x5, the intercept")
    assert np.all(fitted(X, y, fit_intercept=False).standard_errors(X, y).coef > 0)


@pytest.mark.parametrize(
    ("tol", "dtype"),
    [
        *((tol, np.float64) for tol in (1e-2, 1e-4, 1e-8, 1e-12)),
        *((tol, np.float32) for tol in (1e-2, 1e-4, 1e-8)),  # less is beyond its rounding
    ],
)
def test_separable_classes(tol, dtype):
    X = make_data(3)[0].astype(dtype)
    apart = np.digitize(X[:, 0], [-0.5, 0.5])
    two = (X[:, 0] > 0.1).astype(int)
    for labels in (apart, two):
        model = fitted(X, labels, tol=tol)
        refuses(model, X, labels, "separable.*[Ll]ower C")
    assert np.all(packed(fitted(X, two, C=1.0).standard_errors(X, two)) > 0)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("kind", ["one-hot", "far", "half"])
def test_some_samples_are_separated(tol, n_classes, kind):
    """Also where the fit itself reports an optimum: rows far out hide the step from its test."""
    X, y = make_data(n_classes, n=1000, d=4)
    rng = np.random.default_rng(2)
    last = y == n_classes - 1
    X[:, 3] = {
        "one-hot": last & (rng.uniform(size=1000) < 0.1),
        "far": 1e3 * rng.exponential(size=1000) * (last & (rng.uniform(size=1000) < 0.3)),
        "half": rng.uniform(size=1000) * (y == 0),
    }[kind]
    refuses(fitted(X, y, tol=tol), X, y, "separable.*[Ll]ower C")


def test_nearly_separable_classes_are_not_refused():
    X = make_data(2, n=200)[0]
    near = (X[:, 0] > 0).astype(int)
    flipped = np.argsort(np.abs(X[:, 0]))[:8]
    near[flipped] = 1 - near[flipped]
    for tol in (1e-4, 1e-10):
        errors = fitted(X, near, tol=tol).standard_errors(X, near)
        np.testing.assert_allclose(packed(errors)[0], logit(with_ones(X), near).bse, rtol=1e-2)


def test_a_class_without_weight():
    X, y = make_data(3)
    weights = (y != 1).astype(float)
    for C in (1.0, np.inf):
        model = fitted(X, y, weights, C=C, tol=1e-4)
        refuses(model, X, y, "positive weight is of 1", sample_weight=weights)


def test_a_penalty_too_weak_for_the_tolerance_warns():
    """The optimum is finite, but where tol ends the fit logits, and so errors, still grow."""
    X = make_data(2)[0]
    apart = (X[:, 0] > 0).astype(int)
    model = fitted(X, apart, C=1e12, tol=1e-4)
    with pytest.warns(ConvergenceWarning, match="smaller tol"):
        model.standard_errors(X, apart)
    _, covariance = plain_covariance(X, apart, 1e3)
    errors = fitted(X, apart, C=1e3, tol=1e-9).standard_errors(X, apart)
    np.testing.assert_allclose(packed(errors), roots(covariance), rtol=1e-4)


def test_other_data():
    X, y = make_data(3, n=800)
    for C in (1.0, np.inf):
        model = fitted(X[:400], y[:400], C=C)
        refuses(model, X[400:], y[400:], "X, y and sample_weight of the fit")
        weights = np.where(y == 0, 5.0, 1.0)[:400]
        refuses(model, X[:400], y[:400], "of the fit", sample_weight=weights)
    model = fitted(X, y, C=1.0)
    refuses(model, X, y + 1, "y holds the classes 1, 2, 3")
    refuses(model, X[:, :2], y, "features")
    refuses(model.set_params(C=0.01), X, y, "with these parameters")


def test_tiny_features_hide_other_data_from_the_gradient():
    X, y = make_data(2, n=800)
    X = 1e-7 * X
    model = fitted(X[:400], y[:400], fit_intercept=False, tol=1e-5, C=np.inf)
    with pytest.warns(ConvergenceWarning, match="standard errors from the optimum"):
        model.standard_errors(X[400:], y[400:])


def test_fits_that_are_not_precise_warn():
    X, y = make_data(3)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model = fitted(X, y, max_iter=1)
    with pytest.warns(ConvergenceWarning, match="did not converge") as caught:
        model.standard_errors(X, y)
    assert caught[0].filename == __file__
    with pytest.warns(ConvergenceWarning, match="did not converge") as caught:
        model.summary(X, y)
    assert caught[0].filename == __file__
    many = np.tile(X, (100, 1)), np.tile(y, 100)
    with pytest.warns(ConvergenceWarning, match="smaller tol than 0.1"):
        fitted(*many, tol=0.1).standard_errors(*many)


def test_too_many_coefficients(monkeypatch):
    X, y = make_data(3)
    model = fitted(X, y)
    monkeypatch.setattr(module, "_MOST_PARAMS", 7)
    refuses(model, X, y, "at most 7")


def test_values_too_large():
    X, y = make_data(2)
    model = fitted(X, y, fit_intercept=False)
    X[:, 1] *= 1e160
    model.coef_[:, 1] /= 1e160
    refuses(model, X, y, "Scale X")


@settings(max_examples=80, deadline=None)
@given(
    X=st.lists(st.tuples(*[st.integers(-2, 2)] * 2), min_size=8, max_size=14),
    n_classes=st.sampled_from([2, 3]),
    C=st.sampled_from([1.0, 1e6, np.inf]),
    seed=st.integers(0, 9),
)
def test_a_finite_answer_or_an_error(X, n_classes, C, seed):
    X = np.array(X, float)
    y = np.random.default_rng(seed).permutation(np.arange(len(X)) % n_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = fitted(X, y, C=C, tol=1e-8)
        table, message = None, ""
        try:
            table = model.summary(X, y)
        except ValueError as error:  # dependent columns, or separable classes
            message = str(error)
    if table is None:
        assert C > 1.0
        assert message.startswith("There are no standard errors")
        return
    for values in (table.coef, table.std_error, table.z, table.p_value, table.lower, table.upper):
        assert np.all(np.isfinite(values))
    assert np.all(table.std_error > 0)
