"""Sparse data with many features: texts, hashes, identifiers.

Then coefficients are what fills memory and takes a solver's time. They stand feature-major, as
kernels want them, in the dtype of X, and in as few vectors as will do.

Features without an entry have a coefficient of 0 and are left out. Those of one entry are joined:
if x_1, x_2, ... are all that one sample has of them, their coefficients at the optimum are in
proportion to these values, so that one feature ``s = ||x||`` with a coefficient w will do, ``w_j =
w x_j / s``. Both are an orthonormal map of features, T: ``X W = (X T) (Tᵀ W)``, and the penalty
stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fastsoftmax._designs import SparseDesign, Storage
from fastsoftmax._solvers import (
    Functions,
    IterationState,
    SolverResult,
    Stopping,
    minimize_in_diagonal_metric,
)
from fastsoftmax.objective import SoftmaxObjective

Array = NDArray[Any]
Vector = NDArray[np.float64]

#: Gram matrices have at most so many columns.
GRAM_COLUMNS = 2500
#: An intercept keeps this share of its first curvature.
_LEAST_CURVATURE = 1e-3


def has_vocabulary(objective: SoftmaxObjective) -> bool:
    """Tell whether an objective is of this kind; without a penalty other solvers know more."""
    return (
        isinstance(objective.design, SparseDesign)
        and objective.shape[1] > GRAM_COLUMNS
        and bool(np.all(objective.l2[:-1] > 0.0))
    )


class VocabularyFit:
    """A fit of an objective for which `has_vocabulary` holds.

    Parameters
    ----------
    objective : SoftmaxObjective
    """

    def __init__(self, objective: SoftmaxObjective) -> None:
        design = objective.design
        assert isinstance(design, SparseDesign)
        self._objective = objective
        l2 = objective.l2[:-1]
        T, storage = _reduced(design.storage, may_join=bool(np.ptp(l2) == 0.0))
        self._T, self._design = T, design.with_storage(storage)
        self._l2 = np.zeros(self._design.n_features + 1)
        self._l2[:-1] = l2 if T is None else (T.T**2) @ l2
        self._terms = self._design.terms(objective.n_rows)
        self._least: Vector | None = None

    def run(self, start: Vector, stopping: Stopping) -> SolverResult:
        """Return the result, as the ordinary solvers do."""
        objective, on_iteration = self._objective, stopping["on_iteration"]
        if on_iteration is not None:
            stopping = {**stopping, "on_iteration": self._shown_to(on_iteration)}
        # Losses are rounded in the dtype of X, one by one and at random, and add up in float64.
        noise = stopping["noise"] / np.sqrt(objective.n_samples)
        stopping = {**stopping, "noise": max(noise, 4.0 * float(np.finfo(np.float64).eps))}
        functions = Functions(self._value_and_gradient, self._inverse_curvature)
        result = minimize_in_diagonal_metric(functions, self._table(start), **stopping)
        return replace(result, params=self._params(result.params))

    def _value_and_gradient(self, table: Array, gradient: Array) -> float:
        objective = self._objective
        value = self._design.mean_loss_into(
            objective.n_rows, table, self._l2, self._terms, gradient
        )
        if not objective.fit_intercept:
            gradient[-1] = 0.0
        return value if np.isfinite(value) else np.inf

    def _inverse_curvature(self, table: Array, inverse: Array) -> None:
        n_rows = self._objective.n_rows
        self._design.mean_curvature_into(n_rows, table, self._terms, inverse)
        tiny = np.finfo(inverse.dtype).tiny  # in float32 a strength may underflow
        inverse[:-1] += np.maximum(self._l2[:-1, None], tiny).astype(inverse.dtype)
        if self._least is None:
            first = inverse[-1, :n_rows].astype(np.float64)  # 0 where all samples are certain
            self._least = _LEAST_CURVATURE * np.maximum(first, _LEAST_CURVATURE / len(first))
        np.maximum(inverse[-1, :n_rows], self._least, out=inverse[-1, :n_rows])
        inverse[-1, n_rows:] = 1.0
        np.reciprocal(inverse, out=inverse)

    def _table(self, params: Vector) -> Array:
        coef, intercept = self._objective.unpack(params)
        table, T = self._design.table(len(coef)), self._T
        if coef.any():
            table[:-1, : len(coef)] = coef.T if T is None else T.T @ coef.T
        table[-1, : len(coef)] = intercept
        return table

    def _params(self, table: Array) -> Vector:
        objective, T = self._objective, self._T
        table = table.reshape(self._design.n_features + 1, -1)[:, : objective.n_rows]
        params = np.zeros(objective.shape)
        coef = params[:, : objective.n_features]
        coef[:] = (table[:-1] if T is None else T @ table[:-1]).T
        if len(coef) > 1:  # see `mean_loss_into`
            coef -= coef.mean(axis=0)
        if objective.fit_intercept:
            params[:, -1] = table[-1]
        return params.ravel()

    def _shown_to(
        self, on_iteration: Callable[[IterationState], bool | None]
    ) -> Callable[[IterationState], bool | None]:
        return lambda state: on_iteration(replace(state, params=self._params(state.params)))


def _reduced(storage: Storage, may_join: bool) -> tuple[Any | None, Storage]:
    """Return T of `_orthonormal_features`, and ``X T``; folds and strengths share them."""
    if may_join not in storage.reduced:
        T = _orthonormal_features(storage.X, may_join)
        reduced = storage if T is None else Storage(_product(storage.X, T))
        storage.reduced[may_join] = T, reduced
    T, reduced = storage.reduced[may_join]
    return T, reduced


def _orthonormal_features(X: Any, may_join: bool) -> Any | None:
    """Return T, (n_features, n_inner) with orthonormal columns: ``X T`` has the features needed.

    None if that is all of them, or none. Those of one entry are joined, sample by sample, if
    `may_join`. A row of T has one entry, which may be 0.
    """
    counts = np.bincount(X.indices, minlength=X.shape[1])
    is_single = (counts == 1) & may_join
    is_kept = (counts > 0) & ~is_single
    n_kept = int(np.count_nonzero(is_kept))
    if n_kept == X.shape[1] or not X.data.any():
        return None
    home, share = np.cumsum(is_kept) - is_kept, is_kept.astype(X.dtype)
    entries = np.flatnonzero(is_single[X.indices])
    samples = np.searchsorted(X.indptr, entries, side="right") - 1
    values = X.data[entries].astype(np.float64)
    largest = np.full(X.shape[0], np.finfo(np.float64).tiny)
    np.maximum.at(largest, samples, np.abs(values))
    values /= largest[samples]  # squares must not overflow, nor underflow
    norms = np.sqrt(np.bincount(samples, values**2, X.shape[0]))
    has_norm = norms[samples] > 0.0  # not so with stored zeros
    samples, singles = samples[has_norm], X.indices[entries[has_norm]]
    joined = np.unique(samples)
    home[singles] = n_kept + np.searchsorted(joined, samples)
    share[singles] = values[has_norm] / norms[samples]
    n_inner = n_kept + len(joined)
    home = np.minimum(home, n_inner - 1)
    pointers = np.arange(X.shape[1] + 1)
    return sparse.csr_array((share, home, pointers), shape=(X.shape[1], n_inner))


def _product(X: Any, T: Any) -> Any:
    """Return ``X T`` for a T with one entry in each row: a quarter of the time of SciPy's."""
    # A copy of the pointers: they change where duplicates are added up.
    parts = (X.data * T.data[X.indices], T.indices[X.indices], X.indptr.copy())
    product = sparse.csr_array(parts, shape=(X.shape[0], T.shape[1]))
    product.sum_duplicates()
    return product
