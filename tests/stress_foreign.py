"""A parallel Numba kernel of some other library."""

from __future__ import annotations

import numba
import numpy as np

N = 200_000


@numba.njit(parallel=True, nogil=True)
def _squares(x):
    squares = np.empty_like(x)
    for i in numba.prange(len(x)):
        squares[i] = x[i] * x[i]
    return squares


def run() -> None:
    """Run the kernel in Numba's threads, and look at what it computed."""
    x = np.arange(float(N))
    assert np.array_equal(_squares(x), x * x)
