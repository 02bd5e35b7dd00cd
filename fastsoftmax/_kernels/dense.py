"""Sums over the rows of a dense X: loss, gradient, Hessian-vector product.

With logits ``Z = X Wᵀ + b`` and residual ``R = w (P - Y)``, one pass adds up

    loss = sum_i w_i loss_i,    G = [Rᵀ X, sum_i R_i]

reading X from memory once: a block of 8 to 64 rows is multiplied by W, turned into residuals and
multiplied by X again while it stays in the cache. No ``(n_samples, n_classes)`` array exists.

Where gradients are so large that one for each chunk is too much (`fastsoftmax._designs.dense`
decides), the residuals of some thousand rows are computed first, then multiplied by X: the first
sweep is parallel over rows, the second over parts of the gradient.

Conventions
-----------
- A *block* is `n_lanes` rows whose logits stand class-major, ``logits[k, lane]``, so that maximum,
  exponential, sum and division all run along the lanes as vector code. A *chunk* is a run of
  blocks with accumulators of its own; chunks are what drivers loop over. One call may do just a
  *part* of every chunk, so that no call lasts long and Python sees Ctrl-C in between: ``cut`` is
  ``(chunk_rows, part_start, part_rows)``, the rows of a chunk and those of them to do.
- ``params`` (n_rows, n_features + 1 or more) holds W and, in column `n_features`, b, in the dtype
  of X; what lies beyond is 0, up to whole vectors. Gradients have the same shape. ``n_rows`` is
  the number of classes, or 1 for two classes with one logit row.
- ``labels`` (n,) int32, or ``soft`` (n, n_classes) whose rows sum to 1; ``weights`` (n,);
  ``offset`` (n, n_rows), added to the logits. An array of size 0 means "not given".
- Results are unnormalised sums in float64, one for each chunk or one in all; who adds them up does
  so in chunk order.
- Nothing is checked here: shapes, label ranges and finite X are guaranteed by `_validation`.
  Logits that overflow give a loss that is not finite, which the caller must test.
"""

from __future__ import annotations

from fastsoftmax._jit import Array, block_kernel, driver
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
    weights_of,
)
from fastsoftmax._kernels.tiles import (
    FLUSH_BLOCKS,
    STRIP_BYTES,
    add_row_sums,
    backward,
    backward_part,
    flush,
    forward,
)


@block_kernel
def _residual(
    X: Array, first: int, n: int, params: Array, labels: Array, soft: Array, weights: Array,
    offset: Array, logits: Array, lanes: Array,
) -> float:  # fmt: skip
    """Write the residuals of a block over `logits`; return ``sum_i w_i loss_i``."""
    labels, soft = labels[first : first + n], soft[first : first + n]
    weights = weights[first : first + n]
    forward(X, first, n, params, logits)
    add_offset(offset[first : first + n], n, logits)
    silence(weights, n, logits)
    if params.shape[0] == 1:
        return logistic(logits, n, labels, soft, weights, lanes)
    if labels.shape[0] > 0:
        return cross_entropy(logits, n, labels, weights, lanes)
    return soft_cross_entropy(logits, n, soft, weights, lanes)


@block_kernel
def _curved_slope(
    X: Array, first: int, n: int, params: Array, direction: Array, known: Array, weights: Array,
    offset: Array, logits: Array, slopes: Array, lanes: Array,
) -> None:  # fmt: skip
    """Write ``T = w P ∘ (U - rowsum(P ∘ U))``, ``U = V Xᵀ + v_b``, over `slopes`.

    For one logit row ``T = w p q U``. P is `known` (n, n_classes), or computed if that is empty.
    """
    P, U, mean = logits, slopes, lanes[OWN]
    known, weights = known[first : first + n], weights[first : first + n]
    zero = logits.dtype.type(0)
    if known.shape[0] > 0:
        skipped = known.shape[1] - P.shape[0]  # one logit row stands for the second class
        for i in range(n):
            for k in range(P.shape[0]):
                P[k, i] = known[i, k + skipped]
    else:
        forward(X, first, n, params, P)
        add_offset(offset[first : first + n], n, P)
        silence(weights, n, P)
        probabilities(P, n, lanes)
    forward(X, first, n, direction, U)
    silence(weights, n, U)
    for i in range(n):
        mean[i] = zero
    for k in range(P.shape[0]):
        for i in range(n):
            mean[i] += P[k, i] * U[k, i]
    for k in range(P.shape[0]):
        for i in range(n):
            U[k, i] = P[k, i] * (U[k, i] - mean[i])
    weights_of(weights, n, lanes[SCALE])
    scale_lanes(U, n, lanes[SCALE])


@block_kernel
def _clear(rows: Array) -> None:
    zero = rows.dtype.type(0)
    for k in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            rows[k, i] = zero


# --- Loss and gradient ----------------------------------------------------------------------------


