"""From rows in parts to what a solver minimises: batches of a source, partitions of a cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length

from fastsoftmax._designs import Design, PartsDesign, StreamedParts, Survey, make_design
from fastsoftmax._validation import (
    FLOATS,
    Targets,
    as_csr,
    check_classes,
    check_label_type,
    check_masses,
    check_plain,
    check_targets,
    check_weight_array,
    class_factors,
    indices_of,
    refuse_missing_labels,
    scaled_weights,
    validated,
)
from fastsoftmax.batches import ArrayBatches, Batch
from fastsoftmax.linear_model._problem import (
    Problem,
    are_soft,
    column_names,
    smoothed,
    with_penalty,
)

if TYPE_CHECKING:
    from fastsoftmax.linear_model._logistic import LogisticRegression

#: A memory map is read in batches where it takes more than this share of the memory there is.
_LARGE_SHARE = 0.5
#: Limits of a container's memory: of control groups, version 2 and 1.
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def is_source(X: Any) -> bool:
    """Tell a source of batches from rows of X."""
    return callable(getattr(X, "batches", None))


def is_large_map(X: Any) -> bool:
    """Tell whether X is a memory map of plain floats that would fill the memory."""
    return (
        isinstance(X, np.memmap)
        and X.ndim == 2
        and X.dtype in FLOATS
        and X.dtype.isnative
        and X.nbytes > _LARGE_SHARE * memory()
    )


def memory() -> float:
    """Return the bytes of memory that this process may fill, infinite where nobody says."""
    sizes = [np.inf]
    for file in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            sizes.append(float(file.read_text()))
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system
        sizes.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes)


def survey_part(
    estimator: Any, part: Batch, number: int, name: str, *, reset: bool, dtype: Any = FLOATS
) -> Survey | None:
    """Return what a part tells about its rows, or None where it has none.

    Parameters
    ----------
    estimator : estimator
        Which takes the number and names of features from X if `reset`, else checks them.
    part : tuple
        ``(X, y)`` or ``(X, y, sample_weight)``.
    number : int
        From 0.
    name : str
        What parts are called in messages.
    reset : bool
    dtype : dtype or tuple of dtypes
        To which X is converted unless it is one of them.

    Raises
    ------
    ValueError or TypeError
        As `LogisticRegression.fit`, with the number of the part.
    """
    try:
        X, y, weights = unpacked(part)
        if X.shape[0] == 0:
            return None
        if are_soft(y):
            X = validated(estimator, X, reset=reset, dtype=dtype)
            masses, names = check_masses(y), column_names(y)
            check_consistent_length(X, masses)
        else:
            refuse_missing_labels(y)
            X, y = validated(estimator, X, y, reset=reset, dtype=dtype)
            check_label_type(y)
        w = _weights_of(weights, X)
        if are_soft(y):
            return Survey.of_masses(X, masses, names, w, number)
        return Survey.of(X, y, w, number)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} {number}: {error}") from error


def _weights_of(weights: Any, X: Any) -> NDArray[np.float64] | None:
    """Return the weights of a part's rows, which may all be 0, or None if they are equal."""
    if weights is None:
        return None
    if np.shape(weights) == (X.shape[0],) and not np.any(weights):  # scikit-learn refuses these
        return np.zeros(X.shape[0])
    return check_weight_array(weights, X)


def unpacked(part: Batch) -> tuple[Any, Any, Any]:
    """Return X, labels, and weights or None.

    Raises
    ------
    TypeError
        If the part is no tuple of two or three.
    """
    if not isinstance(part, (tuple, list)) or len(part) not in (2, 3):
        raise TypeError(
            f"must be (X, y) or (X, y, sample_weight), got {type(part).__name__}"
            + (f" of {len(part)}" if isinstance(part, (tuple, list)) else "")
        )
    X, y, weights = (*part, None)[:3]
    return X if hasattr(X, "shape") else np.asarray(X), y, weights


