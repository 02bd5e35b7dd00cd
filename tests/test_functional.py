"""`fastsoftmax.functional` against the equations of docs/equations.md, by their numbers."""

from __future__ import annotations

import doctest
import inspect
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse, special

from fastsoftmax import functional
from fastsoftmax._kernels import rows
from fastsoftmax._kernels import softmax as maps
from fastsoftmax.functional import (
    cross_entropy,
    cross_entropy_gradient,
    log_softmax,
    logsumexp,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_gradient,
    softmax_jacobian,
    softmax_jvp,
    softmax_vjp,
)

DTYPES = (np.float32, np.float64)


class Tolerance(NamedTuple):
    softmax: float  # ulp; exponential 1, its sum 1, reciprocal 1, product 1/2
    row_sum: float  # ulp of 1; the promise of docs/equations.md
    log: float  # ulp; the two differences 1/2 each (at twice the spacing), log1p(rest) 2
    rtol: float  # of quantities made from a few roundings of this dtype: 16 of them
    atol: float  # the same, for entries that cancel; all such entries are of order 1


# Uncompiled, the 64 terms of a chunk are added one by one, not in vector lanes.
LOG = 16 if numba.config.DISABLE_JIT else 4
TOLERANCE = {
    dtype: Tolerance(4, 8, LOG, 16 * float(np.finfo(dtype).eps), 4 * float(np.finfo(dtype).eps))
    for dtype in DTYPES
}
# A five-point stencil with step 1e-3, in float64: truncation 1e-12 / 30 times a fifth derivative
# (below 100 for probabilities above 0.1), rounding 1e-16 / 1e-3 times the value.
STENCIL = {"rtol": 0, "atol": 2e-11}

properties = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def assert_close(actual, desired, dtype=np.float64, **changes):
    tolerance = TOLERANCE[dtype]
    options = {"rtol": tolerance.rtol, "atol": tolerance.atol} | changes
    np.testing.assert_allclose(actual, desired, **options)


def make_logits(n_samples, n_classes, dtype=np.float64, scale=3.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=(n_samples, n_classes))).astype(dtype)


def make_labels(n_samples, n_classes, seed=1):
    return np.random.default_rng(seed).integers(0, n_classes, n_samples)


def make_masses(n_samples, n_classes, dtype=np.float64, seed=2):
    """Soft targets with masses from 0 to n_classes, some entries and one row absent."""
    rng = np.random.default_rng(seed)
    masses = rng.uniform(0, 1, (n_samples, n_classes)) * (rng.random((n_samples, n_classes)) < 0.7)
    masses[-1] = 0
    return masses.astype(dtype)


def all_layouts(array):
    """Yield the array in every memory layout that has the same values."""
    padded = np.zeros(tuple(3 * n for n in array.shape), array.dtype)
    strided = padded[tuple(slice(None, None, 3) for _ in array.shape)]
    strided[...] = array
    read_only = array.copy()
    read_only.flags.writeable = False
    backwards = array[..., ::-1].copy()[..., ::-1]
    unaligned = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    unaligned[...] = array
    yield from {
        "C": np.array(array, order="C"),
        "F": np.array(array, order="F"),
        "strided": strided,
        "negative": backwards,
        "upside down": array[::-1].copy()[::-1],
        "read-only": read_only,
        "unaligned": unaligned,
    }.items()


# --- Equation 1 -----------------------------------------------------------------------------------

HARD_ROWS = {
    "random": lambda rng: rng.normal(0, 3, 50),
    "wide": lambda rng: rng.uniform(-60, 60, 50),
    "one": lambda rng: np.array([3.0]),
    "ties": lambda rng: np.array([1.0, 1.0, 0.5, 1.0]),
    "confident": lambda rng: np.array([0.0, -20.0, -40.0, -30.0]),
    "equal others": lambda rng: np.r_[11.3, np.full(1000, 0.1)],
    "equal others, mixed signs": lambda rng: np.r_[5.7, np.full(300, -5.3)],
    "large offset": lambda rng: 1e4 + rng.normal(0, 3, 50),
    "masked": lambda rng: np.array([-np.inf, 2.0, 1.0, -np.inf]),
    "half of the range": lambda rng: np.linspace(-80, 0, 200),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HARD_ROWS)
def test_equation_1_is_within_its_ulps_of_mpmath(name, dtype):
    z = HARD_ROWS[name](np.random.default_rng(0)).astype(dtype)
    errors = reference.ulps(softmax(z), reference.softmax_exact(z), dtype)
    # docs/equations.md promises 4 + |z_max - z|; the corrected exponential does better.
    assert errors.max() <= TOLERANCE[dtype].softmax
    exact = reference.log_softmax_exact(z)
    finite = np.isfinite(z)
    computed = log_softmax(z)
    np.testing.assert_array_equal(computed[~finite], -np.inf)
    errors = reference.ulps(
        computed[finite], [x for x, ok in zip(exact, finite, strict=True) if ok], dtype
    )
    assert errors.max() <= TOLERANCE[dtype].log


@pytest.mark.parametrize("dtype", DTYPES)
def test_equation_1_at_the_largest_logits(dtype):
    big = np.finfo(dtype).max
    z = np.array([[big, -big, 0], [-big, -big, -big], [big, big, -big], [0, -big, -1]], dtype)
    e = math.exp(-1)
    expected = [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [1 / (1 + e), 0, e / (1 + e)]]
    assert_close(softmax(z), expected, dtype)
    assert_close(logsumexp(z), [big, -big, big, math.log1p(e)], dtype)
    assert not np.isnan(log_softmax(z)).any()
    loss, gradient = softmax_cross_entropy_gradient(z[1:3], [0, 1])
    assert_close(loss, (math.log(3) + math.log(2)) / 2, dtype)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [1, 2, 3, 10, 127, 128, 129, 1000, 100_000])
