"""scikit-learn's names for penalties and solvers -> the strengths and the solver that fit.

Texts and order of errors and warnings are those of scikit-learn 1.9, which code and tests of
users match.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fastsoftmax._solvers import SolverResult, Status

#: What runs for each value of `solver`: LIBLINEAR and stochastic gradients have no counterpart.
ALGORITHMS = {
    "auto": "auto",
    "lbfgs": "lbfgs",
    "liblinear": "auto",
    "newton-cg": "newton-cg",
    "newton-cholesky": "newton-cholesky",
    "sag": "auto",
    "saga": "auto",
}

_PENALTY_DEPRECATED = (
    "'penalty' was deprecated in version 1.8 of scikit-learn and will be removed in 1.10. To avoid "
    "this warning, leave 'penalty' set to its default value and use 'l1_ratio' or 'C' instead. Use "
    "l1_ratio=0 instead of penalty='l2', l1_ratio=1 instead of penalty='l1', l1_ratio set to a "
    "float between 0 and 1 instead of penalty='elasticnet', and C=np.inf instead of penalty=None."
)
_L1_RATIO_NONE = (
    "'l1_ratio=None' was deprecated in version 1.8 of scikit-learn and will trigger an error in "
    "1.10. Use 0<=l1_ratio<=1 instead."
)

#: How scikit-learn's solvers say that they reached `max_iter`; filters of warnings match it.
_AT_LIMIT = {
    "lbfgs": "lbfgs failed to converge after {n} iteration(s).",
    "liblinear": "Liblinear failed to converge, increase the number of iterations.",
    "newton-cg": "newton-cg failed to converge after {n} iteration(s). Increase the number of "
    "iterations.",
    "newton-cholesky": "Newton solver did not converge after {n} iterations.",
    "sag": "The max_iter was reached which means the coef_ did not converge.",
    "saga": "The max_iter was reached which means the coef_ did not converge.",
}


@dataclass(frozen=True)
class Settings:
    """What an estimator's parameters ask for.

    Attributes
    ----------
    C : float
        Inverse strength of the penalty, infinite without one.
    l1_ratio : float
        Share of the L1 norm in the penalty; 0 without a penalty.
    algorithm : {'auto', 'lbfgs', 'newton-cholesky', 'newton-cg'}
        See `fastsoftmax.linear_model._solve.solve`.
    notices : tuple of Warning
        What `fit` should warn about.
    """

    C: float
    l1_ratio: float
    algorithm: str
    notices: tuple[Warning, ...] = ()


def resolve(
    *, penalty: str | None, C: float, l1_ratio: float | None, dual: bool, solver: str
) -> Settings:
    """Return what parameters of `LogisticRegression`, each of them valid, ask for together.

    Raises
    ------
    ValueError
        If a solver's namesake in scikit-learn refuses the combination; 'auto' takes all.
    """
    notices: list[Warning] = []
    if penalty == "deprecated":
        if l1_ratio is None:
            notices.append(FutureWarning(_L1_RATIO_NONE))
        kind = None if math.isinf(C) else kind_of_penalty([l1_ratio or 0.0])
    else:
        notices.append(FutureWarning(_PENALTY_DEPRECATED))
        kind = penalty
    check_solver(solver, kind, dual)
    if kind != "elasticnet" and l1_ratio is not None and 0 < l1_ratio < 1:
        notices.append(
            UserWarning(
                f"l1_ratio parameter is only used when penalty is 'elasticnet'. Got "
                f"(penalty={kind})"
            )
        )
    if (penalty == "l2" and l1_ratio != 0) or (penalty == "l1" and l1_ratio != 1):
        notices.append(
            UserWarning(
                f"Inconsistent values: penalty={penalty} with l1_ratio={l1_ratio}. penalty is "
                "deprecated. Please use l1_ratio only."
            )
        )
    if kind == "elasticnet" and l1_ratio is None:
        raise ValueError("l1_ratio must be specified when penalty is elasticnet.")
    if penalty is None and C != 1.0:
        notices.append(
            UserWarning("Setting penalty=None will ignore the C and l1_ratio parameters")
        )
    if kind is None or math.isinf(C):
        C, share = math.inf, 0.0
    else:
        share = {"l2": 0.0, "l1": 1.0, "elasticnet": l1_ratio or 0.0}[kind]
    return Settings(C, share, ALGORITHMS[solver], tuple(notices))


def kind_of_penalty(l1_ratios: Iterable[float]) -> str:
    """Return scikit-learn's name of a penalty, or of a family of them, with these L1 shares."""
    shares = set(l1_ratios)
    return "l2" if shares == {0} else "l1" if shares == {1} else "elasticnet"


def check_solver(solver: str, kind: str | None, dual: bool) -> None:
    """Check that a solver's namesake in scikit-learn takes a kind of penalty, or None.

    Raises
    ------
    ValueError
    """
    if solver == "auto":
        return
    if solver not in ("liblinear", "saga") and kind not in ("l2", None):
        raise ValueError(
            f"Solver {solver} supports only 'l2' or None penalties, got {kind} penalty. Use "
            "solver='auto' or 'saga', or l1_ratio=0."
        )
    if solver != "liblinear" and dual:
        raise ValueError(
            f"Solver {solver} supports only dual=False, got dual={dual}. Both have the same "
            "optimum."
        )
    if kind == "elasticnet" and solver != "saga":
        raise ValueError(
            f"Only 'saga' solver supports elasticnet penalty, got solver={solver}. Use "
            "solver='auto' or 'saga'."
        )
    if solver == "liblinear" and kind is None:
        raise ValueError(
            "C=np.inf as well as penalty=None is not supported for the liblinear solver. Use "
            "solver='auto', or a finite C."
        )
    if solver == "liblinear" and kind == "l1" and dual:
        raise ValueError(
            "Unsupported set of arguments: The combination of penalty='l1' and "
            "loss='logistic_regression' are not supported when dual=True. Use dual=False."
        )


def check_composite(solver: str, l1_ratio: float) -> None:
    """Check that a solver takes an L1 penalty or bounds.

    Raises
    ------
    ValueError
        For bounds, where a solver of smooth objectives is named.
    """
    if l1_ratio == 0.0 and solver not in ("auto", "saga", "liblinear"):
        raise ValueError(
            f"Solver {solver} supports neither bounds nor positive=True. Use solver='auto'."
        )


def check_n_classes(solver: str, n_classes: int) -> None:
    """Check that a solver's namesake in scikit-learn takes so many classes.

    Raises
    ------
    ValueError
        For 'liblinear', which would fit one class against the rest.
    """
    if solver == "liblinear" and n_classes > 2:
        raise ValueError(
            "The 'liblinear' solver does not support multiclass classification (n_classes >= 3). "
            "Either use another solver or wrap the estimator in a OneVsRestClassifier to keep "
            "applying a one-versus-rest scheme."
        )


def convergence_message(solver: str, result: SolverResult) -> str:
    """Return what to warn of where a fit did not converge: the solver's message, and advice."""
    at_limit = result.status is Status.MAX_ITERATIONS and solver in _AT_LIMIT
    prefix = _AT_LIMIT[solver].format(n=result.n_iterations) + " " if at_limit else ""
    return prefix + result.message
