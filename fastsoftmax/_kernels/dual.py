"""Dual coordinate ascent for the softmax, over the rows of a sparse X.

Each sample has a vector of dual variables ``a_i``, which at the optimum is ``y_i - p_i``, and the
coefficients are ``W = s sum_i w_i x_i a_iᵀ``, s being one over the penalty's strength. With those
of all other samples fixed, the best a_i solves

    a = y_i - softmax(z + c (a - a_i)),    c = s w_i ||x_i||²

where z are the logits at present. That is an equation in K unknowns whose matrix is a diagonal plus
one of rank one, so that a Newton step costs a few operations per class (`_solve`); two or three are
enough. Then W takes up the change (Yu, Huang & Lin, 2011, Dual coordinate descent methods for
logistic regression and maximum entropy models, Machine Learning 85; Shalev-Shwartz & Zhang, 2013,
Stochastic dual coordinate ascent, JMLR 14).

A visit to a sample sees what all visits before it did. That is why an epoch gains as much as many
passes, and why it runs in one thread.

Conventions: see `fastsoftmax._kernels.csr`. All floats are of one dtype but for `sums`.
``factors[i]`` is ``s w_i``; a row of factor 0 is as if removed. Rows of ``scratch[u]``, (., width),
belong to the sample at hand, and what is added up in ``sums[u]``, (N_SUM_ROWS, width + 1), is
multiplied by the factors.
"""

from __future__ import annotations

import math

from fastsoftmax._jit import Array, block_kernel, driver
from fastsoftmax._kernels.csr import add_products, times_table
from fastsoftmax._kernels.exp import exp_nonpositive

#: Samples that stand together and are visited together: rows of X, of duals and of targets are
#: read ahead then. On 64,000 TF-IDF texts of 54 classes an epoch takes 31 ms, and 45 ms where each
#: sample is drawn alone; it gains as much.
RUN = 16
#: Newton steps for one sample. An equation counts as solved by a step from a residual below
#: `_CLOSE`, or one that moves logits by less than `_LAST`: the next visit goes on from there.
_MOST_STEPS = 12
_CLOSE, _LAST = 0.01, 0.5
#: Minus the logit of padding, and what keeps 0 / 0 from being one; both exist in float32.
_NEVER, _TINY = 1e30, 1e-30

LOGITS, TARGET, DUAL, MODEL, CHANGE = range(5)
N_SAMPLE_ROWS = 5
#: Rows of sums: losses and gaps (in columns 0 and 1), duals, and ``p (1 - p)``.
TOTALS, DUALS, CURVATURE = range(3)
N_SUM_ROWS = 3


@driver
def ascend(
    first, last, data, indices, indptr, runs, labels, soft, offset, factors, table, duals, n_rows,
    scratch, sums,
):  # fmt: skip
    """Visit the samples of some runs: maximise in the duals of each, and move the table with them.

    Sums are of what the visits found.
    """
    for u in range(first, last):
        for r in range(runs.shape[0]):
            start = RUN * runs[r]
            for i in range(start, min(start + RUN, duals.shape[0])):
                if factors[i] > 0:
                    _look_up(
                        i, data, indices, indptr, labels, soft, offset, table, duals[i], n_rows,
                        scratch[u],
                    )  # fmt: skip
                    _visit(
                        i, data, indices, indptr, factors[i], table, duals[i], n_rows, scratch[u],
                        sums[u],
                    )  # fmt: skip


@driver
def measure(
    first, last, data, indices, indptr, bounds, labels, soft, offset, factors, table, duals,
    n_rows, scratch, sums, out,
):  # fmt: skip
    """Take the same sums with the table as it is, and add the gradients of losses to ``out[u]``.

    Those of the intercept are `DUALS` of the sums, with a minus: in the place of a sample's duals
    stands its residual.
    """
    for u in range(first, last):
        for i in range(bounds[u], bounds[u + 1]):
            if factors[i] > 0:
                _look_up(
                    i, data, indices, indptr, labels, soft, offset, table, duals[i], n_rows,
                    scratch[u],
                )  # fmt: skip
                _add_gradient(
                    i, data, indices, indptr, factors[i], n_rows, scratch[u], sums[u], out[u]
                )  # fmt: skip


