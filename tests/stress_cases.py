"""The cases of the stress matrix. Each runs in a process of its own, which `stress_child` starts.

A process says by `report` what it has computed: a line of JSON on its standard output with the
digests of its results, whose threads it used, and numbers of what it went through. That the digests
are the right ones is for the parent to see (`test_stress`).
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import joblib
import numba
import numpy as np
import sklearn
import stress_foreign
from scipy import sparse
from sklearn.model_selection import GridSearchCV

from fastsoftmax import LogisticRegression, _pool, _threads
from fastsoftmax.linear_model import _small

Task = Callable[[], object]

#: Threads that a sweep may use here, however many CPUs there are.
N_THREADS = 4
#: Seconds after which a thread or process that was waited for counts as stuck.
PATIENCE = 90

_PID = os.getpid()


class Skipped(Exception):
    """What a case needs is not installed."""


# --- What a process has done ----------------------------------------------------------------------


class Account:
    """What this process has computed since it began, or was forked."""

    def __init__(self) -> None:
        self.digests: list[tuple[str, str]] = []
        self.paths: set[str] = set()  # whose threads ran sweeps: 'numba', 'pool'
        self.numbers: Counter[str] = Counter()
        self.is_prepared = False

    def forget(self) -> None:
        self.digests.clear()
        self.paths.clear()
        self.numbers.clear()

    def count_fork(self) -> None:
        self.numbers["forks"] += 1


account = Account()
os.register_at_fork(after_in_child=account.forget, after_in_parent=account.count_fork)


def prepare() -> None:
    """Let this process use threads for every sweep, and take down whose."""
    if account.is_prepared:
        return
    account.is_prepared = True
    _threads._SERIAL_WORK = 0.0
    _small._PASS_WORK = 0.0  # nothing is small
    _threads.limits = lambda: [_threads.Limit(N_THREADS, "the stress matrix")]
    _spy(_threads, "launch", "numba")
    _spy(_pool, "run", "pool")


def _spy(module: Any, name: str, path: str) -> None:
    function = getattr(module, name)

    def spy(*arguments: Any) -> None:
        account.paths.add(path)
        function(*arguments)

    setattr(module, name, spy)


def take_down(kind: str, *arrays: Any) -> None:
    """Keep the digest of a result, and how many threads there are."""
    numbers, name = account.numbers, "threads at once"
    numbers[name] = max(numbers[name], threading.active_count())
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    account.digests.append((kind, hashlib.sha256(content).hexdigest()[:16]))


def report() -> None:
    """Print what this process has done. One write, so that lines of processes do not mix."""
    digests = list(account.digests)
    line = {
        "pid": os.getpid(),
        "is_forked": os.getpid() != _PID or sys.argv[1:2] == ["late_import"],
        "n_results": len(digests),
        "digests": sorted(set(digests)),
        "paths": sorted(account.paths),
        "numbers": account.numbers,
    }
    os.write(1, f"{json.dumps(line)}\n".encode())


# --- What is computed -----------------------------------------------------------------------------


def _dense() -> tuple[Any, Any]:
    """Return a problem for L-BFGS in a full Hessian."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_001, 12))
    return X, (X[:, :8] + rng.gumbel(size=(len(X), 8))).argmax(axis=1)


def _sparse() -> tuple[Any, Any]:
    """Return a problem for dual ascent and a diagonal: more columns than a Gram matrix may have."""
    rng = np.random.default_rng(1)
    X = sparse.random_array(
        (1500, 3000), density=0.01, format="csr", dtype=np.float32, random_state=rng
    )
    return X, rng.integers(0, 4, X.shape[0])


DENSE, SPARSE = _dense(), _sparse()


class Reporting(LogisticRegression):
    """An estimator for workers, which reports after each of its fits."""

    def fit(self, X: Any, y: Any) -> Reporting:
        prepare()
        super().fit(X, y)
        take_down("worker", self.coef_, self.intercept_)
        report()
        return self


def fit() -> None:
    models = [LogisticRegression().fit(*data) for data in (DENSE, SPARSE)]
    take_down("fit", *(part for model in models for part in (model.coef_, model.intercept_)))


def fit_and_report(_: object = None) -> None:
    fit()
    report()


def fitted() -> LogisticRegression:
    return LogisticRegression().fit(*DENSE)


def predict(model: LogisticRegression) -> None:
    X = DENSE[0][:5000]
    take_down("prediction", model.predict(X), model.predict_proba(X))


def search() -> None:
    X, y = DENSE[0][:2001], DENSE[1][:2001]
    grid = {"C": [0.01, 0.1, 1.0]}
    found = GridSearchCV(Reporting(), grid, cv=3, scoring="neg_log_loss", error_score="raise")
    found.fit(X, y)
    take_down("search", found.cv_results_["mean_test_score"], found.best_estimator_.coef_)


