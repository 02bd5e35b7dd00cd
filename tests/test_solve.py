"""The choice of solver and preconditioner, whatever a design holds."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from scipy import sparse

from fastsoftmax import SoftmaxObjective
from fastsoftmax._designs import make_design
from fastsoftmax._validation import check_targets
from fastsoftmax.linear_model import _solve


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("kind", ["hessian", "grams", "shared gram", "diagonal"])
def test_every_preconditioner_reaches_the_optimum(kind, n_classes, storage, monkeypatch):
    """Also with an offset, where zero parameters do not make all classes equally likely."""
    if kind != "hessian":
        monkeypatch.setattr(_solve, "_FULL_HESSIAN", 0)
    if kind == "shared gram":
        monkeypatch.setattr(_solve, "_CLASS_GRAM_ENTRIES", 0)
    if kind == "diagonal":
        monkeypatch.setattr(_solve, "_CLASS_GRAMS", 0)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4)) * [1.0, 1e3, 1e-3, 1.0]
    n_rows = 1 if n_classes == 2 else n_classes
    offset = rng.normal(size=(300, n_rows))
    targets, weights = check_targets(rng.integers(0, n_classes, 300), X, n_classes, None)
    design = make_design(storage(X), targets, weights, offset)
    objective = SoftmaxObjective.from_design(design, l2=1e-2)
    result = _solve.solve(objective, np.zeros(objective.shape), tol=1e-8, max_iter=1000)
    assert result.converged
    oracle = reference.LinearModel(X, np.eye(n_classes)[targets.labels], l2=1e-2, offset=offset)
    gradient = oracle.gradient(result.params.reshape(objective.shape))
    assert np.abs(gradient).max() < 1e-8


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1797, 64, 10), "SumZeroPreconditioner"),  # digits
        ((60000, 200, 10), "BlockPreconditioner"),
        ((100, 2000, 5), "DiagonalPreconditioner"),  # a Gram matrix would cost 1000s of passes
    ],
)
def test_preconditioner_is_chosen_by_shape(shape, expected):
    n_samples, n_features, n_classes = shape
    X = np.ones((n_samples, n_features), np.float32)
    X[:, ::2] = 0.0
    X[:, 1] = np.arange(n_samples) % 7
    objective = SoftmaxObjective(X, np.arange(n_samples) % n_classes, l2=1e-2)
    make, _, _ = _solve._curvature(objective)
    assert type(make(np.zeros(np.prod(objective.shape)))).__name__ == expected


def test_lists_are_parameters_too():
    objective = SoftmaxObjective([[0.0], [1.0], [3.0]], [0, 1, 2])
    value, gradient = objective.value_and_gradient([[0.0, 0.0]] * 3)
    assert value == pytest.approx(np.log(3.0))
    assert gradient.shape == (3, 2)
