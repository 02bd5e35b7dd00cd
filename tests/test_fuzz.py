"""Generated inputs of fits and predictions: an error that helps, or what the oracle certifies.

A recipe is drawn, and everything made of it, so that a failure prints all that it takes.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import reference
from bad_inputs import outcome
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastsoftmax import LogisticRegression

MAX = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Recipe:
    """What X, y, weights and parameters are made of; see the functions that make them."""

    random: int = 0
    n_samples: int = 12
    n_features: int = 3
    n_classes: int = 3
    values: str = "signal"
    scale: float = 1.0
    edges: tuple[tuple[int, float], ...] = ()
    dtype: str = "f8"
    layout: str = "C"
    rows: str = "same"
    other_layout: str = "C"
    labels: str = "int"
    sample_weight: str = "none"
    class_weight: str = "none"
    C: float = 1.0
    solver: str = "auto"
    l1_ratio: float = 0.0
    fit_intercept: bool = True
    tol: float = 1e-4
    max_iter: int = 1000
    n_jobs: int | None = None


# --- From a recipe to data ------------------------------------------------------------------------


def numbers(recipe, rng, codes):
    """Return the numbers of X, float64."""
    shape = recipe.n_samples, recipe.n_features
    X = rng.normal(size=shape)
    if recipe.values in ("signal", "separable"):
        size = 30.0 if recipe.values == "separable" else 1.0
        X += size * rng.normal(size=(recipe.n_classes, shape[1]))[codes]
    elif recipe.values == "integers":
        X = rng.integers(-3, 4, shape).astype(float)
    elif recipe.values == "constant":
        X[:, ::2] = X[0, 0]
    elif recipe.values == "far":
        X += 1e6
    elif recipe.values == "columns of all sizes":
        X *= 10.0 ** rng.uniform(-9, 9, shape[1])
    elif recipe.values == "rows of all sizes":
        X *= 10.0 ** rng.uniform(-9, 9, (shape[0], 1))
    elif recipe.values == "zeros":
        X[rng.random(shape) < 0.7] = 0.0
        X[::3] = 0.0
    with np.errstate(over="ignore"):
        X *= recipe.scale
    for place, value in recipe.edges:
        X.ravel()[place % X.size] = value
    return X


def of_dtype(X, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return X > 0
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype.kind in "iu":
            most = 2.0 ** (8 * dtype.itemsize - 2)
            X = np.clip(np.rint(np.nan_to_num(X)), -most if dtype.kind == "i" else 0.0, most)
        return X.astype(dtype)


class Subclass(np.ndarray):
    """As np.memmap."""


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def unaligned(X):
    return np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(X.dtype).reshape(X.shape)


def strided(X):
    wide = np.zeros((2 * X.shape[0], 3 * X.shape[1]), X.dtype)
    wide[1::2, ::3] = X
    return wide[1::2, ::3]


def frame(X):
    return pd.DataFrame(X) if X.dtype in (np.float64, np.float32, np.int64, bool) else X


DENSE = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": strided,
    "reversed": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": read_only,
    "subclass": lambda X: X.view(Subclass),
    "unaligned": unaligned,
    "list": lambda X: X.tolist() if X.dtype != np.float32 else X,
    "object": lambda X: X.astype(object) if X.dtype != np.float32 else X,
    "frame": frame,
}


def as_csr(X, *, reverse=False, twice=False, index=np.int32):
    """Return CSR that stores what is not zero, -0. among it, in an order, in one part or two."""
    is_stored = (X != 0) | np.signbit(X) if X.dtype.kind == "f" else X != 0
    rows, columns = np.nonzero(is_stored)
    values = X[rows, columns]
    if reverse:
        order = np.lexsort((-columns, rows))
        rows, columns, values = rows[order], columns[order], values[order]
    if twice:  # the parts add up exactly
        half = (values / 2).astype(X.dtype) if X.dtype.kind == "f" else values // 2
        with np.errstate(over="ignore", invalid="ignore"):
            half[half + half != values] = 0
        values = np.column_stack([half, np.where(half == 0, values, half)]).ravel()
        rows, columns = np.repeat(rows, 2), np.repeat(columns, 2)
    made = sparse.csr_array(X.shape)
    made.data, made.indices = values.astype(X.dtype), columns.astype(index)
    made.indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=len(X)))).astype(index)
    return made


def transposed(X, **options):
    made, csr = sparse.csc_array(X.shape), as_csr(X.T, **options)
    made.data, made.indices, made.indptr = csr.data, csr.indices, csr.indptr
    return made


def triplets(X):
    csr = as_csr(X, twice=X.dtype.kind == "f")
    made = sparse.coo_array(X.shape)
    rows = np.repeat(np.arange(len(X)), np.diff(csr.indptr))
    made.data, made.coords = csr.data[::-1], (rows[::-1], csr.indices[::-1])
    return made


SPARSE = {
    "csr": as_csr,
    "csr, int64": lambda X: as_csr(X, index=np.int64),
    "csr, unsorted": lambda X: as_csr(X, reverse=True),
    "csr, repeated": lambda X: as_csr(X, twice=X.dtype.kind == "f"),
    "csc": transposed,
    "csc, int64, unsorted": lambda X: transposed(X, reverse=True, index=np.int64),
    "coo, repeated": triplets,
    "matrix": lambda X: sparse.csr_matrix(as_csr(X)),
}
LAYOUTS = DENSE | SPARSE

LABELS = {
    "int": lambda codes: codes,
    "list": lambda codes: codes.tolist(),
    "negative": lambda codes: codes - 5,
    "uint8": lambda codes: codes.astype(np.uint8),
    "big-endian": lambda codes: codes.astype(">i2"),
    "far": lambda codes: codes + 2**62,
    "float": lambda codes: codes / 1.0,
    "bool": lambda codes: codes > 0,
    "str": lambda codes: np.array(["", "b", "cc", "d", "é"])[codes],
    "object": lambda codes: np.array(["", "b", "cc", "d", "é"])[codes].astype(object),
    "series": lambda codes: pd.Series(codes),
}


def with_nan(X):
    X = X.copy()
    X[-1, 0] = np.nan
    return X


def huge(X):
    with np.errstate(over="ignore", invalid="ignore"):
        return X * X.dtype.type(np.finfo(X.dtype).max ** 0.9)


#: What predictions are asked of.
ROWS = {
    "same": lambda X: X,
    "one": lambda X: X[:1],
    "none": lambda X: X[:0],
    "narrow": lambda X: X[:, 1:],
    "NaN": lambda X: with_nan(X) if X.dtype.kind == "f" else X,
    "huge": lambda X: huge(X) if X.dtype.kind == "f" else X,
}

GOOD_WEIGHTS = {
    "none": lambda n, rng: None,
    "scalar": lambda n, rng: 0.25,
    "uniform": lambda n, rng: rng.uniform(0.0, 3.0, n),
    "zeros": lambda n, rng: rng.uniform(0.0, 3.0, n) * (rng.random(n) < 0.7),
    "counts": lambda n, rng: rng.integers(0, 4, n),
    "bool": lambda n, rng: rng.random(n) < 0.8,
    "float32": lambda n, rng: rng.uniform(0.1, 3.0, n).astype(np.float32),
    "list": lambda n, rng: rng.uniform(0.1, 3.0, n).tolist(),
    "tiny": lambda n, rng: 1e-300 * rng.uniform(0.1, 3.0, n),
    "subnormal": lambda n, rng: np.full(n, 1e-320),
    "huge": lambda n, rng: 1e308 * rng.uniform(0.1, 1.0, n),
    "of all sizes": lambda n, rng: 10.0 ** rng.uniform(-300, 300, n),
    "one": lambda n, rng: np.arange(n) == 0,
}
BAD_WEIGHTS = {
    "no weight": lambda n, rng: np.zeros(n),
    "negative": lambda n, rng: np.where(np.arange(n) == 1, -1.0, 1.0),
    "NaN": lambda n, rng: np.where(np.arange(n) == 1, np.nan, 1.0),
    "inf": lambda n, rng: np.where(np.arange(n) == 1, np.inf, 1.0),
    "short": lambda n, rng: np.ones(n - 1),
    "2-D": lambda n, rng: np.ones((n, 2)),
}
WEIGHTS = GOOD_WEIGHTS | BAD_WEIGHTS


class Case:
    """What a recipe makes, and what the oracle needs to know of it."""

    def __init__(self, recipe):
        self.recipe = recipe
        rng = np.random.default_rng(recipe.random)
        codes = rng.integers(0, recipe.n_classes, recipe.n_samples)
        typed = of_dtype(numbers(recipe, rng, codes), recipe.dtype)
        self.X = LAYOUTS[recipe.layout](typed)
        rows = ROWS[recipe.rows](typed)
        self.rows, self.row_numbers = LAYOUTS[recipe.other_layout](rows), of_dtype(rows, "f8")
        self.numbers = of_dtype(typed, "f8")
        self.dtype = np.float32 if typed.dtype == np.float32 else np.float64
        self.y = LABELS[recipe.labels](codes)
        self.classes, self.codes = np.unique(np.asarray(self.y), return_inverse=True)
        self.sample_weight = WEIGHTS[recipe.sample_weight](recipe.n_samples, rng)
        self.params = {
            name: getattr(recipe, name)
            for name in ("C", "solver", "l1_ratio", "fit_intercept", "tol", "max_iter", "n_jobs")
        }
        self.params["class_weight"] = {
            "none": None,
            "balanced": "balanced",
            "dict": {self.classes.tolist()[0]: 2.5},
            "no weight": {self.classes.tolist()[-1]: 0.0},
        }[recipe.class_weight]
        with np.errstate(all="ignore"):
            self.weights = self._weights()
            self.l2 = (
                1.0 / recipe.C / self.weights.max() / np.sum(self.weights / self.weights.max())
            )

    def _weights(self):
        """Return the weights with those of classes, which may overflow."""
        n, name = self.recipe.n_samples, self.recipe.sample_weight
        given = self.sample_weight
        w = np.ones(n) if given is None or name in BAD_WEIGHTS else given * np.ones(n)
        factor = np.ones(len(self.classes))
        if self.recipe.class_weight == "balanced":
            masses = np.bincount(self.codes, w, len(self.classes))
            factor = np.where(masses > 0, w.sum() / (len(masses) * masses), 0.0)
        elif self.recipe.class_weight == "dict":
            factor[0] = 2.5
        elif self.recipe.class_weight == "no weight":
            factor[-1] = 0.0
        return w * factor[self.codes]

    @property
    def fault(self):
        """What is wrong with the input, so that there must be an error."""
        if not np.all(np.isfinite(self.numbers)):
            return "X is not finite"
        if len(self.classes) < 2:
            return "one class"
        if self.recipe.sample_weight in BAD_WEIGHTS:
            return "weights"
        if not self.weights.any():
            return "no weight"
        if not (np.all(np.isfinite(self.weights)) and np.isfinite(self.l2)):
            return "weights or the penalty overflow"
        return ""

    @property
    def is_extreme(self):
        """Whether sums over X may overflow, which is a reason to give up."""
        return np.abs(self.numbers).max() >= LARGE[self.dtype]


#: Numbers from which on a fit may be refused, as the sums that it needs overflow.
LARGE = {np.float64: 1e150, np.float32: 1e30}


# --- What has to hold -----------------------------------------------------------------------------


def watched(call):
    """Return what a call returned or raised, and its warnings but for two that are meant."""
    result, warned = outcome(call)
    harmless = re.compile("number of unique classes|l1_ratio parameter is only used")
    return result, [warning for warning in warned if not harmless.search(str(warning))]


def assert_helpful(error):
    assert isinstance(error, ValueError | TypeError), repr(error)
    assert str(error).strip()


class Bounds:
    """The oracle's logits at fitted coefficients, and what rounding may make of them."""

    def __init__(self, numbers, coef, intercept, dtype):
        coef, intercept = np.asarray(coef, float), np.asarray(intercept, float)
        eps = float(np.finfo(dtype).eps)
        with np.errstate(over="ignore", invalid="ignore"):
            self.logits = numbers @ coef.T + intercept
            least = float(np.finfo(dtype).smallest_subnormal) / eps  # below it spacing is even
            sizes = np.abs(numbers) @ (np.abs(coef) + least).T + np.abs(intercept)
            sizes = sizes.max(axis=1)
        self.may_overflow = bool(np.any(~(sizes < 0.01 * np.finfo(dtype).max)))
        self.rounding = (32.0 + numbers.shape[1]) * eps * (1.0 + sizes)
        self.eps, self.least = eps, least

    @property
    def all_logits(self):
        z = self.logits
        return np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z