def test_equation_1_rows_sum_to_one(n_classes, dtype):
    for scale in (0, 0.3, 3.0, 30.0):
        z = make_logits(2, n_classes, dtype, scale)
        z[1] = np.float64(0.7)  # equal logits, whose roundings all agree
        z[1, 0] = 3.3
        for p in softmax(z):
            assert abs(math.fsum(p) - 1) <= TOLERANCE[dtype].row_sum * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_equation_1_with_100000_classes_is_within_its_ulps(dtype):
    z = np.r_[11.3, np.full(50_000, 3.3), np.full(49_999, 0.1)].astype(dtype)
    terms = np.exp(z[[0, 1, -1]].astype(np.longdouble) - np.longdouble(z[0]))
    total = terms @ np.array([1, 50_000, 49_999], np.longdouble)
    error = np.abs(softmax(z)[[0, 1, -1]] - terms / total) / np.spacing(
        (terms / total).astype(dtype)
    )
    assert error.max() <= TOLERANCE[dtype].softmax + 0.5  # 0.5: longdouble may be float64


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equation_1_along_any_axis(shape, dtype):
    z = np.random.default_rng(0).normal(size=shape).astype(dtype)
    pairs = ((softmax, special.softmax), (log_softmax, special.log_softmax))
    for axis in range(-len(shape), len(shape)):
        for ours, theirs in pairs:
            result = ours(z, axis=axis)
            assert result.dtype == dtype
            assert_close(result, theirs(z.astype(float), axis=axis), dtype)
        assert_close(logsumexp(z, axis=axis), special.logsumexp(z.astype(float), axis=axis), dtype)
    if len(shape) == 1:
        assert np.isscalar(logsumexp(z))


