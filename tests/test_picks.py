"""Gram matrices of rows picked from parts, against products of NumPy."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy import sparse

from fastsoftmax._designs import make_design, picks
from fastsoftmax._designs.choose import as_array
from fastsoftmax._validation import check_targets

N_FEATURES = 5


def parts_of(lengths, n_classes, density=1.0, dtype=np.float64, storage="dense"):
    """Return designs of parts, and coefficients."""
    rng = np.random.default_rng(len(lengths))
    designs = []
    for n in lengths:
        X = rng.normal(size=(n, N_FEATURES)) * (rng.random((n, N_FEATURES)) < density)
        X = X.astype(dtype)
        y = np.arange(n) % n_classes
        rows = sparse.csr_array(X) if storage == "csr" else X
        designs.append(make_design(rows, *check_targets(y, X, n_classes, rng.random(n) + 0.5)))
    n_rows = 1 if n_classes == 2 else n_classes
    return designs, rng.normal(size=(n_rows, N_FEATURES)), rng.normal(size=n_rows)


def picked(designs, coef, intercept, shared, centre, n_picks=20):
    """Return what was picked of each design, in the units of its weights."""
    centre = None if centre is None else centre.astype(np.float64)
    return [
        design.weight_scale * design.picked_rows(coef, intercept, n_picks, shared, centre)
        for design in designs
    ]


def sums_of(found, m, centre, density):
    """Return `GramSums` of it."""
    sums = picks.GramSums(m, centre, density, as_array)
    for one in found:
        sums += one
    return sums


def expected(found, m, centre):
    """Return the matrices as NumPy does."""
    grams = np.zeros((m, N_FEATURES + 1, N_FEATURES + 1))
    diagonals = sum(one.diagonals for one in found)
    for one in found:
        for part in one.parts:
            for k, (X, curvatures) in enumerate(part):
                X = X.toarray() if sparse.issparse(X) else X
                U = np.column_stack([X - centre, np.ones(len(X))]).astype(np.float64)
                grams[k] += U.T @ (curvatures[:, None] * U)
    for gram, diagonal in zip(grams, diagonals, strict=True):
        np.fill_diagonal(gram, np.maximum(np.diag(gram), diagonal))
    return grams


@pytest.mark.parametrize("lengths", [(300,), (1, 40, 7, 90), (30,) * 12])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("storage", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_parts_add_up(monkeypatch, lengths, n_classes, shared, storage, dtype, density):
    """Whatever comes at a time; `density` chooses how products are formed."""
    monkeypatch.setattr(picks, "_rows_at_a_time", lambda m, D: 3)
    designs, coef, intercept = parts_of(lengths, n_classes, density, dtype, storage)
    m = 1 if shared else len(coef)
    centre = np.full(N_FEATURES, 0.0 if storage == "csr" else 0.25, dtype)
    around = None if storage == "csr" else centre
    found = picked(designs, coef, intercept, shared, around)
    grams = expected(found, m, centre)
    for way in (0.001, 1.0):
        for parts in (found, [sum(found[1:], found[0])]):
            matrices = sums_of(parts, m, centre, way).matrices(0.5)
            np.testing.assert_allclose(2 * matrices, grams, rtol=0, atol=1e-12 * grams.max())


def test_curvature_is_kept():
    """Of a part, the curvatures of its picked rows are those of all its rows."""
    designs, coef, intercept = parts_of((100, 333), 4)
    for design in designs:
        rows = design.picked_rows(coef, intercept, 10, shared=False)
        totals = [curvatures.sum() for _, curvatures in rows.parts[0]]
        steps = rows.diagonals[:, -1] / 10
        assert (np.abs(totals - rows.diagonals[:, -1]) <= steps * (1 + 1e-9)).all()
        assert rows.size <= 4 * 11


@pytest.mark.parametrize("n_classes", [2, 5])
def test_same_bits_for_any_number_of_threads(n_classes):
    designs, coef, intercept = parts_of((200, 100), n_classes)
    centre = np.zeros(N_FEATURES)
    before = numba.get_num_threads()
    found = []
    try:
        for n_threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(n_threads)
            rows = picked(designs, coef, intercept, False, centre)
            found.append(sums_of(rows, len(coef), centre, 1.0).matrices(1.0))
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_rows_that_come_back_are_not_picked_again():
    """Of periods, in one design or as parts: many different rows, not the same ones of each."""
    n_periods, n_rows, n_picks = 16, 100, 64
    X = np.random.default_rng(0).normal(size=(n_rows, N_FEATURES))
    y = np.arange(n_rows) % 3
    coef, intercept = np.zeros((3, N_FEATURES)), np.zeros(3)

    def different(rows):
        return [len(np.unique(np.concatenate([part[k][0] for part in rows.parts]), axis=0))
                for k in range(3)]  # fmt: skip

    again, labels = np.tile(X, (n_periods, 1)), np.tile(y, n_periods)
    whole = make_design(again, *check_targets(labels, again, 3, None))
    whole_rows = whole.picked_rows(coef, intercept, n_picks, shared=False)
    parts = [make_design(X, *check_targets(y, X, 3, None), number=i) for i in range(n_periods)]
    found = [part.picked_rows(coef, intercept, n_picks // n_periods, False) for part in parts]
    # 64 draws out of 100 rows show 47 of them, in the mean.
    assert min(different(whole_rows)) >= 40
    assert min(different(sum(found[1:], found[0]))) >= 40
