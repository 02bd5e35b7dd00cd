"""Threads of our own: every unit once, in several threads, with errors and interrupts."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from child import run_python

from fastsoftmax import _pool


class Recorder:
    """A driver that takes down which units ran, where, and may do something."""

    def __init__(self, inside=lambda first: None):
        self.units, self.threads, self._inside = [], set(), inside

    def __call__(self, first, last, *arguments):
        self.threads.add(threading.current_thread().name)
        self._inside(first)
        self.units += range(first, last)


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
@pytest.mark.parametrize("n_units", [1, 2, 7, 64, 1000])
def test_every_unit_runs_once(n_units, n_threads):
    driver = Recorder()
    _pool.run(driver, n_units, (), n_threads)
    assert sorted(driver.units) == list(range(n_units))
    assert len(driver.threads) <= n_threads


def test_several_threads_work_at_the_same_time():
    """Each piece waits until there are as many as threads."""
    together = threading.Barrier(3)
    driver = Recorder(lambda first: together.wait(10))
    _pool.run(driver, 3, (), 3)
    assert len(driver.threads) == 3


def test_arguments_reach_the_driver():
    out = np.zeros(50)

    def driver(first, last, values, factor, target):
        target[first:last] = factor * values[first:last]

    _pool.run(driver, 50, (np.arange(50.0), 3.0, out), 2)
    np.testing.assert_array_equal(out, 3.0 * np.arange(50))


@pytest.mark.parametrize("kind", [MemoryError, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", [0, 31, 63])
def test_an_error_in_any_thread_reaches_the_caller(where, kind):
    def fail(first):
        if first <= where < first + 8:
            raise kind("somewhere")

    with pytest.raises(kind, match="somewhere"):
        _pool.run(Recorder(fail), 64, (), 2)
    driver = Recorder()
    _pool.run(driver, 64, (), 2)  # the threads live on
    assert sorted(driver.units) == list(range(64))


def test_a_sweep_does_not_need_the_pool(monkeypatch):
    """Neither where its threads are busy nor where none can be started."""
    go_on = threading.Event()
    blocker = threading.Thread(
        target=_pool.run, args=(Recorder(lambda first: go_on.wait(10)), 4, (), 4)
    )
    blocker.start()
    driver = Recorder()
    _pool.run(driver, 64, (), 4)
    assert sorted(driver.units) == list(range(64))
    go_on.set()
    blocker.join(10)

    def cannot(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_pool, "_pool", _pool._Pool())
    monkeypatch.setattr(threading.Thread, "start", cannot)
    driver = Recorder()
    _pool.run(driver, 64, (), 4)
    assert driver.threads == {threading.current_thread().name}


def test_what_a_sweep_held_is_let_go():
    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)
    _pool.run(Recorder(), 8, (held,), 2)
    del held
    for _ in range(100):  # a thread that came too late drops the sweep when it wakes
        gc.collect()
        if gone() is None:
            break
        threading.Event().wait(0.05)
    assert gone() is None


def test_threads_are_few_and_do_not_hold_up_the_end_of_the_process():
    code = """
    import threading
    from fastsoftmax import _pool
    for _ in range(200):
        _pool.run(lambda first, last: None, 64, (), 3)
    print(sorted(t.name for t in threading.enumerate() if "fastsoftmax" in t.name))
    print(all(t.daemon for t in threading.enumerate() if "fastsoftmax" in t.name))
    """
    assert run_python(code, timeout=60) == "['fastsoftmax-1', 'fastsoftmax-2']\nTrue\n"