@block_kernel
def _look_up(
    i: int, data: Array, indices: Array, indptr: Array, labels: Array, soft: Array, offset: Array,
    table: Array, a: Array, n_rows: int, scratch: Array,
) -> None:  # fmt: skip
    """Write a sample's logits, its target and its duals."""
    zero, one = table.dtype.type(0), table.dtype.type(1)
    width, bias = table.shape[1], table[table.shape[0] - 1]
    z, y, v = scratch[LOGITS], scratch[TARGET], scratch[DUAL]
    times_table(data, indices, indptr[i], indptr[i + 1], table, scratch, LOGITS)
    for k in range(width):
        z[k] += bias[k]
        y[k] = zero
        v[k] = a[k]
    if offset.shape[0] > 0:
        for k in range(n_rows):
            z[k] += offset[i, k]
    if n_rows == 1:
        y[0] = labels[i] if labels.shape[0] > 0 else soft[i, 1]
        return
    for k in range(n_rows, width):
        z[k] = -table.dtype.type(_NEVER)
    if labels.shape[0] > 0:
        y[labels[i]] = one
    else:
        for k in range(n_rows):
            y[k] = soft[i, k]


@block_kernel
def _visit(
    i: int, data: Array, indices: Array, indptr: Array, factor: float, table: Array, a: Array,
    n_rows: int, scratch: Array, sums: Array,
) -> None:  # fmt: skip
    z, y, v, p, change = (
        scratch[LOGITS],
        scratch[TARGET],
        scratch[DUAL],
        scratch[MODEL],
        scratch[CHANGE],
    )
    start, stop = indptr[i], indptr[i + 1]
    square = table.dtype.type(0)
    for entry in range(start, stop):
        square += data[entry] * data[entry]
    if n_rows == 1:
        _solve_logistic(factor, factor * square, z, y, v, p, sums[TOTALS])
    else:
        _solve(factor, factor * square, z, y, v, p, change, sums[TOTALS])
    for k in range(a.shape[0]):
        change[k] = factor * (v[k] - a[k])
        a[k] = v[k]
        p[k] = y[k] - v[k]
    _add_up(factor, v, p, n_rows, sums)
    add_products(data, indices, start, stop, scratch, CHANGE, table)


@block_kernel
def _add_gradient(
    i: int, data: Array, indices: Array, indptr: Array, factor: float, n_rows: int, scratch: Array,
    sums: Array, out: Array,
) -> None:  # fmt: skip
    z, y, v, p, change = (
        scratch[LOGITS],
        scratch[TARGET],
        scratch[DUAL],
        scratch[MODEL],
        scratch[CHANGE],
    )
    if n_rows == 1:
        _compare_logistic(factor, z, y, v, p, sums[TOTALS])
    else:
        _compare(factor, z, y, v, p, sums[TOTALS])
    for k in range(v.shape[0]):
        v[k] = y[k] - p[k]
        change[k] = -factor * v[k]
    _add_up(factor, v, p, n_rows, sums)
    add_products(data, indices, indptr[i], indptr[i + 1], scratch, CHANGE, out)


@block_kernel
def _add_up(factor: float, v: Array, p: Array, n_rows: int, sums: Array) -> None:
    for k in range(n_rows):
        sums[DUALS, k] += float(factor * v[k])
        sums[CURVATURE, k] += float(factor * p[k] * (p.dtype.type(1) - p[k]))


@block_kernel
def _softmax(z: Array, p: Array) -> float:
    """Write the probabilities; return the logarithm of the sum of ``exp(z)``."""
    kind = z.dtype.type
    peak, total = z[0], kind(0)
    for k in range(z.shape[0]):
        peak = max(peak, z[k])
    for k in range(z.shape[0]):
        p[k] = exp_nonpositive(z[k] - peak)
        total += p[k]
    inverse = kind(1) / total
    for k in range(z.shape[0]):
        p[k] *= inverse
    return float(peak) + math.log(float(total))


