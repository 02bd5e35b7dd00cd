"""What users pass -> the arrays that designs and kernels rely on, or a clear error.

The rules are scikit-learn's, and so are the types of the errors. Stricter than scikit-learn:
negative weights (the objective would not be convex), missing labels, and weights whose scale
makes the penalty overflow are refused.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn import config_context, get_config
from sklearn.utils import check_array, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

FLOATS = (np.float64, np.float32)
_NATIVE_FLOATS = tuple(map(np.dtype, FLOATS))


@dataclass(frozen=True)
class Targets:
    """Targets of a softmax model, in one of two forms; the other is an array of size 0.

    Attributes
    ----------
    labels : ndarray of shape (n_samples,), int32
        Class indices in [0, n_classes).
    soft : ndarray of shape (n_samples, n_classes), float
        Probabilities; each row sums to 1.
    n_classes : int
    """

    labels: NDArray[np.int32]
    soft: NDArray[Any]
    n_classes: int


@dataclass(frozen=True)
class Weights:
    """Sample weights, scaled so that the largest is 1.

    Attributes
    ----------
    scaled : ndarray of shape (n_samples,) or (0,)
        Weights in [0, 1] in the dtype of X; of size 0 if all are equal.
    largest : float
        The weight that 1 stands for.
    total : float
        Sum of the scaled weights.
    """

    scaled: NDArray[Any]
    largest: float
    total: float

    def penalty_strength(self, C: float) -> float:
        """Return ``l2 = 1 / (C sum(s))``, the strength that goes with the *mean* loss.

        Raises
        ------
        ValueError
            If it overflows.
        """
        with np.errstate(over="ignore"):
            strength = float(np.float64(1.0) / C / self.largest / self.total)
        if not np.isfinite(strength):
            raise ValueError(
                f"The penalty 1/(C * sum(sample_weight)) overflows: C={C!r} and the largest "
                f"sample weight is {self.largest!r}. Increase C, or rescale sample_weight."
            )
        return strength


def numpy_only() -> contextlib.AbstractContextManager[None]:
    """Have scikit-learn convert arrays of other libraries to NumPy's, however it is configured.

    Arrays on the CPU are viewed or copied; those on another device raise their library's error.
    """
    if get_config()["array_api_dispatch"]:
        return config_context(array_api_dispatch=False)
    return contextlib.nullcontext()


def check_weights(sample_weight: ArrayLike | None, X: Any) -> Weights:
    """Return the weights of the rows of X.

    Raises
    ------
    ValueError
        For a wrong length or number of dimensions, NaN, infinity, a negative weight, or no
        positive weight.
    """
    n_samples = X.shape[0]
    if sample_weight is None:
        return Weights(np.empty(0, X.dtype), 1.0, float(n_samples))
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if weights.min(initial=0.0) < 0:
        raise ValueError(
            "Negative values in data passed to `sample_weight`: the objective would not be "
            "convex. Remove these rows, or give them weight 0."
        )
    largest = float(weights.max(initial=0.0))
    if largest == 0.0:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    scaled = (weights / largest).astype(X.dtype)
    return Weights(scaled, largest, float(scaled.sum(dtype=np.float64)))


def apply_class_weight(
    class_weight: dict[Any, float] | str | None,
    classes: NDArray[Any],
    labels: NDArray[Any],
    y: NDArray[Any],
    sample_weight: ArrayLike | None,
    X: Any,
) -> NDArray[np.float64] | ArrayLike | None:
    """Return `sample_weight` times the weight of each row's class.

    Raises
    ------
    ValueError
        If a class has a weight that is negative, NaN or infinite, or a dict's keys are none of
        the classes.
    """
    if class_weight is None:
        return sample_weight
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64, copy=True)
    # "balanced" divides by the weight that a class has in the data; with none, any factor does.
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = compute_class_weight(
            class_weight, classes=classes, y=y, sample_weight=weights
        ).astype(np.float64)
    if isinstance(class_weight, str):
        factors[np.bincount(labels, weights, len(classes)) == 0] = 0.0
    else:
        _check_factors(factors, class_weight)
    weights *= factors[labels]
    return weights


def class_factors(
    class_weight: dict[Any, float] | str,
    classes: NDArray[Any],
    masses: NDArray[np.float64],
    sample_weight: ArrayLike | None,
) -> NDArray[np.float64]:
    """Return the factor of each class's soft targets, (n_classes,); see `apply_class_weight`.

    Raises
    ------
    ValueError
        As `apply_class_weight`.
    """
    if isinstance(class_weight, str):
        weights = _check_sample_weight(sample_weight, masses, dtype=np.float64)
        totals = np.einsum("i,ik->k", weights, masses)
        return totals.sum() / (len(classes) * np.where(totals > 0, totals, np.inf))
    factors = compute_class_weight(class_weight, classes=classes, y=classes).astype(np.float64)
    _check_factors(factors, class_weight)
    return factors


def _check_factors(factors: NDArray[np.float64], class_weight: Any) -> None:
    if not (np.all(np.isfinite(factors)) and np.all(factors >= 0)):
        raise ValueError(
            "class_weight must hold finite and non-negative numbers, else the objective is not "
            f"convex; got class_weight={class_weight!r}."
        )


def check_offset(offset: ArrayLike, X: Any, n_rows: int) -> NDArray[Any]:
    """Return what is added to the logits, (n_samples, n_rows), in the dtype of X.

    Raises
    ------
    ValueError or TypeError
        If it is not finite, or not one number per sample and logit; two classes may have one or two
        columns.
    """
    n_samples = X.shape[0]
    shapes: list[tuple[int, ...]] = [(n_samples, max(n_rows, 2))]
    if n_rows == 1:
        shapes += [(n_samples, 1), (n_samples,)]
    wanted = (
        "offset must hold a finite number per sample and logit, in an array of shape "
        f"(n_samples, n_classes) = {' or '.join(map(str, shapes))}"
    )
    if sparse.issparse(offset):
        raise TypeError(f"{wanted}; got a sparse matrix.")
    try:
        array = np.asarray(offset)
        shape = array.shape
        if shape in shapes:
            array = array.reshape(n_samples, -1)
            with np.errstate(over="ignore", invalid="ignore"):  # of the sum that finds infinities
                array = check_array(array, dtype=X.dtype, order="C", input_name="offset")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{wanted}. {_first_line(error)}") from error
    if shape not in shapes:
        raise ValueError(f"{wanted}; got shape {shape}.")
    if n_rows == 1 and array.shape[1] == 2:
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array[:, 1:] - array[:, :1])
    if not np.all(np.isfinite(array)):
        raise ValueError(
            f"offset holds two columns whose difference overflows {array.dtype}. Logits beyond "
            "some hundreds are certain anyway: clip them."
        )
    return array


def _first_line(error: Exception) -> str:
    """Return what an error says, without the array that some of scikit-learn's print."""
    return f"{str(error).splitlines()[0].rstrip('.')}."


