"""The inlined exponential: within 1 ulp, and the values at the edges."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from reference import ulps

from fastsoftmax._jit import block_kernel, driver
from fastsoftmax._kernels.exp import exp_nonpositive, exp_of_difference

DTYPES = (np.float32, np.float64)


@block_kernel
def _exp_of(x, out):
    for k in range(x.size):
        out[k] = exp_nonpositive(x[k])


@driver
def _exp_driver(first, last, x, out):
    for _ in range(first, last):
        _exp_of(x, out)


def exp_of(x):
    out = np.empty_like(x)
    _exp_driver(0, 1, x, out)
    return out


def _exact(x):
    with mpmath.workdps(40):
        return [mpmath.exp(mpmath.mpf(float(v))) for v in x]


def test_float64_is_within_one_ulp_of_mpmath():
    rng = np.random.default_rng(0)
    x = -np.concatenate(
        [rng.uniform(0, 1, 1500), rng.uniform(0, 708, 3000), 10.0 ** rng.uniform(-300, 0, 300)]
    )
    assert ulps(exp_of(x), _exact(x), np.float64).max() <= 1


def test_float64_is_within_one_ulp_at_the_seams_of_its_range_reduction():
    halves = -(np.arange(1000) + 0.5) * np.log(2)  # where n steps: |r| is greatest on both sides
    x = np.concatenate([halves, np.nextafter(halves, 0), np.nextafter(halves, -np.inf)])
    assert ulps(exp_of(x), _exact(x), np.float64).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_results_are_within_one_spacing(dtype):
    info = np.finfo(dtype)
    lowest, highest = np.log(info.smallest_subnormal) - 1, np.log(info.smallest_normal)
    x = np.linspace(float(lowest), float(highest), 500).astype(dtype)
    assert ulps(exp_of(x), _exact(x), dtype).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_edges(dtype):
    info = np.finfo(dtype)
    x = np.array([0, -0.0, -info.smallest_subnormal, -info.eps / 4, -np.inf, info.min, -1e4], dtype)
    np.testing.assert_array_equal(exp_of(x), np.array([1, 1, 1, 1, 0, 0, 0], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_nan_stays_nan(dtype, size):
    assert np.isnan(exp_of(np.full(size, np.nan, dtype))).all()
    assert np.isnan(exp_of(-np.full(size, np.nan, dtype))).all()


@block_kernel
def _exp_of_differences(z, greatest, out):
    for k in range(z.size):
        out[k] = exp_of_difference(z[k], greatest[k])


@driver
def _differences_driver(first, last, z, greatest, out):
    for _ in range(first, last):
        _exp_of_differences(z, greatest, out)


def exp_of_differences(z, greatest):
    out = np.empty_like(z)
    with np.errstate(all="ignore"):  # only under NUMBA_DISABLE_JIT: compiled code never warns
        _differences_driver(0, 1, z, greatest, out)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential_of_a_difference_is_within_one_ulp(dtype):
    rng = np.random.default_rng(0)
    greatest = (rng.normal(0, 50, 2000) * 10.0 ** rng.uniform(-3, 0.5, 2000)).astype(dtype)
    z = (greatest - 80 * rng.random(2000) ** 2).astype(dtype)
    with mpmath.workdps(40):
        exact = [
            mpmath.exp(mpmath.mpf(float(a)) - mpmath.mpf(float(b)))
            for a, b in zip(z, greatest, strict=True)
        ]
    assert ulps(exp_of_differences(z, greatest), exact, dtype).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_edges_of_the_exponential_of_a_difference(dtype):
    big = np.finfo(dtype).max
    pairs = np.array([[-np.inf, 3], [-big, big], [big, big], [-big, -big], [0, 1e4], [5, 5]], dtype)
    result = exp_of_differences(pairs[:, 0].copy(), pairs[:, 1].copy())
    np.testing.assert_array_equal(result, [0, 0, 1, 1, 0, 1])
    assert np.isnan(exp_of_differences(np.full(40, np.nan, dtype), np.ones(40, dtype))).all()


def _largest_float32_error(bits):
    x = bits.astype(np.uint32).view(np.float32)
    # float64's exp is right to 1e-16, so its float32 rounding is the correctly rounded value
    # except for a few ties, which 1 ulp does not notice.
    expected = np.exp(x.astype(np.float64)).astype(np.float32)
    return np.abs(exp_of(x).view(np.int32) - expected.view(np.int32)).max()


_MINUS_ZERO, _MINUS_104 = 0x80000000, 0xC2D00000  # as bits; more negative numbers follow upwards


def test_float32_is_within_one_ulp_on_a_sample():
    assert _largest_float32_error(np.arange(_MINUS_ZERO, _MINUS_104, 1009)) <= 1


@pytest.mark.slow
def test_float32_is_within_one_ulp_everywhere():
    step = 1 << 22
    for first in range(_MINUS_ZERO, _MINUS_104, step):
        assert _largest_float32_error(np.arange(first, min(first + step, _MINUS_104))) <= 1
    below = np.arange(_MINUS_104, 0xFF800001, 4099).astype(np.uint32).view(np.float32)
    assert (exp_of(below) == 0).all()
