"""Kernels over the non-zeros of X, through `SparseDesign`: the dense design and the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from child import run_python
from scipy import sparse

from fastsoftmax import SoftmaxObjective
from fastsoftmax._designs import curvature, make_design
from fastsoftmax._designs import sparse as sparse_storage
from fastsoftmax._designs.dense import DenseDesign
from fastsoftmax._designs.sparse import SparseDesign, pack
from fastsoftmax._kernels import csr as kernels
from fastsoftmax._kernels.csr import aligned_zeros, padded_width
from fastsoftmax._validation import Targets, Weights, check_targets, check_weights

DTYPES = (np.float32, np.float64)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
#: Logit rows: one for two classes, and around the widths of vectors and of tiles of them (64 and 32
#: numbers).
ROWS = [1, 2, 3, 5, 8, 9, 54, 150, 300]
every_width = pytest.mark.parametrize("n_rows", ROWS)
#: Huge values whose products overflow in the dtype.
HUGE = {np.float32: 3e38, np.float64: 1e308}


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

    @property
    def dense(self):
        return DenseDesign(self.X, self.targets, self.weights, self.offset)

    def sparse(self, indices=np.int32):
        X = sparse.csr_array(self.X)
        X.indices, X.indptr = X.indices.astype(indices), X.indptr.astype(indices)
        return SparseDesign(X, self.targets, self.weights, self.offset)

    @property
    def scale(self):
        """The oracle scales weights by the largest, the package weights times masses."""
        return self.weights.total / self.oracle.masses.sum()


def make_problem(n_rows, dtype, kind="plain", n_samples=70, n_features=6, share=0.4, seed=0):
    """Return a problem with empty rows and columns; `kind` says what comes with it.

    Rows of weight 0 hold huge numbers, of which the oracle sees nothing.
    """
    rng = np.random.default_rng(seed)
    n_classes = max(2, n_rows)
    X = rng.normal(size=(n_samples, n_features)).astype(dtype)
    X[rng.random(X.shape) >= share] = 0.0
    X[:: max(3, n_samples // 9)] = 0.0
    X[:, n_features // 2] = 0.0
    labels = rng.integers(0, n_classes, n_samples)
    masses, y, sample_weight, offset = reference.one_hot(labels, n_classes), labels, None, None
    if "soft" in kind:
        y = masses = rng.uniform(0, 1, (n_samples, n_classes)) * (rng.random(n_classes) < 0.7)
        masses[:, 0] += 0.1
    seen = X.copy()
    if "weights" in kind:
        sample_weight = rng.uniform(0.1, 1, n_samples) * (rng.random(n_samples) < 0.7)
        sample_weight[-1] = 1.0
        seen[sample_weight == 0] = 0.0
        if "finite" not in kind:
            X[sample_weight == 0] *= HUGE[dtype] / 8  # of either sign; some rows are empty
    if "offset" in kind:
        offset = rng.normal(size=(n_samples, n_rows)).astype(dtype)
    targets, weights = check_targets(y, X, n_classes, sample_weight)
    shift = 0 if offset is None else offset
    oracle = reference.LinearModel(seen, masses, sample_weight, offset=shift)
    # Exact in float32, so that the oracle sees the same parameters.
    coef = rng.normal(size=(n_rows, n_features)).astype(np.float32).astype(float)
    intercept = rng.normal(size=n_rows).astype(np.float32).astype(float)
    return Problem(X, targets, weights, offset, oracle, coef, intercept)


def near(sums, expected, p, dtype, factor=1.0):
    """Assert that sums agree, in units of the sum of weights: 16 roundings of terms of order 1.

    Of the sum, where that is larger: losses of soft targets in 300 classes are.
    """
    bound = 16 * factor * float(np.finfo(dtype).eps)
    total = p.weights.total
    np.testing.assert_allclose(
        np.asarray(sums) / total, np.asarray(expected) / total, rtol=bound, atol=bound
    )


@pytest.fixture(params=["chunks", "columns"])
def backward(request, monkeypatch):
    """Products with X are added up in a gradient per chunk, or column by column."""
    monkeypatch.setattr(sparse_storage, "_GRADIENT_SHARE", 0.0)
    limit = 2.0**60 if request.param == "chunks" else 0.0
    monkeypatch.setattr(sparse_storage, "_GRADIENT_BYTES", limit)
    return request.param


def direction_of(p):
    V = np.cos(np.arange(p.params.size)).reshape(p.params.shape).astype(np.float32).astype(float)
    return V[:, :-1], V[:, -1]


def all_sums(design, p, with_known=True):
    """Return the loss, its gradient, Hessian-vector products and diagonals, by name."""
    known = design.probabilities(p.coef, p.intercept) if with_known else None
    loss, gradient = design.loss_and_gradient(p.coef, p.intercept)
    model, V = (p.coef, p.intercept), direction_of(p)
    products = {"known": design.hessian_vector_product(*model, *V, known)} if with_known else {}
    return products | {
        "loss": loss,
        "gradient": gradient,
        "product": design.hessian_vector_product(*model, *V),
        "diagonals": design.class_diagonals(*model),
        "shared": design.class_diagonals(*model, None, True),
    }


def oracle_sums(p):
    curvatures = p.oracle.curvatures(p.params) * p.scale
    A, V = p.oracle.X, np.column_stack(direction_of(p))
    diagonals = np.einsum("ikk,ij->kj", curvatures, A**2)
    product = np.einsum("iab,ib,ij->aj", curvatures, A @ V.T, A, optimize=True)
    return {
        "loss": p.oracle.value(p.params) * p.weights.total,
        "gradient": p.oracle.gradient(p.params) * p.weights.total,
        "product": product,
        "known": product,
        "diagonals": diagonals,
        "shared": diagonals.mean(axis=0, keepdims=True),
    }


# --- First sums -----------------------------------------------------------------------------------


@both_dtypes
@every_width
@pytest.mark.parametrize(
    "kind", ["plain", "weights", "soft", "finite weights", "weights soft offset"]
)
def test_sums_are_the_oracles_and_those_of_dense_rows(kind, n_rows, dtype, backward):
    p = make_problem(n_rows, dtype, kind)
    design = p.sparse()
    is_finite = kind in (
        "plain",
        "soft",
        "finite weights",
    )  # else `probabilities` refuses rows of weight 0
    found, expected = all_sums(design, p, is_finite), oracle_sums(p)
    of_dense = all_sums(p.dense, p, is_finite)
    for name, sums in found.items():
        near(sums, expected[name], p, dtype)
        if name not in ("diagonals", "shared"):
            near(sums, of_dense[name], p, dtype)
    assert found["gradient"].dtype == np.float64
    assert design.loss(p.coef, p.intercept) == found["loss"]


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 3, 54])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (5001, 3), (300, 700)], ids=str)
def test_any_shape(shape, n_rows, dtype, backward):
    p = make_problem(n_rows, dtype, "weights offset", *shape, share=5 / max(5, shape[1]))
    found, expected = all_sums(p.sparse(), p, False), oracle_sums(p)
    for name, sums in found.items():
        near(sums, expected[name], p, dtype)


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 3])
def test_no_entries_at_all(n_rows, dtype, backward):
    p = make_problem(n_rows, dtype, share=0.0)
    design = p.sparse()
    assert design.n_entries == 0
    found, expected = all_sums(design, p), oracle_sums(p)
    for name, sums in found.items():
        near(sums, expected[name], p, dtype)
    assert not found["gradient"][:, :-1].any()


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 3, 54])
def test_both_widths_of_indices_give_the_same_bits(n_rows, dtype, backward):
    p = make_problem(n_rows, dtype, "weights soft offset")
    narrow, wide = (all_sums(p.sparse(indices), p, False) for indices in (np.int32, np.int64))
    for name, sums in narrow.items():
        np.testing.assert_array_equal(wide[name], sums)


@both_dtypes
def test_repeated_and_unsorted_entries_count_as_their_sum(dtype, backward):
    p = make_problem(3, dtype, "plain")
    X = sparse.coo_array(p.X)
    data, row, column = X.data, *X.coords
    doubled = [np.concatenate([a, a[::-1]]) for a in (0.5 * data, row, column)]
    order = np.argsort(doubled[1], kind="stable")
    values, columns = doubled[0][order].astype(dtype), doubled[2][order]
    pointers = np.append(0, np.cumsum(np.bincount(doubled[1], minlength=len(p.X))))
    repeated = sparse.csr_array((values, columns, pointers), shape=p.X.shape)
    before = repeated.copy()
    design = SparseDesign(repeated, p.targets, p.weights, p.offset)
    for name, sums in all_sums(design, p).items():
        near(sums, oracle_sums(p)[name], p, dtype)
    np.testing.assert_array_equal(repeated.indices, before.indices)  # the user's stays as it is
    assert repeated.nnz == before.nnz


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 3, 54, 150])
def test_several_calls_give_the_same_sums(n_rows, dtype, backward, monkeypatch):
    """A call is a part of every sweep; the last one has fewer units than the others."""
    p = make_problem(n_rows, dtype, "weights offset", n_samples=333, n_features=9)
    design = p.sparse()
    once = all_sums(design, p, False)
    logits = sparse_storage._logits(design.X[:50], p.coef, p.intercept)
    monkeypatch.setattr(sparse_storage, "_CALL_WORK", 4.0 * p.X.size / 4 * n_rows)
    monkeypatch.setattr(sparse_storage, "_MOST_UNITS", 7)
    width = padded_width(n_rows, np.dtype(dtype).itemsize)
    assert len(sparse_storage._cuts(design.rows, width)) > 1
    for name, sums in all_sums(design, p, False).items():
        near(sums, once[name], p, dtype)
    np.testing.assert_array_equal(
        sparse_storage._logits(design.X[:50], p.coef, p.intercept), logits
    )


@pytest.mark.parametrize("n_units", [1, 7, 64])
@pytest.mark.parametrize("call_work", [1e2, 1e4, 1e9])
def test_units_cover_all_rows_once(call_work, n_units, monkeypatch):
    monkeypatch.setattr(sparse_storage, "_CALL_WORK", call_work)
    monkeypatch.setattr(sparse_storage, "_MOST_UNITS", n_units)
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 63, 64, 65, 1000):
        counts = rng.integers(0, 9, n) * (rng.random(n) < 0.5)
        counts[n // 2 : n // 2 + 1] = 5000  # one row as large as all others
        indptr = np.append(0, np.cumsum(counts)).astype(np.int64)
        indices = np.zeros(indptr[-1], np.int32)
        calls = sparse_storage._cuts(curvature.Compressed(indices, indices, indptr), 8)
        assert [bounds[-1] for bounds in calls[:-1]] == [bounds[0] for bounds in calls[1:]]
        assert (calls[0][0], calls[-1][-1]) == (0, n)
        for bounds in calls:
            assert 2 <= len(bounds) <= n_units + 1
            assert np.all(np.diff(bounds) >= 0)


# --- Padding and scratch --------------------------------------------------------------------------


def poison(monkeypatch):
    """Let NumPy hand out memory full of NaN."""
    empty = np.empty

    def poisoned(*args: Any, **options: Any) -> Any:
        array = empty(*args, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    monkeypatch.setattr(np, "empty", poisoned)


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 2, 3, 9, 54, 150])
@pytest.mark.parametrize("kind", ["plain", "weights soft"])
def test_what_is_in_scratch_before_does_not_matter(kind, n_rows, dtype, backward, monkeypatch):
    p = make_problem(n_rows, dtype, kind)
    design = p.sparse()
    expected = all_sums(design, p, "weights" not in kind)
    poison(monkeypatch)
    for name, sums in all_sums(design, p, "weights" not in kind).items():
        np.testing.assert_array_equal(sums, expected[name], err_msg=name)


@both_dtypes
@every_width
@pytest.mark.parametrize("kind", ["plain", "weights", "weights soft offset"])
def test_feature_major_means(kind, n_rows, dtype):
    """The gradient of mean loss plus penalty, and the curvature's diagonal, into any memory.

    The penalty is that of coefficients of mean zero over the classes.
    """
    p = make_problem(n_rows, dtype, kind)
    design, d = p.sparse(), p.X.shape[1]
    l2 = np.append(np.linspace(0.1, 0.5, d), 0.0)
    oracle, centred = p.oracle, p.params.copy()
    oracle.l2 = l2
    if n_rows > 1:
        centred -= centred.mean(axis=0)
    table = pack(p.coef, p.intercept, np.dtype(dtype))
    terms, gradient = design.terms(n_rows), np.full_like(table, np.nan)
    value = design.mean_loss_into(n_rows, table, l2, terms, gradient)
    bound = 16 * float(np.finfo(dtype).eps)
    assert value == pytest.approx(oracle.value(centred), rel=bound)
    np.testing.assert_allclose(gradient[:, :n_rows].T, oracle.gradient(centred), atol=bound)
    assert not gradient[:, n_rows:].any()  # nor NaN
    assert not table[:, n_rows:].any()
    assert not terms[:, n_rows:].any()

    diagonal = np.full_like(table, np.nan)
    design.mean_curvature_into(n_rows, table, terms, diagonal)
    expected = oracle_sums(p)["diagonals"] / p.weights.total
    np.testing.assert_allclose(diagonal[:, :n_rows].T, expected, atol=bound)
    assert not diagonal[:, n_rows:].any()


@both_dtypes
@every_width
def test_tables_are_padded_and_aligned(n_rows, dtype):
    width = padded_width(n_rows, np.dtype(dtype).itemsize)
    lanes = 32 // np.dtype(dtype).itemsize
    assert width == 1 if n_rows == 1 else (width % lanes == 0 and 0 <= width - n_rows < lanes)
    for n in (1, 2, 3, 50):
        table = aligned_zeros((n, width), np.dtype(dtype))
        assert table.ctypes.data % 64 == 0
        assert table.flags.c_contiguous
        assert not table.any()


# --- Accuracy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 3, 54])
def test_long_columns_add_up_without_losing_digits(n_rows, backward):
    """10^5 entries of magnitudes from 1e-3 to 1e3: to 1e-6 of the sum of the terms' magnitudes.

    In float32 throughout, 10^5 terms of one sign would lose three digits more.
    """
    n, rng = 100_000, np.random.default_rng(0)
    X = (10.0 ** rng.uniform(-3, 3, (n, 1))).astype(np.float32)
    assert n > 100 * kernels._PIECE
    n_classes = max(2, n_rows)
    labels = rng.integers(0, n_classes, n)
    targets, weights = check_targets(labels, X, n_classes, None)
    design = SparseDesign(sparse.csr_array(X), targets, weights)
    zeros = np.zeros((n_rows, 1)), np.zeros(n_rows)
    _, gradient = design.loss_and_gradient(*zeros)
    # At zero all probabilities are 1 / K, but for a rounding.
    residuals = (1.0 / n_classes - reference.one_hot(labels, n_classes))[:, -n_rows:]
    terms = residuals * X.astype(float)
    error = np.abs(gradient[:, 0] - terms.sum(axis=0))
    assert np.all(error <= 1e-6 * np.abs(terms).sum(axis=0))
    p = 1.0 / n_classes
    exact = p * (1 - p) * np.square(X.astype(float)).sum()
    np.testing.assert_allclose(design.class_diagonals(*zeros)[:, 0], exact, rtol=1e-6)


# --- Second-order sums ----------------------------------------------------------------------------


def oracle_blocks(p):
    curvatures = np.einsum("ikk->ki", p.oracle.curvatures(p.params)) * p.scale
    A = p.oracle.X
    return np.einsum("ki,ij,il->kjl", curvatures, A, A, optimize=True)


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 2, 3, 9, 54])
@pytest.mark.parametrize("kind", ["plain", "weights soft offset"])
@pytest.mark.parametrize("way", ["pairs", "dense blocks"])
@pytest.mark.parametrize("indices", [np.int32, np.int64])
def test_grams_and_hessians(indices, way, kind, n_rows, dtype, monkeypatch):
    cost = 0.0 if way == "pairs" else np.inf
    monkeypatch.setattr(curvature, "csr_cost", lambda *_: cost)
    p = make_problem(n_rows, dtype, kind)
    design, model = p.sparse(indices), (p.coef, p.intercept)
    blocks = oracle_blocks(p)
    for most_rows in (5, 70) if way == "pairs" else (70,):
        near(design.class_grams(*model, most_rows, False), blocks, p, dtype)
        mean = design.class_grams(*model, most_rows, True)
        near(mean, blocks.mean(axis=0, keepdims=True), p, dtype)
    size = max(1, n_rows - 1) * p.params.shape[1]
    if n_rows <= 9:
        whole = p.oracle.loss_hessian(p.params) * p.scale
        hessian = design.hessian(*model)
        near(hessian, whole[:size, :size], p, dtype)
        np.testing.assert_array_equal(hessian, hessian.T)


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 2, 5])
@pytest.mark.parametrize("shared", [False, True])
def test_picks_are_those_of_dense_rows(shared, n_rows, dtype, monkeypatch):
    monkeypatch.setattr(curvature, "csr_cost", lambda *_: np.inf)
    p = make_problem(n_rows, dtype, "weights soft finite", n_samples=333)
    for most_rows in (7, 50):
        model = p.coef, p.intercept
        found = p.sparse().class_grams(*model, most_rows, shared)
        near(found, p.dense.class_grams(*model, most_rows, shared), p, dtype, 10 * most_rows)
        diagonals = p.sparse().class_diagonals(*model, None, shared)
        assert np.all(np.einsum("kjj->kj", found) >= (1 - 1e-5) * diagonals)


def test_what_curvature_costs_decides_the_way():
    """Few non-zeros per row: exact sums at a price below that of picks; dense rows: picks."""
    for share, is_exact in ((0.001, True), (1.0, False)):
        p = make_problem(3, np.float64, n_samples=3000, n_features=300, share=share)
        design = p.sparse()
        assert design.has_exact_grams(3, False) == is_exact
        assert design.class_gram_passes(3, 900, False) > 0
        dense, pairs = design._hessian_costs(3)
        assert (pairs < dense) == is_exact
        assert design.hessian_passes(3) == min(dense, pairs) / design._pass(3)


# --- The same bits --------------------------------------------------------------------------------

SAME_BITS = """
import hashlib, json
import numpy as np
from scipy import sparse
from fastsoftmax import LogisticRegression, _threads
from fastsoftmax._designs import make_design, sparse as storage
from fastsoftmax._threads import thread_limit
from fastsoftmax._validation import check_targets
from fastsoftmax.linear_model import _vocabulary

