"""A Newton model of the coordinates that count: those that are not at rest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._kernels import coordinate as kernels
from fastsoftmax._solvers.model import Faces, Frame, Metric, Pair, QuasiNewtonModel
from fastsoftmax._solvers.separable import SeparablePenalty
from fastsoftmax._solvers.vectors import Vector

Indices = NDArray[np.int64]
PickColumns = Callable[[Indices], tuple[Indices, Indices, NDArray[Any]]]

#: Sweeps of a model, and those over its non-zero coordinates between two over all.
_MOST_SWEEPS, _MOST_AT_ONCE = 400, 40
#: Entries of columns that one call of a kernel reads, some 0.1 s; then Python may see Ctrl-C.
_CALL_WORK = 5e7
#: The Hessian of so many coordinates may be formed. A pair of entries takes so much of the time of
#: an entry in a sweep.
_MOST_DENSE, _SWEEP_PAIRS = 2000, 0.15
#: How many times its gain a descent may leave that ends by the number of its sweeps.
_TRUNCATED_CAUTION = 10.0
#: The least share of the fall at which a descent along columns ends. debian_sections at C=1 takes
#: 22 passes and 21 s with a hundredth, 21 and 30 s with a thousandth.
_LEAST_LEFT = 1e-2
#: ``p (1 - p)`` counts as this share of what it is between equally likely classes, at least.
_LEAST_CURVATURE = 1e-3


@dataclass
class TrustRegion:
    """How far one coordinate of a model may move a logit.

    Where a class is rare, the Newton step along a feature that tells it for certain goes with
    one over its share: debian_sections at 100 times the least C then takes 104 passes, not 14.

    Attributes
    ----------
    radius : float
        In nats.

    References
    ----------
    Genkin, Lewis & Madigan (2007), Technometrics 49: a trust region per coordinate.
    """

    radius: float = 1.0

    def learn(self, step_size: float) -> None:
        """Take down the share that was taken of the model's step."""
        self.radius *= 2.0 if step_size == 1.0 else max(step_size, 0.25)


@dataclass(frozen=True, eq=False)
class ColumnMetric(Frame):
    """The Hessian of the mean loss of linear logits, plus ``diag(l2)``, by columns of its data.

    It is exact. Its models are those of coordinates that the gradient moves, or that are not at a
    kink or a bound.

    Attributes
    ----------
    l2 : ndarray of shape (n,)
        Penalty strengths.
    centre : ndarray of shape (D - 1,) or (0,)
        See `Frame`; the columns are those of ``x - centre``.
    probabilities : ndarray of shape (n_rows, n_samples)
    weights : ndarray of shape (n_samples,)
        Of samples, sum 1.
    pick_columns : callable
        Returns the columns of ascending numbers as starts, sample numbers and values (CSC); number
        ``D - 1`` is that of the intercept, if there is one.
    trust : TrustRegion
        All metrics of a minimisation share it.
    """

    l2: Vector
    centre: Vector
    probabilities: NDArray[Any]
    weights: Vector
    pick_columns: PickColumns
    trust: TrustRegion

    is_exact = True

    def learn(self, step_size: float) -> None:
        """Take down the share that was taken of the model's step."""
        self.trust.learn(step_size)

    def model(
        self,
        pairs: Collection[Pair],
        x: Vector,
        gradient: Vector,
        penalty: SeparablePenalty,
        balanced: Callable[[Vector], Vector] | None,
    ) -> ColumnModel:
        """Return the model of a function of this Hessian; there are no pairs."""
        return ColumnModel(self, x, gradient, penalty)


