"""X as a C-order array, read in place."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import curvature
from fastsoftmax._designs.base import (
    Array,
    Coefficients,
    Float64Array,
    Margins,
    Response,
    class_weights,
    margins_of,
)
from fastsoftmax._designs.partition import Memory, Partition, accumulators, lanes_of_block
from fastsoftmax._designs.picks import EvenPicks, PickedRows
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import dense as kernels
from fastsoftmax._kernels import predict as predict_kernels
from fastsoftmax._kernels.lanes import N_LANE_ROWS
from fastsoftmax._kernels.tiles import padded_zeros
from fastsoftmax._threads import sweep
from fastsoftmax._validation import Targets, Weights

_OVERFLOW = (
    "X times the coefficients overflows: some logits are not finite. Scale X, for "
    "example with sklearn.preprocessing.StandardScaler, and check coef_."
)
#: Rows that stand for all where a typical one, or the share of zeros, is asked for.
_SOME_ROWS = 200


class DenseDesign:
    """Rows of a C-order array; see `fastsoftmax._designs.base.Design`.

    X is never copied. Extra memory of a pass: the chunks' accumulators and scratch blocks.
    """

    def __init__(
        self,
        X: Array,
        targets: Targets,
        weights: Weights,
        offset: Array | None = None,
        number: int = 0,
    ) -> None:
        self.X = kernel_view(X)
        self.labels = kernel_view(targets.labels)
        self.soft = kernel_view(targets.soft)
        self._set_weights(weights)
        self.offset = kernel_view(np.empty((0, 0), X.dtype) if offset is None else offset)
        self.n_classes = targets.n_classes
        self.has_offset = offset is not None
        self.n_samples, self.n_features = X.shape
        self.n_entries = X.size
        self.dtype = X.dtype
        self.number = number
        self._memory = Memory()

    def with_weights(self, weights: Weights) -> DenseDesign:
        """Return the same rows with other weights."""
        other = copy.copy(self)
        other._set_weights(weights)
        return other

    def _set_weights(self, weights: Weights) -> None:
        self.weights = kernel_view(weights.scaled)
        self.weight_sum = weights.total
        self.weight_scale = weights.largest

    def class_weights(self) -> Float64Array:
        """Return the sum of the targets, ``sum_i w_i y_ik``."""
        return class_weights(self.labels, self.soft, self.weights, self.n_classes)

    def loss(self, coef: Float64Array, intercept: Float64Array) -> float:
        """Return ``sum_i w_i loss_i``."""
        partition = self._partition(coef.shape[0], want_gradient=False)
        return self._loss_gradient(coef, intercept, partition)[0]

    def loss_and_gradient(
        self, coef: Float64Array, intercept: Float64Array
    ) -> tuple[float, Float64Array]:
        """Return the loss sum and its gradient from one pass over X."""
        return self._loss_gradient(coef, intercept, self._partition(coef.shape[0]))

    def _loss_gradient(
        self, coef: Float64Array, intercept: Float64Array, partition: Partition
    ) -> tuple[float, Float64Array]:
        n_rows = coef.shape[0]
        losses = np.zeros(partition.n_units)
        gradient = self._sum_products(
            partition,
            kernels.loss_gradient,
            n_rows * (4.0 * self.n_features + 30.0),
            model=(pack(coef, intercept, self.dtype),),
            terms=(self.labels, self.soft, self.weights, self.offset),
            scratch=(*partition.lanes(self.dtype, n_rows, N_LANE_ROWS), losses),
            n_rows=n_rows,
        )
        return float(losses.sum()), gradient

    def hessian_vector_product(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        coef_direction: Float64Array,
        intercept_direction: Float64Array,
        probabilities: Array | None = None,
    ) -> Float64Array:
        """Return the product of the loss sum's Hessian with a direction, from one pass."""
        n_rows = coef.shape[0]
        partition = self._partition(n_rows)
        known = np.empty((0, 0), self.dtype) if probabilities is None else probabilities
        return self._sum_products(
            partition,
            kernels.hessian_vector,
            n_rows * (6.0 * self.n_features + 30.0),
            model=(
                pack(coef, intercept, self.dtype),
                pack(coef_direction, intercept_direction, self.dtype),
            ),
            terms=(kernel_view(known), self.weights, self.offset),
            scratch=partition.lanes(self.dtype, n_rows, N_LANE_ROWS, n_rows),
            n_rows=n_rows,
        )

    def probabilities(self, coef: Float64Array, intercept: Float64Array) -> Array:
        """Return the probabilities of all rows, (n, n_classes), for Hessian-vector products."""
        offset = self.offset if self.has_offset else None
        return predict(self.X, coef, intercept, Response.PROBABILITIES, offset)

    def _sum_products(
        self,
        partition: Partition,
        driver: Callable[..., None],
        row_flops: float,
        *,
        model: tuple[Array, ...],
        terms: tuple[Array, ...],
        scratch: tuple[Array, ...],
        n_rows: int,
    ) -> Float64Array:
        """Return the sum over rows of residuals times ``[x, 1]``, shape (n_rows, n_features + 1).

        Parameters
        ----------
        partition : Partition
        driver : callable
            Of a kernel that computes residuals and multiplies them by X, in `row_flops`
            operations per row of X.
        model, terms, scratch : tuple of ndarrays
            Its arguments: what is the same for all rows, what has an entry for each of them (or
            is empty), and what has one for each unit of work, `scratch[0]` for the residuals.
        n_rows : int
            Rows of the result.
        """
        size = self.n_features + 1
        if partition.is_chunked:
            n_sums = partition.n_units if partition.want_gradient else 0
            shape = n_sums, n_rows, self.n_features, self.dtype
            work = self.n_samples * row_flops
            with self._memory.accumulators(*shape) as (sums, partial):
                for cut in partition.cuts(work):
                    parts = (self.X, *model, *terms, cut, *scratch, partial, sums)
                    sweep(driver, partition.n_units, work, *parts)
                return sums.sum(axis=0)[:, :size]
        sums, partial = accumulators(1, n_rows, self.n_features, self.dtype)
        none = (np.empty((0, 0, 0), self.dtype), np.empty((0, 0, 0)))
        one_block = np.array([partition.n_lanes, 0, partition.n_lanes])
        for start in range(0, self.n_samples, partition.panel_rows):
            rows = slice(start, start + partition.panel_rows)
            X = self.X[rows]
            n_blocks = -(-len(X) // partition.n_lanes)
            panel = (X, *model, *(term[rows] for term in terms), one_block)
            sweep(driver, n_blocks, len(X) * row_flops, *panel, *scratch, *none)
            sweep(
                *(kernels.products, math.prod(partition.grid), 2.0 * X.size * n_rows),
                *(X, scratch[0], np.array(partition.grid), partial[0]),
            )
            if partial is not sums:
                sums += partial
                partial.fill(0)
        return sums[0, :, :size]

    def _partition(self, n_rows: int, want_gradient: bool = True) -> Partition:
        return Partition(
            self.n_samples, self.n_features, n_rows, self.dtype.itemsize, want_gradient
        )

    def typical_row(self) -> Float64Array:
        """Return the medians of some rows, weighted: an entry of each column, never a mean."""
        rows, weights = self._some_rows()
        if np.ptp(weights) == 0.0:
            middle_row = (len(rows) - 1) // 2
            return np.partition(rows, middle_row, axis=0)[middle_row].astype(np.float64)
        order = np.argsort(rows, axis=0)
        below = np.cumsum(weights[order], axis=0)
        # With the slack, a row of weight 2 is the same as the row twice, however sums are rounded.
        middle = (below >= 0.5 * (1.0 - 1e-12) * below[-1]).argmax(axis=0)
        columns = np.arange(self.n_features)
        return rows[order[middle, columns], columns].astype(np.float64)

    def cancellation(self) -> float:
        """Return how many times some feature's values are as large as their differences."""
        rows = self._some_rows()[0].astype(np.float64)
        with np.errstate(over="ignore"):
            spread = np.ptp(rows, axis=0) if len(rows) else np.zeros(self.n_features)
        varies = (spread > 0.0) & np.isfinite(spread)
        ratios = np.abs(rows).max(axis=0, initial=0.0)[varies] / spread[varies]
        return float(np.max(ratios, initial=1.0))

    def _some_rows(self) -> tuple[Array, Float64Array]:
        """Return all of a few rows and their weights, or rows at even steps of summed weight.

        Rows of weight 0 are as if removed.
        """
        total = np.cumsum(self.weights, dtype=np.float64) if self.weights.size else None
        if self.n_samples <= _SOME_ROWS:
            weights = np.ones(self.n_samples) if total is None else self.weights.astype(np.float64)
            return self.X[weights > 0], weights[weights > 0]
        marks = (np.arange(_SOME_ROWS) + 0.5) / _SOME_ROWS
        if total is None:
            chosen = (marks * self.n_samples).astype(np.intp)
        else:
            chosen = np.searchsorted(total, marks * total[-1])
        return self.X[chosen], np.ones(_SOME_ROWS)

    def _density(self, centre: Float64Array | None) -> float:
        return curvature.density(self._some_rows()[0], self._centre(centre))

    def _centre(self, centre: Float64Array | None) -> Array:
        return (
            np.zeros(self.n_features, self.dtype) if centre is None else centre.astype(self.dtype)
        )

    def pass_work(self, n_rows: int) -> float:
        """Return the operations of a pass over X."""
        return 4.0 * self.n_samples * self.n_features * n_rows

    def hessian(
        self, coef: Float64Array, intercept: Float64Array, centre: Float64Array | None = None
    ) -> Float64Array:
        """Return the Hessian of the loss sum in its identifiable coordinates."""
        n_rows = coef.shape[0]
        blocks = self._blocks(coef, intercept, centre, n_rows * (n_rows + 5) // 2)
        return curvature.hessian(blocks, coef.shape[0], self.n_features, self._density(centre))

    def hessian_passes(self, n_rows: int, centre: Float64Array | None = None) -> float:
        """Return the cost of `hessian` in passes over X."""
        passes = curvature.hessian_passes(n_rows, self.n_features, self._density(centre))
        return passes * self._float64_passes

    def class_grams(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        most_rows: int,
        shared: bool,
        centre: Float64Array | None = None,
    ) -> Float64Array:
        """Return ``sum_i w_i p_ik (1 - p_ik) u_i u_iᵀ`` per logit row, from a choice of rows."""
        density = self._density(centre)
        if self.n_samples <= most_rows:
            blocks = self._blocks(coef, intercept, centre, 4 * coef.shape[0])
            return curvature.class_grams(blocks, coef.shape[0], self.n_features, density, shared)
        picks = self._even_picks(coef, intercept, most_rows, shared, centre)
        return picks.grams(lambda rows: self.X[rows], self._centre(centre), density)

    def picked_rows(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        n_picks: int,
        shared: bool,
        centre: Float64Array | None = None,
    ) -> PickedRows:
        """Return the rows that `class_grams` picks beyond `n_picks` rows."""
        return self._even_picks(coef, intercept, n_picks, shared, centre).rows(self.X)

    def _even_picks(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        n_picks: int,
        shared: bool,
        centre: Float64Array | None,
    ) -> EvenPicks:
        diagonals = self.class_diagonals(coef, intercept, centre, shared)
        blocks = self._blocks(coef, intercept, centre, 4 * coef.shape[0])
        return EvenPicks(diagonals, n_picks, self.number).add_all(blocks, shared)

    def class_gram_passes(
        self, n_rows: int, most_rows: int, shared: bool, centre: Float64Array | None = None
    ) -> float:
        """Return the cost of `class_grams`, and of factors of them, in passes over X."""
        passes = curvature.class_gram_passes(
            self.n_samples, n_rows, self.n_features, self._density(centre), most_rows, shared
        )
        return passes * self._float64_passes

    @property
    def _float64_passes(self) -> float:
        """Passes that take as long as one in float64, in which second-order sums are computed."""
        return 8.0 / self.dtype.itemsize

    def class_diagonals(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        centre: Float64Array | None = None,
        shared: bool = False,
    ) -> Float64Array:
        """Return the diagonals of `class_grams` over all rows."""
        blocks = self._blocks(coef, intercept, centre, 4 * coef.shape[0])
        return curvature.class_diagonals(blocks, coef.shape[0], self.n_features, shared)

    def margins(
        self,
        direction: Coefficients,
        start: Coefficients | None = None,
        want_gradient: bool = False,
    ) -> Margins | None:
        """Return how far a direction moves the labels' logits from the others."""
        n_entries = self.n_features
        return margins_of(
            *(self.X, self.labels, self.weights, direction, n_entries, start, want_gradient)
        )

    def _blocks(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        centre: Float64Array | None,
        n_entries: int,
    ) -> Iterator[curvature.Block]:
        """Yield all rows that count, in blocks; `n_entries` are made for each row."""
        origin = self._centre(centre)
        if self.weights.size:
            n_entries += self.n_features  # of a copy
        for rows in curvature.row_slices(self.n_samples, n_entries):
            numbers = np.arange(rows.start, rows.stop)
            X = self.X[rows]
            offset = self.offset[rows] if self.offset.size else None
            weights = self.weights[rows] if self.weights.size else None
            if weights is not None and _any_zero(weights):
                # A row of weight 0 is as if removed, also one whose square or logits overflow.
                counts = weights > 0
                numbers, X, weights = numbers[counts], X[counts], weights[counts]
                offset = None if offset is None else offset[counts]
            X = np.ascontiguousarray(X)
            if len(X):
                P = _probabilities_by_class(X, coef, intercept, offset)
                yield curvature.block(numbers, X, origin, P, weights)


def _any_zero(weights: Array) -> bool:
    return weights.size > 0 and not weights.all()


def pack(coef: Array, intercept: Array, dtype: np.dtype[Any]) -> Array:
    """Return ``[coef, intercept]`` as kernels take them: in the dtype of X, padded by zeros."""
    n_rows, n_features = coef.shape
    params = padded_zeros((n_rows, n_features + 1), dtype)
    params[:, :n_features] = coef
    params[:, n_features] = intercept
    return kernel_view(params)


def _probabilities_by_class(
    X: Array, coef: Float64Array, intercept: Float64Array, offset: Array | None
) -> Array:
    """Return the probabilities of logit rows at some rows of X, shape (n_rows, n_samples).

    They are the residuals for targets that are 0 throughout. So a fit needs no other kernel than
    its own; that of `predict` takes 2.5 s to compile.
    """
    n_samples, n_rows = len(X), coef.shape[0]
    n_lanes = lanes_of_block(X.shape[1], n_rows, X.dtype.itemsize)
    n_blocks = -(-n_samples // n_lanes)
    residual = np.empty((n_blocks, n_rows, n_lanes), X.dtype)
    lanes = np.empty((n_blocks, N_LANE_ROWS, n_lanes), X.dtype)
    no_labels, no_weights = kernel_view(np.empty(0, np.int32)), kernel_view(np.empty(0, X.dtype))
    zeros = kernel_view(np.zeros((n_samples, max(2, n_rows)), X.dtype))
    no_offset, no_sums = zeros[:0, :n_rows], (np.empty((0, 0, 0), X.dtype), np.empty((0, 0, 0)))
    sweep(
        *(kernels.loss_gradient, n_blocks, n_samples * n_rows * (2.0 * X.shape[1] + 30.0)),
        *(kernel_view(X), pack(coef, intercept, X.dtype), no_labels, zeros, no_weights),
        kernel_view(no_offset if offset is None else offset),
        *(np.array([n_lanes, 0, n_lanes]), residual, lanes, np.zeros(n_blocks), *no_sums),
    )
    P = residual.swapaxes(0, 1).reshape(n_rows, -1)[:, :n_samples]
    if not np.all(np.isfinite(P)):
        raise ValueError(_OVERFLOW)
    return P


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
    partition = Partition(n_samples, n_features, n_rows, X.dtype.itemsize, want_gradient=False)
    n_columns = 2 if n_rows == 1 and response != Response.LOGITS else n_rows
    want_labels = response == Response.LABELS
    out = np.empty((0, 0) if want_labels else (n_samples, n_columns), X.dtype)
    labels = np.empty(n_samples if want_labels else 0, np.intp)
    statuses = np.zeros(partition.n_units, np.int32)
    model = (
        kernel_view(X),
        pack(coef, intercept, X.dtype),
        kernel_view(np.empty((0, 0), X.dtype) if offset is None else offset),
    )
    (scratch,) = partition.lanes(X.dtype, n_rows + N_LANE_ROWS)
    work = n_samples * n_rows * (2.0 * n_features + 30.0)
    for cut in partition.cuts(work):
        sweep(
            *(predict_kernels.predict, partition.n_units, work),
            *(*model, int(response), cut, scratch, statuses, out, labels),
        )
    if np.count_nonzero(statuses):
        raise ValueError(_OVERFLOW)
    return labels if want_labels else out
