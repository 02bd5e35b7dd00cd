"""X as a C-order array, read in place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import curvature
from fastsoftmax._designs.base import Array, Float64Array, Response
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import dense as kernels
from fastsoftmax._kernels import predict as predict_kernels
from fastsoftmax._kernels.lanes import N_LANE_ROWS
from fastsoftmax._threads import sweep
from fastsoftmax._validation import Targets, Weights

_MOST_LANES = 64
_MOST_CHUNKS = 64
#: A block of X and its logits stay in a core's second-level cache between their two uses.
_BLOCK_BYTES = 2**19
#: Operations of one call into a kernel: about 0.1 s, after which Python may see Ctrl-C.
_CALL_WORK = 4e9
#: Chunks hold a gradient each; together they stay below this, or there are 8 chunks.
_ACCUMULATOR_BYTES = 2**25


class _Chunks:
    """How the rows are cut: by shapes only, never by the number of threads."""

    def __init__(self, n_samples: int, n_features: int, n_rows: int, itemsize: int) -> None:
        self.n_lanes = _MOST_LANES
        while self.n_lanes > 8 and self.n_lanes * (n_features + n_rows) * itemsize > _BLOCK_BYTES:
            self.n_lanes //= 2
        n_blocks = -(-n_samples // self.n_lanes)
        accumulator = n_rows * (n_features + 1) * (8 + itemsize)
        most = min(_MOST_CHUNKS, max(8, _ACCUMULATOR_BYTES // accumulator))
        self.rows = -(-n_blocks // max(1, min(most, n_blocks))) * self.n_lanes
        self.count = -(-n_samples // self.rows) if n_samples else 0

    def cuts(self, work: float) -> list[tuple[int, int, int]]:
        """Return ``(chunk_rows, part_start, part_rows)`` for each call that makes up a pass.

        A call cannot be interrupted; `work` operations of the whole pass are cut into calls of
        about 0.1 s.
        """
        n_calls = max(1, math.ceil(work / _CALL_WORK))
        part_rows = max(1, -(-self.rows // n_calls // self.n_lanes)) * self.n_lanes
        return [(self.rows, start, part_rows) for start in range(0, self.rows, part_rows)]

    def lanes(self, n_rows: int, dtype: np.dtype[Any]) -> Array:
        """Return uninitialised lanes for `n_rows` rows in each chunk."""
        return np.empty((self.count, n_rows, self.n_lanes), dtype)


class DenseDesign:
    """Rows of a C-order array; see `fastsoftmax._designs.base.Design`.

    X is never copied. Extra memory of a pass: the chunks' accumulators and scratch blocks.
    """

    def __init__(
        self, X: Array, targets: Targets, weights: Weights, offset: Array | None = None
    ) -> None:
        self._X = kernel_view(X)
        self._labels = kernel_view(targets.labels)
        self._soft = kernel_view(targets.soft)
        self._weights = kernel_view(weights.scaled)
        self._offset = kernel_view(np.empty((0, 0), X.dtype) if offset is None else offset)
        self.n_classes = targets.n_classes
        self.weight_sum = weights.total
        self.weight_scale = weights.largest
        self.has_offset = offset is not None
        self.n_samples, self.n_features = X.shape
        self.dtype = X.dtype
        self._density = curvature.density(self._X)

    def loss(self, coef: Float64Array, intercept: Float64Array) -> float:
        """Return ``sum_i w_i loss_i``."""
        return self._loss_gradient(coef, intercept, want_gradient=False)[0]

    def loss_and_gradient(
        self, coef: Float64Array, intercept: Float64Array
    ) -> tuple[float, Float64Array]:
        """Return the loss sum and its gradient from one pass over X."""
        return self._loss_gradient(coef, intercept, want_gradient=True)

    def _loss_gradient(
        self, coef: Float64Array, intercept: Float64Array, want_gradient: bool
    ) -> tuple[float, Float64Array]:
        n_rows = coef.shape[0]
        chunks = _Chunks(self.n_samples, self.n_features, n_rows, self.dtype.itemsize)
        n_gradients = chunks.count if want_gradient else 0
        losses = np.zeros(chunks.count)
        gradients = np.zeros((n_gradients, n_rows, self.n_features + 1))
        rows = (self._X, self._cast(coef), self._cast(intercept))
        targets = (self._labels, self._soft, self._weights, self._offset)
        scratch = (
            chunks.lanes(n_rows, self.dtype),
            chunks.lanes(N_LANE_ROWS, self.dtype),
            np.zeros(gradients.shape, self.dtype),
        )
        drivers = (kernels.loss_gradient_parallel, kernels.loss_gradient_serial)
        work = self._work(n_rows)
        for cut in chunks.cuts(work):
            sweep(*drivers, chunks.count, work, *rows, *targets, cut, *scratch, losses, gradients)
        return float(losses.sum()), gradients.sum(axis=0)

    def hessian_vector_product(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        coef_direction: Float64Array,
        intercept_direction: Float64Array,
    ) -> Float64Array:
        """Return the product of the loss sum's Hessian with a direction, from one pass."""
        n_rows = coef.shape[0]
        chunks = _Chunks(self.n_samples, self.n_features, n_rows, self.dtype.itemsize)
        products = np.zeros((chunks.count, n_rows, self.n_features + 1))
        rows = (self._X, self._cast(coef), self._cast(intercept))
        direction = (self._cast(coef_direction), self._cast(intercept_direction))
        terms = (self._weights, self._offset)
        scratch = (
            chunks.lanes(n_rows, self.dtype),
            chunks.lanes(n_rows, self.dtype),
            chunks.lanes(N_LANE_ROWS, self.dtype),
            np.zeros(products.shape, self.dtype),
        )
        drivers = (kernels.hessian_vector_parallel, kernels.hessian_vector_serial)
        work = 1.5 * self._work(n_rows)
        for cut in chunks.cuts(work):
            sweep(*drivers, chunks.count, work, *rows, *direction, *terms, cut, *scratch, products)
        return products.sum(axis=0)

    def hessian(self, coef: Float64Array, intercept: Float64Array) -> Float64Array:
        """Return the Hessian of the loss sum in its identifiable coordinates."""
        return curvature.hessian(
            self._blocks(coef, intercept), coef.shape[0], self.n_features, self._density
        )

    def hessian_passes(self, n_rows: int) -> float:
        """Return the cost of `hessian` in passes over X."""
        return curvature.hessian_passes(n_rows, self.n_features, self._density)

    def class_grams(
        self, coef: Float64Array, intercept: Float64Array, most_rows: int, shared: bool
    ) -> Float64Array:
        """Return ``sum_i w_i p_ik (1 - p_ik) x_i x_iᵀ`` per logit row, from every s-th row."""
        step = max(1, -(-self.n_samples // most_rows))
        blocks = self._blocks(coef, intercept, step)
        return step * curvature.class_grams(
            blocks, coef.shape[0], self.n_features, self._density, shared
        )

    def class_gram_passes(self, n_rows: int, most_rows: int) -> float:
        """Return the cost of `class_grams`, and of factors of them, in passes over X."""
        return curvature.class_gram_passes(
            self.n_samples, n_rows, self.n_features, self._density, most_rows
        )

    def class_diagonals(self, coef: Float64Array, intercept: Float64Array) -> Float64Array:
        """Return the diagonals of `class_grams` over all rows."""
        blocks = self._blocks(coef, intercept)
        return curvature.class_diagonals(blocks, coef.shape[0], self.n_features)

    def _blocks(
        self, coef: Float64Array, intercept: Float64Array, step: int = 1
    ) -> Iterator[curvature.Block]:
        """Yield every `step`-th row in blocks of a few MB."""
        for rows in curvature.row_slices(self.n_samples, self.n_features, coef.shape[0], step):
            X = np.ascontiguousarray(self._X[rows])
            offset = self._offset[rows] if self._offset.size else None
            P = predict(X, coef, intercept, Response.PROBABILITIES, offset)
            weights = self._weights[rows] if self._weights.size else None
            yield curvature.block(X, P, weights, coef.shape[0])

    def _cast(self, coefficients: Float64Array) -> Array:
        return kernel_view(coefficients.astype(self.dtype))

    def _work(self, n_rows: int) -> float:
        """Return the operations of a pass: two products with X, and about 30 per logit."""
        return self.n_samples * n_rows * (4.0 * self.n_features + 30.0)


def predict(
    X: Array,
    coef: Array,
    intercept: Array,
    response: Response,
    offset: NDArray[Any] | None = None,
) -> Array:
    """Return a response at the rows of a C-order array; see `Response`.

    Raises
    ------
    ValueError
        If a logit is not finite.
    """
    n_samples, n_features = X.shape
    n_rows = coef.shape[0]
    chunks = _Chunks(n_samples, n_features, n_rows, X.dtype.itemsize)
    n_columns = 2 if n_rows == 1 and response != Response.LOGITS else n_rows
    want_labels = response == Response.LABELS
    out = np.empty((0, 0) if want_labels else (n_samples, n_columns), X.dtype)
    labels = np.empty(n_samples if want_labels else 0, np.intp)
    statuses = np.zeros(chunks.count, np.int32)
    model = (
        kernel_view(X),
        kernel_view(np.asarray(coef, X.dtype)),
        kernel_view(np.asarray(intercept, X.dtype)),
        kernel_view(np.empty((0, 0), X.dtype) if offset is None else offset),
    )
    scratch = chunks.lanes(n_rows + N_LANE_ROWS, X.dtype)
    drivers = (predict_kernels.predict_parallel, predict_kernels.predict_serial)
    work = n_samples * n_rows * (2.0 * n_features + 30.0)
    for cut in chunks.cuts(work):
        sweep(
            *(*drivers, chunks.count, work),
            *(*model, int(response), cut, scratch, statuses, out, labels),
        )
    if np.count_nonzero(statuses):
        raise ValueError(
            "X times the coefficients overflows: some logits are not finite. Scale X, for "
            "example with sklearn.preprocessing.StandardScaler, and check coef_."
        )
    return labels if want_labels else out
