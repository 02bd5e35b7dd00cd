"""Coordinate descent on a quadratic model plus a penalty that falls apart into coordinates."""

from __future__ import annotations

from fastsoftmax._jit import Array, driver, exact_kernel

#: Numbers in `gains`: those of the last sweep and of all, the number of sweeps, and whether little
#: is left.
N_GAINS = 4
LAST, TOTAL, N_SWEEPS, IS_DONE = range(N_GAINS)

#: Least curvature of a coordinate, in units of its own before the quasi-Newton correction, which
#: is positive but for rounding.
_LEAST = 1e-3


@exact_kernel
def _minimum(
    old: float, slope: float, curvature: float, kink: float, lower: float, upper: float
) -> float:
    """Return where a parabola plus ``kink |x|`` is least within bounds."""
    new = old
    if curvature > 0.0:
        new = old - slope / curvature
        threshold = kink / curvature
        if new > threshold:
            new -= threshold
        elif new < -threshold:
            new += threshold
        else:
            new = 0.0
    elif kink > 0.0:
        new = 0.0
    return min(max(new, lower), upper)


@exact_kernel
def _is_done(gain: float, enough: float, gains: Array) -> bool:
    """Take down the gain of a sweep; tell whether little is left."""
    before = gains[LAST]
    gains[LAST] = gain
    gains[TOTAL] += gain
    gains[N_SWEEPS] += 1.0
    # A geometric series: gain (q + q^2 + ...) with q = gain / before.
    return gain * gain <= enough * gains[TOTAL] * (before - gain)


@driver
def descend(
    first: int,
    last: int,
    blocks: Array,
    scale: float,
    l2: Array,
    l1: Array,
    lower: Array,
    upper: Array,
    gradient: Array,
    left: Array,
    right: Array,
    enough: float,
    point: Array,
    step: Array,
    products: Array,
    shares: Array,
    gains: Array,
) -> None:
    """Sweep ``last - first`` times over the coordinates, or until little is left to gain.

    The model is ``g·d + d·B d / 2 + sum_j l1_j |x_j + d_j|`` within bounds, with
    ``B = scale * blocks + diag(l2) - left rightᵀ``.

    Parameters
    ----------
    first, last : int
    blocks : ndarray of shape (n_blocks or 1, m, m)
        Diagonal blocks; one may serve all.
    scale : float
    l2, l1, lower, upper, gradient : ndarray of shape (n_blocks, m)
    left, right : ndarray of shape (n_blocks, m, rank)
    enough : float
        Share of all gains that is little. What is left is extrapolated from two sweeps.
    point, step : ndarray of shape (n_blocks, m)
        x + d, exact at kinks and bounds, and d, updated.
    products : ndarray of shape (n_blocks, m)
        ``blocks d``, updated.
    shares : ndarray of shape (rank,)
        ``leftᵀ d``, updated.
    gains : ndarray of shape (N_GAINS,)
        By how much the model falls.

    References
    ----------
    Friedman, Hastie & Tibshirani (2010), J. Stat. Softw. 33, section 2.
    """
    n_blocks, m, rank = left.shape
    for _ in range(first, last):
        gain = 0.0
        for k in range(n_blocks):
            block = blocks[k % len(blocks)]
            for j in range(m):
                slope = gradient[k, j] + scale * products[k, j] + l2[k, j] * step[k, j]
                own = scale * block[j, j] + l2[k, j]
                curvature = own
                for r in range(rank):
                    slope -= right[k, j, r] * shares[r]
                    curvature -= right[k, j, r] * left[k, j, r]
                curvature = max(curvature, _LEAST * own)
                old = point[k, j]
                kink = l1[k, j]
                new = _minimum(old, slope, curvature, kink, lower[k, j], upper[k, j])
                change = new - old
                if change != 0.0:
                    gain -= (slope + 0.5 * curvature * change) * change
                    gain -= kink * (abs(new) - abs(old))
                    point[k, j] = new
                    step[k, j] += change
                    row = block[j]
                    for i in range(m):
                        products[k, i] += change * row[i]
                    for r in range(rank):
                        shares[r] += change * left[k, j, r]
        if _is_done(gain, enough, gains):
            gains[IS_DONE] = 1.0
            return


@driver
def column_curvatures(
    first: int,
    last: int,
    classes: Array,
    columns: Array,
    starts: Array,
    rows: Array,
    values: Array,
    probabilities: Array,
    weights: Array,
    least: float,
    curvatures: Array,
) -> None:
    """Fill in the second derivatives ``sum_i w_i p_ik (1 - p_ik) x_ij^2`` of coordinates.

    The arguments are those of `descend_columns`; the range is one of coordinates. ``p (1 - p)``
    counts as `least` at least.
    """
    for c in range(first, last):
        k, column = classes[c], columns[c]
        total = 0.0
        for e in range(starts[column], starts[column + 1]):
            i = rows[e]
            p = float(probabilities[k, i])
            x = float(values[e])
            total += weights[i] * max(p * (1.0 - p), least) * x * x
        curvatures[c] = total


