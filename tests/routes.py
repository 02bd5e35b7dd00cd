"""Every way through a fit: small data, parameters, and the limits of the package that lead there.

Imported by tests and by the processes that these start.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from scipy import sparse

from fastsoftmax import LogisticRegression
from fastsoftmax.linear_model import _composite, _solve, _vocabulary


@functools.cache
def dense(n_classes=3, n_samples=300, n_features=6):
    """Return rows around means of their classes, which overlap; several blocks of rows."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, n_samples)
    return rng.normal(size=(n_samples, n_features)) + 1.5 * np.eye(n_classes, n_features)[y], y


@functools.cache
def wide():
    """Return rows of many features."""
    return dense(n_samples=70, n_features=1000)


@functools.cache
def texts(n_classes=3, n_samples=300, n_features=200):
    """Return a few words per row, some of which tell of its class: CSR."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, n_samples)
    words = (rng.random((n_samples, 8)) ** 2 * n_features).astype(int)
    words[:, 0] = 3 * (words[:, 0] // 3) + y
    ones = np.ones(words.size)
    rows = np.repeat(np.arange(n_samples), 8)
    X = sparse.coo_array((ones, (rows, words.ravel() % n_features)), shape=(n_samples, n_features))
    return X.tocsr(), y


def rows_of(make: Callable[[], Any]) -> Callable[[], Any]:
    """Return the same data as CSR."""
    return lambda: (sparse.csr_array(make()[0]), make()[1])


class Route(NamedTuple):
    """Data, parameters, what `solver_` says, and values of the package's constants."""

    make: Callable[[], Any]
    runs: str
    params: Mapping[str, Any] = MappingProxyType({})
    limits: Mapping[tuple[Any, str], Any] = MappingProxyType({})

    def model(self, **params):
        return LogisticRegression(**{"C": 1.0, "tol": 1e-6, **self.params, **params})

    def fit(self, **params):
        """Return a model fitted this way."""
        with self.taken():
            model = self.model(**params).fit(*self.make())
        assert model.solver_ == self.runs
        return model

    @contextlib.contextmanager
    def taken(self):
        """Set the limits inside the block."""
        with contextlib.ExitStack() as stack:
            for (module, name), value in self.limits.items():
                stack.enter_context(mock.patch.object(module, name, value))
            yield


LBFGS = {"solver": "lbfgs"}
L1 = {"l1_ratio": 1.0, "C": 0.3}
NO_HESSIAN = {(_solve, "_FULL_HESSIAN"): 0}
SMALL_HESSIAN = {(_composite, "_FULL_HESSIAN"): 0}
MANY_WORDS = {(_vocabulary, "GRAM_COLUMNS"): 5}
PRIMAL = {(_solve, "has_dual"): lambda objective, start: False}

ROUTES = {
    "compiled": Route(dense, "compiled lbfgs (a Gram matrix per class)"),
    "compiled, one logit": Route(
        functools.partial(dense, n_classes=2), "compiled lbfgs (a Gram matrix per class)"
    ),
    "full Hessian": Route(dense, "lbfgs (full Hessian)", LBFGS),
    "Gram matrices": Route(
        dense,
        "lbfgs (a Gram matrix per class)",
        LBFGS,
        {**NO_HESSIAN, (_solve, "_CLASS_GRAM_COST"): np.inf},
    ),
    "one Gram matrix": Route(
        dense,
        "lbfgs (one Gram matrix)",
        LBFGS,
        {**NO_HESSIAN, (_solve, "_CLASS_GRAM_ENTRIES"): 0, (_solve, "_GRAM_COST"): np.inf},
    ),
    "diagonal": Route(
        dense, "lbfgs (diagonal)", LBFGS, {**NO_HESSIAN, (_solve, "GRAM_COLUMNS"): 0}
    ),
    "newton-cg": Route(
        dense,
        "newton-cg (a Gram matrix per class)",
        {"solver": "newton-cg"},
        {(_solve, "_CLASS_GRAM_COST"): np.inf},
    ),
    "newton-cholesky": Route(
        dense, "newton-cholesky (full Hessian)", {"solver": "newton-cholesky"}
    ),
    "rotated": Route(wide, "compiled lbfgs (a Gram matrix per class) on rotated rows"),
    "rotated, not compiled": Route(
        wide,
        "lbfgs (full Hessian) on rotated rows",
        limits={(_solve, "is_small"): lambda objective: False},
    ),
    "sparse": Route(rows_of(dense), "lbfgs (full Hessian)"),
    "dual": Route(texts, "dual coordinate ascent", {"tol": 1e-4}, MANY_WORDS),
    "vocabulary": Route(texts, "lbfgs (diagonal, feature-major)", limits={**MANY_WORDS, **PRIMAL}),
    "dual, then vocabulary": Route(
        texts,
        "dual coordinate ascent, then lbfgs (diagonal, feature-major)",
        {"tol": 1e-10, "max_iter": 1000},
        MANY_WORDS,
    ),
    "L1": Route(dense, "proximal quasi-Newton (full Hessian)", L1),
    "L1, Gram matrices": Route(
        dense, "proximal quasi-Newton (a Gram matrix per class)", L1, SMALL_HESSIAN
    ),
    "L1, diagonal": Route(
        dense,
        "proximal quasi-Newton (diagonal)",
        L1,
        {**SMALL_HESSIAN, (_composite, "GRAM_COLUMNS"): 0},
    ),
    "L1, active columns": Route(texts, "proximal Newton (active columns)", L1, SMALL_HESSIAN),
    "bounds": Route(dense, "proximal quasi-Newton (full Hessian)", {"positive": True}),
    "no penalty": Route(dense, "lbfgs (full Hessian)", {"C": np.inf}),
}
