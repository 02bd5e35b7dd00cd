"""Fits to many digits, and words for what they found: for tests against optima."""

from __future__ import annotations

import numpy as np

from fastsoftmax import LogisticRegression

SOLVERS = ("auto", "lbfgs", "newton-cholesky", "newton-cg")
RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")

#: ||difference|| / ||coef|| at tight tol, as promised.
PROMISE, PROMISE_FLOAT32 = 1e-6, 1e-4
#: Relative, of the objective.
OBJECTIVE = 1e-12


def tight(**params):
    return LogisticRegression(**({"tol": 1e-12, "max_iter": 10_000} | params))


def sample_weights(n_samples):
    """Some are 0."""
    weights = np.random.default_rng(1).uniform(0.0, 3.0, n_samples)
    weights[::7] = 0.0
    return weights


def pack(model):
    return np.column_stack([model.coef_, model.intercept_]).astype(float)


def relative_distance(actual, desired):
    return np.linalg.norm(actual - desired) / np.linalg.norm(desired)
