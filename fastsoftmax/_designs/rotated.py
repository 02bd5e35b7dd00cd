"""A design of as many features as samples, with the same products of rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np

from fastsoftmax._designs.base import Array, Float64Array, Response
from fastsoftmax._designs.dense import DenseDesign, predict
from fastsoftmax._designs.partition import Partition
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import dense as kernels
from fastsoftmax._kernels.tiles import padded_zeros
from fastsoftmax._linalg import shifted_cholesky
from fastsoftmax._threads import sweep


def rotate(
    design: DenseDesign, centre: Float64Array
) -> tuple[DenseDesign, Callable[[Float64Array], Float64Array]]:
    """Return a design of as many features as samples with the same products of rows.

    Its X is L, in float64, with ``L Lᵀ = U Uᵀ``, ``U = X - centre``; a row of weight 0 counts as
    0. The callable turns coefficients (n_rows, n_samples) for L into those for U that give the
    same logits and have the same norm. U is X itself where that will do.

    Raises
    ------
    ValueError
        If a product overflows.
    """
    any_zero = design.weights.size > 0 and not design.weights.all()
    U = np.array(design.X, np.float64, copy=True if centre.any() or any_zero else None)
    if centre.any():
        U -= centre
    if any_zero:
        U[design.weights == 0] = 0.0
    U = kernel_view(U)
    n = design.n_samples
    products = np.empty((n, n))
    for first in range(0, n, 64):
        some = slice(first, min(first + 64, n))
        no_intercept = np.zeros(some.stop - first)
        # The factor reads the lower triangle only.
        products[first:, some] = predict(U[first:], U[some], no_intercept, Response.LOGITS)
    diagonal = np.maximum(np.diag(products), np.finfo(np.float64).tiny)
    factor = shifted_cholesky(products, diagonal, 1e-13)  # rows may depend on one another
    L = factor.lower()
    square = copy.copy(design)
    square.X = kernel_view(L)
    square.dtype = L.dtype
    square.n_features = n
    for name in ("soft", "weights", "offset"):
        setattr(square, name, kernel_view(getattr(design, name).astype(np.float64, copy=False)))

    def back(coef: Float64Array) -> Float64Array:
        # W = V L⁻¹ X, and V L⁻¹ = (V Lᵀ) (L Lᵀ)⁻¹.
        return _combine(factor.solve(np.einsum("kj,ij->ki", coef, L)), U)

    return square, back


def _combine(combinations: Float64Array, U: Array) -> Float64Array:
    """Return combinations (n_rows, n_samples) of the rows of U, both float64."""
    n_rows, (n_samples, n_features) = len(combinations), U.shape
    partition = Partition(n_samples, n_features, n_rows, U.itemsize, want_gradient=True)
    n_lanes = partition.n_lanes
    n_blocks = -(-n_samples // n_lanes)
    residual = np.zeros((n_rows, n_blocks * n_lanes))
    residual[:, :n_samples] = combinations
    by_block = residual.reshape(n_rows, n_blocks, n_lanes).swapaxes(0, 1).copy()
    sums = padded_zeros((n_rows, n_features + 1), np.dtype(np.float64))
    sweep(
        *(kernels.products, math.prod(partition.grid), 2.0 * U.size * n_rows),
        *(U, by_block, np.array(partition.grid), sums),
    )
    return sums[:, :n_features]
