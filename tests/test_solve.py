"""The choice of solver and preconditioner, whatever a design holds."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from scipy import sparse

from fastsoftmax import SoftmaxObjective
from fastsoftmax._designs import make_design
from fastsoftmax._solvers import CentredPreconditioner
from fastsoftmax._validation import check_targets
from fastsoftmax.linear_model import _solve

KINDS = {  # and the limits that lead to them
    "full Hessian": {},
    "a Gram matrix per class": {"_FULL_HESSIAN": 0, "_CLASS_GRAM_COST": np.inf},
    "one Gram matrix": {"_FULL_HESSIAN": 0, "_CLASS_GRAM_ENTRIES": 0},
    "diagonal": {"_FULL_HESSIAN": 0, "GRAM_COLUMNS": 0},
}


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_preconditioner_reaches_the_optimum(kind, solver, n_classes, storage, monkeypatch):
    """Also with an offset, where zero parameters do not make all classes equally likely."""
    for name, value in KINDS[kind].items():
        monkeypatch.setattr(_solve, name, value)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4)) * [1.0, 1e3, 1e-3, 1.0]
    n_rows = 1 if n_classes == 2 else n_classes
    offset = rng.normal(size=(300, n_rows))
    targets, weights = check_targets(rng.integers(0, n_classes, 300), X, n_classes, None)
    design = make_design(storage(X), targets, weights, offset)
    objective = SoftmaxObjective.from_design(design, l2=1e-2)
    start = np.zeros(objective.shape)
    result, name = _solve.solve(objective, start, solver=solver, tol=1e-8, max_iter=1000)
    if kind == "full Hessian" and solver == "newton-cg":
        kind = "a Gram matrix per class"  # with the Hessian there were nothing to iterate
    assert name == f"{solver} ({kind})"
    assert result.converged
    oracle = reference.LinearModel(X, np.eye(n_classes)[targets.labels], l2=1e-2, offset=offset)
    gradient = oracle.gradient(result.params.reshape(objective.shape))
    assert np.abs(gradient).max() < 1e-8


@pytest.mark.parametrize("is_hard", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_curvature_of_a_neighbour_leads_to_the_optimum(kind, n_classes, is_hard, monkeypatch):
    """That of all rows serves another penalty, and some of the rows."""
    for name, value in KINDS[kind].items():
        monkeypatch.setattr(_solve, name, value)
    monkeypatch.setattr(_solve, "is_small", lambda objective: False)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 4)) * [1.0, 30.0, 0.1, 1.0] + 3.0
    labels = (X[:, 0] + rng.normal(size=3000) > 3.0).astype(int)
    labels += (n_classes == 3) * (X[:, 1] + 30.0 * rng.normal(size=3000) > 3.0)
    targets, _ = check_targets(labels, X, n_classes, None)
    options = {"tol": 1e-8, "max_iter": 1000}

    def objective_of(l2, weights):
        return SoftmaxObjective(X, labels, l2=l2, sample_weight=weights)

    whole = objective_of(1e-2, None)
    optimum, _ = _solve.solve(whole, _solve.intercept_only(whole), **options)
    near = _solve.Neighbour(whole, optimum.params, is_hard)
    made = []
    for l2, weights in [(1e-2, np.arange(3000) >= 600), (1.1e-2, None), (1e-4, None)]:
        objective = objective_of(l2, weights)
        result, name = _solve.solve(objective, optimum.params, near=near, **options)
        assert name == f"lbfgs ({kind})"
        assert result.converged
        oracle = reference.LinearModel(X, np.eye(n_classes)[targets.labels], weights, l2)
        gradient = oracle.gradient(result.params.reshape(objective.shape))
        assert np.abs(gradient).max() < 1e-8
        made.append(near.preconditioner(objective.l2[:5]))
    # Strengths that are nearly the same share a factor.
    assert made[0] is made[1]
    assert made[1] is not made[2]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1797, 64, 10), "SumZeroPreconditioner"),  # digits
        ((60000, 300, 10), "BlockPreconditioner"),
        ((100, 3000, 5), "DiagonalPreconditioner"),
    ],
)
def test_preconditioner_is_chosen_by_shape(shape, expected):
    n_samples, n_features, n_classes = shape
    X = np.ones((n_samples, n_features), np.float32)
    X[:, ::2] = 0.0
    X[:, 1] = np.arange(n_samples) % 7
    y = np.arange(n_samples) % n_classes
    # Without an intercept there is no centre, and so nothing around the preconditioner.
    objective = SoftmaxObjective(X, y, l2=1e-2, fit_intercept=False)
    curvature = _solve._choose(objective, _solve._centre(objective), with_hessian=True)
    assert type(curvature.make(np.full(np.prod(objective.shape), 1e-3))).__name__ == expected


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_second_order_sums_are_centred_if_an_intercept_can_move_the_centre(fit_intercept):
    X = 5.0 + np.random.default_rng(0).normal(size=(300, 3))
    objective = SoftmaxObjective(X, np.arange(300) % 3, l2=1e-2, fit_intercept=fit_intercept)
    np.testing.assert_array_equal(
        _solve._centre(objective), objective.design.typical_row() if fit_intercept else np.zeros(3)
    )
    params = 0.1 * np.cos(np.arange(np.prod(objective.shape)))
    preconditioner = _solve._choose(objective, _solve._centre(objective), with_hessian=True).make(
        params
    )
    assert isinstance(preconditioner, CentredPreconditioner) == fit_intercept
    # Whatever the centre: the inverse of the Hessian on what sums to zero over the classes.
    step = np.sin(np.arange(len(params))).reshape(objective.shape)
    step -= step.mean(axis=0)
    product = objective.hessian_vector_product(params, step.ravel())
    np.testing.assert_allclose(preconditioner.apply(product), step.ravel(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("kind", ["labels", "soft", "weighted"])
def test_a_fit_starts_from_the_best_intercepts(kind, n_classes, storage):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), rng.integers(0, n_classes, 200)
    targets = np.eye(n_classes)[y]
    if kind == "soft":
        targets = 0.8 * targets + 0.2 / n_classes
    weights = rng.uniform(0.5, 2.0, 200) if kind == "weighted" else None
    labels = targets if kind == "soft" else y
    objective = SoftmaxObjective(storage(X), labels, sample_weight=weights)
    start = _solve.intercept_only(objective)
    assert start.shape == objective.shape
    assert not start[:, :-1].any()
    gradient = reference.LinearModel(X, targets, weights).gradient(start)
    np.testing.assert_allclose(gradient[:, -1], 0.0, rtol=0, atol=1e-14)
    no_intercept = SoftmaxObjective(storage(X), labels, fit_intercept=False)
    assert not _solve.intercept_only(no_intercept).any()


def test_a_fit_starts_with_classes_that_are_possible():
    y = np.repeat([0, 1, 2, 3], [5000, 4000, 1000, 0])
    objective = SoftmaxObjective(np.ones((len(y), 1)), y, n_classes=4)
    p = np.exp(_solve.intercept_only(objective)[:, -1])
    np.testing.assert_allclose(p / p.sum(), np.array([5000, 4000, 1000, 25]) / 10025, atol=1e-12)


def test_swapped_labels_negate_the_parameters():
    """However rare one of two classes is: the first curvature treats both alike."""
    X = np.random.default_rng(0).normal(size=(4000, 6))
    y = (np.arange(4000) % 50 == 0).astype(int)
    results = []
    for labels in (y, 1 - y):
        objective = SoftmaxObjective(X, labels, l2=1e-3)
        start = _solve.intercept_only(objective)
        results.append(_solve.solve(objective, start, solver="lbfgs", tol=1e-6, max_iter=100)[0])
    assert results[0].n_iterations == results[1].n_iterations
    np.testing.assert_allclose(results[0].params, -results[1].params, rtol=0, atol=1e-9)


def test_a_rotated_fit_starts_where_it_is_told():
    X = np.random.default_rng(0).normal(size=(200, 5000))
    objective = SoftmaxObjective(X, np.arange(200) % 3, l2=1e-2)
    start = np.zeros(objective.shape)
    start[:, -1] = [0.5, 0.25, -0.75]
    result, name = _solve.solve(objective, start, tol=1e-4, max_iter=0)
    assert "rotated" in name
    np.testing.assert_allclose(result.params.reshape(start.shape), start, rtol=0, atol=1e-15)


def test_lists_are_parameters_too():
    objective = SoftmaxObjective([[0.0], [1.0], [3.0]], [0, 1, 2])
    value, gradient = objective.value_and_gradient([[0.0, 0.0]] * 3)
    assert value == pytest.approx(np.log(3.0))
    assert gradient.shape == (3, 2)
