"""How a sweep over units of work runs: in how many threads, and in whose.

A *sweep* is one pass of a kernel over all units. Its result has the same bits however it runs,
because units depend on shapes only, each writes to memory of its own, and partial sums are combined
in a fixed order. So the choice below is about speed and safety alone (`plan`):

- serially, if the work is small, one thread is allowed, or another threaded sweep of this
  process is under way (its threads have the cores already);
- in Numba's threads, where its layer is `omp` or `tbb` and the process was never forked;
- else in threads of our own (`fastsoftmax._pool`): the `workqueue` layer aborts the whole process
  on concurrent entry, GNU OpenMP kills or hangs a forked child, and in a slim container there may
  be no layer at all.

Nothing here waits for a lock: two sweeps at the same time would be right, too, only not faster.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numba
from numba.np.ufunc import parallel as numba_parallel

from fastsoftmax import _pool
from fastsoftmax._jit import launch, machine_code

#: Floating-point operations below which waking threads costs more than it saves: about 0.4 ms
#: of one core, against 20 to 80 us for a launch, or several 100 us where an idle core must wake.
_SERIAL_WORK = 2e7
#: Values of the variable of the same name in upper case.
_SETTINGS = ("auto", "numba", "pool", "serial")


def _openmp_threads() -> int | None:
    """Return the number in ``OMP_NUM_THREADS``, or None where there is none."""
    number = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(number) if number.isdigit() else None


#: Read once, as OpenMP does: Dask sets the variable for workers, and leaves it set in the client.
_openmp = _openmp_threads()
_local = threading.local()
_sweeping: dict[int, threading.Thread] = {}
_forked = False


def _mark_forked() -> None:
    global _forked
    _forked = True
    _sweeping.clear()  # the owner, if any, does not exist in the child
    _pool.forget()  # nor do its threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


# --- How many -------------------------------------------------------------------------------------


class Limit(NamedTuple):
    """A number of threads that something allows; `n_jobs` goes beyond what is only a default."""

    n_threads: int
    reason: str
    is_default: bool = False


def limits() -> list[Limit]:
    """Return what limits the threads of this process; the least one counts.

    Numba's maximum (``NUMBA_NUM_THREADS``, else the CPUs), joblib's count (affinity, cgroup quota,
    ``LOKY_MAX_CPU_COUNT``), ``OMP_NUM_THREADS`` at import where it is a number (Dask sets it, but
    not Numba's variable), and one in a child of `multiprocessing` that was told none of these:
    there, a pool of processes has the cores already.
    """
    found = [
        Limit(numba.config.NUMBA_NUM_THREADS, "NUMBA_NUM_THREADS"),
        Limit(joblib.cpu_count(), "CPUs: affinity, cgroup quota, LOKY_MAX_CPU_COUNT"),
    ]
    if _openmp is not None:
        found.append(Limit(_openmp, "OMP_NUM_THREADS"))
    is_told = _openmp is not None or "NUMBA_NUM_THREADS" in os.environ
    if multiprocessing.parent_process() is not None and not is_told:
        reason = "a child of multiprocessing: n_jobs or NUMBA_NUM_THREADS may ask for more"
        found.append(Limit(1, reason, is_default=True))
    return found


def available_threads() -> int:
    """Return how many threads this process may use where nobody asks for a number; see `limits`."""
    return max(1, min(limit.n_threads for limit in limits()))


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
    most = max(1, min(limit.n_threads for limit in limits() if not limit.is_default))
    return max(1, most + 1 + n_jobs) if n_jobs < 0 else min(n_jobs, most)


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


# --- Whose ----------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """Whose threads run large sweeps: ``'numba'``, ``'pool'`` or ``'serial'``, and why."""

    name: str
    reason: str


def plan() -> Plan:
    """Return how this process runs large sweeps. May launch Numba's threads.

    Raises
    ------
    ValueError
        If ``FASTSOFTMAX_THREADING`` is none of ``auto``, ``numba``, ``pool`` and ``serial``.
    """
    setting = os.environ.get("FASTSOFTMAX_THREADING", "auto").strip().lower() or "auto"
    if setting not in _SETTINGS:
        raise ValueError(f"FASTSOFTMAX_THREADING is {setting!r}; it must be one of {_SETTINGS}.")
    if setting == "serial":
        return Plan("serial", "FASTSOFTMAX_THREADING=serial")
    obstacle = _obstacle() if setting != "pool" else "FASTSOFTMAX_THREADING=pool"
    if obstacle is None:
        return Plan("numba", f"Numba's layer is {threading_layer()}")
    if setting == "numba":
        return Plan("serial", f"FASTSOFTMAX_THREADING=numba, but {obstacle}")
    if _threads_are_greenlets():
        return Plan("serial", f"{obstacle}, and gevent has put greenlets in the place of threads")
    return Plan("pool", obstacle)


def _obstacle() -> str | None:
    """Return why Numba's threads cannot be entered safely, or None."""
    if _forked or _imported_in_forked_child:
        return "this process was forked"
    layer = threading_layer()
    return None if layer in ("omp", "tbb") else f"Numba's layer is {layer}"


def _threads_are_greenlets() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


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


# --- Sweeps ---------------------------------------------------------------------------------------


def sweep(driver: Callable[..., None], n_units: int, work: float, *arguments: Any) -> None:
    """Run a kernel over units of work ``0 .. n_units - 1``.

    Parameters
    ----------
    driver : callable
        From `fastsoftmax._jit.driver`, called as ``driver(0, n_units, *arguments)``, or in several
        threads with some units each.
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
    name = plan().name if n_threads > 1 else "serial"
    # One threaded sweep at a time: a second one would only oversubscribe the cores. Claiming
    # never blocks. An owner that is this very thread was interrupted between claim and release.
    this = threading.current_thread()
    owner = this if name == "serial" else _sweeping.setdefault(0, this)
    if name == "serial" or (owner is not this and owner.is_alive()):
        driver(0, n_units, *arguments)
        return
    _sweeping[0] = this
    try:
        if name == "pool":
            _pool.run(driver, n_units, arguments, n_threads)
        else:
            _run_in_numbas_threads(driver, n_units, arguments, n_threads)
    finally:
        if _sweeping.get(0) is this:
            _sweeping.pop(0, None)


def _run_in_numbas_threads(
    driver: Callable[..., None], n_units: int, arguments: tuple[Any, ...], n_threads: int
) -> None:
    address = machine_code(driver, arguments)
    if address is None:  # NUMBA_DISABLE_JIT
        driver(0, n_units, *arguments)
        return
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
        launch(n_units, address, arguments)
    finally:
        numba.set_num_threads(before)
