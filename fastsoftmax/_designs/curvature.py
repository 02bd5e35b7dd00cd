"""Second-order sums from blocks of rows, dense or sparse.

Sums are float64 whatever the dtype of X: a Hessian of squared condition number needs the digits.
No BLAS: its threads would spin on the cores that the next pass over X needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs.base import Array, Float64Array
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import gram as kernels
from fastsoftmax._kernels.tiles import padded_zeros
from fastsoftmax._threads import sweep

#: Entries that are made for a block of rows: 4 MB of float64.
BLOCK_ENTRIES = 2**19
#: Rows between two sweeps over a Gram matrix.
BLOCK_ROWS = 64
#: Independent accumulations a block is cut into, so that threads have work, ...
_LEAST_UNITS = 16
#: ... as long as they have at most so many entries, 256 MB.
_GRAM_ENTRIES = 2**25
#: Accumulators of the sparse sums, each as large as half a Hessian.
_SPARSE_CHUNKS = 4
#: Entries that fit into a second-level cache.
_SMALL_ENTRIES = 2**17


class Block(NamedTuple):
    """Some rows, the centre to subtract from them, and what weighs them.

    Their numbers; X and the centre in the dtype of X; a probability per logit row, class-major,
    and weights in float64.
    """

    numbers: NDArray[np.intp]
    X: Array
    centre: Array
    probabilities: Float64Array
    weights: Float64Array


class Compressed(NamedTuple):
    """Rows, or columns, of a sparse matrix as kernels take them: int32 indices, int64 pointers."""

    data: Array
    indices: NDArray[np.int32]
    indptr: NDArray[np.int64]


class SparseBlock(NamedTuple):
    """As `Block`, with rows of a CSR matrix."""

    numbers: NDArray[np.intp]
    X: Compressed
    probabilities: Float64Array
    weights: Float64Array


def row_slices(n_samples: int, n_entries: int, step: int = 1) -> list[slice]:
    """Return slices that cover every `step`-th row, in blocks of a few MB.

    `n_entries` are those that are made for each row: pairs of logit rows, and a copy of X if any.
    """
    block = max(64, BLOCK_ENTRIES // n_entries) * step
    return [slice(i, min(i + block, n_samples), step) for i in range(0, n_samples, block)]


def density(rows: Array, centre: Array) -> float:
    """Return the share of entries of some rows that differ from the centre."""
    return float(np.count_nonzero(rows != centre)) / max(1, rows.size)


def block(
    numbers: NDArray[np.intp],
    X: Array,
    centre: Array,
    probabilities: Array,
    weights: Array | None,
) -> Block:
    """Return a block from rows of X, their probabilities (n_rows, n) and scaled weights."""
    w = np.ones(len(X)) if weights is None else weights.astype(np.float64)
    P = np.ascontiguousarray(probabilities, dtype=np.float64)
    return Block(numbers, X, centre, P, w)


def hessian(blocks: Iterable[Block], n_rows: int, n_features: int, density: float) -> Float64Array:
    """Return ``H_ab = sum_i w_i p_ia (1[a = b] - p_ib) u_i u_iᵀ`` for the free rows a and b.

    Shape (n_free D, n_free D) with ``D = n_features + 1``, where ``n_free`` is 1 for one logit
    row and else ``n_rows - 1``; ``u = [x - centre, 1]``. Only the pairs ``a >= b`` are summed.
    `density` is the share of entries of X that differ from the centre.
    """
    n_free, D = max(1, n_rows - 1), n_features + 1
    a, b = np.tril_indices(n_free)
    sums = sums_of(D, len(a), density)
    for _, X, centre, P, w in blocks:
        sums.add(X, centre, _pair_curvatures(P, w, a, b))
    return _assembled(sums.matrices(), n_free, D)


def _pair_curvatures(
    P: Float64Array, weights: Float64Array, a: NDArray[np.intp], b: NDArray[np.intp]
) -> Float64Array:
    """Return ``w p_a (1[a = b] - p_b)`` per pair ``a >= b`` of logit rows and row of X.

    Of three or more classes, 1 - p is the sum of the others: where one is all but certain the
    difference is rounding, beside which the other entries make the Hessian indefinite.
    """
    weighted = weights * P[a]
    curvatures: Float64Array = -weighted * P[b]
    others = 1.0 - P
    if len(P) > 1:
        others, top = P.sum(axis=0) - P, P.argmax(axis=0)[None]
        rest = P.copy()
        np.put_along_axis(rest, top, 0.0, axis=0)
        np.put_along_axis(others, top, rest.sum(axis=0)[None], axis=0)
    is_same = a == b
    curvatures[is_same] = weighted[is_same] * others[a[is_same]]
    return curvatures


def _assembled(pairs: Float64Array, n_free: int, D: int) -> Float64Array:
    """Return a Hessian from the matrices of its pairs of rows ``a >= b``, (n_pairs, D, D)."""
    a, b = np.tril_indices(n_free)
    full = np.empty((n_free, D, n_free, D))
    full[b, :, a, :] = pairs  # each pair's matrix is symmetric
    full[a, :, b, :] = pairs
    return full.reshape(n_free * D, n_free * D)


def hessian_passes(n_rows: int, n_features: int, density: float) -> float:
    """Return the cost of `hessian` in passes over a dense X."""
    n_free = max(1, n_rows - 1)
    one_pass = ONE_PASS * n_features * n_rows
    return min(costs(n_features + 1, n_free * (n_free + 1) // 2, density)) / one_pass


def costs(D: int, m: int, density: float) -> tuple[float, float]:
    """Return nanoseconds per row, two threads, of `_DenseSums` and of `PairSums`.

    Measured at D from 14 to 301 and m from 1 to 66, to a factor of 2: the dense products run at 30
    to 90 GFLOP/s, counted by the half that is summed; a product of two non-zeros costs 1.5 ns to
    find and 0.13 ns per curvature.
    """
    n_nonzero = density * (D - 1) + 1.0
    n_products = n_nonzero * (n_nonzero + 1.0) / 2.0
    curvatures = 3.0 * m  # forming them, in NumPy
    dense = m * D * (0.011 * D + 0.4)
    return curvatures + dense, curvatures + 3.0 * D + n_products * (1.5 + 0.13 * m)


#: Nanoseconds of a pass per row, feature and logit row, as in `costs`: 4 operations at 90 GFLOP/s.
ONE_PASS = 0.045


def class_gram_passes(
    n_samples: int, n_rows: int, n_features: int, density: float, most_rows: int, shared: bool
) -> float:
    """Return the cost of `class_grams`, and of factors of the results, in passes over X.

    Choosing the rows takes two forward sweeps and the diagonals, gathering them as long as their
    sums: all in all 20 passes for mnist, 11 for 54 classes of 384 features.
    """
    D = n_features + 1
    sums = min(n_samples, most_rows) * min(costs(D, 1, density))
    factors = D**3 / 3.0 / 35.0  # 35 GFLOP/s
    one_pass = ONE_PASS * n_samples * n_features * n_rows
    return 3.0 + (1 if shared else n_rows) * 2.0 * (sums + factors) / one_pass


def class_grams(
    blocks: Iterable[Block], n_rows: int, n_features: int, density: float, shared: bool
) -> Float64Array:
    """Return ``sum_i w_i p_ik (1 - p_ik) u_i u_iᵀ``, (n_rows, D, D), or their mean, (1, D, D)."""
    sums = sums_of(n_features + 1, 1 if shared else n_rows, density)
    for rows in blocks:
        sums.add(rows.X, rows.centre, curvatures_of(rows, shared))
    return sums.matrices()


def csr_hessian(blocks: Iterable[SparseBlock], n_rows: int, n_features: int) -> Float64Array:
    """Return what `hessian` does, from products of non-zeros."""
    n_free, D = max(1, n_rows - 1), n_features + 1
    a, b = np.tril_indices(n_free)
    sums = PairSums(D, len(a))
    for rows in blocks:
        sums.add_csr(rows.X, _pair_curvatures(rows.probabilities, rows.weights, a, b))
    return _assembled(sums.matrices(), n_free, D)


def csr_class_grams(
    blocks: Iterable[SparseBlock], n_rows: int, n_features: int, shared: bool
) -> Float64Array:
    """Return what `class_grams` does, from products of non-zeros."""
    sums = PairSums(n_features + 1, 1 if shared else n_rows)
    for rows in blocks:
        sums.add_csr(rows.X, curvatures_of(rows, shared))
    return sums.matrices()


def csr_cost(indptr: NDArray[np.int64], m: int) -> float:
    """Return nanoseconds of m sums of `PairSums` over CSR rows, two threads; see `costs`."""
    return 3.0 * m * (len(indptr) - 1) + n_pairs(indptr) * (1.5 + 0.13 * m)


def n_pairs(indptr: NDArray[np.int64]) -> float:
    """Return the pairs of entries in the same row, the intercept being one."""
    n = np.diff(indptr) + 1.0
    return float(np.sum(n * (n + 1.0))) / 2.0


def curvatures_of(rows: Block | SparseBlock, shared: bool) -> Float64Array:
    """Return ``w p (1 - p)`` per logit row and row of X, or its mean over the logit rows."""
    P = rows.probabilities
    curvatures: Float64Array = 1.0 - P
    if shared:
        return (np.einsum("ki,ki->i", P, curvatures) * rows.weights / len(P))[None]
    curvatures *= P
    curvatures *= rows.weights
    return curvatures


def class_diagonals(
    blocks: Iterable[Block], n_rows: int, n_features: int, shared: bool
) -> Float64Array:
    """Return the diagonals of `class_grams`, shape (n_rows, D), or (1, D) if `shared`."""
    n_rows = 1 if shared else n_rows
    D = n_features + 1
    float64 = np.dtype(np.float64)
    sums = padded_zeros((_LEAST_UNITS, n_rows, D), float64)
    squares = padded_zeros((_LEAST_UNITS, BLOCK_ROWS, D), float64)
    for rows in blocks:
        sweep(
            kernels.weighted_squares,
            _LEAST_UNITS,
            2.0 * rows.probabilities.size * D,
            kernel_view(rows.X),
            kernel_view(rows.centre),
            kernel_view(curvatures_of(rows, shared)),
            _LEAST_UNITS,
            squares,
            sums,
        )
    total: Float64Array = sums.sum(axis=0)[:, :D]
    return total


def sums_of(D: int, m: int, density: float) -> _DenseSums | PairSums:
    """Return empty sums of m curvatures, of the kind that costs less; see `costs`."""
    dense_cost, sparse_cost = costs(D, m, density)
    return PairSums(D, m) if sparse_cost < dense_cost else _DenseSums(D, m)


def mirrored(grams: Float64Array, D: int) -> Float64Array:
    """Fill the upper triangles of padded matrices in place, and return them without padding."""
    for gram in grams:
        lower = np.tril(gram[:, :D], -1)
        gram[:, :D] = np.tril(gram[:, :D])
        gram[:, :D] += lower.T
    return grams[:, :, :D]


class _DenseSums:
    """Sums of ``[U, 1]ᵀ diag(curvature) [U, 1]`` over blocks, one per curvature."""

    def __init__(self, D: int, m: int) -> None:
        # Several accumulators for each curvature give the threads work, unless they are large.
        affordable = max(1, _GRAM_ENTRIES // (m * D * D))
        self._n_chunks = min(-(-_LEAST_UNITS // m), affordable)
        self._grams = padded_zeros((m * self._n_chunks, D, D), np.dtype(np.float64))

    def add(self, X: Array, centre: Array, curvatures: Float64Array) -> None:
        """Add a block, with curvatures of shape (m, n)."""
        n_units, D, _ = self._grams.shape
        sweep(
            kernels.weighted_grams,
            n_units,
            1.0 * curvatures.size * D * D,
            kernel_view(X),
            kernel_view(centre),
            kernel_view(curvatures),
            self._n_chunks,
            *(padded_zeros((n_units, BLOCK_ROWS, D), np.dtype(np.float64)) for _ in range(2)),
            self._grams,
        )

    def matrices(self) -> Float64Array:
        """Return the sums, shape (m, D, D)."""
        D = self._grams.shape[1]
        sums = self._grams[:: self._n_chunks]
        with np.errstate(over="ignore", invalid="ignore"):  # a factor looks for it
            for chunk in range(1, self._n_chunks):
                sums += self._grams[chunk :: self._n_chunks]
        return mirrored(sums, D)


class PairSums:
    """The same where U is mostly zeros: only products of non-zeros are formed."""

    def __init__(self, D: int, m: int) -> None:
        self._D = D
        size = D * (D + 1) // 2 * m
        # Several where they are small: long sums of terms of one sign lose digits.
        most = _LEAST_UNITS if _LEAST_UNITS * size <= _SMALL_ENTRIES else _SPARSE_CHUNKS
        self._n_chunks = min(most, max(1, _GRAM_ENTRIES // size))
        self._grams = np.zeros((self._n_chunks, D * (D + 1) // 2, m))

    def add(self, X: Array, centre: Array, curvatures: Float64Array) -> None:
        """Add a block, with curvatures of shape (m, n)."""
        sweep(
            kernels.sparse_grams,
            self._n_chunks,
            2.0 * curvatures.size * X.shape[1],
            kernel_view(X),
            kernel_view(centre),
            kernel_view(curvatures.T),
            self._n_chunks,
            np.empty((self._n_chunks, self._D), np.int64),
            np.empty((self._n_chunks, self._D)),
            self._grams,
        )

    def add_csr(self, rows: Compressed, curvatures: Float64Array) -> None:
        """Add rows of a CSR matrix, around 0."""
        m = len(curvatures)
        sweep(
            *(kernels.csr_grams, self._n_chunks, m * n_pairs(rows.indptr)),
            *(*rows, kernel_view(curvatures.T), self._D - 1, self._n_chunks),
            np.empty((self._n_chunks, self._D), np.int64),
            np.empty((self._n_chunks, self._D)),
            self._grams,
        )

    def matrices(self) -> Float64Array:
        """Return the sums, shape (m, D, D), once: accumulators are twice as large, and go first."""
        with np.errstate(over="ignore", invalid="ignore"):  # a factor looks for it
            lower = self._grams.sum(axis=0).T
        del self._grams
        i, j = np.tril_indices(self._D)
        full = np.empty((len(lower), self._D, self._D))
        full[:, i, j] = lower
        full[:, j, i] = lower
        return full
