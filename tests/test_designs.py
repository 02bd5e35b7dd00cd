"""Every storage of X through the same tests, against the oracle."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np
import pytest
import reference
from scipy import sparse
from scipy.optimize import approx_fprime

from fastsoftmax import SoftmaxObjective
from fastsoftmax._designs import (
    Response,
    curvature,
    dense,
    make_design,
    partition,
    predict,
    rotate,
)
from fastsoftmax._designs import sparse as sparse_storage
from fastsoftmax._designs.dense import DenseDesign
from fastsoftmax._designs.picks import EvenPicks
from fastsoftmax._designs.sparse import SparseDesign
from fastsoftmax._designs.used import used_columns
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import dense as kernels
from fastsoftmax._kernels.tiles import padded_zeros
from fastsoftmax._threads import sweep
from fastsoftmax._validation import Targets, Weights, check_design_matrix, check_targets

DTYPES = (np.float32, np.float64)
STORAGES = {"dense": (np.asarray, DenseDesign), "csr": (sparse.csr_array, SparseDesign)}


class Tolerance(NamedTuple):
    mean: float  # absolute, of means of products of order 1: 16 roundings of the logits' dtype
    response: float  # absolute, of logits below 10 and what follows from them: 32 roundings


TOLERANCE = {
    dtype: Tolerance(16 * eps, 32 * eps)
    for dtype, eps in ((d, float(np.finfo(d).eps)) for d in DTYPES)
}

# n, d, K, rows of logits.
SHAPES = [(1, 1, 2, 1), (70, 3, 2, 1), (70, 3, 2, 2), (333, 6, 5, 5), (5001, 2, 3, 3)]


class Problem(NamedTuple):
    X: np.ndarray
    targets: Targets
    weights: Weights
    offset: np.ndarray | None
    oracle: reference.LinearModel
    coef: np.ndarray
    intercept: np.ndarray

    @property
    def params(self):
        return np.column_stack([self.coef, self.intercept])

    def design(self, storage):
        make, cls = STORAGES[storage]
        design = make_design(make(self.X), self.targets, self.weights, self.offset)
        assert type(design) is cls
        return design


def make_problem(shape, dtype, *, kind="plain", seed=0):
    """Return a problem whose X is half zeros; `kind` says what comes with it."""
    n_samples, n_features, n_classes, n_rows = shape
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features)).astype(dtype)
    X[rng.random(X.shape) < 0.5] = 0.0
    labels = rng.integers(0, n_classes, n_samples)
    masses, y, sample_weight, offset = reference.one_hot(labels, n_classes), labels, None, None
    if "soft" in kind:
        y = masses = rng.uniform(0, 1, (n_samples, n_classes))
    if "weights" in kind:
        sample_weight = rng.uniform(0, 1, n_samples) * (rng.random(n_samples) < 0.8)
        sample_weight[-1] = 1.0
    if "offset" in kind:
        offset = rng.normal(size=(n_samples, n_rows)).astype(dtype)
    targets, weights = check_targets(y, check_design_matrix(X), n_classes, sample_weight)
    oracle = reference.LinearModel(X, masses, sample_weight, offset=0 if offset is None else offset)
    coef, intercept = rng.normal(size=(n_rows, n_features)), rng.normal(size=n_rows)
    # Exact in float32, so that the oracle sees the same parameters.
    coef, intercept = coef.astype(np.float32).astype(float), intercept.astype(np.float32)
    return Problem(X, targets, weights, offset, oracle, coef, intercept.astype(float))


every_storage = pytest.mark.parametrize("storage", STORAGES)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
KINDS = ["plain", "weights", "soft", "offset", "weights soft offset"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def near(sums, expected, problem, dtype):
    """Assert that sums over rows agree, in units of the sum of weights."""
    total = problem.weights.total
    bound = TOLERANCE[dtype].mean
    np.testing.assert_allclose(sums / total, expected / total, rtol=0, atol=bound)


def oracle_scale(problem):
    """Return what the oracle's sums are to be multiplied by: it scales weights alone by the
    largest, the package weights times masses."""
    return problem.weights.total / problem.oracle.masses.sum()


# --- Sums -----------------------------------------------------------------------------------------


@every_storage
@both_dtypes
@every_kind
@every_shape
class TestSums:
    def test_loss_and_gradient(self, shape, kind, dtype, storage):
        p = make_problem(shape, dtype, kind=kind)
        design = p.design(storage)
        total = p.weights.total
        loss, gradient = design.loss_and_gradient(p.coef, p.intercept)
        near(loss, p.oracle.value(p.params) * total, p, dtype)
        near(gradient, p.oracle.gradient(p.params) * total, p, dtype)
        assert gradient.dtype == np.float64
        assert design.loss(p.coef, p.intercept) == loss
        assert design.weight_sum == total

    def test_attributes(self, shape, kind, dtype, storage):
        design = make_problem(shape, dtype, kind=kind).design(storage)
        assert (design.n_samples, design.n_features, design.n_classes) == shape[:3]
        assert design.dtype == dtype

    def test_curvature(self, shape, kind, dtype, storage):
        """Hessian, its product with a direction, class Grams and diagonals are one matrix."""
        p = make_problem(shape, dtype, kind=kind)
        design = p.design(storage)
        n_rows, D = shape[3], shape[1] + 1
        whole = p.oracle.loss_hessian(p.params) * oracle_scale(p)
        size = max(1, n_rows - 1) * D
        hessian = design.hessian(p.coef, p.intercept)
        assert hessian.dtype == np.float64
        near(hessian, whole[:size, :size], p, dtype)
        np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12, atol=1e-12)

        V, v = np.cos(np.arange(n_rows * D)).reshape(n_rows, D).astype(np.float32), slice(None, -1)
        product = design.hessian_vector_product(
            p.coef, p.intercept, V[:, v].astype(float), V[:, -1].astype(float)
        )
        near(product.ravel(), whole @ V.ravel().astype(float), p, dtype)

        grams = design.class_grams(p.coef, p.intercept, shape[0], shared=False)
        blocks = np.stack([whole[k * D : (k + 1) * D, k * D : (k + 1) * D] for k in range(n_rows)])
        near(grams, blocks, p, dtype)
        mean = design.class_grams(p.coef, p.intercept, shape[0], shared=True)
        near(mean, blocks.mean(axis=0, keepdims=True), p, dtype)
        diagonals = design.class_diagonals(p.coef, p.intercept)
        near(diagonals, np.einsum("kjj->kj", blocks), p, dtype)


@both_dtypes
@pytest.mark.parametrize("kind", ["plain", "weights soft offset"])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("most_rows", [7, 20])
def test_sparse_class_grams_of_picked_rows_are_those_of_dense_ones(
    most_rows, shape, kind, dtype, monkeypatch
):
    p = make_problem(shape, dtype, kind=kind)
    monkeypatch.setattr("fastsoftmax._designs.sparse._EXACT_PASSES", 0.0)
    for shared in (False, True):
        grams = [
            p.design(storage).class_grams(p.coef, p.intercept, most_rows, shared)
            for storage in ("csr", "dense")
        ]
        scale = np.abs(grams[1]).max()
        np.testing.assert_allclose(*grams, rtol=0, atol=TOLERANCE[dtype].mean * 100 * scale)


# --- Dense second-order sums: around a centre, of some rows ---------------------------------------

weighted = pytest.mark.parametrize("kind", ["plain", "weights soft offset"])


def centred_hessian(p, centre):
    """Return the oracle's Hessian with respect to coefficients of ``u = [x - centre, 1]``.

    Summed in blocks: of 5001 terms of one sign, one after the other, the oracle itself loses more
    digits than the tolerance allows.
    """
    u, curvatures = p.oracle.X - np.append(centre, 0.0), p.oracle.curvatures(p.params)
    size = p.params.size
    total = np.zeros((size, size))
    for start in range(0, len(u), 64):
        rows = slice(start, start + 64)
        block = np.einsum("iab,ij,il->ajbl", curvatures[rows], u[rows], u[rows])
        total += block.reshape(size, size)
    return total * oracle_scale(p)


@both_dtypes
@weighted
@every_shape
def test_curvature_around_a_centre(shape, kind, dtype):
    p = make_problem(shape, dtype, kind=kind)
    design = p.design("dense")
    n_rows, D = shape[3], shape[1] + 1
    for centre in (design.typical_row(), np.cos(np.arange(shape[1])).round(2)):
        centre = centre.astype(dtype).astype(float)
        whole = centred_hessian(p, centre)
        size = max(1, n_rows - 1) * D
        near(design.hessian(p.coef, p.intercept, centre), whole[:size, :size], p, dtype)
        blocks = whole.reshape(n_rows, D, n_rows, D)[range(n_rows), :, range(n_rows), :]
        for shared in (False, True):
            expected = blocks.mean(axis=0, keepdims=True) if shared else blocks
            grams = design.class_grams(p.coef, p.intercept, shape[0], shared, centre)
            near(grams, expected, p, dtype)
            diagonals = design.class_diagonals(p.coef, p.intercept, centre, shared)
            near(diagonals, np.einsum("kjj->kj", expected), p, dtype)


@both_dtypes
def test_sparse_designs_refuse_a_centre(dtype):
    p = make_problem((70, 3, 3, 3), dtype)
    design = p.design("csr")
    np.testing.assert_array_equal(design.typical_row(), np.zeros(3))
    arguments = (p.coef, p.intercept)
    for centre, refused in ((np.zeros(3), False), (np.ones(3), True)):
        calls = [
            lambda c=centre: design.hessian(*arguments, c),
            lambda c=centre: design.hessian_passes(3, c),
            lambda c=centre: design.class_grams(*arguments, 70, False, c),
            lambda c=centre: design.class_gram_passes(3, 70, False, c),
            lambda c=centre: design.class_diagonals(*arguments, c),
        ]
        for call in calls:
            if refused:
                with pytest.raises(ValueError, match="dense"):
                    call()
            else:
                assert np.all(np.isfinite(call()))


@pytest.mark.parametrize("shared", [False, True])
@both_dtypes
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("most_rows", [1, 7, 40])
class TestDenseGramsOfSomeRows:
    @weighted
    def test_they_are_bounded_below_by_the_diagonal(self, most_rows, shape, kind, dtype, shared):
        p = make_problem(shape, dtype, kind=kind)
        design = p.design("dense")
        for centre in (None, design.typical_row()):
            grams = design.class_grams(p.coef, p.intercept, most_rows, shared, centre)
            assert grams.shape == (1 if shared else shape[3], shape[1] + 1, shape[1] + 1)
            np.testing.assert_array_equal(grams, grams.swapaxes(1, 2))
            diagonals = design.class_diagonals(p.coef, p.intercept, centre, shared)
            found = np.einsum("kjj->kj", grams)
            assert (found >= diagonals * (1 - 1e-12)).all()
            scale = 1.0 / np.sqrt(found)
            eigenvalues = np.linalg.eigvalsh(grams * scale[:, None] * scale[:, :, None])
            # One picked row, and nothing missing in what it shows, is a matrix of rank one.
            assert eigenvalues.min() > (-1e-14 if most_rows <= shape[1] else 1e-6)

    def test_a_weight_of_2_is_the_row_twice(self, most_rows, shape, dtype, shared):
        p = make_problem(shape, dtype)
        n_samples, n_classes = shape[0], shape[2]
        rng = np.random.default_rng(1)
        weights = 2 ** rng.integers(0, 3, n_samples)  # exact in units of the largest
        rows = np.repeat(np.arange(n_samples), weights)
        labels = rng.integers(0, n_classes, n_samples)
        grams = []
        for X, y, w in ((p.X, labels, weights), (p.X[rows], labels[rows], None)):
            design = make_design(X, *check_targets(y, X, n_classes, w))
            gram = design.class_grams(p.coef, p.intercept, most_rows, shared, np.ones(shape[1]))
            grams.append(design.weight_scale * gram)
        # The same products of the same rows; sums of curvatures differ in their last bits.
        bound = 1e-11 * np.abs(grams[0]).max()
        np.testing.assert_allclose(grams[0], grams[1], rtol=0, atol=bound)

    def test_rows_of_weight_zero_are_not_picked(self, most_rows, shape, dtype, shared):
        p = make_problem(shape, dtype)
        n_samples, _, n_classes, _ = shape
        weights = 1.0 + np.arange(n_samples) % 3
        weights[::3] = 0.0
        counts = weights > 0
        labels = np.arange(n_samples) % n_classes
        X = p.X.copy()
        X[~counts] = 1e30
        grams = []
        for rows in (slice(None), counts):
            A, y, w = X[rows], labels[rows], weights[rows]
            design = make_design(A, *check_targets(y, A, n_classes, w))
            grams.append(design.class_grams(p.coef, p.intercept, most_rows, shared))
        bound = 1e-11 * np.abs(grams[1]).max()
        np.testing.assert_allclose(grams[0], grams[1], rtol=0, atol=bound)


def test_picks_of_a_class_that_is_certain_everywhere():
    p = make_problem((70, 3, 3, 3), np.float64)
    intercept = np.array([0.0, 0.0, -1e4])
    grams = p.design("dense").class_grams(p.coef, intercept, 7, False)
    np.testing.assert_array_equal(grams[2], 0.0)
    assert np.all(np.isfinite(grams))


def picks_of(p, most_rows, shared, block_rows):
    """Return curvatures and `EvenPicks` of them, block by block, and what it picked of each."""
    P = reference.softmax(p.oracle.logits(p.params)).T[-len(p.coef) :]
    weights = p.weights.scaled.astype(float) if p.weights.scaled.size else np.ones(len(p.X))
    curvatures = weights * P * (1.0 - P)
    curvatures = curvatures.mean(axis=0, keepdims=True) if shared else curvatures
    picks = EvenPicks(curvatures.sum(axis=1, keepdims=True), most_rows)
    for start in range(0, len(p.X), block_rows):
        n = np.arange(start, min(start + block_rows, len(p.X)))
        picks.add(curvature.block(n, p.X[n], np.zeros(3, p.X.dtype), P[:, n], weights[n]), shared)
    picked = [
        [np.concatenate(part) for part in zip(*parts, strict=True)] for parts in picks._picked
    ]
    return curvatures, picked


@weighted
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("block_rows", [1000, 7])
@pytest.mark.parametrize("most_rows", [1, 10, 100])
def test_even_picks_follow_the_curvature(most_rows, block_rows, shared, kind):
    """Up to any row, what is picked is within a step of the curvature so far."""
    p = make_problem((333, 3, 4, 4), np.float64, kind=kind)
    curvatures, picked = picks_of(p, most_rows, shared, block_rows)
    assert len(picked) == len(curvatures)
    for row, (numbers, amounts) in zip(curvatures, picked, strict=True):
        step = row.sum() / most_rows
        dense_amounts = np.zeros(len(row))
        dense_amounts[numbers] = amounts
        difference = np.cumsum(dense_amounts) - np.cumsum(row)
        assert np.abs(difference).max() <= step * (1 + 1e-9)
        assert np.abs(dense_amounts - row).max() <= 2 * step * (1 + 1e-9)
        np.testing.assert_allclose(amounts / step, np.round(amounts / step), atol=1e-9)
        assert len(numbers) == len(np.unique(numbers)) <= most_rows + 1
        assert (row[numbers] > 0).all()
        assert amounts.sum() == pytest.approx(row.sum(), rel=1e-9)


# --- The typical row ------------------------------------------------------------------------------


def design_of(X, weights=None):
    return make_design(X, *check_targets(np.arange(len(X)) % 2, X, 2, weights))


@both_dtypes
@pytest.mark.parametrize("n_samples", [1, 2, 7, 150, 200])
def test_typical_row_has_medians_that_occur(n_samples, dtype):
    """An even number of rows has two; either is one."""
    X = np.random.default_rng(0).normal(size=(n_samples, 5)).astype(dtype)
    row = design_of(X).typical_row()
    assert row.dtype == np.float64
    for entry, column in zip(row, X.T, strict=True):
        assert entry in column
        below, above = (column < entry).sum(), (column > entry).sum()
        assert max(below, above) <= n_samples / 2


@both_dtypes
def test_typical_row_of_many_rows_lies_amidst_them(dtype):
    X = np.random.default_rng(0).normal(size=(10_000, 5)).astype(dtype)
    row = design_of(X).typical_row()
    assert all(entry in column for entry, column in zip(row, X.T, strict=True))
    share_below = (row > X).mean(axis=0)
    assert (np.abs(share_below - 0.5) < 0.15).all()  # 4 standard deviations for 200 rows


@both_dtypes
@pytest.mark.parametrize("n_samples", [101, 5000])
def test_typical_entry_of_a_standardised_one_hot_column_is_its_majority_value(n_samples, dtype):
    X = reference.one_hot(np.random.default_rng(0).integers(0, 5, n_samples), 5)
    X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(dtype)
    row = design_of(X).typical_row()
    np.testing.assert_array_equal(row, X.min(axis=0))
    np.testing.assert_array_equal((row.astype(dtype) == X).sum(axis=1), 4)


@pytest.mark.parametrize("n_samples", [30, 5000])
def test_rows_of_weight_zero_are_not_typical(n_samples):
    X = np.random.default_rng(0).normal(size=(n_samples, 3))
    weights = np.ones(n_samples)
    weights[np.arange(n_samples) % 4 > 0] = 0.0
    X[weights == 0] = 1e300
    expected = design_of(X[weights > 0], weights[weights > 0]).typical_row()
    np.testing.assert_array_equal(design_of(X, weights).typical_row(), expected)


# --- Margins --------------------------------------------------------------------------------------


@every_storage
@both_dtypes
@every_kind
@every_shape
def test_margins(shape, kind, dtype, storage):
    """Of a direction: an offset is no part of it."""
    p = make_problem(shape, dtype, kind=kind)
    found = p.design(storage).margins((p.coef, p.intercept))
    if "soft" in kind:
        assert found is None
        return
    z = p.oracle.X @ p.params.T
    z = np.hstack([np.zeros_like(z), z]) if shape[3] == 1 else z
    margins = [
        z[i, label] - z[i, k]
        for i, label in enumerate(p.targets.labels)
        for k in range(shape[2])
        if k != label and p.oracle.weights[i] > 0
    ]
    bound = TOLERANCE[dtype].response
    np.testing.assert_allclose(found.low, min(margins), rtol=0, atol=bound)
    np.testing.assert_allclose(found.high, max(*margins, 0.0), rtol=0, atol=bound)


def shortfall(X, y, weights, n_classes, params):
    """Half the weighted mean of the squares of negative margins, from its definition."""
    z = np.column_stack([X, np.ones(len(X))]) @ params.T
    z = np.hstack([np.zeros_like(z), z]) if len(params) == 1 else z
    total = 0.0
    for row, label, weight in zip(z, y, weights, strict=True):
        total += sum(0.5 * weight * min(row[label] - row[k], 0.0) ** 2 for k in range(n_classes))
    return total / np.sum(weights)


@every_storage
@pytest.mark.parametrize("shape", [(40, 3, 4, 4), (40, 3, 2, 2), (40, 3, 2, 1)])
def test_the_shortfall_of_margins_and_its_gradient(shape, storage):
    p = make_problem(shape, np.float64)
    weights = np.linspace(0.0, 2.0, len(p.X))
    y, K = p.targets.labels, shape[2]
    make, _ = STORAGES[storage]
    design = make_design(make(p.X), *check_targets(y, p.X, K, weights))
    found = design.margins((p.coef, p.intercept), want_gradient=True)
    gradient = np.column_stack([found.coef_gradient, found.intercept_gradient])
    assert found.shortfall == pytest.approx(shortfall(p.X, y, weights, K, p.params), rel=1e-12)
    numerical = approx_fprime(
        p.params.ravel(),
        lambda flat: shortfall(p.X, y, weights, K, flat.reshape(p.params.shape)),
    )
    np.testing.assert_allclose(gradient.ravel(), numerical, rtol=1e-5, atol=1e-6)


@every_storage
@both_dtypes
def test_margins_take_little_memory(dtype, storage):
    p = make_problem((20_000, 300, 3, 3), dtype)
    design = p.design(storage)
    tracemalloc.start()
    found = design.margins((p.coef, p.intercept))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < 0 < found.high
    assert peak < 20e6  # X in float64 would take 48 MB


@every_storage
def test_margins_ignore_rows_of_weight_zero_whatever_they_hold(storage):
    p = make_problem((70, 3, 3, 3), np.float64)
    X, weights = p.X.copy(), np.ones(70)
    X[::7], weights[::7] = 1.7e308, 0.0
    y, counts = p.targets.labels, weights > 0
    make, _ = STORAGES[storage]
    found = make_design(make(X), *check_targets(y, X, 3, weights)).margins((p.coef, p.intercept))
    few = make_design(make(X[counts]), *check_targets(y[counts], X[counts], 3, None))
    for value, expected in zip(found, few.margins((p.coef, p.intercept)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-12)


@every_storage
@both_dtypes
@pytest.mark.parametrize("shape", [(333, 6, 2, 1), (333, 6, 5, 5)], ids=str)
def test_sums_of_the_parts_add_up_to_those_of_the_whole(shape, dtype, storage):
    p = make_problem(shape, dtype, kind="weights soft offset")
    whole = p.design(storage)
    make, _ = STORAGES[storage]
    V, v_b = np.sin(p.coef), np.sin(p.intercept)

    def sums(design):
        loss, gradient = design.loss_and_gradient(p.coef, p.intercept)
        return (
            design.weight_sum,
            loss,
            gradient,
            design.hessian_vector_product(p.coef, p.intercept, V, v_b),
            design.hessian(p.coef, p.intercept),
            design.class_diagonals(p.coef, p.intercept),
        )

    parts = []
    for first, last in itertools.pairwise([0, 1, 100, shape[0]]):
        rows = slice(first, last)
        targets = Targets(p.targets.labels, p.targets.soft[rows], p.targets.n_classes)
        scaled = p.weights.scaled[rows]
        weights = Weights(scaled, p.weights.largest, float(scaled.sum(dtype=float)))
        part = make_design(make(p.X[rows]), targets, weights, p.offset[rows])
        parts.append(sums(part))
    for whole_sum, *part_sums in zip(sums(whole), *parts, strict=True):
        near(np.sum(part_sums, axis=0), whole_sum, p, dtype)


@both_dtypes
@every_kind
@every_shape
def test_storages_agree(shape, kind, dtype):
    p = make_problem(shape, dtype, kind=kind)
    results = []
    for storage in STORAGES:
        design = p.design(storage)
        loss, gradient = design.loss_and_gradient(p.coef, p.intercept)
        results.append((loss, gradient, design.hessian(p.coef, p.intercept)))
    for first, second in zip(*results, strict=True):
        near(first, second, p, dtype)


@every_storage
def test_a_hessian_larger_than_a_block_of_rows(storage):
    """Blocks hold 2**19 entries: with 600 features, 872 rows."""
    shape = (1800, 600, 2, 1)
    p = make_problem(shape, np.float64)
    p = p._replace(coef=p.coef / 16)
    expected = p.oracle.X.T @ (p.oracle.curvatures(p.params)[:, 0] * p.oracle.X)
    near(p.design(storage).hessian(p.coef, p.intercept), expected, p, np.float64)
    gram = p.design(storage).class_grams(p.coef, p.intercept, 1800, shared=False)[0]
    near(gram, expected, p, np.float64)


@every_storage
def test_classes_that_do_not_occur_have_a_gradient(storage):
    p = make_problem((70, 3, 3, 3), np.float64)
    targets = Targets(np.zeros(70, np.int32), np.empty((0, 0)), 3)
    design = make_design(STORAGES[storage][0](p.X), targets, p.weights)
    oracle = reference.LinearModel(p.X, np.eye(3)[np.zeros(70, int)])
    _, gradient = design.loss_and_gradient(p.coef, p.intercept)
    near(gradient, oracle.gradient(p.params) * 70, p, np.float64)


# --- Responses ------------------------------------------------------------------------------------


@every_storage
@both_dtypes
@every_shape
class TestPredict:
    def test_responses_equal_the_oracle(self, shape, dtype, storage):
        p = make_problem(shape, dtype)
        X = STORAGES[storage][0](p.X)
        z = p.oracle.logits(p.params)
        expected = {
            Response.LOGITS: z[:, -shape[3] :],
            Response.PROBABILITIES: reference.softmax(z),
            Response.LOG_PROBABILITIES: np.log(reference.softmax(z)),
        }
        for response, values in expected.items():
            result = predict(X, p.coef, p.intercept, response)
            assert result.dtype == dtype
            assert result.shape == values.shape
            bound = TOLERANCE[dtype].response
            np.testing.assert_allclose(result, values, rtol=0, atol=bound, err_msg=response.name)
        labels = predict(X, p.coef, p.intercept, Response.LABELS)
        assert labels.dtype == np.intp
        np.testing.assert_array_equal(labels, z.argmax(axis=1))

    def test_labels_are_the_first_largest_logit(self, shape, dtype, storage):
        p = make_problem(shape, dtype)
        X = STORAGES[storage][0](p.X)
        for coef in (p.coef, p.coef * 0.0):  # ties
            logits = predict(X, coef, p.intercept * 0.0, Response.LOGITS)
            labels = predict(X, coef, p.intercept * 0.0, Response.LABELS)
            best = (logits[:, 0] > 0) if shape[3] == 1 else logits.argmax(axis=1)
            np.testing.assert_array_equal(labels, best)

    def test_parameters_of_either_dtype(self, shape, dtype, storage):
        p = make_problem(shape, dtype)
        X = STORAGES[storage][0](p.X)
        for response in Response:
            first = predict(X, p.coef, p.intercept, response)
            arguments = (p.coef.astype(np.float32), p.intercept.astype(np.float32))
            np.testing.assert_array_equal(first, predict(X, *arguments, response))

    def test_no_rows(self, shape, dtype, storage):
        p = make_problem(shape, dtype)
        X = STORAGES[storage][0](p.X[:0])
        for response in Response:
            assert len(predict(X, p.coef, p.intercept, response)) == 0


@every_storage
@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 3])
def test_rare_probabilities_keep_their_relative_precision(n_rows, dtype, storage):
    X = STORAGES[storage][0](np.ones((1, 1), dtype))
    z = np.array([0.0, -40.0] if n_rows == 1 else [0.0, -40.0, -70.0])
    coef, intercept = z[-n_rows:, None], np.zeros(n_rows)
    P = predict(X, coef, intercept, Response.PROBABILITIES)[0]
    log_P = predict(X, coef, intercept, Response.LOG_PROBABILITIES)[0]
    exact, exact_log = reference.softmax_exact(z), reference.log_softmax_exact(z)
    # Exact logits; then exp, a sum, a division or product; log1p.
    bound = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(P, [float(x) for x in exact], rtol=bound, atol=0)
    np.testing.assert_allclose(log_P, [float(x) for x in exact_log], rtol=bound, atol=0)


@every_storage
@both_dtypes
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_logits_that_are_not_finite_are_refused(bad, dtype, storage):
    p = make_problem((70, 3, 3, 3), dtype)
    X = STORAGES[storage][0](p.X)
    p.intercept[1] = bad
    for response in Response:
        with pytest.raises(ValueError, match="Scale X"):
            predict(X, p.coef, p.intercept, response)


@both_dtypes
def test_a_pass_may_take_many_calls(dtype, monkeypatch):
    """No call lasts long, so that Ctrl-C is seen; the sums stay the same up to rounding."""
    p = make_problem((20000, 5, 3, 3), dtype, kind="weights soft offset")
    design = p.design("dense")
    direction = (np.sin(p.coef), np.cos(p.intercept))

    def results():
        loss, gradient = design.loss_and_gradient(p.coef, p.intercept)
        product = design.hessian_vector_product(p.coef, p.intercept, *direction)
        logits = predict(p.X, p.coef, p.intercept, Response.LOGITS)
        return loss, gradient, product, logits

    whole = results()
    calls = []
    monkeypatch.setattr(partition, "_CALL_WORK", 1e4)
    monkeypatch.setattr(dense, "sweep", lambda *a: (calls.append(a), sweep(*a)))
    for part, expected in zip(results(), whole, strict=True):
        near(part, expected, p, dtype)
    cut = design._partition(3)
    n_blocks = cut.chunk_rows // cut.n_lanes
    assert n_blocks > 1
    assert len(calls) == 3 * n_blocks  # each a block of every chunk


@every_storage
def test_many_classes_take_little_memory(storage):
    """A Hessian of K = 60 has 1770 pairs of classes; their curvatures come in small blocks."""
    p = make_problem((20000, 2, 60, 60), np.float64)
    design = p.design(storage)
    tracemalloc.start()
    design.hessian(p.coef, p.intercept)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # all curvatures at once would take 283 MB, each temporary


@every_storage
@both_dtypes
def test_weighted_parts_add_up_in_units_of_their_scale(dtype, storage):
    p = make_problem((70, 3, 3, 3), dtype)
    parts = []
    for rows, weight in ((slice(0, 30), 1.0), (slice(30, 70), 10.0)):
        make, _ = STORAGES[storage]
        targets, weights = check_targets(
            p.targets.labels[rows], p.X[rows], 3, np.full(len(p.X[rows]), weight)
        )
        design = make_design(make(p.X[rows]), targets, weights)
        parts.append(design.weight_scale * design.loss(p.coef, p.intercept))
    weights = np.where(np.arange(70) < 30, 1.0, 10.0)
    oracle = reference.LinearModel(p.X, np.eye(3)[p.targets.labels], weights)
    expected = 10.0 * oracle.losses(p.params).sum()  # the oracle scales by the largest weight
    assert abs(sum(parts) - expected) <= TOLERANCE[dtype].mean * 700


def test_float32_gradients_of_csr_add_up_in_float64():
    """Two million equal terms in float32 lose 1 % of their sum."""
    n_samples = 2_000_000
    X = np.ones((n_samples, 1), np.float32)
    targets, weights = check_targets(np.zeros(n_samples, int), X, 2, None)
    design = make_design(sparse.csr_array(X), targets, weights)
    _, gradient = design.loss_and_gradient(np.array([[-2.2]]), np.zeros(1))
    p = 1.0 / (1.0 + np.exp(2.2))
    np.testing.assert_allclose(gradient, n_samples * p, rtol=1e-6)


# --- Rows of weight 0, parts of a shared gradient -------------------------------------------------


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_second_order_sums_ignore_rows_of_weight_zero(n_classes, storage):
    """Also rows whose square, or whose logits, overflow."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 4)), rng.integers(0, n_classes, 50)
    weights = np.ones(50)
    weights[::7] = 0
    extreme = X.copy()
    extreme[::7] = 1e300
    few = SoftmaxObjective(X[weights > 0], y[weights > 0], n_classes=n_classes).design
    all_rows = SoftmaxObjective(storage(extreme), y, n_classes=n_classes, sample_weight=weights)
    coef = 1e10 * np.ones((all_rows.n_rows, 4)) + rng.normal(size=(all_rows.n_rows, 4))
    arguments = coef - 1e10, np.zeros(all_rows.n_rows)
    design = all_rows.design
    np.testing.assert_allclose(design.hessian(*arguments), few.hessian(*arguments), rtol=1e-10)
    grams = design.class_grams(*arguments, 10**6, False)
    np.testing.assert_allclose(grams, few.class_grams(*arguments, 10**6, False), rtol=1e-10)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="signs of zeros are those of the tiles")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_features", [3, 60, 64, 150])
