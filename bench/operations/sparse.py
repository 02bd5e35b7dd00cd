"""One pass over a sparse X: the objective with its gradient. Shapes stand for problems."""

import functools
from collections.abc import Callable

import numpy as np

from bench.operation import Case, Operation, Shape, register
from bench.operations.data import n_logit_rows
from bench.operations.passes import L2, pass_error, scikit_learn_pass
from bench.problems import Array, Matrix, load_problem, made_corpus

#: Features up to which a solver has Gram matrices, and coefficients stand class-major.
MOST_GRAM_COLUMNS = 2500
NAME = "sparse_loss_gradient"
#: Training rows, features and classes of the problems of the suite.
PROBLEMS: dict[Shape, str] = {
    (50_868, 74_288, 54): "debian_sections",
    (200_000, 500_000, 20): "zipf_corpus",
    (260_600, 507, 12): "flights_onehot",
}
QUICK_SHAPES: list[Shape] = [(600, 1000, 4)]


@functools.lru_cache(1)
def sparse_data(shape: Shape, dtype: str) -> tuple[Matrix, Array, Array]:
    """Return X, labels and small params ``(n_rows, n_features + 1)``.

    Other shapes than the suite's are made like ``zipf_corpus``.
    """
    n_samples, n_features, n_classes = shape
    if shape in PROBLEMS:
        problem = load_problem(PROBLEMS[shape], dtype)
        X, y = problem.X, problem.y
    else:
        data = made_corpus(n_samples, n_features, n_classes)
        X, y = data.X.astype(dtype), data.y
    rng = np.random.default_rng(0)
    params = rng.standard_normal((n_logit_rows(n_classes), n_features + 1), dtype=np.float32)
    return X, y, (0.1 * params).astype(dtype)


def our_pass(
    X: Matrix, y: Array, params: Array, n_classes: int
) -> tuple[Callable[[], tuple[float, Array]], Callable[[Array], Array]]:
    """Return what an iteration of our solver calls, and what puts its gradient class-major.

    Where features are many, coefficients and gradient stand feature-major throughout a fit.
    """
    from fastsoftmax import SoftmaxObjective
    from fastsoftmax._designs import SparseDesign

    n_rows = n_logit_rows(n_classes)
    objective = SoftmaxObjective(X, y, n_classes=n_classes, l2=L2, n_rows=n_rows)
    if X.shape[1] <= MOST_GRAM_COLUMNS:
        return lambda: objective.value_and_gradient(params), lambda gradient: gradient
    design = objective.design
    assert isinstance(design, SparseDesign)
    table, gradient = design.table(n_rows), design.table(n_rows)
    table[:, :n_rows] = params.T
    terms, l2 = design.terms(n_rows), objective.l2

    def evaluate() -> tuple[float, Array]:
        return design.mean_loss_into(n_rows, table, l2, terms, gradient), gradient

    return evaluate, lambda gradient: gradient[:, :n_rows].T


def ours(shape: Shape, dtype: str) -> Case:
    """Return a pass as a fit makes it, and how far it is from the right one."""
    X, y, params = sparse_data(shape, dtype)
    evaluate, class_major = our_pass(X, y, params, shape[2])
    return Case(
        evaluate,
        lambda found: pass_error((found[0], class_major(found[1])), X, y, params, L2),
    )


def scikit_learn(shape: Shape, dtype: str) -> Case:
    """``LinearModelLoss.loss_gradient``, called as LogisticRegression does."""
    X, y, params = sparse_data(shape, dtype)
    return scikit_learn_pass(X, y, params, shape[2])


register(
    Operation(
        NAME,
        {"fastsoftmax": ours, "scikit-learn": scikit_learn},
        list(PROBLEMS),
        QUICK_SHAPES,
        only_these=True,
    )
)
