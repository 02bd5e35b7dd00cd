"""Words for flat vectors. No BLAS: its threads would change the bits, and spin on the cores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def dot(u: Vector, v: Vector) -> float:
    """Return the inner product."""
    return float(np.einsum("i,i->", u, v))


def max_norm(vector: Vector) -> float:
    """Return the largest absolute component."""
    return float(max(np.max(vector, initial=0.0), -np.min(vector, initial=0.0)))  # no copy