# Transposed with full and part tiles, folded, folded with a rest, cut into segments.
@pytest.mark.parametrize("n_classes", [3, 60, 128, 129, 256, 257, 5000, 65_536, 65_537, 150_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equation_1_of_any_shape(n_classes, dtype):
    n_samples = 3 if n_classes > 1000 else 150
    z = make_logits(n_samples, n_classes, dtype)
    z[1] -= 1e3
    z[2, : n_classes // 2] = -np.inf
    pairs = ((softmax, special.softmax), (log_softmax, special.log_softmax))
    for ours, theirs in pairs:
        result = ours(z)
        assert_close(result, theirs(z.astype(float), axis=1), dtype)
        np.testing.assert_array_equal(ours(z.T.copy(), axis=0), result.T)
        np.testing.assert_array_equal(ours(z[1]), result[1])
        stacked = np.stack([z.T, z[::-1].T])
        np.testing.assert_array_equal(ours(stacked, axis=1)[0], result.T)
        np.testing.assert_array_equal(ours(stacked, axis=1)[1], result[::-1].T)
        overwritten = z.copy()
        np.testing.assert_array_equal(ours(overwritten, out=overwritten), result)
    expected = special.logsumexp(z.astype(float), axis=1)
    assert_close(logsumexp(z), expected, dtype)
    np.testing.assert_array_equal(logsumexp(z.T.copy(), axis=0), logsumexp(z))


@pytest.mark.parametrize("position", [0, 16_384, 149_999])
def test_long_rows_report_what_others_do(position):
    for value, message in ((np.nan, "NaN"), (np.inf, "Clip")):
        z = make_logits(2, 150_000)
        z[1, position] = value
        with pytest.raises(ValueError, match=message):
            softmax(z)
    z = np.full((2, 150_000), -np.inf)
    z[0, position] = 1
    with pytest.raises(ValueError, match="Leave at least one"):
        logsumexp(z)
    z[1, position] = -1e308
    assert softmax(z)[:, position].tolist() == [1, 1]
    np.testing.assert_array_equal(logsumexp(z), [1, -1e308])


def test_empty_arrays():
    assert softmax(np.empty((3, 0)), axis=0).shape == (3, 0)
    assert logsumexp(np.empty((0, 3, 4)), axis=1).shape == (0, 4)
    assert softmax(np.empty((0, 3))).shape == (0, 3)
    assert log_softmax(np.empty((2, 0, 3), np.float32)).shape == (2, 0, 3)
    assert logsumexp(np.empty((0, 3))).shape == (0,)
    assert softmax_jacobian(np.empty((0, 3))).shape == (0, 3, 3)
    assert softmax_jvp(np.empty((0, 3)), np.empty((0, 3))).shape == (0, 3)


finite_logits = hnp.arrays(
    st.sampled_from(DTYPES),
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    fill=st.nothing(),
)


@properties
@given(finite_logits)
def test_equation_1_of_any_finite_logits(z):
    tolerance = TOLERANCE[z.dtype.type]
    p = softmax(z)
    assert p.min() >= 0
    assert p.max() <= 1
    for row in p:
        assert abs(math.fsum(row) - 1) <= tolerance.row_sum * np.finfo(z.dtype).eps
    g = log_softmax(z)
    assert not np.isnan(g).any()
    assert g.max() <= 0
    loss, gradient = softmax_cross_entropy_gradient(z, np.zeros(len(z), int))
    assert loss >= 0
    assert np.isfinite(gradient).all()
    # Not the same bits: LLVM vectorises the loop that keeps the exponentials in another way.
    assert loss == pytest.approx(softmax_cross_entropy(z, np.zeros(len(z), int)), rel=1e-14)


@properties
@given(hnp.arrays(np.int64, (3, 6), elements=st.integers(-500, 500)), st.integers(-(2**20), 2**20))
def test_equation_1_is_shift_invariant(z, shift):
    labels = [0, 1, 5]
    for dtype in DTYPES:  # whole numbers, so that the shifted logits are exact
        a, b = z.astype(dtype), (z + shift).astype(dtype)
        np.testing.assert_array_equal(softmax(a), softmax(b))
        np.testing.assert_array_equal(log_softmax(a), log_softmax(b))
        assert softmax_cross_entropy(a, labels) == softmax_cross_entropy(b, labels)


@properties
@given(finite_logits, st.randoms(use_true_random=False))
def test_equations_1_and_6_follow_a_permutation_of_the_classes(z, random):
    order = np.array(random.sample(range(z.shape[1]), z.shape[1]))
    labels = np.arange(len(z)) % z.shape[1]
    moved = np.argsort(order)[labels]
    dtype = z.dtype.type
    assert_close(softmax(z[:, order]), softmax(z)[:, order], dtype)
    loss, gradient = softmax_cross_entropy_gradient(z, labels)
    other_loss, other_gradient = softmax_cross_entropy_gradient(z[:, order], moved)
    assert_close(other_loss, loss)
    assert_close(other_gradient, gradient[:, order], dtype)


# --- Equations 2, 3 and 4 -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [1, 2, 7])
def test_equation_2_agrees_with_the_oracle(n_classes, dtype):
    p = softmax(make_logits(40, n_classes, dtype))
    labels = make_labels(40, n_classes)
    weights = np.random.default_rng(3).uniform(0, 2, 40)
    # Probabilities next to 1 are given rounded, so losses agree in absolute terms.
    for w in (None, weights):
        expected = reference.cross_entropy(p.astype(float), reference.one_hot(labels, n_classes), w)
        assert_close(cross_entropy(p, labels, sample_weight=w), expected)
        masses = make_masses(40, n_classes, dtype)
        expected = reference.cross_entropy(p.astype(float), masses.astype(float), w)
        assert_close(cross_entropy(p, masses, sample_weight=w), expected)


def test_equation_2_conventions():
    p = np.array([[0.0, 1.0], [0.5, 0.5]])
    assert cross_entropy(p, [1, 1]) == pytest.approx(math.log(2) / 2)
    assert cross_entropy(p, [[0.0, 1.0], [0.0, 0.0]]) == 0.0  # 0 log 0 = 0
    assert cross_entropy(p, [0, 1]) == math.inf
    assert cross_entropy(p, [[1e-300, 1.0], [0.5, 0.5]]) == math.inf
    assert cross_entropy(p, [0, 1], sample_weight=[0, 1]) == pytest.approx(math.log(2))


def test_equation_3_derivatives_of_the_logarithm_and_of_the_loss_in_it():
    """dg_kl/dŷ_ij = (1/ŷ_kl) δ_ki δ_lj and dL/dg_ij = -(1/m) y_ij; their product is eq. 4."""
    p, y = softmax(make_logits(3, 4, scale=0.5)), make_masses(3, 4)
    dg_dp = reference.five_point_gradient(np.log, p)
    diagonal = np.zeros((3, 4, 3, 4))
    for index in np.ndindex(p.shape):
        diagonal[index + index] = 1 / p[index]
    np.testing.assert_allclose(dg_dp, diagonal, rtol=1e-6, atol=1e-10)  # (step / ŷ)**4
    dl_dg = reference.five_point_gradient(lambda g: -(y * g).sum() / 3, np.log(p))
    np.testing.assert_allclose(dl_dg, -y / 3, **STENCIL)
    chained = np.einsum("kl,klij->ij", -y / 3, diagonal)
    assert_close(cross_entropy_gradient(p, y), chained)


def test_equation_4_is_the_derivative_of_equation_2():
    p, y = softmax(make_logits(4, 3, scale=0.3)), make_masses(4, 3)
    weights = [1, 0, 2, 0.5]
    stencil = reference.five_point_gradient(lambda x: cross_entropy(x, y, sample_weight=weights), p)
    np.testing.assert_allclose(
        cross_entropy_gradient(p, y, sample_weight=weights), stencil, rtol=0, atol=1e-9
    )  # fifth derivative of the logarithm: 24 / ŷ**5


@pytest.mark.parametrize("dtype", DTYPES)
def test_equation_4_agrees_with_its_formula(dtype):
    p, labels = softmax(make_logits(30, 5, dtype)), make_labels(30, 5)
    expected = -reference.one_hot(labels, 5) / p / 30
    assert_close(cross_entropy_gradient(p, labels), expected, dtype)
    masses = make_masses(30, 5, dtype)
    assert_close(cross_entropy_gradient(p, masses), -masses / p / 30, dtype)


def test_equation_4_conventions():
    p = np.array([[0.0, 1.0], [0.0, 1.0]])
    expected = [[0, -0.5], [-np.inf, 0]]
    np.testing.assert_array_equal(cross_entropy_gradient(p, [1, 0]), expected)  # 0/0 = 0
    np.testing.assert_array_equal(cross_entropy_gradient(p, [[0.0, 1.0], [1.0, 0.0]]), expected)
    without = cross_entropy_gradient(p, [1, 0], sample_weight=[1, 0])
    np.testing.assert_array_equal(without, [[0, -1], [0, 0]])
    tiny = cross_entropy_gradient([[0.0, 1.0]], [[5e-324, 0.0]])
    np.testing.assert_array_equal(tiny, [[-np.inf, 0]])


# --- Equation 5 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [1, 2, 6])
def test_equation_5_jacobian_agrees_with_the_oracle(n_classes, dtype):
    p = softmax(make_logits(20, n_classes, dtype))
    jacobian = softmax_jacobian(p)
    assert jacobian.dtype == dtype
    assert_close(jacobian, reference.jacobian(p.astype(float)), dtype)
    np.testing.assert_array_equal(jacobian, jacobian.transpose(0, 2, 1))


def test_equation_5_jacobian_is_the_derivative_of_equation_1():
    """Also across samples: dA_ab/dz_ij = 0 for j != b."""
    z = make_logits(3, 4, scale=0.7)
    stencil = reference.five_point_gradient(softmax, z)  # (j, i, b, a), samples first
    expected = np.zeros((3, 4, 3, 4))
    for sample, block in enumerate(softmax_jacobian(softmax(z))):
        expected[sample, :, sample, :] = block
    np.testing.assert_allclose(stencil, expected, **STENCIL)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equation_5_products_agree_with_the_jacobian(dtype):
    p = softmax(make_logits(20, 6, dtype))
    u = make_logits(20, 6, dtype, seed=5)
    jacobian = reference.jacobian(p.astype(float))
    atol = 10 * TOLERANCE[dtype].atol  # directions are of order 10
    assert_close(softmax_jvp(p, u), np.einsum("bai,bi->ba", jacobian, u), dtype, atol=atol)
    assert_close(softmax_vjp(p, u), np.einsum("ba,bai->bi", u, jacobian), dtype, atol=atol)


def test_equation_5_jvp_is_the_directional_derivative_of_equation_1():
    z, u = make_logits(5, 4, scale=0.5), make_logits(5, 4, scale=1, seed=5)
    stencil = reference.five_point_gradient(lambda t: softmax(z + t[0] * u), np.zeros(1))[0]
    np.testing.assert_allclose(softmax_jvp(softmax(z), u), stencil, **STENCIL)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equation_5_products_of_the_largest_directions_are_finite(dtype):
    big = np.finfo(dtype).max
    product = softmax_jvp(np.array([[0.5, 0.5], [0, 1]], dtype), np.array([[big, -big]] * 2, dtype))
    np.testing.assert_array_equal(product, np.array([[big / 2, -big / 2], [0, 0]], dtype))


def test_equation_5_products_take_the_wider_dtype_and_any_axis():
    p, u = softmax(make_logits(4, 3, np.float32)), make_logits(4, 3)
    assert softmax_jvp(p, u).dtype == np.float64
    assert_close(softmax_jvp(p.T, u.T, axis=0), softmax_jvp(p, u).T)
    stacked = softmax_vjp(np.stack([p, p]), np.stack([u, -u]))
    np.testing.assert_array_equal(stacked[1], -softmax_vjp(p, u))


# --- Equation 6 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "masses"])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_equation_6_is_the_chained_product_of_4_and_5(n_classes, kind):
    """dL/dz_ij = sum_k dL/dŷ_kj dŷ_kj/dz_ij, through the Jacobian and without it."""
    z = make_logits(50, n_classes, scale=2)
    y = make_labels(50, n_classes) if kind == "labels" else make_masses(50, n_classes)
    p = softmax(z)
    slope = cross_entropy_gradient(p, y)
    _, fused = softmax_cross_entropy_gradient(z, y)
    eps = np.finfo(float).eps
    # Each of K products and sums rounds once, relative to the masses over m that cancel.
    options = {"rtol": 0, "atol": (4 + n_classes) * eps * (1 if kind == "labels" else 10) / 50}
    chained = np.einsum("bk,bki->bi", slope, softmax_jacobian(p))
    np.testing.assert_allclose(chained, fused, **options)
    np.testing.assert_allclose(softmax_vjp(p, slope), fused, **options)
    assert_close(cross_entropy(p, y), softmax_cross_entropy(z, y))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["labels", "masses"])
def test_equation_6_is_the_derivative_of_the_loss(kind, weighted):
    z = make_logits(5, 4, scale=1)
    y = make_labels(5, 4) if kind == "labels" else make_masses(5, 4)
    w = [1, 2, 0, 0.5, 1] if weighted else None
    stencil = reference.five_point_gradient(
        lambda x: softmax_cross_entropy(x, y, sample_weight=w), z
    )
    _, gradient = softmax_cross_entropy_gradient(z, y, sample_weight=w)
    np.testing.assert_allclose(gradient, stencil, **STENCIL)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [1, 2, 5, 129, 1000])
def test_equation_6_agrees_with_the_oracle(n_classes, dtype):
    z, labels = make_logits(90, n_classes, dtype), make_labels(90, n_classes)
    masses = make_masses(90, n_classes, dtype)
    weights = np.random.default_rng(3).uniform(0, 2, 90)
    for y, full in ((labels, reference.one_hot(labels, n_classes)), (masses, masses)):
        full = full.astype(float)
        for w in (None, weights):
            loss, gradient = softmax_cross_entropy_gradient(z, y, sample_weight=w)
            assert gradient.dtype == dtype
            expected = reference.residual(z, full, w)
            scale = np.abs(expected).max() + 1e-300
            assert_close(gradient / scale, expected / scale, dtype)
            assert_close(loss, reference.softmax_cross_entropy(z, full, w), dtype)
            # Sums over the classes: of terms that add up to twice the mass.
            assert np.abs(gradient.sum(axis=1)).max() <= 4 * n_classes * np.finfo(dtype).eps * scale
            value = softmax_cross_entropy(z, y, sample_weight=w)
            assert value == pytest.approx(loss, rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [1.0, 10.0, 30.0, 80.0, 600.0])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "masses"])
