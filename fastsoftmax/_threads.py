"""How a sweep over row blocks runs: in how many threads.

A *sweep* is one pass of a kernel over all blocks. Its result has the same bits however it runs,
because block boundaries depend on shapes only and partial sums are combined in a fixed order.
So the choice below is about speed and safety alone:

- serially, if the work is small, one thread is allowed, or another threaded sweep of this
  process is under way (its threads have the cores already);
- serially, where Numba's layer cannot be entered safely: GNU OpenMP kills or hangs a forked
  child, and the `workqueue` layer aborts the whole process on concurrent entry;
- otherwise in Numba's threads.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numba
from numba.np.ufunc import parallel as numba_parallel

from fastsoftmax._jit import launch, machine_code

#: Floating-point operations below which waking threads costs more than it saves: about 0.4 ms
#: of one core, against 20 to 80 us for a launch, or several 100 us where an idle core must wake.
_SERIAL_WORK = 2e7

_local = threading.local()
_sweeping: dict[int, threading.Thread] = {}
_forked = False


def _mark_forked() -> None:
    global _forked
    _forked = True
    _sweeping.clear()  # the owner, if any, does not exist in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def available_threads() -> int:
    """Return how many threads this process may use.

    The least of Numba's maximum, joblib's count (affinity, cgroup quota, ``LOKY_MAX_CPU_COUNT``)
    and ``OMP_NUM_THREADS`` where it is a number (Dask sets it, but not Numba's variable).
    """
    counts: list[int] = [numba.config.NUMBA_NUM_THREADS, joblib.cpu_count()]
    openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if openmp.isdigit():
        counts.append(int(openmp))
    return max(1, min(counts))


def resolve_n_jobs(n_jobs: int | None) -> int | None:
    """Return the threads that `n_jobs` stands for: -1 is all, -2 all but one, None no limit.

    Raises
    ------
    ValueError
        If `n_jobs` is 0.
    """
    if n_jobs is None:
        return None
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 has no meaning; use None for all threads, or 1 for one.")
    if n_jobs < 0:
        return max(1, available_threads() + 1 + n_jobs)
    return min(n_jobs, available_threads())


@contextlib.contextmanager
def thread_limit(n_threads: int | None) -> Iterator[None]:
    """Let sweeps of the calling thread use at most `n_threads` threads inside the block.

    None is all that are available, which is asked once.
    """
    before = getattr(_local, "limit", None)
    was_once = getattr(_local, "counts_once", False)
    _local.limit, _local.counts_once = n_threads, True
    try:
        yield
    finally:
        _local.limit, _local.counts_once = before, was_once


def _limit() -> int:
    limit: int = getattr(_local, "limit", None) or available_threads()
    if getattr(_local, "counts_once", False):
        _local.limit = limit
    return limit


def sweep(driver: Callable[..., None], n_units: int, work: float, *arguments: Any) -> None:
    """Run a kernel over units of work ``0 .. n_units - 1``.

    Parameters
    ----------
    driver : callable
        From `fastsoftmax._jit.driver`, called as ``driver(0, n_units, *arguments)``, or in several
        threads with a unit each.
    n_units : int
        Number of units (blocks, chunks), each of which writes to memory of its own.
    work : float
        Floating-point operations of the whole sweep, for the choice.
    *arguments
        What the driver takes besides: arrays and numbers.
    """
    if work < _SERIAL_WORK:  # first: counting threads takes 55 us
        driver(0, n_units, *arguments)
        return
    n_threads = min(_limit(), n_units)
    if n_threads <= 1 or not _layer_is_safe():
        driver(0, n_units, *arguments)
        return
    address = machine_code(driver, arguments)
    if address is None:
        driver(0, n_units, *arguments)
        return
    before = numba.get_num_threads()
    # One threaded sweep at a time: a second one would only oversubscribe the cores. Claiming
    # never blocks. An owner that is this very thread was interrupted between claim and release.
    this = threading.current_thread()
    owner = _sweeping.setdefault(0, this)
    if owner is not this and owner.is_alive():
        driver(0, n_units, *arguments)
        return
    _sweeping[0] = this
    try:
        numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
        launch(n_units, address, arguments)
    finally:
        numba.set_num_threads(before)
        if _sweeping.get(0) is this:
            _sweeping.pop(0, None)


def threading_layer() -> str:
    """Return the name of Numba's threading layer, launching it, or ``"none"``."""
    if not getattr(numba_parallel, "_is_initialized", False):
        # GNU OpenMP's idle threads spin by default: on a busy machine a sweep of 66 us then takes
        # 8 to 12 ms. The policy is read once, at launch, so the variable can go again.
        quiet = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
        if quiet:
            os.environ["OMP_WAIT_POLICY"] = "passive"
        try:
            numba.get_num_threads()
        except ValueError:  # no layer could be loaded
            return "none"
        finally:
            if quiet:
                os.environ.pop("OMP_WAIT_POLICY", None)
    return str(numba.threading_layer())


def _layer_is_safe() -> bool:
    return not (_forked or _imported_in_forked_child) and threading_layer() in ("omp", "tbb")


def _is_forked_child() -> bool:
    """Tell, on Linux, whether this process was forked without an exec (PF_FORKNOEXEC)."""
    try:
        status = Path("/proc/self/stat").read_text()
        return bool(int(status.rsplit(")", 1)[1].split()[6]) & 0x40)
    except (OSError, ValueError, IndexError):
        return False


#: A child whose parent launched Numba's threads, through another library, before it imported us.
_imported_in_forked_child = (
    bool(getattr(numba_parallel, "_is_initialized", False)) and _is_forked_child()
)
