"""Products with X, in register tiles.

``forward`` is ``Z = W Xᵀ + b`` and ``backward`` is ``G += R X`` for a block of rows of X. Each is a
loop over *tiles*: up to 20 vectors of sums that stay in registers while the innermost loop runs
through memory, over the features (forward) or over the rows (backward). Forward sums lanes of
features, so X is read as it lies; one reduction turns them into lanes of rows. The innermost
loops reach 95% of a core's multiply-adds where they are long (`python -m bench kernels`).

The tiles are built as LLVM IR; the NumPy functions above them say what they compute, and run
under ``NUMBA_DISABLE_JIT``. Conventions: see `fastsoftmax._kernels.dense`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsoftmax._jit import Array, block_kernel, compiled_as
from fastsoftmax._kernels.vectors import (
    Accumulators,
    Builder,
    Registers,
    Value,
    Vectors,
    cases,
    integer,
    plain_loop,
    registers,
    target_constant,
    vector_lanes,
)

#: Rows of a forward tile and vectors of features in a backward tile: four loads from X, which
#: each cross a cache line where X is not aligned, against four times as many products.
ROWS = VECTORS = 4

#: Backward tiles are this wide, or a whole fraction of it.
STRIP_BYTES = 256

#: Blocks whose products add up in the dtype of X before `flush`: 2048 rows of float32 sums, with a
#: relative error of some 1e-6 (1e-5 where all terms have one sign).
FLUSH_BLOCKS = 32

#: Parameters and gradients start on a cache line; their rows are whole vectors of any CPU.
_LINE_BYTES = 64


def padded_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return zeros for parameters or gradients, the last axis padded to whole vectors."""
    width = -(-shape[-1] // 16) * 16  # 64 bytes of float32; float64 has the same shape
    padded = (*shape[:-1], width)
    size = math.prod(padded) * dtype.itemsize
    memory = np.zeros(size + _LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % _LINE_BYTES
    return memory[start : start + size].view(dtype).reshape(padded)


def most_classes(array: Array) -> int:
    """Return the most classes of a tile, 4 times which are sums in registers.

    20 sums for 32 registers: 24 made no shape faster, and the kernels a tenth longer to compile.
    12 sums for the 16 registers of AVX2, which leaves 3 factors and 1 load; 8 of the older ones,
    where a product takes a register of its own before it is added.
    """
    return 5


def _most_classes(registers: Registers) -> int:
    if registers.n_registers == 32:
        return 5
    return 3 if registers.n_bytes == 32 else 2


target_constant(most_classes, lambda registers, itemsize: _most_classes(registers))


# --- Forward: ROWS rows x up to 5 classes, a loop over vectors of features ------------------------


def forward_tile(
    X: Array, i: int, last: int, params: Array, k: int, n_classes: int, logits: Array, lane: int,
    ahead: int,
) -> None:  # fmt: skip
    """Write ``logits[k:k + n_classes, lane:lane + ROWS]`` from rows i, i + 1, ... of X.

    Rows beyond `last` are replaced by it; their lanes hold numbers that nobody reads. The rows
    `ahead` of these are asked for: rows of 4 at a time are too short for the hardware to foresee
    the next ones, and a pass over 100 features took twice as long.
    """
    x = X[np.minimum(np.arange(i, i + ROWS), last)]
    W, b = params[k : k + n_classes, : X.shape[1]], params[k : k + n_classes, X.shape[1]]
    logits[k : k + n_classes, lane : lane + ROWS] = W @ x.T + b[:, None]


@intrinsic
def _forward_tile(
    typingctx: Any, X: Any, i: Any, last: Any, params: Any, k: Any, n_classes: Any, logits: Any,
    lane: Any, ahead: Any,
) -> Any:  # fmt: skip
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Value:
        x, w, z = (
            context.make_array(signature.args[p])(context, builder, args[p]) for p in (0, 3, 6)
        )
        _, i, last, _, k, n_classes, _, lane, ahead = args
        v = Vectors(context, builder, X.dtype)
        n_features = cgutils.unpack_tuple(builder, x.shape)[1]
        n_rest = builder.urem(n_features, integer(v.lanes))
        n_whole = builder.sub(n_features, n_rest)
        rest = v.first_lanes(n_rest)
        row_bytes = cgutils.unpack_tuple(builder, x.strides)[0]
        ahead = builder.mul(row_bytes, ahead)
        rows = []
        for r in range(ROWS):
            row = builder.add(i, integer(r))
            inside = builder.icmp_signed("<", row, last)
            rows.append(v.address(x, builder.select(inside, row, last), integer(0)))

        def build(size: int) -> None:
            classes = [builder.add(k, integer(c)) for c in range(size)]
            coefs = [v.address(w, c, integer(0)) for c in classes]
            sums = Accumulators(v, [[v.zero] * ROWS] * size)

            def add(j: Value, mask: Value | None = None) -> None:
                factors = [v.load(v.shift(coef, j)) for coef in coefs]
                for r in range(ROWS):
                    x_r = v.load(v.shift(rows[r], j), mask)
                    v.prefetch(builder.add(v.shift(rows[r], j), ahead))
                    for c in range(size):
                        sums.add_product(c, r, x_r, factors[c])

            with plain_loop(builder, integer(0), n_whole, integer(v.lanes)) as j:
                add(j)
            with builder.if_then(builder.icmp_signed(">", n_rest, integer(0))):
                add(n_whole, rest)
            for c in range(size):
                bias = v.broadcast(v.shift(coefs[c], n_features), ROWS)
                logits_of_rows = builder.fadd(v.four_sums(sums.row(c)), bias)
                v.store(logits_of_rows, v.address(z, classes[c], lane))

        cases(builder, n_classes, range(1, _most_classes(registers(context)) + 1), build)
        return context.get_dummy_value()

    return types.void(X, i, last, params, k, n_classes, logits, lane, ahead), codegen


@compiled_as(forward_tile)
def _overload_forward_tile(
    X: Any, i: Any, last: Any, params: Any, k: Any, n_classes: Any, logits: Any, lane: Any,
    ahead: Any,
) -> Any:  # fmt: skip
    return lambda X, i, last, params, k, n_classes, logits, lane, ahead: _forward_tile(
        X, i, last, params, k, n_classes, logits, lane, ahead
    )


@block_kernel
def forward(X: Array, first: int, n: int, params: Array, logits: Array) -> None:
    """Write ``logits[k, i] = X[first + i] · W[k] + b[k]`` for ``i < n``; W and b from `params`.

    Lanes from `n` up to the next multiple of `ROWS` are overwritten, too.
    """
    n_rows = params.shape[0]
    n_groups = (n_rows + most_classes(X) - 1) // most_classes(X)
    for group in range(n_groups):
        k, stop = group * n_rows // n_groups, (group + 1) * n_rows // n_groups
        ahead = n if group == 0 else 0
        for i in range(0, n, ROWS):
            forward_tile(X, first + i, first + n - 1, params, k, stop - k, logits, i, ahead)


# --- Backward: up to 5 classes x VECTORS vectors of features, a loop over rows --------------------


def backward_tile(
    X: Array, first: int, n: int, j: int, n_features: int, residual: Array, k: int, n_classes: int,
    gradient: Array,
) -> None:  # fmt: skip
    """Add ``residual[:, :n] @ X[first:first + n]`` for some classes and features to `gradient`.

    `residual` may be a transposed array. Whole vectors of `gradient` are read and written back: no
    other thread may write to the columns up to the next multiple of a vector.

    The classes ``k, ..., k + n_classes - 1`` and the features ``j, ..., j + n_features - 1``,
    at most `VECTORS` vectors.
    """
    x = X[first : first + n, j : j + n_features]
    gradient[k : k + n_classes, j : j + n_features] += residual[k : k + n_classes, :n] @ x


@intrinsic
def _backward_tile(
    typingctx: Any, X: Any, first: Any, n: Any, j: Any, n_features: Any, residual: Any, k: Any,
    n_classes: Any, gradient: Any,
) -> Any:  # fmt: skip
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Value:
        x, r, g = (
            context.make_array(signature.args[p])(context, builder, args[p]) for p in (0, 5, 8)
        )
        _, first, n, j, n_features, _, k, n_classes, _ = args
        v = Vectors(context, builder, X.dtype)
        start = v.address(x, first, j)
        row_bytes = cgutils.unpack_tuple(builder, x.strides)[0]
        ahead = builder.mul(row_bytes, n)
        lane_bytes = cgutils.unpack_tuple(builder, r.strides)[1]
        # Whole tiles need no mask; narrower ones have 1 to VECTORS vectors, the last one masked.
        whole = builder.icmp_signed("==", n_features, integer(VECTORS * v.lanes))
        n_before = builder.udiv(builder.sub(n_features, integer(1)), integer(v.lanes))
        n_last = builder.sub(n_features, builder.mul(n_before, integer(v.lanes)))
        last_lanes = v.first_lanes(n_last)
        shape = builder.select(whole, integer(0), builder.add(n_before, integer(1)))

        def build(key: int) -> None:
            size, masked = divmod(key, VECTORS + 1)
            columns = [integer(b * v.lanes) for b in range(masked or VECTORS)]
            masks = [None] * (len(columns) - 1) + [last_lanes if masked else None]
            classes = [builder.add(k, integer(c)) for c in range(size)]
            residuals = [v.address(r, c, integer(0)) for c in classes]
            targets = [[v.shift(v.address(g, c, j), b) for b in columns] for c in classes]
            sums = Accumulators(v, [[v.zero] * len(columns)] * size)
            with plain_loop(builder, integer(0), n, integer(1)) as i:
                row = builder.add(start, builder.mul(i, row_bytes))
                lane = builder.mul(i, lane_bytes)
                factors = [v.broadcast(builder.add(r_k, lane)) for r_k in residuals]
                for b, column in enumerate(columns):
                    x_b = v.load(v.shift(row, column), masks[b])
                    v.prefetch(builder.add(v.shift(row, column), ahead))
                    for c in range(size):
                        sums.add_product(c, b, x_b, factors[c])
            for c in range(size):
                # Added last: the sum over a chunk then rounds like that over its blocks.
                for value, target in zip(sums.row(c), targets[c], strict=True):
                    v.store(builder.fadd(v.load(target), value), target)

        most = _most_classes(registers(context))
        key = builder.add(builder.mul(n_classes, integer(VECTORS + 1)), shape)
        cases(builder, key, range(VECTORS + 1, (most + 1) * (VECTORS + 1)), build)
        return context.get_dummy_value()

    signature = types.void(X, first, n, j, n_features, residual, k, n_classes, gradient)
    return signature, codegen


@compiled_as(backward_tile)
def _overload_backward_tile(
    X: Any, first: Any, n: Any, j: Any, n_features: Any, residual: Any, k: Any, n_classes: Any,
    gradient: Any,
) -> Any:  # fmt: skip
    return lambda X, first, n, j, n_features, residual, k, n_classes, gradient: _backward_tile(
        X, first, n, j, n_features, residual, k, n_classes, gradient
    )


@block_kernel
def backward_part(
    X: Array, first: int, n: int, residual: Array, rows: tuple[int, int], columns: tuple[int, int],
    gradient: Array,
) -> None:  # fmt: skip
    """Add ``R X`` over a block to some rows and columns of `gradient`; ``residual[k, i < n]``.

    A part starts at a multiple of `STRIP_BYTES`.
    """
    width = VECTORS * vector_lanes(X)
    n_rows = rows[1] - rows[0]
    n_groups = (n_rows + most_classes(X) - 1) // most_classes(X)
    for j in range(columns[0], columns[1], width):
        for group in range(n_groups):
            k = rows[0] + group * n_rows // n_groups
            stop = rows[0] + (group + 1) * n_rows // n_groups
            n_columns = min(width, columns[1] - j)
            backward_tile(X, first, n, j, n_columns, residual, k, stop - k, gradient)


@block_kernel
def add_row_sums(residual: Array, n: int, rows: tuple[int, int], gradient: Array, j: int) -> None:
    """Add the sums of some rows of `residual` to column `j` of `gradient`."""
    for k in range(rows[0], rows[1]):
        total = residual.dtype.type(0)
        for i in range(n):
            total += residual[k, i]
        gradient[k, j] += total


@block_kernel
def backward(X: Array, first: int, n: int, residual: Array, gradient: Array) -> None:
    """Add ``[R X, sums of R]`` over a block to `gradient`; ``residual[k, i]`` for ``i < n``."""
    rows, columns = (0, residual.shape[0]), (0, X.shape[1])
    backward_part(X, first, n, residual, rows, columns, gradient)
    add_row_sums(residual, n, rows, gradient, X.shape[1])


@block_kernel
def flush(partial: Array, gradient: Array) -> None:
    """Add ``partial`` to the float64 ``gradient`` and empty it."""
    zero = partial.dtype.type(0)
    for k in range(gradient.shape[0]):
        source, target = partial[k], gradient[k]
        for j in range(target.shape[0]):
            target[j] += source[j]
            source[j] = zero