@driver
def descend_columns(
    first: int,
    last: int,
    chosen: Array,
    classes: Array,
    columns: Array,
    starts: Array,
    rows: Array,
    values: Array,
    probabilities: Array,
    weights: Array,
    curvatures: Array,
    l2: Array,
    l1: Array,
    lower: Array,
    upper: Array,
    gradient: Array,
    enough: float,
    point: Array,
    step: Array,
    moves: Array,
    mean_moves: Array,
    gains: Array,
) -> None:
    """Sweep as `descend` does, where B is the Hessian of a softmax model, by columns of its X.

    ``(B d)_kj = sum_i w_i p_ik x_ij (m_ik - sum_l p_il m_il) + l2_kj d_kj`` with the moves
    ``m_ik = sum_j x_ij d_kj`` of the logits, of which only the entries of changed columns are
    touched. No matrix is formed, and a sweep takes two times the non-zeros of the coordinates.

    Parameters
    ----------
    first, last : int
    chosen : ndarray of shape (n_chosen,), int64
        Numbers of the coordinates to go over.
    classes, columns : ndarray of shape (m,), int64
        Of a coordinate, its k and j.
    starts, rows, values : ndarray of shape (n_columns + 1,), (n_entries,) and (n_entries,)
        The columns of X; `starts` and `rows` are int64.
    probabilities : ndarray of shape (n_rows, n_samples)
    weights : ndarray of shape (n_samples,)
        Of samples, sum 1.
    curvatures : ndarray of shape (m,)
        Those of `column_curvatures`.
    l2, l1, lower, upper, gradient : ndarray of shape (m,)
    enough : float
    point, step : ndarray of shape (m,)
        Updated.
    moves : ndarray of shape (n_rows, n_samples)
        m, updated.
    mean_moves : ndarray of shape (n_samples,)
        ``sum_l p_il m_il``, updated.
    gains : ndarray of shape (N_GAINS,)

    References
    ----------
    Yuan, Ho & Lin (2012), JMLR 13, section 3: the same for one logit.
    """
    for _ in range(first, last):
        gain = 0.0
        for c in chosen:
            k, begin, end = classes[c], starts[columns[c]], starts[columns[c] + 1]
            p, m = probabilities[k], moves[k]
            slope = gradient[c] + l2[c] * step[c]
            for e in range(begin, end):
                i = rows[e]
                slope += weights[i] * p[i] * values[e] * (m[i] - mean_moves[i])
            curvature = curvatures[c] + l2[c]
            old, kink = point[c], l1[c]
            new = _minimum(old, slope, curvature, kink, lower[c], upper[c])
            change = new - old
            if change != 0.0:
                gain -= (slope + 0.5 * curvature * change) * change
                gain -= kink * (abs(new) - abs(old))
                point[c] = new
                step[c] += change
                for e in range(begin, end):
                    i = rows[e]
                    move = change * values[e]
                    m[i] += move
                    mean_moves[i] += p[i] * move
        if _is_done(gain, enough, gains):
            gains[IS_DONE] = 1.0
            return


@driver
def active_hessian(
    first: int,
    last: int,
    classes: Array,
    coordinate_starts: Array,
    starts: Array,
    columns: Array,
    values: Array,
    probabilities: Array,
    weights: Array,
    numbers: Array,
    entries: Array,
    products: Array,
    hessian: Array,
) -> None:
    """Add samples to the lower triangle of the Hessian of some coordinates.

    Parameters
    ----------
    first, last : int
        A range of samples.
    classes : ndarray of shape (m,), int64
        Of the coordinates, in the order of their columns.
    coordinate_starts : ndarray of shape (n_columns + 1,), int64
        Where the coordinates of each column begin.
    starts, columns, values : ndarray of shape (n_samples + 1,), (n_entries,) and (n_entries,)
        The rows of X; columns in ascending order.
    probabilities : ndarray of shape (n_rows, n_samples)
    weights : ndarray of shape (n_samples,)
    numbers, entries, products : ndarray of shape (m,)
        Scratch; int64, float64 and float64.
    hessian : ndarray of shape (m, m)
    """
    for i in range(first, last):
        n = 0
        for e in range(starts[i], starts[i + 1]):
            column = columns[e]
            for a in range(coordinate_starts[column], coordinate_starts[column + 1]):
                numbers[n] = a
                entries[n] = values[e]
                products[n] = values[e] * float(probabilities[classes[a], i])
                n += 1
        for s in range(n):
            a = numbers[s]
            weighted, row = weights[i] * products[s], hessian[a]
            for t in range(s + 1):
                b = numbers[t]
                entry = -products[t]
                if classes[b] == classes[a]:
                    entry += entries[t]
                row[b] += weighted * entry
