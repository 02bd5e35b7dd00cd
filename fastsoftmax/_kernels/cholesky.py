"""Cholesky factors and triangular solves, in one thread and a fixed order.

LAPACK would do, were it not for its threads: factoring 585 x 585 takes OpenBLAS 2.5 ms with one
thread, and 6 to 900 ms with two when another process uses a core, because they spin.
"""

from __future__ import annotations

import math

from fastsoftmax._jit import Array, block_kernel, driver


@block_kernel
def _dots(a: Array, i: int, j: int, n: int, out: Array) -> None:
    """Write ``a[i + r, :n] · a[j + c, :n]`` for r, c < 4 to ``out`` (4, 4)."""
    p0, p1, p2, p3 = a[i], a[i + 1], a[i + 2], a[i + 3]
    q0, q1, q2, q3 = a[j], a[j + 1], a[j + 2], a[j + 3]
    s00 = s01 = s02 = s03 = 0.0
    s10 = s11 = s12 = s13 = 0.0
    s20 = s21 = s22 = s23 = 0.0
    s30 = s31 = s32 = s33 = 0.0
    for k in range(n):
        u0, u1, u2, u3 = p0[k], p1[k], p2[k], p3[k]
        v0, v1, v2, v3 = q0[k], q1[k], q2[k], q3[k]
        s00 += u0 * v0
        s01 += u0 * v1
        s02 += u0 * v2
        s03 += u0 * v3
        s10 += u1 * v0
        s11 += u1 * v1
        s12 += u1 * v2
        s13 += u1 * v3
        s20 += u2 * v0
        s21 += u2 * v1
        s22 += u2 * v2
        s23 += u2 * v3
        s30 += u3 * v0
        s31 += u3 * v1
        s32 += u3 * v2
        s33 += u3 * v3
    out[0, 0], out[0, 1], out[0, 2], out[0, 3] = s00, s01, s02, s03
    out[1, 0], out[1, 1], out[1, 2], out[1, 3] = s10, s11, s12, s13
    out[2, 0], out[2, 1], out[2, 2], out[2, 3] = s20, s21, s22, s23
    out[3, 0], out[3, 1], out[3, 2], out[3, 3] = s30, s31, s32, s33


@block_kernel
def _finish_tile(a: Array, i: int, j: int, dots: Array) -> bool:
    """Overwrite the tile at (i, j) by entries of L; return False if a pivot is not positive."""
    for r in range(4):
        for c in range(4 if j < i else r + 1):
            s = a[i + r, j + c] - dots[r, c]
            for k in range(c):
                s -= a[i + r, j + k] * a[j + c, j + k]
            if i + r == j + c:
                if not s > 0.0:
                    return False
                a[i + r, j + c] = math.sqrt(s)
            else:
                a[i + r, j + c] = s / a[j + c, j + c]
    return True


#: Tiles of rows that are done side by side, so that a row read from far is used 16 times.
_PANEL = 16


@driver
def factor(first: int, last: int, a: Array, scratch: Array, status: Array) -> None:
    """Overwrite the lower triangle of ``a`` by L with ``L Lᵀ = a``, in tiles of 4 x 4.

    ``a`` is float64, its order a multiple of 4; tile rows from `first` to `last` are done.
    ``status[0]`` is set to 1 if a pivot is not positive, and the rest is left undone.
    """
    for panel in range(first, last, _PANEL):
        panel_end = min(panel + _PANEL, last)
        for column in range(panel_end):
            for row in range(max(panel, column), panel_end):
                _dots(a, 4 * row, 4 * column, 4 * column, scratch)
                if not _finish_tile(a, 4 * row, 4 * column, scratch):
                    status[0] = 1
                    return


#: Right-hand sides that are solved for side by side, so that L is read once for all of them.
N_RIGHTS = 4


@block_kernel
def _dots_with(row: Array, x: Array, n: int, out: Array) -> None:
    """Write ``x[r, :n] · row[:n]`` to ``out`` for each row r of ``x``, of which 1 or 4 exist."""
    if len(x) == 1:
        b, s = x[0], 0.0
        for k in range(n):
            s += row[k] * b[k]
        out[0] = s
        return
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    s0 = s1 = s2 = s3 = 0.0
    for k in range(n):
        u = row[k]
        s0 += u * x0[k]
        s1 += u * x1[k]
        s2 += u * x2[k]
        s3 += u * x3[k]
    out[0], out[1], out[2], out[3] = s0, s1, s2, s3


@block_kernel
def _subtract(x: Array, scale: float, row: Array, n: int) -> None:
    for k in range(n):
        x[k] -= scale * row[k]


@driver
def solve(first: int, last: int, a: Array, x: Array, scratch: Array) -> None:
    """Overwrite the rows of ``x[first:last]`` by solutions of ``L Lᵀ x = b``.

    ``x`` is (n_groups, 1 or 4, n), ``scratch`` (n_groups, 4).
    """
    n = x.shape[2]
    for group in range(first, last):
        rights, dots = x[group], scratch[group]
        for i in range(n):
            _dots_with(a[i], rights, i, dots)
            for r in range(len(rights)):
                rights[r, i] = (rights[r, i] - dots[r]) / a[i, i]
        for back in range(n):
            i = n - 1 - back
            for r in range(len(rights)):
                rights[r, i] /= a[i, i]
                _subtract(rights[r], rights[r, i], a[i], i)
