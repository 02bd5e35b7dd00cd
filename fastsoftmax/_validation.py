"""What users pass -> the arrays that designs and kernels rely on, or a clear error.

The rules are scikit-learn's, and so are the types of the errors. Stricter than scikit-learn:
negative weights (the objective would not be convex), missing labels, and weights whose scale
makes the penalty overflow are refused.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn import config_context, get_config
from sklearn.utils import check_array, check_X_y, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    validate_data,
)

FLOATS = (np.float64, np.float32)
_NATIVE_FLOATS = tuple(map(np.dtype, FLOATS))
_INDICES = (np.dtype(np.int32), np.dtype(np.int64))


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


#: What to do about what scikit-learn and NumPy state without saying so, by a part of their words.
_REMEDIES = {
    "contains infinity": "Clip or replace these values, or drop their rows.",
    "y contains NaN": "Drop these rows.",
    "could not convert string": "Encode words as numbers, for example with "
    "sklearn.preprocessing.OneHotEncoder.",
    "a real number, not": "Give an array, or a list of rows, of numbers.",
    "setting an array element with a sequence": "Give rows of the same length.",
    "Complex data not supported": "Give real numbers, for example real and imaginary parts.",
    "while dim <= 2 is required": "Flatten each sample: X.reshape(len(X), -1).",
    "inconsistent numbers of samples": "Give one entry of y for each row of X.",
    "features as input": "Give the columns that the model was fitted to.",
    "Unknown label type: continuous": "Use a regressor, or make labels of y, for example with "
    "numpy.digitize.",
}
_SAMPLE_WEIGHT = "Give one finite number, not negative, for each row of X as sample_weight."
_CLASS_WEIGHT = (
    "Give class_weight as a dict from labels that occur in y to finite numbers that are not "
    "negative, or as 'balanced'."
)


@contextlib.contextmanager
def explained(remedy: str = "") -> Iterator[None]:
    """Add to an error what to do about it; keep its type, and NumPy from warning besides.

    Parameters
    ----------
    remedy : str, default=""
        Empty takes that of `_REMEDIES`, if one fits.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # in sums that find infinities, in casts
            yield
    except (TypeError, ValueError) as error:
        text = str(error).rstrip()
        found = remedy or next((r for part, r in _REMEDIES.items() if part in text), "")
        if found and len(error.args) == 1:
            error.args = (f"{text}{'' if text.endswith(('.', '!')) else '.'} {found}",)
        raise


def check_weight_array(
    sample_weight: ArrayLike | None, X: Any, **options: Any
) -> NDArray[np.float64]:
    """Return one finite weight, not negative, for each row of X.

    Raises
    ------
    ValueError
        As `check_weights`.
    """
    with explained(_SAMPLE_WEIGHT):
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, **options)
        if not np.all(np.isfinite(weights)):  # a scalar passes scikit-learn's check
            raise ValueError(f"Input sample_weight is {sample_weight!r}.")
    if weights.min(initial=0.0) < 0:
        raise ValueError(
            "Negative values in data passed to `sample_weight`: the objective would not be "
            "convex. Remove these rows, or give them weight 0."
        )
    return weights


def check_weights(sample_weight: ArrayLike | None, X: Any) -> Weights:
    """Return the weights of the rows of X.

    Raises
    ------
    ValueError
        For a wrong length or number of dimensions, NaN, infinity, a negative weight, or no
        positive weight.
    """
    if sample_weight is None:
        return Weights(np.empty(0, X.dtype), 1.0, float(X.shape[0]))
    return scaled_weights(check_weight_array(sample_weight, X), X.dtype)


def scaled_weights(weights: NDArray[np.float64], dtype: np.dtype[Any]) -> Weights:
    """Return valid weights, scaled.

    Raises
    ------
    ValueError
        If none is positive.
    """
    largest = float(weights.max(initial=0.0))
    if largest == 0.0:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    scaled = (weights / largest).astype(dtype)
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
    weights = check_weight_array(sample_weight, X, copy=True)
    # "balanced" divides by the weight that a class has in the data; with none, any factor does.
    with np.errstate(all="ignore"):
        with explained(_CLASS_WEIGHT):
            factors = compute_class_weight(
                class_weight, classes=classes, y=y, sample_weight=weights
            ).astype(np.float64)
        if isinstance(class_weight, str):
            factors[np.bincount(labels, weights, len(classes)) == 0] = 0.0
        else:
            _check_factors(factors, class_weight)
        weights *= factors[labels]
    if not np.all(np.isfinite(weights)):
        raise ValueError(
            f"sample_weight times the factors of class_weight={class_weight!r} overflows. Divide "
            "sample_weight by its largest entry, and drop rows whose weight is nothing beside it, "
            "or give them weight 0."
        )
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
        weights = check_weight_array(sample_weight, masses)
        totals = np.einsum("i,ik->k", weights, masses)
        return totals.sum() / (len(classes) * np.where(totals > 0, totals, np.inf))
    with explained(_CLASS_WEIGHT):
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


