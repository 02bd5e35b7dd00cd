"""`minimize_in_diagonal_metric`: functions with known minimisers, memory, and its own rules."""

from __future__ import annotations

import itertools
import json
import tracemalloc

import numpy as np
import pytest
from child import run_python
from functions import (
    BARRIER_MINIMISER,
    barrier,
    convex_function,
    make_logistic,
    make_quadratic,
    quadratic,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from fastsoftmax._kernels import pairs
from fastsoftmax._solvers import Functions, Status, diagonal, minimize_in_diagonal_metric

DTYPES = (np.float32, np.float64)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
EPS = {dtype: float(np.finfo(dtype).eps) for dtype in DTYPES}


def in_place(function, inverse=None):
    """Return `Functions` of a function of vectors; the metric is that of its Hessian, or given."""

    def value_and_gradient(x, gradient):
        value, g = function(x.ravel().astype(np.float64))
        gradient.reshape(-1)[...] = g
        return value

    def metric(x, out):
        of_x = 1.0 / np.diag(function.hessian(x.ravel())) if inverse is None else inverse
        out.reshape(-1)[...] = of_x

    return Functions(value_and_gradient, metric)


def minimise(function, start, inverse=None, **stopping):
    return minimize_in_diagonal_metric(in_place(function, inverse), np.array(start), **stopping)


# --- Functions with known minimisers --------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_quadratics(condition, dtype):
    f, _, minimiser = make_quadratic(condition=condition)
    tol = 1e-8 if dtype == np.float64 else 1e-4
    result = minimise(f, np.zeros(20, dtype), tol=tol, noise=4 * EPS[dtype])
    assert result.converged
    assert result.params.dtype == dtype
    assert result.gradient_norm <= tol
    error = np.linalg.norm(result.params - minimiser)
    # |x - x*| <= |H⁻¹| |g|
    rounding = condition * 1e2 * EPS[dtype]
    assert error <= condition * np.linalg.norm(f(result.params.astype(float))[1]) + rounding


@both_dtypes
def test_scales_of_unknowns_do_not_matter(dtype):
    """The exact metric of a diagonal quadratic needs one step, whatever its condition."""
    scales = np.geomspace(1e-6, 1e6, 40)
    f = quadratic(np.diag(scales), np.linspace(-1.0, 1.0, 40))
    result = minimise(f, np.zeros(40, dtype), tol=1e-7 if dtype == np.float64 else 0.1)
    assert result.converged
    assert result.n_iterations <= (2 if dtype == np.float64 else 3)  # rounding may ask for one more
    np.testing.assert_allclose(result.params, np.linspace(-1.0, 1.0, 40), atol=1e-6)


@both_dtypes
@pytest.mark.parametrize("condition", [1.0, 30.0])
def test_logistic_functions(condition, dtype):
    f, minimiser = make_logistic(condition=condition)
    result = minimise(f, np.zeros(10, dtype), tol=1e-6 if dtype == np.float64 else 1e-4)
    assert result.status in (Status.CONVERGED, Status.FLOOR)
    # 0.01 * tol of a value of 5 is asked of an estimate that may be too small by a factor of 10.
    assert result.objective - f(minimiser)[0] <= (5e-7 if dtype == np.float64 else 5e-5)


@both_dtypes
def test_a_function_that_is_infinite_far_away(dtype):
    result = minimise(barrier, np.full(5, 0.9, dtype), inverse=1.0, tol=1e-3)
    assert result.converged
    np.testing.assert_allclose(result.params, BARRIER_MINIMISER, rtol=0, atol=1e-4)


@both_dtypes
@settings(deadline=None, derandomize=True, max_examples=40, database=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0, 1))
def test_the_minimum_is_scipys(dtype, seed, spread):
    """Also in metrics that have little to do with the function."""
    unregularised = convex_function(seed)

    def f(x):
        value, gradient = unregularised(x)
        return value + 0.5 * float(x @ x), gradient + x

    inverse = 10.0 ** np.random.default_rng(seed).uniform(-spread, spread, 5)
    expected = optimize.minimize(f, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-9})
    tol = 1e-7 if dtype == np.float64 else 1e-2
    noise = max(1e-12, 4 * EPS[dtype])  # of a value of 1 that is left of numbers of 1000
    result = minimise(f, np.zeros(5, dtype), inverse, tol=tol, max_iter=3000, noise=noise)
    assert result.converged
    assert result.gradient_norm <= tol or result.status is Status.FLOOR
    # Strong convexity: f - f* <= |g|² / 2.
    slope = np.linalg.norm(f(result.params.astype(float))[1])
    rounding = 1e-13 * abs(expected.fun)
    assert abs(result.objective - expected.fun) <= slope**2 / 2 + rounding
    assert np.linalg.norm(result.params - expected.x) <= slope + 1e-6


