"""The process that times one pass: ``value_and_gradient`` of a library on random data."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from bench.problems import Array
from bench.score import value_and_gradient

L2 = 1e-3
MIN_REPEATS = 7
MIN_SECONDS = 0.3

Pass = Callable[[], tuple[float, Array]]


def ours(X: Array, y: Array, params: Array, n_classes: int) -> Pass:
    """Return a pass of ``fastsoftmax.SoftmaxObjective``."""
    module = import_module("fastsoftmax")
    objective = module.SoftmaxObjective(X, y, n_classes=n_classes, l2=L2, n_rows=len(params))
    return lambda: objective.value_and_gradient(params)


def scikit_learn(X: Array, y: Array, params: Array, n_classes: int) -> Pass:
    """Return a pass of ``LinearModelLoss.loss_gradient``, called as LogisticRegression does."""
    from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    if n_classes == 2:
        loss, coef = HalfBinomialLoss(), params.ravel()
    else:
        # LogisticRegression hands its solver the coefficients as (d + 1, K) in this order.
        loss, coef = HalfMultinomialLoss(n_classes=n_classes), np.asfortranarray(params)
    objective = LinearModelLoss(base_loss=loss, fit_intercept=True)
    target = y.astype(X.dtype)

    def evaluate() -> tuple[float, Array]:
        value, gradient = objective.loss_gradient(coef, X, target, l2_reg_strength=L2)
        return value, gradient.reshape(params.shape)

    return evaluate


PASSES = {"fastsoftmax": ours, "scikit-learn": scikit_learn}


def random_data(
    n_samples: int, n_features: int, n_classes: int, dtype: str
) -> tuple[Array, Array, Array]:
    """Return X, labels and small params, the same for every library."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, n_features), dtype=np.float32).astype(dtype)
    y = rng.integers(0, n_classes, n_samples)
    n_rows = 1 if n_classes == 2 else n_classes
    params = rng.standard_normal((n_rows, n_features + 1)) * n_features**-0.5
    return X, y, params.astype(dtype)


def measure(evaluate: Pass) -> tuple[float, int]:
    """Return the median seconds of a pass and the number of passes, at least seven."""
    seconds: list[float] = []
    while len(seconds) < MIN_REPEATS or sum(seconds) < MIN_SECONDS:
        begin = time.perf_counter()
        evaluate()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), len(seconds)


def error(found: tuple[float, Array], X: Array, y: Array, params: Array) -> float:
    """Return the largest relative error of value and gradient against float64 NumPy."""
    value, gradient, _ = value_and_gradient(X, y, params.astype(np.float64), L2)
    gradient_error = np.abs(found[1] - gradient).max() / np.abs(gradient).max()
    return float(max(abs(found[0] - value) / value, gradient_error))


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=PASSES)
    parser.add_argument("shape", type=int, nargs=3)
    parser.add_argument("dtype")
    options = parser.parse_args()
    n_samples, n_features, n_classes = options.shape
    X, y, params = random_data(n_samples, n_features, n_classes, options.dtype)
    evaluate = PASSES[options.library](X, y, params, n_classes)
    begin = time.perf_counter()
    first = evaluate()
    first_seconds = time.perf_counter() - begin
    seconds, repeats = measure(evaluate)
    reply: dict[str, Any] = {
        "seconds": seconds,
        "repeats": repeats,
        "first_seconds": first_seconds,  # with compilation
        "error": error(first, X, y, params),
    }
    print(json.dumps(reply))


if __name__ == "__main__":
    main()
