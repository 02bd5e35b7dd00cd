"""A step length along a descent direction of a smooth, nearly always convex, function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastsoftmax._solvers.vectors import Vector, dot

_SUFFICIENT_DECREASE = 1e-4
_CURVATURE = 0.9
_MOST_TRIALS = 40


@dataclass(frozen=True)
class Point:
    """A trial: step size, and value, gradient and slope of the function there."""

    step_size: float
    value: float
    gradient: Vector
    slope: float


def search_from(
    value_and_gradient: Callable[[Vector], tuple[float, Vector]],
    x: Vector,
    direction: Vector,
    start: Point,
    noise: float,
) -> tuple[Point | None, int]:
    """Return `search` of a function of vectors on the half-line ``x + t * direction``.

    The slope counts as infinite where the value is. No trial is made unless ``start.slope < 0``.
    """
    if not start.slope < 0.0:
        return None, 0

    def along(t: float) -> Point:
        value, gradient = value_and_gradient(x + t * direction)
        slope = dot(gradient, direction) if np.isfinite(value) else np.inf
        return Point(t, value, gradient, slope)

    return search(along, start, noise)


def search(
    along: Callable[[float], Point], start: Point, noise: float, first_step: float = 1.0
) -> tuple[Point | None, int]:
    """Return a point that satisfies the weak Wolfe conditions, and the number of trials.

    Where the decrease drowns in the rounding of the function, Hager and Zhang's approximate
    condition on the slope takes over, so that a solver can go on to the accuracy of the
    *gradient*.

    Parameters
    ----------
    along : callable
        ``along(t)`` evaluates the function at step size t; its value may be infinite.
    start : Point
        The point at step size 0, of negative slope.
    noise : float
        Absolute uncertainty of the function's value.
    first_step : float
        First step size tried.

    Returns
    -------
    point : Point or None
        None if no trial passed.
    n_trials : int

    References
    ----------
    Nocedal & Wright (2006), Numerical Optimization, section 3.5. Hager & Zhang (2005), SIAM J.
    Optim. 16(1), equations 4.1 to 4.3 (conditions T1 and T2).
    """
    low, high, same_end_moved = start, None, 0
    t = first_step
    for trial in range(1, _MOST_TRIALS + 1):
        point = along(t)
        if not np.isfinite(point.value) or not _decreases(point, start, noise):
            high, same_end_moved = point, max(same_end_moved, 0) + 1
        elif point.slope < _CURVATURE * start.slope:
            low, same_end_moved = point, min(same_end_moved, 0) - 1
        else:
            return point, trial
        t = _next_step(low, high, same_end_moved)
        if high is not None and t <= low.step_size * (1.0 + 1e-12):
            break
    return None, trial


def _decreases(point: Point, start: Point, noise: float) -> bool:
    enough = _SUFFICIENT_DECREASE * point.step_size * start.slope
    if point.value <= start.value + enough:
        return True
    drowned = point.value <= start.value + noise
    return drowned and point.slope <= (2.0 * _SUFFICIENT_DECREASE - 1.0) * start.slope


def _next_step(low: Point, high: Point | None, same_end_moved: int) -> float:
    """Return the zero of the slope's secant, kept inside the bracket; without one, 4 times `low`.

    The secant of a function that is nearly linear far out creeps: when one end has moved
    `same_end_moved` > 1 times in a row (negative: the lower end), nine tenths of the bracket go.
    """
    if high is None:
        return 4.0 * low.step_size
    width = high.step_size - low.step_size
    if same_end_moved > 1 or not np.isfinite(high.value):
        return low.step_size + 0.1 * width
    if same_end_moved < -1:
        return high.step_size - 0.1 * width
    share = 0.5
    if high.slope > 0.0 > low.slope:
        share = low.slope / (low.slope - high.slope)
    return low.step_size + float(np.clip(share, 0.05, 0.95)) * width
