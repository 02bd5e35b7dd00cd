"""`SoftmaxObjective` against the oracle: values, gradients, Hessian-vector products, errors."""

from __future__ import annotations

import doctest
import json
import tracemalloc
from typing import NamedTuple

import numba
import numpy as np
import pytest
import reference
from child import run_python
from scipy import optimize, sparse
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from fastsoftmax import SoftmaxObjective, _threads, objective
from fastsoftmax._kernels import dense as dense_kernels
from fastsoftmax._threads import thread_limit

DTYPES = (np.float32, np.float64)


class Tolerance(NamedTuple):
    value: float  # relative; logits below 10 in size, each rounded some d times: 16 roundings
    gradient: float  # absolute, of means of products of order 1; the same roundings
    confident: float  # relative, for exact logits: exp 1, division 1, log1p 1 ulp, and the sum


TOLERANCE = {
    dtype: Tolerance(16 * eps, 16 * eps, 4 * eps)
    for dtype, eps in ((d, float(np.finfo(d).eps)) for d in DTYPES)
}
# Float64, step 1e-3: truncation 1e-12 / 30 times a fifth derivative (below 1e3 for |x| < 4),
# rounding 1e-16 / 1e-3 times the value.
STENCIL_ATOL = 1e-10


def near(actual, desired, dtype, scale=1.0):
    """Assert that gradients or products of order `scale` agree."""
    bound = TOLERANCE[dtype].gradient * scale
    np.testing.assert_allclose(actual, desired, rtol=0, atol=bound)


class Case(NamedTuple):
    """A problem, its oracle and some parameters."""

    X: np.ndarray
    y: np.ndarray
    options: dict
    oracle: reference.LinearModel
    params: np.ndarray
    direction: np.ndarray

    @property
    def objective(self):
        return SoftmaxObjective(self.X, self.y, **self.options)


def make_weights(kind, n_samples, rng):
    if kind is None:
        return None
    weights = rng.uniform(0.1, 1.0, n_samples)
    if kind == "zeros":
        weights[rng.random(n_samples) < 0.3] = 0.0
        weights[-1] = 1.0
        weights[: min(192, n_samples - 1)] = 0.0  # three whole blocks
        return weights
    return weights * kind


def make_targets(kind, n_samples, n_classes, rng):
    """Return what the objective takes, and the same as a matrix of masses."""
    if kind == "labels":
        labels = rng.integers(0, n_classes, n_samples)
        return labels, reference.one_hot(labels, n_classes)
    masses = rng.uniform(0, 1, (n_samples, n_classes))
    masses *= rng.random(masses.shape) < 0.7
    if n_samples > 2:
        masses[1] = 0.0
    masses[-1] = 1.0
    if kind == "soft":
        masses /= np.where(masses.sum(axis=1) > 0, masses.sum(axis=1), 1)[:, None]
    return masses, masses


def make_case(
    shape,
    dtype=np.float64,
    *,
    targets="labels",
    weights=None,
    l2=0.1,
    fit_intercept=True,
    seed=0,
):
    """Return a `Case` of ``shape = (n_samples, n_features, n_classes, n_rows)``."""
    n_samples, n_features, n_classes, n_rows = shape
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features)).astype(dtype)
    y, masses = make_targets(targets, n_samples, n_classes, rng)
    sample_weight = make_weights(weights, n_samples, rng)
    if l2 == "per feature":
        l2 = rng.uniform(0, 1, n_features) * (np.arange(n_features) % 2)
    options = {
        "n_classes": n_classes,
        "sample_weight": sample_weight,
        "l2": l2,
        "fit_intercept": fit_intercept,
        "n_rows": n_rows,
    }
    # Float32 parameters, exact in both dtypes, that keep logits of order 1 whatever d is.
    size = (n_rows, n_features + 1)
    params = rng.normal(size=size).astype(np.float32).astype(np.float64)
    direction = rng.normal(size=size).astype(np.float32).astype(np.float64)
    params[:, :-1] /= 2.0 ** np.ceil(np.log2(n_features) / 2)
    direction[:, :-1] /= 2.0 ** np.ceil(np.log2(n_features) / 2)
    if not fit_intercept:
        params[:, -1] = direction[:, -1] = 0.0
    oracle = reference.LinearModel(X, masses, sample_weight, l2)
    n_columns = n_features + fit_intercept
    return Case(X, y, options, oracle, params[:, :n_columns], direction[:, :n_columns])


def extended(params, n_features):
    """Return parameters with an intercept of zero if they have none."""
    missing = n_features + 1 - params.shape[1]
    return np.hstack([params, np.zeros((len(params), missing))])


