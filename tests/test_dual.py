"""Dual coordinate ascent: its equations, its estimates, and when it gives way to another solver."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import reference
from scipy import sparse
from scipy.special import expit, log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning

from fastsoftmax import LogisticRegression
from fastsoftmax._designs import DualAscent, make_design
from fastsoftmax._solvers.dual_ascent import ascend
from fastsoftmax._solvers.result import Status
from fastsoftmax._validation import Targets, Weights
from fastsoftmax.linear_model import _vocabulary

numbers_of_classes = pytest.mark.parametrize("n_classes", [2, 3, 11])
NAME = "dual coordinate ascent"
#: Rounding of float32, over some hundred additions.
ROUNDING = 2e-5


@functools.cache
def texts(n_classes=3, n_samples=300, n_features=120, seed=0):
    """Return X of a few words a row, two rows empty, and labels in blocks, class after class."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, n_classes, n_samples))
    share = 1.0 / np.arange(1, n_features + 1)
    liking = share * rng.gamma(0.5, size=(n_classes, n_features))
    X = rng.poisson(8 * liking[labels] / liking.sum(axis=1)[labels][:, None]).astype(float)
    X[:, 0] = 1.0
    X[[5, 170]] = 0.0
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return sparse.csr_array(X / np.maximum(norms, 1.0)), labels


def targets_of(kind, labels, n_classes):
    empty = np.empty((0, 0))
    if kind == "labels":
        return Targets(labels.astype(np.int32), empty, n_classes)
    soft = np.random.default_rng(3).dirichlet(np.full(n_classes, 0.7), len(labels))
    return Targets(np.empty(0, np.int32), soft, n_classes)


class Problem:
    """The mean loss plus ridge penalty, in NumPy."""

    def __init__(self, n_classes, kind="labels", strength=0.01, has_weights=False):
        rng = np.random.default_rng(2)
        self.X, labels = texts(n_classes)
        n = self.X.shape[0]
        self.n_rows, self.strength = (1 if n_classes == 2 else n_classes), strength
        self.targets = targets_of(kind, labels, n_classes)
        one_hot = np.eye(n_classes)[labels] if kind == "labels" else self.targets.soft
        self.Y = one_hot[:, -self.n_rows :]
        self.w = rng.uniform(0, 2, n) * (rng.random(n) > 0.1) if has_weights else np.ones(n)
        self.offset = rng.normal(size=(n, self.n_rows)) if has_weights else np.zeros((n, 1))

    def design(self, dtype=np.float64):
        n_classes = self.targets.n_classes
        has_weights = bool(self.offset.any())
        soft = self.targets.soft.astype(dtype)
        weights = self.w.astype(dtype) if has_weights else np.empty(0, dtype)
        return make_design(
            self.X.astype(dtype),
            Targets(self.targets.labels, soft, n_classes),
            Weights(weights, 1.0, float(self.w.sum())),
            self.offset.astype(dtype) if has_weights else None,
        )

    def logits(self, coef, intercept):
        return self.X @ coef.T + intercept + self.offset

    def probabilities(self, logits):
        return expit(logits) if self.n_rows == 1 else softmax(logits, axis=1)

    def value(self, coef, intercept):
        Z, Y = self.logits(coef, intercept), self.Y
        if self.n_rows == 1:
            Z, Y = np.hstack([np.zeros_like(Z), Z]), np.hstack([1 - Y, Y])
        losses = -(Y * log_softmax(Z, axis=1)).sum(axis=1)
        return self.w @ losses / self.w.sum() + 0.5 * self.strength * np.sum(coef**2)

    def gradient(self, coef, intercept):
        R = self.w[:, None] * (self.probabilities(self.logits(coef, intercept)) - self.Y)
        R /= self.w.sum()
        return R.T @ self.X + self.strength * coef, R.sum(axis=0)


def float64(dual):
    coef, intercept = dual.coefficients
    return coef.astype(float), intercept.astype(float)


