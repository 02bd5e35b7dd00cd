"""`fastsoftmax._threads`: how many threads, which driver, and what survives a fork."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading

import joblib
import numba
import numpy as np
import pytest
from child import run_python

from fastsoftmax import _pool, _threads
from fastsoftmax._threads import available_threads, resolve_n_jobs, sweep, thread_limit

TOP = _threads.available_threads()
#: A sweep's work that is worth threads.
LARGE = 1e9


class Driver:
    """A driver that records how it ran, with how many threads, and may do something."""

    def __init__(self, inside=lambda: None):
        self.calls, self._inside = [], inside

    def __call__(self, first, last):
        self.calls.append(("serial", first, last))
        self._inside()

    def launch(self, n_units):
        self.calls.append(("parallel", n_units, numba.get_num_threads()))
        self._inside()

    def sweep(self, n_units=8, work=LARGE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_threads, "machine_code", lambda driver, arguments: driver)
            patch.setattr(_threads, "launch", lambda n_units, driver, _: driver.launch(n_units))
            sweep(self, n_units, work)
        return self.calls[-1]


@pytest.fixture
def four_threads(monkeypatch):
    """Let a sweep believe that Numba has four threads, without launching them."""
    monkeypatch.setattr(_threads, "_obstacle", lambda: None)
    monkeypatch.setattr(_threads, "threading_layer", lambda: "omp")
    monkeypatch.delenv("FASTSOFTMAX_THREADING", raising=False)
    monkeypatch.setattr(_threads, "machine_code", lambda driver, arguments: driver)
    monkeypatch.setattr(
        _threads, "launch", lambda n_units, driver, arguments: driver.launch(n_units)
    )
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 4)
    counts = {"now": 4}
    monkeypatch.setattr(numba, "get_num_threads", lambda: counts["now"])
    monkeypatch.setattr(numba, "set_num_threads", lambda n: counts.update(now=n))
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        _pool,
        "run",
        lambda driver, n_units, arguments, n: driver.calls.append(("pool", n_units, n)),
    )
    return counts


# --- Counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_jobs", "expected"),
    [(None, None), (-1, 4), (-2, 3), (-4, 1), (-5, 1), (-100, 1), (1, 1), (3, 3), (4, 4), (5, 4)],
)
def test_resolve_n_jobs(four_threads, n_jobs, expected):
    assert resolve_n_jobs(n_jobs) == expected


def test_n_jobs_of_zero_is_refused():
    with pytest.raises(ValueError, match="use None for all threads"):
        resolve_n_jobs(0)


@pytest.mark.parametrize(
    ("openmp", "expected"),
    [("2", 2), (" 3,2 ", 3), ("9", 4), ("", 4), ("many", 4), ("0", 1), ("-1", 4)],
)
def test_omp_num_threads_is_a_limit(four_threads, monkeypatch, openmp, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", openmp)
    assert available_threads() == expected


def test_numba_and_joblib_are_limits(four_threads, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    assert available_threads() == 3
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)
    assert available_threads() == 2


# --- The choice -----------------------------------------------------------------------------------


def test_a_large_sweep_is_parallel_and_a_small_one_serial(four_threads):
    driver = Driver()
    assert driver.sweep() == ("parallel", 8, 4)
    assert driver.sweep(work=_threads._SERIAL_WORK / 2) == ("serial", 0, 8)
    assert driver.sweep(n_units=3) == ("parallel", 3, 3)
    assert driver.sweep(n_units=1) == ("serial", 0, 1)
    assert driver.sweep(n_units=0) == ("serial", 0, 0)


def test_thread_limit_holds_inside_the_block_and_nests(four_threads):
    driver = Driver()
    with thread_limit(3):
        assert driver.sweep()[2] == 3
        with thread_limit(1):
            assert driver.sweep()[0] == "serial"
        assert driver.sweep()[2] == 3
    assert driver.sweep()[2] == 4


def test_thread_limit_is_restored_after_an_exception(four_threads):
    driver = Driver()
    with pytest.raises(KeyError), thread_limit(1):
        raise KeyError
    assert driver.sweep()[0] == "parallel"


def test_thread_limit_beyond_numbas_maximum_is_clamped(four_threads):
    with thread_limit(100):
        assert Driver().sweep(n_units=64) == ("parallel", 64, 4)


def test_thread_limit_belongs_to_its_thread(four_threads):
    driver = Driver()
    with thread_limit(1):
        other = threading.Thread(target=driver.sweep)
        other.start()
        other.join(10)
    assert driver.calls == [("parallel", 8, 4)]


def test_numbas_thread_count_is_restored_after_a_sweep(four_threads):
    with thread_limit(2):
        assert Driver().sweep()[2] == 2
    assert four_threads["now"] == 4

    def fail():
        raise KeyError

    with pytest.raises(KeyError), thread_limit(2):
        Driver(fail).sweep()
    assert four_threads["now"] == 4
    assert Driver().sweep()[0] == "parallel"  # the claim was released, too


def test_a_second_sweep_at_the_same_time_is_serial(four_threads):
    started, go_on = threading.Event(), threading.Event()

    def wait():
        started.set()
        assert go_on.wait(10)

    first, second = Driver(wait), Driver()
    thread = threading.Thread(target=first.sweep)
    thread.start()
    assert started.wait(10)
    assert second.sweep()[0] == "serial"
    go_on.set()
    thread.join(10)
    assert first.calls[0][0] == "parallel"
    assert second.sweep()[0] == "parallel"


def test_a_claim_of_a_dead_thread_or_of_this_one_does_not_last(four_threads, monkeypatch):
    dead = threading.Thread(target=int)
    dead.start()
    dead.join()
    for owner in (dead, threading.current_thread()):  # the latter: an interrupt
        monkeypatch.setitem(_threads._sweeping, 0, owner)
        assert Driver().sweep()[0] == "parallel"
        assert not _threads._sweeping


@pytest.mark.parametrize(
    ("layer", "name"), [("workqueue", "pool"), ("none", "pool"), ("omp", "numba"), ("tbb", "numba")]
)
def test_threads_of_our_own_take_the_place_of_a_layer_that_is_not_safe(monkeypatch, layer, name):
    monkeypatch.delenv("FASTSOFTMAX_THREADING", raising=False)
    monkeypatch.setattr(_threads, "threading_layer", lambda: layer)
    chosen = _threads.plan()
    assert chosen.name == name
    assert layer in chosen.reason


@pytest.mark.parametrize("name", ["_forked", "_imported_in_forked_child"])
def test_after_a_fork_numbas_threads_are_not_entered(monkeypatch, name):
    monkeypatch.delenv("FASTSOFTMAX_THREADING", raising=False)
    monkeypatch.setattr(_threads, name, True)
    monkeypatch.setattr(_threads, "threading_layer", None)  # nor even asked for
    assert _threads.plan() == ("pool", "this process was forked")
    monkeypatch.setenv("FASTSOFTMAX_THREADING", "numba")
    assert _threads.plan().name == "serial"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("", "parallel"), ("auto", "parallel"), ("numba", "parallel"), ("NUMBA ", "parallel"),
     ("pool", "pool"), ("serial", "serial")],
)  # fmt: skip
def test_the_setting_decides(four_threads, monkeypatch, setting, expected):
    monkeypatch.setenv("FASTSOFTMAX_THREADING", setting)
    assert Driver().sweep()[0] == expected


def test_a_setting_that_does_not_exist_is_refused(four_threads, monkeypatch):
    monkeypatch.setenv("FASTSOFTMAX_THREADING", "openmp")
    with pytest.raises(ValueError, match=r"must be one of .*'pool', 'serial'"):
        Driver().sweep()
    assert Driver().sweep(work=1.0)[0] == "serial"  # nothing to be decided


def test_greenlets_are_no_threads(monkeypatch):
    class Monkey:
        is_module_patched = staticmethod(lambda name: name == "threading")

    monkeypatch.setitem(sys.modules, "gevent.monkey", Monkey)
    monkeypatch.delenv("FASTSOFTMAX_THREADING", raising=False)
    monkeypatch.setattr(_threads, "threading_layer", lambda: "workqueue")
    assert _threads.plan().name == "serial"
    monkeypatch.setattr(_threads, "threading_layer", lambda: "omp")
    assert _threads.plan().name == "numba"


def test_a_child_of_multiprocessing_has_one_thread_unless_it_is_told(four_threads, monkeypatch):
    assert available_threads() == 4
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "somebody")
    assert available_threads() == 1
    assert [resolve_n_jobs(n) for n in (None, 1, 2, 9, -1)] == [None, 1, 2, 4, 4]
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "3")
            assert available_threads() == (3 if name.startswith("OMP") else 4)


@pytest.mark.skipif(TOP < 2, reason="needs a second thread")
def test_numbas_own_count_is_that_of_before():
    before = numba.get_num_threads()
    driver = Driver()
    with thread_limit(2):
        driver.sweep()
    if driver.calls[0][0] == "parallel":  # not under the workqueue layer
        assert driver.calls[0][2] == 2
    assert numba.get_num_threads() == before


# --- In processes of their own --------------------------------------------------------------------

#: Defines `fit(seed)`, which returns the bits of a value and a gradient, large enough for threads.
PROBLEM = """
import hashlib, json, os, sys, threading
import numpy as np
import numba
from fastsoftmax import SoftmaxObjective, _threads
from fastsoftmax._designs import dense
from fastsoftmax._threads import thread_limit

