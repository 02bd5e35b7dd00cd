"""The equations of softmax and cross-entropy on arrays, compiled and threaded.

Numbers in brackets are those of ``docs/equations.md``, where each has its derivation.

Conventions
-----------
Samples are rows and classes are the last axis; ``axis=`` names the class axis of any other
layout. float32 (and float16) arrays are computed and returned in float32, every other real dtype
in float64. Any memory layout is read; arrays whose class axis is contiguous are not copied.
Losses are in nats. The limits are those of the continuous extension: ``0 log 0 = 0``, and an
absent target (``y = 0``) adds nothing, also where its probability is 0. Nothing returns NaN:
an input that would lead to one is refused.

Logits may be of any finite size. ``-inf`` masks a class (its probability is 0); NaN, ``+inf`` and
a row that is ``-inf`` throughout raise `ValueError`. After an error the content of `out` is
undefined.

Results do not depend on the number of threads, down to the last bit.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import rows
from fastsoftmax._kernels import softmax as maps
from fastsoftmax._threads import sweep

__all__ = [
    "cross_entropy",
    "cross_entropy_gradient",
    "log_softmax",
    "logsumexp",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_gradient",
    "softmax_jacobian",
    "softmax_jvp",
    "softmax_vjp",
]

Array = npt.NDArray[Any]

#: Floating-point operations per entry, for the choice between the drivers.
_WORK = 30.0

_MESSAGES = {
    rows.HAS_NAN: (
        "Logits contain NaN. Drop or impute the samples they come from, or mask a class with -inf."
    ),
    rows.HAS_PLUS_INFINITY: (
        "Logits contain +inf, for which softmax has no limit. Clip them to the largest finite "
        "number, np.finfo(logits.dtype).max."
    ),
    rows.ALL_MINUS_INFINITY: (
        "A sample's logits are -inf in every class. Leave at least one class unmasked, or drop "
        "the sample."
    ),
    rows.BAD_TARGETS: (
        "Soft targets must be non-negative and finite, and so must their sum over the classes of "
        "a sample, in the dtype of the first argument. Clip or rescale them."
    ),
    rows.BAD_PROBABILITIES: (
        "Probabilities must lie in [0, 1]. If these are logits, apply softmax first, or call a "
        "function whose name begins with softmax_cross_entropy."
    ),
    rows.BAD_DIRECTION: (
        "The direction or cotangent contains NaN or infinity. Replace those entries by numbers."
    ),
}


def softmax(logits: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """Return the class probabilities of logits (eq. 1).

    ``A_ab = exp(z_ab) / sum_k exp(z_kb)``, computed after subtraction of the maximum.

    Parameters
    ----------
    logits : array_like of real numbers, (..., n_classes, ...)
        Of any finite size; ``-inf`` masks a class.
    axis : int, default=-1
        The class axis.
    out : ndarray, optional
        Where to put the result: shape of `logits`, float32 or float64 as the result, any layout.
        May be `logits` itself.

    Returns
    -------
    ndarray
        Probabilities in [0, 1], shape of `logits`. Each is within 4 ulp of the exact value where
        that is a normal number; sums over `axis` are within 8 ulp of 1.

    Raises
    ------
    ValueError
        If logits are complex, NaN or ``+inf``, or ``-inf`` throughout a sample; if there is no
        class; if `out` does not fit.
    TypeError
        If `logits` is sparse, masked or not numeric.

    References
    ----------
    Eq. 1. Blanchard, Higham & Higham (2021), IMA J. Numer. Anal. 41(4).

    Examples
    --------
    >>> from fastsoftmax.functional import softmax
    >>> softmax([[0.0, 0.0], [1e308, -1e308]])
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    return _map_logits(maps.SOFTMAX, logits, axis, out)


