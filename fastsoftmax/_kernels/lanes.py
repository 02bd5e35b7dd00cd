"""Softmax and cross-entropy of a block of logits that stands class-major, ``logits[k, lane]``.

Labels, weights and the like are those of the block. That they begin at 0 matters: with an index
``first + i`` that might be negative, and then count from the end, Numba gathers them one by one.
Every loop over lanes is vector code, as long as it meets few arrays: LLVM gives up where it would
have to compare more than 8 pairs of addresses, or to load from one of two places. (After
``llvmlite.binding.set_option("", "-pass-remarks-missed=loop-vectorize")`` it says so.)
Conventions: see `fastsoftmax._kernels.dense`.
"""

from __future__ import annotations

from fastsoftmax._jit import Array, block_kernel, exact_kernel
from fastsoftmax._kernels.exp import exp_nonpositive
from fastsoftmax._kernels.log1p import log1p_nonnegative

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
def largest_of(logits: Array, n: int, peak: Array, best: Array) -> None:
    """Write each lane's largest logit, and the first class that has it.

    Class by class, which is vector code: a fifth of the time of a search per lane. `best` may be
    float; float32 holds the numbers of 2**24 classes.
    """
    for i in range(n):
        peak[i] = logits[0, i]
        best[i] = 0
    for k in range(1, logits.shape[0]):
        row = logits[k]
        for i in range(n):
            if row[i] > peak[i]:
                peak[i] = row[i]
                best[i] = k


@block_kernel
def weights_of(weights: Array, n: int, lane: Array) -> None:
    """Write the weights of a block, 1 where none are given."""
    one = lane.dtype.type(1)
    for i in range(n):
        lane[i] = weights[i] if weights.shape[0] > 0 else one


@exact_kernel
def _label_loss(peak: float, own: float, others: float) -> float:
    """Return ``(peak - own) + log1p(others)``, safe from ``(peak + log1p(others)) - own``."""
    return (peak - own) + log1p_nonnegative(others)


@block_kernel
def cross_entropy(logits: Array, n: int, labels: Array, weights: Array, lanes: Array) -> float:
    """Overwrite logits by residuals ``w (P - Y)``; return ``sum_i w_i loss_i`` (eq. 2 and 6).

    The label's class is left out of the sum over classes, so that its residual
    ``-rest / (rest + own)`` does not cancel when its probability is near 1. Neither does the loss
    ``(z_max - z_y) + log1p(others)``: both terms are positive, and `others`, the exponentials of
    all classes but the most probable one, are `rest` itself where that is the label.
    """
    peak, rest, own, scale = lanes[PEAK], lanes[REST], lanes[OWN], lanes[SCALE]
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    n_classes = logits.shape[0]
    weights_of(weights, n, scale)
    peak_of(logits, n, peak)
    for k in range(n_classes):
        row = logits[k]
        for i in range(n):
            z, before = row[i], own[i]
            own[i] = z if labels[i] == k else before
    for i in range(n):
        rest[i] = zero
    for k in range(n_classes):
        row = logits[k]
        for i in range(n):
            e = exp_nonpositive(row[i] - peak[i])
            rest[i] += zero if labels[i] == k else e
            row[i] = e
    loss = 0.0
    for i in range(n):
        e = exp_nonpositive(own[i] - peak[i])
        others = rest[i] if own[i] == peak[i] else (rest[i] - one) + e
        loss += float(scale[i] * _label_loss(peak[i], own[i], others))
        scale[i] /= rest[i] + e
    for k in range(n_classes):
        row = logits[k]
        for i in range(n):
            e, others = row[i], rest[i]
            row[i] = scale[i] * (-others if labels[i] == k else e)
    return loss