# n, d, K, rows of logits. Blocks have 64 rows (d = 1100: 32, d = 5000: 8), chunks one or more
# blocks; the tiles are 4 x 4.
SHAPES = [
    (1, 1, 2, 1),
    (1, 1, 2, 2),
    (7, 3, 3, 3),
    (64, 4, 4, 4),
    (65, 5, 7, 7),
    (333, 6, 10, 10),
    (5001, 2, 2, 1),
    (5001, 7, 2, 2),
    (70, 1100, 3, 3),
    (50, 5000, 5, 5),
]
SETTINGS = [
    {},
    {"weights": "zeros", "l2": 0.0},
    {"targets": "soft", "fit_intercept": False},
    {"targets": "masses", "l2": "per feature"},
    {"targets": "masses", "weights": "zeros", "fit_intercept": False},
    {"weights": 1e300, "l2": "per feature"},
    {"targets": "soft", "weights": 1e-300},
]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)


# --- Against the oracle ---------------------------------------------------------------------------


@both_dtypes
@every_setting
@every_shape
def test_value_and_gradient_equal_the_oracle(shape, setting, dtype):
    case = make_case(shape, dtype, **setting)
    value, gradient = case.objective.value_and_gradient(case.params)
    full = extended(case.params, shape[1])
    assert value == pytest.approx(case.oracle.value(full), rel=TOLERANCE[dtype].value, abs=0)
    near(gradient, case.oracle.gradient(full)[:, : case.params.shape[1]], dtype)
    assert case.objective.value(case.params) == value


@both_dtypes
@every_setting
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] < 100], ids=str)
def test_hessian_vector_product_equals_the_oracle(shape, setting, dtype):
    case = make_case(shape, dtype, **setting)
    product = case.objective.hessian_vector_product(case.params, case.direction)
    hessian = case.oracle.hessian(extended(case.params, shape[1]))
    expected = hessian @ extended(case.direction, shape[1]).ravel()
    expected = expected.reshape(shape[3], shape[1] + 1)[:, : case.params.shape[1]]
    near(product, expected, dtype)


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 2])
def test_long_chunks_that_flush_their_float32_sums_equal_the_oracle(n_rows, dtype):
    case = make_case((64 * 64 * 33 + 1, 2, 2, n_rows), dtype)
    value, gradient = case.objective.value_and_gradient(case.params)
    assert value == pytest.approx(case.oracle.value(case.params), rel=TOLERANCE[dtype].value)
    near(gradient, case.oracle.gradient(case.params), dtype)
    product = case.objective.hessian_vector_product(case.params, case.direction)
    expected = case.oracle.hessian(case.params) @ case.direction.ravel()
    near(product, expected.reshape(product.shape), dtype)


@pytest.mark.parametrize("setting", SETTINGS[:5], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_gradient_is_the_derivative_of_the_value(shape, setting):
    case = make_case(shape, **setting)
    expected = reference.five_point_gradient(case.objective.value, case.params)
    _, gradient = case.objective.value_and_gradient(case.params)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=STENCIL_ATOL)


@pytest.mark.parametrize("setting", SETTINGS[:5], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_hessian_vector_product_is_the_derivative_of_the_gradient(shape, setting):
    case = make_case(shape, **setting)

    def gradient_along(t):
        return case.objective.value_and_gradient(case.params + t[0] * case.direction)[1]

    expected = reference.five_point_gradient(gradient_along, np.zeros(1))[0]
    product = case.objective.hessian_vector_product(case.params, case.direction)
    np.testing.assert_allclose(product, expected, rtol=0, atol=STENCIL_ATOL)


@both_dtypes
@every_shape
def test_hessian_is_symmetric_and_positive_semidefinite(shape, dtype):
    case = make_case(shape, dtype, weights="zeros", l2=0.0)
    u, v = case.params, case.direction
    Hu = case.objective.hessian_vector_product(u, u)
    Hv = case.objective.hessian_vector_product(u, v)
    scale = float(np.abs(u).sum() + np.abs(v).sum())
    near(np.vdot(v, Hu), np.vdot(u, Hv), dtype, scale)
    assert np.vdot(v, Hv) >= -TOLERANCE[dtype].gradient * scale
    # v is not a direction in which the loss is flat.
    assert np.vdot(v, Hv) > 0


# --- Parameters -----------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("params_dtype", DTYPES)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_results_have_the_shape_of_the_parameters(dtype, params_dtype, fit_intercept):
    case = make_case((30, 3, 3, 3), dtype, fit_intercept=fit_intercept)
    target = case.objective
    assert target.shape == (3, 3 + fit_intercept)
    params, direction = case.params.astype(params_dtype), case.direction.astype(params_dtype)
    value, gradient = target.value_and_gradient(params)
    product = target.hessian_vector_product(params, direction)
    assert type(value) is float
    # Parameters of a dtype that is neither float64 nor that of X give float64.
    expected = params_dtype if params_dtype in (dtype, np.float64) else np.float64
    for flat in (False, True):
        shape = (target.shape[0] * target.shape[1],) if flat else target.shape
        again, g = target.value_and_gradient(params.reshape(shape))
        p = target.hessian_vector_product(params.reshape(shape), direction.reshape(shape))
        assert again == value
        for result, same in ((g, gradient), (p, product)):
            assert result.shape == shape
            assert result.dtype == expected
            np.testing.assert_array_equal(result.ravel(), same.ravel())


def test_arguments_are_not_changed():
    case = make_case((100, 3, 3, 3), targets="masses", weights="zeros")
    arrays = [case.X, case.y, case.options["sample_weight"], case.params, case.direction]
    copies = [a.copy() for a in arrays]
    for array in arrays:
        array.flags.writeable = False
    target = case.objective
    target.value_and_gradient(case.params)
    target.hessian_vector_product(case.params, case.direction)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_gradients_of_two_calls_do_not_share_memory():
    case = make_case((10, 2, 3, 3))
    target = case.objective
    _, first = target.value_and_gradient(case.params)
    copy = first.copy()
    _, second = target.value_and_gradient(2 * case.params)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, copy)


