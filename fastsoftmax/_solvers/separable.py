"""Penalties that fall apart into coordinates: absolute values, and bounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._solvers.vectors import Vector


@dataclass(frozen=True, eq=False)
class SeparablePenalty:
    """``h(x) = sum_j l1_j |x_j|`` where ``lower <= x <= upper``, infinite elsewhere.

    Attributes
    ----------
    l1 : ndarray of shape (n,)
        Not negative.
    lower, upper : ndarray of shape (n,)
        ``lower <= upper``, infinite where there is no bound.
    """

    l1: Vector
    lower: Vector
    upper: Vector

    @property
    def parts(self) -> tuple[Vector, Vector, Vector]:
        """All attributes."""
        return self.l1, self.lower, self.upper

    def value(self, x: Vector) -> float:
        """Return h at a point within the bounds."""
        return float(np.einsum("j,j->", self.l1, np.abs(x)))

    def project(self, x: Vector) -> Vector:
        """Return the point within the bounds that is nearest to x."""
        return np.clip(x, self.lower, self.upper) if self._is_bounded else x

    def least_subgradient(self, x: Vector, gradient: Vector) -> Vector:
        """Return the smallest subgradient of ``f + h``, where f has the given gradient.

        It is zero where, and only where, x is a minimum of a convex f (Karush, Kuhn and Tucker).
        """
        slope = gradient - np.clip(gradient, -self.l1, self.l1)
        moved = np.flatnonzero(x)
        slope[moved] = gradient[moved] + self.l1[moved] * np.sign(x[moved])
        if self._is_bounded:
            slope[(x <= self.lower) & (slope > 0.0)] = 0.0
            slope[(x >= self.upper) & (slope < 0.0)] = 0.0
        return slope

    def is_free(self, x: Vector) -> NDArray[np.bool_]:
        """Tell which coordinates can move a little both ways without a kink or a bound."""
        is_off = (x != 0.0) | (self.l1 == 0.0)
        if self._is_bounded:
            is_off &= (x > self.lower) & (x < self.upper)
        return is_off

    def stopped(self, x: Vector, moved: Vector) -> tuple[Vector, NDArray[np.bool_]]:
        """Return `moved` with each coordinate held where it passes 0 (a kink) or a bound."""
        crosses = (moved * x < 0.0) & (self.l1 > 0.0)
        held = np.clip(np.where(crosses, 0.0, moved), self.lower, self.upper)
        return held, held != moved

    @property
    def is_smooth(self) -> bool:
        """Whether there is neither a kink nor a bound."""
        return not (self._is_bounded or self.l1.any())

    @cached_property
    def _is_bounded(self) -> bool:
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())
