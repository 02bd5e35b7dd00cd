"""One minimisation of many: as good as its place in the sequence asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastsoftmax._solvers.lbfgs import Pairs
from fastsoftmax._solvers.line_search import Point, search_from
from fastsoftmax._solvers.preconditioner import Preconditioner
from fastsoftmax._solvers.vectors import Vector, dot

_PAIRS = 10


class Step(NamedTuple):
    """Where a minimisation got.

    Attributes
    ----------
    params : ndarray of shape (n,)
    n_iterations, n_passes : int
    is_enough : bool
        Whether as near to the minimum as was asked for, or as the function's noise allows.
    """

    params: Vector
    n_iterations: int
    n_passes: int
    is_enough: bool


def step_towards_minimum(
    value_and_gradient: Callable[[Vector], tuple[float, Vector]],
    start: Vector,
    preconditioner: Preconditioner,
    *,
    share: float,
    most: float,
    noise: float,
    max_iter: int,
) -> Step:
    """Minimise a smooth function until a share of the distance to its minimum is left.

    L-BFGS on a preconditioner that stays. The distance is half the squared Newton decrement in the
    solver's metric.

    Parameters
    ----------
    value_and_gradient : callable
        Of a flat float64 vector; the value may be infinite away from `start`.
    start : ndarray of shape (n,)
        Not changed.
    preconditioner : Preconditioner
    share : float
        Of the distance at the start, in the same metric.
    most : float
        Distance that may be left at most.
    noise : float
        Relative uncertainty of the function's value.
    max_iter : int

    Raises
    ------
    FloatingPointError
        If the function is not finite at `start`.
    """
    x = start
    f, g = value_and_gradient(x)
    if not (np.isfinite(f) and np.all(np.isfinite(g))):
        raise FloatingPointError("the objective is not finite at the start")
    pairs, n_iterations, n_passes = Pairs(_PAIRS), 0, 1
    first = 0.0
    while True:
        direction = -pairs.apply(g, preconditioner.apply)
        slope = dot(direction, g)
        decrement = -0.5 * slope
        floor = noise * abs(f)
        first = max(first, decrement)
        if decrement <= max(min(share * first, most), floor):
            return Step(x, n_iterations, n_passes, True)
        if n_iterations >= max_iter:
            return Step(x, n_iterations, n_passes, False)
        point, n_trials = search_from(
            value_and_gradient, x, direction, Point(0.0, f, g, slope), 10.0 * floor
        )
        n_passes += n_trials
        if point is None:
            if not len(pairs):
                return Step(x, n_iterations, n_passes, decrement <= 1e3 * floor)
            pairs.clear()
            continue
        moved = point.step_size * direction
        pairs.add(moved, point.gradient - g)
        x, f, g = x + moved, point.value, point.gradient
        n_iterations += 1