@explained()
def encode_labels(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the sorted classes in `y` and each row's index into them.

    Raises
    ------
    ValueError
        If `y` is not made of labels, or holds fewer than two classes.
    """
    check_label_type(y)
    classes, labels = _classes_and_indices(y)
    if y.dtype.kind in "iub" and 2 * len(classes) > len(y):
        check_classification_targets(y)  # warns; for fewer it finds nothing, which takes 0.1 ms
    check_classes(classes)
    return classes, labels


def check_classes(classes: NDArray[Any]) -> None:
    """Raise ValueError unless there are two classes at least."""
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data contains "
            f"only one class: {classes[0]!r}"
        )


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


def indices_of(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int32]:
    """Return each label's index into sorted classes.

    Raises
    ------
    ValueError
        If a label is none of them.
    """
    indices = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    if np.any(unknown := classes[indices] != y):
        raise ValueError(f"y holds {y[unknown][0]!r}, which is none of the classes {classes!r}.")
    return indices.astype(np.int32)


def check_label_type(y: NDArray[Any]) -> None:
    """Raise ValueError unless `y` is made of labels, of one class or more."""
    if y.dtype.kind == "O" and type_of_target(y) == "unknown":
        types = ", ".join(sorted({type(label).__name__ for label in y}))
        raise ValueError(
            f"Unknown label type: y has dtype object and holds {types}. Convert it to one type "
            "of labels, for example with y.astype(int) or y.astype(str)."
        )
    if y.dtype.kind not in "iub":
        check_classification_targets(y)


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
    """Tell that validation, at a fitted estimator, could only return X itself.

    Or find that X is not finite, which a kernel notices by the way, since no logit of such a row
    is finite. scikit-learn's takes 60 us for one row, three quarters of its
    `predict_proba`, and one more read of X for many; this takes 0.5 us, or 9 us for one row of a
    CSR matrix, whose indices it reads.
    """
    if type(X) in (np.ndarray, np.memmap):
        is_plain = X.ndim == 2 and X.size > 0 and X.flags.c_contiguous and X.flags.aligned
    elif type(X) in (sparse.csr_array, sparse.csr_matrix):
        is_plain = (
            X.ndim == 2
            and min(X.shape) > 0
            and not _compressed_error(X)
            and _with_plain_arrays(X) is X
        )
    else:
        return False
    return (
        is_plain
        and X.dtype in _NATIVE_FLOATS  # equal dtypes have equal byte orders
        and vars(estimator).get("n_features_in_") == X.shape[1]  # None before `fit`
        and not hasattr(estimator, "feature_names_in_")  # else X without names gets a warning
    )


@explained()
def check_design_matrix(X: Any) -> Any:
    """Return X as a finite C-order array or CSR matrix of float64 or float32."""
    return check_array(as_csr(X), accept_sparse="csr", dtype=FLOATS, order="C", input_name="X")


def check_plain(X: Any, dtype: np.dtype[Any]) -> Any:
    """Return rows that were valid before, as C-order array or CSR matrix of a dtype."""
    options = {"accept_sparse": "csr", "dtype": dtype, "order": "C", "input_name": "X"}
    if type(X) is np.ndarray and X.dtype == dtype and X.dtype.isnative and X.flags.c_contiguous:
        return X  # infinite values show in the sums
    return check_array(X, **options)


@explained()
def validated(
    estimator: Any, X: Any, y: Any = "no_validation", *, reset: bool, dtype: Any = FLOATS
) -> Any:
    """Return X, or X and y, as scikit-learn's `validate_data` does, X being as of `as_csr`.

    Parameters
    ----------
    estimator : estimator
        Which takes the number and names of features from X if `reset`, else checks them.
    X, y : array-like
    reset : bool
    dtype : dtype or tuple of dtypes
        To which X is converted unless it is one of them.

    Raises
    ------
    ValueError or TypeError
        As scikit-learn, and as `as_csr`.
    """
    options = {"accept_sparse": "csr", "order": "C", "dtype": dtype}
    csr = as_csr(X)
    if csr is X or sparse.issparse(X):
        return validate_data(estimator, csr, y, reset=reset, **options)
    validate_data(estimator, X, reset=reset, skip_check_array=True)  # the names of a frame
    if isinstance(y, str) and y == "no_validation":
        return check_array(csr, estimator=estimator, input_name="X", **options)
    return check_X_y(csr, y, estimator=estimator, **options)


def as_csr(X: Any) -> Any:
    """Return a sparse X as a CSR matrix whose indices may be relied on, anything else as it is.

    Sparse are SciPy's matrices and arrays, and frames of pandas all columns of which are.

    SciPy's conversions and products, and kernels, would read and write at any index. So indices are
    checked, in one read, before anything else looks at them. Repeated and unsorted entries are
    legal and stay. X itself is returned if possible, and never changed.

    Returns
    -------
    array-like or CSR matrix
        A CSR matrix has contiguous and aligned arrays of equal length, and indices and pointers
        that are both int32 or both int64.

    Raises
    ------
    ValueError
        If an index is out of range, pointers do not increase, or lengths differ.
    """
    X = _matrix_of_frame(X)
    if not sparse.issparse(X):
        return X
    if problem := _STRUCTURE_ERRORS[X.format](X):
        raise _corrupt(X, problem)
    if X.ndim != 2:
        return X  # scikit-learn has the words for it
    if X.format == "csr":
        return _with_plain_arrays(X)
    if X.format in ("coo", "csc", "bsr") and X.dtype.kind in "biuf":
        # Repeated entries are added up, for which int8 may be too narrow.
        X = X.astype(X.dtype if X.dtype in _NATIVE_FLOATS else np.float64, copy=False)
    try:
        csr = X.asformat("csr")
    except (TypeError, ValueError, OverflowError) as error:
        if X.format in ("lil", "dok"):
            raise _corrupt(X, _first_line(error).rstrip(".")) from error
        raise
    if problem := _compressed_error(csr):  # a LIL matrix's columns are known only now
        raise _corrupt(X, problem)
    return _with_plain_arrays(csr)


def _matrix_of_frame(X: Any) -> Any:
    """Return a frame of sparse columns of numbers as a CSC matrix, anything else as it is.

    scikit-learn (1.9) fails on columns of booleans and makes float64 of float32, and pandas (2.2)
    changes values where it converts to another fill value.
    """
    if not (type(X).__module__.split(".")[0] == "pandas" and hasattr(X, "columns")):
        return X
    dtypes = set(X.dtypes)
    if not dtypes or not all(hasattr(t, "fill_value") and t.subtype.kind in "biuf" for t in dtypes):
        return X
    common = np.result_type(*(t.subtype for t in dtypes))
    dtype = common if common in _NATIVE_FLOATS else np.float64
    rows, values = [], []
    for _, column in X.items():
        array = column.array
        if _is_missing(array.fill_value) or array.fill_value != 0:
            dense = np.asarray(array)
            rows.append(np.flatnonzero(dense != 0))
            values.append(dense[rows[-1]])
        else:
            rows.append(array.sp_index.indices)
            values.append(array.sp_values)
    pointers = np.append(0, np.cumsum([len(entries) for entries in values]))
    arrays = (np.concatenate(values, dtype=dtype), np.concatenate(rows), pointers)
    return sparse.csc_array(arrays, shape=X.shape)


def _corrupt(X: Any, error: str) -> ValueError:
    return ValueError(
        f"X is a corrupt {X.format.upper()} matrix: {error}. Rebuild it, for example with "
        "scipy.sparse.coo_array((values, (rows, columns)), shape=(n_samples, n_features))."
    )


def _compressed_error(X: Any) -> str:
    """Say what is wrong with a CSR, CSC or BSR matrix, or nothing.

    `X.check_format` would do, but writes to X: it drops what is beyond the last pointer and
    converts indices.
    """
    is_blocked = X.format == "bsr"
    n_dimensions = 3 if is_blocked else 1
    if (X.data.ndim, X.indices.ndim, X.indptr.ndim) != (n_dimensions, 1, 1):
        return f"data must have {n_dimensions} dimensions, indices and indptr one"
    shape = X.shape if X.ndim == 2 else (1, *X.shape)
    n_lines, size = shape[::-1] if X.format == "csc" else shape
    if is_blocked:
        height, width = X.data.shape[1:]
        if height == 0 or width == 0 or n_lines % height or size % width:
            return f"its shape {X.shape} is not divisible by that of its blocks, {height, width}"
        n_lines, size = n_lines // height, size // width
    return _pointer_error(X, n_lines) or _index_error("indices", X.indices[: X.indptr[-1]], size)


def _pointer_error(X: Any, n_lines: int) -> str:
    indptr, n_entries = X.indptr, len(X.indices)
    if indptr.dtype.kind not in "iu":
        return f"indptr must hold integers, but has dtype {indptr.dtype}"
    if len(indptr) != n_lines + 1:
        return f"indptr has {len(indptr)} entries, but shape {X.shape} asks for {n_lines + 1}"
    if n_entries != len(X.data):
        return f"there are {n_entries} indices for {len(X.data)} entries of data"
    if indptr[0] != 0:
        return f"indptr starts with {indptr[0]}, not with 0"
    if indptr[-1] > n_entries:
        return f"indptr ends with {indptr[-1]}, but there are {n_entries} indices"
    if np.any(indptr[1:] < indptr[:-1]):
        return "indptr must not decrease"
    return ""


def _index_error(name: str, indices: NDArray[Any], size: int) -> str:
    """Say that indices are not in [0, size), from one read.

    Taken for unsigned numbers, negative ones are larger than all others.
    """
    if indices.dtype.kind not in "iu":
        return f"{name} must hold integers, but have dtype {indices.dtype}"
    if not indices.size:
        return ""
    limit = min(size, int(np.iinfo(indices.dtype).max) + 1)
    if int(indices.view(indices.dtype.str.replace("i", "u")).max()) < limit:
        return ""
    low, high = int(indices.min()), int(indices.max())
    return f"{name} must be in [0, {size}), but there is {low if low < 0 else high}"


def _coordinate_error(X: Any) -> str:
    for axis, (indices, size) in enumerate(zip(X.coords, X.shape, strict=True)):
        if indices.shape != X.data.shape:
            return f"there are {len(indices)} coordinates for {len(X.data)} entries of data"
        if error := _index_error(f"coordinates of axis {axis}", indices, size):
            return error
    return ""


def _diagonal_error(X: Any) -> str:
    if X.data.ndim != 2 or X.offsets.shape != X.data.shape[:1]:
        return f"there are offsets of shape {X.offsets.shape} for data of shape {X.data.shape}"
    if X.offsets.dtype.kind not in "iu" or len(np.unique(X.offsets)) < len(X.offsets):
        return "offsets must be integers, each of them once"
    return ""


def _list_error(X: Any) -> str:
    for name, lists in (("rows", X.rows), ("data", X.data)):
        if lists.shape != X.shape[:1]:
            return f"{name} has shape {lists.shape}, but the matrix has {X.shape[0]} rows"
    if any(len(columns) != len(values) for columns, values in zip(X.rows, X.data, strict=True)):
        return "there are not as many columns as values in each row"
    return ""


def _no_error(X: Any) -> str:
    return ""


#: What to look at before SciPy converts a matrix; it checks the keys of a DOK matrix itself.
_STRUCTURE_ERRORS: dict[str, Callable[[Any], str]] = {
    "csr": _compressed_error,
    "csc": _compressed_error,
    "bsr": _compressed_error,
    "coo": _coordinate_error,
    "dia": _diagonal_error,
    "lil": _list_error,
    "dok": _no_error,
}


def _with_plain_arrays(X: Any) -> Any:
    """Return a valid CSR matrix with the arrays that `as_csr` promises, X itself if it has them."""
    data, indices, indptr = X.data, X.indices, X.indptr
    if (
        len(data) == indptr[-1]
        and indices.dtype == indptr.dtype
        and indices.dtype in _INDICES
        and all(a.flags.c_contiguous and a.flags.aligned for a in (data, indices, indptr))
    ):
        return X
    n_entries = int(indptr[-1])
    is_narrow = indices.dtype.itemsize <= 4 and max(n_entries, X.shape[1]) < 2**31
    index_dtype = np.int32 if is_narrow else np.int64
    plain = copy.copy(X)  # which shares the arrays; the constructor might convert them once more
    plain.data = np.require(data[:n_entries], requirements=["C", "A"])
    plain.indices = np.require(indices[:n_entries], index_dtype, ["C", "A"])
    plain.indptr = np.require(indptr, index_dtype, ["C", "A"])
    return plain


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
    base = check_weight_array(sample_weight, X)
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
