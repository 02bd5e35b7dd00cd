"""X as a CSR matrix, read in place by compiled loops."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

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
from fastsoftmax._designs.curvature import Compressed, SparseBlock
from fastsoftmax._designs.partition import lanes_of_block
from fastsoftmax._designs.picks import EvenPicks, PickedRows
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import csr as kernels
from fastsoftmax._kernels.csr import CURVED, RESIDUAL, VARIANCE, aligned_zeros, padded_width
from fastsoftmax._kernels.lanes import N_LANE_ROWS
from fastsoftmax._threads import sweep
from fastsoftmax._validation import Targets, Weights
from fastsoftmax.functional import log_softmax, softmax

#: Units of work of a sweep, and operations of one call into a kernel (0.1 s).
_MOST_UNITS = 64
_CALL_WORK = 1e9
#: Scratch of all units together, which bounds them where there are more than 3000 classes.
_SCRATCH_BYTES = 2**26
#: Gradients of all chunks together take at most so much memory, or this share of X: they stay in
#: the cache then.
_GRADIENT_BYTES = 2**23
_GRADIENT_SHARE = 0.05
#: What a row or column takes besides its non-zeros, in non-zeros.
_ROW_COST = 8
#: Nanoseconds of a pass per non-zero and logit row, two threads, on debian_sections and on one-hot
#: flights.
_ONE_PASS = 0.3
#: Gram matrices of all rows are worth so many passes: one-hot flights take 69 passes with them, and
#: 232 with those of 1500 rows per class.
_EXACT_PASSES = 30.0


def _cuts(X: Compressed, width: int) -> list[NDArray[np.int64]]:
    """Return the bounds of units of work, for each call of a sweep: by X and `width` only.

    `width` is that of a table.
    """
    n = len(X.indptr) - 1
    costs = X.indptr + _ROW_COST * np.arange(n + 1)
    n_calls = max(1, math.ceil(4.0 * costs[-1] * width / _CALL_WORK))
    # Each unit has a block of rows of its own, and logits of it.
    affordable = max(1, int(_SCRATCH_BYTES / (8 * 8 * 5 * width)))
    at_once = min(_MOST_UNITS, affordable)
    n_units = max(1, min(n, at_once * n_calls))
    marks = costs[-1] * np.arange(n_units + 1) / n_units
    bounds = np.searchsorted(costs, marks).astype(np.int64)
    bounds[-1] = n
    return [bounds[start : start + at_once + 1] for start in range(0, n_units, at_once)]


def compressed(X: Any) -> Compressed:
    """Return the parts of a CSR or CSC matrix; only indices of another width are copied."""
    if max(X.shape) > np.iinfo(np.int32).max:
        raise ValueError(
            f"X has shape {X.shape}; a sparse X may have 2147483647 rows and features at most."
        )
    return Compressed(
        kernel_view(X.data),
        kernel_view(X.indices.astype(np.int32, copy=False)),
        kernel_view(X.indptr.astype(np.int64, copy=False)),
    )


class Storage:
    """What all designs of the same X share.

    Parameters
    ----------
    X : CSR matrix of shape (n_samples, n_features)

    Attributes
    ----------
    X : CSR matrix
        Its rows sorted and without duplicates.
    rows : Compressed
    reduced : dict
        For whoever derives another X from this one.
    """

    def __init__(self, X: Any) -> None:
        # A wrapper of our own: what SciPy remembers of the user's may no longer be true.
        X = type(X)((X.data, X.indices, X.indptr), shape=X.shape)
        if not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        self.X = X
        self.rows = compressed(X)
        self.reduced: dict[Any, Any] = {}
        self._cuts: dict[tuple[bool, int], list[NDArray[np.int64]]] = {}

    @cached_property
    def columns(self) -> Compressed:
        """X by columns."""
        return compressed(sparse.csc_array(self.X))

    def cuts(self, by_columns: bool, width: int) -> list[NDArray[np.int64]]:
        """Return `_cuts` of rows or columns, which take 1 ms per 10^5 of them, once."""
        key = by_columns, width
        if key not in self._cuts:
            self._cuts[key] = _cuts(self.columns if by_columns else self.rows, width)
        return self._cuts[key]


class _Model(NamedTuple):
    """Where terms are computed: tables, and probabilities where they are known."""

    n_rows: int
    table: Array
    direction: Array | None = None
    known: Array | None = None


class SparseDesign:
    """Rows of a CSR matrix; see `fastsoftmax._designs.base.Design`.

    X is never densified whole, and copied only to sort rows and to add up duplicates; indices of 64
    bits become ones of 32. Where gradients are large (`_has_gradient_per_chunk`) it gets a
    companion by columns, as large as X, and a pass needs an array of (n_samples, n_rows).
    """

    def __init__(
        self,
        X: Any,
        targets: Targets,
        weights: Weights,
        offset: Array | None = None,
        number: int = 0,
    ) -> None:
        self.number = number
        self._set_storage(Storage(X))
        self._set_weights(weights)
        self.labels = kernel_view(targets.labels)
        self.soft = kernel_view(targets.soft)
        self.offset = kernel_view(np.empty((0, 0), X.dtype) if offset is None else offset)
        self.n_classes = targets.n_classes
        self.has_offset = offset is not None

    def _set_storage(self, storage: Storage) -> None:
        self.storage, self.X, self.rows = storage, storage.X, storage.rows
        self.n_samples: int = self.X.shape[0]
        self.n_features: int = self.X.shape[1]
        self.n_entries: int = self.X.nnz
        self.dtype: np.dtype[Any] = self.X.dtype
        self._density = self.n_entries / max(1, self.n_samples * self.n_features)

    def with_storage(self, storage: Storage) -> SparseDesign:
        """Return the same samples with other features."""
        other = copy.copy(self)
        other._set_storage(storage)
        return other

    def with_weights(self, weights: Weights) -> SparseDesign:
        """Return the same rows with other weights."""
        other = copy.copy(self)
        other._set_weights(weights)
        return other

    def _set_weights(self, weights: Weights) -> None:
        self.weights = kernel_view(weights.scaled)
        self.weight_sum = weights.total
        self.weight_scale = weights.largest

    @property
    def columns(self) -> Compressed:
        """X by columns."""
        return self.storage.columns

    def class_weights(self) -> Float64Array:
        """Return the sum of the targets, ``sum_i w_i y_ik``."""
        return class_weights(self.labels, self.soft, self.weights, self.n_classes)

    def loss(self, coef: Float64Array, intercept: Float64Array) -> float:
        """Return ``sum_i w_i loss_i``."""
        return self._sweep_rows(RESIDUAL, self._model(coef, intercept))[0]

    def loss_and_gradient(
        self, coef: Float64Array, intercept: Float64Array
    ) -> tuple[float, Float64Array]:
        """Return the loss sum and its gradient."""
        return self._sum_products(RESIDUAL, self._model(coef, intercept))

    def hessian_vector_product(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        coef_direction: Float64Array,
        intercept_direction: Float64Array,
        probabilities: Array | None = None,
    ) -> Float64Array:
        """Return the product of the loss sum's Hessian with a direction."""
        model = self._model(coef, intercept)._replace(
            direction=pack(coef_direction, intercept_direction, self.dtype)
        )
        if probabilities is not None:
            model = model._replace(known=kernel_view(probabilities))
        return self._sum_products(CURVED, model)[1]

    def probabilities(self, coef: Float64Array, intercept: Float64Array) -> Array:
        """Return the probabilities of all rows, shape (n, n_classes)."""
        offset = self.offset if self.offset.size else None
        return predict(self.X, coef, intercept, Response.PROBABILITIES, offset)

    def typical_row(self) -> Float64Array:
        """Return zeros: those of X are not stored."""
        return np.zeros(self.n_features)

    def cancellation(self) -> float:
        """Return 1: columns with zeros differ by as much as they are large."""
        return 1.0

    def pass_work(self, n_rows: int) -> float:
        """Return the operations of dense products that take as long as a pass over X."""
        return self._pass(n_rows) * 4.0 / curvature.ONE_PASS

    def hessian(
        self, coef: Float64Array, intercept: Float64Array, centre: Float64Array | None = None
    ) -> Float64Array:
        """Return the Hessian of the loss sum in its identifiable coordinates."""
        _refuse(centre)
        n_rows = len(coef)
        with_dense_blocks, with_pairs = self._hessian_costs(n_rows)
        if with_pairs < with_dense_blocks:
            return curvature.csr_hessian(self._blocks(coef, intercept), n_rows, self.n_features)
        return curvature.hessian(
            self._dense_blocks(coef, intercept), n_rows, self.n_features, self._density
        )

    def _hessian_costs(self, n_rows: int) -> tuple[float, float]:
        """Return nanoseconds, with dense blocks and with products of non-zeros."""
        n_free = max(1, n_rows - 1)
        dense = curvature.hessian_passes(n_rows, self.n_features, 1.0) * self._dense_pass(n_rows)
        return dense, curvature.csr_cost(self.rows.indptr, n_free * (n_free + 1) // 2)

    def _dense_pass(self, n_rows: int) -> float:
        return curvature.ONE_PASS * self.n_samples * self.n_features * n_rows

    def _pass(self, n_rows: int) -> float:
        return _ONE_PASS * (self.n_entries + self.n_samples) * n_rows

    def hessian_passes(self, n_rows: int, centre: Float64Array | None = None) -> float:
        """Return the cost of `hessian` in passes over X."""
        _refuse(centre)
        return min(self._hessian_costs(n_rows)) / self._pass(n_rows)

    def class_grams(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        most_rows: int,
        shared: bool,
        centre: Float64Array | None = None,
    ) -> Float64Array:
        """Return ``sum_i w_i p_ik (1 - p_ik) x_i x_iᵀ`` per logit row.

        From all rows where products of non-zeros cost little, else from a choice of rows.
        """
        _refuse(centre)
        n_rows = len(coef)
        if self.has_exact_grams(n_rows, shared):
            blocks = self._blocks(coef, intercept)
            return curvature.csr_class_grams(blocks, n_rows, self.n_features, shared)
        if self.n_samples <= most_rows:
            dense = self._dense_blocks(coef, intercept)
            return curvature.class_grams(dense, n_rows, self.n_features, self._density, shared)
        picks = self._even_picks(coef, intercept, most_rows, shared)
        zeros = np.zeros(self.n_features, self.dtype)
        return picks.grams(lambda rows: self.X[rows].toarray(), zeros, self._density)

    def picked_rows(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        n_picks: int,
        shared: bool,
        centre: Float64Array | None = None,
    ) -> PickedRows:
        """Return the rows that `class_grams` picks where it needs many and may not take all."""
        _refuse(centre)
        return self._even_picks(coef, intercept, n_picks, shared).rows(self.X)

    def _even_picks(
        self, coef: Float64Array, intercept: Float64Array, n_picks: int, shared: bool
    ) -> EvenPicks:
        diagonals = self.class_diagonals(coef, intercept, None, shared)
        blocks = self._blocks(coef, intercept)
        return EvenPicks(diagonals, n_picks, self.number).add_all(blocks, shared)

    def has_exact_grams(self, n_rows: int, shared: bool) -> bool:
        """Tell whether `class_grams` takes all rows, since products of non-zeros cost little."""
        cost = curvature.csr_cost(self.rows.indptr, 1 if shared else n_rows)
        return cost <= _EXACT_PASSES * self._pass(n_rows)

    def class_gram_passes(
        self, n_rows: int, most_rows: int, shared: bool, centre: Float64Array | None = None
    ) -> float:
        """Return the cost of `class_grams`, and of factors of them, in passes over X."""
        _refuse(centre)
        n_picked = 0 if self.has_exact_grams(n_rows, shared) else most_rows
        passes = curvature.class_gram_passes(
            self.n_samples, n_rows, self.n_features, 1.0, n_picked, shared
        )
        cost = passes * self._dense_pass(n_rows)
        if n_picked == 0:
            cost += curvature.csr_cost(self.rows.indptr, 1 if shared else n_rows)
        return cost / self._pass(n_rows)

    def class_diagonals(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        centre: Float64Array | None = None,
        shared: bool = False,
    ) -> Float64Array:
        """Return the diagonals of `class_grams` over all rows."""
        _refuse(centre)
        diagonals = self._sum_products(VARIANCE, self._model(coef, intercept))[1]
        return diagonals.mean(axis=0, keepdims=True) if shared else diagonals

    def margins(
        self,
        direction: Coefficients,
        start: Coefficients | None = None,
        want_gradient: bool = False,
    ) -> Margins | None:
        """Return how far a direction moves the labels' logits from the others."""
        n_entries = 2.0 * self.n_entries / self.n_samples
        return margins_of(
            *(self.X, self.labels, self.weights, direction, n_entries, start, want_gradient)
        )

    # --- For those who keep coefficients feature-major, as kernels do ---

    def table(self, n_rows: int) -> Array:
        """Return a table of zeros, (n_features + 1, width), for coefficients or their gradient."""
        return aligned_zeros((self.n_features + 1, self._width(n_rows)), self.dtype)

    def terms(self, n_rows: int) -> Array:
        """Return scratch for the methods below, (n_samples, width)."""
        return aligned_zeros((self.n_samples, self._width(n_rows)), self.dtype)

    def mean_loss_into(
        self, n_rows: int, table: Array, l2: Float64Array, terms: Array, gradient: Array
    ) -> float:
        """Write the gradient of the *mean* loss plus penalty to `gradient`; return their value.

        Of the coefficients less their mean over several rows, which the loss does not see: so
        steps need not sum to zero.

        Parameters
        ----------
        n_rows : int
            Logit rows, which a table pads.
        table : ndarray of shape (n_features + 1, width)
        l2 : ndarray of shape (n_features + 1,)
            Strengths, the last one being 0.
        terms : ndarray of shape (n_samples, width)
        gradient : ndarray like `table`
        """
        scale = 1.0 / self.weight_sum
        loss, totals = self._sweep_rows(RESIDUAL, _Model(n_rows, table), terms)
        cuts = self.storage.cuts(True, table.shape[1])
        penalty = _sweep_columns(self.columns, cuts, terms, gradient, scale, l2, table, n_rows)
        gradient[-1] = 0.0
        gradient[-1, :n_rows] = scale * totals
        return scale * loss + penalty

    def mean_curvature_into(self, n_rows: int, table: Array, terms: Array, diagonal: Array) -> None:
        """Write the diagonal of the mean loss's Hessian; see `mean_loss_into`."""
        scale = 1.0 / self.weight_sum
        _, totals = self._sweep_rows(VARIANCE, _Model(n_rows, table), terms)
        cuts = self.storage.cuts(True, table.shape[1])
        _sweep_columns(_squared(self.columns), cuts, terms, diagonal, scale)
        diagonal[-1] = 0.0
        diagonal[-1, :n_rows] = scale * totals

    # --- Sweeps ---

    def _width(self, n_rows: int) -> int:
        return padded_width(n_rows, self.dtype.itemsize)

    def _model(self, coef: Float64Array, intercept: Float64Array) -> _Model:
        return _Model(len(coef), pack(coef, intercept, self.dtype))

    def _n_units(self, n_rows: int) -> int:
        return len(self.storage.cuts(False, self._width(n_rows))[0]) - 1

    def _has_gradient_per_chunk(self, n_rows: int) -> bool:
        gradients = 8 * self._n_units(n_rows) * self.n_features * padded_width(n_rows, 8)
        affordable = max(_GRADIENT_BYTES, _GRADIENT_SHARE * self.n_entries * self.dtype.itemsize)
        return gradients <= affordable

    def _sum_products(self, kind: int, model: _Model) -> tuple[float, Float64Array]:
        """Return the loss, and the sum over rows of terms times ``[x, 1]``.

        Of terms times ``[x**2, 1]`` for `VARIANCE`.
        """
        n_rows = model.n_rows
        if self._has_gradient_per_chunk(n_rows):
            shape = (self._n_units(n_rows), self.n_features, padded_width(n_rows, 8))
            sums = np.zeros(shape)
            loss, totals = self._sweep_rows(kind, model, sums=sums)
            products = sums.sum(axis=0)
        else:
            terms = self.terms(n_rows)
            loss, totals = self._sweep_rows(kind, model, terms)
            products = np.empty((self.n_features, terms.shape[1]))
            columns = _squared(self.columns) if kind == VARIANCE else self.columns
            cuts = self.storage.cuts(True, terms.shape[1])
            _sweep_columns(columns, cuts, terms, products)
        full = np.empty((n_rows, self.n_features + 1))
        full[:, :-1] = products[:, :n_rows].T
        full[:, -1] = totals
        return loss, full

    def _sweep_rows(
        self,
        kind: int,
        model: _Model,
        terms: Array | None = None,
        sums: Float64Array | None = None,
    ) -> tuple[float, Float64Array]:
        """Compute terms; return the loss and the sum of the terms over rows, (n_rows,)."""
        n_rows, table, dtype = model.n_rows, model.table, self.dtype
        none = np.empty((0, 0), dtype)
        calls = self.storage.cuts(False, table.shape[1])
        n_units = len(calls[0]) - 1
        n_lanes = lanes_of_block(2 * table.shape[1], 2 * n_rows, dtype.itemsize)
        sizes = n_rows, n_rows if kind == CURVED else 0, N_LANE_ROWS
        wide = 0 if sums is None else padded_width(n_rows, 8)
        scratch = (
            np.zeros((n_units, n_lanes, table.shape[1]), dtype),
            *(np.empty((n_units, size, n_lanes), dtype) for size in sizes),
            np.zeros((n_units, n_lanes, wide)),
        )
        losses, totals = np.zeros(n_units), np.zeros((n_units, n_rows))
        loss = 0.0
        must_square = kind == VARIANCE and sums is not None
        factors = _squared(self.rows).data if must_square else self.rows.data
        for bounds in calls:
            n_in_call = len(bounds) - 1
            sweep(
                *(kernels.terms_of_rows, n_in_call),
                (4.0 * self.n_entries + 30.0 * self.n_samples) * n_rows / len(calls),
                *(kind, self.rows.data, factors, self.rows.indices, self.rows.indptr, bounds),
                kernel_view(table),
                kernel_view(none if model.direction is None else model.direction),
                kernel_view(none if model.known is None else model.known),
                *(self.labels, self.soft, self.weights, self.offset),
                *(*scratch, losses, totals),
                none if terms is None else terms,
                np.empty((0, 0, 0)) if sums is None else sums,
            )
            loss += float(losses[:n_in_call].sum())
        return loss, totals.sum(axis=0)

    def _probabilities(
        self,
        X: Any,
        coef: Float64Array,
        intercept: Float64Array,
        rows: NDArray[np.intp],
    ) -> Array:
        """Return probabilities, one column per logit row."""
        offset = self.offset[rows] if self.offset.size else None
        P = predict(X, coef, intercept, Response.PROBABILITIES, offset)
        return P[:, -coef.shape[0] :]

    def _blocks(self, coef: Float64Array, intercept: Float64Array) -> Iterator[SparseBlock]:
        """Yield all rows that count, in blocks of a few MB."""
        n_rows = len(coef)
        for chosen, X, P, weights in self._chosen(coef, intercept, n_rows * (n_rows + 5) // 2):
            w = np.ones(len(chosen)) if weights is None else weights.astype(np.float64)
            by_class = np.ascontiguousarray(P.T, dtype=np.float64)
            yield SparseBlock(chosen, compressed(X), by_class, w)

    def _dense_blocks(
        self, coef: Float64Array, intercept: Float64Array
    ) -> Iterator[curvature.Block]:
        """Do the same with dense rows."""
        n_rows = len(coef)
        n_entries = n_rows * (n_rows + 5) // 2 + self.n_features
        zeros = np.zeros(self.n_features, self.dtype)
        for chosen, X, P, weights in self._chosen(coef, intercept, n_entries):
            yield curvature.block(chosen, X.toarray(), zeros, P.T, weights)

    def _chosen(
        self, coef: Float64Array, intercept: Float64Array, n_entries: int
    ) -> Iterator[tuple[NDArray[np.intp], Any, Array, Array | None]]:
        """Yield numbers, rows of X, probabilities (n, n_rows) and weights of rows that count.

        In blocks; `n_entries` are made for each row.
        """
        for rows in curvature.row_slices(self.n_samples, n_entries):
            chosen = np.arange(rows.start, rows.stop)
            if self.weights.size:  # a row of weight 0 is as if removed
                chosen = chosen[self.weights[chosen] > 0]
            if len(chosen):
                X = self.X[rows] if len(chosen) == rows.stop - rows.start else self.X[chosen]
                P = self._probabilities(X, coef, intercept, chosen)
                yield chosen, X, P, self.weights[chosen] if self.weights.size else None


def _refuse(centre: Float64Array | None) -> None:
    if centre is not None and centre.any():
        raise ValueError("a centre other than 0 would make a sparse X dense")


def _squared(X: Compressed) -> Compressed:
    with np.errstate(over="ignore"):
        squares = np.square(X.data)
    # In a row of weight 0 an infinite one would become NaN.
    return X._replace(data=kernel_view(np.minimum(squares, np.finfo(squares.dtype).max)))


def _sweep_columns(
    columns: Compressed,
    cuts: list[NDArray[np.int64]],
    terms: Array,
    out: Array,
    scale: float = 1.0,
    l2: Float64Array | None = None,
    table: Array | None = None,
    n_rows: int = 0,
) -> float:
    """Write ``scale * Xᵀ terms``, plus ``l2 * w``, to the first rows of `out`.

    Returns
    -------
    float
        The penalty, ``sum_j l2[j] ||w_j||² / 2``; see `fastsoftmax._kernels.csr.products`.
    """
    width = terms.shape[1]
    n_units = len(cuts[0]) - 1
    part, total = np.zeros((n_units, width), terms.dtype), np.zeros((n_units, width))
    penalty = 0.0
    for bounds in cuts:
        penalties = np.zeros(len(bounds) - 1)
        sweep(
            *(kernels.products, len(penalties), 4.0 * columns.data.size * width / len(cuts)),
            *(columns.data, columns.indices, columns.indptr, bounds, kernel_view(terms)),
            *(part, total, scale, kernel_view(np.empty(0) if l2 is None else l2)),
            kernel_view(terms[:0] if table is None else table),
            *(n_rows, penalties, out),
        )
        penalty += float(penalties.sum())
    return penalty


def pack(coef: Array, intercept: Array, dtype: np.dtype[Any]) -> Array:
    """Return coefficients as kernels take them: feature-major, padded, the intercept last."""
    n_rows, n_features = coef.shape
    table = aligned_zeros((n_features + 1, padded_width(n_rows, dtype.itemsize)), dtype)
    table[:-1, :n_rows] = coef.T
    table[-1, :n_rows] = intercept
    return table


def _logits(X: Any, coef: Array, intercept: Array) -> Array:
    """Return ``X Wᵀ + b`` in C order and X's dtype."""
    rows = compressed(X)
    table = pack(coef, intercept, X.dtype)
    n_rows, width = len(coef), table.shape[1]
    logits = np.empty((X.shape[0], n_rows), X.dtype)
    calls = _cuts(rows, width)
    scratch = np.zeros((len(calls[0]) - 1, width), X.dtype)
    work = 2.0 * (rows.data.size + len(logits)) * width / len(calls)
    for bounds in calls:
        sweep(
            *(kernels.logits_of_rows, len(bounds) - 1, work),
            *(*rows, bounds, kernel_view(table), scratch, logits),
        )
    return logits


def predict(
    X: Any, coef: Array, intercept: Array, response: Response, offset: Array | None = None
) -> Array:
    """Return a response at the rows of a CSR matrix; see `Response`.

    Raises
    ------
    ValueError
        If a logit is not finite.
    """
    logits = _logits(X, coef, intercept)
    if offset is not None:
        logits += offset
    if not np.all(np.isfinite(logits)):
        raise ValueError(
            "X times the coefficients overflows: some logits are not finite. Scale X, for "
            "example with sklearn.preprocessing.MaxAbsScaler, and check coef_."
        )
    if response == Response.LOGITS:
        return logits
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    if response == Response.LABELS:
        return logits.argmax(axis=1)
    if response == Response.PROBABILITIES:
        return softmax(logits, out=logits)
    return log_softmax(logits, out=logits)
