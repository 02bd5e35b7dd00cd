"""The oracle: the equations once more, written plainly with NumPy, SciPy and mpmath.

Imports nothing of fastsoftmax. Functions that end in ``_exact`` take one sample and return
mpmath numbers of 40 digits; the others are float64 over a matrix of samples in rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np
from scipy import optimize
from scipy.special import logsumexp, xlogy

_DIGITS = 40


def _mpf(x: Any) -> mpmath.mpf:
    return mpmath.mpf(float(x))


def _shifted_exponentials(z: np.ndarray) -> tuple[mpmath.mpf, list[mpmath.mpf]]:
    top = max(map(_mpf, z))
    differences = [_mpf(x) - top for x in z]
    # exp(-1e5) is far below the least subnormal and below any rounding of a sum with 1.
    return top, [mpmath.exp(d) if d > -100_000 else mpmath.mpf(0) for d in differences]


def softmax_exact(z: np.ndarray) -> list[mpmath.mpf]:
    """Eq. 1."""
    with mpmath.workdps(_DIGITS):
        _, e = _shifted_exponentials(z)
        total = mpmath.fsum(e)
        return [x / total for x in e]


def log_softmax_exact(z: np.ndarray) -> list[mpmath.mpf]:
    """Logarithm of eq. 1, with digits enough for a probability of ``1 - exp(-700)``."""
    with mpmath.workdps(700):
        top, e = _shifted_exponentials(z)
        log_total = mpmath.log(mpmath.fsum(e))
        return [(_mpf(x) - top) - log_total for x in z]


def loss_exact(z: np.ndarray, targets: np.ndarray) -> mpmath.mpf:
    """Eq. 1 and 2 for one sample."""
    with mpmath.workdps(700):
        terms = zip(targets, log_softmax_exact(z), strict=True)
        return mpmath.fsum(-_mpf(y) * g for y, g in terms if y != 0)


def residual_exact(z: np.ndarray, targets: np.ndarray) -> list[mpmath.mpf]:
    """Eq. 6 for one sample, again with digits enough for ``1 - exp(-700)``."""
    with mpmath.workdps(700):
        _, e = _shifted_exponentials(z)
        total = mpmath.fsum(e)
        mass = mpmath.fsum(map(_mpf, targets))
        return [x / total * mass - _mpf(y) for x, y in zip(e, targets, strict=True)]


def ulps(computed: Sequence[Any], exact: Sequence[mpmath.mpf], dtype: Any) -> np.ndarray:
    """Return the errors in units of the spacing of `dtype` at the exact values."""
    errors = []
    for x, reference in zip(computed, exact, strict=True):
        spacing = _mpf(np.spacing(np.abs(dtype(float(reference)))))
        errors.append(float(abs(_mpf(x) - reference) / spacing))
    return np.array(errors)


def one_hot(labels: np.ndarray, n_classes: int) -> np.ndarray:
    return np.eye(n_classes)[labels]


def softmax(z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, float)
    return np.exp(z - logsumexp(z, axis=1, keepdims=True))


def cross_entropy(p: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Eq. 2."""
    return float(np.average(-xlogy(targets, p).sum(axis=1), weights=weights))