@both_dtypes
def test_coordinates_without_a_gradient_stay_where_they_are(dtype):
    start = np.array([3.0, -1.0, 0.5, 7.0, 0.0], dtype)
    H = np.diag([0.0, 2.0, 1.0, 0.0, 1.0])
    f = quadratic(H, np.ones(5))
    result = minimise(f, start, inverse=[1.0, 0.5, 0.7, 1e3, 1.0], tol=1e-5)
    assert result.converged
    np.testing.assert_array_equal(result.params[[0, 3]], start[[0, 3]])
    np.testing.assert_allclose(result.params[[1, 2, 4]], 1.0, atol=1e-4)


# --- Ends -----------------------------------------------------------------------------------------


@both_dtypes
def test_start_at_the_minimum_takes_no_step(dtype):
    f = quadratic(np.diag([1.0, 4.0, 2.0]), np.array([0.5, -0.25, 2.0]))
    result = minimise(f, np.array([0.5, -0.25, 2.0], dtype))
    assert (result.status, result.n_iterations, result.n_passes) == (Status.CONVERGED, 0, 1)
    np.testing.assert_array_equal(result.params, [0.5, -0.25, 2.0])
    assert (result.objective, result.gradient_norm) == (1.0, 0.0)


@pytest.mark.parametrize("max_iter", [0, 1, 3])
def test_max_iter(max_iter):
    f, _, _ = make_quadratic(condition=1e3)
    result = minimise(f, np.zeros(20), tol=1e-12, max_iter=max_iter)
    assert (result.status, result.n_iterations) == (Status.MAX_ITERATIONS, max_iter)
    assert not result.converged
    assert len(result.history) == max_iter + 1
    value, gradient = f(result.params)
    assert result.objective == value
    assert result.gradient_norm == np.abs(gradient).max()


def test_a_callback_sees_iterates_and_stops():
    f, _, _ = make_quadratic(condition=1e3)
    states = []

    def on_iteration(state):
        states.append((state, state.params.copy()))
        return state.iteration == 4

    result = minimise(f, np.zeros(20), tol=1e-12, on_iteration=on_iteration)
    assert (result.status, result.n_iterations) == (Status.STOPPED, 4)
    assert [state.iteration for state, _ in states] == [0, 1, 2, 3, 4]
    for state, params in states:
        value, gradient = f(params)
        assert (state.objective, state.gradient_norm) == (value, np.abs(gradient).max())
    np.testing.assert_array_equal(result.params, states[-1][1])


def test_an_exception_of_a_callback_passes_through():
    f, _, _ = make_quadratic(condition=10.0)

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimise(f, np.zeros(20), on_iteration=interrupt)


@pytest.mark.parametrize(
    ("value", "slope"), [(np.nan, 1.0), (np.inf, 1.0), (-np.inf, 1.0), (1.0, np.nan), (1.0, np.inf)]
)
def test_a_start_that_is_not_finite_is_refused(value, slope):
    def value_and_gradient(x, gradient):
        gradient[:] = slope
        return value

    functions = Functions(value_and_gradient, lambda x, out: out.fill(1.0))
    with pytest.raises(FloatingPointError, match="not finite at the start"):
        minimize_in_diagonal_metric(functions, np.zeros(3))