def test_n_rows_and_n_classes_default_to_what_y_shows():
    X = np.arange(8.0).reshape(4, 2)
    for y, n_classes, n_rows in (
        ([0, 1, 0, 1], 2, 1),
        ([0, 0, 0, 0], 2, 1),
        ([0, 2, 0, 0], 3, 3),
        ([0.0, 2.0, 0.0, 0.0], 3, 3),
        ([True, False, True, True], 2, 1),
        (np.ones((4, 2)), 2, 1),
        (np.ones((4, 5)), 5, 5),
    ):
        target = SoftmaxObjective(X, y)
        assert (target.n_classes, target.n_rows) == (n_classes, n_rows)
        assert (target.n_samples, target.n_features) == X.shape
    assert SoftmaxObjective(X, [0, 1, 0, 1], n_classes=4).shape == (4, 3)


# --- Equivalent problems --------------------------------------------------------------------------


def assert_equivalent(first, second, params, dtype=np.float64):
    """Assert that two objectives are the same function, rounding apart."""
    direction = np.cos(np.arange(params.size)).reshape(params.shape)
    value, gradient = first.value_and_gradient(params)
    other_value, other_gradient = second.value_and_gradient(params)
    assert value == pytest.approx(other_value, rel=TOLERANCE[dtype].value, abs=0)
    near(gradient, other_gradient, dtype)
    product = first.hessian_vector_product(params, direction)
    near(product, second.hessian_vector_product(params, direction), dtype)