def softmax_cross_entropy(
    z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Eq. 1 and 2."""
    z = np.asarray(z, float)
    losses = (targets * (logsumexp(z, axis=1, keepdims=True) - z)).sum(axis=1)
    return float(np.average(losses, weights=weights))


def residual(z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Eq. 6."""
    w = np.ones(len(z)) if weights is None else np.asarray(weights, float)
    mass = targets.sum(axis=1, keepdims=True)
    return (w / w.sum())[:, None] * (softmax(z) * mass - targets)


def jacobian(p: np.ndarray) -> np.ndarray:
    """Eq. 5."""
    return np.array([np.diag(row) - np.outer(row, row) for row in p])


def five_point_gradient(
    f: Callable[[np.ndarray], Any], x: np.ndarray, step: float = 1e-3
) -> np.ndarray:
    """Return the derivatives of `f` in each entry of `x`: shape of `x`, then that of ``f(x)``.

    Truncation ``step**4 / 30`` times the fifth derivative, rounding about ``eps / step``.
    """
    result = np.empty(x.shape + np.shape(f(x)))
    for index in np.ndindex(x.shape):
        values = []
        for multiple in (-2, -1, 1, 2):
            moved = x.copy()
            moved[index] += multiple * step
            values.append(f(moved))
        a, b, c, d = values
        result[index] = (a - 8 * b + 8 * c - d) / (12 * step)
    return result


def logistic_objective(
    params: np.ndarray, A: np.ndarray, labels: np.ndarray, weights: np.ndarray, l2: np.ndarray
) -> float:
    """Return ``sum_i w_i loss_i + 1/2 sum_kj l2_j W_kj**2``, scikit-learn's objective times 1/C.

    `A` holds a column of ones if there is an intercept; one row of `params` stands for two classes.
    """
    z = A @ params.T
    z = np.hstack([np.zeros_like(z), z]) if len(params) == 1 else z
    losses = logsumexp(z, axis=1) - z[np.arange(len(z)), labels]
    return float(weights @ losses + 0.5 * np.sum(l2 * params**2))


def logistic_newton(
    start: np.ndarray, A: np.ndarray, labels: np.ndarray, weights: np.ndarray, l2: np.ndarray
) -> np.ndarray:
    """Return the minimiser of `logistic_objective` with mean-zero columns.

    Newton's method with the full Hessian, steps halved until the objective does not rise.
    """
    rows, D = start.shape
    params = np.array(start, float)
    targets = one_hot(labels, max(2, rows))[:, -rows:]
    # A common shift of a column changes nothing but the penalty, and is 0 at the minimum: start
    # there, and pin it by any positive curvature.
    pinned = range(D if rows > 1 else 0)
    params[:, pinned] -= params[:, pinned].mean(axis=0)
    value = logistic_objective(params, A, labels, weights, l2)
    for _ in range(100):
        z = A @ params.T
        p = softmax(np.hstack([np.zeros_like(z), z]) if rows == 1 else z)[:, -rows:]
        gradient = (weights[:, None] * (p - targets)).T @ A + l2 * params
        hessian = np.empty((rows, D, rows, D))
        for k in range(rows):
            for m in range(rows):
                curvature = weights * p[:, k] * (float(k == m) - p[:, m])
                hessian[k, :, m, :] = (A * curvature[:, None]).T @ A
            hessian[k, :, k, :] += np.diag(l2)
        scale = np.einsum("kjkj->kj", hessian).copy()
        for j in pinned:
            hessian[:, j, :, j] += scale[:, j].max()
        scale = np.sqrt(scale.ravel())
        scaled = hessian.reshape(rows * D, rows * D) / scale / scale[:, None]
        step = (np.linalg.solve(scaled, gradient.ravel() / scale) / scale).reshape(rows, D)
        size = 1.0
        while size > 1e-4:
            trial = logistic_objective(params - size * step, A, labels, weights, l2)
            if trial <= value + 1e-13 * abs(value):
                break
            size /= 2
        params, value = params - size * step, trial
        # Half the product is the distance to the minimum before this step, whose square root the
        # step has squared. Steps alone tell nothing where the minimiser is 0.
        near = size == 1.0 and np.sum(step * gradient) <= 1e-16 * abs(value)
        if near or np.linalg.norm(step) <= 1e-9 * np.linalg.norm(params):
            params[:, pinned] -= params[:, pinned].mean(axis=0)
            return params
    raise RuntimeError("Newton's method did not converge")


class LinearModel:
    """Mean cross-entropy of a linear softmax model plus an L2 penalty, in float64.

    Parameters are (R, d + 1), the intercept last; R is the number of classes, or 1 for two
    classes, whose logits are then 0 and z. ``targets`` are (n, K) masses, and the divisor of the
    mean is the sum of weights times masses. ``l2`` is a number or one per feature.
    """

    def __init__(
        self,
        X: Any,
        targets: Any,
        weights: Any = None,
        l2: Any = 0.0,
        offset: Any = 0.0,
    ) -> None:
        self.X = np.column_stack([np.asarray(X, float), np.ones(len(X))])
        self.targets = np.asarray(targets, float)
        w = np.ones(len(X)) if weights is None else np.asarray(weights, float)
        self.masses = (w / w.max()) * self.targets.sum(axis=1)
        self.weights = w / w.max()
        self.l2 = np.append(np.broadcast_to(l2, self.X.shape[1] - 1), 0.0)
        self.offset = offset

    def logits(self, params: np.ndarray) -> np.ndarray:
        z = self.X @ np.asarray(params, float).T + self.offset
        return np.hstack([np.zeros_like(z), z]) if len(params) == 1 else z

    def losses(self, params: np.ndarray) -> np.ndarray:
        """Return one loss per row, times its weight."""
        z = self.logits(params)
        return self.weights * (self.targets * (logsumexp(z, axis=1, keepdims=True) - z)).sum(axis=1)

    def value(self, params: np.ndarray) -> float:
        penalty = 0.5 * float(np.square(np.sqrt(self.l2) * np.asarray(params, float)).sum())
        return float(self.losses(params).sum() / self.masses.sum()) + penalty

    def gradient(self, params: np.ndarray) -> np.ndarray:
        z = self.logits(params)
        mass = self.targets.sum(axis=1, keepdims=True)
        residuals = self.weights[:, None] * (mass * softmax(z) - self.targets)
        loss_gradient = residuals[:, -len(params) :].T @ self.X / self.masses.sum()
        return loss_gradient + self.l2 * params

    def curvatures(self, params: np.ndarray) -> np.ndarray:
        """Return ``w (diag(p) - p pᵀ)`` of every row, shape (n, R, R)."""
        blocks = self.masses[:, None, None] * jacobian(softmax(self.logits(params)))
        return blocks[:, -len(params) :, -len(params) :]

    def loss_hessian(self, params: np.ndarray) -> np.ndarray:
        """Return the Hessian of the *sum* of losses, shape (R (d + 1), R (d + 1))."""
        n_rows, n_columns = params.shape
        blocks = np.einsum("iab,ij,il->ajbl", self.curvatures(params), self.X, self.X)
        return blocks.reshape(n_rows * n_columns, n_rows * n_columns)

    def hessian(self, params: np.ndarray) -> np.ndarray:
        penalty = np.diag(np.tile(self.l2, len(params)))
        return self.loss_hessian(params) / self.masses.sum() + penalty


def logistic_optimum(
    X: Any,
    labels: Any,
    n_classes: int,
    C: float = 1.0,
    weights: Any = None,
    fit_intercept: bool = True,
) -> tuple[np.ndarray, LinearModel]:
    """Return scikit-learn's optimum, (R, d + 1), and the mean objective that it minimises."""
    X = np.asarray(X, float)
    w = np.ones(len(X)) if weights is None else np.asarray(weights, float)
    rows, penalty = (1 if n_classes == 2 else n_classes), 1.0 / C
    A = np.column_stack([X, np.ones(len(X))]) if fit_intercept else X
    l2 = np.full(A.shape[1], penalty)
    l2[X.shape[1] :] = 0.0
    params = logistic_newton(np.zeros((rows, A.shape[1])), A, labels, w, l2)
    if not fit_intercept:
        params = np.column_stack([params, np.zeros(rows)])
    model = LinearModel(X, one_hot(np.asarray(labels), n_classes), w, penalty / w.sum())
    return params, model


def constrained_optimum(
    model: LinearModel,
    n_rows: int,
    fit_intercept: bool = True,
    bounds: tuple[Any, Any] = (-np.inf, np.inf),
    l1: Any = 0.0,
) -> np.ndarray:
    """Return the minimiser, (n_rows, d + 1), of a model's value with bounds on the coefficients.

    SciPy's L-BFGS-B, then Newton's method on the coordinates between their bounds. `l1` is a
    strength of ``sum_j l1_j |W_kj|`` for bounds that leave the coefficients one sign only.
    Intercepts, which may shift alike, have mean zero.
    """
    d = model.X.shape[1] - 1
    shape = (n_rows, d + 1)
    lower, upper = np.full(shape, -np.inf), np.full(shape, np.inf)
    lower[:, :d], upper[:, :d] = bounds
    if not fit_intercept:
        lower[:, d] = upper[:, d] = 0.0
    slope = np.zeros(shape)
    if np.any(l1):
        assert np.all(lower[:, :d] >= 0) or np.all(upper[:, :d] <= 0)
        slope[:, :d] = np.where(lower[:, :d] >= 0, l1, -np.asarray(l1))

    def gradient(params: np.ndarray) -> np.ndarray:
        return model.gradient(params) + slope

    found = optimize.minimize(
        lambda x: model.value(x.reshape(shape)) + float(slope.ravel() @ x),
        np.clip(np.zeros(shape), lower, upper).ravel(),
        jac=lambda x: gradient(x.reshape(shape)).ravel(),
        method="L-BFGS-B",
        bounds=np.column_stack([lower.ravel(), upper.ravel()]),
        options={"ftol": 0.0, "gtol": 1e-12, "maxiter": 10_000, "maxfun": 100_000, "maxcor": 30},
    )
    params = found.x.reshape(shape)
    for _ in range(3):
        slopes = gradient(params)
        free = ~((params <= lower) & (slopes >= 0) | (params >= upper) & (slopes <= 0))
        hessian = model.hessian(params)[np.ix_(free.ravel(), free.ravel())]
        params[free] -= np.linalg.lstsq(hessian, slopes[free], rcond=1e-12)[0]
        params = np.clip(params, lower, upper)
    if n_rows > 1 and fit_intercept:
        params[:, d] -= params[:, d].mean()
    return params
