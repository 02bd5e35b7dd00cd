"""Factors of symmetric positive definite matrices, the same bits whatever BLAS is installed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import cholesky as kernels

Matrix = NDArray[np.float64]


class NotPositiveDefiniteError(ValueError):
    """A pivot of a Cholesky factorisation was not positive."""


class Cholesky:
    """Factor L with ``L Lᵀ = matrix``.

    Parameters
    ----------
    matrix : ndarray of shape (n, n), float64
        Only the lower triangle is read.

    Raises
    ------
    NotPositiveDefiniteError
        If the matrix is not positive definite in float64, or not finite.
    """

    def __init__(self, matrix: Matrix) -> None:
        n = len(matrix)
        n_tiles = -(-n // 4)
        self._order = n
        self._factor = np.eye(4 * n_tiles)  # the tiles beyond the matrix factor to themselves
        self._factor[:n, :n] = matrix
        status = np.zeros(1, np.int32)
        kernels.factor(0, n_tiles, self._factor, np.empty((4, 4)), status)
        if status[0]:
            raise NotPositiveDefiniteError("the matrix is not positive definite")
        self._factor = kernel_view(self._factor)

    def solve(self, right: Matrix) -> Matrix:
        """Return ``matrix⁻¹ b`` for a vector (n,), or for each row of an array (m, n)."""
        solution = np.zeros((right.size // self._order, len(self._factor)))
        solution[:, : self._order] = right.reshape(-1, self._order)
        kernels.solve(0, len(solution), self._factor, solution)
        return np.ascontiguousarray(solution[:, : self._order]).reshape(right.shape)
