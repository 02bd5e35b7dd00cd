"""One pass over X: the objective with its gradient, and the Hessian-vector product."""

from typing import Any

import numpy as np

from bench.operation import Case, Operation, Shape, register
from bench.operations.data import (
    GRID,
    QUICK_GRID,
    n_logit_rows,
    n_words_of_X,
    random_data,
)
from bench.problems import Array, Matrix
from bench.score import class_logits, log_probabilities, value_and_gradient

L2 = 1e-3


def ours(shape: Shape, dtype: str) -> Case:
    """``fastsoftmax.SoftmaxObjective.value_and_gradient``."""
    X, y, params = random_data(shape, dtype)
    objective = _objective(X, y, shape)
    return Case(
        lambda: objective.value_and_gradient(params),
        lambda found: pass_error(found, X, y, params, L2),
    )


def scikit_learn(shape: Shape, dtype: str) -> Case:
    """``LinearModelLoss.loss_gradient``, called as LogisticRegression does."""
    X, y, params = random_data(shape, dtype)
    return scikit_learn_pass(X, y, params, shape[2])


def scikit_learn_pass(X: Matrix, y: Array, params: Array, n_classes: int) -> Case:
    """Return a pass of scikit-learn's over given data."""
    from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    if n_classes == 2:
        loss, coef = HalfBinomialLoss(), params.ravel()
    else:
        # LogisticRegression hands its solver the coefficients as (d + 1, K) in this order.
        loss, coef = HalfMultinomialLoss(n_classes=n_classes), np.asfortranarray(params)
    objective = LinearModelLoss(base_loss=loss, fit_intercept=True)
    target = y.astype(X.dtype)
    return Case(
        lambda: objective.loss_gradient(coef, X, target, l2_reg_strength=L2),
        lambda found: pass_error((found[0], found[1].reshape(params.shape)), X, y, params, L2),
    )


def torch(shape: Shape, dtype: str) -> Case:
    """``cross_entropy(linear(X, W, b), y)``, forward and backward; no penalty."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    X, y, params = random_data(shape, dtype)
    # It has no form of two classes with one logit: the first class's logit is 0.
    rows = np.vstack([np.zeros_like(params), params]) if shape[2] == 2 else params
    W = torch.tensor(rows[:, :-1], requires_grad=True)
    b = torch.tensor(rows[:, -1], requires_grad=True)
    X_tensor, y_tensor = torch.from_numpy(X), torch.from_numpy(y)

    def run() -> tuple[float, Any, Any]:
        W.grad = b.grad = None
        loss = cross_entropy(linear(X_tensor, W, b), y_tensor)
        loss.backward()
        return loss.item(), W.grad, b.grad

    def error(found: tuple[float, Any, Any]) -> float:
        gradient = np.column_stack([found[1].numpy(), found[2].numpy()])[-len(params) :]
        return pass_error((found[0], gradient), X, y, params, 0.0)

    return Case(run, error)


def hessian_vector(shape: Shape, dtype: str) -> Case:
    """``SoftmaxObjective.hessian_vector_product``, in turns with ``value_and_gradient``."""
    X, y, params = random_data(shape, dtype)
    objective = _objective(X, y, shape)
    direction = np.cos(np.arange(params.size, dtype=params.dtype)).reshape(params.shape)
    return Case(
        lambda: objective.hessian_vector_product(params, direction),
        lambda found: _product_error(found, X, params, direction),
        companion=lambda: objective.value_and_gradient(params),
    )


def hessian_operator(shape: Shape, dtype: str) -> Case:
    """``SoftmaxObjective.hessian_operator``, made before, in turns with ``value_and_gradient``."""
    X, y, params = random_data(shape, dtype)
    objective = _objective(X, y, shape)
    direction = np.cos(np.arange(params.size, dtype=params.dtype)).reshape(params.shape)
    operator = objective.hessian_operator(params)
    return Case(
        lambda: operator(direction),
        lambda found: _product_error(found, X, params, direction),
        companion=lambda: objective.value_and_gradient(params),
    )


def _objective(X: Array, y: Array, shape: Shape) -> Any:
    from fastsoftmax import SoftmaxObjective

    n_rows = n_logit_rows(shape[2])
    return SoftmaxObjective(X, y, n_classes=shape[2], l2=L2, n_rows=n_rows)


def pass_error(found: tuple[float, Array], X: Matrix, y: Array, params: Array, l2: float) -> float:
    """Return the largest relative error of value and gradient."""
    value, gradient, _ = value_and_gradient(X, y, params.astype(np.float64), l2)
    gradient_error = np.abs(found[1] - gradient).max() / np.abs(gradient).max()
    return float(max(abs(found[0] - value) / value, gradient_error))


def _product_error(found: Array, X: Array, params: Array, direction: Array) -> float:
    """Return the relative error of a product with the Hessian of the mean loss plus penalty."""
    params, direction = params.astype(np.float64), direction.astype(np.float64)
    expected = np.zeros(params.shape)
    for rows in np.array_split(np.arange(len(X)), max(1, X.size // 2**22)):
        block = X[rows[0] : rows[-1] + 1].astype(np.float64)
        P = np.exp(log_probabilities(class_logits(block, params)))
        U = class_logits(block, direction)
        T = (P * (U - (P * U).sum(axis=1, keepdims=True)))[:, -len(params) :]
        expected[:, :-1] += T.T @ block
        expected[:, -1] += T.sum(axis=0)
    expected /= len(X)
    expected[:, :-1] += L2 * direction[:, :-1]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _n_flops(shape: Shape) -> int:
    """Return 4 n d K: logits and gradient, a multiplication and an addition each."""
    n_samples, n_features, n_classes = shape
    return 4 * n_samples * n_features * n_logit_rows(n_classes)


register(
    Operation(
        "value_and_gradient",
        {"fastsoftmax": ours, "scikit-learn": scikit_learn, "torch": torch},
        GRID,
        [*QUICK_GRID, (150, 4, 3)],
        _n_flops,
        n_words_of_X,
        narrow=True,
    )
)
register(Operation("hessian_vector_product", {"fastsoftmax": hessian_vector}, GRID, QUICK_GRID))
# Only where probabilities are kept: where they take at most a twentieth of the memory of X.
register(
    Operation(
        "hessian_operator",
        {"fastsoftmax": hessian_operator},
        [shape for shape in GRID if 20 * shape[2] <= shape[1]],
        [(2000, 60, 3)],
    )
)
