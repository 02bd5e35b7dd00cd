"""The one place that looks at how X is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fastsoftmax._designs import curvature
from fastsoftmax._designs import dense as dense_storage
from fastsoftmax._designs import sparse as sparse_storage
from fastsoftmax._designs.base import Design, Response
from fastsoftmax._designs.used import used_columns
from fastsoftmax._validation import Targets, Weights


def make_design(
    X: Any,
    targets: Targets,
    weights: Weights,
    offset: NDArray[Any] | None = None,
    number: int = 0,
) -> Design:
    """Return the design that holds a validated X (C-order array or CSR), targets and weights.

    Of a part of the rows also its number, from 0.
    """
    if sparse.issparse(X):
        return sparse_storage.SparseDesign(X, targets, weights, offset, number)
    return dense_storage.DenseDesign(X, targets, weights, offset, number)


def by_columns(X: Any) -> Any:
    """Return X in a form from which columns are picked fast: CSC, without duplicates, if sparse."""
    if not sparse.issparse(X):
        return X
    X = X.tocsc()
    X.sum_duplicates()
    return X


def stacked(parts: list[Any]) -> Any:
    """Return the rows of several validated X as one."""
    if not sparse.issparse(parts[0]):
        return np.concatenate(parts)
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def n_entries(X: Any) -> int:
    """Return the number of stored entries."""
    return int(X.nnz if sparse.issparse(X) else X.size)


def as_array(X: Any) -> NDArray[Any]:
    """Return validated rows as an array."""
    array: NDArray[Any] = X.toarray() if sparse.issparse(X) else X
    return array


def has_exact_grams(design: Design, n_rows: int, shared: bool) -> bool:
    """Tell whether a design's Gram matrices are of all its rows, however many: of sparse ones."""
    if not isinstance(design, sparse_storage.SparseDesign):
        return False
    return design.has_exact_grams(n_rows, shared)


def density(X: Any, centre: NDArray[Any]) -> float:
    """Return the share of entries that differ from a centre, which is 0 for sparse rows."""
    if sparse.issparse(X):
        return float(X.nnz) / max(1, X.shape[0] * X.shape[1])
    return curvature.density(X, centre)


def some_columns(X: Any, numbers: NDArray[np.int64]) -> Any:
    """Return columns of a validated X as an X that is as valid."""
    return X[:, numbers] if sparse.issparse(X) else np.ascontiguousarray(X[:, numbers])


def predict(
    X: Any,
    coef: NDArray[Any],
    intercept: NDArray[Any],
    response: Response,
    offset: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return a response of a linear softmax model at the rows of a validated X.

    Parameters
    ----------
    X : array in C order or CSR matrix of shape (n_samples, n_features)
    coef : ndarray of shape (n_rows, n_features)
        One row stands for two classes.
    intercept : ndarray of shape (n_rows,)
    response : Response
    offset : ndarray of shape (n_samples, n_rows), default=None
        Added to the logits.

    Returns
    -------
    ndarray
        See `Response`.

    Raises
    ------
    ValueError
        If a logit is not finite.
    """
    if sparse.issparse(X):
        X, coef = used_columns(X, coef)
        return sparse_storage.predict(X, coef, intercept, response, offset)
    return dense_storage.predict(X, coef, intercept, response, offset)