def check(recipe):
    """Return what a recipe came to: a kind of outcome, for counting."""
    case = Case(recipe)
    model = LogisticRegression(**case.params)
    result, warned = watched(lambda: model.fit(case.X, case.y, case.sample_weight))
    if isinstance(result, Exception):
        assert_helpful(result)
        assert not warned
        assert case.fault or case.is_extreme, f"too strict: {result}"
        assert not hasattr(model, "coef_")
        return "refused" if case.fault else "refused as too large"
    assert not case.fault, "accepted"
    assert [*map(type, warned)] == [ConvergenceWarning] * (not model.converged_)
    np.testing.assert_array_equal(model.classes_, case.classes)
    assert np.all(np.isfinite(model.coef_))
    assert np.all(np.isfinite(model.intercept_))
    assert model.coef_.dtype == case.dtype
    bounds = Bounds(case.numbers, model.coef_, model.intercept_, case.dtype)
    if np.all(np.isfinite(bounds.all_logits)):
        certify(model, case, bounds)
    check_predictions(model, case)
    return "converged" if model.converged_ else "not converged"


def certify(model, case, bounds):
    """Assert that the objective is what `objective_` says, and its gradient within `tol`."""
    recipe = case.recipe
    X = np.column_stack([case.numbers, np.ones(recipe.n_samples)])
    targets = reference.one_hot(case.codes, len(case.classes))
    params = np.column_stack([model.coef_, model.intercept_]).astype(float)
    l1, l2 = case.l2 * recipe.l1_ratio, case.l2 * (1.0 - recipe.l1_ratio)
    oracle = reference.LinearModel(case.numbers, targets, case.weights, l2)
    w = oracle.weights / oracle.weights.sum()
    with np.errstate(over="ignore", invalid="ignore"):
        value = oracle.value(params) + l1 * np.abs(params[:, :-1]).sum()
        gradient = oracle.gradient(params)
        rounding = w @ bounds.rounding
        # Duals and their coefficients are float32.
        digits = 1e-5 if model.solver_.startswith("dual") else 1e3 * bounds.eps
        np.testing.assert_allclose(model.objective_, value, rtol=digits, atol=10.0 * rounding)
        slope = least_subgradient(gradient, params, l1)[:, : None if recipe.fit_intercept else -1]
        if not (model.converged_ and np.all(np.isfinite(gradient))):
            return
        top = np.where(X.any(axis=0), np.abs(X).max(axis=0), 1.0)
        sizes = top * np.sqrt(w @ (X / top) ** 2)  # root mean squares
        # Residuals are at most 1, and so are their errors.
        logits = 1.0 + (np.abs(params) @ sizes).max()
        noise = np.minimum((32.0 + X.shape[1]) * bounds.eps * logits, 1.0) * sizes
        noise = noise + case.l2 * (32.0 * bounds.eps * np.abs(params) + bounds.least)
        most = recipe.tol + 1e-9 * recipe.tol + noise
        if model.status_.startswith("No further progress"):
            # Where the objective differs by rounding only, |g_j| <= sqrt(2 H_jj (f - min f)).
            most = most + np.sqrt(1e4 * bounds.eps * value) * (sizes + np.sqrt(l2))
            underflows = sizes**2 < np.finfo(case.dtype).tiny
            most = np.where(underflows, np.inf, most)
    assert np.all(np.abs(slope) <= most[:, : slope.shape[1]]), (model.status_, slope, most)


