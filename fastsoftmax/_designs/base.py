"""What a storage of X offers."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._validation import Weights

Array = NDArray[Any]
Float64Array = NDArray[np.float64]
#: Coefficients (n_rows, n_features) and intercepts (n_rows,).
Coefficients = tuple[Float64Array, Float64Array]


class Response(enum.IntEnum):
    """What `predict` returns, n rows of it.

    ``LOGITS`` (n, n_rows), ``PROBABILITIES`` and ``LOG_PROBABILITIES`` (n, n_classes), all in
    the dtype of X, or ``LABELS`` (n,) intp, the index of the first largest logit.
    """

    LOGITS = 0
    PROBABILITIES = 1
    LOG_PROBABILITIES = 2
    LABELS = 3


class Design(Protocol):
    """Rows of X with their targets and weights, and the sums over them that a solver needs.

    Sums are *unnormalised*: ``sum_i w_i loss_i`` with weights w in units of `weight_scale`, to be
    divided by `weight_sum`, which is in the same units. So the sums of the parts of a data set
    (batches, partitions) can be added, each times its `weight_scale`.
    Every sum but those of `margins` has the same bits for any number of threads.

    Conventions: ``coef`` (n_rows, n_features), ``intercept`` (n_rows,), float64; a gradient, or a
    product with the Hessian, is (n_rows, n_features + 1) float64 with the intercept last.
    """

    @property
    def n_samples(self) -> int:
        """Number of rows of X."""

    @property
    def n_features(self) -> int:
        """Number of columns of X."""

    @property
    def n_entries(self) -> int:
        """Number of entries of X that are stored."""

    @property
    def n_classes(self) -> int:
        """Number of classes, also of those that do not occur."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of X, in which products are computed: float64 or float32."""

    @property
    def weight_sum(self) -> float:
        """Sum of the weights, in units of `weight_scale`."""

    @property
    def weight_scale(self) -> float:
        """The largest of the user's weights."""

    @property
    def has_offset(self) -> bool:
        """Whether logits are shifted by a given offset."""

    def with_weights(self, weights: Weights) -> Design:
        """Return the same rows with other weights; X is shared, and what was derived from it."""

    def class_weights(self) -> Float64Array:
        """Return the sum of the targets, ``sum_i w_i y_ik``, shape (n_classes,)."""

    def loss(self, coef: Float64Array, intercept: Float64Array) -> float:
        """Return ``sum_i w_i loss_i`` in nats; not finite if logits overflow."""

    def loss_and_gradient(
        self, coef: Float64Array, intercept: Float64Array
    ) -> tuple[float, Float64Array]:
        """Return the loss sum and its gradient ``[Rᵀ X, sum_i R_i]`` from one pass over X."""

    def hessian_vector_product(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        coef_direction: Float64Array,
        intercept_direction: Float64Array,
        probabilities: Array | None = None,
    ) -> Float64Array:
        """Return the product of the loss sum's Hessian with a direction.

        `probabilities` are those of `probabilities`, or None to have them computed once more.
        """

    def probabilities(self, coef: Float64Array, intercept: Float64Array) -> Array | None:
        """Return the probabilities of all rows, shape (n, n_classes), in the dtype of X.

        None where rows are not in memory either. Raises ValueError if a logit is not finite.
        """

    def typical_row(self) -> Float64Array:
        """Return a row that others resemble: second-order sums around it are cheap and accurate.

        Shape (n_features,): 0 where entries of 0 cost nothing, else the columns' medians over
        some evenly spaced rows, exact in the dtype of X. A column most of whose entries are
        equal, such as a one-hot column, scaled or not, differs from it in few rows.
        """

    def cancellation(self) -> float:
        """Return how many times some feature's values are as large as their differences.

        At least 1. So many digits are lost when coefficients tell such values apart.
        """

    def pass_work(self, n_rows: int) -> float:
        """Return the operations of a pass over X: what costs in passes are relative to."""

    def hessian(
        self, coef: Float64Array, intercept: Float64Array, centre: Float64Array | None = None
    ) -> Float64Array:
        """Return the Hessian of the loss sum in its identifiable coordinates.

        Here and below with respect to coefficients of ``u = [x - centre, 1]``; None is 0. For one
        logit row, shape (D, D) with ``D = n_features + 1``. For K rows the Hessian
        annihilates every direction that is the same for all classes; the block of the first
        K - 1 rows, shape ((K - 1) D, (K - 1) D), holds all of it.
        """

    def hessian_passes(self, n_rows: int, centre: Float64Array | None = None) -> float:
        """Return the cost of `hessian` in passes over X, for choosing a solver."""

    def class_grams(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        most_rows: int,
        shared: bool,
        centre: Float64Array | None = None,
    ) -> Float64Array:
        """Return ``sum_i w_i p_ik (1 - p_ik) u_i u_iᵀ``, one per logit row.

        Shape (n_rows, D, D), or their mean, (1, D, D), if `shared`; beyond `most_rows` rows
        estimated from about so many for each matrix.
        """

    def class_gram_passes(
        self, n_rows: int, most_rows: int, shared: bool, centre: Float64Array | None = None
    ) -> float:
        """Return the cost of `class_grams`, and of factors of them, in passes over X."""

    def class_diagonals(
        self,
        coef: Float64Array,
        intercept: Float64Array,
        centre: Float64Array | None = None,
        shared: bool = False,
    ) -> Float64Array:
        """Return the diagonals of `class_grams` over all rows, (n_rows, D), or their mean.

        That is (1, D), if `shared`.
        """

    def margins(
        self,
        direction: Coefficients,
        start: Coefficients | None = None,
        want_gradient: bool = False,
    ) -> Margins | None:
        """Return how far a direction moves the labels' logits from the others; see `margins_of`.

        None for soft targets. By BLAS, so with other last bits for other numbers of its threads.
        """


