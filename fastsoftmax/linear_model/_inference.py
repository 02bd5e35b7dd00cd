"""Standard errors and Wald tests of a fitted model, from the inverse Hessian of its objective."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.linalg.lapack import dpocon
from scipy.special import ndtr, ndtri
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from fastsoftmax._solvers import Status
from fastsoftmax._threads import resolve_n_jobs, thread_limit
from fastsoftmax.linear_model._problem import make_problem
from fastsoftmax.objective import SoftmaxObjective

if TYPE_CHECKING:
    import pandas as pd

    from fastsoftmax.linear_model._logistic import LogisticRegression

Float64Array = NDArray[np.float64]

#: The information matrix may have so many rows, 3.2 GB; its factor takes as much again.
_MOST_PARAMS = 20_000
#: Reciprocal condition number, diagonal scaled to 1, below which it counts as singular: the
#: rounding of its sums, some 1e-15, then leaves 3 digits of a standard error.
_LEAST_CONDITION = 1e-12
#: What is added to the diagonal of a singular matrix to find who depends on whom, the variance
#: inflation from which somebody does, and the share of the largest that names a column.
_NUDGE, _INFLATED, _NAMED = 1e-9, 1e6, 1e-4
#: Distance to the optimum of the given data, in standard errors, that nobody need know of.
_NEAR = 0.1
#: Logits that a Newton step of a fit without penalty may move, and steps until it must do so.
_SMALL_STEP, _MOST_STEPS = 0.1, 8
#: Logits that one of a penalised fit may move: curvatures change by a factor exp(0.5).
_LARGE_STEP = 0.5
#: How many times the gradient of the fit that of the given data may be.
_GRADIENT_SLACK = 10.0
#: Columns that an error names at most.
_MOST_NAMES = 6


@dataclass(frozen=True, eq=False)
class StandardErrors:
    """Standard errors of coefficients and intercepts.

    Attributes
    ----------
    coef : ndarray of shape (n_rows, n_features)
    intercept : ndarray of shape (n_rows,)
        Zeros without `fit_intercept`.
    classes : ndarray of shape (n_rows,)
        The class that each row is about.
    baseline : label or None
        The class whose coefficients were subtracted from theirs. With None they are those of
        `coef_` and `intercept_`, whose sums over the classes are zero.
    """

    coef: Float64Array
    intercept: Float64Array
    classes: NDArray[Any]
    baseline: Any


@dataclass(frozen=True, eq=False, repr=False)
class Summary:
    """A table of coefficients with Wald tests; `str` prints it, `to_frame` is for pandas.

    Attributes
    ----------
    names : ndarray of shape (n_terms,), object
        The features, then ``"intercept"`` if there is one.
    classes : ndarray of shape (n_rows,)
        The class that each row is about.
    baseline : label or None
        The class whose coefficients were subtracted; None stands for sums of zero over the classes.
    coef, std_error : ndarray of shape (n_rows, n_terms)
    z, p_value : ndarray of shape (n_rows, n_terms)
        ``coef / std_error``, and the probability that a standard normal number is farther from 0.
    lower, upper : ndarray of shape (n_rows, n_terms)
        ``coef -/+ q std_error``, q being the normal quantile of ``(1 + confidence) / 2``.
    confidence : float
    is_penalised : bool
        Whether the fit had a penalty: then the errors are those around a shrunken estimate.
    """

    names: NDArray[Any]
    classes: NDArray[Any]
    baseline: Any
    coef: Float64Array
    std_error: Float64Array
    z: Float64Array
    p_value: Float64Array
    lower: Float64Array
    upper: Float64Array
    confidence: float
    is_penalised: bool

    def __str__(self) -> str:
        against = "sums over the classes are 0"
        if self.baseline is not None:
            against = f"against class {self.baseline}"
        kind = "penalised fit" if self.is_penalised else "maximum likelihood"
        tail = (1.0 - self.confidence) / 2.0
        heads = ("class", "name", "coef", "std error", "z", "P>|z|")
        rows: list[tuple[str, ...]] = [(*heads, f"{tail:.4g}", f"{1.0 - tail:.4g}")]
        columns = (self.coef, self.std_error, self.z, self.p_value, self.lower, self.upper)
        formats = (".6g", ".4g", ".3f", ".3g", ".6g", ".6g")
        for k, label in enumerate(self.classes):
            for j, name in enumerate(self.names):
                cells = (format(a[k, j], f) for a, f in zip(columns, formats, strict=True))
                rows.append((str(label), str(name), *cells))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"Coefficients of logits, {against}; {kind}"]
        for row in rows:
            cells = (
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a pandas DataFrame, one row per class and name.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "Summary.to_frame needs pandas: install it with `pip install pandas`, or use the "
                "arrays, such as summary.std_error."
            ) from error
        columns = ("coef", "std_error", "z", "p_value", "lower", "upper")
        index = pd.MultiIndex.from_product([self.classes, self.names], names=["class", "name"])
        return pd.DataFrame({name: getattr(self, name).ravel() for name in columns}, index=index)


def standard_errors(
    estimator: LogisticRegression,
    X: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    baseline: Any,
    offset: ArrayLike | None,
) -> StandardErrors:
    """Return the standard errors of a fitted estimator; see its method."""
    found = _estimates(estimator, X, y, sample_weight, baseline, offset)
    d = estimator.n_features_in_
    intercept = found.error[:, d] if estimator.fit_intercept else np.zeros(len(found.error))
    return StandardErrors(
        found.error[:, :d].copy(), intercept.copy(), found.classes, found.baseline
    )


def summary(
    estimator: LogisticRegression,
    X: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    confidence: float,
    baseline: Any,
    offset: ArrayLike | None,
) -> Summary:
    """Return the table of coefficients of a fitted estimator; see its method."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95; got {confidence!r}.")
    found = _estimates(estimator, X, y, sample_weight, baseline, offset)
    names = _feature_names(estimator)
    if estimator.fit_intercept:
        names.append("intercept")
    z = found.value / found.error
    half_width = ndtri(0.5 + 0.5 * confidence) * found.error
    return Summary(
        names=np.array(names, dtype=object),
        classes=found.classes,
        baseline=found.baseline,
        coef=found.value,
        std_error=found.error,
        z=z,
        p_value=2.0 * ndtr(-np.abs(z)),
        lower=found.value - half_width,
        upper=found.value + half_width,
        confidence=float(confidence),
        is_penalised=found.is_penalised,
    )


