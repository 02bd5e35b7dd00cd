"""A sparse design's mean loss plus ridge penalty, seen from its dual."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsoftmax._designs.base import Array, Float64Array
from fastsoftmax._designs.sparse import SparseDesign
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import dual as kernels
from fastsoftmax._kernels.csr import aligned_zeros, padded_width
from fastsoftmax._kernels.dual import CURVATURE, DUALS, N_SAMPLE_ROWS, N_SUM_ROWS, RUN, TOTALS
from fastsoftmax._threads import sweep

_FLOAT32 = np.dtype(np.float32)
#: Nanoseconds of an epoch per class and non-zero; a sample counts as so many more of these.
_COST, _SAMPLE_COST = 0.3, 10
#: Nanoseconds of one call into the kernel, after which Python may see Ctrl-C.
_CALL = 1e8
#: Units of a measurement, each with a gradient of its own; and operations in a nanosecond.
_MEASURES, _OPERATIONS = 2, 20.0


class Found(NamedTuple):
    """Means over samples.

    Attributes
    ----------
    loss : float
    gap : float
        How far loss plus penalty are above their minimum for the present intercept.
    intercept_gradient, intercept_curvature : ndarray of shape (n_rows,)
    """

    loss: float
    gap: float
    intercept_gradient: Float64Array
    intercept_curvature: Float64Array


class DualAscent:
    """Dual variables of ``mean loss + strength * ||W||² / 2``, and the coefficients they stand for.

    In float32 whatever the design has: an epoch moves numbers that are far from exact anyway.

    Parameters
    ----------
    design : SparseDesign
    intercept : ndarray of shape (n_rows,)
        Where to start, with coefficients of 0.
    has_intercept : bool
        If not, the gradient of the intercept counts as 0.
    strength : float
        Positive.
    """

    def __init__(
        self, design: SparseDesign, intercept: Float64Array, has_intercept: bool, strength: float
    ) -> None:
        self._design, self._strength = design, strength
        self._has_intercept = has_intercept
        self._n_rows = len(intercept)
        self._width = padded_width(self._n_rows, _FLOAT32.itemsize)
        shape = design.n_features + 1, self._width
        self._table = aligned_zeros(shape, _FLOAT32)
        self._table[-1, : self._n_rows] = intercept
        self._duals = aligned_zeros((design.n_samples, self._width), _FLOAT32)
        with np.errstate(over="ignore", under="ignore"):  # sums tell where something is infinite
            self._data, self._soft, self._offset, weights = (
                kernel_view(values.astype(_FLOAT32, copy=False))
                for values in (design.rows.data, design.soft, design.offset, design.weights)
            )
            scale = 1.0 / (strength * design.weight_sum)
            self._factors = np.full(design.n_samples, scale).astype(_FLOAT32)
        if weights.size:
            self._factors *= weights

    @property
    def coefficients(self) -> tuple[Array, Array]:
        """The coefficients (n_rows, n_features) and the intercept (n_rows,), float32 views."""
        used = self._table[:, : self._n_rows]
        return used[:-1].T, used[-1]

    def move_intercept(self, step: Float64Array) -> None:
        """Add to the intercept, which has no dual."""
        self._table[-1, : self._n_rows] += step.astype(_FLOAT32)

    def epoch(self, number: int) -> Found:
        """Visit all samples, in an order that depends on `number` only; return what visits found.

        A new order each time gains much: at C = 1 TF-IDF texts took 4 epochs to 1e-3, and 8 in an
        order that stayed the same.
        """
        runs = np.random.default_rng(number).permutation(-(-self._design.n_samples // RUN))
        sums = self._new_sums(1)
        for part in np.array_split(runs, max(1, min(len(runs), round(self._cost / _CALL)))):
            self._sweep(kernels.ascend, part, sums)
        return self._means(sums)

    def measure(self) -> tuple[Found, float]:
        """Return the same of the coefficients as they are, and the gradient's largest component."""
        n, width = self._design.n_samples, self._width
        bounds = np.arange(_MEASURES + 1) * n // _MEASURES
        gradients = np.zeros((_MEASURES, len(self._table), width), _FLOAT32)
        sums = self._new_sums(_MEASURES)
        self._sweep(kernels.measure, kernel_view(bounds), sums, gradients)
        found = self._means(sums)
        gradient = gradients.sum(axis=0)
        gradient += self._table
        largest = max(float(gradient[:-1].max()), -float(gradient[:-1].min()))
        return found, max(self._strength * largest, float(np.abs(found.intercept_gradient).max()))

    def _new_sums(self, n_units: int) -> Float64Array:
        return np.zeros((n_units, N_SUM_ROWS, self._width + 1))

    @property
    def _cost(self) -> float:
        design = self._design
        return _COST * self._width * (design.n_entries + _SAMPLE_COST * design.n_samples)

    def _sweep(self, driver: Any, samples: Array, sums: Float64Array, *out: Array) -> None:
        design = self._design
        scratch = np.zeros((len(sums), N_SAMPLE_ROWS, self._width), _FLOAT32)
        sweep(
            *(driver, len(sums), _OPERATIONS * self._cost),
            *(self._data, design.rows.indices, design.rows.indptr, samples),
            *(design.labels, self._soft, self._offset, self._factors),
            *(self._table, self._duals, self._n_rows, scratch, sums, *out),
        )

    def _means(self, sums: Float64Array) -> Found:
        totals = (
            sums.sum(axis=0) * self._strength
        )  # the factors are weights over strength and their sum
        return Found(
            float(totals[TOTALS, 0]),
            float(totals[TOTALS, 1]),
            -totals[DUALS, : self._n_rows] * self._has_intercept,
            totals[CURVATURE, : self._n_rows],
        )
