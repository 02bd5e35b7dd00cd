"""`fastsoftmax._solvers.preconditioner` alone."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from functions import Inverse, make_quadratic

from fastsoftmax._solvers import (
    BlockPreconditioner,
    CentredPreconditioner,
    DiagonalPreconditioner,
    KroneckerPreconditioner,
    SumZeroPreconditioner,
)
from fastsoftmax._solvers.preconditioner import LaggedPreconditioner


def make_model(n_classes, n_rows, n_features=4, l2=0.1, seed=0, duplicate=False):
    """Return an oracle and parameters."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(100, n_features))
    if duplicate:
        X[:, -1] = X[:, 0]
    targets = reference.one_hot(rng.integers(0, n_classes, 100), n_classes)
    return reference.LinearModel(X, targets, l2=l2), rng.normal(size=(n_rows, n_features + 1))


def free_block(model, params):
    """Return the part of the loss's Hessian that `SumZeroPreconditioner` takes."""
    size = max(1, len(params) - 1) * params.shape[1]
    return (model.loss_hessian(params) / len(model.X))[:size, :size].copy()


@pytest.mark.parametrize(("n_classes", "n_rows"), [(2, 1), (2, 2), (3, 3), (6, 6)])
@pytest.mark.parametrize("l2", [0.1, 1e-3, 0.0, np.array([0.0, 1.0, 0.01, 10.0])], ids=str)
def test_sum_zero_preconditioner_is_the_pseudo_inverse_of_the_whole_hessian(n_classes, n_rows, l2):
    model, params = make_model(n_classes, n_rows, l2=l2)
    preconditioner = SumZeroPreconditioner(free_block(model, params), model.l2, n_rows)
    D = params.shape[1]
    # On the steps that sum to zero over rows; elsewhere the objective need not be curved.
    centre = np.eye(n_rows) - (1.0 / n_rows if n_rows > 1 else 0.0)
    projector = np.kron(centre, np.eye(D))
    inverse = np.linalg.pinv(projector @ model.hessian(params) @ projector, rcond=1e-10)
    for g in np.random.default_rng(1).normal(size=(5, n_rows * D)):
        step = preconditioner.apply(projector @ g)
        expected = inverse @ g
        # The factor is shifted by 1e-13 of its diagonal; condition numbers are below 1e5.
        np.testing.assert_allclose(step, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
        if n_rows > 1:
            rows = step.reshape(n_rows, D).sum(axis=0)
            np.testing.assert_allclose(rows, 0.0, atol=1e-14 * np.abs(step).max() * n_rows)


def test_sum_zero_preconditioner_makes_a_newton_step():
    model, _ = make_model(3, 3, l2=0.1)
    params = np.zeros((3, 5))  # near enough for full steps
    for _ in range(8):
        apply = SumZeroPreconditioner(free_block(model, params), model.l2, 3).apply
        params = params - apply(model.gradient(params).ravel()).reshape(params.shape)
    np.testing.assert_allclose(model.gradient(params), 0.0, atol=1e-12)


def test_damping_adds_so_much_of_the_reference():
    model, params = make_model(4, 4, l2=0.1)
    H, R = free_block(model, params), free_block(model, np.zeros_like(params))
    g = np.cos(np.arange(params.size))
    damped = SumZeroPreconditioner(H, model.l2, 4, lambda: R).damped(0.3)
    expected = SumZeroPreconditioner(H + 0.3 * R, model.l2, 4)
    np.testing.assert_allclose(damped.apply(g), expected.apply(g), rtol=1e-12)
    plain = SumZeroPreconditioner(H.copy(), model.l2, 4)
    assert plain.damped(0.3) is plain
    centre = np.arange(4.0)
    around = CentredPreconditioner(SumZeroPreconditioner(H, model.l2, 4, lambda: R), centre).damped(
        0.3
    )
    np.testing.assert_allclose(around.apply(g), CentredPreconditioner(expected, centre).apply(g))


@pytest.mark.parametrize("logits", [[0.0] * 5, [0.0, -1.0, 2.0, 0.5, 0.6], [0.0, 0.0, 0.0, -9.0]])
@pytest.mark.parametrize("l2", [0.1, 0.0, np.array([0.0, 1.0, 0.01, 10.0])], ids=str)
def test_kronecker_preconditioner_inverts_the_hessian_where_only_intercepts_count(logits, l2):
    """Exactly, but for eigenvalues within 20 % of one another, which share a factor."""
    n_classes = len(logits)
    model, _ = make_model(n_classes, n_classes, l2=l2)
    params = np.zeros((n_classes, 5))
    params[:, -1] = logits
    p = np.exp(logits) / np.exp(logits).sum()
    U = model.X  # with the ones
    by_class = np.diag(p) - np.outer(p, p)
    apply = KroneckerPreconditioner(by_class, U.T @ U / 100, model.l2).apply
    rng = np.random.default_rng(0)
    for _ in range(5):
        step = rng.normal(size=(n_classes, 5))
        step -= step.mean(axis=0)
        found = apply(model.hessian(params) @ step.ravel()).reshape(step.shape)
        share = np.linalg.norm(found - step) / np.linalg.norm(step)
        assert share < (1e-9 if len(set(logits)) == 1 else 0.2)
        np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-9)


