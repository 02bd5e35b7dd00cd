"""Limited-memory BFGS on top of a preconditioner that is refreshed from time to time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Unpack

import numpy as np

from fastsoftmax._solvers.line_search import Point, search_from
from fastsoftmax._solvers.preconditioner import DAMPING, LaggedPreconditioner, Preconditioner
from fastsoftmax._solvers.progress import Progress, Stopping
from fastsoftmax._solvers.result import SolverResult
from fastsoftmax._solvers.vectors import Vector, dot, max_norm

#: By how much the decrement is too small in the metric of an inexact preconditioner: 3 to 10 times
#: on digits, mnist and data with more features than samples.
_CAUTION = 10.0


class Pairs:
    """The pairs of steps and gradient changes since the last refresh (two-loop recursion)."""

    def __init__(self, size: int) -> None:
        self._pairs: deque[tuple[Vector, Vector, float]] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._pairs)

    def clear(self) -> None:
        self._pairs.clear()

    def add(self, step: Vector, change: Vector) -> bool:
        """Keep a pair, unless rounding made its curvature s'y worthless; tell whether."""
        curvature = dot(step, change)
        worth = curvature > 1e-14 * np.sqrt(dot(step, step) * dot(change, change))
        if worth:
            self._pairs.append((step, change, curvature))
        return worth

    def apply(self, gradient: Vector, precondition: Callable[[Vector], Vector]) -> Vector:
        """Return the product of the inverse Hessian's estimate with `gradient`.

        Nocedal & Wright (2006), algorithm 7.4, with the preconditioner for H0.
        """
        q = gradient.copy()
        shares = []
        for step, change, curvature in reversed(self._pairs):
            share = dot(step, q) / curvature
            q -= share * change
            shares.append(share)
        r = precondition(q)
        for (step, change, curvature), share in zip(self._pairs, reversed(shares), strict=True):
            r += (share - dot(change, r) / curvature) * step
        return r


def minimize_lbfgs(
    value_and_gradient: Callable[[Vector], tuple[float, Vector]],
    start: Vector,
    make_preconditioner: Callable[[Vector], Preconditioner] | None = None,
    lags: Iterable[int] = (),
    build_cost: float = 0.0,
    *,
    memory: int = 10,
    damping: float = DAMPING,
    **stopping: Unpack[Stopping],
) -> SolverResult:
    """Minimise a smooth function.

    Parameters
    ----------
    value_and_gradient : callable
        Of a flat float64 vector; the value may be infinite away from `start`.
    start : ndarray of shape (n,)
        Not changed.
    make_preconditioner : callable, default=None
        Builds the inverse Hessian's first estimate at given parameters. None takes the
        identity. Where it keeps its scale, a step size far from 1 makes it old.
        Otherwise it is scaled to the latest pair (Nocedal & Wright, equation 7.20).
    lags : iterable of int
        Iterations after which the first, second ... preconditioner is old. Then it is built anew
        and the memory emptied, unless ...
    build_cost : float
        ... so many more iterations seem to be enough: what building takes, in evaluations.
    memory : int, default=10
        Pairs kept.
    damping : float, default=1e-2
        See `LaggedPreconditioner`. Along directions in which the function is nearly flat it makes
        short steps.
    **stopping
        See `Stopping`. Where the preconditioner is not the inverse Hessian at the latest iterate,
        the estimated distance counts tenfold (`_CAUTION`).

    Returns
    -------
    SolverResult

    Raises
    ------
    FloatingPointError
        If the function is not finite at `start`.

    References
    ----------
    Liu & Nocedal (1989), Math. Programming 45. Nocedal & Wright (2006), chapters 3 and 7.
    """
    progress = Progress(**stopping)
    x = np.array(start, dtype=np.float64)
    f, g = progress.start(value_and_gradient, x)
    pairs = Pairs(memory)
    preconditioner = LaggedPreconditioner(make_preconditioner, lags, build_cost, x, damping)
    fresh = True  # whether the preconditioner was built at x
    scale = 1.0 if make_preconditioner else 1.0 / max(float(np.sqrt(dot(g, g))), 1.0)

    def precondition(vector: Vector) -> Vector:
        return scale * preconditioner.apply(vector)

    progress.visit(x, f, max_norm(g))
    while True:
        direction = -pairs.apply(g, precondition)
        slope = dot(direction, g)
        decrement = -0.5 * slope
        if progress.is_flat and scale < 1.0 and make_preconditioner is not None:
            # The scale is that of the latest step; where the preconditioner fits badly, slow
            # directions need a far longer one. Its own metric is the safer estimate.
            decrement = max(decrement, 0.5 * dot(g, preconditioner.apply(g)))
        gain = decrement
        is_newton = preconditioner.is_exact and fresh
        if make_preconditioner is not None and not is_newton:
            decrement *= _CAUTION
        status = progress.verdict(decrement, gain, direction)
        if status is not None:
            return progress.result(status)

        start_point = Point(0.0, f, g, slope)
        point, n_trials = search_from(
            value_and_gradient, x, direction, start_point, 10.0 * progress.noise
        )
        progress.n_passes += n_trials
        if point is None:
            if len(pairs) == 0 and fresh:
                return progress.result(progress.failure(gain))
            # Old curvature may be to blame: once more with a fresh one.
            if not fresh:
                preconditioner.build(x)
            pairs.clear()
            fresh = True
            continue

        step = point.step_size * direction
        change = point.gradient - g
        if pairs.add(step, change) and not preconditioner.keeps_scale:
            scale *= dot(step, change) / dot(change, precondition(change))
        x, f, g = x + step, point.value, point.gradient
        fresh = False
        progress.visit(x, f, max_norm(g), point.step_size)
        if preconditioner.is_old(point.step_size, progress.n_left):
            preconditioner.build(x)
            pairs.clear()
            fresh = True