@both_dtypes
@pytest.mark.parametrize("shape", [(130, 3, 2, 1), (130, 3, 2, 2), (130, 5, 7, 7)], ids=str)
class TestEquivalence:
    def test_weight_two_is_a_repeated_row(self, shape, dtype):
        case = make_case(shape, dtype)
        case.options["sample_weight"] = 1.0 + (np.arange(shape[0]) % 3 == 0)
        counts = case.options["sample_weight"].astype(int)
        repeated = case.options | {"sample_weight": None}
        other = SoftmaxObjective(case.X.repeat(counts, 0), case.y.repeat(counts), **repeated)
        assert_equivalent(case.objective, other, case.params, dtype)

    def test_weight_zero_is_a_removed_row(self, shape, dtype):
        case = make_case(shape, dtype, weights="zeros")
        case.options["sample_weight"][:70] = 0.0  # a whole block and a part
        kept = case.options["sample_weight"] > 0
        reduced = case.options | {"sample_weight": case.options["sample_weight"][kept]}
        other = SoftmaxObjective(case.X[kept], case.y[kept], **reduced)
        assert_equivalent(case.objective, other, case.params, dtype)

    def test_weights_have_no_scale(self, shape, dtype):
        case = make_case(shape, dtype, weights=1.0)
        for scale in (1e300, 1e-300, 7.0):
            scaled = case.options | {"sample_weight": case.options["sample_weight"] * scale}
            other = SoftmaxObjective(case.X, case.y, **scaled)
            assert_equivalent(case.objective, other, case.params, dtype)

    def test_equal_weights_are_none(self, shape, dtype):
        case = make_case(shape, dtype)
        for weights in (np.full(shape[0], 3.5), 3.5):
            other = SoftmaxObjective(case.X, case.y, **case.options | {"sample_weight": weights})
            assert_equivalent(case.objective, other, case.params, dtype)

    def test_labels_are_one_hot_targets(self, shape, dtype):
        case = make_case(shape, dtype, weights="zeros")
        one_hot = reference.one_hot(case.y, shape[2])
        other = SoftmaxObjective(case.X, one_hot, **case.options)
        assert_equivalent(case.objective, other, case.params, dtype)

    def test_masses_are_weights(self, shape, dtype):
        case = make_case(shape, dtype, targets="masses", weights=1.0)
        totals = case.y.sum(axis=1)
        normalised = np.divide(case.y, totals[:, None], where=totals[:, None] > 0, out=case.y * 0)
        options = case.options | {"sample_weight": case.options["sample_weight"] * totals}
        other = SoftmaxObjective(case.X, normalised + (totals == 0)[:, None], **options)
        assert_equivalent(case.objective, other, case.params, dtype)

    def test_order_of_rows_does_not_matter(self, shape, dtype):
        case = make_case(shape, dtype, weights=1.0)
        order = np.random.default_rng(0).permutation(shape[0])
        options = case.options | {"sample_weight": case.options["sample_weight"][order]}
        other = SoftmaxObjective(case.X[order], case.y[order], **options)
        assert_equivalent(case.objective, other, case.params, dtype)

    def test_order_of_classes_does_not_matter(self, shape, dtype):
        case = make_case(shape, dtype)
        n_classes, n_rows = shape[2:]
        order = np.roll(np.arange(n_classes), 1)  # new name of old class k: order[k]
        other = SoftmaxObjective(case.X, order[case.y], **case.options)
        permute = (lambda a: -a) if n_rows == 1 else (lambda a: a[np.argsort(order)])
        value, gradient = case.objective.value_and_gradient(case.params)
        other_value, other_gradient = other.value_and_gradient(permute(case.params))
        assert value == pytest.approx(other_value, rel=TOLERANCE[dtype].value, abs=0)
        near(other_gradient, permute(gradient), dtype)

    def test_a_common_shift_of_all_rows_changes_nothing(self, shape, dtype):
        case = make_case(shape, dtype, l2=0.0)
        if shape[3] == 1:
            return  # one row cannot shift against itself
        shift = np.full(case.params.shape[1], 0.5)
        value, gradient = case.objective.value_and_gradient(case.params)
        other_value, other_gradient = case.objective.value_and_gradient(case.params + shift)
        assert value == pytest.approx(other_value, rel=TOLERANCE[dtype].value, abs=0)
        near(other_gradient, gradient, dtype)
        near(gradient.sum(axis=0), 0.0, dtype)
        flat = np.broadcast_to(shift, case.params.shape).copy()
        near(case.objective.hessian_vector_product(case.params, flat), 0.0, dtype)


@both_dtypes
@pytest.mark.parametrize("targets", ["labels", "masses"])
def test_two_rows_with_opposite_signs_are_one_row_with_half_the_penalty(targets, dtype):
    two = make_case((200, 3, 2, 2), dtype, targets=targets, l2=0.2)
    one = make_case((200, 3, 2, 1), dtype, targets=targets, l2=0.1)
    np.testing.assert_array_equal(one.X, two.X)
    w = one.params
    pair = np.vstack([-w / 2, w / 2])
    value, gradient = one.objective.value_and_gradient(w)
    other_value, other_gradient = two.objective.value_and_gradient(pair)
    assert value == pytest.approx(other_value, rel=TOLERANCE[dtype].value, abs=0)
    near(other_gradient, np.vstack([-gradient, gradient]), dtype)


# --- Storage --------------------------------------------------------------------------------------