class ColumnModel:
    """``g·d + d·B d / 2 + h(x + d)`` as a function of the active coordinates of d; others are 0.

    Active is what is at no kink or bound, or what the gradient moves away from it.

    Parameters
    ----------
    metric : ColumnMetric
    x, gradient : ndarray of shape (n,)
        In the metric's coordinates.
    penalty : SeparablePenalty

    Attributes
    ----------
    active : ndarray of int
        Numbers of the active coordinates, ascending.
    caution : float
        How many times its fall the minimum may be away; infinite where the trust region cuts it.

    References
    ----------
    Friedman, Hastie & Tibshirani (2010), J. Stat. Softw. 33, section 2.6, and Yuan, Ho & Lin
    (2012), JMLR 13, section 3: the sets.
    """

    def __init__(
        self, metric: ColumnMetric, x: Vector, gradient: Vector, penalty: SeparablePenalty
    ) -> None:
        self._metric, self._x, self._gradient, self._penalty = metric, x, gradient, penalty
        moves = penalty.least_subgradient(x, gradient) != 0.0
        self.caution = 1.0
        self.active: Indices = np.flatnonzero(moves | penalty.is_free(x))

    @np.errstate(over="ignore", invalid="ignore")
    def minimize(self, faces: Faces, enough: float) -> tuple[Vector, float]:
        """Return the minimum, exact at kinks and bounds, and the model's fall from x to it.

        By descent along columns; where that takes longer than forming the Hessian of the active
        coordinates, as `QuasiNewtonModel` does it. Without a finite minimum it returns x, and inf.

        Raises
        ------
        FloatingPointError
            If a curvature is not finite.
        """
        metric, active = self._metric, self.active
        n_rows = len(metric.probabilities)
        classes, features = np.divmod(active, len(self._x) // n_rows)
        numbers, columns = np.unique(features, return_inverse=True)
        data = _Data(
            *(classes, columns, *metric.pick_columns(numbers)),
            *(metric.probabilities, metric.weights),
        )
        x, gradient, l2 = self._x[active], self._gradient[active], metric.l2[active]
        whole = SeparablePenalty(*(part[active] for part in self._penalty.parts))
        room = metric.trust.radius / data.largest()
        penalty = SeparablePenalty(
            whole.l1, np.maximum(whole.lower, x - room), np.minimum(whole.upper, x + room)
        )
        n_sweeps = _SWEEP_PAIRS * data.n_pairs / max(1, data.n_entries.sum())
        may_form = len(active) <= _MOST_DENSE and n_sweeps <= _MOST_SWEEPS
        point, fall, is_done = _descend(
            data,
            l2,
            x,
            gradient,
            penalty,
            max(enough, _LEAST_LEFT),
            round(n_sweeps) if may_form else _MOST_SWEEPS,
        )
        if may_form and not is_done:
            dense = Metric(data.hessian()[None], l2, np.empty(0), True)
            point, fall = QuasiNewtonModel(dense, (), x, gradient, penalty).minimize(faces, enough)
        is_cut = (point <= penalty.lower) & (penalty.lower > whole.lower)
        is_cut |= (point >= penalty.upper) & (penalty.upper < whole.upper)
        if is_cut.any():
            self.caution = np.inf
        elif not (may_form or is_done):
            self.caution = _TRUNCATED_CAUTION
        target = self._x.copy()
        target[active] = point
        return target, fall


class _Data(NamedTuple):
    """Active coordinates, their columns, and what weighs the samples; see the kernels."""

    classes: Indices
    columns: Indices
    starts: Indices
    rows: Indices
    values: NDArray[Any]
    probabilities: NDArray[Any]
    weights: Vector

    @property
    def n_entries(self) -> Indices:
        """Entries of each coordinate."""
        return np.diff(self.starts)[self.columns]

    @property
    def n_pairs(self) -> float:
        """Pairs of entries of coordinates in the same sample."""
        return float(np.einsum("i,i->", self._of_samples, self._of_samples))

    @property
    def _of_samples(self) -> Vector:
        """Entries of coordinates in each sample."""
        n_classes = np.bincount(self.columns, minlength=len(self.starts) - 1)
        of_entries = np.repeat(n_classes, np.diff(self.starts))
        return np.bincount(self.rows, of_entries, len(self.weights)).astype(np.float64)

    def largest(self) -> Vector:
        """Return the largest absolute entry of each coordinate's column."""
        largest = np.zeros(len(self.starts) - 1)
        is_filled = np.diff(self.starts) > 0
        firsts = self.starts[:-1][is_filled]
        if len(firsts):
            largest[is_filled] = np.maximum.reduceat(np.abs(self.values), firsts)
        return np.maximum(largest, np.finfo(np.float64).tiny)[self.columns]

    def hessian(self) -> NDArray[np.float64]:
        """Return the Hessian of the loss, (m, m)."""
        m, n_samples = len(self.classes), len(self.weights)
        order = np.argsort(self.columns, kind="stable")
        coordinate_starts = np.append(0, np.cumsum(np.bincount(self.columns)))
        # From columns to rows.
        by_row = np.argsort(self.rows, kind="stable")
        starts = np.append(0, np.cumsum(np.bincount(self.rows, minlength=n_samples)))
        columns = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))[by_row]
        lower, classes, values = np.zeros((m, m)), self.classes[order], self.values[by_row]
        scratch = np.empty(m, np.int64), np.empty(m), np.empty(m)
        # No call lasts long.
        work = np.cumsum(self._of_samples**2 + 1.0)
        n_calls = int(np.ceil(work[-1] / _CALL_WORK))
        cuts = np.searchsorted(work, work[-1] * np.arange(1, n_calls) / n_calls)
        for first, last in itertools.pairwise([0, *cuts.tolist(), n_samples]):
            kernels.active_hessian(
                *(first, last, classes, coordinate_starts),
                *(starts, columns, values, self.probabilities, self.weights),
                *(*scratch, lower),
            )
        lower += np.tril(lower, -1).T
        hessian = np.empty_like(lower)
        hessian[np.ix_(order, order)] = lower
        return hessian


