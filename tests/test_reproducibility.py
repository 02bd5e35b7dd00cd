"""The same bits from run to run, whatever threads there are and however X is stored.

Each case is a process of its own that fits by every route of `routes`, in threads wherever
there are two units of work, and prints what it found.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from child import run_python
from routes import ROUTES

#: `fit_all()` returns the fitted attributes of all routes, as text that keeps every bit.
FITS = """
import json, os, pickle, sys, tempfile
sys.path.insert(0, {tests!r})
import joblib
import numpy as np
from scipy import sparse
from fastsoftmax import _pool, _threads
from routes import ROUTES

_threads._SERIAL_WORK = 0.0
joblib.cpu_count = lambda: int(os.environ["NUMBA_NUM_THREADS"])  # more than there are
threaded = []  # a note for each sweep in threads

def noted(function):
    return lambda *arguments: (threaded.append(1), function(*arguments))

_threads.launch, _pool.run = noted(_threads.launch), noted(_pool.run)
NAMES = ("coef_", "intercept_", "objective_", "gradient_norm_", "n_iter_", "n_passes_")
RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")

def text(value):
    return np.asarray(value).tobytes().hex()

def fit(route, X, y):
    with route.taken():
        model = route.model().fit(X, y)
    assert model.solver_ == route.runs or X.dtype == np.float32  # which may need another solver
    return model

def facts(model, X):
    found = {{name: text(getattr(model, name)) for name in NAMES}} | {{"solver_": model.solver_}}
    return found | {{name: text(getattr(model, name)(X)) for name in RESPONSES}}

def fit_all():
    found = {{}}
    for name, route in ROUTES.items():
        X, y = route.make()
        for dtype in (np.float64, np.float32):
            A = X.astype(dtype)
            found[f"{{name}}, {{np.dtype(dtype)}}"] = facts(fit(route, A, y), A)
    return found
"""
REPORT = "print(json.dumps([_threads.plan().name, fit_all(), len(threaded)]))"
FIXED = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run(code=REPORT, *, n_threads=3, **environment):
    """Return what a process prints that may use some threads."""
    threads = {"NUMBA_NUM_THREADS": str(n_threads), "OMP_NUM_THREADS": str(n_threads)}
    code = FITS.format(tests=str(Path(__file__).parent)) + code
    return json.loads(run_python(code, timeout=300, **FIXED | threads | environment))


@pytest.fixture(scope="module")
def expected():
    """What one thread finds."""
    name, found, n_threaded = run(FASTSOFTMAX_THREADING="serial", PYTHONHASHSEED="1")
    assert (name, n_threaded) == ("serial", 0)
    assert len(found) == 2 * len(ROUTES)
    return found


def assert_same(found, expected):
    """Name what differs, and not its digits."""
    assert found.keys() == expected.keys()
    different = [
        (route, name)
        for route, values in expected.items()
        for name in values
        if found[route][name] != values[name]
    ]
    assert not different


CASES = {
    "numba": {"n_threads": 3, "PYTHONHASHSEED": "2"},
    "pool": {"n_threads": 7, "FASTSOFTMAX_THREADING": "pool"},
    "numba again": {"n_threads": 7},
    "two threads of the pool": {"n_threads": 2, "FASTSOFTMAX_THREADING": "pool"},
    "two threads of numba": {"n_threads": 2},
    "one thread": {"n_threads": 1},
    "workqueue": {"NUMBA_THREADING_LAYER": "workqueue"},
    "omp": {"NUMBA_THREADING_LAYER": "omp"},
    "serial": {"FASTSOFTMAX_THREADING": "serial", "PYTHONHASHSEED": "3"},
}
IN_CI = {"numba", "pool"}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c in IN_CI else pytest.mark.stress) for c in CASES],
)
def test_threads_change_no_bit(case, expected):
    name, found, n_threaded = run(**CASES[case])
    if "pool" in case or case == "workqueue":
        assert name == "pool"
    assert (n_threaded > 1000) == (case not in ("one thread", "serial"))
    assert_same(found, expected)


@pytest.mark.stress
def test_an_empty_cache_changes_no_bit(expected, tmp_path):
    folder = tmp_path / "kernels"
    assert_same(run(FASTSOFTMAX_CACHE_DIR=str(folder))[1], expected)
    assert list(folder.glob("*.kernel"))


STORED = """
def stored(X):
    yield "fresh", X.copy()
    if sparse.issparse(X):
        wide = X.copy()
        wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
        yield "64-bit indices", wide
        frozen = X.copy()
        for part in (frozen.data, frozen.indices, frozen.indptr):
            part.flags.writeable = False
        yield "read-only", frozen
        yield "CSC", X.tocsc()
        return
    frozen = X.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    yield "columns first", np.asfortranarray(X)
    yield "every other column", X.repeat(2, axis=1)[:, ::2]
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, X.dtype, "w+", shape=X.shape)
        mapped[:] = X
        yield "memory map", mapped

different = []
for name, route in ROUTES.items():
    X, y = route.make()
    model = fit(route, X, y)
    expected = facts(model, X)
    for storage, A in stored(X):
        if facts(fit(route, A, y), A) != expected:
            different.append((name, storage))
    if facts(pickle.loads(pickle.dumps(model)), X) != expected:
        different.append((name, "pickle"))
print(json.dumps(different))
"""


def test_storage_and_pickles_change_no_bit():
    assert run(STORED) == []


def array(text):
    return np.frombuffer(bytes.fromhex(text), np.float64)


@pytest.mark.stress
def test_threads_of_the_blas_change_last_digits_at_most(expected):
    """The documented limit. Small factors, and directions of recession, are the BLAS's."""
    found = run(OPENBLAS_NUM_THREADS="2")[1]
    for route, values in expected.items():
        if route.endswith("float64"):
            a, b = array(found[route]["coef_"]), array(values["coef_"])
            assert np.linalg.norm(a - b) <= 1e-10 * np.linalg.norm(b), route
