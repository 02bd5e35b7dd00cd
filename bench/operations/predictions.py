"""Predictions of fitted estimators: over the grid, and for one row as a server asks for them."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.operation import Case, Operation, Shape, register
from bench.operations.data import GRID, QUICK_GRID, n_words_of_X, random_data
from bench.problems import Array
from bench.score import class_logits, log_probabilities

ONE_ROW_CALLS = 2000


def _estimator(library: str) -> Any:
    if library == "fastsoftmax":
        from fastsoftmax import LogisticRegression as Ours

        return Ours(max_iter=1)
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1)


def _fitted(library: str, X: Array, params: Array, n_classes: int) -> Any:
    """Return an estimator fitted to a row per class, then given the coefficients."""
    few = np.resize(X[:n_classes], (n_classes, X.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one iteration does not converge
        model = _estimator(library).fit(few, np.arange(n_classes))
    model.coef_ = np.ascontiguousarray(params[:, :-1])
    model.intercept_ = np.ascontiguousarray(params[:, -1])
    return model


def probabilities(library: str) -> Callable[[Shape, str], Case]:
    """Return the maker of ``predict_proba``."""

    def make(shape: Shape, dtype: str) -> Case:
        X, _, params = random_data(shape, dtype)
        model = _fitted(library, X, params, shape[2])
        return Case(
            lambda: model.predict_proba(X), lambda found: _probability_error(found, X, params)
        )

    return make


def labels(library: str) -> Callable[[Shape, str], Case]:
    """Return the maker of ``predict``; its error is the share of other labels than NumPy's."""

    def make(shape: Shape, dtype: str) -> Case:
        X, _, params = random_data(shape, dtype)
        model = _fitted(library, X, params, shape[2])

        def error(found: Array) -> float:
            logits = class_logits(X.astype(np.float64), params.astype(np.float64))
            return float(np.mean(found != logits.argmax(axis=1)))

        return Case(lambda: model.predict(X), error)

    return make


def one_row(shape: Shape, dtype: str) -> Case:
    """Our ``predict_proba`` of one row, in turns with scikit-learn's."""
    X, _, params = random_data(shape, dtype)
    model = _fitted("fastsoftmax", X, params, shape[2])
    peer = _fitted("scikit-learn", X, params, shape[2])
    return Case(
        lambda: model.predict_proba(X),
        lambda found: _probability_error(found, X, params),
        companion=lambda: peer.predict_proba(X),
        repeats=ONE_ROW_CALLS,
    )


def _probability_error(found: Array, X: Array, params: Array) -> float:
    """Return the largest absolute error."""
    logits = class_logits(X.astype(np.float64), params.astype(np.float64))
    return float(np.abs(found - np.exp(log_probabilities(logits))).max())


for name, maker in (("predict_proba", probabilities), ("predict", labels)):
    register(
        Operation(
            name,
            {library: maker(library) for library in ("fastsoftmax", "scikit-learn")},
            GRID,
            QUICK_GRID,
            n_words=n_words_of_X,
        )
    )
register(
    Operation(
        "predict_proba_one_row",
        {"fastsoftmax": one_row},
        [(1, 64, 10)],
        [(1, 64, 10)],
        threads=("1",),
    )
)
