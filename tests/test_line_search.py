"""`fastsoftmax._solvers.line_search` alone."""

from __future__ import annotations

import numpy as np
import pytest
from functions import convex_function, make_quadratic
from scipy import special

from fastsoftmax._solvers.line_search import Point, search

EPS = float(np.finfo(np.float64).eps)


def along_line(f, x, direction):
    def along(t):
        value, g = f(x + t * direction)
        return Point(t, value, g, float(g @ direction))

    return along


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
