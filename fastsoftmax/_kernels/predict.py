"""Responses of a linear softmax model, block by block: nothing but the result is allocated."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fastsoftmax._jit import Array, block_kernel, parallel_driver, serial_driver
from fastsoftmax._kernels.exp import exp_nonpositive
from fastsoftmax._kernels.lanes import PEAK, REST, add_offset, argmax, peak_of, probabilities
from fastsoftmax._kernels.tiles import forward

#: What `predict_serial` and `predict_parallel` write; the numbers of `_designs.Response`.
LOGITS, PROBABILITIES, LOG_PROBABILITIES, LABELS = range(4)


@block_kernel
def _predict_chunk(
    c: Array,
    X: Array,
    params: Array,
    offset: Array,
    response: int,
    cut: Array,
    logits: Array,
    lanes: Array,
    statuses: Array,
    out: Array,
    labels: Array,
) -> None:
    """Write the responses of the rows of a part of chunk `c`.

    `response` is `LOGITS`, `PROBABILITIES` or `LOG_PROBABILITIES`, into ``out`` (n, n_rows, or
    n, 2 for the probabilities of one logit row), or `LABELS`, into ``labels`` (n,): the first
    class with the largest logit, without an exponential. ``statuses[c]`` is set to 1 if a logit
    is not finite.
    """
    n_samples = X.shape[0]
    n_rows, n_lanes = logits.shape[1], logits.shape[2]
    zero = logits.dtype.type(0)
    Z, peak, rest = logits[c], lanes[c, PEAK], lanes[c, REST]
    chunk_rows, part_start, part_rows = cut
    start = c * chunk_rows + part_start
    stop = min(start + part_rows, (c + 1) * chunk_rows, n_samples)
    for first in range(start, stop, n_lanes):
        n = min(n_lanes, stop - first)
        forward(X, first, n, params, Z)
        add_offset(offset[first : first + n], n, Z)
        for k in range(n_rows):
            for i in range(n):
                if not math.isfinite(Z[k, i]):
                    statuses[c] = 1
        if response == LABELS:
            for i in range(n):
                labels[first + i] = argmax(Z, i) if n_rows > 1 else int(Z[0, i] > zero)
        elif response == LOGITS:
            for i in range(n):
                for k in range(n_rows):
                    out[first + i, k] = Z[k, i]
        elif n_rows == 1:
            for i in range(n):
                z = Z[0, i]
                e = exp_nonpositive(-abs(z))
                if response == PROBABILITIES:
                    small, large = e / (1 + e), 1 / (1 + e)
                else:
                    large = -math.log1p(e)
                    small = large - abs(z)
                out[first + i, 0], out[first + i, 1] = (
                    (small, large) if z > zero else (large, small)
                )
        elif response == PROBABILITIES:
            probabilities(Z, n, lanes[c])
            for i in range(n):
                for k in range(n_rows):
                    out[first + i, k] = Z[k, i]
        else:
            peak_of(Z, n, peak)
            for i in range(n):
                pivot = argmax(Z, i)
                rest[i] = zero
                for k in range(n_rows):
                    if k != pivot:
                        rest[i] += exp_nonpositive(Z[k, i] - peak[i])
                log_total = math.log1p(rest[i])
                for k in range(n_rows):
                    out[first + i, k] = (Z[k, i] - peak[i]) - log_total


@serial_driver
def predict_serial(
    first, last, X, params, offset, response, cut, logits, lanes, statuses, out,
    labels,
):  # fmt: skip
    for c in range(first, last):
        _predict_chunk(
            c, X, params, offset, response, cut, logits, lanes, statuses, out,
            labels,
        )  # fmt: skip


@parallel_driver
def predict_parallel(
    n_chunks, X, params, offset, response, cut, logits, lanes, statuses, out,
    labels,
):  # fmt: skip
    for c in prange(n_chunks):
        _predict_chunk(
            np.int64(c), X, params, offset, response, cut, logits, lanes,
            statuses, out, labels,
        )  # fmt: skip