def layouts(X, folder):
    """Yield X in every layout that has the same values."""
    wide = np.zeros((2 * len(X), 3 * X.shape[1]), X.dtype)
    wide[::2, ::3] = X
    read_only = X.copy()
    read_only.flags.writeable = False
    unaligned = np.empty(X.nbytes + 1, np.uint8)[1:].view(X.dtype).reshape(X.shape)
    unaligned[...] = X
    file = np.memmap(folder / "X", X.dtype, "w+", shape=X.shape)
    file[...] = X
    file.flush()
    return {
        "F order": np.asfortranarray(X),
        "strided": wide[::2, ::3],
        "negative strides": X[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": read_only,
        "unaligned": unaligned,
        "big-endian": X.astype(X.dtype.newbyteorder()),
        "memmap": file,
        "read-only memmap": np.memmap(folder / "X", X.dtype, "r", shape=X.shape),
        "list": X.tolist(),
    }


@both_dtypes
def test_every_layout_of_X_gives_the_same_bits_without_another_compilation(dtype, tmp_path):
    case = make_case((200, 5, 3, 3), dtype)
    value, gradient = case.objective.value_and_gradient(case.params)
    product = case.objective.hessian_vector_product(case.params, case.direction)
    drivers = (dense_kernels.loss_gradient, dense_kernels.hessian_vector)
    before = [driver.signatures for driver in drivers]
    for name, X in layouts(case.X, tmp_path).items():
        other = SoftmaxObjective(X, case.y, **case.options)
        if name in ("list", "big-endian") and other.dtype != dtype:
            continue  # compared with float64 in its own round
        again, other_gradient = other.value_and_gradient(case.params)
        assert again == value, name
        np.testing.assert_array_equal(other_gradient, gradient, err_msg=name)
        other_product = other.hessian_vector_product(case.params, case.direction)
        np.testing.assert_array_equal(other_product, product, err_msg=name)
    assert [driver.signatures for driver in drivers] == before


@both_dtypes
def test_X_in_C_order_is_used_in_place(dtype, tmp_path):
    case = make_case((50, 4, 3, 3), dtype)
    variants = layouts(case.X, tmp_path)
    for name in ("read-only", "memmap", "read-only memmap"):
        target = SoftmaxObjective(variants[name], case.y)
        assert np.shares_memory(target.design.X, variants[name]), name
    assert np.shares_memory(case.objective.design.X, case.X)
    csr = sparse.csr_matrix(case.X)
    assert np.shares_memory(SoftmaxObjective(csr, case.y).design.X.data, csr.data)
    assert not np.shares_memory(
        SoftmaxObjective(variants["F order"], case.y).design.X, variants["F order"]
    )


@both_dtypes
@every_setting
@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (333, 6, 2, 2), (333, 6, 10, 10)], ids=str)
def test_csr_equals_dense(shape, setting, dtype):
    case = make_case(shape, dtype, **setting)
    case.X[np.random.default_rng(3).random(case.X.shape) < 0.5] = 0.0
    for make in (sparse.csr_matrix, sparse.csr_array, sparse.coo_array):
        other = SoftmaxObjective(make(case.X), case.y, **case.options)
        assert_equivalent(other, case.objective, case.params, dtype)


def test_a_pass_allocates_no_array_of_samples_times_classes():
    n_samples, n_classes = 200_000, 20
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 4)).astype(np.float32)
    target = SoftmaxObjective(X, rng.integers(0, n_classes, n_samples))
    params = np.zeros(target.shape)
    target.value_and_gradient(params)  # compiles
    target.hessian_vector_product(params, params)
    tracemalloc.start()
    try:
        target.value_and_gradient(params)
        target.hessian_vector_product(params, params)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < peak < n_samples * n_classes * 4 / 8


# --- Extremes -------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("shape", [(70, 3, 2, 1), (70, 3, 2, 2), (70, 3, 5, 5)], ids=str)
@pytest.mark.parametrize("targets", ["labels", "masses"])
def test_logits_that_overflow_give_infinity(shape, targets, make, dtype):
    case = make_case(shape, dtype, targets=targets, l2=0.0)
    target = SoftmaxObjective(make(case.X), case.y, **case.options)
    signs = np.where(np.arange(case.params.size) % 2, 1.0, -1.0).reshape(case.params.shape)
    for size in (0.9 * float(np.finfo(dtype).max), 1e300):
        value, gradient = target.value_and_gradient(signs * size)
        if np.isfinite(value):
            assert dtype is np.float64  # no logit overflows
            assert np.all(np.isfinite(gradient))
            continue
        assert value == np.inf
        np.testing.assert_array_equal(gradient, np.inf)
        assert target.value(signs * size) == np.inf


@both_dtypes
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array])
def test_hessian_vector_product_of_logits_that_overflow_raises(make, dtype):
    case = make_case((70, 3, 3, 3), dtype)
    target = SoftmaxObjective(make(case.X), case.y, **case.options)
    signs = np.where(np.arange(case.params.size) % 2, 1.0, -1.0).reshape(case.params.shape)
    huge = signs * 0.9 * float(np.finfo(dtype).max)
    with pytest.raises(FloatingPointError, match="Scale X"):
        target.hessian_vector_product(huge, case.direction)