class _Estimates(NamedTuple):
    """Values and standard errors, (n_rows, D) with the intercept last, and what they are of."""

    value: Float64Array
    error: Float64Array
    classes: NDArray[Any]
    baseline: Any
    is_penalised: bool


def _estimates(
    estimator: LogisticRegression,
    X: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    baseline: Any,
    offset: ArrayLike | None,
) -> _Estimates:
    check_is_fitted(estimator)
    if not hasattr(estimator, "status_"):
        raise ValueError(
            "With refit=False coef_ is the mean of the models of the folds, which is no optimum "
            "that has standard errors. Fit with refit=True."
        )
    if l1_ratio := estimator._settings().l1_ratio:
        raise ValueError(
            f"There are no standard errors with l1_ratio={l1_ratio!r}: coefficients that "
            "an L1 penalty sets to 0 are not normally distributed. Fit with l1_ratio=0, or "
            "bootstrap the fit."
        )
    # In float64 whatever the fit was in: 1 - p cancels where the model is certain.
    problem = make_problem(estimator, X, y, sample_weight, offset, reset=False, dtype=np.float64)
    objective, classes = problem.objective, problem.classes
    if not problem.penalty.is_smooth:
        raise ValueError(
            "There are no standard errors with bounds, or positive=True: coefficients at a bound "
            "are not normally distributed. Fit without bounds, or bootstrap the fit."
        )
    if not np.array_equal(classes, estimator.classes_):
        raise ValueError(
            f"y holds the classes {_listed(classes)}, but the model was fitted to "
            f"{_listed(estimator.classes_)}. Standard errors need the data of the fit."
        )
    is_penalised = bool(objective.l2.any())
    if baseline is None and (objective.n_rows == 1 or not is_penalised):
        baseline = classes[0]
    base = _position(baseline, classes)
    names = _feature_names(estimator)
    params = _packed(estimator, objective)
    with thread_limit(resolve_n_jobs(estimator.n_jobs)):
        _refuse_absent_classes(objective, classes)
        if estimator.status_.startswith(Status.SEPARABLE.value):
            raise ValueError(_SEPARABLE)
        information = _Information(objective, params, [*names, "the intercept"])
        _check_optimum(estimator, objective, params, information)
        rows, value = _rows(objective.n_rows), params
        if objective.n_rows == 1:
            value = np.vstack([np.zeros_like(params), params])
        if base is not None:
            others = np.arange(len(classes)) != base
            rows, value = rows[others] - rows[base], value[others] - value[base]
            classes = classes[others]
        error = information.standard_errors(rows)
    return _Estimates(value, error, classes.copy(), baseline, is_penalised)


