"""Factors of symmetric positive definite matrices, without threads of a BLAS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky

from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import cholesky as kernels
from fastsoftmax._threads import sweep

Matrix = NDArray[np.float64]


class NotPositiveDefiniteError(ValueError):
    """A pivot of a Cholesky factorisation was not positive."""


#: Up to this order SciPy does it: no BLAS starts threads for so little, and the first fit of a
#: small problem need not wait 0.8 s for the kernels.
_SMALL = 32


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
        self._is_small = n <= _SMALL
        if self._is_small:
            try:
                self._factor = cholesky(matrix, lower=True, check_finite=False)
            except LinAlgError:
                raise NotPositiveDefiniteError("the matrix is not positive definite") from None
            if not np.all(np.isfinite(self._factor)):
                raise NotPositiveDefiniteError("the matrix is not finite")
            return
        n_tiles = -(-n // 4)
        self._order = n
        self._factor = np.eye(4 * n_tiles)  # the tiles beyond the matrix factor to themselves
        self._factor[:n, :n] = matrix
        status = np.zeros(1, np.int32)
        kernels.factor(0, n_tiles, self._factor, np.empty((4, 4)), status)
        if status[0]:
            raise NotPositiveDefiniteError("the matrix is not positive definite")
        self._factor = kernel_view(self._factor)

    def lower(self) -> Matrix:
        """Return L, zero above the diagonal."""
        n = len(self._factor) if self._is_small else self._order
        return np.tril(self._factor[:n, :n])

    def solve(self, right: Matrix) -> Matrix:
        """Return ``matrix⁻¹ b`` for a vector (n,), or for each row of an array (m, n)."""
        if self._is_small:
            rows = right.reshape(-1, len(self._factor))
            solution = cho_solve((self._factor, True), rows.T, check_finite=False).T
            return np.ascontiguousarray(solution).reshape(right.shape)
        n, size = self._order, len(self._factor)
        rows = right.reshape(-1, n)
        n_side = kernels.N_RIGHTS if len(rows) > 1 else 1
        n_groups = -(-len(rows) // n_side)
        solution = np.zeros((n_groups * n_side, size))
        solution[: len(rows), :n] = rows
        groups = solution.reshape(n_groups, n_side, size)
        scratch = np.empty((n_groups, kernels.N_RIGHTS))
        sweep(kernels.solve, n_groups, 2.0 * solution.size * size, self._factor, groups, scratch)
        return np.ascontiguousarray(solution[: len(rows), :n]).reshape(right.shape)


def shifted_cholesky(matrix: Matrix, diagonal: float | Matrix, shift: float) -> Cholesky:
    """Return the factor of a matrix that is positive semi-definite but for rounding.

    The shift of its diagonal grows tenfold until the factor exists.

    Parameters
    ----------
    matrix : ndarray of shape (n, n), float64
        Its diagonal is overwritten.
    diagonal : float or ndarray of shape (n,)
        To be multiplied by 1 + shift.
    shift : float
        The least.

    Raises
    ------
    FloatingPointError
        If no finite shift will do.
    """
    while np.isfinite(shift):
        with np.errstate(over="ignore"):
            np.fill_diagonal(matrix, (1.0 + shift) * diagonal)
        try:
            return Cholesky(matrix)
        except NotPositiveDefiniteError:
            shift *= 10.0
    raise FloatingPointError("a matrix is not positive definite, whatever its diagonal")
