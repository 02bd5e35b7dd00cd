"""The exponential that the kernels use: inlined, and vectorised by LLVM.

``np.exp`` inside compiled code is a scalar call into libm, 3.1 ns each; this one costs about
0.4 ns (float64) and 0.13 ns (float32) in a loop. Both halves are the classical scheme (Muller,
*Elementary Functions*, 3rd ed., chapter 11): ``x = n log 2 + r`` with ``|r| <= log(2)/2``, a
polynomial for ``exp(r)``, and the power of two put back through the exponent bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from fastsoftmax._jit import compiled_as, exact_kernel


def exp_nonpositive(x: float) -> float:
    """Return ``exp(x)`` for ``x <= 0``, minus infinity included, in the dtype of `x`.

    Within 1 ulp of the correctly rounded value, through the subnormals down to zero. A NaN stays
    a NaN. Arguments above 0 are the caller's error (every caller subtracts a maximum first).
    """
    return math.exp(x)  # only under NUMBA_DISABLE_JIT; compiled code takes the overload below


def exp_of_difference(z: float, greatest: float) -> float:
    """Return ``exp(z - greatest)`` for ``z <= greatest < inf``, corrected for the difference.

    ``z - greatest = d + error`` exactly (Knuth's two-sum), and `error` joins the reduced argument.
    Without it an entry loses ``|d| / 2`` ulp, and a row of many equal entries passes its common
    error on to the sum. Costs a tenth more than `exp_nonpositive`; conventions are the same.
    """
    d = z - greatest  # only under NUMBA_DISABLE_JIT, as is all of this body
    back = d - z
    error = (z - (d - back)) - (greatest + back)
    e = math.exp(d)
    return e + e * error if e > 0 else e


# Adding 1.5 * 2**52 to a float64 of small magnitude leaves its nearest integer in the low bits.
# Unlike a conversion from float64 to int64, that is vector code on every CPU. With the bias of
# the exponent added too, those bits are an exponent: shifted left by 52 they are 2**(n + 64). The
# 64 keeps that a normal number, so that the product with 2**-64 rounds once, also to a subnormal.
_ROUND64 = 6755399441055744.0 + 1023.0 + 64.0
_ROUND32 = np.float32(12582912.0 + 127.0 + 32.0)  # 1.5 * 2**23
_TWO_MINUS_64 = 2.0**-64
_TWO_MINUS_32 = np.float32(2.0**-32)

_LOG2E = 1.4426950408889634
_LN2_HIGH64 = 6.93147180369123816490e-01  # the upper 33 bits of log 2: n * high is exact
_LN2_LOW64 = 1.90821492927058770002e-10
_LOWEST64 = -746.0  # exp of it rounds to zero

_LOG2E32 = np.float32(_LOG2E)
_LN2_HIGH32 = np.float32(0.693359375)
_LN2_LOW32 = np.float32(-2.12194440e-4)
_LOWEST32 = np.float32(-104.0)


@exact_kernel
def _scaled_exp_float64(r: float, shifted: float) -> float:
    """Return ``2**n exp(r)``, n from `shifted`: minimax in relative error 4e-18, by Remez."""
    q = 2.50000583490501441e-8
    q = q * r + 2.76302483087252419e-7
    q = q * r + 2.75575863825810743e-6
    q = q * r + 2.4801493099144012e-5
    q = q * r + 1.98412695065711061e-4
    q = q * r + 1.38888889436298418e-3
    q = q * r + 8.33333333349446387e-3
    q = q * r + 4.16666666665301598e-2
    q = q * r + 1.66666666666664125e-1
    q = q * r + 5.00000000000001063e-1
    power = np.int64(np.float64(shifted).view(np.int64) << 52).view(np.float64)
    return (power + power * (r + r * r * q)) * _TWO_MINUS_64


@exact_kernel
def _scaled_exp_float32(r: Any, shifted: Any) -> Any:
    """Return ``2**n exp(r)``, n from `shifted`: minimax in relative error 3e-9, by Remez."""
    q = np.float32(1.38145956017716557e-3)
    q = q * r + np.float32(8.36871685266189806e-3)
    q = q * r + np.float32(4.16683880955372335e-2)
    q = q * r + np.float32(1.6666520632112818e-1)
    q = q * r + np.float32(4.99999934476416173e-1)
    power = np.int32(np.float32(shifted).view(np.int32) << np.int32(23)).view(np.float32)
    return (power + power * (r + r * r * q)) * _TWO_MINUS_32


@exact_kernel
def _exp_float64(x: float) -> float:
    x = _LOWEST64 if x < _LOWEST64 else x
    shifted = x * _LOG2E + _ROUND64
    n = shifted - _ROUND64
    return _scaled_exp_float64((x - n * _LN2_HIGH64) - n * _LN2_LOW64, shifted)


@exact_kernel
def _exp_float32(x: Any) -> Any:
    x = _LOWEST32 if x < _LOWEST32 else x
    shifted = x * _LOG2E32 + _ROUND32
    n = shifted - _ROUND32
    return _scaled_exp_float32((x - n * _LN2_HIGH32) - n * _LN2_LOW32, shifted)


@exact_kernel
def _exp_of_difference_float64(z: float, greatest: float) -> float:
    d = z - greatest
    back = d - z
    error = (z - (d - back)) - (greatest + back)
    error = error if d > _LOWEST64 else 0.0  # of d = -inf it is NaN
    d = _LOWEST64 if d < _LOWEST64 else d
    shifted = d * _LOG2E + _ROUND64
    n = shifted - _ROUND64
    r = (d - n * _LN2_HIGH64) - (n * _LN2_LOW64 - error)
    return _scaled_exp_float64(r, shifted)


@exact_kernel
def _exp_of_difference_float32(z: Any, greatest: Any) -> Any:
    d = z - greatest
    back = d - z
    error = (z - (d - back)) - (greatest + back)
    error = error if d > _LOWEST32 else np.float32(0.0)
    d = _LOWEST32 if d < _LOWEST32 else d
    shifted = d * _LOG2E32 + _ROUND32
    n = shifted - _ROUND32
    r = (d - n * _LN2_HIGH32) - (n * _LN2_LOW32 - error)
    return _scaled_exp_float32(r, shifted)


@compiled_as(exp_nonpositive)
def _overload_exp_nonpositive(x: Any) -> Any:
    if x == types.float64:
        return lambda x: _exp_float64(x)
    if x == types.float32:
        return lambda x: _exp_float32(x)
    return None


@compiled_as(exp_of_difference)
def _overload_exp_of_difference(z: Any, greatest: Any) -> Any:
    if z == greatest == types.float64:
        return lambda z, greatest: _exp_of_difference_float64(z, greatest)
    if z == greatest == types.float32:
        return lambda z, greatest: _exp_of_difference_float32(z, greatest)
    return None
