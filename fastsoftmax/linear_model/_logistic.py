"""The estimator: scikit-learn's interface over the objective and the solvers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.linear_model._base import LinearClassifierMixin, SparseCoefMixin
from sklearn.metrics import accuracy_score
from sklearn.utils._param_validation import Hidden, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from fastsoftmax._designs import Response, predict
from fastsoftmax._persistence import loaded_estimator, stamped
from fastsoftmax._solvers import SolverResult, Status
from fastsoftmax._threads import resolve_n_jobs, thread_limit
from fastsoftmax._validation import (
    check_offset,
    check_targets,
    numpy_only,
    passes_if_finite,
    validated,
)
from fastsoftmax.linear_model import _inference
from fastsoftmax.linear_model._callbacks import CallbackSupportMixin, FitTask
from fastsoftmax.linear_model._export import to_sklearn
from fastsoftmax.linear_model._inference import StandardErrors, Summary
from fastsoftmax.linear_model._online import learnt
from fastsoftmax.linear_model._parameters import (
    ALGORITHMS,
    Settings,
    check_composite,
    convergence_message,
    resolve,
)
from fastsoftmax.linear_model._parts import is_large_map, is_source, streamed_problem
from fastsoftmax.linear_model._problem import Problem, are_soft, column_names, make_problem
from fastsoftmax.linear_model._progress import print_progress, progress_of_rows
from fastsoftmax.linear_model._solve import intercept_only, solve


class LogisticRegression(
    CallbackSupportMixin, LinearClassifierMixin, SparseCoefMixin, BaseEstimator
):
    r"""Multinomial (softmax) logistic regression.

    Minimises, over coefficients W and intercepts b,

    .. math:: C \sum_i s_i \, \ell(W x_i + b, y_i) + \frac{1 - r}{2} \lVert W \rVert^2
              + r \lVert W \rVert_1, \qquad \ell(z, y) = \log \sum_k e^{z_k} - z_y ,

    the objective of scikit-learn's class of the same name, whose parameters and attributes it
    shares; ``solver='auto'`` and ``max_iter=1000`` are the defaults that differ. Two classes have
    one logit, more classes one logit each. Features need no scaling: the solver preconditions
    itself.

    Parameters
    ----------
    penalty : {'l1', 'l2', 'elasticnet'} or None, default='deprecated'
        Deprecated in scikit-learn, in favour of `l1_ratio` and `C`, which it overrides: 'l2' is
        ``l1_ratio=0``, 'l1' is ``l1_ratio=1``, 'elasticnet' takes `l1_ratio`, and None is
        ``C=np.inf``.
    C : float, default=1.0
        Inverse strength of the penalty, in (0, inf]; ``np.inf`` fits without penalty.
    l1_ratio : float, default=0.0
        Share r of the L1 norm in the penalty, in [0, 1].
        Coefficients that the optimum sets to 0 are exactly 0. None, deprecated, is 0.
    dual : bool, default=False
        Ignored: the dual problem has the same optimum. Present for compatibility; True needs
        solver 'liblinear' or 'auto'.
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
    intercept_scaling : float, default=1
        Ignored. In scikit-learn it weakens the penalty that LIBLINEAR puts on the intercept; here
        there is none, which is the limit of a large `intercept_scaling`.
    class_weight : dict or 'balanced', default=None
        Weights of the classes, multiplied with `sample_weight`; ``'balanced'`` makes the
        weights of all classes sum up to the same.
    random_state : int, RandomState instance or None, default=None
        Ignored: the fit is deterministic. Present for compatibility.
    solver : str, default='auto'
        The names of scikit-learn are kept, and refuse what they refuse there; 'auto' takes all.
        All reach the same optimum; `solver_` says how.

        ================= ============================== ======== =======
        solver            runs                           l1_ratio classes
        ================= ============================== ======== =======
        'auto'            what suits the shape of X      any      any
        'lbfgs'           L-BFGS, preconditioned         0        any
        'newton-cholesky' Newton, full Hessian           0        any
        'newton-cg'       truncated Newton, no Hessian   0        any
        'sag'             as 'auto', deterministic       0        any
        'saga'            as 'auto', deterministic       any      any
        'liblinear'       as 'auto', intercept unpenal-  0 or 1   2
                          ised; needs a finite C
        ================= ============================== ======== =======

        ``'lbfgs'`` runs on top of a lagged estimate of the curvature: the full Hessian where it is
        cheap, else Gram matrices weighted by the classes' probabilities, else a diagonal.
        ``'auto'`` does the same, inside compiled code where the data are small, in the space of
        the rows of X where these are few and long, and after dual coordinate ascent where X is
        sparse and has many columns. ``'newton-cholesky'`` is for few features
        times classes, ``'newton-cg'`` for ill-conditioned problems too large for a Hessian,
        preconditioned like ``'lbfgs'``.
    max_iter : int, default=1000
        Most iterations of the solver; 0 returns zeros, or the previous fit with `warm_start`.
    verbose : int, default=0
        If positive, prints a line per iteration.
    warm_start : bool, default=False
        Whether `fit` starts from the attributes of the previous fit.
    n_jobs : int, default=None
        Threads that this estimator uses, in `fit` and in the prediction methods. None and -1
        stand for all that the process may use (affinity, cgroup quota, ``NUMBA_NUM_THREADS``,
        ``OMP_NUM_THREADS``), -2 for all but one. The result has the same bits for any number.
    label_smoothing : float, default=0.0
        Share of each sample's mass, in [0, 1), that is spread evenly over the classes. Needs the
        memory of an array (n_samples, n_classes).
    penalty_weights : array-like of shape (n_features,), default=None
        Factors of the penalty of each feature's coefficients, not negative; 0 for none. None is 1.
    positive : bool, default=False
        Whether coefficients must not be negative.
    bounds : tuple (lower, upper), default=None
        Bounds of the coefficients: two numbers, or arrays that broadcast to the shape of `coef_`;
        infinite where there is no bound; rounded to the dtype of `coef_`. Intercepts have none.
        `positive` and `bounds` need solver 'auto', 'saga' or 'liblinear'.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted class labels; of soft targets, what their columns are called, in their order.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, float32 if X was; one row for two classes. For more classes they have mean
        zero over the classes, but with an L1 norm in the penalty or bounds.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts; zero without `fit_intercept`.
    n_iter_ : ndarray of shape (1,), int32
        Iterations that the solver took, epochs of dual coordinate ascent among them.
    solver_ : str
        The solver that ran, and its estimate of the curvature.
    objective_ : float
        Mean loss plus penalty at the fitted coefficients, in nats per unit of weight: the above,
        divided by ``C * sum(s)``.
    gradient_norm_ : float
        Largest absolute component of its gradient there (after dual coordinate ascent, of sparse X
        with many columns, to the digits of float32); with an L1 norm or bounds, of its
        smallest subgradient.
    converged_ : bool
        Whether `tol`, or the precision of the dtype, was reached; else a `ConvergenceWarning`
        said what to do, or a callback ended the fit.
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
    scikit-learn's callbacks (1.9: progress bars, scores per iteration) work with every solver, by
    `set_callbacks`. One whose `on_fit_task_end` returns True ends the fit, without a warning.

    X in C order and float64 or float32 is used in place. A Fortran-ordered array or a frame
    (pandas stores frames by column) costs one copy. CSR matrices and arrays are used in place if
    their rows are sorted and their indices of 32 bits, else copied once; repeated entries add up.
    Other sparse formats, and frames of sparse columns, are converted to CSR once. Arrays of other
    libraries are converted, and results are NumPy's. float32 stays float32. A fit that raises,
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
    >>> classifier.predict_proba(X[:2]).round(2)
    array([[0.98, 0.02, 0.  ],
           [0.97, 0.03, 0.  ]])
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 (scikit-learn's protocol)
        "penalty": [
            StrOptions({"l1", "l2", "elasticnet"}),
            None,
            Hidden(StrOptions({"deprecated"})),
        ],
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
        "dual": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "intercept_scaling": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "random_state": ["random_state"],
        "solver": [StrOptions(set(ALGORITHMS))],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "n_jobs": [None, Integral],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "penalty_weights": ["array-like", None],
        "positive": ["boolean"],
        "bounds": [tuple, list, None],
    }

    #: What a fitted estimator needs; see `loaded_estimator`.
    _FITTED: ClassVar[tuple[str, ...]] = ("classes_", "coef_", "intercept_", "n_features_in_")

    def __init__(
        self,
        penalty: str | None = "deprecated",
        *,
        C: float = 1.0,
        l1_ratio: float | None = 0.0,
        dual: bool = False,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        intercept_scaling: float = 1,
        class_weight: dict[Any, float] | str | None = None,
        random_state: Any = None,
        solver: str = "auto",
        max_iter: int = 1000,
        verbose: int = 0,
        warm_start: bool = False,
        n_jobs: int | None = None,
        label_smoothing: float = 0.0,
        penalty_weights: ArrayLike | None = None,
        positive: bool = False,
        bounds: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.label_smoothing = label_smoothing
        self.penalty_weights = penalty_weights
        self.positive = positive
        self.bounds = bounds

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        offset: ArrayLike | None = None,
    ) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or BatchSource
            Finite numbers. A source of batches (`fastsoftmax.batches`) brings labels and weights
            along; its rows are read anew in each pass, and never all in memory. So are those of a
            memory map larger than half the memory.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Class labels: numbers, strings or booleans. Or soft targets: a row of non-negative
            masses (probabilities, counts) per sample, the same as the row of X once for each class
            with the mass times the sample's weight for a weight. `classes_` then holds the names
            of the columns of a frame, or the numbers from 0.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A weight of 2 is the same as the row twice, 0 as no row; a
            class all of whose rows have weight 0 stays in `classes_`.
        offset : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
            Added to the logits: what is known of a sample beforehand. One column, that of
            ``classes_[1]``, is enough for two classes. Predictions need theirs.

        Returns
        -------
        self : LogisticRegression

        Raises
        ------
        ValueError
            If an argument is not as described, or X is so large that the objective overflows.
        """
        task = FitTask(self, X, y, sample_weight)  # what it leaves is for scikit-learn to undo
        with unchanged_on_failure(self), numpy_only():
            self._fit(X, y, sample_weight, offset, task)
        return self

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        offset: ArrayLike | None,
        task: FitTask,
    ) -> None:
        self._settings()  # what does not go together is refused before X is looked at
        with contextlib.ExitStack() as stack:
            if is_source(X) or (is_large_map(X) and offset is None and not are_soft(y)):
                on_rows = stack.enter_context(progress_of_rows(self.verbose > 0))
                problem = streamed_problem(self, X, y, sample_weight, offset, on_rows)
            else:
                problem = make_problem(self, X, y, sample_weight, offset, reset=True)
            culprit = "X contains" if offset is None else "X or offset contains"
            self._minimise(problem, task, culprit)

    def _minimise(self, problem: Problem, task: FitTask, culprit: str = "X contains") -> None:
        """Solve a problem, warn, and set the attributes; `culprit` is what an overflow lies in."""
        settings = self._settings()
        for notice in settings.notices:
            warnings.warn(notice, stacklevel=5)
        n_threads = resolve_n_jobs(self.n_jobs)
        if not problem.penalty.is_smooth:
            check_composite(self.solver, settings.l1_ratio)

        def model_at(params: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
            coef, intercept = problem.coefficients(params)
            return {"classes_": problem.classes, "coef_": coef, "intercept_": intercept}

        on_iteration = task.begin(model_at, print_progress if self.verbose > 0 else None)
        with thread_limit(n_threads), explained_overflow(problem.objective.dtype, culprit):
            result, solver = solve(
                problem.objective,
                self._start(problem),
                solver=settings.algorithm,
                tol=self.tol,
                max_iter=self.max_iter,
                on_iteration=on_iteration,
                penalty=problem.penalty,
            )
        if self.verbose > 0:
            print(f"fastsoftmax: {solver}. {result.message}")  # noqa: T201 (verbose asks for it)
        if not result.converged and result.status is not Status.STOPPED:  # a callback's wish
            message = convergence_message(self.solver, result)
            warnings.warn(message, ConvergenceWarning, stacklevel=5)

        self.classes_ = problem.classes
        self._store(problem, result, solver)
        task.end()

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        r"""Learn from the next rows of a stream, which may then be forgotten.

        An online Laplace approximation: the batch moves the parameters V to

        .. math:: \arg\min_W \; \sum_i s_i \, \ell(W x_i + b, y_i)
                  + \tfrac12 (W - V)^T P \, (W - V)

        and adds the curvature of its losses there to the precision P, which begins as the
        penalty's, ``1 / C`` (or what one row would add, if that is more). So the penalty counts
        once, however long the stream, as in `fit`.
        There is no learning rate. The result approximates that of `fit` on all rows, and depends on
        their order and on how they are cut into batches.

        The first batch, if it has rows of all classes, is fitted as by `fit`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            As in `fit`.
        y : array-like of shape (n_samples,)
            Labels; a batch need not have all classes.
        classes : array-like of shape (n_classes,), default=None
            All labels of the stream. May be left out after the first call, and there if `y` holds
            all of them.
        sample_weight : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        self : LogisticRegression
            With the attributes of a fit but `objective_` and `gradient_norm_`, and
            `n_samples_seen_`, the number of rows so far. `n_iter_`, `n_passes_` and `converged_`
            are about the latest batch.

        Raises
        ------
        ValueError
            If an argument is not as described, a label is not among the classes, the number of
            features changes, or with ``C=np.inf``, an L1 penalty, bounds or a penalty weight of 0.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations were not enough for the batch.

        Notes
        -----
        ``class_weight='balanced'`` weighs by the classes' shares so far. `C`, `penalty_weights` and
        `fit_intercept` count at the first call. `fit` forgets the stream. After `fit`, which
        keeps nothing of its rows but their weight, the first batch stands for them, too:
        its curvature, times the ratio of the weights, is taken for theirs.

        P has a matrix (D, D) for each row of `coef_`, with ``D = n_features + fit_intercept``, if
        these have at most 2**20 entries together, else their diagonals.

        References
        ----------
        Spiegelhalter & Lauritzen (1990), Sequential updating of conditional probabilities on
        directed graphical structures, Networks 20.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from fastsoftmax import LogisticRegression
        >>> X, y = load_digits(return_X_y=True)
        >>> classifier = LogisticRegression()
        >>> for i in range(0, 1500, 100):
        ...     rows = slice(i, i + 100)
        ...     classifier = classifier.partial_fit(X[rows], y[rows], classes=range(10))
        >>> classifier.score(X[1500:], y[1500:]) > 0.85
        True
        """
        with unchanged_on_failure(self), numpy_only():
            for notice in self._settings().notices:
                warnings.warn(notice, stacklevel=3)
            with (
                thread_limit(resolve_n_jobs(self.n_jobs)),
                explained_overflow(np.dtype(getattr(X, "dtype", np.float64))),
            ):
                attributes, warning = learnt(self, X, y, classes, sample_weight)
            if warning is not None:
                warnings.warn(warning, ConvergenceWarning, stacklevel=3)
            for name, value in attributes.items():
                setattr(self, name, value)
            for name in {"objective_", "gradient_norm_"} & set(vars(self)):  # of a fit
                delattr(self, name)
        return self

    def _store(self, problem: Problem, result: SolverResult, solver: str) -> None:
        """Set what a fit found, and forget a stream."""
        for name in {"_stream", "n_samples_seen_"} & set(vars(self)):
            delattr(self, name)
        self.coef_, self.intercept_ = problem.coefficients(result.params)
        self.n_iter_ = np.array([result.n_iterations], dtype=np.int32)
        self.solver_ = solver
        self.objective_ = result.objective
        self.gradient_norm_ = result.gradient_norm
        self.converged_ = result.converged
        self.status_ = result.message
        self.n_passes_ = result.n_passes
        design = problem.objective.design
        self._fitted_mass = design.weight_scale * design.weight_sum  # for `partial_fit`

    def _settings(self) -> Settings:
        return resolve(
            penalty=self.penalty,
            C=self.C,
            l1_ratio=self.l1_ratio,
            dual=self.dual,
            solver=self.solver,
        )

    def _start(self, problem: Problem) -> NDArray[np.float64]:
        """Return the parameters to start from: `intercept_only`, or the last fit's."""
        objective = problem.objective
        coef = getattr(self, "coef_", None)
        if not self.warm_start or coef is None:
            # Without iterations the model is to know nothing, as scikit-learn's.
            return intercept_only(objective) if self.max_iter else np.zeros(objective.shape)
        coef = coef.toarray() if sparse.issparse(coef) else coef
        if coef.shape != (objective.n_rows, objective.n_features):
            raise ValueError(
                f"warm_start=True needs data of the shape of the previous fit: coef_ has shape "
                f"{coef.shape}, the data ask for {(objective.n_rows, objective.n_features)}. "
                "Use a new estimator, or warm_start=False."
            )
        if len(coef) > 1 and problem.penalty.is_smooth:
            # Steps sum to zero over the classes, so what the start does not, nothing takes away.
            coef = coef - coef.mean(axis=0)
        start = np.zeros(objective.shape)
        start[:, : objective.n_features] = coef
        if self.fit_intercept:
            start[:, -1] = self.intercept_
        return start

    def decision_function(self, X: Any, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Return the logits of samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        offset : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
            Added to the logits; see `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes one logit, positive where ``classes_[1]`` is predicted.
        """
        logits = self._respond(X, Response.LOGITS, offset)
        return logits.ravel() if logits.shape[1] == 1 else logits

    def predict(self, X: Any, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Return the most probable class of samples; the first of several equals.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        offset : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
            Added to the logits; see `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        labels = self._respond(X, Response.LABELS, offset)
        return np.asarray(self.classes_).take(labels)  # two thirds of the time of indexing

    def predict_proba(self, X: Any, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Return the probabilities of all classes, in the order of `classes_`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        offset : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
            Added to the logits; see `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Rows sum to 1.
        """
        return self._respond(X, Response.PROBABILITIES, offset)

    def predict_log_proba(self, X: Any, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Return the logarithms of the probabilities, computed without their underflow.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        offset : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
            Added to the logits; see `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._respond(X, Response.LOG_PROBABILITIES, offset)

    def score(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        offset: ArrayLike | None = None,
    ) -> float:
        """Return the share of samples, by weight, whose class is predicted.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels, or soft targets as in `fit`: then the share of the mass that the classes
            predicted have.
        sample_weight : array-like of shape (n_samples,), default=None
        offset : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
            See `fit`.

        Returns
        -------
        float
            In [0, 1].
        """
        if are_soft(y):
            return self._score_soft(X, y, sample_weight, offset)
        return float(accuracy_score(y, self.predict(X, offset), sample_weight=sample_weight))

    def _score_soft(
        self, X: Any, Y: Any, sample_weight: ArrayLike | None, offset: ArrayLike | None
    ) -> float:
        labels = self._respond(X, Response.LABELS, offset)
        if not np.array_equal(names := column_names(Y), self.classes_):
            raise ValueError(
                f"y has columns for the classes {list(names)}, but the model was fitted to "
                f"{list(self.classes_)}. Give the same columns, in the same order."
            )
        targets, weights = check_targets(Y, np.empty((len(labels), 1)), None, sample_weight)
        hits = np.take_along_axis(targets.soft, labels[:, None], axis=1)
        return float(np.average(hits.ravel(), weights=weights.scaled))

    def _respond(self, X: Any, response: Response, offset: ArrayLike | None = None) -> NDArray[Any]:
        """Return a response; validate X unless nothing but infinite numbers can be wrong with it.

        If these are, or anything else is, the ordinary way fails too, and has the words for it.
        """
        if offset is None and passes_if_finite(X, self):
            with contextlib.suppress(ValueError):
                return self._evaluate(X, response)
        check_is_fitted(self)
        with numpy_only():
            X = validated(self, X, reset=False)
            return self._evaluate(X, response, offset)

    def _evaluate(
        self, X: Any, response: Response, offset: ArrayLike | None = None
    ) -> NDArray[Any]:
        """Return a response at the rows of a valid X, which may hold infinite numbers or NaN.

        Raises
        ------
        ValueError
            If a logit is not finite, or the fitted attributes have been set to what does not fit.
        """
        coef, intercept = self._coefficients()
        if coef.shape[1:] != X.shape[1:]:
            raise ValueError(f"coef_ has shape {coef.shape}, but X has {X.shape[1]} features.")
        if coef.dtype == np.float64 and X.dtype == np.float32:
            X = X.astype(np.float64)  # as scikit-learn: the wider dtype of the two
        shift = None if offset is None else check_offset(offset, X, len(coef))
        with thread_limit(resolve_n_jobs(self.n_jobs)):
            return predict(X, coef, intercept, response, shift)

    def _coefficients(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the fitted coefficients, dense, and one intercept for each of their rows."""
        coef: Any = self.coef_  # CSR after `sparsify`
        coef = coef.toarray() if sparse.issparse(coef) else np.asarray(coef)
        intercept = np.atleast_1d(self.intercept_)
        if coef.ndim == 2 and intercept.shape != coef.shape[:1]:
            intercept = np.broadcast_to(intercept, coef.shape[:1])
        return coef, intercept

    def standard_errors(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        baseline: Any = None,
        offset: ArrayLike | None = None,
    ) -> StandardErrors:
        r"""Return the standard errors of the coefficients.

        They are the roots of the diagonal of the inverse of the Hessian, at the fitted
        coefficients, of :math:`\sum_i s_i \ell(W x_i + b, y_i) + \lVert W \rVert^2 / (2 C)`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The data of the fit; an estimator keeps none.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
        sample_weight : array-like of shape (n_samples,), default=None
            As in the fit. Weights, also those of `class_weight`, count as numbers of equal rows.
        baseline : label, default=None
            The class whose coefficients are subtracted from those of the others, which leaves out
            its row. None takes the first class where only such differences are identified,
            which is with two classes (their one row is such a difference) and with ``C=inf``.
            With a penalty and three or more classes, None leaves all classes, as in `coef_`.
        offset : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
            As in the fit.

        Returns
        -------
        StandardErrors
            Arrays `coef` (n_rows, n_features) and `intercept` (n_rows,), and the `classes` that
            their rows are about.

        Raises
        ------
        ValueError
            If there are none: with columns that are constant or depend on one another, or with
            separable classes, without a penalty; with an L1 penalty or bounds; or if the data are
            not those of the fit.

        Warns
        -----
        ConvergenceWarning
            If the fit did not converge, or its `tol` leaves the coefficients more than a tenth of
            a standard error from the optimum.

        Notes
        -----
        With a penalty, rows of coefficients that are the same for all classes, which the loss does
        not see, are left out: the covariance is the pseudo-inverse of the Hessian on rows that
        sum to zero over the classes, as `coef_` and `intercept_` do. It is that of the normal
        approximation to the posterior under the prior variance `C` that the penalty
        stands for. Around the true coefficients the penalised estimate is biased, which no standard
        error shows.

        All is summed in float64, so X in float32 costs a copy; last digits depend on the BLAS.

        References
        ----------
        McFadden (1974), Conditional logit analysis of qualitative choice behavior, in Zarembka
        (ed.), Frontiers in Econometrics.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from fastsoftmax import LogisticRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = LogisticRegression(tol=1e-8).fit(X, y)
        >>> classifier.standard_errors(X, y).intercept.round(2)
        array([3.99, 2.64, 3.33])
        """
        return _inference.standard_errors(self, X, y, sample_weight, baseline, offset)

    def summary(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        confidence: float = 0.95,
        baseline: Any = None,
        offset: ArrayLike | None = None,
    ) -> Summary:
        """Return a table of coefficients, their standard errors, Wald tests and confidence bounds.

        Parameters
        ----------
        X, y, sample_weight, baseline, offset
            See `standard_errors`, also for errors, warnings and what a penalty means for these.
        confidence : float, default=0.95
            Probability that an interval is to cover its coefficient, in (0, 1).

        Returns
        -------
        Summary
            Arrays (n_rows, n_terms); printed as a table, and `to_frame` makes one of pandas.
        """
        return _inference.summary(self, X, y, sample_weight, confidence, baseline, offset)

    def to_sklearn(self) -> SklearnLogisticRegression:
        """Return this fitted model as scikit-learn's estimator.

        For what knows only that: converters, services without Numba. Parameters that mean the
        same are taken over; `solver` becomes ``'lbfgs'`` (``'saga'`` with an L1 share), and
        `n_jobs`, which has no effect there, is left out. Coefficients are copied, dense.

        Returns
        -------
        sklearn.linear_model.LogisticRegression
            Predicts the same classes and probabilities, but for rounding. With two classes
            scikit-learn takes the first one's probability as 1 minus the second one's, so where
            that is tiny it keeps fewer digits.
        """
        return to_sklearn(self)

    def __getstate__(self) -> dict[str, Any]:
        return stamped(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(loaded_estimator(self, state, self._FITTED))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        if self.solver == "liblinear":
            tags.classifier_tags.multi_class = False
        return tags


@contextlib.contextmanager
def explained_overflow(dtype: np.dtype[Any], culprit: str = "X contains") -> Iterator[None]:
    """Say what to do about an objective that overflows at the start; solvers look for it later."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except FloatingPointError as error:
        raise ValueError(
            f"The fit cannot start: {error}. {culprit} values too large for "
            f"{dtype}; scale X, for example with sklearn.preprocessing.StandardScaler."
        ) from error


@contextlib.contextmanager
def unchanged_on_failure(estimator: BaseEstimator) -> Iterator[None]:
    """Put an estimator's attributes back if the block raises, or is interrupted."""
    before = dict(vars(estimator))
    try:
        yield
    except GeneratorExit:  # the block never began: an interrupt hit this generator's caller
        raise
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
