"""Functions with known minimisers, for the solvers. Nothing of ours is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import reference
from scipy import optimize, special


@dataclass(frozen=True)
class Function:
    """``x -> (value, gradient)``, with the Hessian as a matrix and as an operator."""

    value_and_gradient: Callable
    hessian: Callable

    def __call__(self, x):
        return self.value_and_gradient(x)

    def hessian_operator(self, x):
        H = self.hessian(x)
        return lambda direction: H @ direction


class Counting:
    """A function that records the points where it was evaluated, and counts products."""

    def __init__(self, function):
        self.function, self.points, self.n_products = function, [], 0

    def __call__(self, x):
        self.points.append(x.copy())
        return self.function(x)

    def hessian_operator(self, x):
        product = self.function.hessian_operator(x)

        def counted(direction):
            self.n_products += 1
            return product(direction)

        return counted


class Inverse:
    """A preconditioner from a dense inverse."""

    def __init__(self, inverse, is_exact=False):
        self.inverse, self.is_exact, self.keeps_scale = inverse, is_exact, is_exact

    def damped(self, damping):
        return self

    def apply(self, gradient):
        return self.inverse @ gradient


def rotation(n, seed):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return Q


def quadratic(H, minimiser, floor=1.0):
    """Return ``floor + (x - x*)ᵀ H (x - x*) / 2``."""

    def value_and_gradient(x):
        g = H @ (x - minimiser)
        return floor + 0.5 * float((x - minimiser) @ g), g

    return Function(value_and_gradient, lambda x: H)


def make_quadratic(n=20, condition=1e8, floor=1.0, seed=0):
    """Return a quadratic, its Hessian and its minimiser."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    H = (Q * np.geomspace(1.0, 1.0 / condition, n)) @ Q.T
    minimiser = rng.normal(size=n)
    return quadratic(H, minimiser, floor), H, minimiser


def make_logistic(n=10, condition=1e3, seed=0):
    """Return ``f = sum of log(1 + exp(u)) - p u``, ``u = A x``, and its minimiser.

    The gradient ``Aᵀ (expit(u) - p)`` vanishes where ``u = logit(p)``. The Hessian's condition
    number is about the square of A's, `condition`.
    """
    rng = np.random.default_rng(seed)
    A = (rotation(n, seed) * np.geomspace(1.0, 1.0 / condition, n)) @ rotation(n, seed + 1).T
    p = rng.uniform(0.1, 0.9, n)

    def value_and_gradient(x):
        u = A @ x
        return float(np.sum(np.logaddexp(0.0, u) - p * u)), A.T @ (special.expit(u) - p)

    def hessian(x):
        u = A @ x
        return (A.T * (special.expit(u) * special.expit(-u))) @ A

    return Function(value_and_gradient, hessian), np.linalg.solve(A, special.logit(p))


def _barrier(x):
    if np.any(np.abs(x) >= 1):
        return np.inf, np.full_like(x, np.inf)
    return float(np.sum(10 * x - np.log1p(-(x**2)))), 10 + 2 * x / (1 - x**2)


#: Sum of ``10 x - log(1 - x²)``, infinite outside (-1, 1).
barrier = Function(_barrier, lambda x: np.diag(2 * (1 + x**2) / (1 - x**2) ** 2))
#: Root of ``10 + 2x / (1 - x²)``.
BARRIER_MINIMISER = 0.1 - np.sqrt(1.01)

rosenbrock = Function(
    lambda x: (1.0 + float(optimize.rosen(x)), optimize.rosen_der(x)), optimize.rosen_hess
)


def convex_function(seed, n=5):
    """Return a random log-sum-exp of affine functions plus a small quadratic."""
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(8, n)) * 10.0 ** rng.uniform(-2, 2), rng.normal(size=8)

    def f(x):
        z = A @ x + b
        p = reference.softmax(z[None])[0]
        top = z.max()
        return top + float(np.log(np.exp(z - top).sum())) + 0.005 * float(x @ x), A.T @ p + 0.01 * x

    return f
