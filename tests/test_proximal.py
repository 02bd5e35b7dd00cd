"""The solver for kinks and bounds, alone: on functions whose minima are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, minimize, nnls
from scipy.special import expit

from fastsoftmax._solvers import SeparablePenalty, Status, minimize_composite
from fastsoftmax._solvers.model import Faces, Metric, Pair, QuasiNewtonModel

NONE = np.empty(0)


def quadratic(A, b):
    """Return 0.5 ||A x - b||^2 and its Hessian."""
    H = A.T @ A

    def value_and_gradient(x):
        r = A @ x - b
        return 0.5 * r @ r, A.T @ r

    return value_and_gradient, H


def metric_of(H, is_exact=True):
    return lambda x: Metric(H[None].copy(), np.zeros(len(H)), NONE, is_exact)


def diagonal_of(H):
    return lambda x: Metric(np.diag(H).reshape(-1, 1, 1).copy(), np.zeros(len(H)), NONE, False)


def penalty(n, l1=0.0, lower=-np.inf, upper=np.inf):
    return SeparablePenalty(*(np.broadcast_to(v, n).astype(float) for v in (l1, lower, upper)))


METRICS = {"exact": metric_of, "diagonal": diagonal_of}


@pytest.mark.parametrize("metric", METRICS)
def test_soft_threshold(metric):
    rng = np.random.default_rng(0)
    A = np.linalg.qr(rng.standard_normal((30, 12)))[0] * 2.0
    b = rng.standard_normal(30)
    f, H = quadratic(A, b)
    result = minimize_composite(f, penalty(12, 0.5), np.zeros(12), METRICS[metric](H), tol=1e-10)
    u = A.T @ b / 4.0
    expected = np.sign(u) * np.maximum(np.abs(u) - 0.5 / 4.0, 0.0)
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(result.params, expected, atol=1e-10)
    np.testing.assert_array_equal(result.params == 0.0, expected == 0.0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_nonnegative_least_squares(metric, condition):
    rng = np.random.default_rng(1)
    A = rng.standard_normal((40, 15)) * np.geomspace(1.0, condition, 15)
    b = rng.standard_normal(40)
    f, H = quadratic(A, b)
    found = minimize_composite(
        f, penalty(15, lower=0.0), np.ones(15), METRICS[metric](H), tol=1e-9 * condition
    )
    expected, residual = nnls(A, b)
    np.testing.assert_array_equal(found.params == 0.0, expected == 0.0)
    np.testing.assert_allclose(found.params, expected, rtol=1e-6, atol=1e-9)
    assert found.objective == pytest.approx(0.5 * residual**2, rel=1e-10)


def test_bounds_on_both_sides():
    rng = np.random.default_rng(2)
    A, b = rng.standard_normal((40, 15)), 3.0 * rng.standard_normal(40)
    f, H = quadratic(A, b)
    lower, upper = -0.2 * rng.random(15), 0.2 * rng.random(15)
    found = minimize_composite(f, penalty(15, 0.0, lower, upper), np.ones(15), metric_of(H))
    expected = lsq_linear(A, b, (lower, upper), tol=1e-12).x
    np.testing.assert_allclose(found.params, expected, atol=1e-6)
    assert np.all((found.params >= lower) & (found.params <= upper))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    rank=st.integers(1, 12),
    l1=st.floats(0.01, 10.0),
    bounded=st.booleans(),
    metric=st.sampled_from(sorted(METRICS)),
)
def test_conditions_of_optimality(seed, n, rank, l1, bounded, metric):
    """Karush, Kuhn & Tucker, written out; also where columns are collinear."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((20, min(rank, n))) @ rng.standard_normal((min(rank, n), n))
    f, H = quadratic(A, rng.standard_normal(20))
    bounds = (-rng.random(n), rng.random(n)) if bounded else (-np.inf, np.inf)
    h = penalty(n, l1, *bounds)
    # A diagonal metric creeps where columns are collinear: 9141 iterations in one example.
    found = minimize_composite(
        f, h, rng.standard_normal(n), METRICS[metric](H), tol=1e-8, max_iter=20_000
    )
    assert found.converged
    x, slope = found.params, f(found.params)[1]
    slack = 1e-6 * (1.0 + l1)
    assert np.all((x >= h.lower) & (x <= h.upper))
    for j in range(n):
        if x[j] == 0.0 and h.lower[j] < 0.0 < h.upper[j]:
            assert abs(slope[j]) <= l1 + slack
            continue
        total = slope[j] + l1 * np.sign(x[j])
        if x[j] == h.lower[j]:
            assert total >= -slack
        elif x[j] == h.upper[j]:
            assert total <= slack
        else:
            assert abs(total) <= slack


def logistic(A, signs):
    def value_and_gradient(x):
        z = signs * (A @ x)
        return np.logaddexp(0.0, -z).mean(), -(A * signs[:, None]).T @ expit(-z) / len(z)

    def make_metric(x):
        p = expit(A @ x)
        return Metric(((A.T * (p * (1 - p))) @ A / len(p))[None], np.zeros(len(x)), NONE, True)

    return value_and_gradient, make_metric


