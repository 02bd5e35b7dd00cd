"""Penalties and solvers by the names that scikit-learn knows."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from fastsoftmax import LogisticRegression
from fastsoftmax.linear_model._parameters import ALGORITHMS, kind_of_penalty, resolve

THEIRS = sorted(ALGORITHMS.keys() - {"auto"})

rng = np.random.default_rng(0)
y = np.arange(90) % 3
X = rng.normal(size=(90, 4)) + np.eye(3, 4)[y]
X2, y2 = X[y < 2], y[y < 2]

COMBINATIONS = [
    dict(zip(("penalty", "l1_ratio", "C", "dual"), values, strict=True))
    for values in itertools.product(
        ("deprecated", None, "l1", "l2", "elasticnet"),
        (0.0, 0.5, 1.0, None),
        (1.0, 2.0, np.inf),
        (False, True),
    )
]


def of_scikit_learn(params):
    """Return the error, or None, and the warnings of a fit of scikit-learn's class."""
    model = SklearnLogisticRegression(**params, max_iter=1)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            model.fit([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1])
        except ValueError as error:
            return error, []
    return None, [warning.message for warning in record]


def start_of(text):
    """Return the first sentence, without the name of the library."""
    return str(text).replace(" of scikit-learn", "").split(". ")[0].split(", Param")[0].rstrip(".")


@pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="texts of scikit-learn 1.9")
@pytest.mark.parametrize("solver", THEIRS)
def test_errors_and_warnings_are_those_of_scikit_learn(solver):
    for combination in COMBINATIONS:
        if solver == "liblinear" and combination["C"] == np.inf and combination["penalty"]:
            continue  # LIBLINEAR takes C=inf where `penalty` is given, and returns nonsense
        if solver in ("sag", "saga") and combination["l1_ratio"] is None:
            continue  # these fail in scikit-learn with a TypeError where there is no penalty
        params = combination | {"solver": solver}
        error, messages = of_scikit_learn(params)
        if error is not None:
            with pytest.raises(ValueError, match=r"\. (Use|Both|l1_ratio)|^l1_ratio must") as found:
                resolve(**params)
            assert start_of(found.value) == start_of(error), params
            continue
        notices = resolve(**params).notices
        assert [*map(type, notices)] == [*map(type, messages)], params
        assert [*map(start_of, notices)] == [*map(start_of, messages)], params


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_auto_takes_every_combination(combination):
    penalty, l1_ratio = combination["penalty"], combination["l1_ratio"]
    if penalty == "elasticnet" and l1_ratio is None:
        with pytest.raises(ValueError, match="l1_ratio must be specified"):
            resolve(**combination, solver="auto")
        return
    settings = resolve(**combination, solver="auto")
    C = np.inf if penalty is None else combination["C"]
    share = {"l1": 1.0, "l2": 0.0}.get(penalty, l1_ratio or 0.0)
    assert settings.C == C
    assert settings.l1_ratio == (0.0 if np.isinf(C) else share)
    assert settings.algorithm == "auto"


def test_kinds_of_penalties():
    assert kind_of_penalty([0]) == kind_of_penalty((0.0, 0)) == "l2"
    assert kind_of_penalty(np.array([1.0])) == "l1"
    assert kind_of_penalty([0.5]) == kind_of_penalty([0, 1]) == "elasticnet"


@pytest.mark.parametrize("solver", THEIRS)
def test_all_names_reach_the_same_optimum(solver):
    expected = LogisticRegression(tol=1e-10).fit(X2, y2)
    model = LogisticRegression(solver=solver, tol=1e-10).fit(X2, y2)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-7)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, atol=1e-7)
    assert (ALGORITHMS[solver] == "auto") == (model.solver_ == expected.solver_)


def test_dual_and_intercept_scaling_change_nothing():
    expected = LogisticRegression().fit(X2, y2)
    for solver in ("liblinear", "auto"):
        model = LogisticRegression(solver=solver, dual=True, intercept_scaling=100.0).fit(X2, y2)
        np.testing.assert_array_equal(model.coef_, expected.coef_)
        np.testing.assert_array_equal(model.intercept_, expected.intercept_)
    with pytest.raises(ValueError, match="'intercept_scaling' parameter"):
        LogisticRegression(intercept_scaling=0.0).fit(X2, y2)


def test_liblinear_refuses_three_classes():
    with pytest.raises(ValueError, match="'liblinear' solver does not support multiclass"):
        LogisticRegression(solver="liblinear").fit(X, y)
    assert not LogisticRegression(solver="liblinear").__sklearn_tags__().classifier_tags.multi_class
    assert LogisticRegression().__sklearn_tags__().classifier_tags.multi_class


def test_deprecated_names_warn_at_the_callers_line():
    model = LogisticRegression(penalty=None)
    with pytest.warns(FutureWarning, match=r"'penalty' was deprecated.*C=np\.inf") as record:
        model.fit(X, y)
    assert [warning.filename for warning in record] == [__file__]
    with pytest.warns(FutureWarning, match="'l1_ratio=None' was deprecated") as record:
        LogisticRegression(l1_ratio=None).fit(X, y)
    assert [warning.filename for warning in record] == [__file__]
    expected = LogisticRegression(C=np.inf).fit(X, y)
    np.testing.assert_array_equal(model.coef_, expected.coef_)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("auto", r"^The limit of iterations was reached: increase max_iter"),
        ("lbfgs", r"^lbfgs failed to converge after 1 iteration\(s\)\. The limit .*max \|grad"),
        ("newton-cg", r"^newton-cg failed to converge.* Increase the number of iterations\."),
        ("newton-cholesky", r"^Newton solver did not converge after 1 iterations\."),
        ("liblinear", r"^Liblinear failed to converge, increase the number of iterations\."),
        ("sag", r"^The max_iter was reached which means the coef_ did not converge"),
        ("saga", r"^The max_iter was reached which means the coef_ did not converge"),
    ],
)
def test_unconverged_fits_warn_in_the_words_of_the_solver(solver, message):
    with pytest.warns(ConvergenceWarning, match=message):
        model = LogisticRegression(solver=solver, max_iter=1, tol=1e-12).fit(X2, y2)
    assert model.status_.startswith("The limit of iterations")
    assert not model.converged_


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize("rows", [X2[:40], X2[:8].repeat(10, axis=1)], ids=["tall", "wide"])
def test_no_iterations_give_a_model_that_knows_nothing(solver, rows):
    labels = np.arange(len(rows)) % 4 == 0  # unequal shares, which the intercepts would tell
    with pytest.warns(ConvergenceWarning):
        model = LogisticRegression(solver=solver, max_iter=0).fit(rows, labels)
    assert not model.coef_.any()
    assert not model.intercept_.any()
    np.testing.assert_array_equal(model.predict_proba(rows), 0.5)
