"""Coordinate descent on a quadratic model plus a penalty that falls apart into coordinates."""

from __future__ import annotations

from fastsoftmax._jit import Array, driver

#: Numbers in `gains`: those of the last sweep and of all, the number of sweeps, and whether little
#: is left.
N_GAINS = 4
LAST, TOTAL, N_SWEEPS, IS_DONE = range(N_GAINS)

#: Least curvature of a coordinate, in units of its own before the quasi-Newton correction, which
#: is positive but for rounding.
_LEAST = 1e-3


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
                new = min(max(new, lower[k, j]), upper[k, j])
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
        before = gains[LAST]
        gains[LAST] = gain
        gains[TOTAL] += gain
        gains[N_SWEEPS] += 1.0
        # A geometric series: gain (q + q^2 + ...) with q = gain / before.
        if gain * gain <= enough * gains[TOTAL] * (before - gain):
            gains[IS_DONE] = 1.0
            return