class _Information:
    r"""The Hessian of the penalised sum of losses at given parameters, factored.

    Its coordinates are free ones: those of the single row of two classes; for K rows the contrasts
    :math:`\theta_k = W_k - W_K`, of which :math:`W = M \theta` with rows that sum to zero,
    :math:`M_{ka} = 1[k = a] - 1/K`. There the penalty's Hessian is :math:`M^T M = 1[a = b] - 1/K`
    times its strengths, and the loss sum's is what `Design.hessian` returns. The covariance
    :math:`M H^{-1} M^T` is the pseudo-inverse of the Hessian in W on rows that sum to zero.

    Columns are centred: with ``W x + b = W (x - c) + b'``, b is ``b' - W c``.

    Parameters
    ----------
    objective : SoftmaxObjective
    params : ndarray of shape ``objective.shape``
    names : list of str, default=None
        Of the columns and the intercept, for errors; without them errors do not look for reasons.

    Raises
    ------
    ValueError
        If it is singular in float64, not finite, or too large.
    """

    def __init__(
        self, objective: SoftmaxObjective, params: Float64Array, names: list[str] | None = None
    ) -> None:
        design, (n_rows, D) = objective.design, objective.shape
        d, n_free = design.n_features, max(1, n_rows - 1)
        if n_free * D > _MOST_PARAMS:
            raise ValueError(
                f"Standard errors of {n_free * D} coefficients need a matrix of as many rows and "
                f"columns, {8e-9 * (n_free * D) ** 2:.1f} GB. Select features: at most "
                f"{_MOST_PARAMS} coefficients are allowed."
            )
        self._objective = objective
        self._centre = design.typical_row() if objective.fit_intercept else np.zeros(d)
        #: What turns the mean objective into the sum that the information is about.
        self.weight = design.weight_scale * design.weight_sum
        with np.errstate(over="ignore", invalid="ignore"):
            full = design.hessian(*objective.unpack(params), self._centre)
            blocks = full.reshape(n_free, d + 1, n_free, d + 1)[:, :D, :, :D]
            matrix = design.weight_scale * blocks  # a copy
        penalty = self.weight * objective.l2[:D]
        j = np.arange(D)
        for a in range(n_free):
            for b in range(n_free):
                share = 1.0 if n_rows == 1 else float(a == b) - 1.0 / n_rows
                matrix[a, j, b, j] += share * penalty
        self.matrix = matrix.reshape(n_free * D, n_free * D)
        self._scale = np.sqrt(np.diag(self.matrix))
        self._factor = self._factored(names)

    def _factored(self, names: list[str] | None) -> Float64Array:
        """Return the lower Cholesky factor of the matrix whose diagonal is scaled to 1."""
        if not np.all(np.isfinite(self.matrix)):
            raise ValueError(_OVERFLOW)
        if np.all(self._scale > 0.0):
            scaled = _scaled(self.matrix)
            norm = np.abs(scaled).sum(axis=0).max()
            try:
                factor = cholesky(scaled, lower=True, overwrite_a=True, check_finite=False)
            except LinAlgError:
                pass
            else:
                if dpocon(factor, norm, uplo="L")[0] >= _LEAST_CONDITION:
                    return factor
        raise ValueError(self._why_singular(names) if names else "The matrix is singular.")

    def _why_singular(self, names: list[str]) -> str:
        """Return what the user can do about it, with names: it is X, or the probabilities are."""
        objective = self._objective
        D = objective.shape[1]
        zero = np.zeros((objective.n_rows, objective.n_features)), np.zeros(objective.n_rows)
        gram = objective.design.class_grams(*zero, objective.n_samples, True, self._centre)[0]
        gram = gram[:D, :D]
        constant = np.flatnonzero(np.diag(gram) == 0.0)
        remedy = "Drop columns, or lower C: a penalty tells coefficients apart."
        if constant.size:
            what = "do not vary" if objective.fit_intercept else "are zero"
            which = _listed(names[j] for j in constant)
            return (
                f"There are no standard errors: these columns of X {what} in the samples that "
                f"count, so that the data do not tell their coefficients: {which}. {remedy}"
            )
        dependent = np.flatnonzero(_inflated(gram))
        if dependent.size:
            which = _listed(names[j] for j in dependent)
            return (
                "There are no standard errors: these columns of X are, nearly or exactly, linear "
                f"combinations of one another: {which}. {remedy}"
            )
        silent = self._scale == 0.0
        if not silent.any():
            silent = _inflated(self.matrix)
        which = _listed(names[j] for j in np.unique(np.flatnonzero(silent) % D))
        return (
            "There are no standard errors: the fitted probabilities are so near to 0 and 1 that "
            f"the data tell nothing about some coefficients of {which or 'X'}. The classes are "
            "nearly separable: lower C, since a penalty makes the optimum finite."
        )

    def newton_step(self, gradient: Float64Array) -> tuple[Float64Array, float]:
        """Return the step to the optimum, (n_rows, D), and its length in standard errors.

        Parameters
        ----------
        gradient : ndarray of shape ``objective.shape``
            Of the mean objective.
        """
        g = self.weight * gradient
        if len(g) > 1:
            g = g[:-1] - g.mean(axis=0)
        if self._objective.fit_intercept:
            g[:, :-1] -= g[:, -1:] * self._centre
        half = solve_triangular(self._factor, g.ravel() / self._scale, lower=True)
        free = -solve_triangular(self._factor, half, lower=True, trans="T") / self._scale
        step = _rows(len(gradient))[-len(gradient) :] @ free.reshape(g.shape)
        if self._objective.fit_intercept:
            step[:, -1] -= step[:, :-1] @ self._centre
        return step, float(np.linalg.norm(half))

    def gradient_noise(self, params: Float64Array, eps: float) -> float:
        """Return by how much rounding the coefficients to `eps` can change the mean gradient."""
        free = np.abs(params[:-1] if len(params) > 1 else params)
        centre = np.abs(self._centre)
        if self._objective.fit_intercept:
            free = np.column_stack([free[:, :-1], free[:, -1] + free[:, :-1] @ centre])
        noise = (np.abs(self.matrix) @ free.ravel()).reshape(free.shape)
        if self._objective.fit_intercept:
            noise[:, :-1] += noise[:, -1:] * centre
        return eps / self.weight * float(noise.max())

    def standard_errors(self, rows: Float64Array) -> Float64Array:
        """Return the standard errors of ``rows @ free coordinates``, (len(rows), D).

        With L Lᵀ = H, that of a linear form t is ``sqrt(tᵀ H⁻¹ t) = norm(L⁻¹ t)``. In a sum of
        squares nothing cancels where a far centre moves the intercept.
        """
        D = self._objective.shape[1]
        forms = np.eye(D)  # columns: what each term is of the centred ones
        if self._objective.fit_intercept:
            forms[:-1, -1] = -self._centre
        errors = np.empty((len(rows), D))
        for k, row in enumerate(rows):
            right = np.kron(row[:, None], forms) / self._scale[:, None]
            half = solve_triangular(self._factor, right, lower=True, overwrite_b=True)
            errors[k] = np.sqrt(np.einsum("ij,ij->j", half, half))
        if not (np.all(np.isfinite(errors)) and np.all(errors > 0.0)):
            raise ValueError(_OVERFLOW)
        return errors