rng = np.random.default_rng(0)
X = rng.normal(size=(100_001, 7)).astype(np.float32)
target = SoftmaxObjective(X, rng.integers(0, 5, len(X)), l2=0.1)
params = rng.normal(size=target.shape)

def count(module, name):
    function, calls = getattr(module, name), []
    setattr(module, name, lambda *a: (calls.append(1), function(*a)))
    return calls

parallel, sweeps = count(_threads, "launch"), count(dense, "sweep")

def fit(n_threads=4):
    with thread_limit(n_threads):
        value, gradient = target.value_and_gradient(params)
    return hashlib.sha256(np.float64(value).tobytes() + gradient.tobytes()).hexdigest()
"""
THREADS = {"NUMBA_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_can_fit_after_its_parent_used_threads():
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
expected = fit()
layer = _threads.threading_layer()
pid = os.fork()
if pid == 0:
    parallel.clear()
    os._exit(0 if fit() == expected and not parallel else 3)
_, status = os.waitpid(pid, 0)
parallel.clear()
assert fit() == expected
print(json.dumps([os.waitstatus_to_exitcode(status), layer, len(parallel)]))
"""
    status, layer, n_parallel = json.loads(run_python(PROBLEM + code, timeout=60, **THREADS))
    assert status == 0
    if layer in ("omp", "tbb"):
        assert n_parallel == 1  # the parent goes on with threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_that_imports_the_package_first_can_fit():
    code = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numba