@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize("kind", ["labels", "soft"])
@numbers_of_classes
def test_epochs_lead_to_the_optimum_of_the_coefficients(n_classes, kind, has_weights):
    """The gap of a measurement tells how far from it they are, and the norm is the gradient's."""
    problem = Problem(n_classes, kind, has_weights=has_weights)
    intercept = np.linspace(-0.5, 0.5, problem.n_rows)
    dual = DualAscent(problem.design(), intercept, True, problem.strength)
    points, gaps = [], []
    for number in range(1, 25):
        dual.epoch(number)
        found, norm = dual.measure()
        coef, b = float64(dual)
        points.append(coef)
        gaps.append(found.gap)
        np.testing.assert_allclose(b, intercept, rtol=1e-6)
        gradient, of_intercept = problem.gradient(coef, b)
        np.testing.assert_allclose(found.intercept_gradient, of_intercept, rtol=0, atol=1e-6)
        largest = max(np.abs(gradient).max(), np.abs(of_intercept).max())
        assert norm == pytest.approx(largest, abs=1e-6)
        penalty = 0.5 * problem.strength * np.sum(coef**2)
        assert found.loss + penalty == pytest.approx(problem.value(coef, b), rel=1e-5)
    assert np.abs(problem.gradient(points[-1], b)[0]).max() <= 1e-6
    least = problem.value(points[-1], b)
    for coef, gap in zip(points, gaps, strict=True):
        if gap < 0.1 * least:  # where its second order is close
            assert problem.value(coef, b) - least <= 1.5 * gap + 1e-7 * least
    assert gaps[-1] <= 1e-6 * least


@numbers_of_classes
def test_coefficients_are_the_sum_over_samples_of_their_duals(n_classes):
    problem = Problem(n_classes, has_weights=True)
    dual = DualAscent(problem.design(), np.zeros(problem.n_rows), True, problem.strength)
    for number in range(1, 4):
        dual.epoch(number)
        duals = dual._duals[:, : problem.n_rows].astype(float)
        scale = problem.strength * problem.w.sum()
        expected = (problem.w[:, None] * duals).T @ problem.X / scale
        np.testing.assert_allclose(float64(dual)[0], expected, rtol=0, atol=ROUNDING)
        assert not duals[problem.w == 0].any()


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
@numbers_of_classes
def test_one_sample_alone_is_solved_by_a_few_visits(n_classes, strength):
    problem = Problem(n_classes, strength=strength)
    row = 40
    problem.X, problem.Y = problem.X[[row]], problem.Y[[row]]
    problem.w, problem.offset = np.ones(1), np.zeros((1, 1))
    problem.targets = replace(problem.targets, labels=problem.targets.labels[[row]])
    dual = DualAscent(problem.design(), np.zeros(problem.n_rows), True, strength)
    for number in range(1, 4):
        dual.epoch(number)
    coef, b = float64(dual)
    duals = dual._duals[:, : problem.n_rows].astype(float)
    residual = duals - (problem.Y - problem.probabilities(problem.logits(coef, b)))
    assert np.abs(residual).max() <= 1e-3


