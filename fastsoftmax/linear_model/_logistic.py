"""The estimator: scikit-learn's interface over the objective and the solvers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model._base import SparseCoefMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from fastsoftmax._designs import Design, Response, make_design, predict
from fastsoftmax._solvers import IterationState, SolverResult
from fastsoftmax._threads import resolve_n_jobs, thread_limit
from fastsoftmax._validation import (
    FLOATS,
    Targets,
    Weights,
    apply_class_weight,
    check_sparse_indices,
    check_weights,
    encode_labels,
    passes_if_finite,
    refuse_missing_labels,
)
from fastsoftmax.linear_model._solve import intercept_only, solve
from fastsoftmax.objective import SoftmaxObjective


class LogisticRegression(ClassifierMixin, SparseCoefMixin, BaseEstimator):
    r"""Multinomial (softmax) logistic regression.

    Minimises, over coefficients W and intercepts b,

    .. math:: C \sum_i s_i \, \ell(W x_i + b, y_i) + \frac{1}{2} \lVert W \rVert^2,
              \qquad \ell(z, y) = \log \sum_k e^{z_k} - z_y ,

    the objective of scikit-learn's class of the same name, whose parameters, attributes and
    defaults it shares. Two classes have one logit, more classes one logit each. Features need no
    scaling: the solver preconditions itself.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty, in (0, inf]; ``np.inf`` fits without penalty.
    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalty. Only 0 is implemented.
    tol : float, default=1e-4
        The solver stops when the largest absolute component of the gradient of the *mean*
        objective f (the above, divided by ``C * sum(s)``) is at most `tol`, and its own estimate
        of ``f - min f``, half the squared Newton decrement in its metric (ten times that in the
        metric of an approximate Hessian), at most ``0.01 * tol * f``. It also stops, without a
        warning, where the dtype of X allows no further progress, and, with ``C=inf``, where the
        gradient is at most `tol` and the classes turn out to be separable: then there is no finite
        optimum. It never stops only because the objective falls slowly.
    fit_intercept : bool, default=True
        Whether to fit b, which is not penalised.
    class_weight : dict or 'balanced', default=None
        Weights of the classes, multiplied with `sample_weight`; ``'balanced'`` makes the
        weights of all classes sum up to the same.
    random_state : int, RandomState instance or None, default=None
        Ignored: the fit is deterministic. Present for compatibility.
    solver : {'auto', 'lbfgs', 'newton-cholesky', 'newton-cg'}, default='auto'
        All reach the same optimum. ``'lbfgs'``: L-BFGS on top of a lagged estimate of the
        curvature: the full Hessian where it is cheap, else Gram matrices weighted by the classes'
        probabilities, else a diagonal. ``'newton-cholesky'``: Newton's method with the full
        Hessian, for few features times classes. ``'newton-cg'``: truncated Newton without a
        Hessian, for ill-conditioned problems too large for one, preconditioned like
        ``'lbfgs'``. ``'auto'`` takes ``'lbfgs'``, too, inside compiled code where the data are
        small, and in the space of the rows of X where these are few and long; `solver_` says so.
    max_iter : int, default=1000
        Most iterations of the solver; 0 returns the starting point.
    verbose : int, default=0
        If positive, prints a line per iteration.
    warm_start : bool, default=False
        Whether `fit` starts from the attributes of the previous fit.
    n_jobs : int, default=None
        Threads that this estimator uses, in `fit` and in the prediction methods. None and -1
        stand for all that the process may use (affinity, cgroup quota, ``NUMBA_NUM_THREADS``,
        ``OMP_NUM_THREADS``), -2 for all but one. The result has the same bits for any number.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted class labels.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, float32 if X was; one row for two classes. For more classes they have mean
        zero over the classes.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts; zero without `fit_intercept`.
    n_iter_ : ndarray of shape (1,), int32
        Iterations that the solver took.
    solver_ : str
        The solver that ran, and its estimate of the curvature.
    objective_ : float
        Mean loss plus penalty at the fitted coefficients, in nats per unit of weight: the above,
        divided by ``C * sum(s)``.
    gradient_norm_ : float
        Largest absolute component of its gradient there.
    converged_ : bool
        Whether `tol`, or the precision of the dtype, was reached; else a `ConvergenceWarning`
        said what to do.
    status_ : str
        Why the solver stopped, a sentence with the numbers.
    n_passes_ : int
        Passes over X that the solver made: evaluations and Hessian-vector products.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X was a frame whose column names are strings.

    Notes
    -----
    X in C order and float64 or float32 is used in place. A Fortran-ordered array or a frame
    (pandas stores frames by column) costs one copy. float32 stays float32. A fit that raises,
    or is interrupted, leaves the estimator as it was.

    References
    ----------
    Böhning (1992), Multinomial logistic regression algorithm, Ann. Inst. Stat. Math. 44.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastsoftmax import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = LogisticRegression().fit(X, y)
    >>> classifier.predict(X[:2])
    array([0, 0])
    >>> classifier.predict_proba(X[:2]).round(3)
    array([[0.982, 0.018, 0.   ],
           [0.972, 0.028, 0.   ]])
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 (scikit-learn's protocol)
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "random_state": ["random_state"],
        "solver": [StrOptions({"auto", "lbfgs", "newton-cholesky", "newton-cg"})],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        class_weight: dict[Any, float] | str | None = None,
        random_state: Any = None,
        solver: str = "auto",
        max_iter: int = 1000,
        verbose: int = 0,
        warm_start: bool = False,
        n_jobs: int | None = None,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,)
            Class labels: numbers, strings or booleans.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A weight of 2 is the same as the row twice, 0 as no row; a
            class all of whose rows have weight 0 stays in `classes_`.

        Returns
        -------
        self : LogisticRegression

        Raises
        ------
        ValueError
            If an argument is not as described, or X is so large that the objective overflows.
        """
        with unchanged_on_failure(self):
            self._fit(X, y, sample_weight)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> None:
        n_threads = resolve_n_jobs(self.n_jobs)
        X, y, classes, labels = self._check_rows(X, y)
        sample_weight = apply_class_weight(self.class_weight, classes, labels, y, sample_weight, X)
        weights = check_weights(sample_weight, X)
        targets = Targets(labels, np.empty((0, 0), X.dtype), len(classes))
        objective = penalised(
            make_design(X, targets, weights), weights, self.C, self.l1_ratio, self.fit_intercept
        )
        with thread_limit(n_threads), explained_overflow(X.dtype):
            result, solver = solve(
                objective,
                self._start(objective),
                solver=self.solver,
                tol=self.tol,
                max_iter=self.max_iter,
                on_iteration=print_progress if self.verbose > 0 else None,
            )
        if self.verbose > 0:
            print(f"fastsoftmax: {solver}. {result.message}")  # noqa: T201 (verbose asks for it)
        if not result.converged:
            warnings.warn(result.message, ConvergenceWarning, stacklevel=4)
        self.classes_ = classes
        self._store(objective, result, solver)

    def _check_rows(
        self, X: Any, y: Any
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[np.int32]]:
        """Return valid X and y, the classes, and each row's index into them."""
        check_sparse_indices(X)
        refuse_missing_labels(y)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, order="C")
        return X, y, *encode_labels(y)

    def _store(self, objective: SoftmaxObjective, result: SolverResult, solver: str) -> None:
        """Set what a fit found."""
        self.coef_, self.intercept_ = coefficients(objective, result.params)
        self.n_iter_ = np.array([result.n_iterations], dtype=np.int32)
        self.solver_ = solver
        self.objective_ = result.objective
        self.gradient_norm_ = result.gradient_norm
        self.converged_ = result.converged
        self.status_ = result.message
        self.n_passes_ = result.n_passes

    def _start(self, objective: SoftmaxObjective) -> NDArray[np.float64]:
        """Return the parameters to start from: `intercept_only`, or the last fit's."""
        coef = getattr(self, "coef_", None)
        if not self.warm_start or coef is None:
            return intercept_only(objective)
        coef = coef.toarray() if sparse.issparse(coef) else coef
        if coef.shape != (objective.n_rows, objective.n_features):
            raise ValueError(
                f"warm_start=True needs data of the shape of the previous fit: coef_ has shape "
                f"{coef.shape}, the data ask for {(objective.n_rows, objective.n_features)}. "
                "Use a new estimator, or warm_start=False."
            )
        if len(coef) > 1:
            # Steps sum to zero over the classes, so what the start does not, nothing takes away.
            coef = coef - coef.mean(axis=0)
        start = np.zeros(objective.shape)
        start[:, : objective.n_features] = coef
        if self.fit_intercept:
            start[:, -1] = self.intercept_
        return start

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return the logits of samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes one logit, positive where ``classes_[1]`` is predicted.
        """
        logits = self._respond(X, Response.LOGITS)
        return logits.ravel() if logits.shape[1] == 1 else logits

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of samples; the first of several equals.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        labels = self._respond(X, Response.LABELS)
        return np.asarray(self.classes_).take(labels)  # two thirds of the time of indexing

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return the probabilities of all classes, in the order of `classes_`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Rows sum to 1.
        """
        return self._respond(X, Response.PROBABILITIES)

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Return the logarithms of the probabilities, computed without their underflow.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._respond(X, Response.LOG_PROBABILITIES)

    def _respond(self, X: Any, response: Response) -> NDArray[Any]:
        """Return a response; validate X unless nothing but infinite numbers can be wrong with it.

        If these are, or anything else is, the ordinary way fails too, and has the words for it.
        """
        if passes_if_finite(X, self):
            with contextlib.suppress(ValueError):
                return self._evaluate(X, response)
        check_is_fitted(self)
        check_sparse_indices(X)
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, order="C", reset=False)
        return self._evaluate(X, response)

    def _evaluate(self, X: Any, response: Response) -> NDArray[Any]:
        """Return a response at the rows of a valid X, which may hold infinite numbers or NaN.

        Raises
        ------
        ValueError
            If a logit is not finite, or the fitted attributes have been set to what does not fit.
        """
        coef: Any = self.coef_  # CSR after `sparsify`
        coef = coef.toarray() if sparse.issparse(coef) else np.asarray(coef)
        intercept = np.atleast_1d(self.intercept_)
        if coef.shape[1:] != X.shape[1:]:
            raise ValueError(f"coef_ has shape {coef.shape}, but X has {X.shape[1]} features.")
        if intercept.shape != coef.shape[:1]:
            intercept = np.broadcast_to(intercept, coef.shape[:1])
        if coef.dtype == np.float64 and X.dtype == np.float32:
            X = X.astype(np.float64)  # as scikit-learn: the wider dtype of the two
        with thread_limit(resolve_n_jobs(self.n_jobs)):
            return predict(X, coef, intercept, response)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def penalised(
    design: Design, weights: Weights, C: float, l1_ratio: float, fit_intercept: bool
) -> SoftmaxObjective:
    """Return the objective that a penalty of strength 1 / C makes of the rows of a design.

    Raises
    ------
    ValueError
        If the penalty overflows, or is of a kind that is not implemented.
    """
    if l1_ratio != 0:
        raise ValueError(
            f"l1_ratio={l1_ratio!r} is not implemented yet; use l1_ratio=0, or "
            "sklearn.linear_model.LogisticRegression(solver='saga')."
        )
    l2 = weights.penalty_strength(C)
    return SoftmaxObjective.from_design(design, l2=l2, fit_intercept=fit_intercept)


