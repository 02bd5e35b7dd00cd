"""Weighted Gram blocks ``[X, 1]ᵀ diag(w) [X, 1]``, what Hessians are made of."""

from typing import Any

import numpy as np

from bench.operation import Case, Operation, Shape, register
from bench.operations.data import n_words_of_X, random_data
from bench.problems import Array
from bench.score import class_logits, log_probabilities

#: n_samples, n_features; each takes a peer about a second at most.
SHAPES: list[Shape] = [(500_000, 50), (200_000, 100), (50_000, 300), (20_000, 784)]


def ours(shape: Shape, dtype: str) -> Case:
    """Sum one block, with an intercept. The package's public names offer whole Hessians only."""
    from fastsoftmax._designs.curvature import _DenseSums

    X, _, params = random_data((*shape, 2), dtype)
    weights = _weights(X, params)[None, :]

    def evaluate() -> Array:
        sums = _DenseSums(X.shape[1] + 1, 1)
        sums.add(X, np.zeros(X.shape[1], X.dtype), weights)
        return sums.matrices()[0]

    return Case(evaluate, lambda found: _error(found, X, params))


def scikit_learn(shape: Shape, dtype: str) -> Case:
    """``sandwich_dot``, what newton-cholesky forms its Hessian with; weights are given."""
    from sklearn.linear_model._linear_loss import sandwich_dot

    X, _, params = random_data((*shape, 2), dtype)
    weights = _weights(X, params).astype(dtype)
    return Case(
        lambda: sandwich_dot(X, weights),
        lambda found: _error(found, X, params),
    )


def _weights(X: Array, params: Array) -> Array:
    """Return ``p (1 - p)`` of each row."""
    logits = class_logits(X.astype(np.float64), params.astype(np.float64))
    P = np.exp(log_probabilities(logits))
    return np.asarray(P[:, 0] * P[:, 1])


def _error(found: Any, X: Array, params: Array) -> float:
    """Return the error of the block without the intercept, relative to its largest entry."""
    d = X.shape[1]
    exact = X.astype(np.float64)
    expected = (exact * _weights(X, params)[:, None]).T @ exact
    return float(np.abs(np.asarray(found)[:d, :d] - expected).max() / np.abs(expected).max())


def _n_flops(shape: Shape) -> int:
    """Return n d (d + 1): a multiplication and an addition for each pair of one triangle."""
    n_samples, n_features = shape
    return n_samples * n_features * (n_features + 1)


register(
    Operation(
        "gram_block",
        {"fastsoftmax": ours, "scikit-learn": scikit_learn},
        SHAPES,
        [(2000, 50)],
        _n_flops,
        n_words_of_X,
    )
)