_threads._SERIAL_WORK = 0.0  # threads for every sweep
_vocabulary.GRAM_COLUMNS = 50
rng = np.random.default_rng(0)
X = sparse.random(2000, 4000, 0.003, random_state=rng, data_rvs=rng.standard_normal).tocsr()

def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

def all_bits(dtype, n_classes, width):
    A = X.astype(dtype)
    A.indices, A.indptr = A.indices.astype(width), A.indptr.astype(width)
    y = rng_y.integers(0, n_classes, len(A.indptr) - 1)
    n_rows = 1 if n_classes == 2 else n_classes
    design = make_design(A, *check_targets(y, A, n_classes, None))
    few = make_design(A[:, :60], *check_targets(y, A, n_classes, None))
    coef = rng_y.normal(size=(n_rows, A.shape[1]))
    zeros = np.zeros(n_rows)
    found = []
    for limit in (0.0, 2.0**60):
        storage._GRADIENT_BYTES = limit
        found += [
            *design.loss_and_gradient(coef, zeros),
            design.hessian_vector_product(coef, zeros, coef[::-1], zeros),
            design.class_diagonals(coef, zeros),
        ]
    storage._GRADIENT_BYTES = 2**23
    small = coef[:, :60]
    found += [few.class_grams(small, zeros, 2000, False), few.class_grams(small, zeros, 200, True)]
    if n_rows <= 3:
        found.append(few.hessian(small, zeros))
    for solver, words in {"auto": "dual coordinate ascent", "lbfgs": "feature-major"}.items():
        model = LogisticRegression(C=10.0, solver=solver).fit(A, y)
        assert words in model.solver_ and model.converged_
        found += [model.coef_, model.intercept_, model.objective_, model.predict_proba(A)]
    return digest(*found)