@pytest.mark.parametrize("l1", [1e-1, 1e-3, 1e-5])
def test_logistic_regression_against_split_variables(l1):
    """With x = u - v and bounds, SciPy's L-BFGS-B solves the same problem."""
    rng = np.random.default_rng(3)
    A = rng.standard_normal((60, 8))
    f, make_metric = logistic(A, np.sign(A[:, 0] + rng.standard_normal(60)))
    found = minimize_composite(f, penalty(8, l1), np.zeros(8), make_metric, (8,) * 100, tol=1e-9)

    def split(uv):
        value, gradient = f(uv[:8] - uv[8:])
        return value + l1 * uv.sum(), np.concatenate([gradient, -gradient]) + l1

    options = {"maxiter": 20_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-10}
    expected = minimize(split, np.zeros(16), jac=True, bounds=[(0, None)] * 16, options=options)
    assert found.objective <= expected.fun + 1e-12
    np.testing.assert_allclose(found.params, expected.x[:8] - expected.x[8:], atol=1e-5)


def test_smooth_function_is_minimised_too():
    def rosenbrock(x):
        a, b = x[1] - x[0] ** 2, 1.0 - x[0]
        gradient = np.array([-400.0 * x[0] * a - 2.0 * b, 200.0 * a])
        return 100.0 * a**2 + b**2, gradient

    def make_metric(x):
        diagonal = np.array([1200.0 * x[0] ** 2 + 2.0, 200.0])
        return Metric(diagonal.reshape(2, 1, 1), np.zeros(2), NONE, False)

    start = np.array([-1.2, 1.0])
    found = minimize_composite(rosenbrock, penalty(2), start, make_metric, tol=1e-8)
    np.testing.assert_allclose(found.params, 1.0, atol=1e-6)
    bounded = minimize_composite(
        rosenbrock, penalty(2, upper=0.5), np.array([-1.2, 0.3]), make_metric, tol=1e-8
    )
    np.testing.assert_allclose(bounded.params, [0.5, 0.25], atol=1e-6)


def test_start_is_moved_into_the_bounds_and_not_changed():
    f, H = quadratic(np.eye(3), np.zeros(3))
    start = np.array([5.0, -5.0, 1.0])
    kept = start.copy()
    found = minimize_composite(f, penalty(3, 0.0, 2.0, 3.0), start, metric_of(H))
    np.testing.assert_array_equal(start, kept)
    np.testing.assert_array_equal(found.params, 2.0)


def test_limit_callback_and_infinite_start():
    f, H = quadratic(np.diag([1.0, 30.0]), np.array([1.0, 2.0]))
    limited = minimize_composite(
        f, penalty(2, 0.1), np.full(2, 9.0), diagonal_of(np.eye(2)), tol=1e-14, max_iter=1
    )
    assert limited.status is Status.MAX_ITERATIONS
    assert limited.n_iterations == 1
    seen = []
    stopped = minimize_composite(
        f,
        penalty(2, 0.1),
        np.full(2, 9.0),
        metric_of(H),
        on_iteration=lambda state: seen.append(state.iteration) or len(seen) == 1,
        tol=1e-14,
    )
    assert stopped.status is Status.STOPPED
    assert seen == [0]
    with pytest.raises(FloatingPointError):
        minimize_composite(
            lambda x: (np.inf, x), penalty(2, 0.1), np.zeros(2), metric_of(np.eye(2))
        )


def test_model_falls_by_what_it_says():
    """The model, written out from its definition with the BFGS formula, pair by pair."""
    rng = np.random.default_rng(4)
    n = 9
    H = np.cov(rng.standard_normal((n, 40))) + 0.1 * np.eye(n)
    G = H + 0.3 * np.diag(rng.random(n))
    l2 = 0.2 * rng.random(n)
    metric = Metric(H[None], l2, NONE, True, scale=1.3)
    steps = rng.standard_normal((3, n))
    pairs = [Pair(s, G @ s, metric.unscaled(s)) for s in steps]
    B = 1.3 * H + np.diag(l2)
    for s in steps:
        y = G @ s
        B = B - np.outer(B @ s, B @ s) / (s @ B @ s) + np.outer(y, y) / (y @ s)
    x, g = rng.standard_normal(n), rng.standard_normal(n)
    h = penalty(n, 0.4)
    model = QuasiNewtonModel(metric, pairs, x, g, h)

    def written_out(d):
        return g @ d + 0.5 * d @ B @ d + 0.4 * (np.abs(x + d).sum() - np.abs(x).sum())

    for d in rng.standard_normal((5, n)):
        assert model.value(x + d) == pytest.approx(written_out(d), rel=1e-10)
    z, fall = model.minimize(Faces(), 1e-9)
    step = z - x
    assert fall == pytest.approx(-written_out(step), rel=1e-10)
    for d in 1e-3 * rng.standard_normal((200, n)):
        assert written_out(step + d) >= written_out(step) - 1e-9


def test_singular_model_with_a_sloping_null_space():
    """Two equal columns: the penalty does not mind which of them is used."""
    rng = np.random.default_rng(5)
    column = rng.standard_normal((30, 1))
    A = np.hstack([column, column, rng.standard_normal((30, 4)), -column])
    b = 2.0 * column.ravel() + 0.1 * rng.standard_normal(30)
    f, H = quadratic(A, b)
    found = minimize_composite(f, penalty(7, 0.3), np.full(7, 3.0), metric_of(H), tol=1e-9)
    f, H = quadratic(A[:, [0, 2, 3, 4, 5]], b)
    single = minimize_composite(f, penalty(5, 0.3), np.zeros(5), metric_of(H), tol=1e-9)
    assert found.converged
    assert found.objective == pytest.approx(single.objective, rel=1e-9)
