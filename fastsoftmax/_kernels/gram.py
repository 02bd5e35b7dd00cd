"""Weighted Gram matrices, the building blocks of Hessians."""

from __future__ import annotations

import numpy as np

from fastsoftmax._jit import Array, block_kernel, driver
from fastsoftmax._kernels.tiles import STRIP_BYTES, backward_part
from fastsoftmax._kernels.vectors import prefetch


@block_kernel
def _gram_unit(
    u: int,
    X: Array,
    centre: Array,
    curvatures: Array,
    n_chunks: int,
    plain: Array,
    scaled: Array,
    grams: Array,
) -> None:
    """Add the lower half of ``[U, 1]ᵀ diag(curvature) [U, 1]`` over some rows to ``grams[u]``.

    ``U = X - centre``.

    Unit `u` stands for the curvature ``u // n_chunks`` and the chunk ``u % n_chunks`` of rows. A
    block of them is copied, in float64, as it is and scaled; the scaled rows take the place of a
    residual in `backward`, one strip of columns after the other, from the diagonal down. Rows of
    ``grams[u]`` are padded like `params`; what lies above the diagonal is not defined.
    """
    n_samples, n_features = X.shape
    n_block, size = plain.shape[1], n_features + 1
    curvature, rows, scaled_rows = curvatures[u // n_chunks], plain[u], scaled[u]
    chunk_rows = (n_samples + n_chunks - 1) // n_chunks
    start = (u % n_chunks) * chunk_rows
    stop = min(start + chunk_rows, n_samples)
    # Narrow strips waste less above the diagonal: a tenth of all at 50 features, a sixth at 20.
    strip = STRIP_BYTES // plain.itemsize // (2 if n_features <= 128 else 1)
    line = 64 // X.itemsize
    for first in range(start, stop, n_block):
        n = min(n_block, stop - first)
        for i in range(n):
            c = curvature[first + i]
            x, row, scaled_row = X[first + i], rows[i], scaled_rows[i]
            for j in range(0, n_features, line):
                prefetch(X, first + n_block + i, j)
            for j in range(n_features):
                row[j] = x[j] - centre[j]
            row[n_features] = 1
            for j in range(size):
                scaled_row[j] = c * row[j]
        for j in range(0, size, strip):
            columns = (j, min(j + strip, size))
            backward_part(rows, 0, n, scaled_rows.T, (j, size), columns, grams[u])


@driver
def weighted_grams(first, last, X, centre, curvatures, n_chunks, plain, scaled, grams):
    for u in range(first, last):
        _gram_unit(u, X, centre, curvatures, n_chunks, plain, scaled, grams)


@block_kernel
def _squares_chunk(
    c: int, X: Array, centre: Array, curvatures: Array, n_chunks: int, squares: Array, out: Array
) -> None:
    """Add the diagonals of ``[U, 1]ᵀ diag(curvature) [U, 1]`` over chunk `c` to ``out[c]``, (m, D).

    They are the products of the curvatures with the squares of a block of rows, which are written
    to ``squares[c]``. Rows of ``out[c]`` are padded like `params`.
    """
    n_samples, n_features = X.shape
    rows, n_block, size = squares[c], squares.shape[1], n_features + 1
    chunk_rows = (n_samples + n_chunks - 1) // n_chunks
    start = c * chunk_rows
    stop = min(start + chunk_rows, n_samples)
    for first in range(start, stop, n_block):
        n = min(n_block, stop - first)
        for i in range(n):
            x, square = X[first + i], rows[i]
            for j in range(n_features):
                u = np.float64(x[j] - centre[j])
                square[j] = u * u
            square[n_features] = 1.0
        every = (0, curvatures.shape[0])
        backward_part(rows, 0, n, curvatures[:, first : first + n], every, (0, size), out[c])


@driver
def weighted_squares(first, last, X, centre, curvatures, n_chunks, squares, out):
    for c in range(first, last):
        _squares_chunk(c, X, centre, curvatures, n_chunks, squares, out)


# --- All pairs of classes at once, for rows that mostly equal the centre --------------------------


@block_kernel
def _add_pairs(index: Array, value: Array, n: int, curvature: Array, target: Array) -> None:
    """Add the products of all pairs of n values, in any order."""
    for p in range(n):
        for q in range(p + 1):
            product = value[p] * value[q]
            high, low = max(index[p], index[q]), min(index[p], index[q])
            sums = target[high * (high + 1) // 2 + low]
            for k in range(curvature.shape[0]):
                sums[k] += product * curvature[k]


@block_kernel
def _sparse_gram_chunk(
    c: int,
    X: Array,
    centre: Array,
    curvatures: Array,
    n_chunks: int,
    columns: Array,
    values: Array,
    grams: Array,
) -> None:
    """Add ``[u, 1] [u, 1]ᵀ curvature`` of the rows of chunk `c` to ``grams[c]``, skipping zeros.

    ``u = x - centre``.

    ``grams[c]`` is (D (D + 1) / 2, m): the lower triangle by rows, all m curvatures of a row of
    X side by side, so that the innermost loop is vector code whatever the pattern of zeros.
    """
    n_samples, n_features = X.shape
    index, value, target = columns[c], values[c], grams[c]
    chunk_rows = (n_samples + n_chunks - 1) // n_chunks
    start = c * chunk_rows
    for i in range(start, min(start + chunk_rows, n_samples)):
        x, curvature = X[i], curvatures[i]
        n = 0
        for j in range(n_features):
            if x[j] != centre[j]:
                index[n], value[n] = j, x[j] - centre[j]
                n += 1
        index[n], value[n] = n_features, 1.0
        _add_pairs(index, value, n + 1, curvature, target)


@driver
def sparse_grams(first, last, X, centre, curvatures, n_chunks, columns, values, grams):
    for c in range(first, last):
        _sparse_gram_chunk(c, X, centre, curvatures, n_chunks, columns, values, grams)


@block_kernel
def _csr_gram_chunk(
    c: int,
    data: Array,
    indices: Array,
    indptr: Array,
    curvatures: Array,
    n_features: int,
    n_chunks: int,
    columns: Array,
    values: Array,
    grams: Array,
) -> None:
    """Do as `_sparse_gram_chunk` for rows of a CSR matrix around 0."""
    n_samples = indptr.shape[0] - 1
    index, value = columns[c], values[c]
    chunk_rows = (n_samples + n_chunks - 1) // n_chunks
    start = c * chunk_rows
    for i in range(start, min(start + chunk_rows, n_samples)):
        first, n = indptr[i], indptr[i + 1] - indptr[i]
        for p in range(n):
            index[p], value[p] = indices[first + p], data[first + p]
        index[n], value[n] = n_features, 1.0
        _add_pairs(index, value, n + 1, curvatures[i], grams[c])


@driver
def csr_grams(
    first, last, data, indices, indptr, curvatures, n_features, n_chunks, columns, values, grams
):
    for c in range(first, last):
        _csr_gram_chunk(
            c, data, indices, indptr, curvatures, n_features, n_chunks, columns, values, grams
        )
