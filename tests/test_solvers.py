"""What every solver of `fastsoftmax._solvers` promises, on functions without data or classes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from functions import (
    BARRIER_MINIMISER,
    Counting,
    Function,
    Inverse,
    barrier,
    make_logistic,
    make_quadratic,
    quadratic,
    rosenbrock,
    rotation,
)
from scipy import optimize, sparse, special

from fastsoftmax._solvers import SolverResult, Status, minimize_lbfgs, minimize_newton_cg
from fastsoftmax._solvers.progress import Progress

EPS = float(np.finfo(np.float64).eps)


def lbfgs(function, start, **options):
    return minimize_lbfgs(function, start, **options)


def newton_cg(function, start, **options):
    return minimize_newton_cg(function, function.hessian_operator, start, **options)


every_solver = pytest.mark.parametrize("minimize", [lbfgs, newton_cg])


# --- Functions with known minimisers --------------------------------------------------------------


@every_solver
@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_quadratics(minimize, condition):
    f, _, minimiser = make_quadratic(condition=condition)
    result = minimize(f, np.zeros(20), tol=1e-9)
    assert result.status is Status.CONVERGED
    assert result.gradient_norm <= 1e-9
    # |x - x*| <= |H⁻¹| |g|
    assert np.linalg.norm(result.params - minimiser) <= condition * np.linalg.norm(
        f(result.params)[1]
    )


@every_solver
@pytest.mark.parametrize("condition", [1e3, 1e8, 1e12])
def test_the_exact_inverse_hessian_needs_one_or_two_steps(minimize, condition):
    f, H, minimiser = make_quadratic(condition=condition)
    inverse = Inverse(np.linalg.inv(H))
    result = minimize(f, np.zeros(20), make_preconditioner=lambda x: inverse, tol=1e-6)
    assert result.status is Status.CONVERGED
    assert result.n_iterations <= 2
    assert result.n_passes <= 6
    error = result.params - minimiser
    assert 0.5 * error @ H @ error <= 1e-8  # 0.01 * tol of a value of 1


@every_solver
@pytest.mark.parametrize("n", [2, 10])
def test_rosenbrock(minimize, n):
    result = minimize(rosenbrock, np.tile([-1.2, 1.0], n // 2), tol=1e-8)
    assert result.converged
    np.testing.assert_allclose(result.params, 1.0, rtol=0, atol=1e-6)


@every_solver
@pytest.mark.parametrize("condition", [1.0, 30.0])
def test_logistic_functions(minimize, condition):
    f, minimiser = make_logistic(condition=condition)
    result = minimize(f, np.zeros(10), tol=1e-8)
    assert result.status is Status.CONVERGED
    assert result.objective - f(minimiser)[0] <= 1e-9
    # The smallest eigenvalue of the Hessian there is at least p (1 - p) / condition².
    error = np.linalg.norm(result.params - minimiser)
    assert error <= 2 * condition**2 / 0.09 * np.sqrt(10) * 1e-8


@every_solver
def test_a_singular_quadratic_moves_only_where_it_is_curved(minimize):
    n, rank = 20, 12
    Q = rotation(n, 0)
    eigenvalues = np.append(np.geomspace(1.0, 1e-2, rank), np.zeros(n - rank))
    minimiser = np.random.default_rng(1).normal(size=n)
    f = quadratic((Q * eigenvalues) @ Q.T, minimiser)
    for tol in (1e-8, 0.0):
        result = minimize(f, np.zeros(n), tol=tol, max_iter=300)
        assert result.converged
        nearest = Q[:, :rank] @ (Q[:, :rank].T @ minimiser)  # the minimiser of least norm
        # A residual of rounding, 1e-16, over curvature of rounding, 1e-14, may move a step a bit.
        np.testing.assert_allclose(result.params, nearest, rtol=0, atol=1e-3)


@every_solver
def test_minimum_of_value_zero_ends(minimize):
    f, _, minimiser = make_quadratic(condition=10.0, floor=0.0)
    result = minimize(f, np.zeros(20), tol=1e-6, max_iter=500)
    np.testing.assert_allclose(result.params, minimiser, rtol=0, atol=1e-4)


@every_solver
def test_start_at_the_minimum_takes_no_step(minimize):
    f, _, minimiser = make_quadratic()
    result = minimize(f, minimiser, tol=1e-8)
    assert (result.status, result.n_iterations, result.n_passes) == (Status.CONVERGED, 0, 1)
    np.testing.assert_array_equal(result.params, minimiser)


@every_solver
def test_a_function_that_is_infinite_far_away(minimize):
    result = minimize(barrier, np.zeros(5), tol=1e-8)
    assert result.converged
    np.testing.assert_allclose(result.params, BARRIER_MINIMISER, rtol=1e-8)


@every_solver
def test_a_function_that_overflows_beside_the_start(minimize):
    """Value and gradient 1e130 at the start; a step of the gradient's length overflows."""

    def hessian(x):
        with np.errstate(over="ignore"):
            H = np.diag(np.cosh(x))
        if not np.all(np.isfinite(H)):
            raise FloatingPointError
        return H

    def value_and_gradient(x):
        with np.errstate(over="ignore"):
            return float(np.sum(np.cosh(x))), np.sinh(x)

    result = minimize(Function(value_and_gradient, hessian), np.array([300.0, -3.0]), tol=1e-8)
    assert result.converged
    np.testing.assert_allclose(result.params, 0.0, rtol=0, atol=1e-8)