@both_dtypes
def test_parameters_that_are_not_finite_give_infinity(dtype):
    case = make_case((10, 3, 3, 3), dtype)
    for bad in (np.nan, np.inf, -np.inf):
        params = case.params.copy()
        params[1, 1] = bad
        value, gradient = case.objective.value_and_gradient(params)
        assert value == np.inf
        np.testing.assert_array_equal(gradient, np.inf)


@both_dtypes
@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_huge_finite_logits_keep_value_and_gradient_finite(n_rows, dtype):
    scale = float(np.finfo(dtype).max) / 16
    target = SoftmaxObjective(
        np.ones((3, 1), dtype), [0, 1, 1], n_classes=max(2, n_rows), n_rows=n_rows, l2=0.0
    )
    params = np.zeros(target.shape)
    params[-1, 0] = scale
    value, gradient = target.value_and_gradient(params)
    n_wrong = 1 if n_rows < 3 else 3
    assert value == pytest.approx(scale * n_wrong / 3, rel=TOLERANCE[dtype].confident, abs=0)
    assert np.all(np.isfinite(gradient))
    product = target.hessian_vector_product(params, np.ones_like(params))
    np.testing.assert_array_equal(product, 0.0)


@both_dtypes
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_confident_samples_keep_the_relative_precision_of_the_loss(n_rows, soft, dtype):
    for gap in (1, 10, 20, 40, 80):
        z = np.arange(max(2, n_rows)) * -float(gap)
        y = reference.one_hot(np.array([0]), len(z)) if soft else [0]
        target = SoftmaxObjective(np.ones((1, 1), dtype), y, n_classes=len(z), n_rows=n_rows)
        params = np.zeros(target.shape)
        params[:, 0] = z[-n_rows:]
        value, gradient = target.value_and_gradient(params)
        one_hot = np.eye(len(z))[0]
        exact = float(reference.loss_exact(z, one_hot))
        assert value == pytest.approx(exact, rel=TOLERANCE[dtype].confident, abs=0)
        residual = [float(r) for r in reference.residual_exact(z, one_hot)][-n_rows:]
        if not soft or n_rows == 1:  # a soft residual is a difference of p and y
            bounds = {"rtol": TOLERANCE[dtype].confident, "atol": np.finfo(dtype).smallest_normal}
            np.testing.assert_allclose(gradient[:, 0], residual, **bounds)


# --- Optimisers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("method", ["L-BFGS-B", "Newton-CG", "trust-ncg"])
def test_scipy_minimize_reaches_the_optimum_of_scikit_learn(method, n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 6)) * np.array([1, 2, 0.5, 1, 3, 1])
    y = (X @ rng.normal(size=(6, n_classes)) + 2 * rng.gumbel(size=(500, n_classes))).argmax(1)
    weights = rng.uniform(0.5, 2, 500)
    C = 0.3
    theirs = SklearnLogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=100)
    theirs.fit(X, y, sample_weight=weights)
    target = SoftmaxObjective(X, y, sample_weight=weights, l2=1 / (C * weights.sum()))
    options = {"gtol": 1e-9, "ftol": 0.0} if method == "L-BFGS-B" else {"xtol": 1e-10}
    options = {"gtol": 1e-9} if method == "trust-ncg" else options
    newton = {} if method == "L-BFGS-B" else {"hessp": target.hessian_vector_product}
    found = optimize.minimize(
        target.value_and_gradient,
        np.zeros(target.shape).ravel(),
        jac=True,
        method=method,
        options=options,
        **newton,
    )
    best = np.column_stack([theirs.coef_, theirs.intercept_])
    # Both stop where the value cannot fall any more; sklearn stops on a relative change.
    assert found.fun == pytest.approx(target.value(best), rel=1e-12, abs=0)
    ours = found.x.reshape(target.shape)
    ours[:, -1] -= ours[:, -1].mean() if n_classes > 2 else 0.0
    best[:, -1] -= best[:, -1].mean() if n_classes > 2 else 0.0
    # The square root of that, over a curvature of at least l2 = 0.005.
    np.testing.assert_allclose(ours, best, rtol=0, atol=1e-5)


def test_example_of_the_docstring():
    results = doctest.testmod(objective)
    assert results.failed == 0
    assert results.attempted >= 8


# --- Errors ---------------------------------------------------------------------------------------

X4 = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0], [2.0, 2.0]])
Y4 = np.array([0, 1, 2, 1])


def corrupt_csr(**changes):
    X = sparse.csr_array(X4)
    for name, (index, value) in changes.items():
        getattr(X, name)[index] = value
    return X