def least_subgradient(gradient, params, l1):
    """Return the subgradient of least size of a smooth function plus ``l1 |W|``."""
    slope = gradient.copy()
    g, coef = gradient[:, :-1], params[:, :-1]
    at_zero = np.sign(g) * np.maximum(np.abs(g) - l1, 0.0)
    slope[:, :-1] = np.where(coef == 0, at_zero, g + l1 * np.sign(coef))
    return slope


def check_predictions(model, case):
    """Assert that predictions, from another layout or for other rows, are the oracle's."""
    row_fault = (
        len(case.row_numbers) == 0
        or case.row_numbers.shape[1] != model.n_features_in_
        or not np.all(np.isfinite(case.row_numbers))
    )
    numbers = case.numbers if row_fault else case.row_numbers
    bounds = Bounds(numbers, model.coef_, model.intercept_, case.dtype)
    answers = {}
    for response in ("decision_function", "predict_proba", "predict_log_proba", "predict"):
        call = getattr(model, response)
        answer, warned = watched(lambda call=call: call(case.rows))
        assert not warned
        if isinstance(answer, Exception):
            assert_helpful(answer)
            assert row_fault or (bounds.may_overflow and "overflow" in str(answer)), answer
        else:
            answers[response] = answer
    if row_fault or bounds.may_overflow:
        assert not (row_fault and answers)
        assert all(not np.any(np.isnan(a)) for r, a in answers.items() if r != "predict")
        return
    logits, eps, room = bounds.all_logits, bounds.eps, bounds.rounding[:, None]
    decisions = answers["decision_function"].reshape(bounds.logits.shape)
    P, log_P = answers["predict_proba"], answers["predict_log_proba"]
    assert np.all(np.abs(decisions - bounds.logits) <= room)
    assert np.all((P >= 0) & (P <= 1))
    np.testing.assert_allclose(P.sum(axis=1), 1.0, rtol=0, atol=8.0 * eps * P.shape[1])
    assert np.all(np.abs(P - reference.softmax(logits)) <= np.minimum(room, 1.0) + 32.0 * eps)
    assert np.all(log_P <= 0)
    np.testing.assert_allclose(np.exp(log_P), P, rtol=0, atol=32.0 * eps)
    chosen = np.searchsorted(model.classes_, answers["predict"])
    np.testing.assert_array_equal(model.classes_[chosen], answers["predict"])
    best = np.take_along_axis(logits, chosen[:, None], axis=1)
    assert np.all(best >= logits.max(axis=1, keepdims=True) - 2.0 * room)
    labels = np.asarray(case.y)[: len(chosen)]
    score, _ = watched(lambda: model.score(case.rows, labels))
    assert score == pytest.approx(np.mean(answers["predict"] == labels))


