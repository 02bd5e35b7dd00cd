"""The estimator over a Dask cluster: the same model, of rows that stay where they are.

The module imports without Dask, so that a fitted estimator can be unpickled where there is none.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from fastsoftmax import linear_model
from fastsoftmax._cluster import (
    Partitions,
    compute,
    delayed_parts,
    is_collection,
    later,
    rows_of,
)
from fastsoftmax._validation import numpy_only
from fastsoftmax.linear_model._callbacks import FitTask
from fastsoftmax.linear_model._logistic import unchanged_on_failure
from fastsoftmax.linear_model._parts import problem_of_parts

__all__ = ["LogisticRegression"]


class LogisticRegression(linear_model.LogisticRegression):
    """Multinomial (softmax) logistic regression on Dask arrays and dataframes.

    Parameters, attributes and results are those of `fastsoftmax.LogisticRegression`: the same
    objective, and the same coefficients up to `tol`, however the rows are cut into chunks. Methods
    take what that class takes, too, and then do what it does.

    Needs Dask, the extra ``fastsoftmax[dask]``. Uses the scheduler that is the default at the call:
    that of a ``dask.distributed.Client``, threads, processes, or ``synchronous``.

    Notes
    -----
    ``fit`` takes X as a Dask array, dense or with chunks of CSR matrices, or as a Dask dataframe of
    numbers; y and `sample_weight` as Dask arrays or series with chunks like X's, or in memory.
    Rows of an X in several column chunks are joined first. All partitions are in the memory of
    workers while it runs. Predictions of a collection are Dask arrays, not computed yet; those of
    rows in memory are arrays. `offset` and `standard_errors` need rows in memory.

    With ``C=np.inf`` it is not looked for whether classes are separable: then there is no finite
    optimum, and the fit ends by `tol`.

    A partition that cannot be fitted (NaN, a wrong width) raises ValueError with its number.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastsoftmax.dask import LogisticRegression
    >>> X = da.random.default_rng(0).normal(size=(1000, 3), chunks=(250, 3))
    >>> y = (X[:, 0] > 0).astype(int)
    >>> classifier = LogisticRegression().fit(X, y)
    >>> classifier.predict(X).compute().shape
    (1000,)
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        offset: ArrayLike | None = None,
    ) -> Self:
        """Fit the model; see `fastsoftmax.LogisticRegression.fit`.

        Parameters
        ----------
        X : dask.array.Array, dask.dataframe.DataFrame, or what the parent class takes
        y : dask array or series of shape (n_samples,) or (n_samples, n_classes), or array-like
        sample_weight : dask array or series of shape (n_samples,), or array-like, default=None
        offset : None
            For rows in memory only.

        Returns
        -------
        self : LogisticRegression

        Raises
        ------
        ValueError
            If an argument is not as described; where a partition is the reason, with its number.
        """
        if not is_collection(X):
            return super().fit(X, y, sample_weight, offset)
        if offset is not None:
            raise ValueError("offset is not available for Dask collections.")
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        self._settings()  # what does not go together is refused before anything is computed
        task = FitTask(self, X, y, sample_weight)
        parts = delayed_parts(X, y, sample_weight)
        with unchanged_on_failure(self), numpy_only(), Partitions(parts) as partitions:
            survey = partitions.survey(self)
            self._minimise(problem_of_parts(self, survey, partitions.designs), task)
        return self

    def _in_memory(self) -> linear_model.LogisticRegression:
        """Return the estimator that workers get: without what belongs to this class."""
        model = linear_model.LogisticRegression()
        model.__dict__.update(vars(self))
        return model

    def _by_blocks(self, X: Any, method: str, *arguments: Any) -> Any:
        """Return a method's result for every chunk of a collection, as a Dask array."""
        if not is_collection(X):
            return getattr(super(), method)(X, *arguments)
        if any(argument is not None for argument in arguments):
            raise ValueError("offset is not available for Dask collections.")
        check_is_fitted(self)
        X = rows_of(X)
        predict = _Prediction(self._in_memory(), method)
        like = predict.of_no_rows(X.shape[1])
        if hasattr(X, "map_partitions"):
            return X.map_partitions(predict, meta=like)  # an array, as `like` is
        if like.ndim == 1:
            return X.map_blocks(predict, dtype=like.dtype, meta=like, drop_axis=1)
        chunks = X.chunks[0], (like.shape[1],)
        return X.map_blocks(predict, dtype=like.dtype, meta=like, chunks=chunks)

    def decision_function(self, X: Any, offset: ArrayLike | None = None) -> Any:
        """Return the logits, as a Dask array for a collection."""
        return self._by_blocks(X, "decision_function", offset)

    def predict(self, X: Any, offset: ArrayLike | None = None) -> Any:
        """Return the most probable classes, as a Dask array for a collection."""
        return self._by_blocks(X, "predict", offset)

    def predict_proba(self, X: Any, offset: ArrayLike | None = None) -> Any:
        """Return the probabilities, as a Dask array for a collection."""
        return self._by_blocks(X, "predict_proba", offset)

    def predict_log_proba(self, X: Any, offset: ArrayLike | None = None) -> Any:
        """Return the logarithms of the probabilities, as a Dask array for a collection."""
        return self._by_blocks(X, "predict_log_proba", offset)

    def score(
        self, X: Any, y: Any, sample_weight: Any = None, offset: ArrayLike | None = None
    ) -> float:
        """Return the share of samples, by weight, whose class is predicted, a number."""
        if not is_collection(X):
            return super().score(X, y, sample_weight, offset)
        if offset is not None:
            raise ValueError("offset is not available for Dask collections.")
        model = self._in_memory()
        found = compute([later(_hits, part, model) for part in delayed_parts(X, y, sample_weight)])
        hits, weight = (sum(numbers) for numbers in zip(*found, strict=True))
        if weight == 0.0:
            raise ValueError("There is no row of positive weight to score.")
        return float(hits / weight)


class _Prediction:
    """A method of a fitted estimator, for a chunk; an empty one has an empty result."""

    def __init__(self, model: linear_model.LogisticRegression, method: str) -> None:
        self._model, self._method = model, method

    def __call__(self, X: Any) -> NDArray[Any]:
        if X.shape[0] == 0:
            return self.of_no_rows(X.shape[1])
        found: NDArray[Any] = getattr(self._model, self._method)(X)
        return found

    def of_no_rows(self, n_features: int) -> NDArray[Any]:
        """Return what a chunk of no rows would have: an array of the right dtype and width."""
        nameless = copy(self._model)
        nameless.__dict__.pop("feature_names_in_", None)
        found: NDArray[Any] = getattr(nameless, self._method)(
            np.zeros((1, n_features), self._model.coef_.dtype)
        )
        return found[:0]


def _hits(part: Any, model: linear_model.LogisticRegression) -> tuple[float, float]:
    """Return the weight of the rows whose class a model predicts, and that of all rows."""
    X, y, sample_weight = (*part, None)[:3]
    w = np.ones(X.shape[0]) if sample_weight is None else np.asarray(sample_weight, np.float64)
    masses = np.asarray(y)
    if masses.ndim == 2 and masses.shape[1] > 1:
        weight = float(w @ masses.sum(axis=1))
    else:
        weight = float(w.sum())
    return (weight * model.score(X, y, sample_weight), weight) if weight > 0.0 else (0.0, 0.0)
