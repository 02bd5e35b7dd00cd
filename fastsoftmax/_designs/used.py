"""The columns that some rows of a CSR matrix use, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A transposed copy of so few coefficients takes 10 us, less than what is done here.
_FEW_COEFFICIENTS = 2**14
#: So few entries are not worth a look which of them share a column.
_FEW_ENTRIES = 256


def used_columns(X: Any, coef: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
    """Return X and its coefficients reduced to the columns with entries, where these are few.

    Products with all rows of `coef` want these feature-major, and a transposed copy is made for
    each call, as users may change `coef_` in place. With 74288 features and 54 classes in float32
    it takes 5.8 ms. Predictions of one row so take 0.03 ms, of 100 rows 0.2, of 1000
    4.2 in place of 7.8.

    Parameters
    ----------
    X : CSR matrix of shape (n_samples, n_features)
    coef : ndarray of shape (n_rows, n_features)

    Returns
    -------
    X : CSR matrix of shape (n_samples, n_columns)
        Its values are not copied. Entries keep their order, and so logits their bits.
    coef : ndarray of shape (n_rows, n_columns)
    """
    n_entries, n_features = X.nnz, X.shape[1]
    is_ready = len(coef) == 1 and coef.dtype == X.dtype  # both ways at once
    if is_ready or coef.size <= _FEW_COEFFICIENTS or not 0 < n_entries <= n_features:
        return X, coef
    index_dtype = X.indices.dtype
    if n_entries <= _FEW_ENTRIES:
        columns, indices = X.indices, np.arange(n_entries, dtype=index_dtype)
    else:
        is_used = np.zeros(n_features, bool)
        is_used[X.indices] = True
        columns = np.flatnonzero(is_used)
        places = np.empty(n_features, index_dtype)
        places[columns] = np.arange(len(columns), dtype=index_dtype)
        indices = places[X.indices]
    arrays = (X.data, indices, X.indptr)
    return type(X)(arrays, shape=(X.shape[0], len(columns))), coef[:, columns]