# --- Where to look --------------------------------------------------------------------------------

FINITE_EDGES = [0.0, -0.0, 5e-324, 1e-300, 1e-45, 1e-38, 1e4, 1e19, 3e38, 1e150, 1e160, MAX, -MAX]
SIZES = ("columns of all sizes", "rows of all sizes")
ORDINARY = {
    "random": st.integers(0, 2**32 - 1),
    "n_samples": st.integers(2, 24),
    "n_features": st.integers(1, 6) | st.integers(1, 60),
    "n_classes": st.integers(2, 5),
    "values": st.sampled_from(
        ["signal", "noise", "separable", "integers", "constant", "far", "zeros", *SIZES]
    ),
    "dtype": st.sampled_from(["f8", "f4"]),
    "layout": st.sampled_from(["C", *DENSE]),
    "other_layout": st.sampled_from([*DENSE, *SPARSE]),
    "labels": st.sampled_from([*LABELS]),
    "C": st.sampled_from([1.0, 1e-3, 1e3]),
    "solver": st.sampled_from(["auto", "auto", "lbfgs", "newton-cg", "newton-cholesky", "sag"]),
    "fit_intercept": st.booleans(),
    "n_jobs": st.sampled_from([None, 1, 2, -1]),
    "rows": st.sampled_from(["same"] * 8 + [*ROWS]),
}
_place = st.integers(0, 2**16)
FOCUS = {
    "layouts": ORDINARY
    | {
        "dtype": st.sampled_from(
            ["f8", "f4", "f2", "g", ">f8", ">f4", "i1", "u1", "i8", "u8", "?"]
        ),
        "layout": st.sampled_from([*LAYOUTS]),
        "edges": st.lists(
            st.tuples(_place, st.sampled_from([np.nan, np.inf, -np.inf])), max_size=1
        ).map(tuple)
        | st.just(()),
        "n_classes": st.integers(1, 5),
    },
    "numbers": ORDINARY
    | {
        "layout": st.sampled_from(["C", "csr"]),
        "other_layout": st.sampled_from(["Fortran", "csr, repeated"]),
        "scale": st.sampled_from(
            [1.0, 1e-310, 1e-160, 1e-20, 1e15, 1e18, 1e30, 1e90, 1e150, 1e160, 1e300]
        ),
        "edges": st.lists(st.tuples(_place, st.sampled_from(FINITE_EDGES)), max_size=3).map(tuple),
        "C": st.sampled_from([1.0, 1e-3, 1e6, np.inf]),
    },
    "weights": ORDINARY
    | {
        "sample_weight": st.sampled_from([*GOOD_WEIGHTS, *GOOD_WEIGHTS, *BAD_WEIGHTS]),
        "class_weight": st.sampled_from(["none", "none", "balanced", "dict", "no weight"]),
        "C": st.sampled_from([1e-320, 1e-12, 1e-3, 1.0, 1e3, 1e12, 1e300, np.inf]),
        "layout": st.sampled_from(["C", "csr"]),
    },
    "parameters": ORDINARY
    | {
        "layout": st.sampled_from(["C", "csr"]),
        "solver": st.sampled_from(["auto", "saga"]),
        "l1_ratio": st.sampled_from([0.0, 0.3, 1.0]),
        "C": st.sampled_from([1e-12, 1e-2, 1.0, 1e2, 1e12, np.inf]),
        "tol": st.sampled_from([0.0, 1e-10, 1e-8, 1e-4, 1e-1]),
        "max_iter": st.sampled_from([0, 1, 20, 1000, 1000, 1000]),
        "sample_weight": st.sampled_from(["none", "zeros", "counts"]),
    },
}

