"""Softmax of given logits: ours, SciPy's and torch's."""

import numpy as np

from bench.operation import Case, Operation, Shape, register
from bench.problems import Array
from bench.score import log_probabilities

#: n_samples, n_classes
SHAPES: list[Shape] = [(1_000_000, 10), (100_000, 100), (1000, 50_000), (10, 1_000_000)]
_CHECKED = 2**22  # entries, of the first rows


def ours(shape: Shape, dtype: str) -> Case:
    """``fastsoftmax.functional.softmax``."""
    from fastsoftmax.functional import softmax

    logits = _logits(shape, dtype)
    return Case(lambda: softmax(logits), lambda found: _error(found, logits))


def scipy(shape: Shape, dtype: str) -> Case:
    """``scipy.special.softmax``, which has one thread."""
    from scipy.special import softmax

    logits = _logits(shape, dtype)
    return Case(lambda: softmax(logits, axis=-1), lambda found: _error(found, logits))


def torch(shape: Shape, dtype: str) -> Case:
    """``torch.softmax``."""
    import torch

    logits = _logits(shape, dtype)
    tensor = torch.from_numpy(logits)
    return Case(lambda: torch.softmax(tensor, dim=-1), lambda found: _error(found.numpy(), logits))


def _logits(shape: Shape, dtype: str) -> Array:
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal(shape, dtype=np.float32).astype(dtype)


def _error(found: Array, logits: Array) -> float:
    """Return the largest relative error of a probability."""
    n_rows = max(1, _CHECKED // logits.shape[1])
    expected = np.exp(log_probabilities(logits[:n_rows].astype(np.float64)))
    return float(np.abs(found[:n_rows] / expected - 1.0).max())


def _n_words(shape: Shape) -> int:
    """Return 2 n K: each number is read, and written, once."""
    return 2 * shape[0] * shape[1]


register(
    Operation(
        "softmax",
        {"fastsoftmax": ours, "scipy": scipy, "torch": torch},
        SHAPES,
        [(2000, 10)],
        n_words=_n_words,
    )
)