@dataclass(frozen=True, eq=False)
class Format:
    """What a part's rows are turned into.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
        Sorted labels of all parts.
    factors : ndarray of shape (n_classes,), float64
        Weights of the classes.
    dtype : dtype
    n_features : int
    label_smoothing : float
    """

    classes: NDArray[Any]
    factors: NDArray[np.float64]
    dtype: np.dtype[Any]
    n_features: int
    label_smoothing: float

    def design(self, part: Batch, number: int) -> Design | None:
        """Return the rows of a part that was surveyed, or None where none has weight.

        Parts are numbered in any way, as long as numbers differ.

        Raises
        ------
        ValueError
            If it is another one than the one surveyed.
        """
        X, y, weights = unpacked(part)
        X = check_plain(as_csr(X), self.dtype)
        if X.shape[1] != self.n_features:
            raise ValueError(f"X has {X.shape[1]} features, and had {self.n_features} before.")
        w = np.ones(X.shape[0]) if weights is None else np.asarray(weights, dtype=np.float64)
        if are_soft(y):
            masses = check_masses(y) * self.factors
            if not (w * masses.sum(axis=1)).any():
                return None
            targets, scaled = check_targets(masses, X, len(self.classes), w)
        else:
            labels = indices_of(np.asarray(y).reshape(X.shape[0]), self.classes)
            w = w * self.factors[labels]
            if not w.any():
                return None
            targets = Targets(labels, np.empty((0, 0), X.dtype), len(self.classes))
            scaled = scaled_weights(w, X.dtype)
        targets = smoothed(targets, self.label_smoothing, X.dtype)
        return make_design(X, targets, scaled, number=number)


def problem_of_parts(
    estimator: LogisticRegression,
    survey: Survey,
    parts: Callable[[Format], Any],
) -> Problem:
    """Return what `fit` minimises over surveyed parts.

    Parameters
    ----------
    estimator : LogisticRegression
        Whose parameters are valid each by itself.
    survey : Survey
        Of all parts.
    parts : callable
        Returns the `Parts`, given their format.

    Raises
    ------
    ValueError
        If they do not fit together.
    """
    classes = survey.classes
    check_classes(classes)
    factors = np.ones(len(classes))
    if estimator.class_weight is not None:
        once = survey.class_sums[None]  # all rows of a class in one
        factors = class_factors(estimator.class_weight, classes, once, None)
    survey = survey.with_factors(factors)
    X = survey.rows
    shape = Format(classes, factors, X.dtype, X.shape[1], estimator.label_smoothing)
    design = PartsDesign(parts(shape), survey, estimator.label_smoothing)
    return with_penalty(estimator, design, survey.weights, classes)


def streamed_problem(
    estimator: LogisticRegression,
    X: Any,
    y: Any,
    sample_weight: Any,
    offset: Any,
    on_rows: Callable[[int], None] | None = None,
) -> Problem:
    """Return what `fit` minimises over the batches of a source, or of a large memory map.

    Raises
    ------
    ValueError or TypeError
        As `LogisticRegression.fit`.
    """
    if offset is not None:
        raise ValueError(
            "offset is not available for rows that are read in batches. Pass X in memory."
        )
    if not is_source(X):
        X = ArrayBatches(X, y, sample_weight)
    elif y is not None or sample_weight is not None:
        raise ValueError(
            "X is a source of batches, which brings y and sample_weight along: its batches are "
            "(X, y) or (X, y, sample_weight). Leave the arguments y and sample_weight out."
        )
    survey = reduce(Survey.__add__, _surveys(estimator, X, on_rows or (lambda n_rows: None)))

    def parts(shape: Format) -> StreamedParts:
        def designs() -> Iterator[tuple[int, Design | None]]:
            for number, batch in enumerate(X.batches()):
                yield len(batch[1]), shape.design(batch, number)

        return StreamedParts(designs, survey.n_samples, on_rows)

    return problem_of_parts(estimator, survey, parts)


def _surveys(estimator: Any, source: Any, on_rows: Callable[[int], None]) -> Iterator[Survey]:
    """Yield the surveys of batches that are not empty; at least one."""
    dtype: Any = FLOATS
    is_first, n_rows = True, 0
    on_rows(0)
    for number, batch in enumerate(source.batches()):
        survey = survey_part(estimator, batch, number, "Batch", reset=is_first, dtype=dtype)
        if survey is not None:
            is_first, dtype = False, survey.rows.dtype
            n_rows += survey.n_samples
            on_rows(n_rows)
            yield survey
    if is_first:
        raise ValueError("The source has no rows; at least one batch must have some.")