FOCUS["many columns"] = ORDINARY | {
    "n_features": st.integers(2501, 2600),
    "layout": st.sampled_from([*SPARSE]),
    "scale": st.sampled_from([1.0, 1.0, 1e-20, 1e9]),  # float32 cuts squares off at 1e38
    "sample_weight": st.sampled_from(["none", "zeros", "tiny", "huge"]),
    "C": st.sampled_from([1e-3, 1.0, 1e3, 1e6]),
    "solver": st.sampled_from(["auto", "auto", "lbfgs", "newton-cg"]),
}


def explore(focus, n_inputs, random_seed=None):
    """Return how many generated inputs came to what."""
    counts = Counter()

    @settings(
        max_examples=n_inputs,
        derandomize=random_seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.builds(Recipe, **FOCUS[focus]))
    def search(recipe):
        counts[check(recipe)] += 1

    (search if random_seed is None else seed(random_seed)(search))()
    return counts


NEWTON_CG_32 = {"solver": "newton-cg", "dtype": "f4"}
#: What went wrong once.
FOUND = {
    "no ridge made a Hessian positive, for ever": Recipe(
        random=710367176,
        n_samples=15,
        n_features=29,
        n_classes=5,
        values="rows of all sizes",
        dtype="f4",
        sample_weight="counts",
        C=1e12,
        l1_ratio=1.0,
        max_iter=30,
    ),
    "pairs of steps were singular": Recipe(
        random=5,
        n_samples=5,
        n_features=2,
        n_classes=2,
        values="integers",
        dtype="f4",
        sample_weight="counts",
        C=1e12,
        l1_ratio=1.0,
        tol=1e-10,
    ),
    "a step along the gradient passed for a floor": Recipe(
        random=2,
        n_samples=2,
        n_features=2,
        n_classes=2,
        values="constant",
        scale=1e30,
        layout="csr",
        **NEWTON_CG_32,
    ),
    "a step cut short passed for a floor": Recipe(
        random=61482,
        n_samples=13,
        n_features=6,
        n_classes=4,
        values="columns of all sizes",
        scale=1e15,
        fit_intercept=False,
        **NEWTON_CG_32,
    ),
    "a metric without scale passed for a floor": Recipe(
        random=414,
        n_samples=2,
        n_features=27,
        values="constant",
        sample_weight="of all sizes",
        C=1e12,
        solver="lbfgs",
    ),
    "cancelling slopes passed for a floor": Recipe(
        random=36,
        n_samples=2,
        n_features=36,
        n_classes=4,
        values="far",
        sample_weight="of all sizes",
        class_weight="dict",
        C=1e12,
        solver="newton-cg",
    ),
    "duals of all zeros passed for an optimum, beyond the range of float32": Recipe(
        random=1871,
        n_samples=2,
        n_features=2542,
        n_classes=2,
        values="integers",
        scale=1e15,
        dtype="f4",
        layout="csr",
        sample_weight="tiny",
        C=1e3,
        fit_intercept=False,
    ),
    "NumPy warned beside the error": Recipe(
        random=2,
        n_samples=2,
        n_features=14,
        n_classes=2,
        values="rows of all sizes",
        scale=1e160,
        C=np.inf,
        solver="lbfgs",
        fit_intercept=False,
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name):
    assert check(FOUND[name]) != "refused"


@pytest.mark.parametrize("focus", FOCUS)
def test_generated_inputs(focus):
    counts = explore(focus, 100)
    assert counts.total() >= 100
    assert counts["converged"] > 20


@pytest.mark.fuzz
@pytest.mark.parametrize("random_seed", range(8))
@pytest.mark.parametrize("focus", FOCUS)
def test_many_generated_inputs(focus, random_seed, capsys):
    """20480 inputs in all; the counts are printed."""
    counts = explore(focus, 512, random_seed)
    with capsys.disabled():
        sys.stdout.write(f"\n{focus}, seed {random_seed}: {counts.total()} inputs, {dict(counts)}")
    assert counts.total() >= 512
