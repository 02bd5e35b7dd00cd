"""Minimising as far as asked for, on functions with known minimisers."""

from __future__ import annotations

import numpy as np
import pytest
from functions import Inverse

from fastsoftmax._solvers import step_towards_minimum

RULES = {"share": 1e-3, "most": np.inf, "noise": 1e-16, "max_iter": 100}


@pytest.fixture
def quadratic():
    """Return a convex quadratic of 6 unknowns with minimum 0, its Hessian and its minimiser."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    H, minimiser = root @ root.T + 0.1 * np.eye(6), rng.normal(size=6)

    def function(x):
        g = H @ (x - minimiser)
        return 0.5 * float(g @ (x - minimiser)), g

    return function, H, minimiser


def test_one_step_with_the_inverse_hessian(quadratic):
    function, H, minimiser = quadratic
    step = step_towards_minimum(function, np.zeros(6), Inverse(np.linalg.inv(H)), **RULES)
    np.testing.assert_allclose(step.params, minimiser, atol=1e-10)
    assert (step.n_iterations, step.n_passes, step.is_enough) == (1, 2, True)


@pytest.mark.parametrize(("share", "most"), [(1e-2, np.inf), (1e-8, np.inf), (1.0, 1e-6)])
def test_no_more_is_left_than_was_asked_for(quadratic, share, most):
    function, H, _ = quadratic
    near = np.diag(1.0 / np.diag(H))
    rules = {**RULES, "share": share, "most": most}
    step = step_towards_minimum(function, np.zeros(6), Inverse(near), **rules)
    assert step.is_enough
    # The distance is estimated in the solver's metric, which is nearly the function's by then.
    assert function(step.params)[0] <= 10.0 * min(share * function(np.zeros(6))[0], most)


def test_too_few_iterations_and_a_start_that_is_the_minimum(quadratic):
    function, H, minimiser = quadratic
    rules = {**RULES, "share": 1e-12, "max_iter": 2}
    step = step_towards_minimum(function, np.zeros(6), Inverse(np.eye(6) / 100), **rules)
    assert (step.n_iterations, step.is_enough) == (2, False)
    step = step_towards_minimum(function, minimiser, Inverse(np.linalg.inv(H)), **RULES)
    assert (step.n_iterations, step.is_enough) == (0, True)


def test_a_start_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="not finite at the start"):
        step_towards_minimum(lambda x: (np.inf, x), np.zeros(2), Inverse(np.eye(2)), **RULES)


def test_a_gradient_that_is_wrong():
    step = step_towards_minimum(
        lambda x: (float(x @ x), -2.0 * x), np.ones(2), Inverse(np.eye(2)), **RULES
    )
    assert not step.is_enough
    np.testing.assert_array_equal(step.params, np.ones(2))
