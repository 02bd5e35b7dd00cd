"""Dual ascent: how to move what has no dual, and when to stop or to give up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from fastsoftmax._solvers.result import Status
from fastsoftmax._solvers.vectors import Vector

#: Multiple of a Newton step with the intercept's own curvature that is taken first; how fast it
#: may grow or shrink; and how much of the steps before it goes on.
_FIRST_SCALE, _MOST_CHANGE, _MOMENTUM = 1.5, 3.0, 0.2
#: How much earlier steps tell of the curvature, for each epoch that they are older.
_MEMORY = 0.5
#: A curvature is at least this share of 1 / n_rows.
_LEAST_CURVATURE = 1e-3
#: Epochs in which the distance must fall to half.
_PATIENCE = 8
#: A distance so many times the least one before is that of an intercept which went astray.
_ASTRAY = 30.0
#: The share of the distance allowed at which it is measured; after each measurement that fails, a
#: quarter of it. What visits find is older by half an epoch than what they leave.
_SHARE = 0.5
#: Share of the loss below which distances are rounding, in float32.
_FLOOR = 1e-7


class Found(Protocol):
    """Means over samples; see `fastsoftmax._designs.ascent.Found`."""

    @property
    def loss(self) -> float:
        """The loss."""

    @property
    def gap(self) -> float:
        """The distance to the minimum for the present intercept."""

    @property
    def intercept_gradient(self) -> Vector:
        """Shape (n_rows,)."""

    @property
    def intercept_curvature(self) -> Vector:
        """Shape (n_rows,)."""


class Dual(Protocol):
    """See `fastsoftmax._designs.DualAscent`."""

    def epoch(self, number: int) -> Found:
        """Visit all samples; return what the visits found."""

    def measure(self) -> tuple[Found, float]:
        """Return the same of the parameters as they are, and the gradient's max-norm."""

    def move_intercept(self, step: Vector) -> None:
        """Add to the intercept."""


class Outcome(NamedTuple):
    """How an ascent ended.

    Attributes
    ----------
    status : Status or None
        None where another solver should go on, from the parameters as they are.
    n_epochs, n_passes : int
        The latter with measurements.
    distance : float
        Estimate of the distance to the minimum; infinite after an overflow.
    gradient_norm, loss : float
        Infinite unless measured last, as with any status.
    """

    status: Status | None
    n_epochs: int
    n_passes: int
    distance: float
    gradient_norm: float = math.inf
    loss: float = math.inf


def ascend(
    dual: Dual,
    on_epoch: Callable[[int], bool],
    *,
    tol: float,
    value_scale: float,
    max_iter: int,
) -> Outcome:
    """Run epochs until the tolerance is met, as long as they gain enough.

    Parameters
    ----------
    dual : Dual
    on_epoch : callable
        Called with the number of epochs done; a true result stops the ascent.
    tol, value_scale, max_iter
        See `fastsoftmax._solvers.Stopping`. The distance is the duality gap, plus what a step of
        the intercept would gain.
    """
    intercept = _Intercept()
    share, n_measured, least, distance = _SHARE, 0, [math.inf], math.inf

    def distance_of(found: Found) -> float:
        return found.gap + intercept.gain(found)

    def outcome(status: Status | None) -> Outcome:
        if status is None:
            return Outcome(status, number, number + n_measured, distance)
        found, norm = dual.measure()
        n_passes = number + n_measured + 1
        return Outcome(status, number, n_passes, distance_of(found), norm, found.loss)

    number, found = 0, None
    for number in range(1, max_iter + 1):
        if found is not None:
            dual.move_intercept(intercept.step(found))  # never last, as coefficients must follow
        found = dual.epoch(number)
        intercept.learn(found)
        distance = distance_of(found)
        if not math.isfinite(distance):
            distance = math.inf
            return outcome(None)
        if on_epoch(number):
            return outcome(Status.STOPPED)
        enough, floor = 0.01 * tol * max(found.loss, value_scale), _FLOOR * found.loss
        if distance <= max(share * enough, floor):
            last = outcome(Status.CONVERGED)
            if last.gradient_norm <= tol and last.distance <= enough:
                return last
            n_measured += 1
            share *= 0.25
            if share * enough < floor:
                return outcome(None)
        least.append(min(distance, least[-1]))
        has_stalled = number > _PATIENCE and least[-1] > 0.5 * least[-1 - _PATIENCE]
        if has_stalled or distance > _ASTRAY * least[-1]:
            return outcome(None)
    return outcome(Status.MAX_ITERATIONS)


class _Intercept:
    """Steps for parameters without a dual, while the others follow.

    Where coefficients are always the best ones, the objective is less curved along the intercept
    than where they stay: by a factor of 0.04 on texts of 60 words, by 0.6 on texts of 20. The
    factor is taken from successive gradients, as a secant.
    """

    def __init__(self) -> None:
        self._scale = _FIRST_SCALE
        self._step: Vector | None = None
        self._gradient: Vector
        self._seen = self._own = 0.0

    def learn(self, found: Found) -> None:
        """Take down what the latest step has changed."""
        gradient, step = found.intercept_gradient, self._step
        if step is not None:
            self._seen = _MEMORY * self._seen + float(step @ (gradient - self._gradient))
            self._own = _MEMORY * self._own + float(step @ (_curvature(found) * step))
            if self._own > 0.0:
                wanted = self._own / self._seen if self._seen > 0.0 else math.inf
                least, most = self._scale / _MOST_CHANGE, self._scale * _MOST_CHANGE
                self._scale = min(max(wanted, least), most)
        self._gradient = gradient

    def step(self, found: Found) -> Vector:
        """Return what to add to the intercept."""
        new = -self._scale * found.intercept_gradient / _curvature(found)
        self._step = new if self._step is None else new + _MOMENTUM * self._step
        return self._step

    def gain(self, found: Found) -> float:
        """Return about what a step would gain."""
        gradient = found.intercept_gradient
        return 0.5 * self._scale * float(gradient @ (gradient / _curvature(found)))


def _curvature(found: Found) -> Vector:
    H = found.intercept_curvature
    return np.maximum(H, _LEAST_CURVATURE / len(H))
