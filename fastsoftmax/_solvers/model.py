"""A quasi-Newton model of a smooth function plus a separable penalty, and its minimum."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._kernels import coordinate as kernels
from fastsoftmax._linalg import shifted_cholesky
from fastsoftmax._solvers.separable import SeparablePenalty
from fastsoftmax._solvers.vectors import Vector, dot

Matrix = NDArray[np.float64]

#: Rounds, sweeps in each of them, and faces solved in each; sweeps in a metric that is not exact.
_MOST_ROUNDS, _MOST_SWEEPS, _MOST_FACES = 12, 40, 20
#: Multiply-adds of the factors in a round, 0.3 s; but there are three faces at least.
_FACE_WORK, _LEAST_FACES = 1e10, 3
_MOST_ROUGH_SWEEPS = 20
#: Models whose coordinate descent is believed after faces gained little.
_FACES_SKIPPED = 3
#: Multiply-adds of one call of a kernel, some 0.1 s; then Python may see Ctrl-C.
_CALL_WORK = 2e8
#: The least and the largest ridge of a face, relative to its diagonal.
_LEAST_RIDGE, _MOST_RIDGE = 1e-10, 1e-2


class Frame:
    """Coordinates that suit a metric: coefficients of ``x - centre``.

    Their intercept, the last of every D parameters, is ``b + W centre``. The coefficients, and so
    their penalty, are the same.

    Attributes
    ----------
    centre : ndarray of shape (D - 1,) or (0,)
        Empty where nothing moves.
    """

    centre: Vector

    def inward(self, params: Vector) -> Vector:
        """Return parameters, or a step, in the metric's coordinates."""
        return self._moved(params, 1.0)

    def outward(self, inner: Vector) -> Vector:
        """Return parameters, or a step, from those in the metric's coordinates."""
        return self._moved(inner, -1.0)

    def inward_gradient(self, gradient: Vector) -> Vector:
        """Return a gradient in the metric's coordinates."""
        if not self.centre.size:
            return gradient
        g = gradient.reshape(-1, len(self.centre) + 1).copy()
        g[:, :-1] -= g[:, -1:] * self.centre
        return g.ravel()

    def learn(self, step_size: float) -> None:
        """Take down the share that was taken of the model's step."""

    def _moved(self, params: Vector, sign: float) -> Vector:
        if not self.centre.size:
            return params
        p = params.reshape(-1, len(self.centre) + 1).copy()
        p[:, -1] += sign * np.einsum("kj,j->k", p[:, :-1], self.centre)
        return p.ravel()


@dataclass(frozen=True, eq=False)
class Metric(Frame):
    """An estimate of the Hessian, ``scale * blocks + diag(l2)``, in coordinates of its own.

    Attributes
    ----------
    blocks : ndarray of shape (n_blocks or 1, m, m)
        Diagonal blocks of the loss's part; a single one serves all.
    l2 : ndarray of shape (n,)
        Penalty strengths.
    centre : ndarray of shape (D - 1,) or (0,)
        See `Frame`.
    is_exact : bool
        Whether it is the Hessian where it was built.
    scale : float, default=1.0
    """

    blocks: Matrix
    l2: Vector
    centre: Vector
    is_exact: bool
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks, and their order."""
        order = self.blocks.shape[1]
        return len(self.l2) // order, order

    def times(self, vector: Vector) -> Vector:
        """Return the product with a vector."""
        return self.scale * self.unscaled(vector) + self.l2 * vector

    def unscaled(self, vector: Vector) -> Vector:
        """Return ``blocks @ vector``."""
        v = vector.reshape(self.shape)
        if len(self.blocks) == 1:
            return np.einsum("ij,kj->ki", self.blocks[0], v).ravel()
        return np.einsum("kij,kj->ki", self.blocks, v).ravel()

    def model(
        self,
        pairs: Collection[Pair],
        x: Vector,
        gradient: Vector,
        penalty: SeparablePenalty,
        balanced: Callable[[Vector], Vector] | None,
    ) -> QuasiNewtonModel:
        """Return the model of a function of about this Hessian."""
        return QuasiNewtonModel(
            self, pairs, x, gradient, penalty, balanced if self.is_exact else None
        )


class Pair(NamedTuple):
    """A step, the change of the gradient along it, and the metric's blocks times the step."""

    step: Vector
    change: Vector
    product: Vector


@dataclass
class Faces:
    """What one model tells the next one of faces.

    A face may be singular while the penalty slopes along its null space (collinear columns, three
    or more classes), so that its steps are proximal ones: their ridge shrinks as long as nothing
    is in their way.

    Attributes
    ----------
    ridge : float
        Relative to the diagonal.
    to_skip : int
        For so many models more, coordinate descent that seems done needs no check by a face.
    """

    ridge: float = 1e-3
    to_skip: int = 0


