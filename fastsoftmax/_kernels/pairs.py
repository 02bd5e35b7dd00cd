"""Limited-memory BFGS on vectors so long that each read of one counts.

All inner products of an iteration are taken in one sweep over the vectors, in which the newest
pair is made; the direction is one more: 2m + 2 reads each for m pairs, where the two-loop recursion
takes 10 m.

Conventions: vectors are flat, of one float dtype; S and Y (n_slots, n) hold the steps and gradient
changes of the pairs, ``slots`` the rows in use. M (n,) is a diagonal metric. A unit of work is a
run of elements between two ``bounds``; its sums go to a row of its own.
"""

from __future__ import annotations

from fastsoftmax._jit import Array, block_kernel, driver

#: Elements that are multiplied with all others while they stay in the first-level cache.
BLOCK = 512

#: Rows of what `inner_products` writes for each unit, one column per slot; `SQUARES` are ``s's``
#: and ``y'y`` of the newest pair.
S_Y, Y_MY, S_G, Y_MG, G_MG, SQUARES = range(6)
N_SUMS = 6


@block_kernel
def _dot(u: Array, v: Array) -> float:
    """Return the inner product; a block of float32 adds up in float32."""
    total = u.dtype.type(0)
    for i in range(u.shape[0]):
        total += u[i] * v[i]
    return float(total)


@block_kernel
def _times(u: Array, v: Array, out: Array) -> None:
    for i in range(u.shape[0]):
        out[i] = u[i] * v[i]


@driver
def inner_products(first, last, bounds, S, Y, slots, newest, t, M, g, scratch, norms, out):
    """Make a pair of a direction and the gradient at its end, and take all inner products.

    `newest` is its slot, or -1 if there is none: ``s *= t`` and ``y, g = y - g, y``. Then ``s'y``
    and ``y'My`` of all pairs with the newest, ``s'g``, ``y'Mg`` and ``g'Mg`` go to ``out[u]``; the
    largest ``|g|`` of every so many elements to ``norms[u]``, (BLOCK,).
    """
    for u in range(first, last):
        _inner_products(
            u, bounds, S, Y, slots, newest, t, M, g, scratch[u], norms[u], out[u]
        )  # fmt: skip


@block_kernel
def _inner_products(
    u: int, bounds: Array, S: Array, Y: Array, slots: Array, newest: int, t: float, M: Array,
    g: Array, scratch: Array, norms: Array, out: Array,
) -> None:  # fmt: skip
    zero = g.dtype.type(0)
    for i in range(BLOCK):
        norms[i] = zero
    for row in range(out.shape[0]):
        for slot in range(out.shape[1]):
            out[row, slot] = 0.0
    for start in range(bounds[u], bounds[u + 1], BLOCK):
        stop = min(start + BLOCK, bounds[u + 1])
        n = stop - start
        metric, gradient = M[start:stop], g[start:stop]
        Mg, My = scratch[0, :n], scratch[1, :n]
        if newest >= 0:
            _make_pair(S[newest, start:stop], t, Y[newest, start:stop], gradient)
        _times(metric, gradient, Mg)
        for i in range(n):  # vector code, which a single maximum would not be
            norms[i] = max(norms[i], abs(gradient[i]))
        out[G_MG, 0] += _dot(gradient, Mg)
        if newest >= 0:
            s, y = S[newest, start:stop], Y[newest, start:stop]
            _times(metric, y, My)
            out[SQUARES, 0] += _dot(s, s)
            out[SQUARES, 1] += _dot(y, y)
            for q in range(slots.shape[0]):
                slot = slots[q]
                out[S_Y, slot] += _dot(S[slot, start:stop], y)
                out[Y_MY, slot] += _dot(Y[slot, start:stop], My)
                out[S_G, slot] += _dot(S[slot, start:stop], gradient)
                out[Y_MG, slot] += _dot(Y[slot, start:stop], Mg)


@block_kernel
def _make_pair(s: Array, t: float, y: Array, g: Array) -> None:
    a = s.dtype.type(t)
    for i in range(s.shape[0]):
        new = y[i]
        y[i] = new - g[i]
        g[i] = new
        s[i] *= a


@driver
def combine(first, last, bounds, S, Y, slots, of_s, of_y, M, g, of_g, d, slopes):
    """Write ``d = M (of_g g + sum of_y y) + sum of_s s``; ``slopes[u]`` gets a part of ``d'g``.

    `of_s` and `of_y` have a number per slot. `d` may be a row of S that is not in use.
    """
    for u in range(first, last):
        slopes[u] = _combine(u, bounds, S, Y, slots, of_s, of_y, M, g, of_g, d)


@block_kernel
def _combine(
    u: int, bounds: Array, S: Array, Y: Array, slots: Array, of_s: Array, of_y: Array, M: Array,
    g: Array, of_g: float, d: Array,
) -> float:  # fmt: skip
    kind = d.dtype.type
    slope = 0.0
    for start in range(bounds[u], bounds[u + 1], BLOCK):
        stop = min(start + BLOCK, bounds[u + 1])
        out, gradient, metric = d[start:stop], g[start:stop], M[start:stop]
        a = kind(of_g)
        for i in range(stop - start):
            out[i] = a * gradient[i]
        for q in range(slots.shape[0]):
            y, b = Y[slots[q], start:stop], kind(of_y[slots[q]])
            for i in range(stop - start):
                out[i] += b * y[i]
        for i in range(stop - start):
            out[i] *= metric[i]
        for q in range(slots.shape[0]):
            s, c = S[slots[q], start:stop], kind(of_s[slots[q]])
            for i in range(stop - start):
                out[i] += c * s[i]
        slope += _dot(out, gradient)
    return slope


@driver
def along(first, last, bounds, x, t, d, out):
    """Write ``out = x + t d``."""
    for u in range(first, last):
        _along(x[bounds[u] : bounds[u + 1]], t, d[bounds[u] : bounds[u + 1]],
               out[bounds[u] : bounds[u + 1]])  # fmt: skip


@block_kernel
def _along(x: Array, t: float, d: Array, out: Array) -> None:
    a = x.dtype.type(t)
    for i in range(x.shape[0]):
        out[i] = x[i] + a * d[i]


@driver
def dots(first, last, bounds, u, v, out):
    """Write parts of ``u'v``."""
    for unit in range(first, last):
        total = 0.0
        for start in range(bounds[unit], bounds[unit + 1], BLOCK):
            stop = min(start + BLOCK, bounds[unit + 1])
            total += _dot(u[start:stop], v[start:stop])
        out[unit] = total