def _rows(n_rows: int) -> Float64Array:
    """Return each class's row as a combination of the free coordinates, (n_classes, n_free)."""
    if n_rows == 1:
        return np.array([[0.0], [1.0]])
    return np.eye(n_rows, n_rows - 1) - 1.0 / n_rows


def _scaled(matrix: Float64Array) -> Float64Array:
    scale = np.sqrt(np.diag(matrix))
    return matrix / scale / scale[:, None]


def _inflated(matrix: Float64Array) -> NDArray[np.bool_]:
    """Return which coordinates of a matrix of positive diagonal depend on one another.

    The diagonal of its inverse, scaled, are variance inflation factors ``1 / (1 - R²)``.
    """
    nudged = _scaled(matrix)
    nudged[np.diag_indices_from(nudged)] += _NUDGE
    inflation = np.diag(np.linalg.inv(nudged))
    return inflation >= max(_INFLATED, _NAMED * inflation.max())


_OVERFLOW = (
    "There are no standard errors: X holds values so large, or so small, that sums of them "
    "overflow or vanish. Scale X, for example with sklearn.preprocessing.StandardScaler."
)
_SEPARABLE = (
    "There are no standard errors: the classes are separable, or nearly so, and without a penalty "
    "no finite optimum exists. Lower C: a penalty makes one; or drop the columns that separate. "
    "(If you know that they are not, fit with a smaller tol.)"
)