def test_parts_of_a_shared_gradient_do_not_overlap(n_features, dtype):
    """Adding +0 turns -0 into +0: so one sees which entries a part writes, also back unchanged."""
    n_rows, grid = 12, np.array([2, -(-n_features * np.dtype(dtype).itemsize // 256)])
    X = kernel_view(np.zeros((20, n_features), dtype))
    residual = np.ones((2, n_rows, 16), dtype)
    writers = np.zeros((n_rows, n_features + 1), int)
    for part in range(grid[0] * grid[1]):
        gradient = padded_zeros((n_rows, n_features + 1), np.dtype(dtype))
        gradient.fill(-0.0)
        kernels.products(part, part + 1, X, residual, grid, gradient)
        writers += ~np.signbit(gradient[:, : n_features + 1])
    assert (writers == 1).all()


# --- The columns that a batch uses ----------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("n_rows", [1, 2, 7])
@pytest.mark.parametrize(("n_samples", "n_entries"), [(1, 9), (1, 0), (20, 12), (40, 9), (500, 15)])
def test_predictions_of_few_entries_look_at_no_other_columns(
    n_samples, n_entries, n_rows, index_dtype, dtype
):
    """The same bits as with all columns, for one row, rows with few entries, and with many."""
    rng = np.random.default_rng(0)
    n_features = 20_000
    columns = rng.integers(0, n_features, n_samples * n_entries)
    columns[: n_entries // 2] = columns[n_entries - n_entries // 2 : n_entries]  # repeated ones
    arrays = (
        rng.normal(size=len(columns)).astype(dtype),
        columns.astype(index_dtype),
        (np.arange(n_samples + 1) * n_entries).astype(index_dtype),
    )
    X = sparse.csr_array(arrays, shape=(n_samples, n_features))
    intercept = rng.normal(size=n_rows)
    for coef in (rng.normal(size=(n_rows, n_features)), rng.normal(size=(n_features, n_rows)).T):
        narrow, some = used_columns(X, coef)
        assert (narrow is X) == (n_entries == 0 or (n_rows == 1 and dtype == np.float64))
        assert narrow is X or some.shape[1] < min(n_features, len(columns) + 1)
        assert np.shares_memory(narrow.data, X.data) or not n_entries
        for response in Response:
            found = predict(X, coef, intercept, response)
            expected = sparse_storage.predict(X, coef, intercept, response)
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_hessian_of_certain_samples_is_positive(dtype, storage):
    """1 - p of the one certain class is the sum of the others, not rounding."""
    X = np.random.default_rng(0).normal(size=(40, 3)).astype(dtype)
    intercept = np.array([0.0, -40.0, -41.0, -42.0])
    design = SoftmaxObjective(storage(X), np.zeros(40, int), n_classes=4).design
    found = design.hessian(np.zeros((4, 3)), intercept)
    by_class = np.zeros((4, 4))
    for first, second in itertools.combinations(np.eye(4), 2):  # diag(p) - p pᵀ
        product = np.exp(intercept @ first + intercept @ second)
        by_class += product * np.outer(first - second, first - second)
    U = np.column_stack([X, np.ones(40)]).astype(float)
    expected = np.kron(by_class[:3, :3], U.T @ U)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())
    eigenvalues = np.linalg.eigvalsh(found)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


# --- Accumulators of passes -----------------------------------------------------------------------


def test_memory_is_used_again_but_not_at_the_same_time():
    memory = partition.Memory()
    shape = 3, 2, 5, np.dtype(np.float32)
    with memory.accumulators(*shape) as (sums, partial):
        sums[...] = partial[...] = 7.0
        with memory.accumulators(*shape) as others:
            assert not np.shares_memory(sums, others[0])
    with memory.accumulators(*shape) as again, memory.accumulators(*shape) as others:
        first = [np.shares_memory(a, b) for a in (sums, partial) for b in (*again, *others)]
        assert sum(first) == 2
        assert not any(a.any() for a in (*again, *others))
    with memory.accumulators(3, 2, 6, np.dtype(np.float32)) as (wider, _):
        assert not np.shares_memory(wider, sums)
        assert wider.shape[:2] == (3, 2)
    assert not pickle.loads(pickle.dumps(memory))._free


def test_a_pass_that_fails_gives_no_memory_back():
    memory = partition.Memory()
    shape = 3, 2, 5, np.dtype(np.float64)
    with pytest.raises(KeyboardInterrupt), memory.accumulators(*shape) as (sums, _):
        raise KeyboardInterrupt
    with memory.accumulators(*shape) as (others, _):
        assert not np.shares_memory(sums, others)


def test_passes_over_a_design_at_the_same_time():
    p = make_problem((20000, 5, 3, 3), np.float64)
    design = p.design("dense")
    factors = np.linspace(-1.0, 1.0, 8)
    expected = [design.loss_and_gradient(f * p.coef, p.intercept) for f in factors]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            found = threads.map(
                lambda f: design.loss_and_gradient(f * p.coef, p.intercept), factors
            )
            for (loss, gradient), one in zip(found, expected, strict=True):
                assert loss == one[0]
                np.testing.assert_array_equal(gradient, one[1])


def test_a_copy_with_another_width_has_memory_of_its_own():
    """A rotated design is a copy with a smaller or wider X."""
    p = make_problem((40, 90, 3, 3), np.float64)
    design = p.design("dense")
    expected = design.loss_and_gradient(p.coef, p.intercept)
    square, _ = rotate(design, np.zeros(90))
    coef = np.zeros((3, 40))
    alone = rotate(p.design("dense"), np.zeros(90))[0].loss_and_gradient(coef, p.intercept)
    found = square.loss_and_gradient(coef, p.intercept)
    np.testing.assert_array_equal(found[1], alone[1])
    np.testing.assert_array_equal(design.loss_and_gradient(p.coef, p.intercept)[1], expected[1])
