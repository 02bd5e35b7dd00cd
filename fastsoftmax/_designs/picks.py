"""Some rows for each logit row, from which its Gram matrix is estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import curvature
from fastsoftmax._designs.base import Array, Float64Array
from fastsoftmax._designs.curvature import Block, SparseBlock
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import gram as kernels
from fastsoftmax._kernels.tiles import padded_zeros
from fastsoftmax._threads import sweep

#: Gram matrices of rows of their own from which each is one unit of work.
_LEAST_UNITS = 4
#: Fractions of the golden and of the silver ratio: multiples of them fill (0, 1) evenly.
_GOLDEN, _SILVER = (np.sqrt(5.0) - 1.0) / 2.0, np.sqrt(2.0) - 1.0
#: Rows that are gathered at a time.
_GATHERED_ROWS = 1024


class EvenPicks:
    """A row out of each step of the rows' cumulative curvature, for each logit row.

    A row of twice the weight, or curvature, is picked as if it stood there twice: sampling with
    probabilities proportional to size, one row from each of as many strata. Where most rows are
    classified for certain, every s-th row would tell next to nothing of the curvature: mnist needs
    83 passes that way, and 27 this way.

    Where in its step a row is picked differs from step to step, as multiples of the golden ratio
    do, modulo 1: at the same place of each, rows that come back with a period would be picked again
    and again. Ten copies of mnist one after the other took 104 passes that way, and 46 this way.

    Parameters
    ----------
    diagonals : ndarray of shape (m, D), float64
        Those of the matrices over all rows. The last column has the sums of the curvatures.
    n_picks : int
    number : int, default=0
        Of the part whose rows these are: equal parts, too, show different rows.

    References
    ----------
    Madow (1949), On the theory of systematic sampling, II, Ann. Math. Statist. 20, for the even
    steps; Cochran (1977), Sampling Techniques, chapter 8, for rows with a period.
    """

    def __init__(self, diagonals: Float64Array, n_picks: int, number: int = 0) -> None:
        self._diagonals = diagonals
        self._first = 0.5 + number * _SILVER
        totals = diagonals[:, -1]
        self._steps = np.where(totals > 0, totals / n_picks, np.inf)
        self._cumulative = np.zeros(len(totals))
        self._picked: list[list[tuple[NDArray[np.intp], Float64Array]]] = [[] for _ in totals]

    def add_all(self, blocks: Iterable[Block] | Iterable[SparseBlock], shared: bool) -> EvenPicks:
        """Go on by blocks of rows."""
        for rows in blocks:
            self.add(rows, shared)
        return self

    def add(self, rows: Block | SparseBlock, shared: bool) -> None:
        """Go on by a block of rows."""
        sums = np.cumsum(curvature.curvatures_of(rows, shared), axis=1)
        sums += self._cumulative[:, None]
        n_before = self._n_marks(self._cumulative / self._steps)
        n_marks = self._n_marks(sums / self._steps[:, None])
        counts = np.diff(n_marks, axis=1, prepend=n_before[:, None])
        self._cumulative = sums[:, -1]
        for picked, count, step in zip(self._picked, counts, self._steps, strict=True):
            chosen = np.flatnonzero(count)
            picked.append((rows.numbers[chosen], count[chosen] * step))

    def _n_marks(self, steps: Float64Array) -> Float64Array:
        """Return how many marks there are up to a number of steps: one within each step."""
        whole = np.floor(steps)
        place = np.modf(self._first + whole * _GOLDEN)[0]
        n_marks: Float64Array = whole + (steps - whole >= place)
        return n_marks

    def _chosen(self) -> list[tuple[NDArray[np.intp], Float64Array]]:
        """Return the numbers of rows, and the curvature that each stands for, per logit row."""
        return [
            (np.concatenate([n for n, _ in picked]), np.concatenate([c for _, c in picked]))
            for picked in self._picked
        ]

    def rows(self, X: Any) -> PickedRows:
        """Return the picked rows of X (array or CSR)."""
        return PickedRows((tuple((X[n], c) for n, c in self._chosen()),), self._diagonals)

    def grams(
        self, rows_of: Callable[[NDArray[np.intp]], Array], centre: Array, density: float
    ) -> Float64Array:
        """Return the Gram matrices of the picked rows, with all rows' diagonals, (m, D, D).

        `rows_of` returns rows of X, by their numbers.
        """
        chosen = self._chosen()
        m, D = len(chosen), len(centre) + 1
        dense_cost, sparse_cost = curvature.costs(D, 1, density)
        if m >= _LEAST_UNITS and dense_cost <= sparse_cost:
            grams = _side_by_side(rows_of, centre, chosen)
            return _with_diagonals(grams, self._diagonals)
        grams = np.empty((m, D, D))
        for gram, (numbers, curvatures) in zip(grams, chosen, strict=True):
            sums = curvature.sums_of(D, 1, density)
            for first in range(0, len(numbers), _GATHERED_ROWS):
                some = slice(first, first + _GATHERED_ROWS)
                sums.add(rows_of(numbers[some]), centre, curvatures[None, some])
            gram[:] = sums.matrices()[0]
        return _with_diagonals(grams, self._diagonals)


def _side_by_side(
    rows_of: Callable[[NDArray[np.intp]], Array],
    centre: Array,
    chosen: list[tuple[NDArray[np.intp], Float64Array]],
) -> Float64Array:
    """Return Gram matrices of different rows of X each, (m, D, D), one to a unit of work."""
    m, D = len(chosen), len(centre) + 1
    most = max(len(numbers) for numbers, _ in chosen)
    n_block = _rows_at_a_time(m, D)
    grams = padded_zeros((m, D, D), np.dtype(np.float64))
    for first in range(0, most, n_block):
        n = min(n_block, most - first)
        # A matrix that has no rows left gets the first row of X, times 0.
        rows, weights = np.zeros((m, n), np.intp), np.zeros((m, n))
        for k, (numbers, curvatures) in enumerate(chosen):
            some = slice(first, first + n)
            rows[k, : len(numbers[some])] = numbers[some]
            weights[k, : len(numbers[some])] = curvatures[some]
        _add_side_by_side(rows_of(rows.ravel()), centre, weights, grams)
    return curvature.mirrored(grams, D)


def _rows_at_a_time(m: int, D: int) -> int:
    return max(curvature.BLOCK_ROWS, curvature.BLOCK_ENTRIES // (m * D))


def _add_side_by_side(X: Array, centre: Array, weights: Float64Array, grams: Float64Array) -> None:
    """Add to m padded matrices n rows of X each, one after the other, by weights (m, n)."""
    m, D = grams.shape[:2]
    sweep(
        kernels.weighted_grams,
        m,
        1.0 * weights.size * D * D,
        kernel_view(X),
        kernel_view(centre),
        kernel_view(weights.reshape(1, -1)),  # one curvature, a chunk of its rows per matrix
        m,
        *(padded_zeros((m, curvature.BLOCK_ROWS, D), np.dtype(np.float64)) for _ in range(2)),
        grams,
    )


def _with_diagonals(grams: Float64Array, diagonals: Float64Array) -> Float64Array:
    """Raise the diagonals of Gram matrices of some rows to those over all rows.

    A feature that is rare among the rows picked still curves the objective.
    """
    missing = np.maximum(diagonals - np.einsum("kjj->kj", grams), 0.0)
    j = np.arange(grams.shape[1])
    grams[:, j, j] += missing
    return grams


# --- Rows in parts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PickedRows:
    """Rows that were picked from parts; of more parts, they add up.

    Matrices of each part would add up, too, but of few rows each are far larger: with 784 features
    and 10 classes 49 MB for each batch of 8 MB.

    Attributes
    ----------
    parts : tuple of tuples of pairs
        For each part and logit row the rows of X, array or CSR, and their curvatures.
    diagonals : ndarray of shape (m, D), float64
        Those of the matrices over all rows of these parts.
    """

    parts: tuple[tuple[tuple[Any, Float64Array], ...], ...]
    diagonals: Float64Array

    def __add__(self, other: PickedRows) -> PickedRows:
        return PickedRows(self.parts + other.parts, self.diagonals + other.diagonals)

    def __rmul__(self, factor: float) -> PickedRows:
        """Return the same rows, of so many times the curvature."""
        scaled = tuple(tuple((X, factor * c) for X, c in part) for part in self.parts)
        return replace(self, parts=scaled, diagonals=factor * self.diagonals)

    @property
    def size(self) -> int:
        """Number of rows."""
        return sum(len(c) for part in self.parts for _, c in part)


class GramSums:
    """The Gram matrices of picked rows, which come a few at a time.

    Parameters
    ----------
    m : int
        Number of matrices.
    centre : ndarray of shape (n_features,), in the dtype of X
    density : float
        Share of entries of X that differ from it.
    as_array : callable
        Returns rows of X, as they are stored, as an array.
    """

    def __init__(
        self, m: int, centre: Array, density: float, as_array: Callable[[Any], Array]
    ) -> None:
        D = len(centre) + 1
        self._as_array = as_array
        self._centre = centre
        self._diagonals = np.zeros((m, D))
        self._waiting: list[tuple[tuple[Any, Float64Array], ...]] = []
        self._n_waiting = 0
        dense_cost, sparse_cost = curvature.costs(D, 1, density)
        self._n_each = -(-_LEAST_UNITS // m)
        n_units = 0 if sparse_cost < dense_cost else m * self._n_each
        self._grams = padded_zeros((n_units, D, D), np.dtype(np.float64))
        self._sparse = [] if n_units else [curvature.PairSums(D, 1) for _ in range(m)]
        self._n_block = _rows_at_a_time(m * self._n_each, D)

    def __iadd__(self, picked: PickedRows) -> GramSums:
        self._diagonals += picked.diagonals
        self._waiting += picked.parts
        self._n_waiting += picked.size
        # A sweep over the matrices curvature.costs as much for one row as for a block of them.
        if self._n_waiting >= len(self._diagonals) * self._n_each * self._n_block:
            self._add_waiting()
        return self

    def _add_waiting(self) -> None:
        chosen = []
        for found in zip(*self._waiting, strict=True):  # of a logit row
            rows = np.concatenate([self._as_array(X) for X, _ in found])
            chosen.append((rows, np.concatenate([curvatures for _, curvatures in found])))
        self._waiting, self._n_waiting = [], 0
        if not self._sparse:
            self._add_dense(chosen)
            return
        for sums, (rows, curvatures) in zip(self._sparse, chosen, strict=True):
            sums.add(rows, self._centre, curvatures[None])

    def _add_dense(self, chosen: list[tuple[Array, Float64Array]]) -> None:
        n_features = len(self._centre)
        units = [
            unit
            for pair in chosen
            for unit in zip(*(np.array_split(a, self._n_each) for a in pair), strict=True)
        ]
        most = max(len(rows) for rows, _ in units)
        for first in range(0, most, self._n_block):
            some = slice(first, min(first + self._n_block, most))
            X = np.zeros((len(units), some.stop - first, n_features), self._centre.dtype)
            weights = np.zeros(X.shape[:2])
            for k, (rows, curvatures) in enumerate(units):
                n = len(rows[some])
                X[k, :n], weights[k, :n] = rows[some], curvatures[some]
            _add_side_by_side(X.reshape(-1, n_features), self._centre, weights, self._grams)

    def matrices(self, factor: float) -> Float64Array:
        """Return the sums times a factor, with all rows' diagonals, shape (m, D, D), once."""
        if self._waiting:
            self._add_waiting()
        if self._sparse:
            grams = np.concatenate([sums.matrices() for sums in self._sparse])
        else:
            grams = self._grams[:: self._n_each]
            for k in range(1, self._n_each):
                grams += self._grams[k :: self._n_each]
            grams = curvature.mirrored(grams, self._diagonals.shape[1])
        grams = _with_diagonals(grams, self._diagonals)
        grams *= factor
        return grams
