"""A data set in parts: batches from a disk, or partitions on other machines.

What a solver needs are sums over rows, and a sum over rows is the sum of the sums of parts. So
one design over parts serves both; only `Parts.total`, which visits them, differs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import curvature
from fastsoftmax._designs.base import Array, Coefficients, Design, Float64Array, Margins
from fastsoftmax._designs.choose import (
    as_array,
    density,
    has_exact_grams,
    make_design,
    n_entries,
    stacked,
)
from fastsoftmax._designs.picks import GramSums, PickedRows
from fastsoftmax._validation import Targets, Weights

#: Rows that stand for all where a typical one, or the share of zeros, is asked for.
_SOME_ROWS = 200


@dataclass(frozen=True)
class Survey:
    """What must be known of all rows before the first pass; surveys of parts add up.

    Attributes
    ----------
    n_parts, n_samples, n_entries : int
        Parts that have rows, their rows, and stored entries of X.
    classes : ndarray of shape (n_classes,)
        Sorted labels that occur, or what the columns of soft targets are called.
    class_sums, largest : ndarray of shape (n_classes,), float64
        Sum of the weights of each class's rows (or of its masses), and the largest of these.
    rows : array or CSR matrix of shape (at most 200, n_features)
        Some of the rows of positive weight: a sample without replacement, in which a row of twice
        the weight is twice as likely.
    priorities : ndarray of shape (n,), float64
        Those of `rows` are the least ones of all rows.

    References
    ----------
    Efraimidis & Spirakis (2006), Weighted random sampling with a reservoir, Inf. Process. Lett. 97.
    """

    n_parts: int
    n_samples: int
    n_entries: int
    classes: NDArray[Any]
    class_sums: Float64Array
    largest: Float64Array
    rows: Any
    priorities: Float64Array

    @classmethod
    def of(cls, X: Any, y: NDArray[Any], weights: NDArray[Any] | None, number: int) -> Survey:
        """Return that of validated rows, labels and weights; the number of the part is a seed."""
        w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
        classes, labels = np.unique(y, return_inverse=True)
        largest = np.zeros(len(classes))
        np.maximum.at(largest, labels, w)
        sums = np.bincount(labels, w, len(classes)).astype(np.float64, copy=False)
        return cls(*_counted(X), classes, sums, largest, *_picked(X, w, number))

    @classmethod
    def of_masses(
        cls,
        X: Any,
        masses: Float64Array,
        names: NDArray[Any],
        weights: NDArray[Any] | None,
        number: int,
    ) -> Survey:
        """Return that of soft targets, whose columns have names, in the place of labels."""
        w = masses.sum(axis=1) * (1.0 if weights is None else weights)
        sums = (masses * (1.0 if weights is None else weights[:, None])).sum(axis=0)
        largest = np.full(len(names), w.max(initial=0.0))
        return cls(*_counted(X), names, sums, largest, *_picked(X, w, number))

    def __add__(self, other: Survey) -> Survey:
        """Return the survey of the rows of both."""
        if np.array_equal(self.classes, other.classes):
            classes, sums = self.classes, self.class_sums + other.class_sums
            largest = np.maximum(self.largest, other.largest)
        else:
            classes = np.union1d(self.classes, other.classes)
            sums, largest = np.zeros(len(classes)), np.zeros(len(classes))
            for part in (self, other):
                where = np.searchsorted(classes, part.classes)
                sums[where] += part.class_sums
                largest[where] = np.maximum(largest[where], part.largest)
        priorities = np.concatenate([self.priorities, other.priorities])
        chosen = np.sort(np.argsort(priorities, kind="stable")[:_SOME_ROWS])
        rows = stacked([self.rows, other.rows])
        return Survey(
            *(self.n_parts + other.n_parts, self.n_samples + other.n_samples),
            self.n_entries + other.n_entries,
            *(classes, sums, largest, rows[chosen], priorities[chosen]),
        )

    def with_factors(self, factors: Float64Array) -> Survey:
        """Return the survey of rows whose weights are multiplied by a factor of their class."""
        return replace(self, class_sums=self.class_sums * factors, largest=self.largest * factors)

    @property
    def weights(self) -> Weights:
        """The weights of all rows, but for the array of them.

        Raises
        ------
        ValueError
            If none is positive.
        """
        scale = float(self.largest.max(initial=0.0))
        if scale == 0.0:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return Weights(np.empty(0), scale, float((self.class_sums / scale).sum()))


def _counted(X: Any) -> tuple[int, int, int]:
    return 1, X.shape[0], n_entries(X)


def _picked(X: Any, weights: NDArray[Any], number: int) -> tuple[Any, Float64Array]:
    """Return rows with the least priorities, and these."""
    with np.errstate(divide="ignore"):
        priorities = np.random.default_rng(number).exponential(size=len(weights)) / weights
    chosen = np.sort(np.argsort(priorities, kind="stable")[:_SOME_ROWS])
    chosen = chosen[weights[chosen] > 0]
    return X[chosen], priorities[chosen]


class Parts(Protocol):
    """The parts of a data set, wherever they are."""

    def total(self, operation: Callable[[Design], Any], start: Any = None) -> Any:
        """Return the sum over parts, each times its `weight_scale`.

        Parameters
        ----------
        operation : callable
            Makes a number, an array, or a tuple of them, or `PickedRows`, of a part. Can be
            pickled.
        start : object, default=None
            To which all is added, where it is not numbers that add up to numbers.
        """


def plus(total: Any, sums: Any, factor: float) -> Any:
    """Return ``total + factor * sums``; `total`, if any, is reused."""
    if isinstance(sums, tuple):
        before = total if total is not None else (None,) * len(sums)
        return tuple(plus(t, s, factor) for t, s in zip(before, sums, strict=True))
    scaled = factor * sums
    if total is None:
        return scaled
    total += scaled
    return total


class PartsDesign:
    """The rows of all parts; see `fastsoftmax._designs.base.Design`.

    Parameters
    ----------
    parts : Parts
        Their designs know all classes of the survey.
    survey : Survey
    label_smoothing : float, default=0.0
        Share of each target that the designs spread evenly over the classes.
    """

    has_offset = False

    def __init__(self, parts: Parts, survey: Survey, label_smoothing: float = 0.0) -> None:
        self._parts, self._survey = parts, survey
        self._label_smoothing = label_smoothing
        weights = survey.weights
        self.weight_scale, self.weight_sum = weights.largest, weights.total
        self.n_samples, self.n_entries = survey.n_samples, survey.n_entries
        self.n_features = survey.rows.shape[1]
        self.n_classes = len(survey.classes)
        self.dtype = survey.rows.dtype
        n = survey.rows.shape[0]
        targets = Targets(np.zeros(n, np.int32), np.empty((0, 0), self.dtype), self.n_classes)
        equal = Weights(np.empty(0, self.dtype), 1.0, float(n))
        self._some = make_design(survey.rows, targets, equal)

    def _total(self, operation: Callable[[Design], Any]) -> Any:
        return plus(None, self._parts.total(operation), 1.0 / self.weight_scale)

    def with_weights(self, weights: Weights) -> PartsDesign:
        """Refuse: folds of cross-validation need rows in memory."""
        raise NotImplementedError("Rows in parts keep their weights.")

    def class_weights(self) -> Float64Array:
        """Return the sum of the targets, ``sum_i w_i y_ik``."""
        sums = self._survey.class_sums / self.weight_scale
        share = self._label_smoothing
        return (1.0 - share) * sums + share * sums.mean()

    def loss(self, coef: Float64Array, intercept: Float64Array) -> float:
        """Return ``sum_i w_i loss_i``."""
        loss: float = self._total(operator.methodcaller("loss", coef, intercept))
        return loss

    def loss_and_gradient(
        self, coef: Float64Array, intercept: Float64Array
    ) -> tuple[float, Float64Array]:
        """Return the loss sum and its gradient from one pass over the parts."""
        sums: tuple[float, Float64Array] = self._total(
            operator.methodcaller("loss_and_gradient", coef, intercept)
        )
        return sums

    def hessian_vector_product(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        coef_direction: Float64Array,
        intercept_direction: Float64Array,
        probabilities: Array | None = None,
    ) -> Float64Array:
        """Return the product of the loss sum's Hessian with a direction."""
        both = coef, intercept, coef_direction, intercept_direction
        product: Float64Array = self._total(operator.methodcaller("hessian_vector_product", *both))
        return product

    def probabilities(self, coef: Float64Array, intercept: Float64Array) -> None:
        """Return None: they would take memory as rows do."""

    def typical_row(self) -> Float64Array:
        """Return the typical row of some."""
        return self._some.typical_row()

    def cancellation(self) -> float:
        """Return the cancellation of some rows."""
        return self._some.cancellation()

    def pass_work(self, n_rows: int) -> float:
        """Return the operations of a pass over X."""
        return 4.0 * self.n_entries * n_rows

    def hessian(
        self, coef: Float64Array, intercept: Float64Array, centre: Float64Array | None = None
    ) -> Float64Array:
        """Return the Hessian of the loss sum in its identifiable coordinates."""
        full: Float64Array = self._total(operator.methodcaller("hessian", coef, intercept, centre))
        return full

    def hessian_passes(self, n_rows: int, centre: Float64Array | None = None) -> float:
        """Return the cost of `hessian` in passes over X, as if they were in memory."""
        return self._some.hessian_passes(n_rows, centre)

    def class_grams(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        most_rows: int,
        shared: bool,
        centre: Float64Array | None = None,
    ) -> Float64Array:
        """Return ``sum_i w_i p_ik (1 - p_ik) u_i u_iᵀ`` per logit row, from some rows."""
        m = 1 if shared else len(coef)
        if self._has_matrices_of_parts(len(coef), most_rows, shared):
            matrices = operator.methodcaller(
                "class_grams", coef, intercept, self.n_samples, shared, centre
            )
            grams: Float64Array = self._total(matrices)
            return grams
        share = most_rows / self.n_samples
        origin = np.zeros(self.n_features) if centre is None else centre
        sums = GramSums(m, origin.astype(self.dtype), density(self._survey.rows, origin), as_array)
        sums = self._parts.total(
            partial(_picked_rows, coef, intercept, share, shared, centre), sums
        )
        return sums.matrices(1.0 / self.weight_scale)

    def _has_matrices_of_parts(self, n_rows: int, most_rows: int, shared: bool) -> bool:
        """Tell whether parts compute Gram matrices, of all their rows; else they pick rows.

        Few rows, or sparse ones whose products cost little and outnumber the entries of matrices.
        """
        if self.n_samples <= most_rows:
            return True
        n_entries = (1 if shared else n_rows) * (self.n_features + 1) ** 2
        is_small = n_entries <= self.n_entries / self._survey.n_parts
        return is_small and has_exact_grams(self._some, n_rows, shared)

    def class_gram_passes(
        self, n_rows: int, most_rows: int, shared: bool, centre: Float64Array | None = None
    ) -> float:
        """Return the cost of `class_grams`, and of factors of them, in passes over X."""
        origin = np.zeros(self.n_features) if centre is None else centre
        passes = curvature.class_gram_passes(
            *(self.n_samples, n_rows, self.n_features),
            *(density(self._survey.rows, origin), most_rows, shared),
        )
        return passes * 8.0 / self.dtype.itemsize

    def class_diagonals(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        centre: Float64Array | None = None,
        shared: bool = False,
    ) -> Float64Array:
        """Return the diagonals of `class_grams` over all rows."""
        diagonals: Float64Array = self._total(
            operator.methodcaller("class_diagonals", coef, intercept, centre, shared)
        )
        return diagonals

    def margins(
        self,
        direction: Coefficients,
        start: Coefficients | None = None,
        want_gradient: bool = False,
    ) -> Margins | None:
        """Return None: whether classes separate is not looked for in parts."""
        return None


def _picked_rows(
    coef: Float64Array,
    intercept: Float64Array,
    share: float,
    shared: bool,
    centre: Float64Array | None,
    design: Any,
) -> PickedRows:
    """Return a part's share of the rows that are picked."""
    n_picks = math.ceil(share * design.n_samples)
    picked: PickedRows = design.picked_rows(coef, intercept, n_picks, shared, centre)
    return picked
