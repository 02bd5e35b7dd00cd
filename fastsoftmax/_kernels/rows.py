"""Kernels over rows of logits or probabilities: equations 2 to 6 of ``docs/equations.md``.

Equation 1 by itself is `fastsoftmax._kernels.softmax`.

Conventions, besides those of `fastsoftmax._jit`:

- Arrays are ``(n_samples, n_classes)``, one sample per row. An *empty* array stands for an
  argument that is not given (soft targets beside labels, no offset, no output wanted).
- One block is ``block_size`` rows (`rows_per_block`). Block functions take the block's number
  first; drivers take ``first, last``.
- Sums are float64, whatever the dtype of the rows.
- ``greatest`` is the maximum of a row, ``rest`` the sum of ``exp(z_k - greatest)`` over all
  classes but one that attains the maximum. So ``sum_k exp(z_k - greatest) = 1 + rest``, and a
  `rest` far below 1 keeps its precision: the loss of the greatest class is ``log1p(rest)``,
  its residual is ``-rest / (1 + rest)``.
- ``statuses`` gets one code per block, the first that is not `FINE`. What a row holds after
  that is undefined.
- Shapes, index ranges and weights are the caller's to check.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastsoftmax._jit import block_kernel, driver, exact_kernel
from fastsoftmax._kernels.exp import exp_of_difference

#: Codes for `statuses`.
FINE = 0
UNFINISHED = -1  # a thread that could not go on leaves this behind
HAS_NAN = 1
HAS_PLUS_INFINITY = 2
ALL_MINUS_INFINITY = 3
BAD_TARGETS = 4
BAD_PROBABILITIES = 5
BAD_DIRECTION = 6

#: Probabilities may exceed 1 by the rounding of whoever computed them (float16 included).
LARGEST_PROBABILITY = 1.001

#: Terms added without compensation, shared by at least 8 vector lanes: so the rounding error of a
#: sum over K = 1e5 classes stays that of some ten additions. 128 would save 5 % of the time.
_CHUNK = 64


def rows_per_block(n_entries: int) -> int:
    """Return how many rows of `n_entries` entries make a block: 16384 entries, 256 rows at most.

    Such a block of float64 is 128 kB and keeps one core busy for some 20 us.
    """
    return min(256, max(1, 16384 // max(1, n_entries)))


# --- Parts of a row -------------------------------------------------------------------------------


@exact_kernel
def _difference(z: Any, greatest: Any) -> Any:
    """Return ``z - greatest`` in float64, safe from reassociation."""
    return np.float64(z) - np.float64(greatest)


@exact_kernel
def _label_loss(z: Any, greatest: Any, rest: Any) -> Any:
    """Return ``(greatest - z) + log1p(rest)`` in float64.

    Reassociation of the outer sum alone would make it ``(greatest + log1p(rest)) - z``.
    """
    return (np.float64(greatest) - np.float64(z)) + math.log1p(rest)


@exact_kernel
def log_probability(z: Any, greatest: Any, log_mass: Any) -> Any:
    """Return ``(z - greatest) - log_mass``, both differences without cancellation."""
    return (z - greatest) - log_mass


@exact_kernel
def add_compensated(total: Any, error: Any, x: Any) -> Any:
    """Return the rounded ``total + x``, and `error` plus what the rounding lost (two-sum)."""
    new = total + x
    back = new - total
    return new, error + ((total - (new - back)) + (x - back))


@block_kernel
def _greatest(row: Any) -> Any:
    """Return the maximum of `row`; a NaN is passed over.

    Eight chains: LLVM vectorises a maximum only with the flag `nnan`. 0.2 ns an entry, not 0.6.
    """
    a = row.dtype.type(-np.inf)
    b = c = d = e = f = g = h = a
    n_eights = row.size // 8
    for j in range(n_eights):
        x = row[8 * j : 8 * j + 8]
        a = x[0] if x[0] > a else a
        b = x[1] if x[1] > b else b
        c = x[2] if x[2] > c else c
        d = x[3] if x[3] > d else d
        e = x[4] if x[4] > e else e
        f = x[5] if x[5] > f else f
        g = x[6] if x[6] > g else g
        h = x[7] if x[7] > h else h
    a = b if b > a else a
    c = d if d > c else c
    e = f if f > e else e
    g = h if h > g else g
    a = c if c > a else a
    e = g if g > e else e
    a = e if e > a else a
    for k in range(8 * n_eights, row.size):
        a = row[k] if row[k] > a else a
    return a


@block_kernel
def _status_of_greatest(row: Any, greatest: Any) -> Any:
    if greatest == np.inf:
        return HAS_PLUS_INFINITY
    if greatest > -np.inf:
        return FINE  # NaN entries show in `rest`
    for k in range(row.size):
        if row[k] != row[k]:
            return HAS_NAN
    return ALL_MINUS_INFINITY


@block_kernel
def _copy(source: Any, row: Any) -> None:
    for k in range(row.size):
        row[k] = source[k]


@block_kernel
def _exponentials(row: Any, greatest: Any) -> Any:
    """Overwrite `row` with ``exp(row - greatest)`` and return `rest`; NaN if any entry is."""
    zero = row.dtype.type(0)
    total = 0.0
    error = 0.0
    n_greatest = np.int64(0)
    for chunk in range((row.size + _CHUNK - 1) // _CHUNK):
        part = row[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        partial = 0.0
        for k in range(part.size):
            z = part[k]
            e = exp_of_difference(z, greatest)
            part[k] = e
            partial += np.float64(zero if z == greatest else e)
            n_greatest += np.int64(z == greatest)  # a conditional sum would not vectorise
        total, error = add_compensated(total, error, partial)
    return (total + error) + (n_greatest - 1)


@block_kernel
def _rest(row: Any, greatest: Any) -> Any:
    """Return what `_exponentials` returns, and leave `row` as it is."""
    zero = row.dtype.type(0)
    total = 0.0
    error = 0.0
    n_greatest = np.int64(0)
    for chunk in range((row.size + _CHUNK - 1) // _CHUNK):
        part = row[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        partial = 0.0
        for k in range(part.size):
            z = part[k]
            e = exp_of_difference(z, greatest)
            partial += np.float64(zero if z == greatest else e)
            n_greatest += np.int64(z == greatest)
        total, error = add_compensated(total, error, partial)
    return (total + error) + (n_greatest - 1)


@block_kernel
def _improper_probabilities(row: Any) -> Any:
    """Tell whether an entry is NaN or outside ``[0, LARGEST_PROBABILITY]``."""
    n_improper = np.int64(0)
    for k in range(row.size):
        n_improper += np.int64(not (row[k] >= 0 and row[k] <= LARGEST_PROBABILITY))
    return n_improper > 0


@block_kernel
def _improper_targets(row: Any) -> Any:
    """Tell whether an entry is negative or NaN, or their sum exceeds the dtype."""
    n_improper = np.int64(0)
    total = 0.0
    for k in range(row.size):
        n_improper += np.int64(not (row[k] >= 0))
        total += np.float64(row[k])
    return n_improper > 0 or not (row.dtype.type(total) < np.inf)


@block_kernel
def _log_normaliser(row: Any) -> Any:
    """Return ``(greatest, rest, status)`` of a row of logits, which stays as it is."""
    greatest = _greatest(row)
    status = _status_of_greatest(row, greatest)
    rest = _rest(row, greatest)
    if status == FINE and rest != rest:
        status = HAS_NAN
    return greatest, rest, status


# --- Equations 2 to 4: cross-entropy of given probabilities ---------------------------------------


@block_kernel
def _negative_log(target: Any, probability: Any) -> Any:
    """Return ``-target log(probability)`` in float64, with ``0 log 0 = 0``."""
    if target == 0:
        return 0.0
    if probability == 0:
        return np.inf
    return -np.float64(target) * math.log(np.float64(probability))


@block_kernel
def _negative_ratio(weight: Any, target: Any, probability: Any) -> Any:
    """Return ``-weight target / probability`` in float64, with ``0/0 = 0``."""
    if target == 0 or weight == 0:
        return 0.0
    if probability == 0:
        return -np.inf
    return -(weight * np.float64(target)) / np.float64(probability)


@block_kernel
def _cross_entropy_block(
    block: Any,
    block_size: Any,
    probabilities: Any,
    labels: Any,
    soft: Any,
    weights: Any,
    gradient: Any,
    losses: Any,
    statuses: Any,
) -> None:
    first = block * block_size
    total = 0.0
    for j in range(min(block_size, probabilities.shape[0] - first)):
        i = first + j
        row = probabilities[i]
        weight = weights[i]
        if _improper_probabilities(row):
            statuses[block] = BAD_PROBABILITIES
            return
        if soft.size > 0 and _improper_targets(soft[i]):
            statuses[block] = BAD_TARGETS
            return
        if gradient.size > 0:
            slopes = gradient[i]
            if soft.size > 0:
                for k in range(row.size):
                    slopes[k] = _negative_ratio(weight, soft[i, k], row[k])
            else:
                label = labels[i]
                slope = _negative_ratio(weight, 1, row[label])  # first: `slopes` may be `row`
                for k in range(row.size):
                    slopes[k] = 0
                slopes[label] = slope
        elif weight > 0:  # a weight of zero removes the sample, also one of infinite loss
            loss = 0.0
            if soft.size > 0:
                for k in range(row.size):
                    loss += _negative_log(soft[i, k], row[k])
            else:
                loss = _negative_log(1, row[labels[i]])
            total += weight * loss
    losses[block] = total


@driver
def cross_entropy(
    first: Any,
    last: Any,
    block_size: Any,
    probabilities: Any,
    labels: Any,
    soft: Any,
    weights: Any,
    gradient: Any,
    losses: Any,
    statuses: Any,
) -> None:
    """Run eq. 4 if there is a `gradient` to write, else eq. 2 into `losses`, one per block.

    `gradient` may be the probabilities' memory.
    """
    for block in range(first, last):
        _cross_entropy_block(
            block, block_size, probabilities, labels, soft, weights, gradient, losses, statuses
        )


# --- Equation 5: the Jacobian of softmax ----------------------------------------------------------


@block_kernel
def _jacobian_block(
    block: Any, block_size: Any, probabilities: Any, jacobian: Any, statuses: Any
) -> None:
    first = block * block_size
    for j in range(min(block_size, probabilities.shape[0] - first)):
        row = probabilities[first + j]
        if _improper_probabilities(row):
            statuses[block] = BAD_PROBABILITIES
            return
        one = row.dtype.type(1)
        for a in range(row.size):
            p = row[a]
            line = jacobian[first + j, a]
            for b in range(row.size):
                line[b] = -p * row[b]
            line[a] = p * (one - p)  # A - A**2 with an exact difference where A is near 1


@driver
def jacobian(
    first: Any, last: Any, block_size: Any, probabilities: Any, jacobian: Any, statuses: Any
) -> None:
    """Write eq. 5 to `jacobian`, ``(n_samples, n_classes, n_classes)``."""
    for block in range(first, last):
        _jacobian_block(block, block_size, probabilities, jacobian, statuses)


@exact_kernel
def _times_deviation(p: Any, u: Any, half_mean: Any) -> Any:
    """Return ``p (u - mean)`` in float64, by halves: ``u - mean`` may exceed the largest number."""
    return (np.float64(p) * (0.5 * np.float64(u) - half_mean)) * 2.0


@block_kernel
def _jacobian_product_block(
    block: Any, block_size: Any, probabilities: Any, direction: Any, out: Any, statuses: Any
) -> None:
    first = block * block_size
    for j in range(min(block_size, probabilities.shape[0] - first)):
        p = probabilities[first + j]
        u = direction[first + j]
        row = out[first + j]
        if _improper_probabilities(p):
            statuses[block] = BAD_PROBABILITIES
            return
        half_mean = 0.0
        n_improper = np.int64(0)
        for k in range(row.size):
            half_mean += np.float64(p[k]) * (0.5 * np.float64(u[k]))
            n_improper += np.int64(not (abs(u[k]) < np.inf))
        if n_improper > 0:
            statuses[block] = BAD_DIRECTION
            return
        for k in range(row.size):
            row[k] = _times_deviation(p[k], u[k], half_mean)


@driver
def jacobian_product(
    first: Any,
    last: Any,
    block_size: Any,
    probabilities: Any,
    direction: Any,
    out: Any,
    statuses: Any,
) -> None:
    """Write eq. 5 times `direction` to `out`, which may be the direction's memory."""
    for block in range(first, last):
        _jacobian_product_block(block, block_size, probabilities, direction, out, statuses)