def _check_optimum(
    estimator: LogisticRegression,
    objective: SoftmaxObjective,
    params: Float64Array,
    information: _Information,
) -> None:
    """Refuse data whose optimum is elsewhere, or nowhere; warn if the fit was not precise."""
    gradient = objective.value_and_gradient(params)[1]
    norm = float(np.abs(gradient).max())
    step, distance = information.newton_step(gradient)
    noise = information.gradient_noise(params, float(np.finfo(estimator.coef_.dtype).eps))
    allowed = _GRADIENT_SLACK * max(estimator.gradient_norm_, estimator.tol, noise)
    if not (distance <= _NEAR or norm <= allowed):
        raise ValueError(
            f"The model was not fitted to these data with these parameters: the gradient's largest "
            f"component is {norm:.2e} here, and was {estimator.gradient_norm_:.2e} at the end of "
            "the fit. Pass the X, y and sample_weight of the fit, or fit again."
        )
    is_penalised = bool(objective.l2[:-1].all())
    if not is_penalised and _are_separated(objective, params):
        raise ValueError(_SEPARABLE)
    if not estimator.converged_:
        text = (
            "The fit did not converge, so its standard errors are not to be trusted: "
            f"{estimator.status_}"
        )
        warnings.warn(text, ConvergenceWarning, stacklevel=5)
        return
    if not (is_penalised or _has_optimum_near(objective, params, step)):
        raise ValueError(_SEPARABLE)
    away = ""
    if distance > _NEAR:
        away = (
            f"The coefficients are {distance:.2g} standard errors from the optimum of these data."
        )
    elif is_penalised and (moved := _logits_moved(objective, params, step)) > _LARGE_STEP:
        away = f"At the optimum of these data some logits are larger by {moved:.2g} at least."
    if away:
        remedy = (
            f"Fit again with a smaller tol than {estimator.tol:g}, or pass the data of the fit."
        )
        warnings.warn(f"{away} {remedy}", ConvergenceWarning, stacklevel=5)


def _are_separated(objective: SoftmaxObjective, params: Float64Array) -> bool:
    """Tell whether all samples are classified right."""
    margins = objective.design.margins(objective.unpack(params))
    return margins is not None and margins.low > 0.0


def _logits_moved(objective: SoftmaxObjective, params: Float64Array, step: Float64Array) -> float:
    """Return by how much a step raises some uncertain sample's margin; 0 for soft targets."""
    at = objective.unpack(params)
    margins = objective.design.margins(objective.unpack(step), at)
    return 0.0 if margins is None else margins.uncertain_high


def _has_optimum_near(
    objective: SoftmaxObjective, params: Float64Array, step: Float64Array
) -> bool:
    """Tell whether Newton's method goes on to an optimum from where a fit has ended.

    Then its steps shrink quadratically. Where some samples are separated, so that the loss falls
    like exp(-t) along a direction, every step adds about 1 to their logits, whatever tolerance
    ended the fit: this also finds what was too small for the fit's own test of its steps. Once all
    samples are classified right, steps can be lost in rounding, but then margins tell.
    """
    for _ in range(_MOST_STEPS):
        if _are_separated(objective, params):
            return False
        if _logits_moved(objective, params, step) <= _SMALL_STEP:
            return True
        params = params + step
        try:
            information = _Information(objective, params)
        except ValueError:  # singular, or logits overflow
            return False
        step, _ = information.newton_step(objective.value_and_gradient(params)[1])
    return False


def _refuse_absent_classes(objective: SoftmaxObjective, classes: NDArray[Any]) -> None:
    absent = classes[objective.design.class_weights() == 0.0]
    if len(absent) and (objective.fit_intercept or not objective.l2[:-1].all()):
        raise ValueError(
            f"There are no standard errors: no sample of positive weight is of {_listed(absent)}, "
            "so that its coefficients have no finite optimum. Remove these rows and fit again."
        )


def _packed(estimator: LogisticRegression, objective: SoftmaxObjective) -> Float64Array:
    """Return the fitted coefficients, the intercept last, in float64."""
    coef, intercept = estimator._coefficients()
    packed = np.empty(objective.shape)
    packed[:, : objective.n_features] = coef
    if objective.fit_intercept:
        packed[:, -1] = intercept
    return packed


def _position(baseline: Any, classes: NDArray[Any]) -> int | None:
    if baseline is None:
        return None
    found = [k for k, label in enumerate(classes) if label == baseline]
    if not found:
        raise ValueError(f"baseline={baseline!r} is none of the classes {_listed(classes)}.")
    return found[0]


def _feature_names(estimator: LogisticRegression) -> list[str]:
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return [f"x{j}" for j in range(estimator.n_features_in_)]
    return [str(name) for name in names]


def _listed(names: Iterable[Any]) -> str:
    words = [str(name) for name in names]
    more = len(words) - _MOST_NAMES
    return ", ".join(words[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