# --- Threads and forks ----------------------------------------------------------------------------


def repeated(task: Task, n: int) -> Task:
    return lambda: [task() for _ in range(n)]


def together(task: Task, n: int) -> None:
    """Run a task in `n` threads that begin at the same time; raise what one of them raised."""
    barrier = threading.Barrier(n)

    def run() -> None:
        barrier.wait(PATIENCE)
        task()

    with ThreadPoolExecutor(n) as executor:
        for future in [executor.submit(run) for _ in range(n)]:
            future.result(PATIENCE)


@contextlib.contextmanager
def beside(task: Task) -> Iterator[list[object]]:
    """Run a task again and again in a thread while the block runs; yield what it returned."""
    returned: list[object] = []
    done = threading.Event()

    def run() -> None:
        while not (done.is_set() and returned):
            returned.append(task())

    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(run)
        try:
            yield returned
        finally:
            done.set()
            running.result(PATIENCE)


def begin_in_child(task: Task) -> int:
    """Begin a task in a forked child, which then ends; return its number."""
    pid = os.fork()
    if not pid:
        _end_process(task)
    return pid


def _end_process(task: Task) -> None:
    """Run a task and end this process, whatever happens, with status 0 if all is well."""
    status = 1
    try:
        task()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def in_child(task: Task) -> None:
    """Run a task in a forked child, and see that it ends well."""
    _, status = os.waitpid(begin_in_child(task), 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"the child's status is {status}"


# --- Cases ----------------------------------------------------------------------------------------


def reference(is_full: bool) -> None:
    fit()
    predict(fitted())
    search()
    report()


def threads_fit(is_full: bool) -> None:
    together(repeated(fit, 10 if is_full else 2), 8)
    report()


def threads_predict(is_full: bool) -> None:
    model = fitted()
    with beside(fit):
        together(repeated(lambda: predict(model), 20 if is_full else 2), 32)
    report()


def fork(is_full: bool) -> None:
    fit()
    for _ in range(10 if is_full else 2):
        in_child(fit_and_report)
    fit()
    report()


def grandchild(is_full: bool) -> None:
    fit()

    def child() -> None:
        in_child(fit_and_report)
        fit_and_report()

    in_child(child)
    report()


def orphan(is_full: bool) -> None:
    """The child ends at once; the grandchild, which has no parent any more, fits."""
    fit()
    ready, go_on = os.pipe(), os.pipe()

    def wait_and_fit() -> None:
        os.close(go_on[1])
        assert os.read(go_on[0], 1) == b"!"
        fit_and_report()
        os.write(ready[1], b"!")

    in_child(lambda: begin_in_child(wait_and_fit))
    os.write(go_on[1], b"!")
    os.close(ready[1])
    assert os.read(ready[0], 1) == b"!", "the orphan ended without a result"
    report()


def fork_while_sweeping(is_full: bool) -> None:
    fit()
    with beside(fit):
        for _ in range(30 if is_full else 3):
            in_child(fit_and_report)
    report()


def pool_of_processes(is_full: bool) -> None:
    fit()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(fit_and_report, range(24 if is_full else 4), chunksize=1)
    fit()
    report()


def executor_of_processes(is_full: bool) -> None:
    fit()
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(4, mp_context=context) as executor:
        for future in [executor.submit(fit_and_report) for _ in range(24 if is_full else 4)]:
            future.result(PATIENCE)
    fit()
    report()


def _search(backend: str, **options: Any) -> None:
    fit()
    with joblib.parallel_config(backend, n_jobs=2, **options):
        search()
    report()


def search_loky(is_full: bool) -> None:
    _search("loky", inner_max_num_threads=2)


def search_threading(is_full: bool) -> None:
    _search("threading")


def search_multiprocessing(is_full: bool) -> None:
    _search("multiprocessing")


def dask_threads(is_full: bool) -> None:
    dask = needed("dask")
    tasks = [dask.delayed(fit, pure=False)() for _ in range(40 if is_full else 8)]
    dask.compute(*tasks, scheduler="threads", num_workers=8)
    report()


def dask_cluster(is_full: bool) -> None:
    options = {"processes": False, "n_workers": 2, "threads_per_worker": 4}
    with needed("distributed").Client(dashboard_address=None, **options) as client:
        tasks = [client.submit(fit, pure=False) for _ in range(40 if is_full else 8)]
        client.gather(tasks)
    report()


def gevent_patched(is_full: bool) -> None:
    gevent = needed("gevent")
    n = 40 if is_full else 8
    gevent.joinall([gevent.spawn(fit) for _ in range(n)], raise_error=True)
    gevent.get_hub().threadpool.map(lambda _: fit(), range(n))  # threads that are none of ours
    report()


def interrupts(is_full: bool) -> None:
    """Ctrl-C at random moments: the estimator keeps the state of before, the process its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup would have it ignored
    fit()
    model = LogisticRegression().fit(DENSE[0][:1000, :4], DENSE[1][:1000])
    before, old = dict(vars(model)), _state(model)
    n_threads, settings = numba.get_num_threads(), sklearn.get_config()
    began = time.perf_counter()
    news = [_state(LogisticRegression().fit(*data)) for data in (DENSE, SPARSE)]
    longest = time.perf_counter() - began
    n_late = 0
    for _ in range(200 if is_full else 20):
        vars(model).clear()
        vars(model).update(before)
        n_fits = _fit_until_interrupted(model, random.uniform(1e-3, longest))
        state, states = _state(model), [news[(n_fits - 1) % 2] if n_fits else old, news[n_fits % 2]]
        assert state in states, "half a fit"
        n_late += state == states[1]  # between the end of a fit and its return
        account.numbers["interrupts"] += 1
        account.numbers["states kept"] += state == states[0]
    assert n_late <= 1
    assert numba.get_num_threads() == n_threads
    assert sklearn.get_config() == settings
    assert getattr(_threads._local, "limit", None) is None
    account.paths.clear()
    fit()
    report()


def _fit_until_interrupted(model: LogisticRegression, seconds: float) -> int:
    """Fit dense and sparse data in turn; return how many fits ended before the interrupt."""
    n_fits, is_caught = 0, threading.Event()

    def interrupt() -> None:
        time.sleep(seconds)
        while not is_caught.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            is_caught.wait(10.0)  # one that hits a destructor, which cannot raise, is lost

    sender = threading.Thread(target=interrupt)
    try:
        sender.start()
        while True:
            model.fit(*(DENSE, SPARSE)[n_fits % 2])
            n_fits += 1
    except KeyboardInterrupt:
        is_caught.set()
    sender.join()
    return n_fits


def _state(model: LogisticRegression) -> str:
    """Return a digest of all attributes."""
    parts = [
        (name, value.tobytes() if isinstance(value, np.ndarray) else repr(value))
        for name, value in sorted(vars(model).items())
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def exit_while_fitting(is_full: bool) -> None:
    for _ in range(9 if is_full else 0):
        subprocess.run([*sys.orig_argv[:-1], "small"], check=True)
    began = threading.Event()

    def run() -> None:
        while True:
            fit()
            began.set()

    threading.Thread(target=run, daemon=True).start()
    assert began.wait(PATIENCE)
    time.sleep(random.uniform(0.0, 0.1))
    account.numbers["exits"] += 1
    report()


def fit_at_exit(is_full: bool) -> None:
    """The interpreter is shutting down; its threads have been waited for."""
    atexit.register(_end_process, fit_and_report)


def _beside_another(task: Task, is_full: bool) -> None:
    task()
    fit()
    with beside(task) as calls:
        repeated(fit, 20 if is_full else 3)()
    in_child(fit_and_report)
    account.numbers["calls of theirs"] += len(calls)
    report()


def foreign_kernel(is_full: bool) -> None:
    _beside_another(stress_foreign.run, is_full)


def lightgbm_beside(is_full: bool) -> None:
    lightgbm = needed("lightgbm")
    X, y = DENSE[0][:2000], DENSE[1][:2000]
    params = {"objective": "multiclass", "num_class": 8, "num_threads": N_THREADS, "verbose": -1}
    _beside_another(lambda: lightgbm.train(params, lightgbm.Dataset(X, y), 2), is_full)


def torch_beside(is_full: bool) -> None:
    torch = needed("torch")
    torch.set_num_threads(N_THREADS)
    X = torch.from_numpy(DENSE[0])
    _beside_another(lambda: torch.softmax(X @ X[:100].T, dim=1).sum(), is_full)


def late_import(is_full: bool) -> None:
    """This process was forked before it imported anything of ours; see `stress_child`."""
    fit()
    in_child(fit_and_report)
    report()


def layer(is_full: bool) -> None:
    os.write(1, json.dumps({"layer": _threads.threading_layer()}).encode())


def needed(name: str) -> Any:
    """Return a module that may be missing, and let it warn."""
    warnings.simplefilter("default")
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: a library of the system is missing
        raise Skipped(f"{name} cannot be imported") from None


def run(case: str, is_full: bool) -> None:
    """Run the case of this name; see the module's docstring for what is printed."""
    prepare()
    try:
        globals()[case](is_full)
    except Skipped as reason:
        os.write(1, json.dumps({"skipped": str(reason)}).encode())