numba.get_num_threads()  # another library launched the threads
@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(len(x)):
        s += x[i]
    return s
import numpy as np
total(np.ones(100_000))
pid = os.fork()
if pid == 0:
    from fastsoftmax import SoftmaxObjective, _threads
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100_001, 7))
    target = SoftmaxObjective(X, rng.integers(0, 5, len(X)))
    with _threads.thread_limit(4):
        value, _ = target.value_and_gradient(np.zeros(target.shape))
    os._exit(0 if abs(value - np.log(5)) < 1e-12 else 3)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
"""
    assert int(run_python(code, timeout=60, **THREADS)) == 0


CONCURRENT = """
fit(1), fit()  # compiled
parallel.clear(), sweeps.clear()
results, errors = [], []
barrier = threading.Barrier(4)
def run():
    try:
        barrier.wait(30)
        for repeat in range(20):
            results.append(fit())
    except BaseException as error:
        errors.append(repr(error))
threads = [threading.Thread(target=run) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join(60)
before = numba.get_num_threads()
layer = _threads.threading_layer()
print(json.dumps([layer, len(results), sorted(set(results) | {fit(1)}), errors,
                  len(parallel), len(sweeps) > len(parallel) + 1, before]))
"""


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_four_threads_that_fit_at_the_same_time_give_the_same_bits(layer):
    named = {} if layer == "default" else {"NUMBA_THREADING_LAYER": layer}
    printed = run_python(PROBLEM + CONCURRENT, timeout=90, **THREADS, **named)
    used, n_results, distinct, errors, n_parallel, any_serial, n_threads = json.loads(printed)
    assert errors == []
    assert (n_results, len(distinct), n_threads) == (80, 1, 4)
    assert any_serial
    if layer == "workqueue":
        assert (used, n_parallel) == ("workqueue", 0)  # concurrent entry would abort
    elif used in ("omp", "tbb"):
        assert 0 < n_parallel <= 80


def test_the_wait_policy_of_gnu_openmp_is_set_for_the_launch_only():
    code = """
import os
for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
    os.environ.pop(name, None)
from fastsoftmax import _pool, _threads
import numba
seen = []
original = numba.get_num_threads
numba.get_num_threads = lambda: (seen.append(os.environ.get("OMP_WAIT_POLICY")), original())[1]
_threads.threading_layer()
_threads.threading_layer()
print(seen, os.environ.get("OMP_WAIT_POLICY"))
"""
    assert run_python(code).split() == ["['passive']", "None"]


def test_results_do_not_depend_on_omp_num_threads():
    """One thread allowed: the serial driver, and the same bits."""
    code = PROBLEM + "print(json.dumps([fit(None), len(parallel)]))"
    several, n_several = json.loads(run_python(code, **THREADS))
    one, n_one = json.loads(run_python(code, **THREADS | {"OMP_NUM_THREADS": "1"}))
    assert one == several
    assert n_one == 0
    assert n_several == (1 if joblib.cpu_count() > 1 else 0)


def test_threads_share_nothing_but_the_choice():
    """A limit set in one thread while another sweeps does not leak."""
    limits = []

    def read():
        limits.append(getattr(_threads._local, "limit", None))

    with thread_limit(2):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join(10)
        read()
    assert limits == [None, 2]
    assert np.ndim(limits) == 1