@pytest.mark.parametrize(
    ("X", "y", "options", "message"),
    [
        (X4, Y4[:3], {}, "inconsistent numbers of samples"),
        (X4[:, 0], Y4, {}, "Reshape your data"),
        (np.where(X4 == 0, np.nan, X4), Y4, {}, "Input X contains NaN"),
        (np.where(X4 == 0, np.inf, X4), Y4, {}, "Input X contains infinity"),
        (corrupt_csr(indices=(1, 2)), Y4, {}, "corrupt CSR.*Rebuild"),
        (corrupt_csr(indices=(1, -1)), Y4, {}, "corrupt CSR.*Rebuild"),
        (corrupt_csr(indptr=(1, 6)), Y4, {}, "corrupt CSR.*Rebuild"),
        (corrupt_csr(data=(1, np.nan)), Y4, {}, "Input X contains NaN"),
        (X4, Y4 - 1, {}, r"in \[0, .*from -1 to 1"),
        (X4, Y4, {"n_classes": 2}, r"in \[0, 2\).*from 0 to 2"),
        (X4, Y4 + 0.5, {}, "Encode labels"),
        (X4, ["a", "b", "a", "b"], {}, "Encode labels"),
        (X4, [0, 1, np.nan, 1], {}, "Encode labels"),
        (X4, [0, 1, np.inf, 1], {}, r"in \[0, .*to inf"),
        (X4, [0, 1, 2**31, 1], {}, r"in \[0, "),
        (X4, [0, 1, 2**40, 1], {}, r"in \[0, "),
        (X4, [0, 1, 2**32 + 1, 1], {"n_classes": 2**33}, r"in \[0, "),
        (X4, np.zeros(4, int), {"n_classes": 1}, "integer from 2"),
        (X4, np.zeros(4, int), {"n_classes": 2.5}, "integer from 2"),
        (X4, -np.ones((4, 3)), {}, "must not be negative"),
        (X4, np.full((4, 3), np.nan), {}, "Input y contains NaN"),
        (X4, np.ones((4, 1)), {}, "at least two"),
        (X4, np.ones((4, 3)), {"n_classes": 2}, "one column per class"),
        (X4, np.zeros((4, 3)), {}, "at least one non-zero"),
        (X4, np.full((4, 3), 1e308), {}, "infinity"),
        (X4, Y4, {"sample_weight": [1, 1, 1]}, "expected"),
        (X4, Y4, {"sample_weight": [1, 1, 1, -1]}, "Remove these rows"),
        (X4, Y4, {"sample_weight": [1, 1, 1, np.nan]}, "sample_weight contains NaN"),
        (X4, Y4, {"sample_weight": [0, 0, 0, 0]}, "at least one non-zero"),
        (X4, Y4, {"l2": -1.0}, "finite and not negative"),
        (X4, Y4, {"l2": np.nan}, "finite and not negative"),
        (X4, Y4, {"l2": [1.0, np.inf]}, "finite and not negative"),
        (X4, Y4, {"l2": [1.0, 1.0, 1.0]}, r"shape \(2,\)"),
        (X4, Y4, {"l2": [[1.0, 1.0]]}, r"shape \(2,\)"),
        (X4, Y4, {"n_rows": 1}, "n_rows must be the number of classes, 3"),
        (X4, Y4, {"n_rows": 2}, "n_rows must be the number of classes, 3"),
        (X4, Y4 % 2, {"n_rows": 3}, "or 1"),
    ],
)
def test_bad_arguments_raise_an_error_that_says_what_is_wanted(X, y, options, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxObjective(X, y, **options)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (9 + 1,), (3, 3, 1), (9, 1), ()])
def test_parameters_of_a_wrong_shape_raise(shape):
    target = SoftmaxObjective(X4, Y4)
    bad, good = np.zeros(shape), np.zeros(target.shape)
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        target.value(bad)
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        target.value_and_gradient(bad)
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        target.hessian_vector_product(good, bad)


@both_dtypes
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize(("n_features", "n_classes"), [(60, 3), (60, 2), (5, 3)])
def test_hessian_operator_is_the_hessian_vector_product(n_features, n_classes, storage, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(203, n_features)).astype(dtype)
    weights = np.where(rng.random(203) < 0.1, 0.0, rng.random(203))
    y = rng.integers(0, n_classes, 203)
    target = SoftmaxObjective(storage(X), y, n_classes=n_classes, sample_weight=weights, l2=0.1)
    params = rng.normal(size=target.shape)
    operator = target.hessian_operator(params)
    for direction in rng.normal(size=(3, *target.shape)):
        near(operator(direction), target.hessian_vector_product(params, direction), dtype)
    with pytest.raises(FloatingPointError, match="logits overflow"):
        target.hessian_operator(np.full(target.shape, np.finfo(dtype).max))(params)


