"""Limited-memory BFGS on top of a preconditioner that is refreshed from time to time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._solvers.line_search import Point, search
from fastsoftmax._solvers.preconditioner import Preconditioner
from fastsoftmax._solvers.result import IterationState, SolverResult, Status

Vector = NDArray[np.float64]

#: Iterations without a smaller gradient, at a decrement below the noise, that mean "floor".
_PATIENCE = 4


def dot(u: Vector, v: Vector) -> float:
    """Return the inner product, not by BLAS: its threads would change the bits."""
    return float(np.einsum("i,i->", u, v))


class _Memory:
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
    *,
    make_preconditioner: Callable[[Vector], Preconditioner] | None = None,
    refresh_at: Iterable[int] = (),
    exact_curvature: bool = False,
    tol: float = 1e-4,
    value_scale: float = 0.0,
    max_iter: int = 1000,
    memory: int = 10,
    noise: float = np.finfo(np.float64).eps,
    on_iteration: Callable[[IterationState], bool | None] | None = None,
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
        identity.
    refresh_at : iterable of int, increasing
        Iterations before which the preconditioner is built anew and the memory emptied, besides
        the start.
    exact_curvature : bool
        Whether the preconditioner is the inverse Hessian where it was built. Then its scale is
        kept, and a step size far from 1 brings on a refresh, too. Otherwise it is scaled to the
        latest pair (Nocedal & Wright, equation 7.20).
    tol : float
        The solver stops when the largest absolute component of the gradient is at most `tol`
        and the estimated distance to the minimum, half the squared Newton decrement in the
        solver's metric, at most ``0.01 * tol * max(|f|, value_scale)``.
    value_scale : float
        Values of the function far below this count as 0.
    max_iter : int
    memory : int
        Pairs kept.
    noise : float
        Relative uncertainty of the function's value.
    on_iteration : callable, default=None
        Called with an `IterationState` at the start and after every iteration; a true result
        stops the solver. An exception that it raises passes through.

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
    x = np.array(start, dtype=np.float64)
    f, g = value_and_gradient(x)
    n_passes = 1
    if not (np.isfinite(f) and np.all(np.isfinite(g))):
        raise FloatingPointError("the objective is not finite at the start")
    pairs = _Memory(memory)
    preconditioner = None if make_preconditioner is None else make_preconditioner(x)
    refreshes = iter(refresh_at)
    next_refresh = next(refreshes, max_iter + 1)
    fresh = True  # whether the preconditioner was built at x
    moved = True  # whether x is new since on_iteration saw it
    scale = 1.0 if make_preconditioner else 1.0 / max(float(np.sqrt(dot(g, g))), 1.0)
    history: list[tuple[int, float, float]] = []
    best, best_x, since_best = (f, _norm(g), 0.0), x, 0
    iteration, step_size = 0, 0.0

    def precondition(vector: Vector) -> Vector:
        return scale * (vector if preconditioner is None else preconditioner.apply(vector))

    while True:
        norm = _norm(g)
        direction = -pairs.apply(g, precondition)
        slope = dot(direction, g)
        decrement = -0.5 * slope
        if norm <= tol and scale < 1.0 and preconditioner is not None:
            # The scale is that of the latest step; where the preconditioner fits badly, slow
            # directions need a far longer one. Its own metric is the safer estimate.
            decrement = max(decrement, 0.5 * dot(g, preconditioner.apply(g)))
        floor = noise * max(abs(f), np.finfo(np.float64).tiny)
        # Below the noise of f only the gradient tells whether an iterate is better.
        stop = False
        if moved:
            if f < best[0] - floor or norm < best[1] or iteration == 0:
                best, best_x, since_best = (f, norm, decrement), x, 0
            else:
                since_best += 1
            history.append((n_passes, f, norm))
            state = IterationState(iteration, n_passes, f, norm, step_size, x)
            stop = on_iteration is not None and bool(on_iteration(state))
        if norm == 0.0 or (
            norm <= tol and 0.0 <= decrement <= 0.01 * tol * max(abs(f), value_scale)
        ):
            status = Status.CONVERGED
            best, best_x = (f, norm, max(decrement, 0.0)), x
            break
        if decrement <= floor and since_best >= _PATIENCE:
            status = Status.FLOOR
            break
        if stop:
            status = Status.STOPPED
            break
        if iteration >= max_iter:
            status = Status.MAX_ITERATIONS
            break

        point = None
        if slope < 0:
            start_point = Point(0.0, f, g, slope)

            def along(t: float, x: Vector = x, direction: Vector = direction) -> Point:
                value, gradient = value_and_gradient(x + t * direction)
                finite = np.isfinite(value)
                return Point(t, value, gradient, dot(gradient, direction) if finite else np.inf)

            point, n_trials = search(along, start_point, 10.0 * floor)
            n_passes += n_trials
        if point is None:
            if len(pairs) == 0 and fresh:
                status = Status.FLOOR if decrement <= 1e3 * floor else Status.LINE_SEARCH
                break
            # Old curvature may be to blame: once more with a fresh one.
            if make_preconditioner is not None and not fresh:
                preconditioner = make_preconditioner(x)
            pairs.clear()
            fresh, moved = True, False
            continue

        iteration += 1
        moved = True
        step_size = point.step_size
        step = step_size * direction
        change = point.gradient - g
        if pairs.add(step, change) and not exact_curvature:
            scale *= dot(step, change) / dot(change, precondition(change))
        x, f, g = x + step, point.value, point.gradient
        fresh = False
        bad = exact_curvature and not 0.1 <= step_size <= 5.0
        if make_preconditioner is not None and (iteration >= next_refresh or bad):
            while next_refresh <= iteration:
                next_refresh = next(refreshes, max_iter + 1)
            preconditioner = make_preconditioner(x)
            pairs.clear()
            fresh = True

    f, norm, decrement = best
    return SolverResult(best_x, f, norm, decrement, iteration, n_passes, status, history)


def _norm(gradient: Vector) -> float:
    return float(np.max(np.abs(gradient), initial=0.0))
