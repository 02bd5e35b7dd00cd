"""`fastsoftmax._solvers` alone: functions of vectors, no data, no classes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from scipy import optimize, sparse, special

from fastsoftmax._solvers import (
    BlockPreconditioner,
    DiagonalPreconditioner,
    SolverResult,
    Status,
    SumZeroPreconditioner,
    minimize_lbfgs,
)
from fastsoftmax._solvers.lbfgs import _Memory
from fastsoftmax._solvers.line_search import Point, search

EPS = float(np.finfo(np.float64).eps)


class Inverse:
    """A preconditioner from a dense inverse."""

    def __init__(self, inverse):
        self.inverse = inverse

    def apply(self, gradient):
        return self.inverse @ gradient


class Counting:
    """A function that records the points where it was evaluated."""

    def __init__(self, function):
        self.function, self.points = function, []

    def __call__(self, x):
        self.points.append(x.copy())
        return self.function(x)


def make_quadratic(n=20, condition=1e8, floor=1.0, seed=0):
    """Return ``f = floor + (x - x*)ᵀ H (x - x*) / 2``, H and x*."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    H = (Q * np.geomspace(1.0, 1.0 / condition, n)) @ Q.T
    minimiser = rng.normal(size=n)

    def quadratic(x):
        g = H @ (x - minimiser)
        return floor + 0.5 * float((x - minimiser) @ g), g

    return quadratic, H, minimiser


def rosenbrock(x):
    return float(optimize.rosen(x)), optimize.rosen_der(x)


# --- Functions with known minimisers --------------------------------------------------------------


@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_quadratics(condition):
    f, _, minimiser = make_quadratic(condition=condition)
    result = minimize_lbfgs(f, np.zeros(20), tol=1e-9)
    assert result.status is Status.CONVERGED
    assert result.gradient_norm <= 1e-9
    # |x - x*| <= |H⁻¹| |g|
    assert np.linalg.norm(result.params - minimiser) <= condition * np.linalg.norm(
        f(result.params)[1]
    )


def test_an_ill_conditioned_quadratic():
    f, _, _ = make_quadratic(condition=1e8)
    # As many pairs as unknowns: with 10, tol=1e-8 takes more than 1000 iterations.
    result = minimize_lbfgs(f, np.zeros(20), tol=1e-6, memory=20)
    assert result.converged
    assert result.gradient_norm <= 1e-6
    assert result.objective - 1.0 <= 1e-6


@pytest.mark.parametrize("condition", [1e3, 1e8])
@pytest.mark.parametrize("exact", [True, False])
def test_the_exact_inverse_hessian_needs_one_step(condition, exact):
    f, H, _ = make_quadratic(condition=condition)
    result = minimize_lbfgs(
        f,
        np.zeros(20),
        make_preconditioner=lambda x: Inverse(np.linalg.inv(H)),
        exact_curvature=exact,
        tol=1e-6,
    )
    assert result.status is Status.CONVERGED
    assert result.n_iterations <= 2
    assert result.objective == pytest.approx(1.0, abs=1e-12)


def test_a_preconditioner_of_the_wrong_scale_is_scaled_to_the_latest_pair():
    f, H, _ = make_quadratic(condition=1e8)
    for factor in (1e-4, 1e4):
        result = minimize_lbfgs(
            f,
            np.zeros(20),
            make_preconditioner=lambda x, factor=factor: Inverse(factor * np.linalg.inv(H)),
            tol=1e-6,
        )
        assert result.converged
        assert result.n_iterations <= 5