@block_kernel
def _compare(factor: float, z: Array, y: Array, v: Array, p: Array, totals: Array) -> None:
    """Write the probabilities; add a sample's loss and its gap.

    The gap is the Kullback-Leibler divergence of the model from ``q = y - v``, to second order and
    made symmetric: ``sum_k (p - q)² / (p + q)``. Gaps add up to the distance between the primal and
    the dual objective.
    """
    kind = z.dtype.type
    log_sum = _softmax(z, p)
    own, gap = kind(0), kind(0)
    for k in range(z.shape[0]):
        own += y[k] * z[k]
        q = y[k] - v[k]
        gap += (p[k] - q) * (p[k] - q) / (p[k] + abs(q) + kind(_TINY))
    totals[0] += float(factor) * (log_sum - float(own))
    totals[1] += float(factor * gap)


@block_kernel
def _solve(
    factor: float, c: float, z: Array, y: Array, v: Array, p: Array, d: Array, totals: Array
) -> None:
    """Solve ``v = y - softmax(z + c (v - v_0))`` from v_0, and overwrite v; z moves along.

    Newton's step d solves ``(I + c diag(p) - c p pᵀ) d = -F``, F being the residual. It is cut to
    ``log(1 + r) / r`` of itself, r being the range of the moves ``c d`` of the logits, so that the
    convex function behind it falls (Sun & Tran-Dinh, 2019, Generalized self-concordant functions,
    Mathematical Programming 178, nu = 2).
    """
    kind = z.dtype.type
    zero, one = kind(0), kind(1)
    _compare(factor, z, y, v, p, totals)
    for step in range(_MOST_STEPS):
        if step > 0:
            _softmax(z, p)
        worst, above, below = zero, zero, zero
        for k in range(z.shape[0]):
            F = v[k] - (y[k] - p[k])
            worst = max(worst, abs(F))
            share = p[k] / (one + c * p[k])
            above += share * F
            below += share
        mean = c * above / below
        low, high = zero, zero
        for k in range(z.shape[0]):
            d[k] = -(v[k] - (y[k] - p[k]) + mean * p[k]) / (one + c * p[k])
            low, high = min(low, d[k]), max(high, d[k])
        reach = c * (high - low)
        cut = kind(math.log1p(float(reach)) / float(reach)) if reach > kind(_LAST) else one
        for k in range(z.shape[0]):
            v[k] += cut * d[k]
            z[k] += cut * c * d[k]
        if worst < kind(_CLOSE) or reach < kind(_LAST):
            break


@block_kernel
def _compare_logistic(factor: float, z: Array, y: Array, v: Array, p: Array, totals: Array) -> None:
    """Do as `_compare` for one logit row: p is the probability of the second class."""
    kind = z.dtype.type
    zero, one = kind(0), kind(1)
    e = exp_nonpositive(-abs(z[0]))
    p[0] = (one if z[0] > zero else e) / (one + e)
    q = y[0] - v[0]
    sizes = p[0] + abs(q) + kind(_TINY), one - p[0] + abs(one - q) + kind(_TINY)
    linear = y[0] * max(-z[0], zero) + (one - y[0]) * max(z[0], zero)
    totals[0] += float(factor) * (float(linear) + math.log1p(float(e)))
    totals[1] += float(factor * (p[0] - q) * (p[0] - q) * (one / sizes[0] + one / sizes[1]))


@block_kernel
def _solve_logistic(
    factor: float, c: float, z: Array, y: Array, v: Array, p: Array, totals: Array
) -> None:
    """Do as `_solve` for one logit row, ``v = y - p``."""
    kind = z.dtype.type
    zero, one = kind(0), kind(1)
    _compare_logistic(factor, z, y, v, p, totals)
    for _step in range(_MOST_STEPS):
        e = exp_nonpositive(-abs(z[0]))
        F = v[0] - (y[0] - (one if z[0] > zero else e) / (one + e))
        d = -F / (one + c * e / ((one + e) * (one + e)))
        reach = abs(c * d)
        cut = kind(math.log1p(float(reach)) / float(reach)) if reach > kind(_LAST) else one
        v[0] += cut * d
        z[0] += cut * c * d
        if abs(F) < kind(_CLOSE) or reach < kind(_LAST):
            break
