"""`minimize_lbfgs` alone: its memory, its preconditioner's scale and its refreshes."""

from __future__ import annotations

import numpy as np
import pytest
from functions import Inverse, make_quadratic, rosenbrock

from fastsoftmax._solvers import Status, minimize_lbfgs
from fastsoftmax._solvers.lbfgs import Pairs


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
        make_preconditioner=lambda x: Inverse(np.linalg.inv(H), exact),
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
    memory = Pairs(4)
    pairs = [(s, A @ s) for s in rng.normal(size=(n_pairs, 6))]
    for s, y in pairs:
        assert memory.add(s, y)
    assert len(memory) == min(n_pairs, 4)
    expected = dense_bfgs_inverse(start, pairs[-4:])
    for g in np.eye(6):
        np.testing.assert_allclose(memory.apply(g, lambda v: start @ v), expected @ g, atol=1e-11)


def test_a_pair_without_curvature_is_not_kept():
    memory = Pairs(4)
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
        make_preconditioner=lambda x: Inverse(np.eye(5), is_exact=True),  # not scaled
        lags=(),
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
        lags=iter((3, 2, 3)),
        tol=1e-12,
        max_iter=10,
        on_iteration=lambda state: states.append(state.iteration),
    )
    # Built at the start, and after iterations 3, 5 and 8 (the callback has counted the start, too).
    assert built == [0, 4, 6, 9]
