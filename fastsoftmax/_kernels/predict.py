"""Responses of a linear softmax model, block by block: nothing but the result is allocated."""

from __future__ import annotations

import math

from fastsoftmax._jit import Array, block_kernel, driver
from fastsoftmax._kernels.exp import exp_nonpositive
from fastsoftmax._kernels.lanes import (
    OWN,
    PEAK,
    REST,
    add_offset,
    largest_of,
    probabilities,
    transpose,
)
from fastsoftmax._kernels.log1p import log1p_nonnegative
from fastsoftmax._kernels.tiles import forward

#: What `predict` writes; the numbers of `_designs.Response`.
LOGITS, PROBABILITIES, LOG_PROBABILITIES, LABELS = range(4)


@block_kernel
def _any_infinite(logits: Array, n: int) -> bool:
    """Tell whether a logit is infinite or NaN.

    The answer stands in a local variable, not in an array, for this to be vector code: a tenth
    of the time.
    """
    found = False
    for k in range(logits.shape[0]):
        row = logits[k]
        for i in range(n):
            if not math.isfinite(row[i]):
                found = True
    return found


@block_kernel
def _log_probabilities(logits: Array, n: int, lanes: Array) -> None:
    """Overwrite logits by ``(z - z_max) - log1p(rest)``, ``rest`` without the largest logit."""
    peak, rest, best = lanes[PEAK], lanes[REST], lanes[OWN]
    zero = logits.dtype.type(0)
    largest_of(logits, n, peak, best)
    for i in range(n):
        rest[i] = zero
    for k in range(logits.shape[0]):
        row = logits[k]
        for i in range(n):
            row[i] -= peak[i]
            e = exp_nonpositive(row[i])
            rest[i] += zero if best[i] == k else e
    for i in range(n):
        rest[i] = log1p_nonnegative(rest[i])
    for k in range(logits.shape[0]):
        row = logits[k]
        for i in range(n):
            row[i] -= rest[i]


@block_kernel
def _two_classes(logits: Array, n: int, log: bool, pair: Array) -> None:
    """Write the (log-)probabilities of two classes with logits 0 and z."""
    z = logits[0]
    one, zero = logits.dtype.type(1), logits.dtype.type(0)
    for i in range(n):
        e = exp_nonpositive(-abs(z[i]))
        if log:
            large = -log1p_nonnegative(e)
            small = large - abs(z[i])
        else:
            small, large = e / (one + e), one / (one + e)
        pair[0, i] = small if z[i] > zero else large
        pair[1, i] = large if z[i] > zero else small


@block_kernel
def _predict_chunk(
    c: int,
    X: Array,
    params: Array,
    offset: Array,
    response: int,
    cut: Array,
    scratch: Array,
    statuses: Array,
    out: Array,
    labels: Array,
) -> None:
    """Write the responses of the rows of a part of chunk `c`.

    `response` is `LOGITS`, `PROBABILITIES` or `LOG_PROBABILITIES`, into ``out`` (n, n_rows, or
    n, 2 for the probabilities of one logit row), or `LABELS`, into ``labels`` (n,): the first
    class with the largest logit, without an exponential. ``statuses[c]`` is set to 1 if a logit
    is not finite, as it is wherever X is not: 0 times infinity is NaN, and no sum makes
    either of them finite again. ``scratch[c]`` holds the logits' lanes, and `N_LANE_ROWS` more.
    """
    n_samples, n_rows, n_lanes = X.shape[0], params.shape[0], scratch.shape[2]
    Z, lanes = scratch[c, :n_rows], scratch[c, n_rows:]
    chunk_rows, part_start, part_rows = cut[0], cut[1], cut[2]
    start = c * chunk_rows + part_start
    stop = min(start + part_rows, (c + 1) * chunk_rows, n_samples)
    for first in range(start, stop, n_lanes):
        n = min(n_lanes, stop - first)
        forward(X, first, n, params, Z)
        add_offset(offset[first : first + n], n, Z)
        if _any_infinite(Z, n):
            statuses[c] = 1
        if response == LABELS:
            if n_rows == 1:
                for i in range(n):
                    labels[first + i] = Z[0, i] > 0
            else:
                largest_of(Z, n, lanes[PEAK], labels[first : first + n])
            continue
        if n_rows == 1 and response != LOGITS:
            _two_classes(Z, n, response == LOG_PROBABILITIES, lanes[:2])
            transpose(lanes[:2], n, out[first : first + n])
            continue
        if response == PROBABILITIES:
            probabilities(Z, n, lanes)
        elif response == LOG_PROBABILITIES:
            _log_probabilities(Z, n, lanes)
        transpose(Z, n, out[first : first + n])


@driver
def predict(
    first, last, X, params, offset, response, cut, scratch, statuses, out, labels,
):  # fmt: skip
    for c in range(first, last):
        _predict_chunk(
            c, X, params, offset, response, cut, scratch, statuses, out, labels,
        )  # fmt: skip