@block_kernel
def _loss_gradient_chunk(
    c: int, X: Array, params: Array, labels: Array, soft: Array, weights: Array, offset: Array,
    cut: Array, logits: Array, lanes: Array, losses: Array, partial: Array,
    gradients: Array,
) -> None:  # fmt: skip
    """Add the sums of a part of chunk `c` to ``losses[c]`` and ``gradients[c]``.

    Products of float32 add up over `FLUSH_BLOCKS` blocks in ``partial``, from there on in
    float64; for float64, `partial` is `gradients`. With arrays of size 0 only the loss is
    computed, and the residuals of the last block stay in ``logits[c]``.
    """
    n_lanes = logits.shape[2]
    want_gradient = gradients.shape[0] > 0
    must_flush = want_gradient and partial.itemsize < gradients.itemsize
    chunk_rows, part_start, part_rows = cut[0], cut[1], cut[2]
    start = c * chunk_rows + part_start
    stop = min(start + part_rows, (c + 1) * chunk_rows, X.shape[0])
    loss = 0.0
    n_pending = 0
    for first in range(start, stop, n_lanes):
        n = min(n_lanes, stop - first)
        if any_weight(weights[first : first + n], n):
            loss += _residual(
                X, first, n, params, labels, soft, weights, offset, logits[c], lanes[c]
            )
            if want_gradient:
                backward(X, first, n, logits[c], partial[c])
                n_pending += 1
        else:
            _clear(logits[c])
        if must_flush and (n_pending == FLUSH_BLOCKS or stop - first <= n_lanes):
            flush(partial[c], gradients[c])
            n_pending = 0
    losses[c] += loss


@driver
def loss_gradient(
    first, last, X, params, labels, soft, weights, offset, cut, logits, lanes, losses, partial,
    gradients,
):  # fmt: skip
    for c in range(first, last):
        _loss_gradient_chunk(
            c, X, params, labels, soft, weights, offset, cut, logits, lanes, losses, partial,
            gradients,
        )  # fmt: skip


# --- Hessian-vector product -----------------------------------------------------------------------


@block_kernel
def _hessian_vector_chunk(
    c: int, X: Array, params: Array, direction: Array, known: Array, weights: Array,
    offset: Array, cut: Array, slopes: Array, lanes: Array, logits: Array,
    partial: Array, products: Array,
) -> None:  # fmt: skip
    """Add a part of chunk `c` of ``Hv = Tᵀ [X, 1]`` to ``products[c]``, as for the gradient.

    With arrays of size 0 the last block's T stays in ``slopes[c]``.
    """
    n_lanes = logits.shape[2]
    want_product = products.shape[0] > 0
    must_flush = want_product and partial.itemsize < products.itemsize
    chunk_rows, part_start, part_rows = cut[0], cut[1], cut[2]
    start = c * chunk_rows + part_start
    stop = min(start + part_rows, (c + 1) * chunk_rows, X.shape[0])
    n_pending = 0
    for first in range(start, stop, n_lanes):
        n = min(n_lanes, stop - first)
        if any_weight(weights[first : first + n], n):
            _curved_slope(
                X, first, n, params, direction, known, weights, offset, logits[c], slopes[c],
                lanes[c],
            )  # fmt: skip
            if want_product:
                backward(X, first, n, slopes[c], partial[c])
                n_pending += 1
        else:
            _clear(slopes[c])
        if must_flush and (n_pending == FLUSH_BLOCKS or stop - first <= n_lanes):
            flush(partial[c], products[c])
            n_pending = 0


@driver
def hessian_vector(
    first, last, X, params, direction, known, weights, offset, cut, slopes, lanes, logits,
    partial, products,
):  # fmt: skip
    for c in range(first, last):
        _hessian_vector_chunk(
            c, X, params, direction, known, weights, offset, cut, slopes, lanes, logits, partial,
            products,
        )  # fmt: skip


# --- Residuals times X, where a gradient per chunk is too much ------------------------------------


@block_kernel
def _product_part(u: int, X: Array, residual: Array, grid: Array, gradient: Array) -> None:
    """Add a part of ``Rᵀ [X, 1]`` to `gradient`; ``residual[b]`` is that of the b-th block.

    Part `u` of ``grid = (parts of the classes, parts of the features)``, which no other owns.
    """
    n_rows, n_lanes = residual.shape[1:]
    n_features = X.shape[1]
    p, q = u // grid[1], u % grid[1]
    strip = STRIP_BYTES // X.itemsize
    n_strips = (n_features + strip - 1) // strip
    rows = (p * n_rows // grid[0], (p + 1) * n_rows // grid[0])
    start = q * n_strips // grid[1] * strip
    columns = (start, min((q + 1) * n_strips // grid[1] * strip, n_features))
    for first in range(0, X.shape[0], n_lanes):
        n = min(n_lanes, X.shape[0] - first)
        R = residual[first // n_lanes]
        backward_part(X, first, n, R, rows, columns, gradient)
        if q == grid[1] - 1:  # who writes the vector that this column is in, too
            add_row_sums(R, n, rows, gradient, n_features)


@driver
def products(first, last, X, residual, grid, gradient):
    for u in range(first, last):
        _product_part(u, X, residual, grid, gradient)