@pytest.mark.parametrize("n", [2, 10])
def test_rosenbrock(n):
    start = np.tile([-1.2, 1.0], n // 2)
    shifted = minimize_lbfgs(lambda x: (rosenbrock(x)[0] + 1.0, rosenbrock(x)[1]), start, tol=1e-8)
    assert shifted.converged
    np.testing.assert_allclose(shifted.params, 1.0, rtol=0, atol=1e-6)


def test_minimum_of_value_zero_ends():
    f, _, minimiser = make_quadratic(condition=10.0, floor=0.0)
    result = minimize_lbfgs(f, np.zeros(20), tol=1e-6, max_iter=500)
    np.testing.assert_allclose(result.params, minimiser, rtol=0, atol=1e-4)


def test_start_at_the_minimum_takes_no_step():
    f, _, minimiser = make_quadratic()
    result = minimize_lbfgs(f, minimiser, tol=1e-8)
    assert (result.status, result.n_iterations, result.n_passes) == (Status.CONVERGED, 0, 1)
    np.testing.assert_array_equal(result.params, minimiser)


def test_a_function_that_is_infinite_far_away():
    def barrier(x):  # sum of x - log(1 - x²): infinite outside (-1, 1)
        if np.any(np.abs(x) >= 1):
            return np.inf, np.full_like(x, np.inf)
        return float(np.sum(10 * x - np.log1p(-(x**2)))), 10 + 2 * x / (1 - x**2)

    result = minimize_lbfgs(barrier, np.zeros(5), tol=1e-8)
    assert result.converged
    # 10 + 2x / (1 - x²) = 0
    np.testing.assert_allclose(result.params, 0.1 - np.sqrt(1.01), rtol=1e-8)


def test_the_start_is_not_changed():
    f, _, _ = make_quadratic()
    start = np.ones(20)
    start.flags.writeable = False
    minimize_lbfgs(f, start, tol=1e-6)
    np.testing.assert_array_equal(start, 1.0)


# --- How it stops ---------------------------------------------------------------------------------


def test_a_value_and_gradient_of_float32_noise_end_at_the_floor():
    f, _, minimiser = make_quadratic(condition=1e2)

    def noisy(x):
        value, g = f(x)
        # Errors as of float32 sums. No gradient is exactly zero, since 1/3 is not a float32.
        return float(np.float32(value)), (g + 1 / 3).astype(np.float32) - 1 / 3

    result = minimize_lbfgs(noisy, np.zeros(20), tol=1e-14, noise=4 * 2.0**-23, max_iter=500)
    assert result.status is Status.FLOOR
    assert result.converged
    assert result.n_iterations < 100
    # Below an ulp of 1 per component of the gradient, in the worst direction of H.
    assert np.linalg.norm(result.params - minimiser) <= 1e2 * 2.0**-23 * np.sqrt(20)


def test_max_iter():
    f, _, _ = make_quadratic()
    for max_iter in (0, 1, 7):
        result = minimize_lbfgs(f, np.zeros(20), tol=1e-12, max_iter=max_iter)
        assert result.status is Status.MAX_ITERATIONS
        assert not result.converged
        assert result.n_iterations == max_iter
        assert "increase max_iter" in result.message


def test_on_iteration_can_stop_and_sees_every_iteration():
    f, _, _ = make_quadratic()
    states = []

    def stop_at_five(state):
        states.append((state, state.params.copy()))
        return state.iteration == 5

    result = minimize_lbfgs(f, np.zeros(20), tol=1e-12, on_iteration=stop_at_five)
    assert result.status is Status.STOPPED
    assert not result.converged
    assert result.n_iterations == 5
    assert [state.iteration for state, _ in states] == [0, 1, 2, 3, 4, 5]
    assert states[0][0].step_size == 0.0
    for (state, x), (n_passes, value, norm) in zip(states, result.history, strict=True):
        assert (state.n_passes, state.objective, state.gradient_norm) == (n_passes, value, norm)
        expected, g = f(x)
        assert state.objective == pytest.approx(expected, rel=4 * EPS)
        assert state.gradient_norm == pytest.approx(np.abs(g).max(), rel=1e-6)
        assert state.iteration == 0 or state.step_size > 0


def test_an_exception_of_on_iteration_passes_through():
    class PrunedError(Exception):
        pass

    def prune(state):
        if state.iteration == 2:
            raise PrunedError

    with pytest.raises(PrunedError):
        minimize_lbfgs(rosenbrock, np.array([-1.2, 1.0]), on_iteration=prune)


def test_a_result_of_on_iteration_that_is_not_true_goes_on():
    f, _, _ = make_quadratic(condition=10.0)
    assert minimize_lbfgs(f, np.zeros(20), on_iteration=lambda state: None).converged


def test_a_gradient_of_the_wrong_sign_is_reported():
    f, _, _ = make_quadratic(condition=10.0)
    result = minimize_lbfgs(lambda x: (f(x)[0], -f(x)[1]), np.zeros(20))
    assert result.status is Status.LINE_SEARCH
    assert not result.converged
    assert "check that the gradient is right" in result.message
    np.testing.assert_array_equal(result.params, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_start_that_is_not_finite_raises(bad):
    with pytest.raises(FloatingPointError, match="not finite at the start"):
        minimize_lbfgs(lambda x: (bad, np.zeros(3)), np.zeros(3))
    with pytest.raises(FloatingPointError, match="not finite at the start"):
        minimize_lbfgs(lambda x: (0.0, np.array([0.0, bad, 0.0])), np.zeros(3))


@pytest.mark.parametrize("options", [{}, {"tol": 1e-10}, {"max_iter": 3}, {"memory": 1}], ids=str)
def test_history_counts_and_result_agree(options):
    f, _, _ = make_quadratic(condition=1e4)
    counting = Counting(f)
    result = minimize_lbfgs(counting, np.zeros(20), **options)
    assert result.n_passes == len(counting.points)
    assert result.history[0][0] == 1
    assert result.history[-1][0] == result.n_passes
    assert len(result.history) == result.n_iterations + 1
    passes, values, norms = zip(*result.history, strict=True)
    assert all(a < b for a, b in itertools.pairwise(passes))
    assert all(a >= b - 10 * EPS * abs(a) for a, b in itertools.pairwise(values))
    assert (result.objective, result.gradient_norm) in zip(values, norms, strict=True)
    assert any(np.array_equal(result.params, x) for x in counting.points)
    value, g = f(result.params)
    assert (result.objective, result.gradient_norm) == (value, np.abs(g).max())


def test_the_decrement_estimates_the_distance_to_the_minimum():
    f, H, _ = make_quadratic(condition=1e2)
    result = minimize_lbfgs(
        f,
        np.zeros(20),
        make_preconditioner=lambda x: Inverse(np.linalg.inv(H)),
        exact_curvature=True,
        max_iter=0,
    )
    # Exact for a quadratic in its own metric.
    assert result.decrement == pytest.approx(result.objective - 1.0, rel=1e-10)


def test_message_holds_the_advice_and_the_numbers():
    result = SolverResult(np.zeros(1), 0.125, 2.5e-7, 1e-9, 12, 15, Status.MAX_ITERATIONS, [])
    for part in (Status.MAX_ITERATIONS.value, "12", "1.25", "2.50e-07", "1.00e-09"):
        assert part in result.message
    assert {status: replace_status(result, status).converged for status in Status} == {
        Status.CONVERGED: True,
        Status.FLOOR: True,
        Status.SEPARABLE: True,
        Status.MAX_ITERATIONS: False,
        Status.STOPPED: False,
        Status.LINE_SEARCH: False,
    }


def replace_status(result, status):
    return SolverResult(**{**vars(result), "status": status})


# --- Curvature ------------------------------------------------------------------------------------


def dense_bfgs_inverse(start, pairs):
    """Return the inverse Hessian's estimate, Nocedal & Wright (2006), equation 6.17."""
    H, identity = start.copy(), np.eye(len(start))
    for s, y in pairs:
        rho = 1.0 / (y @ s)
        H = (identity - rho * np.outer(s, y)) @ H @ (identity - rho * np.outer(y, s))
        H += rho * np.outer(s, s)
    return H


@pytest.mark.parametrize("n_pairs", [0, 1, 4, 7])
def test_two_loop_recursion_is_dense_bfgs(n_pairs):
    rng = np.random.default_rng(0)
    _, A, _ = make_quadratic(n=6, condition=100.0)
    start = np.diag(rng.uniform(0.5, 2, 6))
    memory = _Memory(4)
    pairs = [(s, A @ s) for s in rng.normal(size=(n_pairs, 6))]
    for s, y in pairs:
        assert memory.add(s, y)
    assert len(memory) == min(n_pairs, 4)
    expected = dense_bfgs_inverse(start, pairs[-4:])
    for g in np.eye(6):
        np.testing.assert_allclose(memory.apply(g, lambda v: start @ v), expected @ g, atol=1e-11)


def test_a_pair_without_curvature_is_not_kept():
    memory = _Memory(4)
    s = np.array([1.0, 0.0])
    assert not memory.add(s, np.array([0.0, 1.0]))
    assert not memory.add(s, np.array([-1.0, 0.0]))
    assert not memory.add(s * 0.0, s)
    assert len(memory) == 0


def test_iterates_are_those_of_dense_bfgs():
    f, _, _ = make_quadratic(n=5, condition=10.0)
    accepted = []
    minimize_lbfgs(
        f,
        np.zeros(5),
        make_preconditioner=lambda x: Inverse(np.eye(5)),
        exact_curvature=True,  # the first estimate is not scaled
        refresh_at=(),
        tol=1e-12,
        max_iter=5,
        on_iteration=lambda state: accepted.append((state.params.copy(), state.step_size)),
    )
    for k in range(1, len(accepted) - 1):
        if any(not 0.1 <= t <= 5 for _, t in accepted[1 : k + 1]):
            break  # a refresh
        points = [x for x, _ in accepted[: k + 1]]
        steps = np.diff(points, axis=0)
        pairs = [(s, f(b)[1] - f(a)[1]) for s, a, b in zip(steps, points, points[1:], strict=False)]
        direction = -dense_bfgs_inverse(np.eye(5), pairs) @ f(points[-1])[1]
        following, t = accepted[k + 1]
        np.testing.assert_allclose(following, points[-1] + t * direction, rtol=0, atol=1e-10)
    assert k >= 2


def test_preconditioners_are_refreshed_when_asked():
    built = []

    def make(x):
        built.append(len(states))
        return Inverse(np.eye(2))

    states = []
    minimize_lbfgs(
        rosenbrock,
        np.array([-1.2, 1.0]),
        make_preconditioner=make,
        refresh_at=iter((3, 5, 8)),
        tol=1e-12,
        max_iter=10,
        on_iteration=lambda state: states.append(state.iteration),
    )
    # Built at the start, and after iterations 3, 5 and 8 (before the callback counts them).
    assert built == [0, 3, 5, 8]


# --- Line search ----------------------------------------------------------------------------------


def along_line(f, x, direction):
    def along(t):
        value, g = f(x + t * direction)
        return Point(t, value, g, float(g @ direction))

    return along


def convex_function(seed, n=5):
    """Return a random log-sum-exp of affine functions plus a small quadratic."""
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(8, n)) * 10.0 ** rng.uniform(-2, 2), rng.normal(size=8)

    def f(x):
        z = A @ x + b
        p = reference.softmax(z[None])[0]
        top = z.max()
        return top + float(np.log(np.exp(z - top).sum())) + 0.005 * float(x @ x), A.T @ p + 0.01 * x

    return f


@pytest.mark.parametrize("seed", range(30))
def test_weak_wolfe_conditions_hold_on_random_convex_functions(seed):
    rng = np.random.default_rng(seed + 100)
    f, x = convex_function(seed), rng.normal(size=5)
    value, g = f(x)
    direction = -g * 10.0 ** rng.uniform(-4, 4)
    start = Point(0.0, value, g, float(g @ direction))
    point, n_trials = search(along_line(f, x, direction), start, noise=0.0)
    assert point is not None
    assert 1 <= n_trials <= 20
    assert point.value <= value + 1e-4 * point.step_size * start.slope
    assert point.slope >= 0.9 * start.slope
    again, _ = f(x + point.step_size * direction)
    assert point.value == again


@pytest.mark.parametrize("distance", [1e2, 1e8])
@pytest.mark.parametrize("first_step", [1.0, 1e3])
def test_a_function_that_is_nearly_linear_far_out_takes_few_trials(distance, first_step):
    def f(x):
        root = np.sqrt(1.0 + x**2)
        return float(root.sum()), x / root

    x, direction = np.array([distance]), np.array([-1.0])
    value, g = f(x)
    start = Point(0.0, value, g, float(g @ direction))
    point, n_trials = search(along_line(f, x, direction), start, EPS * value, first_step)
    assert point is not None
    # From step 1 to 1e8 by factors of 4: 14 trials; then the bracket's tenths.
    assert n_trials <= 20
    assert point.slope >= 0.9 * start.slope
    result = minimize_lbfgs(f, x, tol=1e-8)
    assert result.converged
    assert result.n_passes <= 60
    assert abs(result.params[0]) <= 1e-4


def test_a_straight_line_that_ends_at_a_wall_takes_few_trials():
    """The secant of slopes -1 and 1e6 creeps from the low end: 60 trials of a twentieth each."""

    def f(x):
        z = 1e3 * (x - 0.99)
        return float((1e3 * np.logaddexp(0.0, z) - x).sum()), 1e6 * special.expit(z) - 1.0

    value, g = f(np.zeros(1))
    start = Point(0.0, value, g, float(g[0]))
    point, n_trials = search(along_line(f, np.zeros(1), np.ones(1)), start, noise=0.0)
    assert point is not None
    assert n_trials <= 20
    assert point.slope >= 0.9 * start.slope


def test_the_first_step_is_taken_if_it_is_good():
    f, H, _ = make_quadratic(n=4, condition=10.0)
    value, g = f(np.zeros(4))
    direction = -np.linalg.solve(H, g)
    start = Point(0.0, value, g, float(g @ direction))
    point, n_trials = search(along_line(f, np.zeros(4), direction), start, 0.0)
    assert (point.step_size, n_trials) == (1.0, 1)


def test_a_decrease_below_the_noise_is_judged_by_the_slope():
    def rounded(t):  # a parabola of height 1e-9 whose value seems to rise
        value = 1.0 + 1e-8 * (t > 0)
        return Point(t, value, np.array([1e-9 * (t - 1.0)]), 1e-9 * (t - 1.0))

    start = rounded(0.0)
    point, _ = search(rounded, start, noise=1e-7)
    assert point is not None
    assert abs(point.slope) <= 0.9 * abs(start.slope)
    assert search(rounded, start, noise=0.0)[0] is None


def test_a_line_without_a_decrease_ends():
    def rising(t):  # though its slope says otherwise
        return Point(t, 1.0 + t, np.array([-1.0]), -1.0)

    point, n_trials = search(rising, rising(0.0), noise=0.0)
    assert point is None
    assert n_trials <= 40


# --- Preconditioners ------------------------------------------------------------------------------


def make_model(n_classes, n_rows, n_features=4, l2=0.1, seed=0, duplicate=False):
    """Return an oracle and parameters."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(100, n_features))
    if duplicate:
        X[:, -1] = X[:, 0]
    targets = reference.one_hot(rng.integers(0, n_classes, 100), n_classes)
    return reference.LinearModel(X, targets, l2=l2), rng.normal(size=(n_rows, n_features + 1))


def free_block(model, params):
    """Return the part of the loss's Hessian that `SumZeroPreconditioner` takes."""
    size = max(1, len(params) - 1) * params.shape[1]
    return (model.loss_hessian(params) / len(model.X))[:size, :size].copy()


@pytest.mark.parametrize(("n_classes", "n_rows"), [(2, 1), (2, 2), (3, 3), (6, 6)])
@pytest.mark.parametrize("l2", [0.1, 1e-3, 0.0, np.array([0.0, 1.0, 0.01, 10.0])], ids=str)
def test_sum_zero_preconditioner_is_the_pseudo_inverse_of_the_whole_hessian(n_classes, n_rows, l2):
    model, params = make_model(n_classes, n_rows, l2=l2)
    preconditioner = SumZeroPreconditioner(free_block(model, params), model.l2, n_rows)
    D = params.shape[1]
    # On the steps that sum to zero over rows; elsewhere the objective need not be curved.
    centre = np.eye(n_rows) - (1.0 / n_rows if n_rows > 1 else 0.0)
    projector = np.kron(centre, np.eye(D))
    inverse = np.linalg.pinv(projector @ model.hessian(params) @ projector, rcond=1e-10)
    for g in np.random.default_rng(1).normal(size=(5, n_rows * D)):
        step = preconditioner.apply(projector @ g)
        expected = inverse @ g
        # The factor is shifted by 1e-13 of its diagonal; condition numbers are below 1e5.
        np.testing.assert_allclose(step, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
        if n_rows > 1:
            rows = step.reshape(n_rows, D).sum(axis=0)
            np.testing.assert_allclose(rows, 0.0, atol=1e-14 * np.abs(step).max() * n_rows)


def test_sum_zero_preconditioner_makes_a_newton_step():
    model, _ = make_model(3, 3, l2=0.1)
    params = np.zeros((3, 5))  # near enough for full steps
    for _ in range(8):
        apply = SumZeroPreconditioner(free_block(model, params), model.l2, 3).apply
        params = params - apply(model.gradient(params).ravel()).reshape(params.shape)
    np.testing.assert_allclose(model.gradient(params), 0.0, atol=1e-12)


@pytest.mark.parametrize("n_blocks", [1, 3])
def test_block_preconditioner_inverts_each_row_s_block(n_blocks):
    rng = np.random.default_rng(0)
    blocks = np.array([make_quadratic(n=5, condition=1e2, seed=s)[1] for s in range(n_blocks)])
    l2 = rng.uniform(0, 1, 5)
    g = rng.normal(size=(3, 5))
    step = BlockPreconditioner(blocks, l2, 3).apply(g.ravel()).reshape(3, 5)
    every = np.broadcast_to(blocks, (3, 5, 5)) + np.diag(l2)
    expected = np.stack([np.linalg.solve(block, row) for block, row in zip(every, g, strict=True)])
    expected -= expected.mean(axis=0)
    # Each block's diagonal is raised by 1e-7 of its mean; condition numbers are below 1e2.
    np.testing.assert_allclose(step, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_block_preconditioner_of_one_row_is_not_centred():
    _, H, _ = make_quadratic(n=5, condition=1e2)
    g = np.arange(1.0, 6.0)
    step = BlockPreconditioner(H[None], np.zeros(5), 1).apply(g)
    np.testing.assert_allclose(step, np.linalg.solve(H, g), rtol=1e-4)


def test_diagonal_preconditioner_divides_and_centres():
    diagonal = np.array([[1.0, 2.0, 0.0], [4.0, 2.0, 0.0]])
    g = np.array([[1.0, 2.0, 3.0], [8.0, -2.0, 5.0]])
    step = DiagonalPreconditioner(diagonal).apply(g.ravel())
    np.testing.assert_allclose(step, [-0.5, 1.0, -1.0, 0.5, -1.0, 1.0])
    one = DiagonalPreconditioner(diagonal[:1]).apply(g[0])
    np.testing.assert_allclose(one, [1.0, 1.0, 3.0])


def test_preconditioners_are_symmetric_and_positive():
    model, params = make_model(4, 4)
    blocks = np.array([make_quadratic(n=5, condition=1e2, seed=s)[1] for s in range(4)])
    for preconditioner in (
        SumZeroPreconditioner(free_block(model, params), model.l2, 4),
        BlockPreconditioner(blocks[:1], model.l2, 4),
        DiagonalPreconditioner(np.tile(np.arange(1.0, 6.0), (4, 1))),
    ):
        centre = np.kron(np.eye(4) - 0.25, np.eye(5))
        matrix = np.column_stack([preconditioner.apply(centre @ e) for e in np.eye(20)])
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12 * np.abs(matrix).max())
        eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        assert np.sum(eigenvalues > 1e-6 * eigenvalues[-1]) == 15
        assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


@pytest.mark.parametrize("n_rows", [1, 3])
def test_singular_matrices_give_finite_steps(n_rows):
    n_classes = max(2, n_rows)
    model, params = make_model(n_classes, n_rows, l2=0.0, duplicate=True)
    g = model.gradient(params).ravel()
    D = params.shape[1]
    preconditioner = SumZeroPreconditioner(free_block(model, params), model.l2, n_rows)
    step = preconditioner.apply(g)
    assert np.all(np.isfinite(step))
    # g lies in the range of H, so that H step = g though H is singular.
    np.testing.assert_allclose(model.hessian(params) @ step, g, rtol=0, atol=1e-8)
    gram = model.X.T @ model.X
    for block in (gram, np.zeros((D, D)), np.ones((D, D))):
        step = BlockPreconditioner(block[None].copy(), np.zeros(D), n_rows).apply(g)
        assert np.all(np.isfinite(step))
    zeros = np.zeros((max(1, n_rows - 1) * D,) * 2)
    assert np.all(np.isfinite(SumZeroPreconditioner(zeros, np.zeros(D), n_rows).apply(g)))


def test_units_of_the_features_do_not_matter():
    model, params = make_model(3, 3, l2=0.0)
    g = model.gradient(params)
    step = SumZeroPreconditioner(free_block(model, params), model.l2, 3).apply(g.ravel())
    units = np.array([1e-6, 1.0, 1e6, 1e3, 1.0])
    tiled = np.tile(units, 2)
    scaled = free_block(model, params) * tiled * tiled[:, None]
    other = SumZeroPreconditioner(scaled, model.l2, 3).apply((g * units).ravel())
    np.testing.assert_allclose(other.reshape(3, 5) * units, step.reshape(3, 5), rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_matrices_that_are_not_finite_raise(bad):
    matrix = np.eye(4)
    matrix[2, 1] = bad
    with pytest.raises(FloatingPointError, match="Hessian overflows"):
        SumZeroPreconditioner(matrix.copy(), np.zeros(2), 3)
    with pytest.raises(FloatingPointError, match="Hessian overflows"):
        BlockPreconditioner(matrix[None], np.zeros(4), 2)


def test_a_laplacian_with_its_own_diagonal_blocks():
    """A function that is neither small nor random: 1-D Laplacian of 200 unknowns, minimum known."""
    n = 200
    A = sparse.diags_array([-np.ones(n - 1), np.full(n, 2.01), -np.ones(n - 1)], offsets=[-1, 0, 1])
    b = np.sin(np.arange(n))
    expected = sparse.linalg.spsolve(A.tocsc(), b)
    result = minimize_lbfgs(
        lambda x: (0.5 * float(x @ (A @ x)) - float(b @ x), A @ x - b), np.zeros(n), tol=1e-10
    )
    assert result.converged
    np.testing.assert_allclose(result.params, expected, rtol=0, atol=1e-8)