# --- Equation 6: loss and residual of logits ------------------------------------------------------


@block_kernel
def _target_sums(z: Any, greatest: Any, targets: Any) -> Any:
    """Return three sums over the classes of a row, each of non-negative terms, in float64.

    ``gap = sum_k y_k (greatest - z_k)``; `mass`, the sum of the targets; `others`, their sum
    over the classes below the maximum. The loss is ``gap + mass log1p(rest)``.
    """
    gap = 0.0
    mass = 0.0
    others = 0.0
    for k in range(z.size):
        y = np.float64(targets[k])
        term = -y * _difference(z[k], greatest)
        gap += term if y > 0 else 0.0  # 0 * inf is the loss of an absent, masked class: none
        others += 0.0 if z[k] == greatest else y
        mass += y
    return gap, mass, others


@block_kernel
def _label_residual(row: Any, rest: Any, label: Any, weight: Any) -> None:
    """Overwrite the exponentials in `row` with ``weight (p - y)``, y one-hot at `label`."""
    is_top = row[label] == 1 and rest < 1
    p = np.float64(row[label]) / (1.0 + rest)
    factor = row.dtype.type(weight / (1.0 + rest))
    for k in range(row.size):
        row[k] *= factor
    row[label] = weight * (-rest / (1.0 + rest) if is_top else p - 1.0)