def coefficients(
    objective: SoftmaxObjective, params: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return coefficients and intercepts in the dtype of X; rows of several have mean zero."""
    coef = params.reshape(objective.shape)
    intercept = np.zeros(len(coef))
    if objective.fit_intercept:
        coef, intercept = coef[:, :-1], coef[:, -1]
    if len(coef) > 1:
        # The penalty makes the optimum's rows sum to zero; where it leaves a shift common
        # to all classes free (intercepts, C=inf) this picks the representative.
        coef = coef - coef.mean(axis=0)
        intercept = intercept - intercept.mean()
    dtype = objective.dtype
    return np.ascontiguousarray(coef, dtype), np.ascontiguousarray(intercept, dtype)


@contextlib.contextmanager
def explained_overflow(dtype: np.dtype[Any]) -> Iterator[None]:
    """Say what to do about an objective that overflows at the start."""
    try:
        yield
    except FloatingPointError as error:
        raise ValueError(
            f"The fit cannot start: {error}. X contains values too large for "
            f"{dtype}; scale X, for example with sklearn.preprocessing.StandardScaler."
        ) from error


@contextlib.contextmanager
def unchanged_on_failure(estimator: BaseEstimator) -> Iterator[None]:
    """Put an estimator's attributes back if the block raises, or is interrupted."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def print_progress(state: IterationState) -> None:
    """Print a line about an iteration."""
    print(  # noqa: T201 (verbose asks for it)
        f"fastsoftmax: iteration {state.iteration:4d}  passes {state.n_passes:5d}  objective "
        f"{state.objective:.10f}  max |gradient| {state.gradient_norm:.2e}  step size "
        f"{state.step_size:.2g}"
    )
