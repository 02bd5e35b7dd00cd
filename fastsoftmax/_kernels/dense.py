"""Sums over the rows of a dense X: loss, gradient, Hessian-vector product.

With logits ``Z = X Wᵀ + b`` and residual ``R = w (P - Y)``, one pass adds up

    loss = sum_i w_i loss_i,    G = [Rᵀ X, sum_i R_i]

reading X from memory once: a block of 8 to 64 rows is multiplied by W, turned into residuals and
multiplied by X again while it stays in the cache. No ``(n_samples, n_classes)`` array exists.

Conventions
-----------
- A *block* is `n_lanes` rows whose logits stand class-major, ``logits[k, lane]``, so that maximum,
  exponential, sum and division all run along the lanes as vector code. A *chunk* is a run of
  blocks with accumulators of its own; chunks are what drivers loop over. One call may do just a
  *part* of every chunk, so that no call lasts long and Python sees Ctrl-C in between: ``cut`` is
  ``(chunk_rows, part_start, part_rows)``, the rows of a chunk and those of them to do.
- ``coef`` (n_rows, n_features) and ``intercept`` (n_rows,) have the dtype of X. ``n_rows`` is the
  number of classes, or 1 for two classes with one logit row.
- ``labels`` (n,) int32, or ``soft`` (n, n_classes) whose rows sum to 1; ``weights`` (n,);
  ``offset`` (n, n_rows), added to the logits. An array of size 0 means "not given".
- Results are unnormalised sums per chunk in float64; who adds them up does so in chunk order.
- Nothing is checked here: shapes, label ranges and finite X are guaranteed by `_validation`.
  Logits that overflow give a loss that is not finite, which the caller must test.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastsoftmax._jit import Array, block_kernel, parallel_driver, serial_driver
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
)
from fastsoftmax._kernels.tiles import FLUSH_BLOCKS, backward, flush, forward


@block_kernel
def _loss_gradient_chunk(
    c: Array,
    X: Array,
    coef: Array,
    intercept: Array,
    labels: Array,
    soft: Array,
    weights: Array,
    offset: Array,
    cut: Array,
    logits: Array,
    lanes: Array,
    partial: Array,
    losses: Array,
    gradients: Array,
) -> None:
    """Add the sums of a part of chunk `c` to ``losses[c]`` and ``gradients[c]``.

    Products add up in the dtype of X over `FLUSH_BLOCKS` blocks (``partial``), from there on in
    float64. With ``gradients`` of size 0 only the loss is computed.
    """
    n_samples = X.shape[0]
    n_lanes = logits.shape[2]
    want_gradient = gradients.shape[0] > 0
    chunk_rows, part_start, part_rows = cut
    start = c * chunk_rows + part_start
    stop = min(start + part_rows, (c + 1) * chunk_rows, n_samples)
    loss = 0.0
    n_pending = 0
    for first in range(start, stop, n_lanes):
        n = min(n_lanes, stop - first)
        if any_weight(weights, first, n):
            forward(X, first, n, coef, intercept, logits[c])
            add_offset(offset, first, n, logits[c])
            silence(weights, first, n, logits[c])
            if coef.shape[0] == 1:
                loss += logistic(logits[c], first, n, labels, soft, weights)
            else:
                loss += cross_entropy(logits[c], first, n, labels, soft, weights, lanes[c])
            if want_gradient:
                backward(X, first, n, logits[c], partial[c])
                n_pending += 1
        if n_pending == FLUSH_BLOCKS:
            flush(partial[c], gradients[c])
            n_pending = 0
    if n_pending > 0:
        flush(partial[c], gradients[c])
    losses[c] += loss


@serial_driver
def loss_gradient_serial(
    first, last, X, coef, intercept, labels, soft, weights, offset, cut, logits, lanes,
    partial, losses, gradients,
):  # fmt: skip
    for c in range(first, last):
        _loss_gradient_chunk(
            c, X, coef, intercept, labels, soft, weights, offset, cut, logits, lanes,
            partial, losses, gradients,
        )  # fmt: skip


@parallel_driver
def loss_gradient_parallel(
    n_chunks, X, coef, intercept, labels, soft, weights, offset, cut, logits, lanes,
    partial, losses, gradients,
):  # fmt: skip
    for c in prange(n_chunks):
        _loss_gradient_chunk(
            np.int64(c), X, coef, intercept, labels, soft, weights, offset, cut, logits,
            lanes, partial, losses, gradients,
        )  # fmt: skip


@block_kernel
def _hessian_vector_chunk(
    c: Array,
    X: Array,
    coef: Array,
    intercept: Array,
    coef_direction: Array,
    intercept_direction: Array,
    weights: Array,
    offset: Array,
    cut: Array,
    logits: Array,
    slopes: Array,
    lanes: Array,
    partial: Array,
    products: Array,
) -> None:
    """Add a part of chunk `c` of ``Hv = Tᵀ [X, 1]`` to ``products[c]``.

    ``U = X Vᵀ + v_b`` and ``T = w P ∘ (U - rowsum(P ∘ U))``; for one logit row ``T = w p q U``.
    """
    n_samples = X.shape[0]
    n_rows, n_lanes = logits.shape[1], logits.shape[2]
    zero = logits.dtype.type(0)
    chunk_rows, part_start, part_rows = cut
    start = c * chunk_rows + part_start
    stop = min(start + part_rows, (c + 1) * chunk_rows, n_samples)
    n_pending = 0
    for first in range(start, stop, n_lanes):
        n = min(n_lanes, stop - first)
        if not any_weight(weights, first, n):
            continue
        P, U, mean = logits[c], slopes[c], lanes[c, OWN]
        forward(X, first, n, coef, intercept, P)
        add_offset(offset, first, n, P)
        silence(weights, first, n, P)
        probabilities(P, n, lanes[c])
        forward(X, first, n, coef_direction, intercept_direction, U)
        silence(weights, first, n, U)
        for i in range(n):
            mean[i] = zero
        for k in range(n_rows):
            for i in range(n):
                mean[i] += P[k, i] * U[k, i]
        for k in range(n_rows):
            for i in range(n):
                U[k, i] = P[k, i] * (U[k, i] - mean[i])
        if weights.shape[0] > 0:
            for i in range(n):
                lanes[c, SCALE, i] = weights[first + i]
            scale_lanes(U, n, lanes[c, SCALE])
        backward(X, first, n, U, partial[c])
        n_pending += 1
        if n_pending == FLUSH_BLOCKS:
            flush(partial[c], products[c])
            n_pending = 0
    if n_pending > 0:
        flush(partial[c], products[c])


@serial_driver
def hessian_vector_serial(
    first, last, X, coef, intercept, coef_direction, intercept_direction, weights, offset,
    cut, logits, slopes, lanes, partial, products,
):  # fmt: skip
    for c in range(first, last):
        _hessian_vector_chunk(
            c, X, coef, intercept, coef_direction, intercept_direction, weights, offset,
            cut, logits, slopes, lanes, partial, products,
        )  # fmt: skip


@parallel_driver
def hessian_vector_parallel(
    n_chunks, X, coef, intercept, coef_direction, intercept_direction, weights, offset,
    cut, logits, slopes, lanes, partial, products,
):  # fmt: skip
    for c in prange(n_chunks):
        _hessian_vector_chunk(
            np.int64(c), X, coef, intercept, coef_direction, intercept_direction, weights, offset,
            cut, logits, slopes, lanes, partial, products,
        )  # fmt: skip
