"""Small problems, whose iterations are compiled: same optimum, same words, same bits."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import reference
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning

import fastsoftmax.linear_model._logistic as module
from fastsoftmax import LogisticRegression, SoftmaxObjective
from fastsoftmax._solvers import Status
from fastsoftmax.linear_model._small import is_small
from fastsoftmax.linear_model._solve import solve

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="without machine code no problem is small"
)

COMPILED = "compiled lbfgs (a Gram matrix per class)"
HANDED_OVER = f"{COMPILED}, then lbfgs (full Hessian)"


def load(name):
    if name == "iris, two classes":
        X, y = datasets.load_iris(return_X_y=True)
        return X[50:], y[50:] - 1
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "digits":
        X, y = X[:200, 18:46], y[:200]  # with more, the oracle takes half a minute
    return X, y


DATA = {
    name: load(name) for name in ("iris", "iris, two classes", "wine", "breast_cancer", "digits")
}
every_data = pytest.mark.parametrize("name", DATA)


def uneven(n_samples):
    weights = np.random.default_rng(0).choice([0.0, 0.5, 1.0, 3.0], n_samples)
    weights[0] = 1.0
    return weights


def bits(model):
    return model.coef_.tobytes(), model.intercept_.tobytes(), model.n_iter_[0], model.n_passes_


def params_of(model):
    return np.column_stack([model.coef_, model.intercept_]).astype(float)


def objective_of(name, **options):
    X, y = DATA[name]
    return SoftmaxObjective(X, y, l2=1.0 / len(y), **options)


# --- The optimum ----------------------------------------------------------------------------------


@every_data
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
class TestOptimum:
    def test_float64(self, name, fit_intercept, weighted):
        X, y = DATA[name]
        weights = uneven(len(y)) if weighted else None
        options = {"fit_intercept": fit_intercept, "tol": 1e-8}
        model = LogisticRegression(**options).fit(X, y, weights)
        # Below the rounding of the objective the ordinary solver goes on.
        assert model.solver_ in (COMPILED, HANDED_OVER)
        assert model.converged_
        params, oracle = reference.logistic_optimum(
            X, y, len(model.classes_), weights=weights, fit_intercept=fit_intercept
        )
        found = params_of(model)
        least = oracle.value(params)
        assert oracle.value(found) - least <= 1e-10 * least
        gradient = oracle.gradient(found)[:, : None if fit_intercept else -1]
        assert np.abs(gradient).max() <= 1e-8 + 1e-10
        other = LogisticRegression(solver="lbfgs", **options).fit(X, y, weights)
        assert other.solver_.startswith("lbfgs")
        np.testing.assert_allclose(model.coef_, other.coef_, rtol=0, atol=1e-5)
        np.testing.assert_allclose(model.predict_proba(X), other.predict_proba(X), atol=1e-5)

    def test_float32(self, name, fit_intercept, weighted):
        X, y = DATA[name]
        weights = uneven(len(y)) if weighted else None
        model = LogisticRegression(fit_intercept=fit_intercept).fit(
            X.astype(np.float32), y, weights
        )
        assert model.solver_.startswith(COMPILED)
        assert model.coef_.dtype == np.float32
        params, oracle = reference.logistic_optimum(
            X.astype(np.float32), y, len(model.classes_), weights=weights,
            fit_intercept=fit_intercept,
        )  # fmt: skip
        least = oracle.value(params)
        # The estimated distance to the optimum is at most 0.01 * tol of the objective; its error
        # is a matter of the metric.
        assert oracle.value(params_of(model)) - least <= 1e-4 * least


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_class_without_samples(fit_intercept):
    X, y = DATA["iris"]
    weights = np.where(y == 1, 0.0, 1.0)
    model = LogisticRegression(tol=1e-8, fit_intercept=fit_intercept).fit(X, y, weights)
    assert model.solver_ == COMPILED
    assert model.coef_.shape == (3, 4)
    assert np.all(np.isfinite(params_of(model)))
    oracle = reference.LinearModel(X, reference.one_hot(y, 3), weights, 1.0 / weights.sum())
    gradient = oracle.gradient(params_of(model))[:, : None if fit_intercept else -1]
    assert np.abs(gradient).max() <= 1e-8 + 1e-12
    if fit_intercept:
        assert model.predict_proba(X)[:, 1].max() < 1e-4
    else:
        params, oracle = reference.logistic_optimum(
            X, y, 3, weights=weights, fit_intercept=False
        )  # fmt: skip
        np.testing.assert_allclose(model.coef_, params[:, :-1], rtol=0, atol=1e-5)


@every_data
def test_warm_start(name):
    X, y = DATA[name]
    model = LogisticRegression(C=0.3, tol=1e-8, warm_start=True).fit(X, y)
    model.set_params(C=1.0).fit(X, y)
    assert model.solver_.startswith(COMPILED)
    cold = LogisticRegression(tol=1e-8).fit(X, y)
    np.testing.assert_allclose(model.coef_, cold.coef_, rtol=0, atol=1e-5)
    again = model.set_params(tol=1e-4).fit(X, y)
    assert (again.solver_, again.n_iter_[0], again.n_passes_) == (COMPILED, 0, 1)


@pytest.mark.parametrize("n_rows", [2, 3])
def test_an_offset_and_soft_targets(n_rows):
    """What the estimator has not, an objective may have."""
    rng = np.random.default_rng(0)
    X, targets = rng.normal(size=(120, 4)), rng.uniform(size=(120, n_rows))
    weights = rng.uniform(size=120)
    objective = SoftmaxObjective(X, targets, sample_weight=weights, n_rows=n_rows, l2=1e-2)
    assert is_small(objective)
    result, solver = solve(objective, np.zeros(objective.shape), tol=1e-9, max_iter=100)
    assert (solver, result.status) == (COMPILED, Status.CONVERGED)
    oracle = reference.LinearModel(X, targets, weights, l2=1e-2)
    params = result.params.reshape(objective.shape)
    assert np.abs(oracle.gradient(params)).max() <= 1e-9 + 1e-12
    assert result.objective == pytest.approx(oracle.value(params), rel=1e-12)


# --- Reports --------------------------------------------------------------------------------------


@every_data
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("tol", [1e-4, 1e-8, 0.0])
def test_a_callback_sees_every_iteration_and_changes_no_bit(name, fit_intercept, tol):
    """With tol=0 the ordinary solver ends the fit; its counts go on."""
    objective = objective_of(name, fit_intercept=fit_intercept)
    start = np.zeros(objective.shape)
    quiet, solver = solve(objective, start, tol=tol, max_iter=1000)
    if tol != 1e-8:  # there some are handed over, and some are not
        assert solver == (COMPILED if tol else HANDED_OVER)
    states, params = [], []

    def on_iteration(state):
        states.append(state)
        params.append(state.params.copy())

    told, _ = solve(objective, start, tol=tol, max_iter=1000, on_iteration=on_iteration)
    np.testing.assert_array_equal(told.params, quiet.params)
    assert told.history == quiet.history
    assert (told.n_iterations, told.n_passes) == (quiet.n_iterations, quiet.n_passes)
    assert (told.objective, told.status) == (quiet.objective, quiet.status)
    assert [state.iteration for state in states] == list(range(told.n_iterations + 1))
    assert [(s.n_passes, s.objective, s.gradient_norm) for s in states] == told.history
    assert all(a < b for a, b in itertools.pairwise(s.n_passes for s in states))
    assert states[-1].n_passes <= told.n_passes
    assert states[0].step_size == 0.0
    assert all(state.step_size > 0.0 for state in states[1:])
    n_rows = len(start)
    oracle = reference.LinearModel(DATA[name][0], reference.one_hot(DATA[name][1], max(2, n_rows)),
                                   l2=1.0 / len(DATA[name][1]))  # fmt: skip
    for state, x in zip(states, params, strict=True):
        W = x.reshape(start.shape)
        W = W if fit_intercept else np.column_stack([W, np.zeros(n_rows)])
        assert state.objective == pytest.approx(oracle.value(W), rel=1e-9)
        gradient = oracle.gradient(W)[:, : start.shape[1]]
        assert state.gradient_norm == pytest.approx(np.abs(gradient).max(), rel=1e-6, abs=1e-10)


def test_a_true_answer_stops():
    objective = objective_of("wine")
    result, _ = solve(
        objective,
        np.zeros(objective.shape),
        tol=1e-8,
        max_iter=100,
        on_iteration=lambda state: state.iteration == 2,
    )
    assert (result.status, result.n_iterations, len(result.history)) == (Status.STOPPED, 2, 3)


@every_data
@pytest.mark.parametrize("max_iter", [0, 1, 3])
@pytest.mark.parametrize("verbose", [0, 1])
def test_max_iter(name, max_iter, verbose, capsys):
    X, y = DATA[name]
    model = LogisticRegression(tol=1e-8, max_iter=max_iter, verbose=verbose)
    with pytest.warns(ConvergenceWarning, match=r"increase max_iter.*max \|gradient\|"):
        model.fit(X, y)
    assert model.n_iter_.tolist() == [max_iter]
    assert not model.converged_
    assert np.any(model.coef_) == (max_iter > 0)
    oracle = reference.LinearModel(X, reference.one_hot(y, len(model.classes_)), l2=1.0 / len(y))
    assert model.objective_ == pytest.approx(oracle.value(params_of(model)), rel=1e-9)
    lines = [line for line in capsys.readouterr().out.splitlines() if ": iteration" in line]
    assert len(lines) == (max_iter + 1) * verbose


@every_data
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_tol_0_ends_at_the_floor_without_a_warning(name, dtype):
    X, y = DATA[name]
    model = LogisticRegression(tol=0.0).fit(X.astype(dtype), y)
    assert model.solver_ == HANDED_OVER
    assert "precision" in model.status_
    assert model.converged_
    params, oracle = reference.logistic_optimum(X.astype(dtype), y, len(model.classes_))
    least = oracle.value(params)
    bound = 1e-12 if dtype == np.float64 else 1e-4
    assert oracle.value(params_of(model)) - least <= bound * least


@every_data
def test_a_hand_over_adds_up(name):
    objective = objective_of(name)
    calls = []
    counted = objective.design.loss_and_gradient
    objective.design.loss_and_gradient = lambda *a: (calls.append(a), counted(*a))[1]
    result, solver = solve(objective, np.zeros(objective.shape), tol=0.0, max_iter=1000)
    assert ", then " in solver
    assert result.n_iterations == len(result.history) - 1
    passes = [n for n, _, _ in result.history]
    assert passes[0] == 1
    assert all(a < b for a, b in itertools.pairwise(passes))
    assert passes[-1] <= result.n_passes
    assert 0 < len(calls) < result.n_passes  # the others were compiled
    again = []
    result, _ = solve(
        objective,
        result.params.reshape(objective.shape),
        tol=0.0,
        max_iter=1000,
        on_iteration=again.append,
    )
    assert [state.iteration for state in again] == list(range(result.n_iterations + 1))


@pytest.mark.parametrize("max_iter", range(0, 30, 3))
def test_a_hand_over_leaves_the_limit_of_iterations(max_iter):
    objective = objective_of("iris")
    result, _ = solve(objective, np.zeros(objective.shape), tol=0.0, max_iter=max_iter)
    assert result.n_iterations <= max_iter
    assert result.status == Status.FLOOR or result.n_iterations == max_iter


def test_what_overflows_at_the_start_is_refused_as_ever():
    X, y = DATA["iris"]
    model = LogisticRegression(warm_start=True).fit(X, y)
    model.coef_ = model.coef_ * 1e200
    before = dict(vars(model))
    with pytest.raises(ValueError, match="cannot start"):
        model.fit(X * 1e150, y)
    assert vars(model).keys() == before.keys()
    for name in before:
        assert vars(model)[name] is before[name], name


# --- Interruption, threads ------------------------------------------------------------------------


@pytest.mark.parametrize("iteration", [0, 2])
def test_an_interrupted_fit_leaves_no_trace(iteration, monkeypatch):
    X, y = DATA["wine"]
    model = LogisticRegression(tol=1e-8, verbose=1)

    def interrupt(state):
        if state.iteration == iteration:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "print_progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert not [name for name in vars(model) if name.endswith("_")]
    model.set_params(verbose=0).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        model.set_params(verbose=1).fit(*DATA["iris"])
    assert vars(model).keys() == before.keys()
    for name in before.keys() - {"verbose"}:
        assert vars(model)[name] is before[name], name


@every_data
def test_bits_do_not_depend_on_the_number_of_threads(name):
    X, y = DATA[name]
    results = {bits(LogisticRegression(n_jobs=n_jobs).fit(X, y)) for n_jobs in (1, 2, None)}
    assert len(results) == 1


def test_fits_in_several_threads_at_once():
    def fit(name):
        return bits(LogisticRegression(tol=1e-6).fit(*DATA[name]))

    expected = {name: fit(name) for name in DATA}
    names = list(DATA) * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fit, names))
    assert found == [expected[name] for name in names]


def test_large_problems_are_not_small():
    assert not is_small(SoftmaxObjective(np.ones((1000, 2000)), np.arange(1000) % 3))
    assert not is_small(SoftmaxObjective(np.ones((200_000, 5)), np.arange(200_000) % 3))
    assert is_small(SoftmaxObjective(np.ones((100, 5)), np.arange(100) % 3))
