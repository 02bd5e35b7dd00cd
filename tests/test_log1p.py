"""The inlined ``log1p``: within 1.5 ulp, and the values at the edges."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from reference import ulps

from fastsoftmax._jit import block_kernel, driver
from fastsoftmax._kernels.log1p import log1p_nonnegative

DTYPES = (np.float32, np.float64)
BOUND = 1.5  # ulp; 1.15 was seen in float64, where 1 + x is next to sqrt(2), and 1.27 in float32


@block_kernel
def _log1p_of(x, out):
    for k in range(x.size):
        out[k] = log1p_nonnegative(x[k])


@driver
def _log1p_driver(first, last, x, out):
    for _ in range(first, last):
        _log1p_of(x, out)


def log1p_of(x):
    out = np.empty_like(x)
    _log1p_driver(0, 1, x, out)
    return out


def _exact(x):
    with mpmath.workdps(700):  # 1 + 1e-308 needs its digits
        return [mpmath.log1p(mpmath.mpf(float(v))) for v in x]


def _largest_error(x):
    return ulps(log1p_of(x), _exact(x), x.dtype.type).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_within_its_bound_of_mpmath(dtype):
    rng = np.random.default_rng(0)
    digits = np.log10(float(np.finfo(dtype).max))
    x = np.concatenate([rng.uniform(0, 10, 2000), 10.0 ** rng.uniform(-digits, digits, 1000)])
    assert _largest_error(x.astype(dtype)) <= BOUND


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_within_its_bound_at_the_seams_of_its_range_reduction(dtype):
    exponents = np.arange(0, np.finfo(dtype).maxexp - 1)
    for seam in (np.sqrt(2) * 2.0**exponents - 1, 2.0**exponents - 1, 2.0**-exponents):
        middle = seam.astype(dtype)
        for x in (middle, np.nextafter(middle, dtype(np.inf)), np.nextafter(middle, dtype(0))):
            assert _largest_error(x) <= BOUND


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 64])
def test_edges(dtype, size):
    info = np.finfo(dtype)
    for x in (0.0, info.smallest_subnormal, 3 * info.smallest_subnormal, info.smallest_normal):
        np.testing.assert_array_equal(log1p_of(np.full(size, x, dtype)), dtype(x))
    assert (log1p_of(np.full(size, np.inf, dtype)) == np.inf).all()
    assert log1p_of(np.full(size, info.max)) == pytest.approx(np.log(float(info.max)))
    assert np.isnan(log1p_of(np.full(size, np.nan, dtype))).all()
    assert np.isnan(log1p_of(-np.full(size, np.nan, dtype))).all()


def _largest_float32_error(bits):
    x = bits.astype(np.uint32).view(np.float32)
    # float64's log1p is right to 1e-16, so its float32 rounding is the correctly rounded value.
    expected = np.log1p(x.astype(np.float64)).astype(np.float32)
    return np.abs(log1p_of(x).view(np.int32) - expected.view(np.int32)).max()


_INFINITY = 0x7F800000  # as bits; smaller positive numbers come before


def test_float32_is_within_its_bound_on_a_sample():
    assert _largest_float32_error(np.arange(0, _INFINITY + 1, 3001)) <= 1


@pytest.mark.slow
def test_float32_is_within_its_bound_everywhere():
    step = 1 << 22
    for first in range(0, _INFINITY + 1, step):
        assert _largest_float32_error(np.arange(first, min(first + step, _INFINITY + 1))) <= 1
