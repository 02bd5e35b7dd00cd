"""Sums over the rows of a sparse X: loss, gradient, Hessian-vector product, curvatures.

A CSR matrix is ``data``, ``indices`` (int32), ``indptr`` (int64), without duplicates. Coefficients
stand feature-major, ``table[j, k]``: each non-zero x of a row adds ``x * table[j]``, a run of K
numbers, to the row's logits (`gather`). The softmax is that of `fastsoftmax._kernels.lanes`, on
blocks of rows. Backward there are two ways:

- Where gradients are small, each chunk of rows has one of its own, to which it adds ``x * R[i]``
  for each of its non-zeros (`scatter`), while these are in the cache.
- Else residuals are stored, and the second sweep is over columns. It is `gather` once more: column
  j of X, out of a CSC companion, adds up rows of R. Nothing is added to twice, so there is neither
  a race nor a gradient per thread.

The same holds for the Hessian-vector product ``Tᵀ X`` and for curvatures. What takes the place of
R is called *terms*, ``terms[i, k]``.

Conventions, besides those of `fastsoftmax._kernels.dense`:

- Tables and terms are padded to vectors (`padded_width`) and aligned; their padding is 0. The last
  row of a table is the intercept.
- ``factors`` are what terms are multiplied by: ``data``, or their squares.
- A unit of work is a run of rows, or columns, from ``bounds[u]`` to ``bounds[u + 1]``.
- ``totals`` (n_units, n_rows), float64, are the sums of the terms: the intercept's part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsoftmax._jit import Array, block_kernel, compiled_as, driver
from fastsoftmax._kernels.lanes import (
    OWN,
    SCALE,
    add_offset,
    any_weight,
    cross_entropy,
    logistic,
    probabilities,
    scale_lanes,
    silence,
    soft_cross_entropy,
    transpose,
    weights_of,
)
from fastsoftmax._kernels.vectors import (
    INT64,
    Accumulators,
    Builder,
    Value,
    Vectors,
    cases,
    integer,
    plain_loop,
)

#: A vector here, whatever the CPU has: wider ones would be no faster, as memory is the bound, and
#: pad 54 classes of float32 to 64.
_VECTOR_BYTES = 32
#: Vectors of sums that stay in registers.
_MOST_VECTORS = 8
#: Non-zeros ahead of the present one whose rows of the table are asked for.
_AHEAD = 12
#: Terms of float32 that add up before their sum goes on in float64.
_PIECE = 256

#: Kinds of terms.
RESIDUAL, CURVED, VARIANCE = range(3)


def padded_width(n_rows: int, itemsize: int) -> int:
    """Return the width of a table of `n_rows` classes; one logit row is not padded."""
    lanes = _VECTOR_BYTES // itemsize
    return 1 if n_rows == 1 else -(-n_rows // lanes) * lanes


# --- Non-zeros times rows of a table --------------------------------------------------------------


def gather(
    data: Array, indices: Array, start: int, stop: int, table: Array, column: int, n_vectors: int,
    out: Array, row: int,
) -> None:  # fmt: skip
    """Write ``sum_p data[p] * table[indices[p]]`` to ``out[row]``: vectors from `column` on."""
    columns = slice(column, column + n_vectors * (_VECTOR_BYTES // table.itemsize))
    out[row, columns] = data[start:stop] @ table[indices[start:stop], columns]


@intrinsic
def _gather(
    typingctx: Any, data: Any, indices: Any, start: Any, stop: Any, table: Any, column: Any,
    n_vectors: Any, out: Any, row: Any,
) -> Any:  # fmt: skip
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Value:
        x, index, t, o = (
            context.make_array(signature.args[p])(context, builder, args[p]) for p in (0, 1, 4, 7)
        )
        _, _, start, stop, _, column, n_vectors, _, row = args
        v = Vectors(context, builder, data.dtype, _VECTOR_BYTES)
        row_bytes = cgutils.unpack_tuple(builder, t.strides)[0]
        first_row = v.address(t, integer(0), column)
        numbers = builder.ptrtoint(x.data, INT64)
        last = builder.sub(cgutils.unpack_tuple(builder, index.shape)[0], integer(1))

        def row_at(p: Value) -> Value:
            j = builder.sext(builder.load(builder.gep(index.data, [p])), INT64)
            return builder.add(first_row, builder.mul(j, row_bytes))

        def build(size: int) -> None:
            sums = Accumulators(v, [[v.zero] * size])
            with plain_loop(builder, start, stop, integer(1)) as p:
                ahead = builder.add(p, integer(_AHEAD))
                inside = builder.icmp_signed("<", ahead, last)
                later = row_at(builder.select(inside, ahead, last))
                for line in range(0, size * _VECTOR_BYTES, 64):
                    v.prefetch(builder.add(later, integer(line)))
                factor = v.broadcast(v.shift(numbers, p))
                source = row_at(p)
                for s in range(size):
                    place = builder.add(source, integer(s * _VECTOR_BYTES))
                    sums.add_product(0, s, factor, v.load(place))
            target = v.address(o, row, column)
            for s, total in enumerate(sums.row(0)):
                v.store(total, builder.add(target, integer(s * _VECTOR_BYTES)))

        cases(builder, n_vectors, range(1, _MOST_VECTORS + 1), build)
        return context.get_dummy_value()

    signature = types.void(data, indices, start, stop, table, column, n_vectors, out, row)
    return signature, codegen


@compiled_as(gather)
def _overload_gather(
    data: Any, indices: Any, start: Any, stop: Any, table: Any, column: Any, n_vectors: Any,
    out: Any, row: Any,
) -> Any:  # fmt: skip
    return lambda data, indices, start, stop, table, column, n_vectors, out, row: _gather(
        data, indices, start, stop, table, column, n_vectors, out, row
    )


@block_kernel
def times_table(
    data: Array, indices: Array, start: int, stop: int, table: Array, out: Array, row: int
) -> None:
    """Write ``sum_p data[p] * table[indices[p]]`` for ``start <= p < stop`` to ``out[row]``."""
    width = table.shape[1]
    if width == 1:
        total = data.dtype.type(0)
        for p in range(start, stop):
            total += data[p] * table[indices[p], 0]
        out[row, 0] = total
        return
    lanes = _VECTOR_BYTES // table.itemsize
    for column in range(0, width, _MOST_VECTORS * lanes):
        n_vectors = min(width - column, _MOST_VECTORS * lanes) // lanes
        gather(data, indices, start, stop, table, column, n_vectors, out, row)


def scatter(
    data: Array, indices: Array, start: int, stop: int, terms: Array, row: int, column: int,
    n_vectors: int, sums: Array,
) -> None:  # fmt: skip
    """Add ``data[p] * terms[row]`` to ``sums[indices[p]]``, some vectors of the dtype of sums."""
    columns = slice(column, column + n_vectors * (_VECTOR_BYTES // sums.itemsize))
    for p in range(start, stop):
        sums[indices[p], columns] += sums.dtype.type(data[p]) * terms[row, columns]


@intrinsic
def _scatter(
    typingctx: Any, data: Any, indices: Any, start: Any, stop: Any, terms: Any, row: Any,
    column: Any, n_vectors: Any, sums: Any,
) -> Any:  # fmt: skip
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Value:
        x, index, t, s = (
            context.make_array(signature.args[p])(context, builder, args[p]) for p in (0, 1, 4, 8)
        )
        _, _, start, stop, _, row, column, n_vectors, _ = args
        v = Vectors(context, builder, sums.dtype, _VECTOR_BYTES)
        row_bytes = cgutils.unpack_tuple(builder, s.strides)[0]
        first_row = v.address(s, integer(0), column)
        source = v.address(t, row, column)

        def build(size: int) -> None:
            places = [integer(b * _VECTOR_BYTES) for b in range(size)]
            values = [v.load(builder.add(source, place)) for place in places]
            with plain_loop(builder, start, stop, integer(1)) as p:
                j = builder.sext(builder.load(builder.gep(index.data, [p])), INT64)
                number = builder.load(builder.gep(x.data, [p]))
                factor = v.splat_widened(number)
                target = builder.add(first_row, builder.mul(j, row_bytes))
                for place, value in zip(places, values, strict=True):
                    address = builder.add(target, place)
                    v.store(v.multiply_add(factor, value, v.load(address)), address)

        cases(builder, n_vectors, range(1, _MOST_VECTORS + 1), build)
        return context.get_dummy_value()

    signature = types.void(data, indices, start, stop, terms, row, column, n_vectors, sums)
    return signature, codegen


@compiled_as(scatter)
def _overload_scatter(
    data: Any, indices: Any, start: Any, stop: Any, terms: Any, row: Any, column: Any,
    n_vectors: Any, sums: Any,
) -> Any:  # fmt: skip
    return lambda data, indices, start, stop, terms, row, column, n_vectors, sums: _scatter(
        data, indices, start, stop, terms, row, column, n_vectors, sums
    )


@block_kernel
def add_products(
    data: Array, indices: Array, start: int, stop: int, terms: Array, row: int, sums: Array
) -> None:
    """Add ``data[p] * terms[row]`` to ``sums[indices[p]]`` for ``start <= p < stop``."""
    width = terms.shape[1]
    if width == 1:
        for p in range(start, stop):
            sums[indices[p], 0] += data[p] * terms[row, 0]
        return
    lanes = _VECTOR_BYTES // sums.itemsize
    for column in range(0, width, _MOST_VECTORS * lanes):
        n_vectors = min(width - column, _MOST_VECTORS * lanes) // lanes
        scatter(data, indices, start, stop, terms, row, column, n_vectors, sums)


# --- Blocks of rows -------------------------------------------------------------------------------


@block_kernel
def _logits(
    data: Array, indices: Array, indptr: Array, first: int, n: int, table: Array, rows: Array,
    logits: Array,
) -> None:  # fmt: skip
    """Write ``logits[k, i] = X[first + i] · table[:, k]``, the last row being the intercept."""
    last = table.shape[0] - 1
    for i in range(n):
        times_table(data, indices, indptr[first + i], indptr[first + i + 1], table, rows, i)
    for k in range(logits.shape[0]):
        row, b = logits[k], table[last, k]
        for i in range(n):
            row[i] = rows[i, k] + b


@block_kernel
def _slopes(P: Array, U: Array, n: int, mean: Array) -> None:
    """Overwrite U by ``P ∘ (U - rowsum(P ∘ U))``; for one logit row by ``p q U``."""
    zero = P.dtype.type(0)
    for i in range(n):
        mean[i] = zero
    for k in range(P.shape[0]):
        p, u = P[k], U[k]
        for i in range(n):
            mean[i] += p[i] * u[i]
    for k in range(P.shape[0]):
        p, u = P[k], U[k]
        for i in range(n):
            u[i] = p[i] * (u[i] - mean[i])


@block_kernel
def _variances(P: Array, n: int) -> None:
    """Overwrite P by ``P ∘ (1 - P)``."""
    one = P.dtype.type(1)
    for k in range(P.shape[0]):
        p = P[k]
        for i in range(n):
            p[i] *= one - p[i]


@block_kernel
def _clear(values: Array, n: int) -> None:
    zero = values.dtype.type(0)
    for k in range(values.shape[0]):
        for i in range(n):
            values[k, i] = zero


@block_kernel
def _hand_on(
    factors: Array, indices: Array, indptr: Array, first: int, n: int, values: Array, c: int,
    wide: Array, totals: Array, terms: Array, sums: Array,
) -> None:  # fmt: skip
    """Store a block's terms, or add their products with `factors` to a chunk's sums.

    Neither if both arrays are empty.
    """
    if terms.shape[0] > 0:
        transpose(values, n, terms[first : first + n])
    elif sums.shape[0] > 0:
        transpose(values, n, wide[c])
        for i in range(n):
            start, stop = indptr[first + i], indptr[first + i + 1]
            add_products(factors, indices, start, stop, wide[c], i, sums[c])
    for k in range(values.shape[0]):
        row, total = values[k], 0.0
        for i in range(n):
            total += float(row[i])
        totals[c, k] += total


@block_kernel
def _chunk(
    c: int, kind: int, data: Array, factors: Array, indices: Array, indptr: Array, bounds: Array,
    table: Array, direction: Array, known: Array, labels: Array, soft: Array, weights: Array,
    offset: Array, rows: Array, logits: Array, slopes: Array, lanes: Array, wide: Array,
    totals: Array, terms: Array, sums: Array,
) -> float:  # fmt: skip
    n_lanes, Z = logits.shape[2], logits[c]
    loss = 0.0
    for first in range(bounds[c], bounds[c + 1], n_lanes):
        n = min(n_lanes, bounds[c + 1] - first)
        y, shares, w = (
            labels[first : first + n],
            soft[first : first + n],
            weights[first : first + n],
        )
        values = slopes[c] if kind == CURVED else Z
        if not any_weight(w, n):
            if terms.shape[0] == 0:
                continue
            _clear(values, n)
        elif kind == CURVED and known.shape[0] > 0:
            skipped = known.shape[1] - Z.shape[0]  # one logit row stands for the second class
            for i in range(n):
                for k in range(Z.shape[0]):
                    Z[k, i] = known[first + i, k + skipped]
        else:
            _logits(data, indices, indptr, first, n, table, rows[c], Z)
            add_offset(offset[first : first + n], n, Z)
            silence(w, n, Z)
            if kind != RESIDUAL:
                probabilities(Z, n, lanes[c])
            elif Z.shape[0] == 1:
                loss += logistic(Z, n, y, shares, w, lanes[c])
            elif y.shape[0] > 0:
                loss += cross_entropy(Z, n, y, w, lanes[c])
            else:
                loss += soft_cross_entropy(Z, n, shares, w, lanes[c])
        if kind != RESIDUAL and any_weight(w, n):
            if kind == CURVED:
                _logits(data, indices, indptr, first, n, direction, rows[c], values)
                silence(w, n, values)
                _slopes(Z, values, n, lanes[c, OWN])
            else:
                _variances(values, n)
            weights_of(w, n, lanes[c, SCALE])
            scale_lanes(values, n, lanes[c, SCALE])
        _hand_on(factors, indices, indptr, first, n, values, c, wide, totals, terms, sums)
    return loss


@driver
def terms_of_rows(
    first, last, kind, data, factors, indices, indptr, bounds, table, direction, known, labels,
    soft, weights, offset, rows, logits, slopes, lanes, wide, losses, totals, terms, sums,
):  # fmt: skip
    """Compute terms, store them or add up their products with X.

    ``RESIDUAL``: ``w (P - Y)``, and ``losses[c] = sum_i w_i loss_i``. ``CURVED``: with ``U = X V +
    v_b``, V and v_b being `direction`, ``w P ∘ (U - rowsum(P ∘ U))``; P is `known` (n, n_classes)
    unless that is empty. ``VARIANCE``: ``w P ∘ (1 - P)``.
    """
    for c in range(first, last):
        losses[c] = _chunk(
            c, kind, data, factors, indices, indptr, bounds, table, direction, known, labels, soft,
            weights, offset, rows, logits, slopes, lanes, wide, totals, terms, sums,
        )  # fmt: skip


# --- Columns --------------------------------------------------------------------------------------


@driver
def products(
    first, last, data, indices, indptr, bounds, terms, part, total, scale, l2, table, n_rows,
    penalties, out,
):  # fmt: skip
    """Write ``out[j] = scale * sum_i x_ij terms[i] + l2[j] * w_j`` from columns of X.

    ``w_j`` is ``table[j]`` less its mean over `n_rows` classes, which the loss does not see;
    ``penalties[u]`` gets ``sum_j l2[j] ||w_j||² / 2``. No penalty if `l2` is empty.
    """
    for u in range(first, last):
        penalties[u] = _products(
            u, data, indices, indptr, bounds, terms, part, total[u], scale, l2, table, n_rows, out
        )


@block_kernel
def _products(
    u: int, data: Array, indices: Array, indptr: Array, bounds: Array, terms: Array, part: Array,
    total: Array, scale: float, l2: Array, table: Array, n_rows: int, out: Array,
) -> float:  # fmt: skip
    width = terms.shape[1]
    penalty = 0.0
    for j in range(bounds[u], bounds[u + 1]):
        first, last = indptr[j], indptr[j + 1]
        times_table(data, indices, first, min(first + _PIECE, last), terms, part, u)
        if last - first <= _PIECE:  # nearly all columns
            _scaled(part[u], scale, out[j])
        else:
            for k in range(width):
                total[k] = part[u, k]
            for start in range(first + _PIECE, last, _PIECE):
                times_table(data, indices, start, min(start + _PIECE, last), terms, part, u)
                for k in range(width):
                    total[k] += part[u, k]
            _scaled(total, scale, out[j])
        if l2.shape[0] > 0:
            penalty += l2[j] * _penalised(table[j], l2[j], n_rows, out[j])
    return penalty


@block_kernel
def _scaled(sums: Array, scale: float, out: Array) -> None:
    for k in range(out.shape[0]):
        out[k] = scale * sums[k]


@block_kernel
def _penalised(coefs: Array, strength: float, n_rows: int, out: Array) -> float:
    """Add ``strength * w`` to `out`, w being `coefs` less their mean; return ``||w||² / 2``."""
    zero = coefs.dtype.type(0)
    mean = zero
    if n_rows > 1:
        for k in range(coefs.shape[0]):  # the padding is 0
            mean += coefs[k]
        mean /= coefs.dtype.type(n_rows)
    square = 0.0
    for k in range(coefs.shape[0]):
        w = coefs[k] - mean if k < n_rows else zero
        out[k] += strength * w
        square += float(w) * float(w)
    return 0.5 * square


# --- Predictions ----------------------------------------------------------------------------------


@driver
def logits_of_rows(first, last, data, indices, indptr, bounds, table, rows, logits):
    """Write logits (n, n_rows) of all rows."""
    for c in range(first, last):
        _logits_chunk(c, data, indices, indptr, bounds, table, rows, logits)


@block_kernel
def _logits_chunk(
    c: int, data: Array, indices: Array, indptr: Array, bounds: Array, table: Array, rows: Array,
    logits: Array,
) -> None:  # fmt: skip
    bias = table[table.shape[0] - 1]
    for i in range(bounds[c], bounds[c + 1]):
        times_table(data, indices, indptr[i], indptr[i + 1], table, rows, c)
        row = logits[i]
        for k in range(row.shape[0]):
            row[k] = rows[c, k] + bias[k]


def aligned_zeros(shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    """Return zeros that start on a cache line, for a table or terms."""
    size = shape[0] * shape[1] * dtype.itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