def log_softmax(logits: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """Return the logarithms of the class probabilities of logits (log of eq. 1).

    ``log A_ab = z_ab - log sum_k exp(z_kb)``, from ``log1p`` of the sum over the other classes,
    so that a probability next to 1 has an exact logarithm.

    Parameters
    ----------
    logits : array_like of real numbers, (..., n_classes, ...)
        Of any finite size; ``-inf`` masks a class.
    axis : int, default=-1
        The class axis.
    out : ndarray, optional
        Where to put the result, as for `softmax`; may be `logits` itself.

    Returns
    -------
    ndarray
        Non-positive, in nats, shape of `logits`; ``-inf`` for masked classes.

    Raises
    ------
    ValueError, TypeError
        As `softmax`.

    References
    ----------
    The logarithm of eq. 1. Blanchard, Higham & Higham (2021), IMA J. Numer. Anal. 41(4).

    Examples
    --------
    >>> from fastsoftmax.functional import log_softmax
    >>> print(log_softmax([0.0, 50.0]))
    [-5.00000000e+01 -1.92874985e-22]
    """
    return _map_logits(maps.LOG_SOFTMAX, logits, axis, out)


def logsumexp(logits: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Any:
    """Return the logarithm of the denominator of eq. 1, ``log sum_k exp(z_kb)``.

    Parameters
    ----------
    logits : array_like of real numbers, (..., n_classes, ...)
        Of any finite size; ``-inf`` masks a class.
    axis : int, default=-1
        The class axis, which the result lacks.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray, or scalar for one-dimensional logits
        In nats.

    Raises
    ------
    ValueError, TypeError
        As `softmax`.

    References
    ----------
    The logarithm of the denominator of eq. 1.

    Examples
    --------
    >>> from fastsoftmax.functional import logsumexp
    >>> print(logsumexp([[0.0, 0.0], [1e308, 1e308]]))
    [6.93147181e-001 1.00000000e+308]
    """
    return _map_logits(maps.LOGSUMEXP, logits, axis, out)


def cross_entropy(
    probabilities: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    axis: int = -1,
) -> float:
    """Return the mean cross-entropy of probabilities and targets (eq. 2).

    ``L = (1/m) sum_b ( - sum_p y_pb log ŷ_pb )``; with weights ``w_b / sum(w)`` replaces ``1/m``.
    Logits are better served by `softmax_cross_entropy`, which loses nothing where a
    probability rounds to 0 or 1.

    Parameters
    ----------
    probabilities : array_like, (n_samples, n_classes)
        In [0, 1]. Sums over the classes are not checked.
    targets : array_like, (n_samples,) of int, or shape of `probabilities`
        Class indices in ``[0, n_classes)``, or non-negative masses that need not sum to 1.
    sample_weight : array_like, (n_samples,), optional
        Non-negative and finite, with a positive sum. Only ratios matter.
    axis : int, default=-1
        The class axis, of soft targets too.

    Returns
    -------
    float
        In nats; ``inf`` if a positive target has probability 0 in a sample of positive weight.

    Raises
    ------
    ValueError
        If an argument is out of its range or shapes do not fit; if there are no samples.
    TypeError
        If an array is sparse, masked or not numeric.

    References
    ----------
    Eq. 2, and eq. 3a for the logarithm: ``g = log ŷ``.

    Examples
    --------
    >>> from fastsoftmax.functional import cross_entropy
    >>> cross_entropy([[0.5, 0.5], [0.0, 1.0]], [0, 1])
    0.34657359027997264
    """
    return _cross_entropy(probabilities, targets, sample_weight, axis, None, False)[0]


def cross_entropy_gradient(
    probabilities: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    axis: int = -1,
    out: Array | None = None,
) -> Array:
    """Return the gradient of `cross_entropy` in the probabilities (eq. 4).

    ``dL/dŷ_ij = dL/dg_ij dg_ij/dŷ_ij = -(1/m) y_ij / ŷ_ij``, the product of the two parts of
    eq. 3: ``dL/dg_ij = -(1/m) y_ij`` and ``dg_kl/dŷ_ij = (1/ŷ_kl) δ_ki δ_lj``.

    Parameters
    ----------
    probabilities, targets, sample_weight, axis
        As for `cross_entropy`.
    out : ndarray, optional
        Where to put the result: shape and dtype of the result, any layout.

    Returns
    -------
    ndarray
        Shape of `probabilities`, non-positive. 0 where the target is absent (``0/0 = 0``) or the
        sample has no weight, ``-inf`` where a positive target has probability 0.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`; `ValueError` also if `out` does not fit.

    References
    ----------
    Eq. 3 and 4.

    Examples
    --------
    >>> from fastsoftmax.functional import cross_entropy_gradient
    >>> cross_entropy_gradient([[0.5, 0.5], [0.0, 1.0]], [0, 1])
    array([[-1. ,  0. ],
           [ 0. , -0.5]])
    """
    gradient = _cross_entropy(probabilities, targets, sample_weight, axis, out, True)[1]
    assert gradient is not None
    return gradient


def softmax_jacobian(
    probabilities: npt.ArrayLike, *, axis: int = -1, out: Array | None = None
) -> Array:
    """Return the Jacobian of softmax of every sample, from its result (eq. 5).

    ``dA_ab/dz_ij = 0`` for ``j != b``, so one matrix per sample holds all:
    ``A_ab - A_ab^2`` for ``i = a``, ``-A_ab A_ib`` for ``i != a``. Products with it are
    cheaper by `softmax_jvp` and `softmax_vjp`.

    Parameters
    ----------
    probabilities : array_like, (n_samples, n_classes)
        In [0, 1], a result of `softmax`.
    axis : int, default=-1
        The class axis of `probabilities`.
    out : ndarray, (n_samples, n_classes, n_classes), optional
        Where to put the result.

    Returns
    -------
    ndarray, (n_samples, n_classes, n_classes)
        Symmetric; rows and columns sum to 0 up to rounding.

    Raises
    ------
    ValueError, TypeError
        If probabilities are out of range, not two-dimensional or not real; if `out` does not fit.

    References
    ----------
    Eq. 5.

    Examples
    --------
    >>> from fastsoftmax.functional import softmax_jacobian
    >>> softmax_jacobian([[0.25, 0.75]])
    array([[[ 0.1875, -0.1875],
            [-0.1875,  0.1875]]])
    """
    array, axis = _probabilities(probabilities, axis)
    p = _rows(array, axis)
    n_samples, n_classes = p.shape
    shape = (n_samples, n_classes, n_classes)
    result = _Result(out, shape, p.dtype, -1, (p,))
    jacobian = result.buffer.reshape(shape)
    _run(rows.jacobian, p.shape, n_classes**2, p, jacobian)
    return result.deliver()


def softmax_jvp(
    probabilities: npt.ArrayLike,
    direction: npt.ArrayLike,
    *,
    axis: int = -1,
    out: Array | None = None,
) -> Array:
    """Return the Jacobian of softmax times a direction, without the Jacobian (eq. 5).

    ``sum_i dA_ab/dz_ib u_ib = A_ab (u_ab - sum_i A_ib u_ib)``.

    Parameters
    ----------
    probabilities : array_like, (..., n_classes, ...)
        In [0, 1], a result of `softmax`.
    direction : array_like, shape of `probabilities`
        Finite. Computed in the wider of the two dtypes.
    axis : int, default=-1
        The class axis.
    out : ndarray, optional
        Where to put the result; may be `direction` itself.

    Returns
    -------
    ndarray
        Shape of `probabilities`. Its absolute error is some ulp of ``A_ab max_i |u_ib|``.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or not real, or shapes or `out` do not fit.

    References
    ----------
    Eq. 5.

    Examples
    --------
    >>> from fastsoftmax.functional import softmax_jvp
    >>> softmax_jvp([[0.25, 0.75]], [[1.0, 0.0]])
    array([[ 0.1875, -0.1875]])
    """
    p, u = _real_array(probabilities, "probabilities"), _real_array(direction, "direction")
    if p.shape != u.shape:
        raise ValueError(f"Shapes differ: probabilities {p.shape}, direction {u.shape}.")
    dtype = np.result_type(p, u)
    axis = _class_axis(p, axis)
    p_rows, u_rows = (_rows(x.astype(dtype, copy=False), axis) for x in (p, u))
    result = _Result(out, p.shape, dtype, axis, (p_rows, u_rows), alias=u_rows)
    _run(
        rows.jacobian_product,
        p_rows.shape,
        p_rows.shape[1],
        p_rows,
        u_rows,
        result.buffer,
    )
    return result.deliver()


def softmax_vjp(
    probabilities: npt.ArrayLike,
    cotangent: npt.ArrayLike,
    *,
    axis: int = -1,
    out: Array | None = None,
) -> Array:
    """Return a cotangent times the Jacobian of softmax, without the Jacobian (eq. 5).

    ``sum_a c_ab dA_ab/dz_ib``: the same as `softmax_jvp`, because the Jacobian is symmetric. It
    carries a gradient in the probabilities (eq. 4) to one in the logits (eq. 6).

    Parameters
    ----------
    probabilities, axis, out
        As for `softmax_jvp`.
    cotangent : array_like, shape of `probabilities`
        Finite.

    Returns
    -------
    ndarray
        Shape of `probabilities`.

    Raises
    ------
    ValueError, TypeError
        As `softmax_jvp`.

    References
    ----------
    Eq. 5; the first step of eq. 6.

    Examples
    --------
    >>> from fastsoftmax.functional import cross_entropy_gradient, softmax_vjp
    >>> p = [[0.25, 0.75]]
    >>> softmax_vjp(p, cross_entropy_gradient(p, [0]))
    array([[-0.75,  0.75]])
    """
    return softmax_jvp(probabilities, cotangent, axis=axis, out=out)


def softmax_cross_entropy(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    axis: int = -1,
) -> float:
    """Return the mean cross-entropy of the softmax of logits (eq. 1 and 2 in one).

    ``L = (1/m) sum_b sum_p y_pb (log sum_k exp(z_kb) - z_pb)``; with weights ``w_b / sum(w)``
    replaces ``1/m``. The probabilities are never formed, so the loss of a sample that is
    classified with a probability next to 1 keeps its relative precision.

    Parameters
    ----------
    logits : array_like of real numbers, (n_samples, n_classes)
        Of any finite size; ``-inf`` masks a class.
    targets : array_like, (n_samples,) of int, or shape of `logits`
        Class indices in ``[0, n_classes)``, or non-negative masses that need not sum to 1.
    sample_weight : array_like, (n_samples,), optional
        Non-negative and finite, with a positive sum. Only ratios matter.
    axis : int, default=-1
        The class axis, of soft targets too.

    Returns
    -------
    float
        In nats; ``inf`` if a positive target is masked in a sample of positive weight.

    Raises
    ------
    ValueError
        If an argument is out of its range or shapes do not fit; if there are no samples.
    TypeError
        If an array is sparse, masked or not numeric.

    References
    ----------
    The function that eq. 6 differentiates.

    Examples
    --------
    >>> from fastsoftmax.functional import softmax_cross_entropy
    >>> print(f"{softmax_cross_entropy([[100.0, 0.0]], [0]):.6g}")
    3.72008e-44
    """
    return _softmax_cross_entropy(logits, targets, sample_weight, axis, None, False)[0]


def softmax_cross_entropy_gradient(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    axis: int = -1,
    out: Array | None = None,
) -> tuple[float, Array]:
    """Return `softmax_cross_entropy` and its gradient in the logits (eq. 6).

    ``dL/dz_ij = (1/m) (ŷ_ij sum_k y_kj - y_ij)``, which is ``(1/m) (ŷ_ij - y_ij)`` for targets
    that sum to 1. Where one class holds more than half of the mass, its entry comes from the
    others' probabilities, not from ``1 - ŷ``.

    Parameters
    ----------
    logits, targets, sample_weight, axis
        As for `softmax_cross_entropy`.
    out : ndarray, optional
        Where to put the gradient: shape and dtype of the gradient, any layout. May be `logits`
        itself.

    Returns
    -------
    loss : float
        In nats.
    gradient : ndarray
        Shape of `logits`; finite also where the loss is infinite. Sums over `axis` are 0 up to
        rounding.

    Raises
    ------
    ValueError, TypeError
        As `softmax_cross_entropy`; `ValueError` also if `out` does not fit.

    References
    ----------
    Eq. 6.

    Examples
    --------
    >>> from fastsoftmax.functional import softmax_cross_entropy_gradient
    >>> loss, gradient = softmax_cross_entropy_gradient([[0.0, 0.0]], [0])
    >>> loss, gradient
    (0.6931471805599453, array([[-0.5,  0.5]]))
    """
    loss, gradient = _softmax_cross_entropy(logits, targets, sample_weight, axis, out, True)
    assert gradient is not None
    return loss, gradient


# --- From arguments to kernels ------------------------------------------------------------------


def _map_logits(kind: int, logits: npt.ArrayLike, axis: int, out: Array | None) -> Any:
    """Return eq. 1, its logarithm or (without the class axis) that of its denominator."""
    array, axis = _logits(logits, axis)
    shape, rest = array.shape, array.shape[:axis] + array.shape[axis + 1 :]
    n_classes, n_inner = shape[axis], math.prod(shape[axis + 1 :])
    if kind == maps.LOGSUMEXP:
        shape = (*shape[:axis], 1, *shape[axis + 1 :])
        if out is not None:
            _check_out(out, rest, array.dtype)
    # Classes are the last axis for the kernels, or a middle one where that needs no copy.
    fits = n_inner == 1 or maps.takes_columns(n_classes, array.itemsize)
    in_place = array.flags.c_contiguous and fits
    if in_place:
        z = kernel_view(array.reshape(math.prod(shape[:axis]), n_classes, n_inner))
    else:
        z = _rows(array, axis)
        z = z.reshape(*z.shape, 1)
    whole = kind != maps.LOGSUMEXP
    place = out if whole or out is None else np.expand_dims(out, axis)
    alias = z if whole else None
    result = _Result(place, shape, array.dtype, axis, (z,), alias, moved=not in_place)
    if array.size:
        buffer = result.buffer.reshape(z.shape[0], -1, z.shape[2])
        if n_classes > maps.LONGEST and z.shape[2] == 1:
            _map_long_rows(kind, z, buffer)
        else:
            _map_tiles(kind, z, buffer)
    delivered = result.deliver()
    if whole:
        return delivered
    return out if out is not None else delivered.reshape(rest)[()]


def _map_tiles(kind: int, z: Array, out: Array) -> None:
    geometry, n_entries = maps.plan(z.shape, z.itemsize)
    n_blocks = -(-int(geometry[0]) // int(geometry[1]))
    _sweep(maps.map, n_blocks, z.size, kind, geometry, z, out, n_entries)


def _map_long_rows(kind: int, z: Array, out: Array) -> None:
    """Do as `_map_tiles` in two reads, with threads that share a row."""
    n_segments = maps.n_segments(z.shape[1])
    sums = np.empty((len(z), n_segments, 3), z.dtype)
    _map_tiles(maps.SUMS, z, sums)
    sums = sums.astype(np.float64)
    peaks, rests = sums[:, :, 0], sums[:, :, 1] + sums[:, :, 2]
    greatest = peaks.max(axis=1)
    if not (greatest > -np.inf).all():
        raise ValueError(_MESSAGES[rows.ALL_MINUS_INFINITY])
    tops = peaks == greatest[:, None]
    with np.errstate(all="ignore"):
        # As `exp_of_difference`: the rounding of a difference is the same for a whole segment.
        gaps = peaks - greatest[:, None]
        back = gaps - peaks
        lost = (peaks - (gaps - back)) - (greatest[:, None] + back)
        scales = np.exp(gaps) * (1 + np.where(np.isfinite(lost), lost, 0.0))
        parts = np.where(tops, rests, np.where(scales > 0, (1 + rests) * scales, 0.0))
    rest = parts.sum(axis=1) + (tops.sum(axis=1) - 1)
    if kind == maps.LOGSUMEXP:
        out[:, 0, 0] = greatest + np.log1p(rest)
        return
    factors = np.log1p(rest) if kind == maps.LOG_SOFTMAX else 1 / (1 + rest)
    work = _WORK * z.size
    peaks, factors = greatest.astype(z.dtype), factors.astype(z.dtype)
    arguments = (kind, z[:, :, 0], peaks, factors, out[:, :, 0])
    n_blocks = len(z) * n_segments
    with np.errstate(all="ignore"):  # see `_sweep`
        sweep(maps.finish, n_blocks, work, *arguments)


def _cross_entropy(
    probabilities: npt.ArrayLike,
    targets: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    axis: int,
    out: Array | None,
    want_gradient: bool,
) -> tuple[float, Array | None]:
    array, axis = _probabilities(probabilities, axis)
    driver = rows.cross_entropy
    return _loss(driver, array, targets, sample_weight, axis, out, want_gradient)


def _softmax_cross_entropy(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    axis: int,
    out: Array | None,
    want_gradient: bool,
) -> tuple[float, Array | None]:
    array, axis = _logits(logits, axis)
    _check_two_dimensional(array, "logits")
    driver = rows.softmax_loss
    return _loss(driver, array, targets, sample_weight, axis, out, want_gradient)


def _loss(
    driver: Any,
    array: Array,
    targets: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    axis: int,
    out: Array | None,
    want_gradient: bool,
) -> tuple[float, Array | None]:
    x = _rows(array, axis)
    n_samples, n_classes = x.shape
    if n_samples == 0:
        raise ValueError("The mean loss of 0 samples is undefined; pass at least one sample.")
    labels, soft = _targets(targets, array.shape, axis, x.dtype)
    weights = _weights(sample_weight, n_samples)
    result = None
    buffer = np.empty((0, n_classes), x.dtype)
    if want_gradient:
        result = _Result(out, array.shape, x.dtype, axis, (x, soft, labels, weights), alias=x)
        buffer = result.buffer
    losses = np.zeros(-(-n_samples // rows.rows_per_block(n_classes)))
    _run(driver, x.shape, n_classes, x, labels, soft, weights, buffer, losses)
    with np.errstate(over="ignore"):
        loss = float(np.sum(losses))
    return loss, None if result is None else result.deliver()


def _run(driver: Any, shape: tuple[int, ...], n_entries: int, *arguments: Any) -> None:
    """Sweep a kernel over all rows, `n_entries` entries of work each; raise what it reports."""
    n_rows = shape[0]
    if n_rows == 0:
        return
    block_size = rows.rows_per_block(n_entries)
    n_blocks = -(-n_rows // block_size)
    _sweep(driver, n_blocks, n_rows * n_entries, block_size, *arguments)


def _sweep(driver: Any, n_blocks: int, size: int, *arguments: Any) -> None:
    """Sweep a kernel over blocks of `size` entries in all; raise what it reports."""
    statuses = np.full(n_blocks, rows.UNFINISHED if driver is maps.map else rows.FINE)
    with np.errstate(all="ignore"):  # only under NUMBA_DISABLE_JIT: compiled code never warns
        sweep(driver, n_blocks, _WORK * size, *arguments, statuses)
    failed = statuses[statuses != rows.FINE]
    if (failed == rows.UNFINISHED).any():
        raise MemoryError("A thread found no memory for its scratch.")
    if failed.size:
        raise ValueError(_MESSAGES[int(failed[0])])


class _Result:
    """The place for a result: C-order rows for the kernel, then the array that the caller gets.

    Parameters
    ----------
    out : ndarray or None
        What the caller passed.
    shape, dtype
        Of the result.
    axis : int
        Its class axis.
    inputs : tuple of arrays
        What the kernel reads. Where `out` overlaps one of them the kernel writes elsewhere...
    alias : array, optional
        ...unless it is this one, row on row, which the kernel can overwrite.
    moved : bool, default=True
        Whether the kernel has the class axis last; otherwise where it is.

    Attributes
    ----------
    buffer : array, (n_rows, n_classes)
        C order, writable: the memory of `out` where possible.
    """

    def __init__(
        self,
        out: Array | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        axis: int,
        inputs: tuple[Array, ...],
        alias: Array | None = None,
        moved: bool = True,
    ) -> None:
        axis = axis % len(shape) if moved else len(shape) - 1
        n_classes = shape[axis]
        n_rows = math.prod(shape) // max(1, n_classes)
        if out is None:
            self._moved = np.empty((*shape[:axis], *shape[axis + 1 :], n_classes), dtype)
            self._array = np.moveaxis(self._moved, -1, axis)
        else:
            _check_out(out, shape, dtype)
            self._moved = np.moveaxis(out.view(np.ndarray), axis, -1)
            self._array = out
        direct = self._moved.flags.c_contiguous and self._moved.flags.aligned
        if direct:
            self.buffer = self._moved.reshape(n_rows, n_classes)
            direct = not any(
                np.may_share_memory(self.buffer, x)
                and not (x is alias and x.ctypes.data == self.buffer.ctypes.data)
                for x in inputs
            )
        if not direct:
            self.buffer = np.empty((n_rows, n_classes), dtype)
        self._direct = direct

    def deliver(self) -> Array:
        """Return the result: the caller's `out` itself, or a new array."""
        if not self._direct:
            self._moved[...] = self.buffer.reshape(self._moved.shape)
        return self._array


def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}.")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out must have shape {shape} and dtype {dtype}, got {out.shape} and {out.dtype}."
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only; pass a writable array.")


def _real_array(value: npt.ArrayLike, name: str) -> Array:
    """Return `value` as an aligned float32 or float64 array, without a copy where it is one."""
    if issparse(value):
        raise TypeError(f"{name} is a sparse matrix; pass {name}.toarray().")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; pass {name}.filled(...), -inf masks a logit.")
    array = np.asarray(value)
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}.")
    if kind not in "biuf":
        raise TypeError(
            f"{name} must hold real numbers, got dtype {array.dtype}; convert with "
            f"np.asarray({name}, dtype=float)."
        )
    is_single = array.dtype == np.float32 or (kind == "f" and array.dtype.itemsize == 2)
    with np.errstate(over="ignore"):  # a longdouble beyond float64 becomes inf, refused later
        return np.require(array, np.float32 if is_single else np.float64, ["A"])


def _class_axis(array: Array, axis: int) -> int:
    """Return `axis` as a non-negative number, if `array` has it, with at least one class."""
    axis = operator.index(axis)
    if not -array.ndim <= axis < array.ndim:
        raise np.exceptions.AxisError(axis, array.ndim)
    axis %= array.ndim
    if array.shape[axis] == 0:
        raise ValueError(f"No classes: axis {axis} of an array of shape {array.shape} is empty.")
    return axis


def _logits(logits: npt.ArrayLike, axis: int) -> tuple[Array, int]:
    array = _real_array(logits, "logits")
    return array, _class_axis(array, axis)


def _probabilities(probabilities: npt.ArrayLike, axis: int) -> tuple[Array, int]:
    array = _real_array(probabilities, "probabilities")
    _check_two_dimensional(array, "probabilities")
    return array, _class_axis(array, axis)


def _check_two_dimensional(array: Array, name: str) -> None:
    if array.ndim != 2:
        raise ValueError(f"Expected 2D array for {name}, got shape {array.shape}.")


def _rows(array: Array, axis: int) -> Array:
    """Return `array` as the kernels read it: ``(n_rows, n_classes)``, C order, read-only."""
    moved = np.moveaxis(array, axis, -1)
    return kernel_view(moved.reshape(-1, moved.shape[-1]))


def _targets(
    targets: npt.ArrayLike, shape: tuple[int, ...], axis: int, dtype: np.dtype[Any]
) -> tuple[Array, Array]:
    """Return ``(labels, soft)``, one of them empty."""
    n_samples, n_classes = shape[1 - axis], shape[axis]
    no_labels, no_soft = np.empty(0, np.int32), np.empty((0, n_classes), dtype)
    if np.ndim(targets) == 2:
        array = _real_array(targets, "targets")
        if array.shape != shape:
            raise ValueError(f"Soft targets must have shape {shape}, got {array.shape}.")
        with np.errstate(over="ignore"):  # infinite targets are refused by the kernel
            soft = _rows(array.astype(dtype, copy=False), axis)
        return kernel_view(no_labels), soft
    array = np.asarray(targets)
    if array.shape != (n_samples,):
        raise ValueError(
            f"Targets must be class indices of shape ({n_samples},) or soft targets of shape "
            f"{shape}, got shape {array.shape}."
        )
    if array.dtype.kind not in "biu":
        raise ValueError(
            f"Class indices must be integers, got dtype {array.dtype}; encode the classes as "
            "0 .. n_classes - 1, or pass soft targets as a matrix."
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        raise ValueError(f"Class index {wrong} is not in [0, {n_classes}).")
    return kernel_view(array.astype(np.int32)), kernel_view(no_soft)


def _weights(sample_weight: npt.ArrayLike | None, n_samples: int) -> Array:
    """Return float64 weights that sum to 1."""
    if sample_weight is None:
        return kernel_view(np.full(n_samples, 1.0 / n_samples))
    weights = _real_array(sample_weight, "sample_weight").astype(np.float64)
    if weights.shape != (n_samples,):
        raise ValueError(f"sample_weight.shape == {weights.shape}, expected ({n_samples},)!")
    largest = weights.max()
    if not (weights.min() >= 0 and largest < np.inf):
        raise ValueError("sample_weight must be non-negative and finite.")
    if largest == 0:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    weights /= largest  # first, because the sum of weights near 1e308 overflows
    weights /= weights.sum()
    return kernel_view(weights)
