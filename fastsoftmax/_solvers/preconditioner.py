"""Approximate inverses of a Hessian, applied to gradients by the solvers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._linalg import Cholesky, NotPositiveDefiniteError
from fastsoftmax._solvers.vectors import Vector


class Preconditioner(Protocol):
    """A symmetric positive definite approximation of the inverse Hessian."""

    def apply(self, gradient: Vector) -> Vector:
        """Return its product with a flat gradient."""


class LaggedPreconditioner:
    """The preconditioner of a solver, built at the start and anew at scheduled iterations.

    Parameters
    ----------
    make : callable or None
        Builds a preconditioner at given parameters. None is the identity.
    refresh_at : iterable of int, increasing
    params : ndarray of shape (n,)
        Where the first one is built.
    """

    def __init__(
        self,
        make: Callable[[Vector], Preconditioner] | None,
        refresh_at: Iterable[int],
        params: Vector,
    ) -> None:
        self._make = make
        self._schedule = iter(refresh_at)
        self._next = next(self._schedule, math.inf)
        self.build(params)

    def build(self, params: Vector) -> None:
        """Build it anew."""
        self._current = None  # the old one need not stay beside the new one
        self._current = None if self._make is None else self._make(params)

    def due(self, iteration: int) -> bool:
        """Tell whether an iteration of the schedule has come since this was last true."""
        due = self._next <= iteration
        while self._next <= iteration:
            self._next = next(self._schedule, math.inf)
        return due

    def apply(self, gradient: Vector) -> Vector:
        """Return the product with a gradient; without a preconditioner, the gradient itself."""
        return gradient if self._current is None else self._current.apply(gradient)


class _ScaledFactor:
    """Cholesky factor of a positive semi-definite matrix scaled to unit diagonal.

    The scaling makes the shift that a singular matrix needs (collinear columns) independent of
    the units of the features. The shift starts at 1e-13 and grows until the factor exists.

    Parameters
    ----------
    matrix : ndarray of shape (n, n)
        Overwritten.

    Raises
    ------
    FloatingPointError
        If an entry is not finite.
    """

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        if not np.all(np.isfinite(matrix)):
            raise FloatingPointError("the Hessian overflows")
        diagonal = np.diag(matrix)
        positive = diagonal > np.finfo(np.float64).tiny
        self._scale = 1.0 / np.sqrt(np.where(positive, diagonal, 1.0))
        matrix *= self._scale
        matrix *= self._scale[:, None]
        shift = 1e-13
        while True:
            np.fill_diagonal(matrix, 1.0 + shift)
            try:
                self._factor = Cholesky(matrix)
                return
            except NotPositiveDefiniteError:
                shift *= 10.0

    def solve(self, right: Vector) -> Vector:
        """Return the product of the inverse with a vector, or with each row of an array."""
        return self._scale * self._factor.solve(self._scale * right)


class SumZeroPreconditioner:
    """Inverse of a full Hessian over rows that may be shifted by a common vector.

    A softmax does not change when every row's coefficients shift alike, so the Hessian is
    singular, and gradients and steps sum to zero over the rows. The first K - 1 rows carry it:
    with a step ``d = (u, 0) - mean``, the reduced Hessian is the leading block of the loss's
    Hessian plus ``l2 (1[a = b] - 1/K)``, and the reduced gradient the first K - 1 rows.

    Parameters
    ----------
    hessian : ndarray of shape (n_free * D, n_free * D)
        Leading block of the loss's Hessian. Overwritten.
    l2 : ndarray of shape (D,)
        Penalty strengths.
    n_rows : int
        K, where ``n_free = K - 1``, or 1, where the Hessian is not singular and ``n_free = 1``.
    """

    def __init__(self, hessian: NDArray[np.float64], l2: Vector, n_rows: int) -> None:
        D = len(l2)
        n_free = max(1, n_rows - 1)
        blocks = hessian.reshape(n_free, D, n_free, D)
        for a in range(n_free):
            for b in range(n_free):
                share = 1.0 if n_rows == 1 else float(a == b) - 1.0 / n_rows
                blocks[a, np.arange(D), b, np.arange(D)] += share * l2
        self._shape = (n_rows, D)
        self._factor = _ScaledFactor(hessian)

    def apply(self, gradient: Vector) -> Vector:
        """Return the step, whose rows sum to zero."""
        g = gradient.reshape(self._shape)
        if len(g) == 1:
            return self._factor.solve(gradient)
        step = np.zeros_like(g)
        reduced = g[:-1] - g.mean(axis=0)
        step[:-1] = self._factor.solve(reduced.ravel()).reshape(reduced.shape)
        step -= step.mean(axis=0)
        return step.ravel()


class BlockPreconditioner:
    """Inverse of a block-diagonal matrix, one block per row of the parameters.

    Parameters
    ----------
    blocks : ndarray of shape (1 or n_rows, D, D)
        One block serves all rows if there is only one.
    l2 : ndarray of shape (D,)
        Penalty strengths, added to each block's diagonal.
    n_rows : int
    """

    def __init__(self, blocks: NDArray[np.float64], l2: Vector, n_rows: int) -> None:
        self._shape = (n_rows, len(l2))
        self._factors = []
        for block in blocks:
            matrix = block.copy()
            matrix[np.diag_indices_from(matrix)] += l2
            self._factors.append(_ScaledFactor(matrix))

    def apply(self, gradient: Vector) -> Vector:
        """Return the step; for several rows it sums to zero over them."""
        g = gradient.reshape(self._shape)
        if len(self._factors) == 1:
            step = self._factors[0].solve(g)
        else:
            step = np.stack([f.solve(row) for f, row in zip(self._factors, g, strict=True)])
        if len(g) > 1:
            step -= step.mean(axis=0)
        return step.ravel()


class CentredPreconditioner:
    """A preconditioner for coefficients of ``x - centre``, for those of x.

    ``W x + b = W (x - centre) + b'`` with ``b' = b + W centre``: the coefficients, and so their
    penalty, are the same; only the intercept moves.

    Parameters
    ----------
    centred : Preconditioner
    centre : ndarray of shape (D - 1,)
        The last of the D columns of the parameters is the intercept.
    """

    def __init__(self, centred: Preconditioner, centre: Vector) -> None:
        self._centred = centred
        self._centre = centre

    def apply(self, gradient: Vector) -> Vector:
        """Return the step."""
        g = gradient.reshape(-1, len(self._centre) + 1).copy()
        g[:, :-1] -= g[:, -1:] * self._centre
        step = self._centred.apply(g.ravel()).reshape(g.shape)
        step[:, -1] -= np.einsum("kj,j->k", step[:, :-1], self._centre)
        return step.ravel()


class DiagonalPreconditioner:
    """Inverse of a diagonal matrix.

    Parameters
    ----------
    diagonal : ndarray of shape (n_rows, D)
        Non-negative; entries of zero (columns that never occur, unpenalised) are left alone.
    """

    def __init__(self, diagonal: NDArray[np.float64]) -> None:
        self._shape = diagonal.shape
        self._inverse = 1.0 / np.where(diagonal > 0, diagonal, 1.0)

    def apply(self, gradient: Vector) -> Vector:
        """Return the step; for several rows it sums to zero over them."""
        step = self._inverse * gradient.reshape(self._shape)
        if len(step) > 1:
            step -= step.mean(axis=0)
        return step.ravel()