@block_kernel
def _soft_residual(row: Any, rest: Any, targets: Any, mass: Any, others: Any, weight: Any) -> None:
    """Overwrite the exponentials in `row` with ``weight (p sum(y) - y)``."""
    # With rest < 1 one class holds more than half of the mass. Its exponential alone is 1, and
    # p sum(y) - y = others - sum(y) rest / (1 + rest) there, free of 1 - p.
    alone = row.dtype.type(1 if rest < 1 else 2)
    at_top = row.dtype.type(weight * (others - mass * (rest / (1.0 + rest))))
    factor = row.dtype.type(mass / (1.0 + rest))
    w = row.dtype.type(weight)
    for k in range(row.size):
        e = row[k]
        residual = w * (e * factor - targets[k])
        row[k] = at_top if e >= alone else residual


@block_kernel
def _row_loss(row: Any, i: Any, labels: Any, soft: Any) -> Any:
    """Return ``(loss, status)`` of a row of logits, which stays as it is."""
    greatest, rest, status = _log_normaliser(row)
    if soft.size > 0:
        gap, mass, _ = _target_sums(row, greatest, soft[i])
        return gap + mass * math.log1p(rest), status
    return _label_loss(row[labels[i]], greatest, rest), status


@block_kernel
def _row_residual(row: Any, i: Any, labels: Any, soft: Any, weight: Any) -> Any:
    """Return ``(loss, status)`` of the logits in `row`; overwrite them with the residual."""
    greatest = _greatest(row)
    status = _status_of_greatest(row, greatest)
    if soft.size > 0:
        gap, mass, others = _target_sums(row, greatest, soft[i])
        rest = _exponentials(row, greatest)
        _soft_residual(row, rest, soft[i], mass, others, weight)
        loss = gap + mass * math.log1p(rest)
    else:
        label = labels[i]
        z = row[label]
        rest = _exponentials(row, greatest)
        _label_residual(row, rest, label, weight)
        loss = _label_loss(z, greatest, rest)
    if status == FINE and rest != rest:
        status = HAS_NAN
    return loss, status


