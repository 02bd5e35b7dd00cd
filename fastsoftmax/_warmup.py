"""Compiling ahead of need: for images, and before worker processes start."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike
from scipy import sparse

from fastsoftmax.linear_model import LogisticRegression
from fastsoftmax.objective import SoftmaxObjective

#: Rows enough that a pass over 8 features and 3 classes runs in threads.
_MANY = 100_000


def warmup(dtypes: Iterable[DTypeLike] = (np.float64, np.float32)) -> None:
    """Compile the kernels of fits and predictions, or load them from the cache.

    A server or a parent of worker processes that calls it first spares every worker the seconds
    of compilation, as long as they share ``FASTSOFTMAX_CACHE_DIR`` or the user's cache folder.

    Parameters
    ----------
    dtypes : iterable of dtype, default=(float64, float32)
        Dtypes of X to expect.
    """
    for dtype in dtypes:
        for n_samples in (60, _MANY):  # in one thread, and in several
            X = np.sin(np.arange(8 * n_samples, dtype=dtype)).reshape(n_samples, 8)
            y = np.arange(n_samples) % 3
            model = LogisticRegression(C=1e-3, max_iter=5, tol=1.0).fit(X, y)
            for predict in (model.predict, model.predict_proba):
                predict(X)
            objective = SoftmaxObjective(X, y)
            params = np.zeros(objective.shape)
            objective.hessian_vector_product(params, params)
            objective.design.class_grams(params[:, :-1], params[:, -1], n_samples, shared=True)
            model.fit(sparse.csr_array(X), y)
            rows = np.arange(min(n_samples, 10_000))
            model.fit(np.eye(200, dtype=dtype)[rows % 200], y[rows])  # mostly zeros
        model = LogisticRegression(l1_ratio=1.0, max_iter=5, tol=1.0).fit(X[:60], y[:60])
        many = sparse.random_array(  # features, and entries for several threads
            (5000, 5000), density=0.02, dtype=dtype, format="csr", random_state=0
        )
        for rows in (many[:60], many):
            for l1_ratio in (0.0, 1.0):
                model.set_params(l1_ratio=l1_ratio).fit(rows, np.arange(rows.shape[0]) % 3)
        # So many parameters that threads share one gradient, and a factor that is not SciPy's.
        X = np.cos(np.arange(600 * 2000, dtype=dtype)).reshape(600, 2000)
        objective = SoftmaxObjective(X, np.arange(600) % 40)
        objective.value_and_gradient(np.zeros(objective.shape))
