"""What every solver's loop needs: the best iterate, the history, and the rules for stopping."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from fastsoftmax._solvers.result import IterationState, SolverResult, Status
from fastsoftmax._solvers.vectors import Vector

#: Iterations without a smaller gradient, at a promised gain below the noise, that mean "floor".
_PATIENCE = 4
#: Decrements that tell how fast it falls.
_WINDOW = 4
#: How many times its gain the decrement may be before a step counts as cut short.
_CUT = 100.0
_TINY = float(np.finfo(np.float64).tiny)


class Stopping(TypedDict, total=False):
    """When a minimisation stops, and who watches it: the keywords that all solvers share.

    Attributes
    ----------
    tol : float, default=1e-4
        A solver stops when the largest absolute component of the gradient is at most `tol` and
        the estimated distance to the minimum, half the squared Newton decrement in the solver's
        metric, at most ``0.01 * tol * max(|f|, value_scale)``.
    value_scale : float, default=0.0
        Values of the function far below this count as 0.
    max_iter : int, default=1000
    noise : float, default=2.2e-16
        Relative uncertainty of the function's value.
    on_iteration : callable, default=None
        Called with an `IterationState` at the start and after every iteration; a true result
        stops the solver. An exception that it raises passes through.
    recedes : callable, default=None
        ``recedes(params, step, settled)`` tells whether a step is a direction of recession:
        one along which the function never rises, however far it goes (Rockafellar, 1970, Convex
        Analysis, section 8). Asked where the gradient is within `tol`; "yes" ends the search for
        a minimum with `Status.SEPARABLE`. The step is that of an iteration, so components of it
        that should be zero are only small. `settled` tells whether the solver would stop here.
    """

    tol: float
    value_scale: float
    max_iter: int
    noise: float
    on_iteration: Callable[[IterationState], bool | None] | None
    recedes: Callable[[Vector, Vector, bool], bool] | None


@dataclass
class _Iterate:
    params: Vector
    value: float
    norm: float
    decrement: float = np.nan  # until the solver has estimated it


class Progress:
    """Book-keeping of a minimisation: a solver reports its iterates and asks whether to stop.

    Parameters
    ----------
    tol, value_scale, max_iter, noise, on_iteration, recedes
        See `Stopping`.

    Attributes
    ----------
    n_passes : int
        Evaluations so far; the solver adds to it.
    is_flat : bool
        Whether the latest iterate's gradient is within `tol`.
    enough : float
        Decrement at which the latest iterate counts as the minimum.
    noise : float
        Absolute uncertainty of the latest iterate's value.
    """

    def __init__(
        self,
        *,
        tol: float = 1e-4,
        value_scale: float = 0.0,
        max_iter: int = 1000,
        noise: float = np.finfo(np.float64).eps,
        on_iteration: Callable[[IterationState], bool | None] | None = None,
        recedes: Callable[[Vector, Vector, bool], bool] | None = None,
    ) -> None:
        self._tol, self._value_scale, self._max_iter = tol, value_scale, max_iter
        self._relative_noise = noise
        self._on_iteration, self._recedes = on_iteration, recedes
        self._history: list[tuple[int, float, float]] = []
        self._since_best, self._stop = 0, False
        self._gains: list[float] = []
        self._decrement = math.inf
        self.n_passes = 0

    @property
    def n_iterations(self) -> int:
        """Steps taken."""
        return len(self._history) - 1

    @property
    def best_params(self) -> Vector:
        """The best iterate's parameters, the very array that was shown to `visit`."""
        return self._best.params

    @property
    def passes_per_iteration(self) -> float:
        """Evaluations so far for each step taken."""
        return self.n_passes / max(1, self.n_iterations)

    @property
    def n_left(self) -> float:
        """Iterations until the stopping rule holds, if the decrement goes on falling as it did.

        0 where no more are allowed.
        """
        if self.n_iterations >= self._max_iter:
            return 0.0
        recent = self._gains[-_WINDOW:]
        falls = len(recent) > 1 and 0.0 < recent[-1] < recent[0] < math.inf
        if not (falls and self.enough > 0.0):
            return math.inf
        rate = math.log(recent[0] / recent[-1]) / (len(recent) - 1)
        # In logarithms, as tol may be tiny; the decrement goes with the square of the gradient.
        to_go = math.log(max(self._decrement, _TINY)) - math.log(self.enough)
        norm_to_go = math.log(max(self._latest.norm, _TINY)) - math.log(self._tol)
        # The latest iterate's are not known yet.
        return max(to_go, 2.0 * norm_to_go, 0.0) / rate - 1.0

    def start(
        self, value_and_gradient: Callable[[Vector], tuple[float, Vector]], params: Vector
    ) -> tuple[float, Vector]:
        """Return value and gradient at the start.

        Raises
        ------
        FloatingPointError
            If they are not finite.
        """
        value, gradient = value_and_gradient(params)
        self.n_passes += 1
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            raise FloatingPointError("the objective is not finite at the start")
        self._best = _Iterate(params, np.inf, np.inf)
        return value, gradient

    def visit(self, params: Vector, value: float, norm: float, step_size: float = 0.0) -> None:
        """Take down an iterate and its gradient's `max_norm`, and show it to the caller."""
        self._latest = latest = _Iterate(params, value, norm)
        self.is_flat = latest.norm <= self._tol
        self.enough = 0.01 * self._tol * max(abs(value), self._value_scale)
        self.noise = self._relative_noise * max(abs(value), np.finfo(np.float64).tiny)
        # Below the noise of the value only the gradient tells whether an iterate is better.
        if value < self._best.value - self.noise or latest.norm < self._best.norm:
            self._best, self._since_best = latest, 0
        else:
            self._since_best += 1
        self._history.append((self.n_passes, value, latest.norm))
        if self._on_iteration is not None:
            state = IterationState(
                self.n_iterations, self.n_passes, value, latest.norm, step_size, params
            )
            self._stop = bool(self._on_iteration(state))

    def verdict(self, decrement: float, gain: float, direction: Vector) -> Status | None:
        """Return why to stop at the latest iterate, or None.

        Parameters
        ----------
        decrement : float
            Estimate of the distance to the minimum.
        gain : float
            Decrease that the solver's model promises of `direction`; smaller than `decrement`
            where the direction is a compromise.
        direction : ndarray of shape (n,)
            The step that the solver would try next.
        """
        del self._gains[self.n_iterations :]  # asked twice about one iterate
        self._gains.append(gain)
        self._decrement = decrement
        latest = self._latest
        if np.isnan(latest.decrement):
            latest.decrement = decrement
        small = latest.norm == 0.0 or (self.is_flat and 0.0 <= decrement <= self.enough)
        if small:
            latest.decrement = max(decrement, 0.0)
        # A step that is cut short promises little, however far the minimum.
        is_cut = not self.is_flat and decrement > _CUT * gain
        status = self._reason_to_stop(small, decrement if is_cut else gain)
        recedes = self.is_flat and self._recedes
        if recedes and recedes(latest.params, direction, status is not None):
            status = Status.SEPARABLE
        if status in (Status.SEPARABLE, Status.CONVERGED):
            self._best = latest
        return status

    def _reason_to_stop(self, small: bool, gain: float) -> Status | None:
        if small:
            return Status.CONVERGED
        if gain <= self.noise and self._since_best >= _PATIENCE:
            return Status.FLOOR
        if self._stop:
            return Status.STOPPED
        if self.n_iterations >= self._max_iter:
            return Status.MAX_ITERATIONS
        return None

    def failure(self, gain: float) -> Status:
        """Return what it means that no step lowers the objective, which promised a `gain`."""
        return Status.FLOOR if gain <= 1e3 * self.noise else Status.LINE_SEARCH

    def result(self, status: Status) -> SolverResult:
        """Return the best iterate."""
        best = self._best
        return SolverResult(
            best.params,
            best.value,
            best.norm,
            best.decrement,
            self.n_iterations,
            self.n_passes,
            status,
            self._history,
        )