@block_kernel
def soft_cross_entropy(logits: Array, n: int, soft: Array, weights: Array, lanes: Array) -> float:
    """Do as `cross_entropy` for targets ``soft[i, k]``, whose rows sum to 1.

    The most probable class takes the place of the label.
    """
    peak, others, best, scale = lanes[PEAK], lanes[REST], lanes[OWN], lanes[SCALE]
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    weights_of(weights, n, scale)
    largest_of(logits, n, peak, best)
    for i in range(n):
        others[i] = zero
    loss = 0.0
    for k in range(logits.shape[0]):
        row = logits[k]
        for i in range(n):
            below, y = peak[i] - row[i], soft[i, k]
            loss += float(scale[i] * y) * float(below) if y > zero else 0.0  # 0 log 0 = 0
        for i in range(n):
            e = exp_nonpositive(row[i] - peak[i])
            others[i] += zero if best[i] == k else e
            row[i] = e
    for i in range(n):
        loss += float(scale[i]) * float(log1p_nonnegative(others[i]))
    for k in range(logits.shape[0]):
        row = logits[k]
        for i in range(n):
            total = one + others[i]
            p, q = row[i] / total, others[i] / total
            row[i] = scale[i] * _soft_residual(p, q, soft[i, k], best[i] == k)
    return loss


@exact_kernel
def _soft_residual(p: float, q: float, y: float, is_best: bool) -> float:
    """Return ``p - y``, or ``(1 - y) - q`` where ``q = 1 - p`` is known to more digits."""
    return (1 - y) - q if is_best else p - y


@block_kernel
def logistic(
    logits: Array, n: int, labels: Array, soft: Array, weights: Array, lanes: Array
) -> float:
    """Do as `cross_entropy` for one logit row: two classes with logits 0 and z.

    With ``e = exp(-|z|)`` the loss is ``log1p(e) + (1 - y) max(z, 0) + y max(-z, 0)`` and the
    residual ``(1 - y) p - y q`` where p and q = 1 - p are found without cancellation.
    """
    one, zero = logits.dtype.type(1), logits.dtype.type(0)
    has_labels = labels.shape[0] > 0
    row, scale, target = logits[0], lanes[SCALE], lanes[OWN]
    weights_of(weights, n, scale)
    for i in range(n):  # apart: a loop that chooses what to load is not vector code
        target[i] = labels[i] if has_labels else soft[i, 1]
    loss = 0.0
    for i in range(n):
        z, y = row[i], target[i]
        e = exp_nonpositive(-abs(z))
        large, small = one / (one + e), e / (one + e)
        p, q = (large, small) if z > zero else (small, large)
        linear = (one - y) * max(z, zero) + y * max(-z, zero)
        loss += float(scale[i] * (log1p_nonnegative(e) + linear))
        row[i] = scale[i] * ((one - y) * p - y * q)
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
def any_weight(weights: Array, n: int) -> bool:
    """Tell whether a block counts at all: a fold is given by weights of zero."""
    if weights.shape[0] == 0:
        return True
    for i in range(n):
        if weights[i] > 0:
            return True
    return False


@block_kernel
def silence(weights: Array, n: int, logits: Array) -> None:
    """Write logits of 0 where the weight is 0: the row is as if removed, also an infinite one."""
    if weights.shape[0] > 0:
        zero = logits.dtype.type(0)
        for i in range(n):
            if weights[i] == 0:
                for k in range(logits.shape[0]):
                    logits[k, i] = zero


@block_kernel
def add_offset(offset: Array, n: int, logits: Array) -> None:
    if offset.shape[0] > 0:
        for i in range(n):
            for k in range(logits.shape[0]):
                logits[k, i] += offset[i, k]


@block_kernel
def transpose(logits: Array, n: int, out: Array) -> None:
    """Write ``out[i, k] = logits[k, i]``.

    Four classes at a time: 0.5 ns per number at 7 classes and 0.35 at 100, against 0.7 and 0.6 row
    by row, whose reads have a power of two between them and so share few sets of the cache.
    """
    n_rows = logits.shape[0]
    k = 0
    while k + 4 <= n_rows:
        z0, z1, z2, z3 = logits[k], logits[k + 1], logits[k + 2], logits[k + 3]
        for i in range(n):
            row = out[i]
            row[k], row[k + 1], row[k + 2], row[k + 3] = z0[i], z1[i], z2[i], z3[i]
        k += 4
    while k < n_rows:
        z0 = logits[k]
        for i in range(n):
            out[i, k] = z0[i]
        k += 1
