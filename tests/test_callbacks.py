"""scikit-learn's callbacks: every solver calls them, and a fit with them is the same fit."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from fastsoftmax import LogisticRegression

callback = pytest.importorskip("sklearn.callback", reason="came with scikit-learn 1.9")

SOLVERS = ["auto", "lbfgs", "newton-cg", "newton-cholesky", "saga", "sag"]


def make_data(n_samples, n_features, n_classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(n_samples) % n_classes
    return rng.normal(size=(n_samples, n_features)) + np.eye(n_classes, n_features)[y], y


def ordinary():
    X, y = make_data(90, 4)
    return sparse.csr_array(X), y


#: Data, and what `solver_` says of a fit by 'auto'.
DATA = {
    "small": (lambda: make_data(90, 4), "compiled"),
    "binary": (lambda: make_data(90, 4, n_classes=2), "compiled"),
    "ordinary": (ordinary, "lbfgs (full Hessian)"),
    "wide": (lambda: make_data(60, 1000), "rotated"),
}
CASES = [
    pytest.param(*DATA[name], solver, id=f"{name}-{solver}")
    for name in DATA
    for solver in SOLVERS
    if not (name == "wide" and solver == "newton-cholesky")  # 0.3 s for each Hessian
]


class Recorder:
    """A callback that takes down its calls; may stop the fit, or raise, after some iterations."""

    def __init__(self, stop_at=None, raise_at=None, raise_in="on_fit_task_end"):
        self.stop_at, self.raise_at, self.raise_in = stop_at, raise_at, raise_in
        self.setups = self.teardowns = 0
        self.calls = []  # (hook, depth and id of the task, the model)

    def setup(self, estimator, context):
        self.setups += 1
        if self.raise_in == "setup":
            raise ZeroDivisionError

    def teardown(self, estimator, context):
        self.teardowns += 1

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self._note("on_fit_task_begin", context, X, metadata, fitted_estimator)

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self._note("on_fit_task_end", context, X, metadata, fitted_estimator)
        return context.parent is not None and context.task_id + 1 == self.stop_at

    def _note(self, hook, context, X, metadata, model):
        is_root = context.parent is None
        self.last_X, self.last_metadata = X, metadata
        self.calls.append((hook, None if is_root else context.task_id, model))
        if hook == self.raise_in and not is_root and context.task_id == self.raise_at:
            raise ZeroDivisionError

    def models(self, hook):
        return [model for name, task, model in self.calls if name == hook and task is not None]


def attributes(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_")}


def assert_same_fit(actual, desired):
    actual, desired = attributes(actual), attributes(desired)
    assert actual.keys() == desired.keys()
    for name, value in desired.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize(("make", "runs", "solver"), CASES)
def test_every_solver_calls_them_around_every_iteration(make, runs, solver):
    X, y = make()
    recorder = Recorder()
    model = LogisticRegression(solver=solver).set_callbacks(recorder).fit(X, y)
    assert (solver not in ("auto", "saga", "sag")) or runs in model.solver_
    assert (recorder.setups, recorder.teardowns) == (1, 1)
    n_iter = model.n_iter_[0]
    assert n_iter > 1
    tasks = [(hook, task) for hook, task, _ in recorder.calls]
    begin, end = "on_fit_task_begin", "on_fit_task_end"
    iterations = [(hook, i) for i in range(n_iter + 1) for hook in (begin, end)]
    assert tasks == [(begin, None), *iterations, (end, None)]
    assert recorder.models(end)[-1] is None  # of the iteration that did not take place
    np.testing.assert_array_equal(recorder.models(end)[-2].coef_, model.coef_)
    assert_same_fit(model, LogisticRegression(solver=solver).fit(X, y))


@pytest.mark.parametrize(("make", "runs", "solver"), CASES)
def test_models_of_iterations_are_those_of_fits_that_end_there(make, runs, solver):
    X, y = make()
    recorder = Recorder()
    model = LogisticRegression(solver=solver, tol=1e-12).set_callbacks(recorder).fit(X, y)
    n_models = min(3, model.n_iter_[0] - 1)
    for i, found in enumerate(recorder.models("on_fit_task_end")[:n_models], start=1):
        with pytest.warns(ConvergenceWarning):
            expected = LogisticRegression(solver=solver, tol=1e-12, max_iter=i).fit(X, y)
        following = recorder.models("on_fit_task_begin")[i]
        for shown in (found, following):
            np.testing.assert_allclose(shown.coef_, expected.coef_, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(shown.intercept_, expected.intercept_, rtol=1e-10)
            np.testing.assert_array_equal(shown.predict(X), expected.predict(X))


@pytest.mark.parametrize(("make", "runs", "solver"), CASES)
@pytest.mark.parametrize("max_iter", [1, 1000])
def test_a_callback_ends_the_fit_without_a_warning(make, runs, solver, max_iter):
    X, y = make()
    recorder = Recorder(stop_at=1)
    model = LogisticRegression(solver=solver, tol=1e-12, max_iter=max_iter)
    model.set_callbacks(recorder).fit(X, y)
    assert model.n_iter_ == [1]
    assert not model.converged_
    assert model.status_.startswith("The caller asked to stop")
    np.testing.assert_array_equal(recorder.models("on_fit_task_end")[0].coef_, model.coef_)
    assert recorder.teardowns == 1
    assert [task for _, task, _ in recorder.calls] == [None, 0, 0, 1, 1, None]


@pytest.mark.parametrize(("make", "runs", "solver"), CASES)
@pytest.mark.parametrize("hook", ["on_fit_task_begin", "on_fit_task_end"])
def test_a_callback_that_raises_leaves_the_estimator_as_it_was(make, runs, solver, hook):
    X, y = make()
    recorder = Recorder(raise_at=1, raise_in=hook)
    model = LogisticRegression(solver=solver).fit(X[:40], y[:40])
    model.set_callbacks(recorder)
    before = dict(vars(model))
    with pytest.raises(ZeroDivisionError):
        model.fit(X, y)
    assert list(vars(model)) == list(before)
    assert all(vars(model)[name] is value for name, value in before.items())
    assert (recorder.setups, recorder.teardowns) == (1, 1)


def test_a_setup_that_raises_and_bad_data_are_torn_down():
    X, y = make_data(90, 4)
    for recorder, rows, error in (
        (Recorder(raise_in="setup"), X, ZeroDivisionError),
        (Recorder(), X * np.nan, ValueError),
    ):
        model = LogisticRegression().set_callbacks(recorder)
        before = dict(vars(model))
        with pytest.raises(error):
            model.fit(rows, y)
        assert vars(model) == before
        assert (recorder.setups, recorder.teardowns, recorder.calls) == (1, 1, [])


@pytest.mark.parametrize("case", ["no iterations", "warm start"])
def test_a_fit_without_iterations_has_one_task_with_its_model(case):
    X, y = make_data(90, 4)
    recorder, model = Recorder(), LogisticRegression(warm_start=True)
    if case == "warm start":
        model.fit(X, y).set_callbacks(recorder).fit(X, y)
    else:
        model.set_params(max_iter=0).set_callbacks(recorder)
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y)
    assert model.n_iter_ == [0]
    assert [task for _, task, _ in recorder.calls] == [None, 0, 0, 1, 1, None]
    shown, empty = recorder.models("on_fit_task_end")
    np.testing.assert_array_equal(shown.coef_, model.coef_)
    assert empty is None


def test_callbacks_see_the_users_data():
    """A frame with its names, so that predictions of the model do not warn of their lack."""
    X, y = make_data(90, 4)
    frame = pd.DataFrame(X, columns=list("abcd"))
    weights = np.linspace(0.5, 2.0, 90)
    recorder = Recorder()
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    model = LogisticRegression().set_callbacks(recorder, monitor).fit(frame, y, weights)
    assert recorder.last_X is frame
    assert recorder.last_metadata == {"sample_weight": weights}
    assert monitor.get_logs().data[-1]["neg_log_loss"] == pytest.approx(
        -log_loss(y, model.predict_proba(frame), sample_weight=weights)
    )


@pytest.mark.parametrize(("make", "runs", "solver"), CASES)
def test_scoring_monitor(make, runs, solver):
    X, y = make()
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    model = LogisticRegression(solver=solver).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs().data
    scores = [row["neg_log_loss"] for row in log if len(row["task_id_path"]) == 2]
    assert len(scores) == model.n_iter_[0]
    expected = -log_loss(y, model.predict_proba(X))
    assert scores[-1] == pytest.approx(expected, rel=1e-12)
    assert scores[0] < scores[-1]


@pytest.mark.parametrize("solver", ["auto", "liblinear", "newton-cg"])
def test_progress_bar(solver, capsys):
    X, y = make_data(90, 4, n_classes=2)
    model = LogisticRegression(solver=solver).set_callbacks(callback.ProgressBar())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="rich")  # of what it looks up in its environment
        model.fit(X, y)
    assert "LogisticRegression" in capsys.readouterr().out
    assert_same_fit(model, LogisticRegression(solver=solver).fit(X, y))


def test_no_solver_warns_that_it_has_no_callbacks():
    for solver in (*SOLVERS, "liblinear"):
        LogisticRegression(solver=solver).set_callbacks(Recorder())


def test_printing_and_callbacks_together(capsys):
    X, y = make_data(90, 4)
    recorder = Recorder()
    model = LogisticRegression(verbose=1).set_callbacks(recorder).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_[0] + 2
    assert len(recorder.models("on_fit_task_end")) == model.n_iter_[0] + 1


def test_callbacks_are_given_up_again():
    X, y = make_data(90, 4)
    recorder = Recorder()
    model = LogisticRegression().set_callbacks(recorder).set_callbacks().fit(X, y)
    assert recorder.setups == 0
    assert vars(model).keys() == vars(LogisticRegression().fit(X, y)).keys()
    with pytest.raises(TypeError, match="callbacks must be instances"):
        model.set_callbacks(Recorder)


def test_a_fitted_estimator_with_callbacks_is_pickled_and_cloned():
    X, y = make_data(90, 4)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    model = LogisticRegression().set_callbacks(monitor).fit(X, y)
    assert_same_fit(pickle.loads(pickle.dumps(model)), model)
    assert_same_fit(clone(model).fit(X, y), model)


def test_searches_pass_theirs_on():
    """The search's tree of tasks holds the fits, and these their iterations."""
    X, y = make_data(90, 4)
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    search = GridSearchCV(LogisticRegression().set_callbacks(monitor), {"C": [0.1, 1.0]}, cv=2)
    search.fit(X, y)
    rows = [row for log in monitor.get_logs("all") for row in log.data]
    assert sum(row["task_name"] == "iteration" for row in rows) > 5
