"""The penalised softmax objective, for those who bring their own optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsoftmax._designs import Design, make_design
from fastsoftmax._persistence import loaded_exactly, stamped
from fastsoftmax._validation import check_design_matrix, check_targets

Params = TypeVar("Params", bound=NDArray[Any])

#: Logits that overflow are reported by the value; a warning besides would depend on the storage.
_quietly = np.errstate(over="ignore", invalid="ignore")


class SoftmaxObjective:
    r"""Mean cross-entropy of a linear softmax model plus an L2 penalty.

    With logits :math:`z_i = W x_i + b` and weights :math:`s_i`,

    .. math:: f(W, b) = \frac{\sum_i s_i \, \ell(z_i, y_i)}{\sum_i s_i}
              + \frac{l_2}{2} \lVert W \rVert^2,
              \qquad \ell(z, y) = \log \sum_k e^{z_k} - z_y .

    The intercept is not penalised. scikit-learn's ``LogisticRegression(C=C)`` minimises the same
    function with ``l2 = 1 / (C * sum(s))``.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Finite numbers. A C-order array of float64 or float32 is used in place, without a copy;
        anything else is converted once.
    y : array-like of shape (n_samples,) or (n_samples, n_classes)
        Class indices in ``[0, n_classes)``, or soft targets: a row of non-negative masses per
        sample. A row's sum multiplies the sample's weight.
    n_classes : int, default=None
        Number of classes; None takes what `y` shows.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights.
    l2 : float or array-like of shape (n_features,), default=0.0
        Strength of the penalty on the mean loss; one per feature if an array.
    fit_intercept : bool, default=True
        Whether the last column of the parameters is an intercept.
    n_rows : int, default=None
        Number of logit rows: `n_classes`, or 1 for two classes, where the single logit stands
        for the second class against the first. None is scikit-learn's choice: 1 for two
        classes, else `n_classes`.

    Attributes
    ----------
    shape : tuple of int
        Shape of the parameters, ``(n_rows, n_features + fit_intercept)``.
    n_samples, n_features, n_classes, n_rows : int
    dtype : numpy.dtype
        Dtype of X, in which products with X are computed; partial sums add up in float64.

    Raises
    ------
    ValueError
        If an argument is not as described.

    Notes
    -----
    Parameters are float64 or of X's dtype, of shape `shape` or its C-order ravel (SciPy passes
    only that). Gradients and products have the shape and dtype of what came in. All methods may
    be called from several threads at once, and results have the same bits for any number of
    threads.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import minimize
    >>> from sklearn.datasets import load_iris
    >>> from fastsoftmax import SoftmaxObjective
    >>> X, y = load_iris(return_X_y=True)
    >>> objective = SoftmaxObjective(X, y, l2=1 / len(y))
    >>> start = np.zeros(objective.shape).ravel()
    >>> found = minimize(objective.value_and_gradient, start, jac=True, tol=1e-8)
    >>> round(found.fun, 6)
    0.192575
    """

    def __init__(
        self,
        X: Any,
        y: ArrayLike,
        *,
        n_classes: int | None = None,
        sample_weight: ArrayLike | None = None,
        l2: float | ArrayLike = 0.0,
        fit_intercept: bool = True,
        n_rows: int | None = None,
    ) -> None:
        X = check_design_matrix(X)
        targets, weights = check_targets(y, X, n_classes, sample_weight)
        self._set(make_design(X, targets, weights), l2, fit_intercept, n_rows)

    @classmethod
    def from_design(
        cls,
        design: Design,
        *,
        l2: float | ArrayLike = 0.0,
        fit_intercept: bool = True,
        n_rows: int | None = None,
    ) -> SoftmaxObjective:
        """Return the objective over rows that a design holds already."""
        objective = cls.__new__(cls)
        objective._set(design, l2, fit_intercept, n_rows)
        return objective

    def _set(
        self, design: Design, l2: float | ArrayLike, fit_intercept: bool, n_rows: int | None
    ) -> None:
        self.n_classes = design.n_classes
        if n_rows is None:
            n_rows = 1 if design.n_classes == 2 else design.n_classes
        if n_rows != design.n_classes and (n_rows, design.n_classes) != (1, 2):
            raise ValueError(
                f"n_rows must be the number of classes, {design.n_classes}"
                f"{', or 1' if design.n_classes == 2 else ''}; got {n_rows!r}."
            )
        strengths = np.asarray(l2, dtype=np.float64)
        if strengths.ndim > 1 or (strengths.ndim == 1 and len(strengths) != design.n_features):
            raise ValueError(
                f"l2 must be a number or have shape ({design.n_features},), "
                f"got shape {strengths.shape}."
            )
        if not np.all(np.isfinite(strengths)) or np.any(strengths < 0):
            raise ValueError(f"l2 must be finite and not negative, got {l2!r}.")
        self.design = design
        self.n_samples = design.n_samples
        self.n_features = design.n_features
        self.n_rows = n_rows
        self.dtype = design.dtype
        self.fit_intercept = fit_intercept
        self.shape = (n_rows, design.n_features + int(fit_intercept))
        #: Penalty strength per feature, the intercept's being 0.
        self.l2 = np.zeros(design.n_features + 1)
        self.l2[:-1] = strengths

    @_quietly
    def value(self, params: NDArray[Any]) -> float:
        """Return the objective at `params`.

        Parameters
        ----------
        params : ndarray of shape `shape` or its ravel
            Coefficients, the last column being the intercept.

        Returns
        -------
        float
            In nats; ``inf`` if logits overflow, never NaN.
        """
        coef, intercept = self.unpack(params)
        loss = self.design.loss(coef, intercept) / self.design.weight_sum
        value = loss + self.penalty(coef)
        return value if np.isfinite(value) else np.inf

    @_quietly
    def value_and_gradient(self, params: Params) -> tuple[float, Params]:
        """Return the objective and its gradient from one pass over X.

        Parameters
        ----------
        params : ndarray of shape `shape` or its ravel

        Returns
        -------
        value : float
            As `value`.
        gradient : ndarray, shape and dtype of `params`
            ``[R^T X + l2 W, sum of R]`` with residuals ``R = w (P - Y)``; all ``inf`` if `value`
            is.
        """
        params = np.asarray(params)  # type: ignore[assignment]  # asarray forgets Params
        coef, intercept = self.unpack(params)
        loss, gradient = self.design.loss_and_gradient(coef, intercept)
        value = loss / self.design.weight_sum + self.penalty(coef)
        if not np.isfinite(value):
            value = np.inf
            gradient.fill(np.inf)
        else:
            gradient /= self.design.weight_sum
            gradient[:, :-1] += self.l2[:-1] * coef
        return value, self._pack(gradient, params)

    @_quietly
    def hessian_vector_product(self, params: NDArray[Any], direction: Params) -> Params:
        """Return the product of the Hessian at `params` with `direction`.

        ``U = X Vᵀ + v_b``, ``T = w P ∘ (U - rowsum(P ∘ U))``, ``Hv = [Tᵀ X + l2 V, sum of T]``.

        Parameters
        ----------
        params, direction : ndarray of shape `shape` or its ravel

        Returns
        -------
        ndarray, shape and dtype of `direction`

        Raises
        ------
        FloatingPointError
            If the product is not finite, since logits overflow.
        """
        return self._hessian_times(direction, *self.unpack(params))

    @_quietly
    def hessian_operator(self, params: NDArray[Any]) -> Callable[[Params], Params]:
        """Return ``direction -> hessian_vector_product(params, direction)``, for many directions.

        The probabilities at `params` are kept, which saves a third of the arithmetic of each
        product, where they take at most a twentieth of the memory of X.

        Parameters
        ----------
        params : ndarray of shape `shape` or its ravel

        Returns
        -------
        callable
        """
        coef, intercept = self.unpack(params)
        probabilities = None
        if 20 * self.n_samples * self.n_classes <= self.design.n_entries:
            with contextlib.suppress(ValueError):  # logits overflow: then the product says so
                probabilities = self.design.probabilities(coef, intercept)
        quiet = _quietly(self._hessian_times)
        return lambda direction: quiet(direction, coef, intercept, probabilities)

    def _hessian_times(
        self,
        direction: Params,
        coef: NDArray[np.float64],
        intercept: NDArray[np.float64],
        probabilities: NDArray[Any] | None = None,
    ) -> Params:
        direction = np.asarray(direction)  # type: ignore[assignment]  # asarray forgets Params
        V, v_b = self.unpack(direction)
        product = self.design.hessian_vector_product(coef, intercept, V, v_b, probabilities)
        product /= self.design.weight_sum
        product[:, :-1] += self.l2[:-1] * V
        if not np.all(np.isfinite(product)):
            raise FloatingPointError(
                "The Hessian-vector product is not finite: logits overflow. Scale X, or the "
                "parameters and the direction."
            )
        return self._pack(product, direction)

    def penalty(self, coef: NDArray[np.float64]) -> float:
        """Return the penalty of coefficients (n_rows, n_features)."""
        return 0.5 * float(np.einsum("j,kj,kj->", self.l2[:-1], coef, coef))

    def unpack(self, params: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return coefficients and intercepts.

        Parameters
        ----------
        params : ndarray of shape `shape` or its ravel

        Returns
        -------
        coef : ndarray of shape (n_rows, n_features), float64
            A view of float64 parameters, as is `intercept`.
        intercept : ndarray of shape (n_rows,), float64
            Zeros without `fit_intercept`.

        Raises
        ------
        ValueError
            If `params` has another shape.
        """
        packed = np.asarray(params, dtype=np.float64)
        if packed.shape not in (self.shape, (self.shape[0] * self.shape[1],)):
            raise ValueError(
                f"Parameters must have shape {self.shape}, (n_rows, n_features"
                f"{' + 1' if self.fit_intercept else ''}), or its ravel; got {packed.shape}."
            )
        packed = packed.reshape(self.shape)
        if self.fit_intercept:
            return packed[:, :-1], packed[:, -1]
        return packed, np.zeros(self.n_rows)

    def __getstate__(self) -> dict[str, Any]:
        return stamped(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(loaded_exactly(type(self).__name__, state))

    def _pack(self, gradient: NDArray[np.float64], like: Params) -> Params:
        """Return a gradient in the shape and dtype of `like`."""
        if not self.fit_intercept:
            gradient = gradient[:, :-1]
        dtype = like.dtype if like.dtype in (np.float64, self.dtype) else np.float64
        return gradient.astype(dtype).reshape(like.shape)  # type: ignore[return-value]  # as asarray