@block_kernel
def _softmax_loss_block(
    block: Any,
    block_size: Any,
    logits: Any,
    labels: Any,
    soft: Any,
    weights: Any,
    residual: Any,
    losses: Any,
    statuses: Any,
) -> None:
    first = block * block_size
    total = 0.0
    for j in range(min(block_size, logits.shape[0] - first)):
        i = first + j
        source = logits[i]
        if soft.size > 0 and _improper_targets(soft[i]):
            statuses[block] = BAD_TARGETS
            return
        if residual.size > 0:
            _copy(source, residual[i])
            loss, status = _row_residual(residual[i], i, labels, soft, weights[i])
        else:
            loss, status = _row_loss(source, i, labels, soft)
        if status != FINE:
            statuses[block] = status
            return
        if weights[i] > 0:  # a weight of zero removes the sample, also one of infinite loss
            total += weights[i] * loss
    losses[block] = total


@driver
def softmax_loss(
    first: Any,
    last: Any,
    block_size: Any,
    logits: Any,
    labels: Any,
    soft: Any,
    weights: Any,
    residual: Any,
    losses: Any,
    statuses: Any,
) -> None:
    """Write weighted sums of losses to `losses`, one per block, and eq. 6 to `residual` if given.

    `residual` may be the logits' memory; empty, only the losses are computed.
    """
    for block in range(first, last):
        _softmax_loss_block(
            block, block_size, logits, labels, soft, weights, residual, losses, statuses
        )
