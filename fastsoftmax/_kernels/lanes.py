"""Softmax and cross-entropy of a block of logits that stands class-major, ``logits[k, lane]``.

Every loop over lanes is vector code. Conventions: see `fastsoftmax._kernels.dense`.
"""

from __future__ import annotations

import math

from fastsoftmax._jit import Array, block_kernel
from fastsoftmax._kernels.exp import exp_nonpositive

# Scratch rows of one block, each `n_lanes` long.
PEAK, REST, OWN, SCALE = range(4)
N_LANE_ROWS = 4


@block_kernel
def peak_of(logits: Array, n: int, peak: Array) -> None:
    """Write the largest logit of each lane."""
    for i in range(n):
        peak[i] = logits[0, i]
    for k in range(1, logits.shape[0]):
        row = logits[k]
        for i in range(n):
            peak[i] = max(peak[i], row[i])


@block_kernel
def exponentials(logits: Array, n: int, peak: Array) -> None:
    """Overwrite logits by ``exp(z - z_max)``."""
    for k in range(logits.shape[0]):
        row = logits[k]
        for i in range(n):
            row[i] = exp_nonpositive(row[i] - peak[i])


@block_kernel
def sum_classes(exponentials: Array, n: int, total: Array) -> None:
    zero = total.dtype.type(0)
    for i in range(n):
        total[i] = zero
    for k in range(exponentials.shape[0]):
        row = exponentials[k]
        for i in range(n):
            total[i] += row[i]


@block_kernel
def scale_lanes(rows: Array, n: int, scale: Array) -> None:
    for k in range(rows.shape[0]):
        row = rows[k]
        for i in range(n):
            row[i] *= scale[i]


@block_kernel
def argmax(logits: Array, i: int) -> int:
    """Return the first class with the largest logit of lane `i`."""
    best = 0
    for k in range(1, logits.shape[0]):
        if logits[k, i] > logits[best, i]:
            best = k
    return best


@block_kernel
def log_ratio(rest: float, own: float, gap: float) -> float:
    """Return ``logsumexp(z) - z_y`` from ``own = exp(z_y - z_max)``, ``rest`` and z_max - z_y.

    ``rest`` is the sum of the other classes' exponentials, so log1p keeps the relative precision
    of a loss near 0. The other form is for an `own` that underflows.
    """
    if rest <= own * 1e6:
        return math.log1p(rest / own)
    return gap + math.log(rest + own)


@block_kernel
def cross_entropy(
    logits: Array, first: int, n: int, labels: Array, soft: Array, weights: Array, lanes: Array
) -> float:
    """Overwrite logits by residuals ``w (P - Y)``; return ``sum_i w_i loss_i`` (eq. 2 and 6).

    The sum over classes leaves out a pivot class, so that neither the loss nor the pivot's
    residual ``-rest / (rest + own)`` cancels when its probability is near 1. The pivot is the
    label, or for soft targets the most probable class.
    """
    peak, rest, own, scale = lanes[PEAK], lanes[REST], lanes[OWN], lanes[SCALE]
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    n_classes = logits.shape[0]
    has_labels = labels.shape[0] > 0
    has_weights = weights.shape[0] > 0
    loss = 0.0
    peak_of(logits, n, peak)
    if has_labels:
        for i in range(n):
            scale[i] = peak[i] - logits[labels[first + i], i]
    else:
        for i in range(n):
            w = float(weights[first + i]) if has_weights else 1.0
            scale[i] = argmax(logits, i)
            gap = 0.0
            for k in range(n_classes):
                y = soft[first + i, k]
                if y > zero:  # 0 log 0 = 0
                    gap += float(y) * float(peak[i] - logits[k, i])
            loss += w * gap
    exponentials(logits, n, peak)
    for i in range(n):
        pivot = labels[first + i] if has_labels else int(scale[i])
        own[i] = logits[pivot, i]
        logits[pivot, i] = zero
    sum_classes(logits, n, rest)
    for i in range(n):
        w = weights[first + i] if has_weights else one
        gap = scale[i] if has_labels else zero
        loss += float(w) * log_ratio(float(rest[i]), float(own[i]), float(gap))
    if has_labels:
        for i in range(n):
            w = weights[first + i] if has_weights else one
            scale[i] = w / (rest[i] + own[i])
        scale_lanes(logits, n, scale)
        for i in range(n):
            logits[labels[first + i], i] = -rest[i] * scale[i]
    else:
        for i in range(n):
            logits[int(scale[i]), i] = own[i]
            w = weights[first + i] if has_weights else one
            total = rest[i] + own[i]
            for k in range(n_classes):
                logits[k, i] = w * (logits[k, i] / total - soft[first + i, k])
    return loss


@block_kernel
def logistic(
    logits: Array, first: int, n: int, labels: Array, soft: Array, weights: Array
) -> float:
    """Do as `cross_entropy` for one logit row: two classes with logits 0 and z.

    With ``e = exp(-|z|)`` the loss is ``log1p(e) + (1 - y) max(z, 0) + y max(-z, 0)`` and the
    residual ``(1 - y) p - y q`` where p and q = 1 - p are found without cancellation.
    """
    one, zero = logits.dtype.type(1), logits.dtype.type(0)
    has_labels = labels.shape[0] > 0
    has_weights = weights.shape[0] > 0
    row = logits[0]
    loss = 0.0
    for i in range(n):
        z = row[i]
        w = weights[first + i] if has_weights else one
        y = logits.dtype.type(labels[first + i]) if has_labels else soft[first + i, 1]
        e = exp_nonpositive(-abs(z))
        large, small = one / (one + e), e / (one + e)
        p, q = (large, small) if z > zero else (small, large)
        linear = (one - y) * max(z, zero) + y * max(-z, zero)
        loss += float(w) * (math.log1p(float(e)) + float(linear))
        row[i] = w * ((one - y) * p - y * q)
    return loss


@block_kernel
def probabilities(logits: Array, n: int, lanes: Array) -> None:
    """Overwrite logits by softmax (eq. 1); one row by the probability of the second class."""
    peak, total = lanes[PEAK], lanes[REST]
    one, zero = logits.dtype.type(1), logits.dtype.type(0)
    if logits.shape[0] == 1:
        for i in range(n):
            z = logits[0, i]
            e = exp_nonpositive(-abs(z))
            logits[0, i] = (one if z > zero else e) / (one + e)
        return
    peak_of(logits, n, peak)
    exponentials(logits, n, peak)
    sum_classes(logits, n, total)
    for i in range(n):
        total[i] = one / total[i]
    scale_lanes(logits, n, total)


@block_kernel
def any_weight(weights: Array, first: int, n: int) -> bool:
    """Tell whether a block counts at all: a fold is given by weights of zero."""
    if weights.shape[0] == 0:
        return True
    for i in range(n):
        if weights[first + i] > 0:
            return True
    return False


@block_kernel
def silence(weights: Array, first: int, n: int, logits: Array) -> None:
    """Write logits of 0 where the weight is 0: the row is as if removed, also an infinite one."""
    if weights.shape[0] > 0:
        zero = logits.dtype.type(0)
        for i in range(n):
            if weights[first + i] == 0:
                for k in range(logits.shape[0]):
                    logits[k, i] = zero


@block_kernel
def add_offset(offset: Array, first: int, n: int, logits: Array) -> None:
    if offset.shape[0] > 0:
        for i in range(n):
            for k in range(logits.shape[0]):
                logits[k, i] += offset[first + i, k]
