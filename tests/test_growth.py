"""Nothing grows with the number of fits and predictions: memory, threads, open files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from child import run_python

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux shows a process its memory, threads and files"
)

#: MB that a process may grow by after it has warmed up.
ALLOWED = 5.0

GROWTH = """
import json, os, resource, sys
sys.path.insert(0, {tests!r})
import joblib
import numpy as np
from fastsoftmax import _threads
from routes import ROUTES, Route, dense

joblib.cpu_count = lambda: 3  # more than there may be
_threads._SERIAL_WORK = 1e5  # threads for some thousand rows
many = dict(n_samples=5000, n_features=20)
routes = [
    Route(dense, ROUTES["compiled"].runs),
    Route(lambda: dense(**many), "lbfgs (full Hessian)", {{"solver": "lbfgs"}}),
    *(ROUTES[name] for name in ("sparse", "vocabulary", "dual", "L1", "L1, active columns")),
]
cases = [
    (route, X.astype(dtype), y, route.model(tol=1e-3))
    for route in routes
    for X, y in [route.make()]
    for dtype in (np.float64, np.float32)
]
predictions = ("predict", "predict_proba", "predict_log_proba", "decision_function")

def state():
    pages = int(open("/proc/self/statm").read().split()[1])
    counts = [len(os.listdir(f"/proc/self/{{what}}")) for what in ("task", "fd")]
    return [pages * resource.getpagesize() / 2**20, *counts]

def run(n_fits):
    # Returns the most of each number that there was after one of the fits.
    states = []
    for i in range(n_fits):
        route, X, y, model = cases[i % len(cases)]
        with route.taken():
            model.fit(X, y)
        for repeat in range(10):
            predict = predictions[(i // len(cases) + repeat) % 4]
            getattr(model, predict)(X[: 1 + 40 * repeat])
        states.append(state())
    return np.max(states, axis=0).tolist()

phases = [{warm_fits}] + [{n_fits} // 4] * 4
print(json.dumps([_threads.plan().name, [run(n) for n in phases]]))
"""

THREADS = {"NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    "n_fits",
    [
        pytest.param(200, id="200 fits"),
        pytest.param(2000, id="2000 fits", marks=pytest.mark.stress),
    ],
)
@pytest.mark.parametrize("setting", ["auto", "pool"])
def test_memory_threads_and_files_do_not_grow(setting, n_fits):
    """Ten times as many predictions as fits. GNU OpenMP's threads come and go: the most counts."""
    code = GROWTH.format(tests=str(Path(__file__).parent), warm_fits=112, n_fits=n_fits)
    printed = run_python(code, timeout=600, FASTSOFTMAX_THREADING=setting, **THREADS)
    name, (warm, *later) = json.loads(printed)
    assert setting == "auto" or name == "pool"
    for memory, n_threads, n_files in later:
        assert memory - warm[0] <= ALLOWED, later
        assert n_threads <= warm[1], later
        assert n_files <= warm[2], later
