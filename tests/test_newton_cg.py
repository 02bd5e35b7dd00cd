"""`minimize_newton_cg` alone: its linear systems, its certificate and what may go wrong there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from functions import (
    Counting,
    Function,
    Inverse,
    make_logistic,
    make_quadratic,
    quadratic,
    rotation,
)

from fastsoftmax._solvers import Status, minimize_newton_cg
from fastsoftmax._solvers.newton_cg import solve_newton_system


def identity(vector):
    return vector


def minimize(f, start, **options):
    return minimize_newton_cg(f, f.hessian_operator, start, **options)


# --- One Newton system ----------------------------------------------------------------------------


@pytest.mark.parametrize("preconditioned", [False, True])
def test_iterates_minimise_the_model_over_krylov_spaces(preconditioned):
    """Of a dense least squares problem over M g, M H M g, ...: what conjugate gradients are."""
    _, H, _ = make_quadratic(n=8, condition=50.0)
    rng = np.random.default_rng(2)
    g, M = rng.normal(size=8), np.diag(rng.uniform(0.5, 2.0, 8)) if preconditioned else np.eye(8)
    seen = set()
    for forcing in (0.9, 0.5, 0.2, 0.1, 0.01, 1e-4, 1e-12):
        step = solve_newton_system(lambda d: H @ d, g, lambda v: M @ v, forcing)
        k = step.n_products
        seen.add(k)
        basis = np.column_stack([np.linalg.matrix_power(M @ H, i) @ (M @ g) for i in range(k)])
        basis, _ = np.linalg.qr(basis)
        expected = -basis @ np.linalg.solve(basis.T @ H @ basis, basis.T @ g)
        np.testing.assert_allclose(step.direction, expected, rtol=0, atol=1e-7)
        residual = -g - H @ step.direction
        assert residual @ M @ residual <= forcing**2 * (g @ M @ g) * (1 + 1e-9)
    assert len(seen) >= 5


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_decrement_of_an_accurate_solution_is_exact(condition):
    _, H, _ = make_quadratic(condition=condition)
    g = np.random.default_rng(0).normal(size=20)
    step = solve_newton_system(lambda d: H @ d, g, identity, 1e-10)
    assert step.decrement == pytest.approx(0.5 * g @ np.linalg.solve(H, g), rel=1e-6)


def test_decrement_is_below_the_truth_by_what_flat_directions_hide():
    """-m(d) <= decrement, and the remaining term makes up for most of a truncation."""
    _, H, _ = make_quadratic(condition=1e2)
    for seed, forcing in itertools.product(range(20), (0.5, 0.1, 0.01)):
        g = np.random.default_rng(seed).normal(size=20)
        step = solve_newton_system(lambda d: H @ d, g, identity, forcing)
        truth = 0.5 * g @ np.linalg.solve(H, g)
        assert -0.5 * float(g @ step.direction) <= step.decrement
        assert step.decrement == pytest.approx(truth, rel={0.5: 0.8, 0.1: 0.3, 0.01: 0.01}[forcing])


def test_a_system_is_solved_until_the_decrement_is_known():
    """A gradient of 1e-5 across, and 1e-6 along a valley that is 5e-5 deep."""
    H, g = np.diag([1.0, 1e-8]), np.array([1e-5, 1e-6])
    blind = solve_newton_system(lambda d: H @ d, g, identity, 0.5)
    assert blind.decrement < 1e-9
    sure = solve_newton_system(lambda d: H @ d, g, identity, 0.5, enough=1e-6)
    assert sure.decrement == pytest.approx(5e-5, rel=1e-3)


@pytest.mark.parametrize("last", [-1.0, 0.0])
def test_curvature_that_is_not_positive_ends_a_system(last):
    H = np.diag([4.0, 2.0, 1.0, last])
    for g in (np.array([0.0, 0.0, 0.0, 3.0]), np.array([1.0, 1.0, 1.0, 1e-3]), np.ones(4)):
        step = solve_newton_system(lambda d: H @ d, g, identity, 1e-6)
        assert step.decrement == np.inf
        assert g @ step.direction < 0
    for size, expected in ((1e130, 1.0), (0.5, 0.5)):
        only = solve_newton_system(lambda d: H @ d, np.array([0, 0, 0, size]), identity, 0.5)
        np.testing.assert_array_equal(only.direction, [0, 0, 0, -expected])
        assert only.n_products == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_products_that_are_not_finite_end_a_system(value):
    step = solve_newton_system(lambda d: np.full(3, value), np.ones(3), identity, 0.5)
    np.testing.assert_array_equal(step.direction, -1.0)
    assert step.decrement == np.inf


@pytest.mark.parametrize("size", [1e-160, 1.0, 1e150])
def test_units_of_the_gradient_do_not_matter(size):
    _, H, _ = make_quadratic(condition=1e2)
    g = np.random.default_rng(0).normal(size=20)
    one = solve_newton_system(lambda d: H @ d, g, identity, 0.1)
    other = solve_newton_system(lambda d: H @ d, size * g, identity, 0.1)
    np.testing.assert_allclose(other.direction, size * one.direction, rtol=1e-9)
    assert other.n_products == one.n_products


def test_a_gradient_of_zero_needs_no_product():
    step = solve_newton_system(identity, np.zeros(3), identity, 0.5)
    assert (step.n_products, step.decrement) == (0, 0.0)
    np.testing.assert_array_equal(step.direction, 0.0)


# --- The minimisation -----------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [1e2, 1e5, 1e8, 1e12])
@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8])
def test_the_decrement_of_a_converged_quadratic_is_the_distance_to_its_minimum(condition, tol):
    for seed in range(5):
        f, H, minimiser = make_quadratic(condition=condition, seed=seed)
        result = minimize(f, np.zeros(20), tol=tol)
        assert result.status is Status.CONVERGED
        error = result.params - minimiser
        truth = 0.5 * error @ H @ error
        # The largest allowed is 0.01 * tol; at an error of 1e-24 H (x - x*) is rounding.
        assert truth <= 0.01 * tol * result.objective
        assert truth / 10 - 1e-24 <= result.decrement <= 10 * truth + 1e-24


def test_a_logistic_function_of_condition_1e6():
    f, minimiser = make_logistic(condition=1e3)
    result = minimize(f, np.zeros(10), tol=1e-6)
    assert result.status is Status.CONVERGED
    assert result.objective - f(minimiser)[0] <= 0.01 * 1e-6 * result.objective
    assert result.n_iterations <= 20


def test_convergence_is_superlinear():
    """Forcing terms fall as the gradient to the power 1.5 does, and so do the gradients."""
    f, _ = make_logistic(condition=3.0)
    result = minimize(f, np.full(10, 0.5), tol=1e-10)
    norms = [norm for _, _, norm in result.history]
    assert result.n_iterations <= 8
    ratios = [b / a for a, b in itertools.pairwise(norms)]
    assert ratios[-1] < 1e-3 < ratios[0]


def test_a_saddle_is_left():
    """(x² - 1)² / 4 + y² at x = 1e-8, within tol of the saddle at 0."""
    f = Function(
        lambda x: (
            float(0.25 * (x[0] ** 2 - 1) ** 2 + x[1] ** 2),
            np.array([x[0] * (x[0] ** 2 - 1), 2 * x[1]]),
        ),
        lambda x: np.diag([3 * x[0] ** 2 - 1, 2.0]),
    )
    result = minimize(f, np.array([1e-8, 0.0]), tol=1e-6, value_scale=1.0)
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(result.params, [1.0, 0.0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("where", ["operator", "product"])
def test_a_hessian_that_overflows_is_no_crash(where):
    """Always: then steps are those of the gradient, and the distance stays unknown."""
    f, _, minimiser = make_quadratic(condition=5.0)

    def overflow(vector):
        raise FloatingPointError("logits overflow")

    operator = overflow if where == "operator" else lambda x: overflow
    result = minimize_newton_cg(f, operator, np.zeros(20), tol=1e-3, max_iter=50)
    assert result.status is Status.MAX_ITERATIONS
    assert result.gradient_norm <= 1e-3
    assert result.decrement == np.inf
    np.testing.assert_allclose(result.params, minimiser, rtol=0, atol=1e-2)


def test_a_hessian_that_overflows_now_and_then():
    f, H, minimiser = make_quadratic(condition=1e2)
    calls = itertools.count()

    def product(direction):
        if next(calls) % 7 == 3:
            raise FloatingPointError
        return H @ direction

    result = minimize_newton_cg(f, lambda x: product, np.zeros(20), tol=1e-6)
    assert result.converged
    np.testing.assert_allclose(result.params, minimiser, rtol=0, atol=1e-4)


def test_other_errors_of_the_hessian_pass_through():
    f, _, _ = make_quadratic()

    def interrupted(vector):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimize_newton_cg(f, lambda x: interrupted, np.zeros(20))


def test_preconditioners_save_products_and_are_refreshed_when_asked():
    f, _ = make_logistic(condition=1e3)
    built, states = [], []

    def make(x):
        built.append(len(states))
        return Inverse(np.linalg.inv(f.hessian(x)))

    plain, helped = Counting(f), Counting(f)
    minimize(plain, np.zeros(10), tol=1e-8)
    result = minimize(
        helped,
        np.zeros(10),
        make_preconditioner=make,
        lags=iter((2, 1, 47)),
        tol=1e-8,
        on_iteration=lambda state: states.append(state.iteration),
    )
    assert result.status is Status.CONVERGED
    # Built at the start, and after iterations 2 and 3 (the callback has counted the start, too).
    assert built == [0, 3, 4]
    assert helped.n_products < plain.n_products / 4


def test_directions_of_no_curvature_collect_no_rounding():
    """Eigenvalues that are 0 up to rounding look like condition numbers of 1e17."""
    Q, rank = rotation(20, 3), 5
    H = (Q * np.append(np.ones(rank), np.zeros(15))) @ Q.T
    start = np.random.default_rng(4).normal(size=20)
    result = minimize(quadratic(H, np.zeros(20)), start, tol=1e-13)
    assert result.converged
    np.testing.assert_allclose(Q[:, rank:].T @ (result.params - start), 0.0, rtol=0, atol=1e-10)
    np.testing.assert_allclose(Q[:, :rank].T @ result.params, 0.0, rtol=0, atol=1e-10)