@both_dtypes
@pytest.mark.parametrize("top", [5.0, 30.0, 300.0])
def test_the_loss_of_a_sample_with_probability_one_keeps_its_precision(top, dtype):
    """Logits ``top, 0.25, -3, 0.125``: the loss must not be ``(z_max + log1p(rest)) - z_y``."""
    top = min(top, 80.0) if dtype == np.float32 else top
    z = np.array([top, 0.25, -3.0, 0.125])
    target = SoftmaxObjective(np.ones((70, 1), dtype), np.zeros(70, int), n_classes=4)
    loss, gradient = target.value_and_gradient(np.stack([z, np.zeros(4)], axis=1))
    others = np.exp(z[1:] - top)
    rel = 20 * float(np.finfo(dtype).eps) * (top if dtype == np.float32 else 1)
    assert loss == pytest.approx(np.log1p(others.sum()), rel=rel, abs=0)
    assert gradient[0, 0] == pytest.approx(-others.sum() / (1 + others.sum()), rel=rel, abs=0)


@both_dtypes
@pytest.mark.parametrize("n_classes", [2, 4])
def test_one_hot_soft_targets_are_labels_to_the_last_digits(n_classes, dtype):
    """Also where the label has a probability near 1, so that p - 1 would cancel."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(130, 3)).astype(dtype), rng.integers(0, n_classes, 130)
    soft = SoftmaxObjective(X, np.eye(n_classes)[y], n_rows=n_classes)
    hard = SoftmaxObjective(X, y, n_classes=n_classes, n_rows=n_classes)
    for scale in (1.0, 30.0):
        params = scale * rng.normal(size=soft.shape)
        value, gradient = hard.value_and_gradient(params)
        again, other = soft.value_and_gradient(params)
        assert again == pytest.approx(value, rel=50 * float(np.finfo(dtype).eps))
        near(other, gradient, dtype)
    one = SoftmaxObjective(np.ones((1, 1), dtype), np.eye(4)[:1])
    params = np.array([[60.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    gradient = one.value_and_gradient(params)[1]
    assert gradient[0, 0] == pytest.approx(-3 * np.exp(-60), rel=1e-4)


# --- Threads --------------------------------------------------------------------------------------


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs a second thread")
@both_dtypes
def test_threads_give_the_same_bits(dtype, monkeypatch):
    monkeypatch.setattr(_threads, "_SERIAL_WORK", 0)
    case = make_case((40_001, 7, 7, 7), dtype, weights="zeros")
    target, results = case.objective, []
    launch, launched = _threads.launch, []
    monkeypatch.setattr(_threads, "launch", lambda *a: (launched.append(1), launch(*a)))
    for n_threads in (1, 2):
        with thread_limit(n_threads):
            value, gradient = target.value_and_gradient(case.params)
            product = target.hessian_vector_product(case.params, case.direction)
        results.append((value, gradient.tobytes(), product.tobytes()))
    assert len(launched) == 2
    assert results[0] == results[1]


def test_any_number_of_threads_gives_the_same_bits_from_run_to_run():
    code = """
        import hashlib, json
        import numpy as np
        from fastsoftmax import SoftmaxObjective
        from fastsoftmax import _threads
        from fastsoftmax._threads import thread_limit

        n_parallel, launch = 0, _threads.launch
        def counting(*arguments):
            global n_parallel
            n_parallel += 1
            launch(*arguments)
        _threads.launch, _threads._SERIAL_WORK = counting, 0

        rng = np.random.default_rng(0)
        X = rng.normal(size=(100_001, 7)).astype(np.float32)
        target = SoftmaxObjective(X, rng.integers(0, 5, len(X)), l2=0.1)
        params, direction = rng.normal(size=(2, *target.shape))
        results = {}
        for n_threads in (1, 2, 3, 8):
            before = n_parallel
            hashes = set()
            for repeat in range(3):
                with thread_limit(n_threads):
                    value, gradient = target.value_and_gradient(params)
                    product = target.hessian_vector_product(params, direction)
                    hessian = target.design.hessian(params[:, :-1], params[:, -1])
                parts = (np.float64(value), gradient, product, hessian)
                hashes.add(hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest())
            results[n_threads] = (n_parallel - before, sorted(hashes))
        print(json.dumps(results))
    """
    results = json.loads(run_python(code, NUMBA_NUM_THREADS="8", OMP_NUM_THREADS="8"))
    assert results["1"][0] == 0
    for n_threads in ("2", "3", "8"):
        assert results[n_threads][0] >= 3 * 4
    assert len({h for _, hashes in results.values() for h in hashes}) == 1