class QuasiNewtonModel:
    """``g·d + d·B d / 2 + h(x + d)``, B being a metric corrected by pairs (BFGS).

    Parameters
    ----------
    metric : Metric
    pairs : collection of Pair
        Those since the metric was built, in its coordinates; all of positive curvature.
    x, gradient : ndarray of shape (n,)
        In the metric's coordinates.
    penalty : SeparablePenalty
    balanced : callable, default=None
        See `minimize_composite`; only given where it changes the metric's part of the model no
        more than the function.

    References
    ----------
    Byrd, Nocedal & Schnabel (1994), Math. Programming 63, theorem 2.3: the compact form
    ``B = B0 - left inner⁻¹ leftᵀ``.
    """

    #: How many times its fall the model may be above its minimum, where its metric is exact.
    caution = 1.0

    def __init__(
        self,
        metric: Metric,
        pairs: Collection[Pair],
        x: Vector,
        gradient: Vector,
        penalty: SeparablePenalty,
        balanced: Callable[[Vector], Vector] | None = None,
    ) -> None:
        self._metric, self._x, self._gradient, self._penalty = metric, x, gradient, penalty
        self._balanced = balanced
        n = len(x)
        self._left = np.empty((0, n))
        self._inner = np.empty((0, 0))
        if pairs:
            steps = np.stack([pair.step for pair in pairs])
            changes = np.stack([pair.change for pair in pairs])
            products = metric.scale * np.stack([pair.product for pair in pairs])
            products += metric.l2 * steps
            curvatures = np.einsum("in,jn->ij", steps, changes)
            below = np.tril(curvatures, -1)
            corner = np.einsum("in,jn->ij", steps, products)
            self._left = np.concatenate([products, changes])
            self._inner = np.block([[corner, below], [below.T, -np.diag(np.diag(curvatures))]])
        # Small inverses and `einsum`: a solve with so many columns would wake threads of the BLAS.
        try:
            inverse: Any = np.linalg.inv(self._inner)
        except np.linalg.LinAlgError:  # pairs that say the same: do without
            self._left, inverse = np.empty((0, n)), np.empty((0, 0))
        self._right: Matrix = np.einsum("ij,jn->in", inverse, self._left)

    def value(self, z: Vector) -> float:
        """Return the model's value at ``z = x + d``, 0 at x."""
        step = z - self._x
        penalty = self._penalty.value(z) - self._penalty.value(self._x)
        return dot(self._gradient + 0.5 * self._times(step), step) + penalty

    def _times(self, step: Vector) -> Vector:
        correction = np.einsum("in,i->n", self._right, np.einsum("in,n->i", self._left, step))
        return self._metric.times(step) - correction

    @np.errstate(over="ignore", invalid="ignore")
    def minimize(self, faces: Faces, enough: float) -> tuple[Vector, float]:
        """Return the minimum, exact at kinks and bounds, and the model's fall from x to it.

        Coordinate descent finds out which coordinates are not at a kink or a bound; Newton's step
        on the face that they span goes where it creeps. It ends where a share `enough` of the
        fall seems to be left. Without a finite minimum it returns x, and inf.
        """
        z, fall = self._x.copy(), 0.0
        for _ in range(_MOST_ROUNDS):
            before = fall
            is_done = self._descend(z, enough)
            fall = -self.value(z)
            # In a rough metric a truncated descent is better than its exact minimum: with faces
            # mnist at C=1 was 9 % above the optimum after 137 s, without it ends in some 30.
            if not (self._metric.is_exact and fall - before > enough * before):
                break
            if is_done and faces.to_skip > 0:
                faces.to_skip -= 1
                break
            if self._balanced is not None:
                z = self._balanced(z)
            z = self._through_faces(z, faces)
            gain = -self.value(z) - fall
            fall += gain
            if gain <= enough * fall:
                faces.to_skip = _FACES_SKIPPED
                if is_done:
                    break
        if not np.isfinite(fall):  # curvature that overflows tells nothing of the minimum
            return self._x.copy(), np.inf
        return z, max(fall, 0.0)  # rounding may leave less than nothing

    def _descend(self, z: Vector, enough: float) -> bool:
        """Sweep over the coordinates, updating z; tell whether little is left to gain."""
        metric, penalty, shape = self._metric, self._penalty, self._metric.shape
        step = z - self._x
        products = metric.unscaled(step).reshape(shape)
        shares = np.einsum("in,n->i", self._left, step)
        gains = np.zeros(kernels.N_GAINS)
        inputs = (metric.l2, penalty.l1, penalty.lower, penalty.upper, self._gradient)
        columns = (np.ascontiguousarray(part.T) for part in (self._left, self._right))
        arguments: tuple[Any, ...] = (
            *(metric.blocks, metric.scale),
            *(part.reshape(shape) for part in inputs),
            *(part.reshape(*shape, -1 if len(shares) else 0) for part in columns),
            *(enough, z.reshape(shape), step.reshape(shape), products, shares, gains),
        )
        most = _MOST_SWEEPS if metric.is_exact else _MOST_ROUGH_SWEEPS
        n_at_once = max(1, int(_CALL_WORK / (len(z) * shape[1])))
        for first in range(0, most, n_at_once):
            kernels.descend(first, min(first + n_at_once, most), *arguments)
            if gains[kernels.IS_DONE]:
                return True
        return False

    def _through_faces(self, z: Vector, faces: Faces) -> Vector:
        """Return a better point, by Newton steps on one face after the other."""
        penalty, ridge = self._penalty, faces.ridge
        value = self.value(z)
        n_free = max(1, int(np.count_nonzero(penalty.is_free(z))))
        most = int(np.clip(3.0 * _FACE_WORK / n_free**3, _LEAST_FACES, _MOST_FACES))
        for _ in range(most):
            free = penalty.is_free(z)
            slope = self._gradient + self._times(z - self._x) + penalty.l1 * np.sign(z)
            newton = self._face_step(slope, free, ridge)
            _, is_held = penalty.stopped(z, z + newton)
            trials = [1.0]
            if is_held.any():
                trials += [0.3, 0.1, self._first_stop(z, newton, is_held)]
            best_value, best, best_size = value, z, 0.0
            for size in trials:
                moved, _ = penalty.stopped(z, z + size * newton)
                trial_value = self.value(moved)
                if trial_value < best_value:
                    best_value, best, best_size = trial_value, moved, size
                if best_size == 1.0 and value - best_value > 0.3 * abs(0.5 * dot(slope, newton)):
                    break
            gain, value, z = value - best_value, best_value, best
            if gain <= 0.0:
                if ridge >= _MOST_RIDGE:
                    break
                ridge = min(10.0 * ridge, _MOST_RIDGE)
                continue
            clean = not is_held.any()
            if best_size == 1.0 and (clean or gain > 1e-3 * abs(value)):
                last = clean and ridge <= 10.0 * _LEAST_RIDGE
                ridge = max(ridge * (0.01 if clean else 0.3), _LEAST_RIDGE)
                if last:
                    break
            elif best_size < 0.1:
                ridge = min(10.0 * ridge, _MOST_RIDGE)
        faces.ridge = ridge
        return z

    def _first_stop(self, z: Vector, newton: Vector, is_held: NDArray[np.bool_]) -> float:
        """Return the size of a step at which the first coordinate meets its kink or bound."""
        penalty = self._penalty
        bound = np.where(newton > 0.0, penalty.upper, penalty.lower)
        kink = np.where((penalty.l1 > 0.0) & (z * newton < 0.0), 0.0, bound)
        stop = np.where(newton > 0.0, np.minimum(kink, bound), np.maximum(kink, bound))
        return float(np.min((stop[is_held] - z[is_held]) / newton[is_held]))

    def _face_step(self, slope: Vector, free: NDArray[np.bool_], ridge: float) -> Vector:
        """Return Newton's step along the free coordinates, the curvature raised by a ridge."""
        metric = self._metric
        rank = len(self._left)
        left = self._left * free
        right_sides = np.concatenate([-slope[None] * free, left]).reshape(1 + rank, *metric.shape)
        solved = np.zeros_like(right_sides)
        is_free, l2 = free.reshape(metric.shape), metric.l2.reshape(metric.shape)
        for k, own in enumerate(is_free):
            j = np.flatnonzero(own)
            matrix = metric.scale * metric.blocks[k % len(metric.blocks)][np.ix_(j, j)]
            matrix[np.diag_indices(len(j))] += l2[k, j]
            if len(j):
                solved[:, k, j] = _ridge_solve(matrix, right_sides[:, k, j], ridge)
        solved = solved.reshape(1 + rank, -1)
        newton: Vector = solved[0]
        if rank:
            # Woodbury's identity; least squares, as ridges can make it nearly singular.
            gram = self._inner - np.einsum("in,jn->ij", left, solved[1:])
            if not np.all(np.isfinite(gram)):
                return newton
            shares = np.linalg.lstsq(gram, np.einsum("in,n->i", left, newton))[0]
            newton = newton + np.einsum("i,in->n", shares, solved[1:])
        return newton


def _ridge_solve(matrix: Matrix, right: Matrix, ridge: float) -> Matrix:
    """Return ``matrix⁻¹ b`` for the rows b of `right`, its diagonal raised by a share, or more."""
    diagonal = np.maximum(np.diag(matrix), np.finfo(np.float64).tiny)
    scale = 1.0 / np.sqrt(diagonal)
    matrix *= scale
    matrix *= scale[:, None]
    # Correlations, but for the rounding of curvatures near 0: beyond 1 no ridge might ever do.
    np.clip(matrix, -1.0, 1.0, out=matrix)
    factor = shifted_cholesky(matrix, 1.0, ridge)
    return factor.solve(np.ascontiguousarray(right * scale)) * scale
