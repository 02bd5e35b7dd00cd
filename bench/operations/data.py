"""Random data for the operations, the same for every library."""

import numpy as np

from bench.operation import Shape
from bench.problems import Array

#: n_samples, n_features, n_classes
GRID: list[Shape] = [
    (200_000, 100, 10),
    (60_000, 784, 10),
    (500_000, 54, 7),
    (100_000, 50, 3),
    (1_000_000, 20, 2),
    (50_000, 300, 100),
    (20_000, 512, 1000),
    (5000, 2000, 20),
    (1797, 64, 10),
    (150, 4, 3),
]
QUICK_GRID: list[Shape] = [(2000, 50, 5)]


def n_logit_rows(n_classes: int) -> int:
    """Return the rows of coefficients: one for two classes."""
    return 1 if n_classes == 2 else n_classes


def random_data(shape: Shape, dtype: str) -> tuple[Array, Array, Array]:
    """Return X, labels and small params ``(n_rows, n_features + 1)``."""
    n_samples, n_features, n_classes = shape
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, n_features), dtype=np.float32).astype(dtype)
    y = rng.integers(0, n_classes, n_samples)
    params = rng.standard_normal((n_logit_rows(n_classes), n_features + 1)) * n_features**-0.5
    return X, y, params.astype(dtype)


def n_words_of_X(shape: Shape) -> int:
    """Return n d."""
    return shape[0] * shape[1]