def test_equation_6_keeps_its_relative_precision_at_probability_one(kind, gap, dtype):
    z = np.array([0.25, gap, -3.0, 0.125], dtype)
    target = {"masses": np.array([0.0, 2.5, 0.0, 0.0])}.get(kind, reference.one_hot(1, 4))
    y = [1] if kind == "labels" else target[None]
    loss, gradient = softmax_cross_entropy_gradient(z[None], y)
    tiny = 1e-310 if dtype is np.float64 else 1e-43  # one subnormal spacing or two
    assert loss == pytest.approx(
        float(reference.loss_exact(z, target)), rel=TOLERANCE[dtype].rtol, abs=tiny
    )
    expected = np.array([float(x) for x in reference.residual_exact(z, target)])
    np.testing.assert_allclose(gradient[0], expected, rtol=TOLERANCE[dtype].rtol, atol=tiny)
    assert softmax_cross_entropy(z[None], y) == loss


def test_equation_6_of_masked_classes():
    z = np.array([[0.0, -np.inf, 0.0], [1.0, 1.0, -np.inf]])
    loss, gradient = softmax_cross_entropy_gradient(z, [0, 1])
    assert loss == pytest.approx(math.log(2))
    np.testing.assert_array_equal(gradient, [[-0.25, 0, 0.25], [0.25, -0.25, 0]])
    loss, gradient = softmax_cross_entropy_gradient(z, [1, 1])
    assert loss == math.inf
    np.testing.assert_array_equal(gradient, [[0.25, -0.5, 0.25], [0.25, -0.25, 0]])
    assert softmax_cross_entropy(z, [1, 1], sample_weight=[0, 1]) == pytest.approx(math.log(2))
    soft = [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    assert softmax_cross_entropy(z, soft) == pytest.approx(math.log(2))


def test_equation_6_of_masses_at_the_edge_of_the_dtype():
    loss, gradient = softmax_cross_entropy_gradient([[0.0, 0.0]], [[1e308, 0.0]])
    assert loss == pytest.approx(1e308 * math.log(2))
    np.testing.assert_allclose(gradient, [[-5e307, 5e307]])
    assert softmax_cross_entropy([[0.0, 9.0]], [[1e308, 0.0]]) == math.inf  # 9e308: no such number


# --- Targets and weights --------------------------------------------------------------------------

LOSSES = (cross_entropy, softmax_cross_entropy)
GRADIENTS = (
    cross_entropy_gradient,
    lambda *args, **kwargs: softmax_cross_entropy_gradient(*args, **kwargs)[1],
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", [0, 1], ids=["of probabilities", "of logits"])
def test_soft_targets_that_are_one_hot_equal_class_indices(pair, dtype):
    x, labels = softmax(make_logits(50, 6, dtype, scale=1)), make_labels(50, 6)
    targets = reference.one_hot(labels, 6)
    assert_close(LOSSES[pair](x, targets), LOSSES[pair](x, labels))
    assert_close(GRADIENTS[pair](x, targets), GRADIENTS[pair](x, labels), dtype)


@pytest.mark.parametrize("label_dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i4", bool])
def test_class_indices_of_any_integer_dtype(label_dtype):
    z, labels = make_logits(10, 2), make_labels(10, 2)
    expected = softmax_cross_entropy(z, labels)
    assert softmax_cross_entropy(z, labels.astype(label_dtype)) == expected
    assert softmax_cross_entropy(z, labels.astype(bool).tolist()) == expected


@pytest.mark.parametrize("kind", ["labels", "masses"])
@pytest.mark.parametrize("pair", [0, 1], ids=["of probabilities", "of logits"])
def test_weight_two_is_a_duplicated_row_and_weight_zero_a_removed_one(pair, kind):
    x = softmax(make_logits(30, 4))
    y = make_labels(30, 4) if kind == "labels" else make_masses(30, 4)
    weights = np.random.default_rng(4).integers(0, 3, 30)
    repeated = np.repeat(np.arange(30), weights)
    loss = LOSSES[pair](x, y, sample_weight=weights)
    assert_close(loss, LOSSES[pair](x[repeated], y[repeated]))
    expected = np.zeros_like(x)
    np.add.at(expected, repeated, GRADIENTS[pair](x[repeated], y[repeated]))
    assert_close(GRADIENTS[pair](x, y, sample_weight=weights), expected)


@pytest.mark.parametrize("factor", [1e308, 3e-320, 1e-300])
def test_only_ratios_of_weights_matter(factor):
    z, labels = make_logits(6, 3), make_labels(6, 3)
    weights = np.array([1, 0.5, 0, 0.25, 1, 1])
    expected = softmax_cross_entropy(z, labels, sample_weight=weights)
    rtol = 1e-3 if factor < 1e-310 else 1e-14  # subnormal weights have few digits
    assert softmax_cross_entropy(z, labels, sample_weight=weights * factor) == pytest.approx(
        expected, rel=rtol
    )


# --- Layouts, dtypes and out ----------------------------------------------------------------------

MAPS = (softmax, log_softmax)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_gives_the_same_bits(dtype):
    z, labels, masses = make_logits(9, 5, dtype), make_labels(9, 5), make_masses(9, 5, dtype)
    p = softmax(z)
    direction = make_logits(9, 5, dtype, seed=8)
    calls = {
        "softmax": (softmax, z),
        "log_softmax": (log_softmax, z),
        "logsumexp": (logsumexp, z),
        "cross_entropy": (lambda x: cross_entropy(x, labels), p),
        "cross_entropy, soft": (lambda y: cross_entropy(p, y), masses),
        "cross_entropy_gradient": (lambda x: cross_entropy_gradient(x, masses), p),
        "softmax_jacobian": (softmax_jacobian, p),
        "softmax_jvp": (lambda u: softmax_jvp(p, u), direction),
        "softmax_vjp": (lambda x: softmax_vjp(x, direction), p),
        "softmax_cross_entropy": (lambda x: softmax_cross_entropy(x, labels), z),
        "gradient": (lambda x: softmax_cross_entropy_gradient(x, masses)[1], z),
        "gradient, soft": (lambda y: softmax_cross_entropy_gradient(z, y)[1], masses),
    }
    for name, (call, array) in calls.items():
        expected = call(array)
        for layout, same in all_layouts(array):
            before = same.copy()
            np.testing.assert_array_equal(call(same), expected, err_msg=f"{name} {layout}")
            np.testing.assert_array_equal(same, before, err_msg=f"{name} changed its input")


def test_axis_0_is_the_transpose():
    z, labels, masses = make_logits(9, 5), make_labels(9, 5), make_masses(9, 5)
    p = softmax(z)
    np.testing.assert_array_equal(softmax(z.T, axis=0), p.T)
    for pair, x in enumerate((p, z)):
        for y, y_transposed in ((labels, labels), (masses, masses.T)):
            assert LOSSES[pair](x.T, y_transposed, axis=0) == LOSSES[pair](x, y)
            np.testing.assert_array_equal(
                GRADIENTS[pair](x.T, y_transposed, axis=0), GRADIENTS[pair](x, y).T
            )
    np.testing.assert_array_equal(softmax_jacobian(p.T, axis=0), softmax_jacobian(p))


@pytest.mark.parametrize(
    ("given_dtype", "result_dtype"),
    [
        (np.float16, np.float32),
        (">f2", np.float32),
        (np.float32, np.float32),
        (">f4", np.float64),
        (">f8", np.float64),
        (np.longdouble, np.float64),
        (np.int8, np.float64),
        (np.uint64, np.float64),
        (bool, np.float64),
    ],
)
def test_other_real_dtypes(given_dtype, result_dtype):
    z = np.array([[0, 1], [1, 1]]).astype(given_dtype)
    expected = softmax(np.array([[0, 1], [1, 1]], result_dtype))
    result = softmax(z)
    assert result.dtype == result_dtype
    np.testing.assert_array_equal(result, expected)
    assert softmax_cross_entropy_gradient(z, [0, 1])[1].dtype == result_dtype
    np.testing.assert_array_equal(softmax(z.tolist()), softmax(np.array([[0.0, 1], [1, 1]])))


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_of_every_layout_is_filled_and_returned(dtype):
    z, masses = make_logits(6, 4, dtype), make_masses(6, 4, dtype)
    p, u = softmax(z), make_logits(6, 4, dtype, seed=8)
    for layout, out in all_layouts(np.zeros((6, 4), dtype)):
        if layout == "read-only":
            continue
        for call in (
            lambda out: softmax(z, out=out),
            lambda out: log_softmax(z, out=out),
            lambda out: cross_entropy_gradient(p, masses, out=out),
            lambda out: softmax_jvp(p, u, out=out),
            lambda out: softmax_cross_entropy_gradient(z, masses, out=out)[1],
        ):
            expected = call(None)
            out[...] = 7
            assert call(out) is out
            np.testing.assert_array_equal(out, expected)
    for layout, out in all_layouts(np.zeros(6, dtype)):
        if layout != "read-only":
            assert logsumexp(z, out=out) is out
            np.testing.assert_array_equal(out, logsumexp(z))
    for layout, out in all_layouts(np.zeros((6, 4, 4), dtype)):
        if layout != "read-only":
            assert softmax_jacobian(p, out=out) is out
            np.testing.assert_array_equal(out, softmax_jacobian(p))
    scalar = np.empty((), dtype)
    assert logsumexp(z[0], out=scalar) is scalar
    assert scalar == logsumexp(z[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_may_be_the_input(dtype):
    z = make_logits(300, 20, dtype)
    labels = make_labels(300, 20)
    calls = (
        lambda x, out: softmax(x, out=out),
        lambda x, out: log_softmax(x, out=out),
        lambda x, out: softmax_cross_entropy_gradient(x, labels, out=out)[1],
        lambda x, out: softmax_jvp(softmax(z), x, out=out),
    )
    p, masses = softmax(z), make_masses(300, 20, dtype)
    of_probabilities = (
        lambda x, out: cross_entropy_gradient(x, labels, out=out),
        lambda x, out: cross_entropy_gradient(x, masses, out=out),
        lambda x, out: softmax_vjp(x, z, out=out),
    )
    pairs = [(call, z) for call in calls] + [(call, p) for call in of_probabilities]
    for call, array in pairs:
        expected = call(array, None)
        for _, x in all_layouts(array):
            if x.flags.writeable:
                np.testing.assert_array_equal(call(x, x), expected)
                np.testing.assert_array_equal(x, expected)


def test_out_may_overlap_any_input():
    z = make_logits(5, 4)
    for make_out in (
        lambda m: m[1:6],
        lambda m: m[4::-1],
        lambda m: m.reshape(-1)[2:22].reshape(5, 4),
    ):
        memory = np.zeros((7, 4))
        memory[:5] = z
        np.testing.assert_array_equal(softmax(memory[:5], out=make_out(memory)), softmax(z))
    p, masses = softmax(z), make_masses(5, 4)
    expected = softmax_cross_entropy_gradient(z, masses)[1]
    np.testing.assert_array_equal(
        softmax_cross_entropy_gradient(z, masses, out=masses)[1], expected
    )
    expected = softmax_jvp(p, z)
    np.testing.assert_array_equal(softmax_jvp(p, z, out=p), expected)
    weights = np.array([1.0, 2.0, 3.0])
    expected = logsumexp(np.diag(weights))
    for place in (lambda memory: memory[:, 1], lambda memory: memory[0]):
        memory = np.diag(weights)
        np.testing.assert_array_equal(logsumexp(memory, out=place(memory)), expected)


# --- Errors ---------------------------------------------------------------------------------------

Z = [[0.0, 1.0], [2.0, 3.0]]
P = [[0.5, 0.5], [0.25, 0.75]]
read_only = np.zeros((2, 2))
read_only.flags.writeable = False

ERRORS = {
    "NaN": (lambda: softmax([[0.0, np.nan]]), ValueError, "contain NaN.*Drop or impute"),
    "NaN alone": (lambda: softmax([np.nan]), ValueError, "contain NaN"),
    "NaN beside -inf": (lambda: log_softmax([-np.inf, np.nan]), ValueError, "contain NaN"),
    "+inf": (lambda: softmax([[0.0, np.inf]]), ValueError, r"\+inf.*Clip"),
    "all -inf": (lambda: softmax([[0.0, 1.0], [-np.inf] * 2]), ValueError, "Leave at least one"),
    "all -inf, logsumexp": (lambda: logsumexp([-np.inf]), ValueError, "Leave at least one"),
    "NaN, loss": (lambda: softmax_cross_entropy([[np.nan, 0.0]], [1]), ValueError, "contain NaN"),
    "+inf, loss": (lambda: softmax_cross_entropy([[np.inf, 0.0]], [0]), ValueError, "Clip"),
    "NaN, gradient": (
        lambda: softmax_cross_entropy_gradient([[np.nan, 0.0]], [[0.5, 0.5]]),
        ValueError,
        "contain NaN",
    ),
    "all -inf, gradient": (
        lambda: softmax_cross_entropy_gradient([[-np.inf, -np.inf]], [0]),
        ValueError,
        "Leave at least one",
    ),
    "complex": (lambda: softmax([[1j, 0]]), ValueError, "Complex data not supported"),
    "strings": (lambda: softmax([["a", "b"]]), TypeError, "real numbers"),
    "objects": (lambda: softmax(np.array([[1, None]], object)), TypeError, "real numbers"),
    "dates": (lambda: softmax(np.zeros(2, "M8[s]")), TypeError, "real numbers"),
    "sparse": (lambda: softmax(sparse.csr_matrix(Z)), TypeError, "toarray"),
    "masked": (lambda: softmax(np.ma.masked_equal(Z, 0)), TypeError, "filled"),
    "ragged": (lambda: softmax([[1.0], [1.0, 2.0]]), ValueError, "inhomogeneous"),
    "longdouble": (
        lambda: softmax(np.array([np.finfo(np.longdouble).max, 0])),
        ValueError if np.finfo(np.longdouble).max > np.finfo(float).max else (),
        "Clip",
    ),
    "scalar": (lambda: softmax(1.0), ValueError, "axis"),
    "axis": (lambda: softmax(Z, axis=2), ValueError, "axis 2"),
    "axis type": (lambda: softmax(Z, axis=1.0), TypeError, "integer"),
    "no classes": (lambda: softmax(np.empty((3, 0))), ValueError, "No classes"),
    "three axes": (lambda: softmax_cross_entropy(np.zeros((2, 2, 2)), [0, 1]), ValueError, "2D"),
    "one axis": (lambda: cross_entropy([0.5, 0.5], [0]), ValueError, "2D"),
    "no samples": (lambda: softmax_cross_entropy(np.empty((0, 2)), []), ValueError, "0 samples"),
    "no samples, p": (lambda: cross_entropy(np.empty((0, 2)), []), ValueError, "0 samples"),
    "label too large": (lambda: softmax_cross_entropy(Z, [0, 2]), ValueError, r"2 is not in \[0"),
    "label negative": (lambda: cross_entropy(P, [-1, 0]), ValueError, "-1 is not in"),
    "label huge": (lambda: softmax_cross_entropy(Z, [0, 2**32]), ValueError, "is not in"),
    "labels float": (lambda: softmax_cross_entropy(Z, [0.0, 1.0]), ValueError, "integers"),
    "labels strings": (lambda: softmax_cross_entropy(Z, ["a", "b"]), ValueError, "integers"),
    "labels short": (lambda: softmax_cross_entropy(Z, [0]), ValueError, r"shape \(2,\)"),
    "targets shape": (lambda: softmax_cross_entropy(Z, [[0.5], [1.0]]), ValueError, "shape"),
    "targets negative": (
        lambda: softmax_cross_entropy(Z, [[-0.5, 1.5], [0, 1]]),
        ValueError,
        "non-neg",
    ),
    "targets NaN": (lambda: cross_entropy(P, [[np.nan, 1.0], [0, 1]]), ValueError, "non-neg"),
    "targets inf": (
        lambda: softmax_cross_entropy_gradient(Z, [[np.inf, 1.0], [0, 1]]),
        ValueError,
        "finite",
    ),
    "targets overflow": (lambda: softmax_cross_entropy(Z, [[1.7e308] * 2] * 2), ValueError, "sum"),
    "targets overflow float32": (
        lambda: softmax_cross_entropy(np.float32(Z), [[1e300, 0]] * 2),
        ValueError,
        "finite",
    ),
    "targets complex": (lambda: cross_entropy(P, [[1j, 0], [0, 1]]), ValueError, "Complex"),
    "weight negative": (
        lambda: softmax_cross_entropy(Z, [0, 1], sample_weight=[1, -1]),
        ValueError,
        "non-negative and finite",
    ),
    "weight NaN": (
        lambda: softmax_cross_entropy(Z, [0, 1], sample_weight=[1, np.nan]),
        ValueError,
        "non-negative and finite",
    ),
    "weight inf": (
        lambda: cross_entropy(P, [0, 1], sample_weight=[1, np.inf]),
        ValueError,
        "non-negative and finite",
    ),
    "weights zero": (
        lambda: cross_entropy(P, [0, 1], sample_weight=[0, 0]),
        ValueError,
        "at least one non-zero",
    ),
    "weights short": (
        lambda: softmax_cross_entropy(Z, [0, 1], sample_weight=[1.0]),
        ValueError,
        r"expected \(2,\)",
    ),
    "p negative": (lambda: cross_entropy([[-0.1, 1.1]], [0]), ValueError, r"in \[0, 1\]"),
    "p logits": (lambda: softmax_jacobian(Z), ValueError, "apply softmax first"),
    "p NaN": (lambda: cross_entropy_gradient([[np.nan, 1]], [0]), ValueError, r"in \[0, 1\]"),
    "p in jvp": (lambda: softmax_jvp(Z, Z), ValueError, r"in \[0, 1\]"),
    "direction NaN": (lambda: softmax_jvp(P, [[0, np.nan]] * 2), ValueError, "direction"),
    "direction inf": (lambda: softmax_vjp(P, [[0, -np.inf]] * 2), ValueError, "cotangent"),
    "direction shape": (lambda: softmax_jvp(P, [0.0, 1.0]), ValueError, "Shapes differ"),
    "out shape": (lambda: softmax(Z, out=np.empty((2, 3))), ValueError, "out must have shape"),
    "out dtype": (lambda: softmax(Z, out=np.empty((2, 2), "f4")), ValueError, "dtype float64"),
    "out swapped": (lambda: softmax(Z, out=np.empty((2, 2), ">f8")), ValueError, "dtype float64"),
    "out read-only": (lambda: softmax(Z, out=read_only), ValueError, "read-only"),
    "out list": (lambda: softmax(Z, out=[[0.0] * 2] * 2), TypeError, "NumPy array"),
    "out of Jacobian": (lambda: softmax_jacobian(P, out=np.empty((2, 2))), ValueError, "shape"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_remedy(name):
    call, error, message = ERRORS[name]
    if not error:
        pytest.skip("longdouble is float64 on this platform")
    with pytest.raises(error, match=message):
        call()


# --- Threads --------------------------------------------------------------------------------------

_BITS = """
    import hashlib
    import numpy as np
    from fastsoftmax import functional as F
    from fastsoftmax._threads import thread_limit, threading_layer

    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (5000, 33))
    labels, masses, w = rng.integers(0, 33, 5000), rng.random((5000, 33)), rng.random(5000)

    def digest():
        results = [F.softmax(z), F.log_softmax(z), F.logsumexp(z), F.softmax(np.float32(z))]
        p = results[0]
        results += [F.softmax(z, axis=0), F.softmax(z.ravel()), F.log_softmax(z.reshape(2, -1))]
        results += [F.softmax(z.reshape(165, -1)), F.logsumexp(z.reshape(2, -1))]
        results += [F.cross_entropy(p, labels), F.cross_entropy_gradient(p, masses)]
        results += [F.softmax_jacobian(p), F.softmax_jvp(p, z)]
        results += [F.softmax_cross_entropy(z, labels, sample_weight=w)]
        results += F.softmax_cross_entropy_gradient(z, masses, sample_weight=w)
        results += F.softmax_cross_entropy_gradient(z.T.copy(), labels, axis=0)
        return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in results)).hexdigest()

    digests = []
    for n_threads in (1, 2, 3, 8, 8):
        with thread_limit(n_threads):
            digests.append(digest())
    print(threading_layer(), len(digests), len(set(digests)))
"""


def test_bits_are_the_same_for_any_number_of_threads():
    root = str(Path(functional.__file__).parents[1])
    environment = os.environ | {"NUMBA_NUM_THREADS": "8", "PYTHONPATH": root}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(_BITS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    layer, n_runs, n_distinct = done.stdout.split()
    assert (n_runs, n_distinct) == ("5", "1"), layer


# --- The surface ----------------------------------------------------------------------------------


def test_signatures_stay_few():
    """One compilation per dtype and driver, whatever came before (index and soft, any layout)."""
    kernels = vars(rows) | vars(maps)
    names = ("cross_entropy", "finish", "jacobian", "jacobian_product", "map", "softmax_loss")
    drivers = [kernels[name] for name in names]
    crowded = [
        (driver.__name__, driver.signatures)
        for driver in drivers
        if len(getattr(driver, "signatures", ())) > 2
    ]
    assert not crowded


def test_every_public_function_is_documented_with_its_equation():
    assert functional.__all__ == sorted(functional.__all__)
    for name in functional.__all__:
        text = inspect.getdoc(getattr(functional, name))
        assert text is not None
        for part in ("Parameters", "Returns", "Raises", "References", ">>> "):
            assert part in text, f"{name}: {part}"
        assert "eq" in text


def test_examples_of_the_docstrings():
    results = doctest.testmod(functional)
    assert results.failed == 0
    assert results.attempted >= 20


def test_examples_of_the_equations_page():
    page = Path(functional.__file__).parents[1] / "docs" / "equations.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 12