@every_solver
@pytest.mark.parametrize("distance", [1e2, 1e8])
def test_a_function_that_is_nearly_linear_far_out(minimize, distance):
    f = Function(
        lambda x: (float(np.sqrt(1.0 + x**2).sum()), x / np.sqrt(1.0 + x**2)),
        lambda x: np.diag((1.0 + x**2) ** -1.5),
    )
    result = minimize(f, np.array([distance]), tol=1e-8)
    assert result.converged
    assert result.n_passes <= {lbfgs: 60, newton_cg: 300}[minimize]
    assert abs(result.params[0]) <= 1e-4


@every_solver
def test_a_laplacian(minimize):
    """A function that is neither small nor random: 1-D Laplacian of 200 unknowns, minimum known."""
    n = 200
    A = sparse.diags_array([-np.ones(n - 1), np.full(n, 2.01), -np.ones(n - 1)], offsets=[-1, 0, 1])
    b = np.sin(np.arange(n))
    expected = sparse.linalg.spsolve(A.tocsc(), b)
    f = Function(lambda x: (0.5 * float(x @ (A @ x)) - float(b @ x), A @ x - b), lambda x: A)
    result = minimize(f, np.zeros(n), tol=1e-10)
    assert result.converged
    np.testing.assert_allclose(result.params, expected, rtol=0, atol=1e-8)


@every_solver
def test_the_start_is_not_changed(minimize):
    f, _, _ = make_quadratic()
    start = np.ones(20)
    start.flags.writeable = False
    minimize(f, start, tol=1e-6, max_iter=20)
    np.testing.assert_array_equal(start, 1.0)


# --- How it stops ---------------------------------------------------------------------------------


@every_solver
def test_a_value_and_gradient_of_float32_noise_end_at_the_floor(minimize):
    f, H, minimiser = make_quadratic(condition=1e2)

    def noisy(x):
        value, g = f(x)
        # Errors as of float32 sums. No gradient is exactly zero, since 1/3 is not a float32.
        return float(np.float32(value)), (g + 1 / 3).astype(np.float32).astype(np.float64) - 1 / 3

    result = minimize(
        Function(noisy, lambda x: H), np.zeros(20), tol=1e-14, noise=4 * 2.0**-23, max_iter=500
    )
    assert result.status is Status.FLOOR
    assert result.converged
    assert result.n_iterations < 100
    # Below an ulp of 1 per component of the gradient, in the worst direction of H.
    assert np.linalg.norm(result.params - minimiser) <= 1e2 * 2.0**-23 * np.sqrt(20)


@every_solver
@pytest.mark.parametrize("f", [barrier, make_logistic(condition=10.0)[0]], ids=["barrier", "log"])
def test_a_tolerance_of_zero_ends_where_the_precision_does(minimize, f):
    result = minimize(f, np.zeros(10), tol=0.0)
    assert result.status in (Status.FLOOR, Status.CONVERGED)  # a gradient may be 0 by chance
    assert result.gradient_norm <= 1e-11
    assert result.n_iterations < 200
    assert result.n_passes < 500


@every_solver
def test_max_iter(minimize):
    for max_iter in (0, 1, 3):
        result = minimize(rosenbrock, np.array([-1.2, 1.0]), tol=1e-12, max_iter=max_iter)
        assert result.status is Status.MAX_ITERATIONS
        assert not result.converged
        assert result.n_iterations == max_iter
        assert "increase max_iter" in result.message


