"""X as a CSR matrix, through SciPy's products: one thread, and an (n_samples, n_rows) array."""

from __future__ import annotations

from collections.abc import Iterator
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
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import rows as kernels
from fastsoftmax._threads import sweep
from fastsoftmax._validation import Targets, Weights
from fastsoftmax.functional import log_softmax, softmax


class SparseDesign:
    """Rows of a CSR matrix; see `fastsoftmax._designs.base.Design`. X is never densified whole."""

    def __init__(
        self, X: Any, targets: Targets, weights: Weights, offset: Array | None = None
    ) -> None:
        self.X = X
        self.labels = kernel_view(targets.labels)
        self.soft = kernel_view(targets.soft)
        self.weights = kernel_view(weights.scaled)
        self.offset = kernel_view(np.empty((0, 0), X.dtype) if offset is None else offset)
        self.n_classes = targets.n_classes
        self.weight_sum = weights.total
        self.weight_scale = weights.largest
        self.has_offset = offset is not None
        self.n_samples: int = X.shape[0]
        self.n_features: int = X.shape[1]
        self.dtype: np.dtype[Any] = X.dtype
        self._density = X.nnz / max(1, self.n_samples * self.n_features)

    def class_weights(self) -> Float64Array:
        """Return the sum of the targets, ``sum_i w_i y_ik``."""
        return class_weights(self.labels, self.soft, self.weights, self.n_classes)

    def loss(self, coef: Float64Array, intercept: Float64Array) -> float:
        """Return ``sum_i w_i loss_i``."""
        return self._loss_and_residual(coef, intercept)[0]

    def loss_and_gradient(
        self, coef: Float64Array, intercept: Float64Array
    ) -> tuple[float, Float64Array]:
        """Return the loss sum and its gradient."""
        loss, residual = self._loss_and_residual(coef, intercept)
        return loss, self._back(residual)

    def hessian_vector_product(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        coef_direction: Float64Array,
        intercept_direction: Float64Array,
        probabilities: Array | None = None,
    ) -> Float64Array:
        """Return the product of the loss sum's Hessian with a direction."""
        try:
            known = self.probabilities(coef, intercept) if probabilities is None else probabilities
            P = known[:, -coef.shape[0] :]
        except ValueError:  # logits overflow; the caller tests for it, as with a dense X
            return np.full((coef.shape[0], self.n_features + 1), np.nan)
        T = _logits(self.X, coef_direction, intercept_direction)
        T -= np.einsum("ik,ik->i", P, T)[:, None] if P.shape[1] > 1 else P * T
        T *= P
        if self.weights.size:
            T = np.where(self.weights[:, None] > 0, T * self.weights[:, None], 0)
        return self._back(T)

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
        """Return the operations of a pass over X."""
        return 4.0 * self.X.nnz * n_rows

    def hessian(
        self, coef: Float64Array, intercept: Float64Array, centre: Float64Array | None = None
    ) -> Float64Array:
        """Return the Hessian of the loss sum in its identifiable coordinates."""
        _refuse(centre)
        return curvature.hessian(
            self._blocks(coef, intercept), coef.shape[0], self.n_features, self._density
        )

    def hessian_passes(self, n_rows: int, centre: Float64Array | None = None) -> float:
        """Return the cost of `hessian` in passes over X."""
        _refuse(centre)
        passes = curvature.hessian_passes(n_rows, self.n_features, self._density)
        return passes / max(self._density, 1e-12)

    def class_grams(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        most_rows: int,
        shared: bool,
        centre: Float64Array | None = None,
    ) -> Float64Array:
        """Return ``sum_i w_i p_ik (1 - p_ik) x_i x_iᵀ`` per logit row, from every s-th row."""
        _refuse(centre)
        step = max(1, -(-self.n_samples // most_rows))
        blocks = self._blocks(coef, intercept, step)
        return step * curvature.class_grams(
            blocks, coef.shape[0], self.n_features, self._density, shared
        )

    def class_gram_passes(
        self, n_rows: int, most_rows: int, shared: bool, centre: Float64Array | None = None
    ) -> float:
        """Return the cost of `class_grams`, and of factors of them, in passes over X."""
        _refuse(centre)
        passes = curvature.class_gram_passes(
            self.n_samples, n_rows, self.n_features, self._density, most_rows, shared
        )
        return passes / max(self._density, 1e-12)

    def class_diagonals(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        centre: Float64Array | None = None,
        shared: bool = False,
    ) -> Float64Array:
        """Return the diagonals of `class_grams` over all rows."""
        _refuse(centre)
        P = self._probabilities(self.X, coef, intercept).astype(np.float64)
        curvatures = P * (1.0 - P)
        if self.weights.size:
            curvatures *= self.weights[:, None]
        diagonals = np.empty((P.shape[1], self.n_features + 1))
        diagonals[:, :-1] = (self.X.multiply(self.X).T @ curvatures).T
        diagonals[:, -1] = curvatures.sum(axis=0)
        return diagonals.mean(axis=0, keepdims=True) if shared else diagonals

    def margins(
        self,
        direction: Coefficients,
        start: Coefficients | None = None,
        want_gradient: bool = False,
    ) -> Margins | None:
        """Return how far a direction moves the labels' logits from the others."""
        n_entries = 2.0 * self.X.nnz / self.n_samples
        return margins_of(
            *(self.X, self.labels, self.weights, direction, n_entries, start, want_gradient)
        )

    def _loss_and_residual(
        self, coef: Float64Array, intercept: Float64Array
    ) -> tuple[float, Array]:
        """Return the loss sum and the residual ``R = w (P - Y)``, (n_samples, n_rows)."""
        residual = _logits(self.X, coef, intercept)
        block_size = kernels.rows_per_block(residual.shape[1])
        losses = np.zeros(-(-self.n_samples // block_size))
        sweep(
            kernels.residual_rows,
            len(losses),
            30.0 * residual.size,
            block_size,
            residual,
            self.labels,
            self.soft,
            self.weights,
            self.offset,
            losses,
        )
        return float(losses.sum()), residual

    def _back(self, residual: Array) -> Float64Array:
        """Return ``[Rᵀ X, sum of R]``; SciPy adds up in the dtype of its arguments."""
        residual = residual.astype(np.float64)
        gradient = np.empty((residual.shape[1], self.n_features + 1))
        gradient[:, :-1] = (self.X.T @ residual).T
        gradient[:, -1] = residual.sum(axis=0)
        return gradient

    def _probabilities(
        self,
        X: Any,
        coef: Float64Array,
        intercept: Float64Array,
        rows: slice | NDArray[np.intp] = slice(None),
    ) -> Array:
        """Return probabilities, one column per logit row."""
        offset = self.offset[rows] if self.offset.size else None
        P = predict(X, coef, intercept, Response.PROBABILITIES, offset)
        return P[:, -coef.shape[0] :]

    def _blocks(
        self, coef: Float64Array, intercept: Float64Array, step: int = 1
    ) -> Iterator[curvature.Block]:
        """Yield every `step`-th row in dense blocks of a few MB."""
        n_rows = coef.shape[0]
        n_entries = n_rows * (n_rows + 1) // 2 + 2 * n_rows + self.n_features
        for rows in curvature.row_slices(self.n_samples, n_entries, step):
            chosen = np.arange(self.n_samples)[rows]
            if self.weights.size:  # a row of weight 0 is as if removed
                chosen = chosen[self.weights[chosen] > 0]
            if len(chosen):
                X = self.X[chosen]
                P = self._probabilities(X, coef, intercept, chosen)
                weights = self.weights[chosen] if self.weights.size else None
                yield curvature.block(
                    chosen, X.toarray(), np.zeros(X.shape[1], X.dtype), P.T, weights
                )


def _refuse(centre: Float64Array | None) -> None:
    if centre is not None and centre.any():
        raise ValueError("a centre other than 0 would make a sparse X dense")


def _logits(X: Any, coef: Array, intercept: Array) -> Array:
    """Return ``X Wᵀ + b`` in C order and X's dtype."""
    logits = np.ascontiguousarray(X @ np.ascontiguousarray(coef.T, dtype=X.dtype))
    logits += intercept.astype(X.dtype)
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