def encode_labels(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the sorted classes in `y` and each row's index into them.

    Raises
    ------
    ValueError
        If `y` is not made of labels, or holds fewer than two classes.
    """
    if y.dtype.kind == "O" and type_of_target(y) == "unknown":
        types = ", ".join(sorted({type(label).__name__ for label in y}))
        raise ValueError(
            f"Unknown label type: y has dtype object and holds {types}. Convert it to one type "
            "of labels, for example with y.astype(int) or y.astype(str)."
        )
    are_codes = y.dtype.kind in "iub"
    if not are_codes:
        check_classification_targets(y)
    classes, labels = _classes_and_indices(y)
    if are_codes and 2 * len(classes) > len(y):
        check_classification_targets(y)  # warns; for fewer it finds nothing, which takes 0.1 ms
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data contains "
            f"only one class: {classes[0]!r}"
        )
    return classes, labels


#: Integer labels in a range of at most so many numbers need no sort.
_MOST_CODES = 2**16


def _classes_and_indices(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the sorted classes in `y` and each row's index into them.

    For integers block by block: `np.unique` holds five copies of `y` at a time, 200 MB for 5
    million rows, a tenth of a float32 X with 100 features.
    """
    low, high = (int(y.min()), int(y.max())) if y.dtype.kind in "iu" else (0, 2**63)
    if high - low < _MOST_CODES and high < 2**62:
        blocks = [slice(i, i + _MOST_CODES) for i in range(0, len(y), _MOST_CODES)]
        is_there = np.zeros(high - low + 1, bool)
        for rows in blocks:
            is_there[np.subtract(y[rows], low, dtype=np.int64)] = True
        index = np.cumsum(is_there, dtype=np.int32) - np.int32(1)
        indices = np.empty(len(y), np.int32)
        for rows in blocks:
            indices[rows] = index[np.subtract(y[rows], low, dtype=np.int64)]
        return (np.flatnonzero(is_there) + low).astype(y.dtype), indices
    classes, labels = np.unique(y, return_inverse=True)
    return classes, labels.astype(np.int32)


def refuse_missing_labels(y: ArrayLike) -> None:
    """Raise ValueError if objects in `y` stand for a missing label.

    scikit-learn fails on them with a TypeError about ``<`` or about the truth of NA.
    """
    objects = np.asarray(y)
    if y is not None and objects.dtype.kind == "O" and any(map(_is_missing, objects.ravel())):
        raise ValueError("Input y contains missing values (None, NaN or NA). Drop these rows.")


def _is_missing(label: Any) -> bool:
    return (
        label is None
        or (isinstance(label, float) and label != label)
        or type(label).__name__ in ("NAType", "NaTType")
    )


def passes_if_finite(X: Any, estimator: Any) -> bool:
    """Tell that scikit-learn's validation, at a fitted estimator, could only return X itself.

    Or find that X is not finite, which a kernel notices by the way, since no logit of such a row
    is finite. Validation takes 60 us for one row, three quarters of scikit-learn's
    `predict_proba`, and one more read of X for many; this takes 0.5 us.
    """
    return (
        type(X) in (np.ndarray, np.memmap)
        and X.dtype in _NATIVE_FLOATS  # equal dtypes have equal byte orders
        and X.ndim == 2
        and X.size > 0
        and X.flags.c_contiguous
        and X.flags.aligned
        and vars(estimator).get("n_features_in_") == X.shape[1]  # None before `fit`
        and not hasattr(estimator, "feature_names_in_")  # else X without names gets a warning
    )


def check_design_matrix(X: Any) -> Any:
    """Return X as a finite C-order array or CSR matrix of float64 or float32."""
    check_sparse_indices(X)
    return check_array(X, accept_sparse="csr", dtype=FLOATS, order="C", input_name="X")


def check_sparse_indices(X: Any) -> None:
    """Check the indices of X if it is sparse, in whatever format the user made it.

    SciPy's conversions and products, and kernels, would read and write at any index.

    Raises
    ------
    ValueError
        If an index is out of range or pointers do not increase.
    """
    if not sparse.issparse(X):
        return
    if X.format == "coo":
        error = _coordinate_error(X)
    elif X.format in ("csr", "csc", "bsr"):
        error = _compressed_error(X)
    else:
        return
    if error:
        raise ValueError(f"X is a corrupt {X.format.upper()} matrix: {error}. Rebuild it.")


def _compressed_error(X: Any) -> str:
    try:
        X.check_format(full_check=True)
    except ValueError as error:
        return str(error)
    return ""


def _coordinate_error(X: Any) -> str:
    for indices, size in zip(X.coords, X.shape, strict=True):
        if len(indices) != len(X.data):
            return "coordinates and data differ in length"
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            return f"coordinates must be in [0, {size})"
    return ""


def check_targets(
    y: ArrayLike, X: Any, n_classes: int | None, sample_weight: ArrayLike | None
) -> tuple[Targets, Weights]:
    """Return targets and weights from class indices or rows of non-negative masses.

    A row of masses with sum t is the same as the row divided by t with its weight times t.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_classes)
        Integers in [0, n_classes), or non-negative finite numbers.
    X : array or CSR matrix of shape (n_samples, n_features)
    n_classes : int or None
        None takes the largest index plus 1, or the number of columns.
    sample_weight : array-like of shape (n_samples,) or None

    Raises
    ------
    ValueError
        Where `y` is none of that, or its length differs from that of X.
    """
    y = np.asarray(y)
    check_consistent_length(X, y)
    if y.ndim == 1:
        labels = check_labels(y, n_classes)
        n_classes = max(2, int(labels.max(initial=0)) + 1) if n_classes is None else n_classes
        return Targets(labels, np.empty((0, 0), X.dtype), n_classes), check_weights(
            sample_weight, X
        )
    masses = check_masses(y)
    if n_classes not in (None, masses.shape[1]):
        raise ValueError(
            f"y has {masses.shape[1]} columns of soft targets, but n_classes={n_classes}; "
            "give one column per class."
        )
    base = _check_sample_weight(sample_weight, X, dtype=np.float64)
    with np.errstate(over="ignore"):
        totals = masses.sum(axis=1)
        mass_weights = base * totals
    if not np.all(np.isfinite(mass_weights)):
        raise ValueError(
            "The rows of soft targets in y, times sample_weight, sum to infinity. Divide y by its "
            "largest entry."
        )
    if not totals.any():
        raise ValueError(
            "y holds no mass: all soft targets, times class_weight if there is one, are 0, but "
            "there must be at least one non-zero number."
        )
    weights = check_weights(mass_weights, X)
    soft = (masses / np.where(totals > 0, totals, 1.0)[:, None]).astype(X.dtype)
    return Targets(np.empty(0, np.int32), soft, masses.shape[1]), weights


def shape_of(values: Any) -> tuple[int, ...]:
    """Return the shape of what NumPy makes an array of; `np.shape` may be overloaded."""
    shape = getattr(values, "shape", None)
    return shape if isinstance(shape, tuple) else np.asarray(values).shape


def check_masses(Y: Any) -> NDArray[np.float64]:
    """Return soft targets, (n_samples, n_classes).

    Raises
    ------
    ValueError or TypeError
        Unless they are non-negative finite numbers in at least two columns.
    """
    shape = shape_of(Y)
    wanted = (
        f"y of shape {shape} must hold soft targets: non-negative numbers, one column per class, "
        "at least two. Labels have one dimension"
    )
    try:
        masses = check_array(Y, dtype=np.float64, input_name="y")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{wanted}. {_first_line(error)}") from error
    if shape[1] < 2:
        raise ValueError(f"{wanted}.")
    if (least := masses.min(initial=0.0)) < 0:
        raise ValueError(
            f"{wanted}. They must not be negative, but there is {least!s}: clip rounding errors at "
            "0, or encode what is no mass."
        )
    return masses


def check_labels(y: NDArray[Any], n_classes: int | None) -> NDArray[np.int32]:
    """Return class indices as int32.

    Raises
    ------
    ValueError
        If an entry is not an integer in [0, n_classes), or `n_classes` is none from 2.
    """
    if n_classes is not None and (not isinstance(n_classes, Integral) or n_classes < 2):
        raise ValueError(f"n_classes must be an integer from 2, or None, got {n_classes!r}.")
    if y.dtype.kind not in "iub" and not (y.dtype.kind == "f" and np.all(y == np.floor(y))):
        raise ValueError(
            f"y must hold class indices (integers from 0), got dtype {y.dtype}. Encode labels "
            "with sklearn.preprocessing.LabelEncoder."
        )
    most = np.iinfo(np.int32).max
    upper = most if n_classes is None else min(int(n_classes), most)
    if y.size and (y.min() < 0 or y.max() >= upper):
        raise ValueError(
            f"y must hold class indices in [0, {upper}), got values from {y.min()} to {y.max()}."
        )
    return y.astype(np.int32)