results = {}
for n_threads in (1, 2, 3, 8):
    with thread_limit(n_threads):
        results[n_threads] = []
        for dtype, n_classes, width in CASES:
            rng_y = np.random.default_rng(1)
            results[n_threads].append(all_bits(dtype, n_classes, width))
print(json.dumps([results, _threads.threading_layer()]))
"""


def test_same_bits_for_any_number_of_threads_and_either_width_of_indices():
    cases = "[(d, K, w) for d in ('f4', 'f8') for K in (2, 3, 20) for w in ('i4', 'i8')]"
    eight = {"NUMBA_NUM_THREADS": "8", "OMP_NUM_THREADS": "8"}
    printed = run_python(SAME_BITS.replace("CASES", cases), **eight)
    results, _ = json.loads(printed)
    assert list(results) == ["1", "2", "3", "8"]
    assert len({tuple(bits) for bits in results.values()}) == 1
    bits = results["1"]
    assert bits[0::2] == bits[1::2]
    assert len(set(bits)) == len(bits) // 2


# --- Without a compiler ---------------------------------------------------------------------------

PLAIN = """
import json, sys
sys.path.insert(0, {tests!r})
import numpy as np
import test_csr
from fastsoftmax._designs import curvature, sparse as storage

found = []
for n_rows, dtype, kind in test_csr.PLAIN_CASES:
    p = test_csr.make_problem(n_rows, dtype, kind, n_samples=11, n_features=4)
    storage._GRADIENT_SHARE = 0.0
    for limit in (0.0, 2.0**60):
        storage._GRADIENT_BYTES = limit
        sums = test_csr.all_sums(p.sparse(), p, False)
        found += [np.ravel(sums[name]).tolist() for name in sorted(sums)]
    curvature.csr_cost = lambda *_: 0.0
    found.append(p.sparse().class_grams(p.coef, p.intercept, 20, False).ravel().tolist())