@both_dtypes
def test_a_wrong_gradient_is_a_failure_of_the_line_search(dtype):
    f = quadratic(np.eye(4), np.zeros(4))
    result = minimise(lambda x: (f(x)[0], -f(x)[1]), np.ones(4, dtype), inverse=1.0)
    assert result.status is Status.LINE_SEARCH
    assert not result.converged
    np.testing.assert_array_equal(result.params, np.ones(4))
    assert result.n_iterations == 0


def test_where_the_line_search_fails_a_fresh_metric_gets_a_chance():
    f, built = make_quadratic(condition=1e3)[0], []

    def value_and_gradient(x, gradient):
        value, gradient[:] = f(x)
        if len(calls) in range(8, 8 + 45) and len(built) == 1:
            value = np.inf  # a search has 40 trials
        calls.append(1)
        return value

    def metric(x, out):
        built.append(len(calls))
        out.fill(1.0)

    calls = []
    functions = Functions(value_and_gradient, metric)
    result = minimize_in_diagonal_metric(functions, np.zeros(20), tol=1e-6, max_iter=2000)
    assert result.converged
    assert len(built) >= 2
    assert built[1] < 8 + 45


@both_dtypes
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("n", [20, 2000])
def test_a_gradient_that_is_not_finite_later_on_is_no_success(n, wrong, dtype):
    """Where the value is: one component overflows, the others are small."""
    h, calls = np.geomspace(1e-2, 1.0, n), []

    def value_and_gradient(x, gradient):
        calls.append(1)
        gradient[:] = h * (x - 1.0)
        if len(calls) > 6:
            gradient[n // 2] = wrong
        return 1.0 + 0.5 * float(np.sum(h * np.square(x - 1.0)))

    functions = Functions(value_and_gradient, lambda x, out: out.fill(1.0))
    result = minimize_in_diagonal_metric(functions, np.zeros(n, dtype), tol=1e-3)
    assert result.status is Status.LINE_SEARCH
    assert np.all(np.isfinite(result.params))


def noisy(function, dtype):
    """Round a function's gradient as if it were summed in float32."""

    def rounded(x):
        value, gradient = function(x)
        return float(dtype(value)), gradient.astype(dtype).astype(float)

    return rounded


@pytest.mark.parametrize("seed", range(20))
def test_the_best_iterate_is_returned_at_the_floor(seed):
    """Not overwritten since: its value and gradient are those reported."""
    f = noisy(make_quadratic(condition=300.0, seed=seed)[0], np.float32)
    seen = []
    result = minimise(
        f,
        np.zeros(20, np.float32),
        inverse=np.linspace(1.0, 3.0, 20),
        tol=0.0,
        noise=EPS[np.float32],
        on_iteration=lambda state: seen.append((state.gradient_norm, state.params.copy())),
    )
    assert result.converged or result.status is Status.LINE_SEARCH
    value, gradient = f(result.params.astype(float))
    assert result.objective == value
    assert result.gradient_norm == np.abs(gradient).max()
    assert any(np.array_equal(params, result.params) for _, params in seen)


# --- Its own rules --------------------------------------------------------------------------------


def dense_bfgs_inverse(start, pairs_):
    """Return the inverse Hessian's estimate, Nocedal & Wright (2006), equation 6.17."""
    H, identity = start.copy(), np.eye(len(start))
    for s, y in pairs_:
        rho = 1.0 / (y @ s)
        H = (identity - rho * np.outer(s, y)) @ H @ (identity - rho * np.outer(y, s))
        H += rho * np.outer(s, s)
    return H


@pytest.mark.parametrize("n", [3, 40])
def test_steps_are_those_of_dense_bfgs(n):
    """Over the metric scaled to the latest pair, with the last two pairs."""
    f, _, _ = make_quadratic(n=n, condition=1e3)
    M, states = np.linspace(0.5, 2.0, n), []
    minimise(
        f,
        np.zeros(n),
        inverse=M,
        tol=1e-9,
        max_iter=diagonal._LAG,
        on_iteration=lambda state: states.append((state.params.copy(), state.step_size)),
    )
    points = [x for x, _ in states]
    n_checked = 0
    for k in range(len(points) - 1):
        steps = list(itertools.pairwise(points[: k + 1]))[-diagonal._PAIRS :]
        known = [(b - a, f(b)[1] - f(a)[1]) for a, b in steps]
        scale = known[-1][0] @ known[-1][1] / (known[-1][1] @ (M * known[-1][1])) if known else 1.0
        direction = -dense_bfgs_inverse(scale * np.diag(M), known) @ f(points[k])[1]
        expected = points[k] + states[k + 1][1] * direction
        size = np.linalg.norm(direction)
        np.testing.assert_allclose(points[k + 1], expected, rtol=0, atol=1e-6 * size + 1e-14)
        n_checked += 1
    assert n_checked >= min(n, 10)


def test_the_metric_is_renewed_while_that_pays():
    f, built, states = make_quadratic(condition=1e5)[0], [], []
    functions = in_place(f, 1.0)

    def metric(x, out):
        built.append(max(0, len(states) - 1))
        functions.metric(x, out)

    minimize_in_diagonal_metric(
        Functions(functions.value_and_gradient, metric),
        np.zeros(20),
        tol=1e-12,
        max_iter=3 * diagonal._LAG,
        on_iteration=lambda state: states.append(state.iteration),
    )
    lag = diagonal._LAG
    assert built == [0, lag, 2 * lag]  # not after the last iteration


@both_dtypes
@pytest.mark.parametrize("shape", [(1,), (7, 3), (512,), (513,), (50, 41)], ids=str)
@pytest.mark.parametrize("n_units", [1, 5])
def test_any_length_and_shape(n_units, shape, dtype, monkeypatch):
    """Blocks and units that are not full; two-dimensional parameters."""
    size = int(np.prod(shape))
    monkeypatch.setattr(diagonal, "_LEAST_UNIT", max(1, size // n_units))
    rng = np.random.default_rng(0)
    h, minimiser = 10.0 ** rng.uniform(-2, 0, shape), rng.normal(size=shape)
    seen = set()

    def value_and_gradient(x, gradient):
        seen.add((x.shape, gradient.shape, x.dtype, gradient.dtype))
        gradient[...] = h * (x - minimiser)
        return 1.0 + 0.5 * float(np.sum(h * np.square(x - minimiser)))

    def metric(x, out):
        seen.add((x.shape, out.shape, x.dtype, out.dtype))
        out.fill(1.0)

    start = np.zeros(shape, dtype)
    functions = Functions(value_and_gradient, metric)
    result = minimize_in_diagonal_metric(functions, start, tol=1e-5, noise=4 * EPS[dtype])
    assert result.converged
    assert seen == {(shape, shape, np.dtype(dtype), np.dtype(dtype))}
    assert (result.params.shape, result.params.dtype) == (shape, dtype)
    np.testing.assert_allclose(result.params, minimiser, rtol=0, atol=1e-2)
    gradient = np.empty(shape, dtype)
    assert value_and_gradient(result.params, gradient) == result.objective
    assert result.gradient_norm == np.abs(gradient).max()


@both_dtypes
def test_inner_products_are_those_of_numpy(dtype):
    rng = np.random.default_rng(0)
    n, slots = 1300, np.array([2, 0])
    S, Y = rng.normal(size=(2, 3, n)).astype(dtype)
    M, g = rng.uniform(0.5, 2.0, n).astype(dtype), rng.normal(size=n).astype(dtype)
    bounds = np.array([0, 100, 100, 700, n])
    out = np.full((4, pairs.N_SUMS, 3), np.nan)
    scratch = np.full((4, 2, pairs.BLOCK), np.nan, dtype)
    norms = np.full((4, pairs.BLOCK), np.nan, dtype)
    made = [a.astype(float) for a in (S, Y, M, g)]
    made[0][0] *= 0.25
    made[1][0], made[3] = made[1][0] - made[3], made[1][0].copy()
    pairs.inner_products(0, 4, bounds, S, Y, slots, 0, 0.25, M, g, scratch, norms, out)
    sums = out.sum(axis=0)
    for array, expected_array in zip((S, Y, M, g), made, strict=True):
        np.testing.assert_allclose(array, expected_array, rtol=0, atol=2 * EPS[dtype])
    assert norms.max() == np.abs(g).max()
    S, Y, M, g = made
    expected = {
        pairs.S_Y: S @ Y[0],
        pairs.Y_MY: Y @ (M * Y[0]),
        pairs.S_G: S @ g,
        pairs.Y_MG: Y @ (M * g),
        pairs.G_MG: np.full(3, g @ (M * g)),
    }
    bound = 1e3 * EPS[dtype] * np.sqrt(n)
    for row, values in expected.items():
        where = slots if row != pairs.G_MG else [0]
        np.testing.assert_allclose(sums[row, where], values[where], rtol=0, atol=bound)
    squares = [S[0] @ S[0], Y[0] @ Y[0]]
    np.testing.assert_allclose(sums[pairs.SQUARES, :2], squares, rtol=0, atol=bound)
    assert not sums[[pairs.S_Y, pairs.Y_MY, pairs.S_G, pairs.Y_MG], 1].any()  # not in use


# --- Memory and threads ---------------------------------------------------------------------------


def separable(n, dtype):
    """Return functions that allocate nothing: a sum of ``h (x - m)² / 2``, and its start."""
    h = np.linspace(0.1, 1.0, n).astype(dtype)
    m = np.linspace(-1.0, 1.0, n).astype(dtype)

    def value_and_gradient(x, gradient):
        np.subtract(x, m, out=gradient)
        value = 0.5 * float(np.einsum("i,i,i->", h, gradient, gradient))
        gradient *= h
        return 1.0 + value

    return Functions(value_and_gradient, lambda x, out: out.fill(1.0)), np.zeros(n, dtype)


@both_dtypes
@pytest.mark.parametrize("tol", [1e-3, 0.0])
def test_memory_is_eight_vectors(tol, dtype):
    """The start, which the caller holds for good, is one, and there are two where progress ends."""
    n = 300_000
    functions, start = separable(n, dtype)
    minimize_in_diagonal_metric(functions, start.copy(), max_iter=2)  # compiled
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = minimize_in_diagonal_metric(
            functions, start, tol=tol, noise=EPS[dtype], max_iter=200
        )
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    n_vectors = 7 if tol else 9
    small = n + 2**18  # which components are finite, at the start; scratch
    assert result.n_iterations > 5
    assert peak <= n_vectors * n * start.itemsize + small


SAME_BITS = """
import hashlib, json, sys
sys.path.insert(0, "tests")
import numpy as np
from fastsoftmax import _threads
from fastsoftmax._solvers import minimize_in_diagonal_metric
from fastsoftmax._threads import thread_limit
from test_diagonal import separable

_threads._SERIAL_WORK = 0.0
found = []
for n_threads in (1, 2, 3, 8):
    with thread_limit(n_threads):
        bits = []
        for dtype in (np.float32, np.float64):
            functions, start = separable(200_001, dtype)
            result = minimize_in_diagonal_metric(functions, start, tol=1e-5, max_iter=40)
            bits.append(hashlib.sha256(result.params.tobytes()).hexdigest())
            bits.append([result.n_passes, result.objective.hex(), result.decrement.hex()])
        found.append(bits)
print(json.dumps(found))
"""


def test_same_bits_for_any_number_of_threads():
    eight = {"NUMBA_NUM_THREADS": "8", "OMP_NUM_THREADS": "8"}
    found = json.loads(run_python(SAME_BITS, **eight))
    assert len(found) == 4
    assert all(bits == found[0] for bits in found)