def _descend(
    data: _Data,
    l2: Vector,
    x: Vector,
    gradient: Vector,
    penalty: SeparablePenalty,
    enough: float,
    most: int,
) -> tuple[Vector, float, bool]:
    """Return the minimum by coordinate descent, the fall, and whether little is left.

    Sweeps over all coordinates, and between them over those that are not at a kink.
    """
    curvatures = np.empty(len(x))
    least = _LEAST_CURVATURE / (len(data.probabilities) + 1)
    kernels.column_curvatures(0, len(x), *data, least, curvatures)
    if not np.all(np.isfinite(curvatures)):
        raise FloatingPointError("the Hessian overflows")
    point, gains = x.copy(), np.zeros(kernels.N_GAINS)
    arguments = (
        *(*data, curvatures, l2, *penalty.parts, gradient, enough),
        *(point, np.zeros(len(x))),
        *(np.zeros(data.probabilities.shape), np.zeros(len(data.weights)), gains),
    )
    n_entries = data.n_entries

    def sweep(chosen: Indices, most: int) -> float:
        gains[[kernels.LAST, kernels.IS_DONE]] = 0.0
        n_at_once = max(1, int(_CALL_WORK / max(1, n_entries[chosen].sum())))
        for first in range(0, most, n_at_once):
            last = min(first + n_at_once, most)
            kernels.descend_columns(first, last, chosen, *arguments)
            if gains[kernels.IS_DONE]:
                break
        return float(gains[kernels.LAST])

    is_done = False
    while not is_done and (left := most - int(gains[kernels.N_SWEEPS])) > 0:
        is_done = sweep(np.arange(len(x)), 1) <= enough * gains[kernels.TOTAL]
        if not is_done:
            sweep(np.flatnonzero((point != 0.0) | (penalty.l1 == 0.0)), min(left, _MOST_AT_ONCE))
    fall = float(gains[kernels.TOTAL])
    if not (np.isfinite(fall) and np.isfinite(point).all()):
        return x, np.inf, True
    return point, max(fall, 0.0), is_done
