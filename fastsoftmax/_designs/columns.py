"""Columns of X, for solvers that go from one coefficient to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fastsoftmax._designs.base import Array, Float64Array, Response
from fastsoftmax._designs.choose import by_columns, predict, some_columns

Indices = NDArray[np.int64]


class Columns(NamedTuple):
    """Some columns of ``[x - centre, 1]``: those of a CSC matrix.

    Attributes
    ----------
    starts, rows : ndarray of shape (n_columns + 1,) and (n_entries,), int64
    values : ndarray of shape (n_entries,)
        In the dtype of X.
    """

    starts: Indices
    rows: Indices
    values: Array


class ColumnAccess:
    """A design whose columns can be had; a copy of X where it is sparse.

    Parameters
    ----------
    design : Design
        With an `X`, `weights` and `offset` of its own.
    centre : ndarray of shape (n_features,)
        0 where X is sparse.

    Attributes
    ----------
    weights : ndarray of shape (n_positive,)
        Of the rows of positive weight, sum 1. There are no others here.
    """

    def __init__(self, design: Any, centre: Float64Array) -> None:
        self._X, self._by_columns = design.X, by_columns(design.X)
        self._centre = centre.astype(design.dtype)
        weights = design.weights if design.weights.size else np.ones(design.n_samples)
        # A row of weight 0 is as if removed, whatever it holds.
        self._rows = None if np.all(weights > 0) else np.flatnonzero(weights > 0)
        self._offset = design.offset if design.has_offset else None
        if self._rows is not None:
            weights = weights[self._rows]
            self._offset = None if self._offset is None else self._offset[self._rows]
        self.weights: Float64Array = weights / np.float64(design.weight_sum)

    def probabilities(self, coef: Float64Array, intercept: Float64Array) -> Array:
        """Return the logit rows' probabilities, (n_rows, n_positive), from non-zero columns.

        Raises ValueError if a logit is not finite.
        """
        used = np.flatnonzero(coef.any(axis=0)) if coef.any() else np.zeros(1, np.int64)
        X = some_columns(self._X, used)
        X = X if self._rows is None else X[self._rows]
        P = predict(X, coef[:, used], intercept, Response.PROBABILITIES, self._offset)
        return np.ascontiguousarray(P[:, -len(coef) :].T)

    def pick(self, numbers: Indices) -> Columns:
        """Return columns of ascending numbers; ``n_features`` is the number of that of ones."""
        n_features = self._X.shape[1]
        features = numbers[numbers < n_features]
        X = self._by_columns[:, features]
        X = X if self._rows is None else X[self._rows]
        if self._centre.any():
            X = X - self._centre[features]
        X = sparse.csc_array(X)
        starts, rows, values = X.indptr.astype(np.int64), X.indices.astype(np.int64), X.data
        if len(features) < len(numbers):
            n_samples = len(self.weights)
            starts = np.append(starts, starts[-1] + n_samples)
            rows = np.append(rows, np.arange(n_samples))
            values = np.append(values, np.ones(n_samples, values.dtype))
        return Columns(starts, rows, values)