@every_solver
def test_on_iteration_can_stop_and_sees_every_iteration(minimize):
    states = []

    def stop_at_five(state):
        states.append((state, state.params.copy()))
        return state.iteration == 5

    start = np.tile([-1.2, 1.0], 5)
    result = minimize(rosenbrock, start, tol=1e-12, on_iteration=stop_at_five)
    assert result.status is Status.STOPPED
    assert not result.converged
    assert result.n_iterations == 5
    assert [state.iteration for state, _ in states] == [0, 1, 2, 3, 4, 5]
    assert states[0][0].step_size == 0.0
    for (state, x), (n_passes, value, norm) in zip(states, result.history, strict=True):
        assert (state.n_passes, state.objective, state.gradient_norm) == (n_passes, value, norm)
        expected, g = rosenbrock(x)
        assert state.objective == pytest.approx(expected, rel=4 * EPS)
        assert state.gradient_norm == pytest.approx(np.abs(g).max(), rel=1e-6)
        assert state.iteration == 0 or state.step_size > 0


@every_solver
def test_an_exception_of_on_iteration_passes_through(minimize):
    class PrunedError(Exception):
        pass

    def prune(state):
        if state.iteration == 2:
            raise PrunedError

    with pytest.raises(PrunedError):
        minimize(rosenbrock, np.array([-1.2, 1.0]), on_iteration=prune)


@every_solver
def test_a_result_of_on_iteration_that_is_not_true_goes_on(minimize):
    f, _, _ = make_quadratic(condition=10.0)
    assert minimize(f, np.zeros(20), on_iteration=lambda state: None).converged


@every_solver
def test_a_gradient_of_the_wrong_sign_is_reported(minimize):
    f, H, _ = make_quadratic(condition=10.0)
    wrong = Function(lambda x: (f(x)[0], -f(x)[1]), lambda x: H)
    result = minimize(wrong, np.zeros(20))
    assert result.status is Status.LINE_SEARCH
    assert not result.converged
    assert "check that the gradient is right" in result.message
    np.testing.assert_array_equal(result.params, 0.0)


@every_solver
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_start_that_is_not_finite_raises(minimize, bad):
    for value, g in ((bad, np.zeros(3)), (0.0, np.array([0.0, bad, 0.0]))):
        f = Function(lambda x, value=value, g=g: (value, g), lambda x: np.eye(3))
        with pytest.raises(FloatingPointError, match="not finite at the start"):
            minimize(f, np.zeros(3))