def class_weights(labels: Array, soft: Array, weights: Array, n_classes: int) -> Float64Array:
    """Return the sum over rows of weights (or 1) times one-hot labels, or soft targets if any."""
    w = weights.astype(np.float64) if weights.size else np.ones(len(labels) or len(soft))
    if soft.size:
        return np.einsum("ik,i->k", soft, w)
    return np.bincount(labels, w, n_classes).astype(np.float64, copy=False)


class Margins(NamedTuple):
    """By how much a direction moves the labels' logits away from the others.

    Over rows of positive weight.

    Attributes
    ----------
    low : float
        The least one.
    high : float
        The largest one, or 0.
    uncertain_high : float
        The largest one among those that can still lower the loss where the direction starts.
    shortfall : float
        Half the weighted mean, over rows, of the sum of the squares of negative margins.
    coef_gradient : ndarray of shape (n_rows, n_features)
        Of the shortfall, in the coefficients ...
    intercept_gradient : ndarray of shape (n_rows,)
        ... and in the intercepts. Zeros unless they were asked for.
    """

    low: float
    high: float
    uncertain_high: float
    shortfall: float
    coef_gradient: Float64Array
    intercept_gradient: Float64Array


#: Margins beyond which a row's loss, below 1e-15, cannot fall any more.
_CERTAIN = 36.0


@np.errstate(over="ignore", invalid="ignore")
def margins_of(
    X: Any,
    labels: Array,
    weights: Array,
    direction: Coefficients,
    n_entries: float,
    start: Coefficients | None = None,
    want_gradient: bool = False,
) -> Margins | None:
    """Return the margins' extremes and shortfall, or None where there are no labels.

    Parameters
    ----------
    X : array or CSR matrix of shape (n_samples, n_features)
    labels : ndarray of shape (n_samples,) or (0,)
    weights : ndarray of shape (n_samples,) or (0,)
    direction : tuple of ndarray of shapes (n_rows, n_features) and (n_rows,)
    n_entries : float
        Numbers that a row of X takes.
    start : tuple like `direction`, default=None
        Where it starts; without it, or where all is certain there, all margins are uncertain.
    want_gradient : bool, default=False
    """
    if not labels.size:
        return None
    coef, intercept = direction
    low, high, uncertain_high, shortfall, weight_sum = np.inf, 0.0, 0.0, 0.0, 0.0
    coef_gradient, intercept_gradient = np.zeros(coef.shape), np.zeros(len(coef))
    any_uncertain = False
    # The product converts rows of float32, and slices copy those of a CSR matrix.
    n_block = max(1, int(2**20 / (n_entries + len(coef) + 1)))
    for first in range(0, X.shape[0], n_block):
        rows = slice(first, first + n_block)
        X_block, own, w = X[rows], labels[rows, None], np.ones((1, 1))
        if weights.size:  # rows of weight 0 may hold anything
            w = weights[rows, None].astype(np.float64)
            counts = w[:, 0] > 0.0
            X_block, own, w = X_block[counts], own[counts], w[counts]
        margins = _margins(X_block, own, coef, intercept)
        # NumPy's maximum and minimum keep a NaN.
        high = float(np.maximum(high, margins.max(initial=0.0)))
        if start is not None:
            uncertain = _margins(X_block, own, *start) < _CERTAIN
            np.put_along_axis(uncertain, own, False, axis=1)
            any_uncertain |= bool(uncertain.any())
            uncertain_high = max(uncertain_high, float(margins.max(initial=0.0, where=uncertain)))
        np.put_along_axis(margins, own, np.inf, axis=1)
        low = float(np.minimum(low, margins.min(initial=np.inf)))
        short = np.maximum(-margins, 0.0)
        weight_sum += float(np.sum(np.broadcast_to(w, own.shape)))
        shortfall += 0.5 * float(np.sum(w * short**2))
        if want_gradient:
            residual = w * short
            np.put_along_axis(residual, own, -residual.sum(axis=1, keepdims=True), axis=1)
            residual = residual[:, -len(coef) :]
            coef_gradient += np.asarray(X_block.T @ residual).T
            intercept_gradient += residual.sum(axis=0)
    return Margins(
        low,
        high,
        uncertain_high if any_uncertain else high,
        shortfall / weight_sum,
        coef_gradient / weight_sum,
        intercept_gradient / weight_sum,
    )


def _margins(X: Any, own: Array, coef: Float64Array, intercept: Float64Array) -> Float64Array:
    """Return by how much each row's own logit exceeds each logit, (n_samples, n_classes)."""
    logits = np.asarray(X @ np.ascontiguousarray(coef.T)) + intercept
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    margins: Float64Array = np.take_along_axis(logits, own, axis=1) - logits
    return margins
