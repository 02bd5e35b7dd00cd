"""Limited-memory BFGS for so many unknowns that memory, and reads of it, are what counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import pairs as kernels
from fastsoftmax._solvers.line_search import Point, search
from fastsoftmax._solvers.progress import Progress, Stopping
from fastsoftmax._solvers.result import SolverResult
from fastsoftmax._solvers.vectors import max_norm
from fastsoftmax._threads import sweep

Array = NDArray[Any]

#: Iterations after which the diagonal is built anew, and pairs kept besides the one in the making.
#: On TF-IDF texts (54 classes, C from 0.1 to 100) 1, 2, 3, 5 and 10 pairs take the same number
#: of passes to within 10 %; never renewing the diagonal takes twice as many, every 8 iterations up
#: to 20 % more.
_LAG, _PAIRS = 16, 1
#: The diagonal overshoots where coefficients are 0: at C = 0.1 this takes 9 passes to 1e-3, not 13.
_FIRST_STEP = 0.1
#: What building the metric takes, in evaluations.
_METRIC_COST = 1.0
#: By how much the decrement is too small in a diagonal metric.
_CAUTION = 10.0
_MOST_UNITS = 64
_LEAST_UNIT = 2**14


class Functions(NamedTuple):
    """What is to be minimised, over arrays that are flat, or else C-contiguous.

    Attributes
    ----------
    value_and_gradient : callable
        Of parameters and of an array to write the gradient to; returns the value.
    metric : callable
        Of parameters and of an array to write an inverse diagonal of the Hessian to.
    """

    value_and_gradient: Callable[[Array, Array], float]
    metric: Callable[[Array, Array], None]


def minimize_in_diagonal_metric(
    functions: Functions, start: Array, **stopping: Unpack[Stopping]
) -> SolverResult:
    """Minimise a smooth function in 8 vectors of its unknowns.

    L-BFGS over a diagonal metric that is renewed from time to time. All inner products of an
    iteration are taken in one sweep (Chen, Wang & Zhou, 2014, Large-scale L-BFGS using MapReduce,
    NIPS 27, algorithm 3, here with a metric M in the place of the identity); steps and gradient
    changes are made where they will stay. Where rounding is all that is left, the best iterate is
    kept besides.

    Parameters
    ----------
    functions : Functions
    start : ndarray of float32 or float64, C-contiguous
        All vectors are of its dtype; inner products are float64. It is overwritten.
    **stopping
        See `Stopping`; the estimated distance counts tenfold.

    Returns
    -------
    SolverResult
        Its parameters have the dtype and shape of `start`.

    Raises
    ------
    FloatingPointError
        If the function is not finite at `start`.
    """
    result = _Minimisation(functions, start, stopping).run()
    return replace(result, params=result.params.reshape(start.shape))


class _Minimisation:
    """The state of a minimisation: vectors, pairs and what is known of them."""

    def __init__(self, functions: Functions, start: Array, stopping: Stopping) -> None:
        self._functions, self._progress = functions, Progress(**stopping)
        n, dtype = start.size, start.dtype
        self._shape = start.shape
        self._x, self._trial = start.reshape(-1), np.empty(n, dtype)
        self._g, self._metric = np.empty(n, dtype), np.empty(n, dtype)
        # The slot that is not in use holds the direction, and the gradient at its end.
        n_slots = _PAIRS + 1
        self._S, self._Y = np.empty((n_slots, n), dtype), np.empty((n_slots, n), dtype)
        self._slots: list[int] = []  # from the oldest pair to the newest
        self._s_y, self._y_My = np.zeros((n_slots, n_slots)), np.zeros((n_slots, n_slots))
        n_units = max(1, min(_MOST_UNITS, n // _LEAST_UNIT))
        self._bounds = np.arange(n_units + 1) * n // n_units
        self._scratch = np.empty((n_units, 2, kernels.BLOCK), dtype)
        self._sums = np.empty((kernels.N_SUMS, n_slots))

    def run(self) -> SolverResult:
        progress = self._progress

        def at_start(x: Array) -> tuple[float, Array]:
            return self._evaluate(x, self._g), self._g

        f, _ = progress.start(at_start, self._x)
        progress.visit(self._x, f, max_norm(self._g))
        self._renew_metric()
        while True:
            slope, own = self._set_direction()
            decrement = -0.5 * slope
            # As in `minimize_lbfgs`: scaled to the latest step, the metric may be too small.
            estimate = max(decrement, 0.5 * own) if progress.is_flat else decrement
            status = progress.verdict(_CAUTION * estimate, decrement, self._S[self._free])
            if status is not None:
                return progress.result(status)
            start = Point(0.0, f, self._g, slope)
            point, n_trials = None, 0
            if slope < 0.0:
                noise = 10.0 * progress.noise
                first = 1.0 if progress.n_iterations else _FIRST_STEP
                point, n_trials = search(self._evaluate_along, start, noise, first)
            progress.n_passes += n_trials
            if point is None:
                if self._age == 0:
                    return progress.result(progress.failure(decrement))
                self._renew_metric()
                continue
            f = point.value
            norm = self._accept(point.step_size)
            progress.visit(self._x, f, norm, point.step_size)
            if progress.best_params is self._trial:  # it must stay as it is
                self._trial = np.empty_like(self._x)
            self._age += 1
            if self._age >= _LAG and progress.n_left > _METRIC_COST:
                self._renew_metric()

    def _evaluate(self, x: Array, gradient: Array) -> float:
        shape = self._shape
        return self._functions.value_and_gradient(x.reshape(shape), gradient.reshape(shape))

    def _renew_metric(self) -> None:
        shape = self._shape
        self._functions.metric(self._x.reshape(shape), self._metric.reshape(shape))
        self._slots, self._free, self._age = [], 0, 0
        self._inner_products(-1, 0.0)

    def _inner_products(self, newest: int, step_size: float) -> float:
        """Take the inner products, of a pair in the making too; return the gradient's norm."""
        n_units = len(self._bounds) - 1
        norms = np.empty((n_units, kernels.BLOCK), self._g.dtype)
        sums = np.empty((n_units, kernels.N_SUMS, len(self._S)))
        self._sweep(
            kernels.inner_products,
            *(self._S, self._Y, np.array(self._slots, np.int64), newest, float(step_size)),
            *(self._metric, self._g, self._scratch, norms, sums),
        )
        self._sums = sums.sum(axis=0)
        return float(norms.max())

    def _set_direction(self) -> tuple[float, float]:
        """Write the direction to the free slot; return its slope, and ``g'Mg``.

        Nocedal & Wright (2006), algorithm 7.4, on inner products in the place of vectors.
        """
        slots, sums, scale = self._slots, self._sums, 1.0
        if slots:
            newest = slots[-1]
            self._s_y[:, newest] = sums[kernels.S_Y]
            self._y_My[:, newest] = self._y_My[newest] = sums[kernels.Y_MY]
            if self._y_My[newest, newest] > 0.0:
                scale = self._s_y[newest, newest] / self._y_My[newest, newest]
        s_y, y_My, s_g, y_Mg = self._s_y, self._y_My, sums[kernels.S_G], sums[kernels.Y_MG]
        of_y, of_s = np.zeros(len(self._S)), np.zeros(len(self._S))
        for i in reversed(slots):
            of_y[i] = (s_g[i] - np.dot(of_y, s_y[i])) / s_y[i, i]
        for i in slots:
            y_r = scale * (y_Mg[i] - np.dot(of_y, y_My[i])) + np.dot(of_s, s_y[:, i])
            of_s[i] = of_y[i] - y_r / s_y[i, i]
        slopes = np.empty(len(self._bounds) - 1)
        self._sweep(
            kernels.combine,
            *(self._S, self._Y, np.array(slots, np.int64), -of_s, scale * of_y),
            *(self._metric, self._g, -scale, self._S[self._free], slopes),
        )
        return float(slopes.sum()), float(sums[kernels.G_MG, 0])

    def _evaluate_along(self, t: float) -> Point:
        d, gradient = self._S[self._free], self._Y[self._free]
        self._sweep(kernels.along, self._x, float(t), d, self._trial)
        value = self._evaluate(self._trial, gradient)
        slope = math.inf
        if math.isfinite(value):
            slopes = np.empty(len(self._bounds) - 1)
            self._sweep(kernels.dots, gradient, d, slopes)
            slope = float(slopes.sum())
        if not math.isfinite(slope):  # of a gradient that overflows
            value = math.inf
        return Point(t, value, gradient, slope)

    def _accept(self, step_size: float) -> float:
        """Go to the last trial, and make a pair of the step and the gradient's change.

        Return the gradient's largest absolute component.
        """
        self._x, self._trial = self._trial, self._x
        newest = self._free
        self._slots = [*self._slots, newest][-_PAIRS:]
        self._free = next(q for q in range(_PAIRS + 1) if q not in self._slots)
        norm = self._inner_products(newest, step_size)
        s_s, y_y = self._sums[kernels.SQUARES, :2]
        least = np.finfo(self._x.dtype).eps * math.sqrt(s_s * y_y)
        if not self._sums[kernels.S_Y, newest] > least:  # rounding made its curvature worthless
            self._slots = []
        return norm

    def _sweep(self, driver: Callable[..., None], *arguments: Any) -> None:
        """Run a kernel over all elements."""
        n_units = len(self._bounds) - 1
        sweep(driver, n_units, 10.0 * self._x.size, kernel_view(self._bounds), *arguments)
