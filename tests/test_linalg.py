"""`fastsoftmax._linalg` against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from fastsoftmax._linalg import Cholesky, NotPositiveDefiniteError

EPS = float(np.finfo(np.float64).eps)
#: SciPy's; then tiles of 4 x 4, so every remainder, and several tiles.
SIZES = [1, 2, 32, *range(33, 41), 63, 64, 130]

every_size = pytest.mark.parametrize("n", SIZES)


def make_matrix(n, condition=1e3, seed=0):
    """Return a symmetric matrix of largest eigenvalue 1 and a given condition number."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    A = (Q * np.geomspace(1.0, 1.0 / condition, n)) @ Q.T
    return (A + A.T) / 2


def factor_of(cholesky, n):
    return np.tril(cholesky._factor)[:n, :n]


@every_size
def test_factor_times_its_transpose_is_the_matrix(n):
    A = make_matrix(n)
    L = factor_of(Cholesky(A), n)
    # Higham (2002), theorem 10.3: |LLᵀ - A| <= gamma_(n+1) |L||Lᵀ|, whose entries are at most 1.
    np.testing.assert_allclose(L @ L.T, A, rtol=0, atol=(n + 1) * EPS)
    assert np.all(np.diag(L) > 0)


@every_size
def test_factor_is_that_of_scipy(n):
    A = make_matrix(n)
    # The factor's condition number is at most that of the matrix.
    atol = 1e3 * (n + 1) * EPS
    expected = linalg.cholesky(A, lower=True)
    np.testing.assert_allclose(factor_of(Cholesky(A), n), expected, rtol=0, atol=atol)


@every_size
def test_solution_has_a_residual_of_a_few_roundings(n):
    A = make_matrix(n, condition=1e6)
    b = np.random.default_rng(1).normal(size=n)
    x = Cholesky(A).solve(b)
    # Higham (2002), theorem 10.4: backward stable, whatever the condition number; norm of A is 1.
    assert np.linalg.norm(A @ x - b) <= 4 * n * EPS * np.linalg.norm(x)


@every_size
def test_solution_is_that_of_scipy(n):
    A = make_matrix(n)
    b = np.random.default_rng(1).normal(size=n)
    expected = linalg.cho_solve(linalg.cho_factor(A), b)
    bound = 1e3 * 4 * n * EPS * np.linalg.norm(expected)
    np.testing.assert_allclose(Cholesky(A).solve(b), expected, rtol=0, atol=bound)


@every_size
def test_each_row_of_an_array_is_a_right_hand_side(n):
    A = make_matrix(n)
    B = np.random.default_rng(1).normal(size=(5, n))
    cholesky = Cholesky(A)
    X = cholesky.solve(B)
    assert X.shape == (5, n)
    for x, b in zip(X, B, strict=True):
        np.testing.assert_array_equal(x, cholesky.solve(b))
    np.testing.assert_array_equal(cholesky.solve(np.asfortranarray(B)), X)
    np.testing.assert_array_equal(cholesky.solve(B[::-1]), X[::-1])


def test_only_the_lower_triangle_is_read():
    A = make_matrix(9)
    b = np.arange(9.0)
    garbage = np.tril(A) + np.triu(np.full((9, 9), np.nan), 1)
    np.testing.assert_array_equal(Cholesky(garbage).solve(b), Cholesky(A).solve(b))


def test_arguments_are_not_changed():
    A, b = make_matrix(9), np.arange(9.0)
    A_before, b_before = A.copy(), b.copy()
    A.flags.writeable = b.flags.writeable = False
    Cholesky(A).solve(b)
    np.testing.assert_array_equal(A, A_before)
    np.testing.assert_array_equal(b, b_before)


@every_size
def test_a_matrix_with_a_negative_or_zero_eigenvalue_is_refused(n):
    Q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    indefinite = (Q * np.r_[np.ones(n - 1), -1e-6]) @ Q.T
    with pytest.raises(NotPositiveDefiniteError, match="not positive definite"):
        Cholesky(indefinite)
    with pytest.raises(NotPositiveDefiniteError):
        Cholesky(np.zeros((n, n)))


@every_size
def test_a_matrix_that_is_not_finite_is_refused(n):
    for index in {(0, 0), (n - 1, n - 1), (n - 1, 0), (n // 2, n // 3)}:
        A = make_matrix(n)
        A[index] = np.nan
        with pytest.raises(NotPositiveDefiniteError):
            Cholesky(A)
    A = make_matrix(n)
    A[n - 1, 0] = -np.inf
    if n > 1:
        with pytest.raises(NotPositiveDefiniteError):
            Cholesky(A)


@pytest.mark.parametrize("exponent", [-140, 140])
def test_extreme_scales_of_rows_and_columns_are_factored(exponent):
    scale = 2.0 ** (exponent * np.arange(9) / 8)
    A = make_matrix(9)
    b = np.arange(1.0, 10.0)
    scaled = Cholesky(A * scale * scale[:, None]).solve(b * scale)
    np.testing.assert_allclose(scaled * scale, Cholesky(A).solve(b), rtol=1e3 * 36 * EPS)