@numbers_of_classes
def test_an_epoch_depends_on_its_number_only(n_classes):
    problem = Problem(n_classes)

    def after(numbers, dtype=np.float64):
        dual = DualAscent(problem.design(dtype), np.zeros(problem.n_rows), True, problem.strength)
        for number in numbers:
            dual.epoch(number)
        return dual.coefficients[0].copy()

    np.testing.assert_array_equal(after([1, 2]), after([1, 2]))
    assert np.any(after([1, 2]) != after([1, 3]))
    np.testing.assert_allclose(after([1, 2], np.float32), after([1, 2]), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("has_intercept", [False, True])
@numbers_of_classes
def test_the_optimum_with_its_intercept(n_classes, has_intercept):
    problem = Problem(n_classes)
    dual = DualAscent(problem.design(), np.zeros(problem.n_rows), has_intercept, problem.strength)
    outcome = ascend(dual, lambda n: False, tol=1e-4, value_scale=1e-3, max_iter=100)
    assert outcome.status == Status.CONVERGED
    coef, b = float64(dual)
    C = 1.0 / (problem.strength * len(problem.Y))
    labels = problem.targets.labels
    params, oracle = reference.logistic_optimum(
        problem.X.toarray(), labels, n_classes, C, None, has_intercept
    )
    least = oracle.value(params)
    distance = oracle.value(np.column_stack([coef, b])) - least
    assert distance <= 1e-6 * least
    assert outcome.distance <= 1e-6 * outcome.loss
    assert bool(b.any()) == has_intercept


class Told:
    """A dual that tells what it is told to."""

    def __init__(self, distances):
        self._distances = distances
        self.n_measured = 0

    def _found(self, number):
        class Found:
            loss = 1.0
            gap = self._distances[min(number, len(self._distances)) - 1]
            intercept_gradient = np.zeros(1)
            intercept_curvature = np.ones(1)

        return Found

    def epoch(self, number):
        self.number = number
        return self._found(number)

    def measure(self):
        self.n_measured += 1
        return self._found(self.number), 0.0

    def move_intercept(self, step):
        pass


@pytest.mark.parametrize(
    ("distances", "status", "n_epochs", "n_measured"),
    [
        ([0.1, 1e-3, 1e-8], Status.CONVERGED, 3, 1),
        ([0.5**n for n in range(100)], Status.CONVERGED, 22, 1),
        ([0.1] * 100, None, 9, 0),
        ([0.1 * 0.95**n for n in range(100)], None, 9, 0),
        ([0.1, 0.01, 0.5], None, 3, 0),
        ([0.1, np.nan], None, 2, 0),
        ([0.1, np.inf], None, 2, 0),
        ([0.1, 0.01, 0.001, 0.0001], Status.MAX_ITERATIONS, 4, 1),
    ],
)
def test_when_an_ascent_ends(distances, status, n_epochs, n_measured):
    dual = Told(distances)
    limit = 4 if status == Status.MAX_ITERATIONS else 1000
    outcome = ascend(dual, lambda n: False, tol=1e-4, value_scale=0.0, max_iter=limit)
    assert (outcome.status, outcome.n_epochs, dual.n_measured) == (status, n_epochs, n_measured)
    assert outcome.n_passes == n_epochs + n_measured
    assert np.isfinite(outcome.loss) == (status is not None)


def test_a_tolerance_that_float32_cannot_meet_is_left_to_others():
    dual = Told([10.0**-n for n in range(30)])
    outcome = ascend(dual, lambda n: False, tol=1e-10, value_scale=0.0, max_iter=1000)
    assert outcome.status is None
    assert outcome.n_epochs <= 9


@pytest.mark.parametrize("stop", [1, 3])
def test_a_watcher_stops_an_ascent(stop):
    seen = []

    def on_epoch(number):
        seen.append(number)
        return number == stop

    dual = Told([0.5**n for n in range(100)])
    outcome = ascend(dual, on_epoch, tol=1e-4, value_scale=0.0, max_iter=1000)
    assert (outcome.status, seen) == (Status.STOPPED, list(range(1, stop + 1)))


# --- In fits --------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """A few features count as many."""
    monkeypatch.setattr(_vocabulary, "GRAM_COLUMNS", 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@numbers_of_classes
def test_a_fit_by_default_needs_nothing_else(n_classes, dtype, few):
    X, y = texts(n_classes)
    model = LogisticRegression().fit(X.astype(dtype), y)
    assert (model.solver_, model.converged_) == (NAME, True)
    params, oracle = reference.logistic_optimum(X.toarray(), y, n_classes, 1.0, None, True)
    found = np.column_stack([model.coef_, model.intercept_]).astype(float)
    least = oracle.value(params)
    assert oracle.value(found) - least <= 1e-6 * least
    assert model.n_iter_[0] < model.n_passes_ <= model.n_iter_[0] + 3
    assert model.coef_.dtype == dtype


def test_other_solvers_do_not_ascend(few):
    X, y = texts()
    for solver in ("lbfgs", "newton-cg"):
        assert NAME not in LogisticRegression(solver=solver).fit(X, y).solver_
    again = LogisticRegression(warm_start=True).fit(X, y)
    assert again.solver_ == NAME
    assert NAME not in again.fit(X, y).solver_


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("C", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("max_iter", [1, 2, 3, 6])
def test_no_limit_of_iterations_leaves_a_fit_worse_than_its_start(max_iter, C, scale, few):
    X, y = texts(11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = LogisticRegression(C=C, max_iter=0).fit(X * scale, y)
        model = LogisticRegression(C=C, max_iter=max_iter).fit(X * scale, y)
    assert model.objective_ <= start.objective_
    assert not start.coef_.any()
    assert np.isfinite(model.objective_)
    assert np.isfinite(model.gradient_norm_)


@pytest.mark.parametrize("n_classes", [2, 7])
def test_the_same_bits_for_any_number_of_threads(n_classes, few):
    X, y = texts(n_classes, n_samples=6000, n_features=900)
    one, two = (LogisticRegression(n_jobs=n).fit(X, y) for n in (1, 2))
    assert NAME in one.solver_
    np.testing.assert_array_equal(one.coef_, two.coef_)
    np.testing.assert_array_equal(one.intercept_, two.intercept_)
    assert (one.objective_, one.gradient_norm_) == (two.objective_, two.gradient_norm_)
