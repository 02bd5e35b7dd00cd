"""Products with X, in register tiles of 4 rows x 4 classes.

Sixteen sums, or coefficients, stay in registers while a loop over the features runs through
memory; LLVM turns that loop into vector code. Conventions: see `fastsoftmax._kernels.dense`.
"""

from __future__ import annotations

from fastsoftmax._jit import Array, block_kernel

#: Blocks whose products add up in the dtype of X before `flush`: 2048 rows of float32 sums, a
#: relative error of about 1e-6 at the worst.
FLUSH_BLOCKS = 32


@block_kernel
def forward(X: Array, first: int, n: int, coef: Array, intercept: Array, logits: Array) -> None:
    """Write ``logits[k, i] = X[first + i] · coef[k] + intercept[k]`` for ``i < n``.

    LLVM turns the loops over features into vector code: 16 sums, 8 loads. Lanes from `n` up to
    the next multiple of 4 are computed from the last row, and nobody reads them.
    """
    n_rows, n_features = coef.shape
    zero = logits.dtype.type(0)
    last = first + n - 1
    k = 0
    while k + 4 <= n_rows:
        c0, c1, c2, c3 = coef[k], coef[k + 1], coef[k + 2], coef[k + 3]
        for i in range(0, n, 4):
            x0 = X[first + i]
            x1 = X[min(first + i + 1, last)]
            x2 = X[min(first + i + 2, last)]
            x3 = X[min(first + i + 3, last)]
            z00 = z01 = z02 = z03 = zero
            z10 = z11 = z12 = z13 = zero
            z20 = z21 = z22 = z23 = zero
            z30 = z31 = z32 = z33 = zero
            for j in range(n_features):
                a0, a1, a2, a3 = c0[j], c1[j], c2[j], c3[j]
                v0, v1, v2, v3 = x0[j], x1[j], x2[j], x3[j]
                z00 += a0 * v0
                z01 += a0 * v1
                z02 += a0 * v2
                z03 += a0 * v3
                z10 += a1 * v0
                z11 += a1 * v1
                z12 += a1 * v2
                z13 += a1 * v3
                z20 += a2 * v0
                z21 += a2 * v1
                z22 += a2 * v2
                z23 += a2 * v3
                z30 += a3 * v0
                z31 += a3 * v1
                z32 += a3 * v2
                z33 += a3 * v3
            b0, b1, b2, b3 = intercept[k], intercept[k + 1], intercept[k + 2], intercept[k + 3]
            logits[k, i], logits[k, i + 1], logits[k, i + 2], logits[k, i + 3] = (
                z00 + b0,
                z01 + b0,
                z02 + b0,
                z03 + b0,
            )
            logits[k + 1, i], logits[k + 1, i + 1], logits[k + 1, i + 2], logits[k + 1, i + 3] = (
                z10 + b1,
                z11 + b1,
                z12 + b1,
                z13 + b1,
            )
            logits[k + 2, i], logits[k + 2, i + 1], logits[k + 2, i + 2], logits[k + 2, i + 3] = (
                z20 + b2,
                z21 + b2,
                z22 + b2,
                z23 + b2,
            )
            logits[k + 3, i], logits[k + 3, i + 1], logits[k + 3, i + 2], logits[k + 3, i + 3] = (
                z30 + b3,
                z31 + b3,
                z32 + b3,
                z33 + b3,
            )
        k += 4
    while k < n_rows:
        c0 = coef[k]
        for i in range(0, n, 4):
            x0 = X[first + i]
            x1 = X[min(first + i + 1, last)]
            x2 = X[min(first + i + 2, last)]
            x3 = X[min(first + i + 3, last)]
            z00 = z01 = z02 = z03 = zero
            for j in range(n_features):
                z00 += c0[j] * x0[j]
                z01 += c0[j] * x1[j]
                z02 += c0[j] * x2[j]
                z03 += c0[j] * x3[j]
            logits[k, i] = z00 + intercept[k]
            logits[k, i + 1] = z01 + intercept[k]
            logits[k, i + 2] = z02 + intercept[k]
            logits[k, i + 3] = z03 + intercept[k]
        k += 1


@block_kernel
def backward(X: Array, first: int, n: int, residual: Array, gradient: Array) -> None:
    """Add ``Rᵀ X`` and the sums of R over a block to ``gradient`` (n_rows, n_features + 1).

    ``residual[k, i]`` for ``i < n``; lanes up to the next multiple of 4 are overwritten by zeros.
    """
    n_rows, n_lanes = residual.shape
    n_features = X.shape[1]
    zero = residual.dtype.type(0)
    last = first + n - 1
    for k in range(n_rows):
        for i in range(n, min((n + 3) // 4 * 4, n_lanes)):
            residual[k, i] = zero
        total = zero
        for i in range(n):
            total += residual[k, i]
        gradient[k, n_features] += total
    k = 0
    while k + 4 <= n_rows:
        g0, g1, g2, g3 = gradient[k], gradient[k + 1], gradient[k + 2], gradient[k + 3]
        r0, r1, r2, r3 = residual[k], residual[k + 1], residual[k + 2], residual[k + 3]
        for i in range(0, n, 4):
            x0 = X[first + i]
            x1 = X[min(first + i + 1, last)]
            x2 = X[min(first + i + 2, last)]
            x3 = X[min(first + i + 3, last)]
            a00, a01, a02, a03 = r0[i], r0[i + 1], r0[i + 2], r0[i + 3]
            a10, a11, a12, a13 = r1[i], r1[i + 1], r1[i + 2], r1[i + 3]
            a20, a21, a22, a23 = r2[i], r2[i + 1], r2[i + 2], r2[i + 3]
            a30, a31, a32, a33 = r3[i], r3[i + 1], r3[i + 2], r3[i + 3]
            for j in range(n_features):
                v0, v1, v2, v3 = x0[j], x1[j], x2[j], x3[j]
                g0[j] += a00 * v0 + a01 * v1 + a02 * v2 + a03 * v3
                g1[j] += a10 * v0 + a11 * v1 + a12 * v2 + a13 * v3
                g2[j] += a20 * v0 + a21 * v1 + a22 * v2 + a23 * v3
                g3[j] += a30 * v0 + a31 * v1 + a32 * v2 + a33 * v3
        k += 4
    while k < n_rows:
        g0 = gradient[k]
        r0 = residual[k]
        for i in range(0, n, 4):
            x0 = X[first + i]
            x1 = X[min(first + i + 1, last)]
            x2 = X[min(first + i + 2, last)]
            x3 = X[min(first + i + 3, last)]
            a00, a01, a02, a03 = r0[i], r0[i + 1], r0[i + 2], r0[i + 3]
            for j in range(n_features):
                g0[j] += a00 * x0[j] + a01 * x1[j] + a02 * x2[j] + a03 * x3[j]
        k += 1


@block_kernel
def flush(partial: Array, gradient: Array) -> None:
    """Add ``partial`` to the float64 ``gradient`` and empty it."""
    zero = partial.dtype.type(0)
    for k in range(partial.shape[0]):
        source, target = partial[k], gradient[k]
        for j in range(source.shape[0]):
            target[j] += source[j]
            source[j] = zero