def test_kronecker_preconditioner_of_one_row():
    model, _ = make_model(2, 1, l2=0.1)
    params = np.array([[0.0, 0.0, 0.0, 0.0, 0.7]])
    p = 1.0 / (1.0 + np.exp(-0.7))
    U = model.X  # with the ones
    apply = KroneckerPreconditioner(np.array([[p * (1 - p)]]), U.T @ U / 100, model.l2).apply
    g = np.arange(1.0, 6.0)
    np.testing.assert_allclose(apply(model.hessian(params) @ g), g, rtol=1e-9)


class Recorded(Inverse):
    """An exact preconditioner that tells how often it was damped."""

    def __init__(self, log):
        super().__init__(np.eye(1), is_exact=True)
        self.log = log

    def damped(self, damping):
        self.log.append(damping)
        return self


def lagged(log, lags=(3, 3, 3), cost=5.0):
    return LaggedPreconditioner(lambda x: Recorded(log), lags, cost, np.zeros(1))


def test_a_preconditioner_is_old_after_its_lag_and_only_where_a_new_one_pays():
    current = lagged([])
    assert [current.is_old(1.0, np.inf) for _ in range(4)] == [False, False, True, True]
    assert not current.is_old(1.0, 5.0)
    assert current.is_old(1.0, 5.1)
    current.build(np.zeros(1))
    assert not current.is_old(1.0, np.inf)


@pytest.mark.parametrize("step_size", [0.05, 7.0])
def test_steps_far_from_one_make_an_exact_preconditioner_old_where_a_new_one_pays(step_size):
    assert lagged([]).is_old(step_size, 6.0)
    assert not lagged([]).is_old(step_size, 4.0)
    inexact = LaggedPreconditioner(lambda x: Inverse(np.eye(1)), (3,), 0.0, np.zeros(1))
    assert not inexact.is_old(step_size, np.inf)


def test_the_first_step_after_a_build_controls_the_damping_of_the_next():
    log = []
    current = lagged(log)
    for step_size in (1.0, 0.3, 0.6):
        current.is_old(step_size, np.inf)
        current.is_old(0.01, np.inf)  # a later step has no say
        current.build(np.zeros(1))
    assert log[0] == 0.0  # the start may be the optimum
    np.testing.assert_allclose(log[1:], [1e-3, 4e-3, 4e-3])


