"""The score of every library: the objective and its gradient in float64 NumPy.

Nothing here calls a library's own loss. Rows are taken block by block, so that neither a
float64 copy of X nor an ``(n_samples, n_classes)`` array exists.

References
----------
Equations 2 and 6 of the README's table: mean cross-entropy and its gradient.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special

from bench.problems import Array, Matrix, Problem, row_blocks

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """What the coefficients of one fit are worth; losses in nats per sample."""

    objective: float
    gradient_norm: float  # largest absolute entry
    accuracy: float
    test_accuracy: float
    test_log_loss: float


def l2_of(C: float, n_samples: int) -> float:
    """Return the factor of ``||W||^2 / 2`` beside the mean loss: ``1 / (C n)``."""
    return 1.0 / (C * n_samples)


def dense_or_sparse_float64(block: Matrix) -> Matrix:
    """Return a block of rows as float64; a copy only where the dtype differs."""
    return block.astype(np.float64, copy=False)


def columns_of(X: Matrix, params: Float64Array) -> Float64Array:
    """Return the coefficients with a column for each class, as products with blocks of X want them.

    The product of a CSR array copies what is not in C order, once for each block.
    """
    columns = params[:, :-1].T
    return np.ascontiguousarray(columns) if _is_sparse(X) else columns


def class_logits(
    block: Matrix, params: Float64Array, columns: Float64Array | None = None
) -> Float64Array:
    """Return the logits ``(n_block, K)``; one logit row means two classes, the first at 0.

    ``columns`` are those of `columns_of`, where there is more than one block.
    """
    if columns is None:
        columns = params[:, :-1].T
    logits: Float64Array = np.asarray(block @ columns) + params[:, -1]
    if len(params) == 1:
        return np.column_stack([np.zeros(len(logits)), logits[:, 0]])
    return logits


def log_probabilities(logits: Float64Array) -> Float64Array:
    """Return ``log softmax`` of each row."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def value_and_gradient(
    X: Matrix, labels: Array, params: Float64Array, l2: float
) -> tuple[float, Float64Array, float]:
    """Return objective, gradient and accuracy at ``params``.

    objective = mean(-log P[i, y_i]) + l2/2 ||W||^2, gradient = (P - Y)' [X, 1] / n + l2 [W, 0].

    Parameters
    ----------
    X : array or CSR array of shape (n_samples, n_features)
    labels : integer array of shape (n_samples,)
        0..K-1.
    params : float64 array of shape (n_rows, n_features + 1)
        Last column the intercept; a single row for two classes.
    l2 : float
        See ``l2_of``.
    """
    n_samples = X.shape[0]
    loss, n_correct = 0.0, 0
    columns = columns_of(X, params)
    gradient = np.zeros(params.shape[::-1])
    for rows in row_blocks(n_samples, width_of(X, params)):
        block, y = dense_or_sparse_float64(X[rows]), labels[rows]
        log_p = class_logits(block, params, columns)
        n_correct += int((log_p.argmax(axis=1) == y).sum())
        log_p = log_probabilities(log_p)
        picked = np.arange(len(y)), y
        loss -= float(log_p[picked].sum())
        residual = np.exp(log_p)
        residual[picked] -= 1.0
        residual = residual[:, -len(params) :]
        gradient[:-1] += block.T @ residual
        gradient[-1] += residual.sum(axis=0)
    coef = params[:, :-1]
    gradient = np.ascontiguousarray(gradient.T) / n_samples
    gradient[:, :-1] += l2 * coef
    value = loss / n_samples + 0.5 * l2 * float(np.vdot(coef, coef))
    return value, gradient, n_correct / n_samples


def objective(X: Matrix, labels: Array, params: Float64Array, l2: float) -> float:
    """Return the objective alone."""
    return _mean_loss(X, labels, params)[0] + 0.5 * l2 * float((params[:, :-1] ** 2).sum())


def l1_objective(
    X: Matrix, labels: Array, params: Float64Array, strength: float, l1_ratio: float
) -> float:
    """Return mean loss + strength (l1_ratio |W|_1 + (1 - l1_ratio)/2 ||W||^2)."""
    l1 = strength * l1_ratio * float(np.abs(params[:, :-1]).sum())
    return objective(X, labels, params, strength * (1.0 - l1_ratio)) + l1


def score(problem: Problem, C: float, params: Float64Array) -> Score:
    """Return the score of ``params`` on the training and held-out rows of a problem."""
    l2 = l2_of(C, problem.X.shape[0])
    value, gradient, accuracy = value_and_gradient(problem.X, problem.y, params, l2)
    test_log_loss, test_accuracy = _mean_loss(problem.X_test, problem.y_test, params)
    return Score(value, float(np.abs(gradient).max()), accuracy, test_accuracy, test_log_loss)


def score_one_vs_rest(problem: Problem, params: Float64Array) -> Score:
    """Return the score of a logistic regression per class: it has no objective in common with ours.

    Its probabilities are those of its classes, divided by their sum: a softmax of their logarithms.
    """
    _, accuracy = _mean_loss(problem.X, problem.y, params, one_vs_rest=True)
    loss, test_accuracy = _mean_loss(problem.X_test, problem.y_test, params, one_vs_rest=True)
    return Score(math.nan, math.nan, accuracy, test_accuracy, loss)


def _mean_loss(
    X: Matrix, labels: Array, params: Float64Array, one_vs_rest: bool = False
) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    loss, n_correct = 0.0, 0
    columns = columns_of(X, params)
    for rows in row_blocks(X.shape[0], width_of(X, params)):
        y = labels[rows]
        logits = class_logits(dense_or_sparse_float64(X[rows]), params, columns)
        if one_vs_rest and len(params) > 1:
            logits = scipy.special.log_expit(logits)
        n_correct += int((logits.argmax(axis=1) == y).sum())
        loss -= float(log_probabilities(logits)[np.arange(len(y)), y].sum())
    n_samples = max(len(labels), 1)
    return loss / n_samples, n_correct / n_samples


def width_of(X: Matrix, params: Float64Array) -> int:
    """Return the columns a row block needs: dense features and a few logit rows.

    Blocks of a sparse X are longer, since each takes time and memory for a gradient of its own.
    """
    return len(params) if _is_sparse(X) else int(X.shape[1]) + 4 * len(params)


def _is_sparse(X: Matrix) -> bool:
    return hasattr(X, "indptr")