@pytest.mark.parametrize(
    ("minimize", "options"),
    [
        *itertools.product([lbfgs, newton_cg], [{}, {"tol": 1e-10}, {"max_iter": 3}]),
        (lbfgs, {"memory": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("make", [lambda: make_quadratic(condition=1e4)[0], lambda: rosenbrock])
def test_history_counts_and_result_agree(minimize, options, make):
    f = make()
    counting = Counting(f)
    result = minimize(counting, np.full(20, -0.5), **options)
    assert result.n_passes == len(counting.points) + counting.n_products
    assert result.history[0][0] == 1
    if minimize is lbfgs:  # the other multiplies after its last step, to learn where it is
        assert result.history[-1][0] == result.n_passes
    assert result.history[-1][0] <= result.n_passes
    assert len(result.history) == result.n_iterations + 1
    passes, values, norms = zip(*result.history, strict=True)
    assert all(a < b for a, b in itertools.pairwise(passes))
    assert all(a >= b - 10 * EPS * abs(a) for a, b in itertools.pairwise(values))
    assert (result.objective, result.gradient_norm) in zip(values, norms, strict=True)
    assert any(np.array_equal(result.params, x) for x in counting.points)
    value, g = f(result.params)
    assert (result.objective, result.gradient_norm) == (value, np.abs(g).max())


@every_solver
def test_the_decrement_is_the_distance_to_the_minimum_in_the_metric_of_the_hessian(minimize):
    f, H, _ = make_quadratic(condition=1e2)
    inverse = Inverse(np.linalg.inv(H), is_exact=True)
    result = minimize(f, np.zeros(20), make_preconditioner=lambda x: inverse, max_iter=0)
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


# --- Functions without a minimiser ----------------------------------------------------------------

#: log(1 + exp(-x)), whose infimum 0 is at infinity.
falling = Function(
    lambda x: (float(np.logaddexp(0.0, -x).sum()), -special.expit(-x)),
    lambda x: np.diag(special.expit(x) * special.expit(-x)),
)

#: The same in x[0], and in x[1] log(1 + exp(-x)) + log(1 + exp(2x)), which has a minimum.
half_falling = Function(
    lambda x: (
        float(np.logaddexp(0.0, [-x[0], -x[1], 2 * x[1]]).sum()),
        np.array([-special.expit(-x[0]), 2 * special.expit(2 * x[1]) - special.expit(-x[1])]),
    ),
    lambda x: np.diag(
        [
            special.expit(x[0]) * special.expit(-x[0]),
            special.expit(x[1]) * special.expit(-x[1])
            + 4 * special.expit(2 * x[1]) * special.expit(-2 * x[1]),
        ]
    ),
)


@every_solver
@pytest.mark.parametrize("value_scale", [0.0, 1e-3])
def test_a_function_that_falls_for_ever_is_separable(minimize, value_scale):
    asked = []

    def recedes(params, step, settled):
        asked.append(step)
        return bool(step[0] > 0)

    options = {"tol": 1e-4, "value_scale": value_scale, "recedes": recedes}
    result = minimize(falling, np.zeros(1), **options)
    assert result.status is Status.SEPARABLE
    assert result.converged
    assert result.gradient_norm <= 1e-4
    assert result.n_iterations <= 20
    assert len(asked) == 1  # not before the gradient was within tol
    assert "Lower C" in result.message


@every_solver
def test_bounded_directions_settle_before_a_function_is_separable(minimize):
    def recedes(params, step, settled):
        return bool(step[0] > 0 and abs(step[1]) <= 1e-3 * step[0])

    result = minimize(half_falling, np.array([0.0, 3.0]), tol=1e-6, recedes=recedes)
    assert result.status is Status.SEPARABLE
    assert result.gradient_norm <= 1e-6
    # Root of 2 / (1 + exp(-2x)) = 1 / (1 + exp(x)).
    root = optimize.brentq(lambda t: 2 * special.expit(2 * t) - special.expit(-t), -5, 5)
    assert result.params[1] == pytest.approx(root, abs=1e-5)
    assert result.params[0] > 10


@every_solver
def test_the_recession_test_is_told_when_the_solver_would_stop(minimize):
    told = []

    def recedes(params, step, settled):
        told.append(settled)
        return settled

    result = minimize(falling, np.zeros(1), tol=1e-4, value_scale=1e-3, recedes=recedes)
    assert result.status is Status.SEPARABLE
    assert told[-1]
    assert not any(told[:-1])


@every_solver
def test_without_a_recession_test_such_a_function_goes_on(minimize):
    result = minimize(falling, np.zeros(1), max_iter=50)
    assert result.status is Status.MAX_ITERATIONS
    # ... until it is as good as 0 on the caller's scale.
    result = minimize(falling, np.zeros(1), tol=1e-4, value_scale=1e-3)
    assert result.status is Status.CONVERGED
    assert result.objective <= 1e-8


@every_solver
def test_a_function_with_a_minimiser_is_not_separable(minimize):
    f, minimiser = make_logistic(condition=10.0)
    result = minimize(f, np.zeros(10), tol=1e-8, recedes=lambda params, step, settled: False)
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(result.params, minimiser, rtol=0, atol=1e-4)


# --- How long it will take ------------------------------------------------------------------------


def test_progress_foresees_the_iterations_that_are_left():
    """A decrement that falls to a tenth each time, and the gradient with its root."""
    progress = Progress(tol=1e-3, max_iter=100)  # wants a decrement of 1e-5
    progress.start(lambda x: (1.0, x), np.ones(1))
    left = []
    for k in range(6):
        progress.visit(np.zeros(1), 1.0, 0.1 * 10 ** (-k / 2))
        progress.verdict(10.0**-k, 10.0**-k, np.ones(1))
        left.append(progress.n_left)
    assert left[0] == np.inf
    # After iteration 1, 1e-1: four more, one of which is being taken.
    np.testing.assert_allclose(left[1:5], [3.0, 2.0, 1.0, 0.0], atol=1e-9)


def test_progress_foresees_no_end_where_the_decrement_does_not_fall():
    progress = Progress(tol=1e-3)
    progress.start(lambda x: (1.0, x), np.ones(1))
    for _ in range(3):
        progress.visit(np.zeros(1), 1.0, 1.0)
        progress.verdict(1.0, 1.0, np.ones(1))
    assert progress.n_left == np.inf


def test_progress_foresees_the_end_at_the_limit_of_iterations():
    progress = Progress(max_iter=2)
    progress.start(lambda x: (1.0, x), np.ones(1))
    left = []
    for _ in range(3):
        progress.visit(np.zeros(1), 1.0, 1.0)
        left.append(progress.n_left)
    assert left == [np.inf, np.inf, 0.0]


def test_progress_foresees_in_spite_of_a_tiny_tol():
    progress = Progress(tol=1e-200)
    progress.start(lambda x: (1.0, x), np.ones(1))
    for gain in (np.inf, 1.0, 0.1, 0.01, 0.001):
        progress.visit(np.zeros(1), 1.0, 1.0)
        progress.verdict(gain, gain, np.ones(1))
    assert 100.0 < progress.n_left < 1000.0
