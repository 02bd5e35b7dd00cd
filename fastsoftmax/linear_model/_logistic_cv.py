"""The estimator that chooses the strength of the penalty by cross-validation."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import Hidden, Interval, StrOptions
from sklearn.utils.metadata_routing import (
    UNUSED,
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)

from fastsoftmax._designs import Design, make_design
from fastsoftmax._solvers import SolverResult
from fastsoftmax._threads import resolve_n_jobs, thread_limit
from fastsoftmax._validation import (
    Targets,
    Weights,
    apply_class_weight,
    check_weights,
    numpy_only,
)
from fastsoftmax.linear_model._fold_scores import FoldScorer
from fastsoftmax.linear_model._logistic import (
    LogisticRegression,
    explained_overflow,
    unchanged_on_failure,
)
from fastsoftmax.linear_model._parameters import (
    ALGORITHMS,
    Settings,
    check_n_classes,
    check_solver,
    kind_of_penalty,
)
from fastsoftmax.linear_model._path import Fit, fit_path
from fastsoftmax.linear_model._problem import Problem, check_rows, penalised
from fastsoftmax.linear_model._progress import print_progress
from fastsoftmax.linear_model._solve import Neighbour, solve

_OF_REFIT = ("solver_", "objective_", "gradient_norm_", "status_")

#: What scikit-learn 1.9 announces, by the parameter whose default will change: until then and from
#: then on, and the version.
_CHANGES: dict[str, tuple[Any, Any, str]] = {
    "l1_ratios": (None, (0.0,), "1.10"),
    "scoring": (None, "neg_log_loss", "1.11"),
    "use_legacy_attributes": (True, False, "1.10"),
}

#: Parameters that are those of the plain estimator.
_SHARED = (
    "fit_intercept",
    "tol",
    "class_weight",
    "random_state",
    "solver",
    "max_iter",
    "verbose",
    "n_jobs",
)


class LogisticRegressionCV(LogisticRegression):
    """Softmax regression whose strength of the penalty is chosen by cross-validation.

    All pairs of `Cs` and `l1_ratios` are fitted to the training rows of each fold and scored on
    its test rows. Interface and attributes are those of scikit-learn's class of the same name.

    The folds are weights over one X, which is not copied. At each strength all rows are fitted
    first; a fold's fit starts from there. Every fit ends by the rule of `LogisticRegression`.

    Parameters
    ----------
    Cs : int or array-like of shape (n_Cs,), default=10
        Inverse strengths of the penalty, in (0, inf], or how many, evenly spaced in logarithm
        from 1e-4 to 1e4.
    l1_ratios : array-like of shape (n_l1_ratios,), default=None
        Shares of the L1 norm in the penalty; see `LogisticRegression`. None is 0, but leaves the
        axis of the ratios out of the attributes' legacy layout. It is deprecated, and ``(0.0,)``
        the default to come.
    fit_intercept : bool, default=True
        See `LogisticRegression`, here and for all parameters that are not described.
    cv : int, splitter or iterable of (train, test), default=None
        Number of stratified folds, None being 5, or whatever scikit-learn takes for `cv`. A row
        that is several times in `train` counts so many times.
    dual : bool, default=False
        Ignored: the optimum is the same. Present for compatibility.
    penalty : {'l1', 'l2', 'elasticnet'}, default='l2'
        Deprecated: use `l1_ratios`.
    scoring : str or callable, default=None
        Name of a scorer, or ``scorer(estimator, X, y)``; None is ``'accuracy'``, to become
        ``'neg_log_loss'``. The test rows' `sample_weight` goes to the scorer as scikit-learn
        has it.
    solver : str, default='auto'
    tol : float, default=1e-4
    max_iter : int, default=1000
    class_weight : dict or 'balanced', default=None
        ``'balanced'`` looks at all of y, not at a fold's.
    n_jobs : int, default=None
    verbose : int, default=0
        If positive, prints a line per fit; from 2 on, one per iteration.
    refit : bool, default=True
        Whether the model is that of all rows at the pair with the best mean score. Else it is the
        mean of the folds' models, each at the pair that is best in its fold.
    intercept_scaling : float, default=1.0
        Ignored: the intercept is not penalised. Present for compatibility.
    random_state : int, RandomState instance or None, default=None
    use_legacy_attributes : bool, default=True
        Layout of the attributes; to become False.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    Cs_ : ndarray of shape (n_Cs,)
    l1_ratios_ : ndarray of shape (n_l1_ratios,)
        ``[None]`` for None.
    C_, l1_ratio_ : float
        The pair chosen, or the mean of those that are best in the folds. Legacy: ndarray with the
        same number for each row of `coef_`.
    coefs_paths_ : ndarray of shape (n_folds, n_l1_ratios, n_Cs, n_rows, n_dof)
        What was fitted to the folds' training rows. ``n_rows`` is that of `coef_`, and ``n_dof``
        counts the intercept, which is last. Legacy: dict with an ndarray of shape
        (n_folds, n_Cs, n_l1_ratios, n_dof) for each class; for two, the second only.
    scores_ : ndarray of shape (n_folds, n_l1_ratios, n_Cs)
        Legacy: dict with an ndarray of shape (n_folds, n_Cs, n_l1_ratios) for each class, all
        equal.
    n_iter_ : ndarray of shape (n_folds, n_l1_ratios, n_Cs), int32
        Legacy: (1, n_folds, n_Cs, n_l1_ratios).
    converged_ : bool
        Whether all fits converged; else a `ConvergenceWarning` said which did not.
    n_passes_ : int
        Passes over X of all fits together.
    solver_, objective_, gradient_norm_, status_
        Of the fit of all rows, with `refit` only; see `LogisticRegression`.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    See Also
    --------
    LogisticRegression : The same at a given strength.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastsoftmax import LogisticRegressionCV
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = LogisticRegressionCV(
    ...     l1_ratios=(0,), scoring="neg_log_loss", use_legacy_attributes=False
    ... ).fit(X, y)
    >>> round(classifier.C_, 2)
    166.81
    >>> classifier.predict(X[:2])
    array([0, 0])
    """

    # Parameters of `LogisticRegression` that this one lacks.
    warm_start = False
    label_smoothing = 0.0
    penalty_weights = bounds = None
    positive = False

    # What scikit-learn's does: weights go to the scorer, by the scorer's request.
    __metadata_request__score = {"sample_weight": UNUSED}  # noqa: RUF012 (its protocol)

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 (scikit-learn's protocol)
        **{name: LogisticRegression._parameter_constraints[name] for name in _SHARED},
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "l1_ratios": ["array-like", None, Hidden(StrOptions({"warn"}))],
        "cv": ["cv_object"],
        "dual": ["boolean"],
        "penalty": [
            StrOptions({"l1", "l2", "elasticnet"}),
            Hidden(StrOptions({"deprecated"})),
        ],
        "scoring": [
            StrOptions(set(get_scorer_names())),
            callable,
            None,
            Hidden(StrOptions({"warn"})),
        ],
        "refit": ["boolean"],
        "intercept_scaling": [Interval(Real, 0, None, closed="neither")],
        "use_legacy_attributes": ["boolean", Hidden(StrOptions({"warn"}))],
    }

    _FITTED = (*LogisticRegression._FITTED, "C_", "l1_ratio_")

    def __init__(
        self,
        *,
        Cs: int | ArrayLike = 10,
        l1_ratios: ArrayLike | None = "warn",
        fit_intercept: bool = True,
        cv: Any = None,
        dual: bool = False,
        penalty: str = "deprecated",
        scoring: Any = "warn",
        solver: str = "auto",
        tol: float = 1e-4,
        max_iter: int = 1000,
        class_weight: dict[Any, float] | str | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        refit: bool = True,
        intercept_scaling: float = 1.0,
        random_state: Any = None,
        use_legacy_attributes: bool | str = "warn",
    ) -> None:
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.dual = dual
        self.penalty = penalty
        self.scoring = scoring
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.refit = refit
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.use_legacy_attributes = use_legacy_attributes

    @property
    def partial_fit(self) -> Any:
        """Not there: folds need all rows at once."""
        raise AttributeError(
            f"{type(self).__name__} has no partial_fit: folds need all rows at once. Choose C on "
            "some of them, and use LogisticRegression."
        )

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, **params: Any
    ) -> Self:
        """Fit the grid, and choose from it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None
        **params : dict
            What metadata routing passes on to the splitter (`groups`) and to the scorer.

        Returns
        -------
        self : LogisticRegressionCV

        Raises
        ------
        ValueError
            If an argument is not as described, or a fold has no training rows.
        """
        with unchanged_on_failure(self), numpy_only():
            self._fit_grid(X, y, sample_weight, params)
        return self

    def _fit_grid(
        self, X: Any, y: Any, sample_weight: ArrayLike | None, params: dict[str, Any]
    ) -> None:
        _raise_for_params(params, self, "fit")
        l1_ratios, are_given = self._checked_ratios(self._settled("l1_ratios"))
        scoring, is_legacy = self._settled("scoring"), self._settled("use_legacy_attributes")
        Cs = _checked_strengths(self.Cs)
        check_solver(self.solver, kind_of_penalty(l1_ratios.tolist()), self.dual)
        X, y, classes, labels = check_rows(self, X, y)
        check_n_classes(self.solver, len(classes))
        split_params, score_params = self._routed(sample_weight, params)
        if scoring is None and sample_weight is not None:
            score_params = {"sample_weight": sample_weight}
        cv = check_cv(self.cv, y, classifier=True)
        rows = np.arange(X.shape[0])
        # Some iterables yield masks or lists.
        folds = [(rows[train], rows[test]) for train, test in cv.split(X, y, **split_params)]
        if not folds:
            raise ValueError(f"cv={self.cv!r} yields no folds. Give at least one (train, test).")
        _check_class_weight(self.class_weight, classes)
        weights = apply_class_weight(self.class_weight, classes, labels, y, sample_weight, X)
        parts = [check_weights(weights, X)]
        parts += [_fold_weights(weights, train, i, X) for i, (train, _) in enumerate(folds)]
        scorer = FoldScorer(scoring, classes, score_params, self.n_jobs)

        targets = Targets(labels, np.empty((0, 0), X.dtype), len(classes))
        design = make_design(X, targets, parts[0])
        designs = [(design.with_weights(w), w, classes) for w in parts]
        fits = self._fits(designs, Cs, l1_ratios)
        _warn_of_failures(fits, Cs)
        n_iter = [fit.result.n_iterations for fit in fits[1:].flat]
        paths = np.array([[[_dofs(fit) for fit in row] for row in part] for part in fits[1:]])
        scores = np.empty(paths.shape[:3])
        for i, (_, test) in enumerate(folds):
            models = [
                (C, *_model(dofs, self.fit_intercept))
                for row in paths[i]
                for C, dofs in zip(Cs, row, strict=True)
            ]
            scores[i] = np.reshape(scorer.scores(X, y, test, models), scores.shape[1:])

        # Of equal scores the first C counts, and then the first ratio.
        by_pair = scores.swapaxes(1, 2).reshape(len(folds), -1)
        ranked = _ranked(by_pair.sum(axis=0, keepdims=True) if self.refit else by_pair)
        best = ranked.argmax(axis=1)
        c, r = np.divmod(best, len(l1_ratios))
        if self.refit:
            self._store(*fits[0, r[0], c[0]][-3:])
        else:
            for stale in _OF_REFIT:  # of an earlier fit
                if hasattr(self, stale):
                    delattr(self, stale)
            mean = paths[np.arange(len(folds)), r, c].mean(axis=0)
            self.coef_, self.intercept_ = _model(mean, self.fit_intercept)
        found: dict[str, Any] = {
            "classes_": classes,
            "Cs_": Cs,
            "l1_ratios_": l1_ratios if are_given else np.array([None]),
            "C_": float(Cs[c].mean()),
            "l1_ratio_": float(l1_ratios[r].mean()),
            "coefs_paths_": paths,
            "scores_": scores,
            "n_iter_": np.array(n_iter, dtype=np.int32).reshape(scores.shape),
            "converged_": all(fit.result.converged for fit in fits.flat),
            "n_passes_": sum(fit.result.n_passes for fit in fits.flat),
        }
        if is_legacy:
            found |= _legacy_layout(found, are_given, self.refit)
        for name, value in found.items():
            setattr(self, name, value)

    def _fits(
        self,
        parts: list[tuple[Design, Weights, NDArray[Any]]],
        Cs: NDArray[Any],
        l1_ratios: NDArray[Any],
    ) -> NDArray[Any]:
        """Return the fits of all rows, at index 0, and of the folds: (parts, ratios, Cs)."""

        def solve_from(
            problem: Problem, start: NDArray[np.float64], near: Neighbour | None
        ) -> tuple[SolverResult, str]:
            return solve(
                problem.objective,
                start,
                solver=ALGORITHMS[self.solver],
                penalty=problem.penalty,
                tol=self.tol,
                max_iter=self.max_iter,
                on_iteration=print_progress if self.verbose > 1 else None,
                near=near,
            )

        fits = np.empty((len(parts), len(l1_ratios), len(Cs)), object)
        with thread_limit(resolve_n_jobs(self.n_jobs)), explained_overflow(parts[0][0].dtype):
            for r, l1_ratio in enumerate(l1_ratios.tolist()):

                def problem_of(c: int, part: int, ratio: float = l1_ratio) -> Problem:
                    return penalised(*parts[part], float(Cs[c]), ratio, self.fit_intercept)

                weaker_and_weaker = np.argsort(Cs, kind="stable").tolist()
                path = fit_path(problem_of, len(parts), weaker_and_weaker, solve_from)
                for fit in path:
                    fits[fit.part, r, fit.place] = fit
                    if self.verbose > 0:
                        name = f"C={Cs[fit.place]:.3g}, l1_ratio={l1_ratio:.3g}, {_name(fit)}"
                        print(  # noqa: T201 (verbose asks for it)
                            f"fastsoftmax: {name}: {fit.solver}. {fit.result.message}"
                        )
        return fits

    def _settled(self, name: str) -> Any:
        """Return a parameter; warn if it has a default that will change."""
        value = getattr(self, name)
        if not (isinstance(value, str) and value == "warn"):
            return value
        now, then, version = _CHANGES[name]
        parameter = f"the parameter {name!r}" if name == "scoring" else name
        of_or_for = "for" if name == "l1_ratios" else "of"
        warnings.warn(
            f"The default value {of_or_for} {parameter} will change from {now!r} to {then!r}, as "
            f"in scikit-learn {version}. Set {name}={then!r} or {name}={now!r} to silence this.",
            FutureWarning,
            stacklevel=5,
        )
        return now

    def _checked_ratios(self, l1_ratios: Any) -> tuple[NDArray[np.float64], bool]:
        """Return the shares of the L1 norm, and whether they were given."""
        is_old = self.penalty != "deprecated"
        if is_old:
            warnings.warn(
                "'penalty' was deprecated in scikit-learn 1.8 and will go in 1.10. Use "
                "l1_ratios=(0,) in place of 'l2', (1,) in place of 'l1' and numbers between "
                "in place of 'elasticnet'.",
                FutureWarning,
                stacklevel=5,
            )
        elif self.l1_ratios is None:
            warnings.warn(
                "'l1_ratios=None' was deprecated in scikit-learn 1.8 and will be an error in 1.10. "
                "Use l1_ratios=(0,).",
                FutureWarning,
                stacklevel=5,
            )
        if l1_ratios is None and self.penalty != "elasticnet":
            return np.array([1.0 if self.penalty == "l1" else 0.0]), False
        try:
            ratios = np.array(l1_ratios, dtype=np.float64)
        except (TypeError, ValueError):
            ratios = np.empty(0)
        if ratios.ndim != 1 or not ratios.size or not np.all((ratios >= 0) & (ratios <= 1)):
            raise ValueError(
                "l1_ratios must be an array-like of numbers between 0 and 1; got "
                f"l1_ratios={l1_ratios!r}."
            )
        if is_old and self.penalty != "elasticnet":
            warnings.warn(
                "l1_ratios parameter is only used with penalty='elasticnet'; got "
                f"penalty={self.penalty!r}.",
                UserWarning,
                stacklevel=5,
            )
            ratios[:] = 1.0 if self.penalty == "l1" else 0.0
        return ratios, True

    def _routed(
        self, sample_weight: Any, params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the splitter and the scorer get besides X and y."""
        if _routing_enabled():
            routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
            return routed["splitter"]["split"], routed["scorer"]["score"]
        return {}, {} if sample_weight is None else {"sample_weight": sample_weight}

    def score(  # type: ignore[override]  # as scikit-learn's: what else there is goes to the scorer
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        **score_params: Any,
    ) -> float:
        """Return what `scoring` says of the predictions at some rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None
        **score_params : dict
            What metadata routing passes on to the scorer.

        Returns
        -------
        float
        """
        _raise_for_params(score_params, self, "score")
        if sample_weight is not None:
            score_params["sample_weight"] = sample_weight
        if _routing_enabled():
            score_params = process_routing(self, "score", **score_params)["scorer"]["score"]
        return self._get_scorer()(self, X, y, **score_params)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return what is passed on to the splitter and to the scorer.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(
            splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split")
        )
        both = MethodMapping().add(caller="score", callee="score").add(caller="fit", callee="score")
        return router.add(scorer=self._get_scorer(), method_mapping=both)

    def _settings(self) -> Settings:
        """Return the pair that was chosen; only a fitted estimator has one."""
        C, l1_ratio = float(np.ravel(self.C_)[0]), np.ravel(self.l1_ratio_)[0]
        if l1_ratio is None:  # the legacy layout, where no ratios were given
            l1_ratio = float(self.penalty == "l1")
        return Settings(C, 0.0 if np.isinf(C) else float(l1_ratio), ALGORITHMS[self.solver])

    def _get_scorer(self) -> Any:
        """Return the scorer; scikit-learn's tests know this name."""
        is_left = self.scoring is None or (isinstance(self.scoring, str) and self.scoring == "warn")
        return get_scorer("accuracy" if is_left else self.scoring)


