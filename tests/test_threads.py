"""`fastsoftmax._threads`: how many threads, and whose. `test_stress` lets them meet forks."""

from __future__ import annotations

import json
import multiprocessing
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
    monkeypatch.setattr(_threads, "_openmp", None)
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
    code = "from fastsoftmax import _threads; print(_threads._openmp)"
    limit = run_python(code, OMP_NUM_THREADS=openmp).strip()
    monkeypatch.setattr(_threads, "_openmp", None if limit == "None" else int(limit))
    assert available_threads() == expected


def test_omp_num_threads_is_read_once(four_threads, monkeypatch):
    """Dask sets it to 1 in the process that starts a local cluster."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert available_threads() == 4


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
    with monkeypatch.context() as patch:
        patch.setattr(_threads, "_openmp", 3)
        assert available_threads() == 3
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert available_threads() == 4


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
    code = """
import hashlib, json
import numpy as np
from fastsoftmax import SoftmaxObjective, _threads

rng = np.random.default_rng(0)
X = rng.normal(size=(100_001, 7)).astype(np.float32)
target = SoftmaxObjective(X, rng.integers(0, 5, len(X)), l2=0.1)
parallel, launch = [], _threads.launch
_threads.launch = lambda *a: (parallel.append(1), launch(*a))
value, gradient = target.value_and_gradient(rng.normal(size=target.shape))
digest = hashlib.sha256(np.float64(value).tobytes() + gradient.tobytes()).hexdigest()
print(json.dumps([digest, len(parallel)]))
"""
    threads = {"NUMBA_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    several, n_several = json.loads(run_python(code, **threads))
    one, n_one = json.loads(run_python(code, **threads | {"OMP_NUM_THREADS": "1"}))
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
