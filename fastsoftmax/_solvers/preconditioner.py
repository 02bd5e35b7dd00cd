"""Approximate inverses of a Hessian, applied to gradients by the solvers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._linalg import shifted_cholesky
from fastsoftmax._solvers.vectors import Vector


class Preconditioner(ABC):
    """A symmetric positive definite approximation of the inverse Hessian.

    Attributes
    ----------
    is_exact : bool
        Whether it is the inverse Hessian where it was built.
    keeps_scale : bool
        Whether its scale is right, so that a step of size 1 is to be expected.
    """

    is_exact: bool
    keeps_scale: bool

    @abstractmethod
    def apply(self, gradient: Vector) -> Vector:
        """Return its product with a flat gradient."""

    def damped(self, damping: float) -> Preconditioner:
        """Return one for shorter steps; this one, if it cannot be damped."""
        return self


#: Eigenvalues whose ratio is at most this share a factor.
_ALIKE = 1.2
#: Damping of the second preconditioner, but for what the first one's step tells.
DAMPING = 1e-2
#: Step sizes between which an exact one is as it should be.
_LEAST_FITTING, _MOST_FITTING = 0.1, 5.0


class LaggedPreconditioner:
    """The preconditioner of a solver: built at the start, and anew when it is old and that pays.

    The size of the first step after a build tells how far its curvature can be trusted, and so how
    much the next one is to be damped (Levenberg 1944, Quart. Appl. Math. 2; Marquardt 1963).

    Parameters
    ----------
    make : callable or None
        Builds a preconditioner at given parameters. None is the identity.
    lags : iterable of int
        Iterations after which the first, second ... preconditioner is old; after the last of them
        none is.
    cost : float
        Of `make`, in iterations.
    params : ndarray of shape (n,)
        Where the first one is built.
    damping : float, default=1e-2
        Of the second one, but for what the first one's step tells.
    """

    def __init__(
        self,
        make: Callable[[Vector], Preconditioner] | None,
        lags: Iterable[int],
        cost: float,
        params: Vector,
        damping: float = DAMPING,
    ) -> None:
        self._make, self._lags, self._cost = make, iter(lags), cost
        self._damping = 0.0  # the first one is taken as it is: the start may be the optimum
        self.build(params)
        self._damping = damping

    def build(self, params: Vector) -> None:
        """Build it anew."""
        self._current = None  # the old one need not stay beside the new one
        if self._make is not None:
            self._current = self._make(params).damped(self._damping)
        self._lag = next(self._lags, math.inf)
        self._age = 0

    def is_old(self, step_size: float, n_left: float) -> bool:
        """Take down a step; tell whether it is old, and `n_left` more would cost more.

        A step size far from 1 makes one that keeps its scale old.
        """
        self._age += 1
        if self._age == 1 and self.keeps_scale:
            if step_size < 0.4:
                self._damping *= 4.0
            elif step_size > 0.8:
                self._damping /= 10.0
        fits = not self.keeps_scale or _LEAST_FITTING <= step_size <= _MOST_FITTING
        return (self._age >= self._lag or not fits) and n_left > self._cost

    @property
    def is_exact(self) -> bool:
        """Whether it is the inverse Hessian where it was built."""
        return self._current is not None and self._current.is_exact

    @property
    def keeps_scale(self) -> bool:
        """Whether a step of size 1 is to be expected."""
        return self._current is not None and self._current.keeps_scale

    def apply(self, gradient: Vector) -> Vector:
        """Return the product with a gradient; without a preconditioner, the gradient itself."""
        return gradient if self._current is None else self._current.apply(gradient)


def _refuse_overflow(matrix: NDArray[np.float64]) -> None:
    if not np.all(np.isfinite(matrix)):
        raise FloatingPointError("the Hessian overflows")


class _ScaledFactor:
    """Cholesky factor of a positive semi-definite matrix scaled to unit diagonal.

    The scaling makes the shift that a singular matrix needs (collinear columns) independent of
    the units of the features. The shift starts at 1e-13 and grows until the factor exists.

    Parameters
    ----------
    matrix : ndarray of shape (n, n)
        Overwritten.

    Raises
    ------
    FloatingPointError
        If an entry is not finite, or no shift will do.
    """

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        _refuse_overflow(matrix)
        diagonal = np.diag(matrix)
        positive = diagonal > np.finfo(np.float64).tiny
        self._scale = 1.0 / np.sqrt(np.where(positive, diagonal, 1.0))
        matrix *= self._scale
        matrix *= self._scale[:, None]
        # Correlations, but for the rounding of curvatures near 0: beyond 1 no shift might ever do.
        np.clip(matrix, -1.0, 1.0, out=matrix)
        self._factor = shifted_cholesky(matrix, 1.0, 1e-13)

    def solve(self, right: Vector) -> Vector:
        """Return the product of the inverse with a vector, or with each row of an array."""
        return self._scale * self._factor.solve(self._scale * right)


class SumZeroPreconditioner(Preconditioner):
    """Inverse of a full Hessian over rows that may be shifted by a common vector.

    A softmax does not change when every row's coefficients shift alike, so the Hessian is
    singular, and gradients and steps sum to zero over the rows. The first K - 1 rows carry it:
    with a step ``d = (u, 0) - mean``, the reduced Hessian is the leading block of the loss's
    Hessian plus ``l2 (1[a = b] - 1/K)``, and the reduced gradient the first K - 1 rows.

    Parameters
    ----------
    hessian : ndarray of shape (n_free * D, n_free * D)
        Leading block of the loss's Hessian. Overwritten where there is no reference.
    l2 : ndarray of shape (D,)
        Penalty strengths.
    n_rows : int
        K, where ``n_free = K - 1``, or 1, where the Hessian is not singular and ``n_free = 1``.
    reference : callable, default=None
        Returns an array like `hessian`, what is added where damped; that of another place, for
        example.
    damping : float, default=0.0
        In units of the reference.
    """

    keeps_scale = True

    def __init__(
        self,
        hessian: NDArray[np.float64],
        l2: Vector,
        n_rows: int,
        reference: Callable[[], NDArray[np.float64]] | None = None,
        damping: float = 0.0,
    ) -> None:
        _refuse_overflow(hessian)
        self.is_exact = damping == 0.0
        self._shape = (n_rows, len(l2))
        self._parts = hessian, l2, n_rows, reference
        self._damping = damping

    @cached_property
    def _factor(self) -> _ScaledFactor:
        hessian, l2, n_rows, reference = self._parts
        D, n_free = len(l2), max(1, n_rows - 1)
        matrix = hessian
        if reference is not None:
            matrix = hessian + self._damping * reference() if self._damping else hessian.copy()
        blocks = matrix.reshape(n_free, D, n_free, D)
        for a in range(n_free):
            for b in range(n_free):
                share = 1.0 if n_rows == 1 else float(a == b) - 1.0 / n_rows
                blocks[a, np.arange(D), b, np.arange(D)] += share * l2
        return _ScaledFactor(matrix)

    def damped(self, damping: float) -> Preconditioner:
        """Return the same with so many times the reference added."""
        if damping == 0.0 or self._parts[-1] is None:
            return self
        return SumZeroPreconditioner(*self._parts, damping)

    def apply(self, gradient: Vector) -> Vector:
        """Return the step, whose rows sum to zero."""
        g = gradient.reshape(self._shape)
        if len(g) == 1:
            return self._factor.solve(gradient)
        step = np.zeros_like(g)
        reduced = g[:-1] - g.mean(axis=0)
        step[:-1] = self._factor.solve(reduced.ravel()).reshape(reduced.shape)
        step -= step.mean(axis=0)
        return step.ravel()


class KroneckerPreconditioner(Preconditioner):
    """Inverse of a Hessian ``C ⊗ G + I ⊗ diag(l2)``, on parameters whose rows sum to zero.

    The softmax Hessian of data whose samples all have the same probabilities p is of this form,
    ``C = diag(p) - p pᵀ`` and G the features' Gram matrix. With ``C = U diag(s) Uᵀ`` it takes a
    factor of ``s_j G + diag(l2)`` for each j; those of eigenvalues that are nearly the same are
    shared.

    Parameters
    ----------
    classes : ndarray of shape (n_rows, n_rows)
        C. Several rows sum to zero.
    gram : ndarray of shape (D, D)
        G.
    l2 : ndarray of shape (D,)
        Penalty strengths.
    keeps_scale : bool, default=True
        False where it is to be scaled like the approximations that will follow: 47 passes in
        place of 65 on 400 rows of 5000 features.
    """

    is_exact = False  # as factors are shared

    def __init__(
        self,
        classes: NDArray[np.float64],
        gram: NDArray[np.float64],
        l2: Vector,
        keeps_scale: bool = True,
    ) -> None:
        self.keeps_scale = keeps_scale
        values, vectors = np.linalg.eigh(classes)
        if len(classes) > 1:  # the first eigenvector is the shift that all rows have in common
            values, vectors = values[1:], vectors[:, 1:]
        self._vectors = vectors
        self._groups: list[tuple[slice, _ScaledFactor]] = []
        first = 0
        while first < len(values):
            last = int(np.searchsorted(values, _ALIKE * values[first], side="right"))
            group = slice(first, max(last, first + 1))
            matrix = values[group].mean() * gram
            matrix[np.diag_indices_from(matrix)] += l2
            self._groups.append((group, _ScaledFactor(matrix)))
            first = group.stop

    def apply(self, gradient: Vector) -> Vector:
        """Return the step, whose rows sum to zero."""
        g = np.einsum("kj,kd->jd", self._vectors, gradient.reshape(len(self._vectors), -1))
        for group, factor in self._groups:
            g[group] = factor.solve(g[group])
        step: Vector = np.einsum("kj,jd->kd", self._vectors, g).ravel()
        return step


class BlockPreconditioner(Preconditioner):
    """Inverse of a block-diagonal matrix, one block per row of the parameters.

    Parameters
    ----------
    blocks : ndarray of shape (1 or n_rows, D, D)
        One block serves all rows if there is only one.
    l2 : ndarray of shape (D,)
        Penalty strengths, added to each block's diagonal.
    n_rows : int
    sums_to_zero : bool, default=True
        Whether the steps of several rows sum to zero over them.
    """

    is_exact = keeps_scale = False

    def __init__(
        self, blocks: NDArray[np.float64], l2: Vector, n_rows: int, sums_to_zero: bool = True
    ) -> None:
        self._shape = (n_rows, len(l2))
        self._sums_to_zero = sums_to_zero and n_rows > 1
        self._factors = []
        for block in blocks:
            matrix = block.copy()
            matrix[np.diag_indices_from(matrix)] += l2
            self._factors.append(_ScaledFactor(matrix))

    def apply(self, gradient: Vector) -> Vector:
        """Return the step."""
        g = gradient.reshape(self._shape)
        if len(self._factors) == 1:
            step = self._factors[0].solve(g)
        else:
            step = np.stack([f.solve(row) for f, row in zip(self._factors, g, strict=True)])
        if self._sums_to_zero:
            step -= step.mean(axis=0)
        return step.ravel()


class CentredPreconditioner(Preconditioner):
    """A preconditioner for coefficients of ``x - centre``, for those of x.

    ``W x + b = W (x - centre) + b'`` with ``b' = b + W centre``: the coefficients, and so their
    penalty, are the same; only the intercept moves.

    Parameters
    ----------
    centred : Preconditioner
    centre : ndarray of shape (D - 1,)
        The last of the D columns of the parameters is the intercept.
    """

    def __init__(self, centred: Preconditioner, centre: Vector) -> None:
        self.is_exact, self.keeps_scale = centred.is_exact, centred.keeps_scale
        self._centred = centred
        self._centre = centre

    def damped(self, damping: float) -> Preconditioner:
        """Return the same around the damped one."""
        return CentredPreconditioner(self._centred.damped(damping), self._centre)

    def apply(self, gradient: Vector) -> Vector:
        """Return the step."""
        g = gradient.reshape(-1, len(self._centre) + 1).copy()
        g[:, :-1] -= g[:, -1:] * self._centre
        step = self._centred.apply(g.ravel()).reshape(g.shape)
        step[:, -1] -= np.einsum("kj,j->k", step[:, :-1], self._centre)
        return step.ravel()


class NearbyPreconditioner(Preconditioner):
    """A preconditioner built elsewhere, whatever it is there.

    Parameters
    ----------
    elsewhere : Preconditioner
    """

    is_exact = False

    def __init__(self, elsewhere: Preconditioner) -> None:
        self.keeps_scale = elsewhere.keeps_scale
        self._elsewhere = elsewhere

    def apply(self, gradient: Vector) -> Vector:
        """Return the step."""
        return self._elsewhere.apply(gradient)


class DiagonalPreconditioner(Preconditioner):
    """Inverse of a diagonal matrix.

    Parameters
    ----------
    diagonal : ndarray of shape (n_rows, D)
        Non-negative; entries of zero (columns that never occur, unpenalised) are left alone.
    sums_to_zero : bool, default=True
        Whether the steps of several rows sum to zero over them.
    """

    is_exact = keeps_scale = False

    def __init__(self, diagonal: NDArray[np.float64], sums_to_zero: bool = True) -> None:
        self._shape = diagonal.shape
        self._sums_to_zero = sums_to_zero and len(diagonal) > 1
        self._inverse = 1.0 / np.where(diagonal > 0, diagonal, 1.0)

    def apply(self, gradient: Vector) -> Vector:
        """Return the step."""
        step = self._inverse * gradient.reshape(self._shape)
        if self._sums_to_zero:
            step -= step.mean(axis=0)
        return step.ravel()