def _ranked(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores, (n, n_pairs), in which NaN is the worst; warn of it.

    Raises
    ------
    ValueError
        If a row holds nothing else.
    """
    is_missing = np.isnan(scores)
    if is_missing.all(axis=1).any():
        raise ValueError(
            "scoring gives NaN for all pairs of Cs and l1_ratios. Use a score that is defined on "
            "the test rows of each fold, or another cv."
        )
    if is_missing.any():
        warnings.warn(
            f"scoring gives NaN for {is_missing.any(axis=0).sum()} of {scores.shape[1]} pairs of "
            "Cs and l1_ratios, none of which is chosen.",
            UserWarning,
            stacklevel=6,
        )
    return np.where(is_missing, -np.inf, scores)


def _legacy_layout(found: dict[str, Any], has_ratios: bool, refit: bool) -> dict[str, Any]:
    """Return attributes as they are in scikit-learn 1.9 unless it is told otherwise."""
    n_rows = found["coefs_paths_"].shape[3]
    shown = (slice(None), slice(None), slice(None) if has_ratios else 0)
    scores = found["scores_"].swapaxes(1, 2)[shown]
    paths = found["coefs_paths_"].transpose(3, 0, 2, 1, 4)
    classes = found["classes_"][-n_rows:]  # of two classes, the second
    l1_ratio = found["l1_ratio_"] if has_ratios or not refit else None
    return {
        "C_": np.full(n_rows, found["C_"]),
        "l1_ratio_": np.array([l1_ratio] * n_rows),
        "scores_": {label: scores.copy() for label in classes},
        "coefs_paths_": {label: path[shown] for label, path in zip(classes, paths, strict=True)},
        "n_iter_": found["n_iter_"].swapaxes(1, 2)[shown][None],
    }


def _checked_strengths(Cs: Any) -> NDArray[np.float64]:
    """Return the values of C."""
    if isinstance(Cs, Integral):
        return np.logspace(-4, 4, Cs)
    try:
        values = np.array(Cs, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 1 or not values.size or not np.all(values > 0):
        raise ValueError(
            "Cs must be a number of values, or an array-like of numbers in (0, inf]; got "
            f"Cs={Cs!r}."
        )
    return values


def _check_class_weight(class_weight: Any, classes: NDArray[Any]) -> None:
    if isinstance(class_weight, dict) and not set(class_weight) <= set(classes.tolist()):
        raise ValueError(
            "The keys of class_weight must be classes of y, which are "
            f"{classes.tolist()}; got {list(class_weight)}."
        )


def _fold_weights(weights: ArrayLike | None, train: NDArray[np.intp], fold: int, X: Any) -> Weights:
    """Return the weights of all rows of X for a fold: how often each is among the training rows."""
    counts = np.bincount(train, minlength=X.shape[0]).astype(np.float64)
    if weights is not None:
        counts *= np.asarray(weights, dtype=np.float64)
    if not counts.any():
        raise ValueError(
            f"Fold {fold} of cv has no training rows of positive weight. Use another splitter, "
            "or fewer folds."
        )
    return check_weights(counts, X)


def _dofs(fit: Fit) -> NDArray[Any]:
    """Return coefficients and, last, intercepts if there are any, (n_rows, n_dof)."""
    coef, intercept = fit.problem.coefficients(fit.result.params)
    return np.column_stack([coef, intercept]) if fit.problem.objective.fit_intercept else coef


def _model(dofs: NDArray[Any], fit_intercept: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return coefficients and intercepts."""
    if fit_intercept:
        return np.ascontiguousarray(dofs[:, :-1]), np.ascontiguousarray(dofs[:, -1])
    return dofs, np.zeros(len(dofs), dofs.dtype)


def _name(fit: Fit) -> str:
    return "all rows" if fit.part == 0 else f"fold {fit.part - 1}"


def _warn_of_failures(fits: NDArray[Any], Cs: NDArray[np.float64]) -> None:
    failed = [fit for fit in fits.flat if not fit.result.converged]
    if failed:
        worst = failed[0]
        warnings.warn(
            f"{len(failed)} of {fits.size} fits did not converge. The first, "
            f"C={Cs[worst.place]:.3g}, {_name(worst)}: {worst.result.message}",
            ConvergenceWarning,
            stacklevel=5,
        )