print(json.dumps(found))
"""
PLAIN_CASES = [
    (1, np.float64, "weights finite"),
    (3, np.float32, "soft"),
    (9, np.float64, "offset"),
    (70, np.float32, "plain"),  # two tiles of columns
]


def test_plain_functions_do_what_compiled_ones_do():
    """`gather` and `scatter`, which vector code replaces, and all that calls them."""
    code = PLAIN.format(tests=str(Path(__file__).parent))
    found = json.loads(run_python(code, NUMBA_DISABLE_JIT="1"))
    compiled = json.loads(run_python(code))
    assert len(found) == len(compiled) == 11 * len(PLAIN_CASES)
    for plain, vector in zip(found, compiled, strict=True):
        np.testing.assert_allclose(plain, vector, rtol=1e-5, atol=1e-5)


# --- What is remembered ---------------------------------------------------------------------------


def test_what_scipy_remembers_of_the_users_matrix_is_not_believed():
    parts = (np.ones(12), np.array([0, 1] * 6), np.array([0, 8, 12]))  # rows longer than X is wide
    X = sparse.csr_array(parts, shape=(2, 2))
    X.has_canonical_format = True
    before = dict(vars(X))
    found, expected = (SoftmaxObjective(A, [0, 1], n_rows=2) for A in (X, X.toarray()))
    zeros = np.zeros((2, 2)), np.zeros(2)
    grams = [o.design.class_grams(*zeros, 2, False) for o in (found, expected)]
    np.testing.assert_allclose(*grams, rtol=1e-14)
    np.testing.assert_allclose(found.design.hessian(*zeros), expected.design.hessian(*zeros))
    assert {name: vars(X)[name] is value for name, value in before.items()} == dict.fromkeys(
        before, True
    )


def test_designs_with_other_weights_share_what_is_derived_from_x():
    rng = np.random.default_rng(0)
    X = sparse.random_array((30, 9), density=0.4, format="csr", random_state=0)
    y = np.arange(30) % 3
    weights = rng.integers(0, 3, 30).astype(float)
    targets, ones = check_targets(y, X, 3, None)
    design = make_design(X, targets, ones)
    coefficients = rng.normal(size=(3, 9)), rng.normal(size=3)
    other = design.with_weights(check_weights(weights, X))
    assert other.storage is design.storage
    assert other.columns is design.columns
    expected = SoftmaxObjective(X, y, sample_weight=weights).design
    loss, gradient = other.loss_and_gradient(*coefficients)
    assert loss == expected.loss(*coefficients)
    np.testing.assert_array_equal(gradient, expected.loss_and_gradient(*coefficients)[1])
    assert design.loss(*coefficients) == SoftmaxObjective(X, y).design.loss(*coefficients)