@pytest.mark.parametrize("n_blocks", [1, 3])
def test_block_preconditioner_inverts_each_row_s_block(n_blocks):
    rng = np.random.default_rng(0)
    blocks = np.array([make_quadratic(n=5, condition=1e2, seed=s)[1] for s in range(n_blocks)])
    l2 = rng.uniform(0, 1, 5)
    g = rng.normal(size=(3, 5))
    step = BlockPreconditioner(blocks, l2, 3).apply(g.ravel()).reshape(3, 5)
    every = np.broadcast_to(blocks, (3, 5, 5)) + np.diag(l2)
    expected = np.stack([np.linalg.solve(block, row) for block, row in zip(every, g, strict=True)])
    expected -= expected.mean(axis=0)
    # Each block's diagonal is raised by 1e-7 of its mean; condition numbers are below 1e2.
    np.testing.assert_allclose(step, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_block_preconditioner_of_one_row_is_not_centred():
    _, H, _ = make_quadratic(n=5, condition=1e2)
    g = np.arange(1.0, 6.0)
    step = BlockPreconditioner(H[None], np.zeros(5), 1).apply(g)
    np.testing.assert_allclose(step, np.linalg.solve(H, g), rtol=1e-4)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_centred_preconditioner_is_that_of_the_transformed_parameters(n_rows):
    """In ``v = T w``, coefficients of ``x - centre``, gradients are ``T⁻ᵀ g`` and steps ``T s``."""
    rng = np.random.default_rng(0)
    centre, D = rng.normal(size=3), 4
    T = np.eye(D)
    T[-1, :-1] = centre
    T = np.kron(np.eye(n_rows), T)
    A = rng.normal(size=(n_rows * D, n_rows * D))

    class Matrix:
        is_exact = keeps_scale = True

        def apply(self, gradient):
            return A @ gradient

    g = rng.normal(size=n_rows * D)
    before = g.copy()
    step = CentredPreconditioner(Matrix(), centre).apply(g)
    back = np.linalg.inv(T)
    np.testing.assert_allclose(step, back @ (A @ (back.T @ g)), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(g, before)


def test_diagonal_preconditioner_divides_and_centres():
    diagonal = np.array([[1.0, 2.0, 0.0], [4.0, 2.0, 0.0]])
    g = np.array([[1.0, 2.0, 3.0], [8.0, -2.0, 5.0]])
    step = DiagonalPreconditioner(diagonal).apply(g.ravel())
    np.testing.assert_allclose(step, [-0.5, 1.0, -1.0, 0.5, -1.0, 1.0])
    one = DiagonalPreconditioner(diagonal[:1]).apply(g[0])
    np.testing.assert_allclose(one, [1.0, 1.0, 3.0])


def test_preconditioners_are_symmetric_and_positive():
    model, params = make_model(4, 4)
    blocks = np.array([make_quadratic(n=5, condition=1e2, seed=s)[1] for s in range(4)])
    for preconditioner in (
        SumZeroPreconditioner(free_block(model, params), model.l2, 4),
        KroneckerPreconditioner(np.eye(4) / 4 - 1 / 16, blocks[0], model.l2),
        BlockPreconditioner(blocks[:1], model.l2, 4),
        DiagonalPreconditioner(np.tile(np.arange(1.0, 6.0), (4, 1))),
    ):
        centre = np.kron(np.eye(4) - 0.25, np.eye(5))
        matrix = np.column_stack([preconditioner.apply(centre @ e) for e in np.eye(20)])
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12 * np.abs(matrix).max())
        eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        assert np.sum(eigenvalues > 1e-6 * eigenvalues[-1]) == 15
        assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


@pytest.mark.parametrize("n_rows", [1, 3])
def test_singular_matrices_give_finite_steps(n_rows):
    n_classes = max(2, n_rows)
    model, params = make_model(n_classes, n_rows, l2=0.0, duplicate=True)
    g = model.gradient(params).ravel()
    D = params.shape[1]
    preconditioner = SumZeroPreconditioner(free_block(model, params), model.l2, n_rows)
    step = preconditioner.apply(g)
    assert np.all(np.isfinite(step))
    # g lies in the range of H, so that H step = g though H is singular.
    np.testing.assert_allclose(model.hessian(params) @ step, g, rtol=0, atol=1e-8)
    gram = model.X.T @ model.X
    for block in (gram, np.zeros((D, D)), np.ones((D, D))):
        step = BlockPreconditioner(block[None].copy(), np.zeros(D), n_rows).apply(g)
        assert np.all(np.isfinite(step))
    zeros = np.zeros((max(1, n_rows - 1) * D,) * 2)
    assert np.all(np.isfinite(SumZeroPreconditioner(zeros, np.zeros(D), n_rows).apply(g)))


def test_units_of_the_features_do_not_matter():
    model, params = make_model(3, 3, l2=0.0)
    g = model.gradient(params)
    step = SumZeroPreconditioner(free_block(model, params), model.l2, 3).apply(g.ravel())
    units = np.array([1e-6, 1.0, 1e6, 1e3, 1.0])
    tiled = np.tile(units, 2)
    scaled = free_block(model, params) * tiled * tiled[:, None]
    other = SumZeroPreconditioner(scaled, model.l2, 3).apply((g * units).ravel())
    np.testing.assert_allclose(other.reshape(3, 5) * units, step.reshape(3, 5), rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_matrices_that_are_not_finite_raise(bad):
    matrix = np.eye(4)
    matrix[2, 1] = bad
    with pytest.raises(FloatingPointError, match="Hessian overflows"):
        SumZeroPreconditioner(matrix.copy(), np.zeros(2), 3)
    with pytest.raises(FloatingPointError, match="Hessian overflows"):
        BlockPreconditioner(matrix[None], np.zeros(4), 2)
