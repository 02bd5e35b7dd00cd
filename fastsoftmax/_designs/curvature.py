"""Second-order sums from blocks of dense rows.

Blocks are converted to float64 whatever the dtype of X: a Hessian of squared condition number
needs the digits, and one compilation serves both dtypes. No BLAS: its threads would spin on the
cores that the next pass over X needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fastsoftmax._designs.base import Array, Float64Array
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import gram as kernels
from fastsoftmax._threads import sweep

#: Entries of a block of rows: 4 MB of float64.
_BLOCK_ENTRIES = 2**19
_N_LANES = 64
#: Independent accumulations a block is cut into, at the least, so that threads have work.
_LEAST_UNITS = 16


class Block(NamedTuple):
    """Some rows, in float64: X, one probability per logit row, class-major, and weights."""

    X: Float64Array
    probabilities: Float64Array
    weights: Float64Array


def row_slices(n_samples: int, n_features: int, step: int = 1) -> list[slice]:
    """Return slices that cover every `step`-th row."""
    block = max(256, _BLOCK_ENTRIES // (n_features + 1)) * step
    return [slice(i, min(i + block, n_samples), step) for i in range(0, n_samples, block)]


def block(X: Array, probabilities: Array, weights: Array | None, n_rows: int) -> Block:
    """Return a block from rows of X, their probabilities (n, n_classes) and scaled weights."""
    P = np.ascontiguousarray(probabilities[:, -n_rows:].T, dtype=np.float64)
    w = np.ones(len(X)) if weights is None else weights.astype(np.float64)
    return Block(np.ascontiguousarray(X, dtype=np.float64), P, w)


def hessian(blocks: Iterable[Block], n_rows: int, n_features: int) -> Float64Array:
    """Return ``H_ab = sum_i w_i p_ia (1[a = b] - p_ib) x_i x_iᵀ`` for the free rows a and b.

    Shape (n_free D, n_free D) with ``D = n_features + 1``, where ``n_free`` is 1 for one logit
    row and else ``n_rows - 1``. Only the pairs ``a >= b`` are summed.
    """
    n_free, D = max(1, n_rows - 1), n_features + 1
    a, b = np.tril_indices(n_free)
    pairs = np.zeros((len(a), D, D))
    for X, P, w in blocks:
        pairs += _weighted_grams(X, w * P[a] * ((a == b)[:, None] - P[b]))
    full = np.empty((n_free, D, n_free, D))
    full[b, :, a, :] = pairs  # each pair's matrix is symmetric
    full[a, :, b, :] = pairs
    return full.reshape(n_free * D, n_free * D)


def class_grams(blocks: Iterable[Block], n_rows: int, n_features: int) -> Float64Array:
    """Return ``sum_i w_i p_ik (1 - p_ik) x_i x_iᵀ``, shape (n_rows, D, D)."""
    total = np.zeros((n_rows, n_features + 1, n_features + 1))
    for X, P, w in blocks:
        total += _weighted_grams(X, w * P * (1.0 - P))
    return total


def class_diagonals(blocks: Iterable[Block], n_rows: int, n_features: int) -> Float64Array:
    """Return the diagonals of `class_grams`, shape (n_rows, D)."""
    total = np.zeros((n_rows, n_features + 1))
    for X, P, w in blocks:
        curvatures = w * P * (1.0 - P)
        total[:, :-1] += np.einsum("ki,ij->kj", curvatures, np.square(X))
        total[:, -1] += curvatures.sum(axis=1)
    return total


def _weighted_grams(X: Float64Array, curvatures: Float64Array) -> Float64Array:
    """Return ``[X, 1]ᵀ diag(curvature) [X, 1]`` for each row of `curvatures` (m, n)."""
    (n_samples, n_features), m = X.shape, len(curvatures)
    D = n_features + 1
    n_chunks = min(-(-_LEAST_UNITS // m), -(-n_samples // _N_LANES))
    grams = np.zeros((m * n_chunks, D, D))
    sweep(
        kernels.weighted_grams_parallel,
        kernels.weighted_grams_serial,
        m * n_chunks,
        2.0 * m * n_samples * D * D,
        kernel_view(X),
        kernel_view(curvatures),
        n_chunks,
        np.empty((m * n_chunks, D, _N_LANES)),
        grams,
    )
    return grams.reshape(m, n_chunks, D, D).sum(axis=1)
