"""The measuring processes of ``python -m bench scale``; the last line printed is a JSON object."""

import contextlib
import json
import logging
import operator
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.memory import status_bytes
from bench.operation import parse_shape
from bench.problems import Array, load_problem
from bench.scale_model import Network, Task

PARTITIONS = 10
_READ_BYTES = 16 * 2**20
#: A file is as many times the memory that a fit may use.
FILE_TIMES = 5
_LEAST_LIMIT = 300 * 2**20  # for a small file: stacks of threads count


def copy_of_rows(quick: bool) -> tuple[Array, Array]:
    """Return the rows of which all data are copies, float32, and labels."""
    if quick:
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return (X / 16.0).astype(np.float32), y
    problem = load_problem("mnist")
    return problem.X.astype(np.float32), problem.y


def model_of(n_classes: int, n_features: int) -> tuple[Array, Array]:
    """Return coefficients and intercepts that are not zero."""
    coef = 0.01 * np.random.default_rng(0).standard_normal((n_classes, n_features))
    return coef, np.zeros(n_classes)


def resident(X: Array, y: Array) -> Any:
    """Return rows in memory as a solver gets them."""
    from fastsoftmax._designs import make_design
    from fastsoftmax._validation import Targets, Weights

    targets = Targets(y.astype(np.int32), np.empty((0, 0), X.dtype), int(y.max()) + 1)
    return make_design(X, targets, Weights(np.empty(0, X.dtype), 1.0, float(len(y))))


def seconds_of(act: Callable[[], Any]) -> float:
    """Return the seconds that it takes."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def alternated(acts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Return least and median seconds of each, taken in turn: all see the same neighbours."""
    for act in acts.values():
        act()
    found: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(repeats):
        for name, act in acts.items():
            found[name].append(seconds_of(act))
    return {
        name: {"seconds": min(values), "median_seconds": statistics.median(values)}
        for name, values in found.items()
    }


# --- A cluster on this machine --------------------------------------------------------------------


CLUSTERS: dict[str, dict[str, Any]] = {
    "1 process": {"n_workers": 1, "threads_per_worker": 1, "processes": True},
    "2 processes": {"n_workers": 2, "threads_per_worker": 1, "processes": True},
    "2 threads": {"n_workers": 1, "threads_per_worker": 2, "processes": False},
}
IN_PROCESS = "in process"


def cluster(quick: bool) -> dict[str, Any]:
    """Return seconds of a pass and of a fit in clusters and in this process, and of tasks."""
    import dask
    import dask.array as da
    from dask import distributed

    from fastsoftmax import LogisticRegression, _cluster
    from fastsoftmax import dask as over_dask
    from fastsoftmax.linear_model._parts import problem_of_parts

    X, y = copy_of_rows(quick)
    n, d = X.shape
    labels = np.tile(y, PARTITIONS)
    blocks = [
        da.from_delayed(dask.delayed(_rows_again)(quick, i), (n, d), np.float32)
        for i in range(PARTITIONS)
    ]
    rows = da.concatenate(blocks)
    params = model_of(int(y.max()) + 1, d)
    passes, fits, empty, fitted_ones = {}, {}, {}, {}
    with contextlib.ExitStack() as stack:
        for name, options in CLUSTERS.items():
            local = distributed.LocalCluster(
                dashboard_address=":0", silence_logs=logging.CRITICAL, **options
            )
            client = distributed.Client(stack.enter_context(local), set_as_default=False)
            stack.enter_context(client)
            with client.as_current():
                estimator = over_dask.LogisticRegression()
                here = rows.persist()
                parts = stack.enter_context(
                    _cluster.Partitions(_cluster.delayed_parts(here, labels, None))
                )
                survey = parts.survey(estimator)
                design = problem_of_parts(estimator, survey, parts.designs).objective.design

            def as_current(act: Callable[[], Any], client: Any = client) -> Callable[[], Any]:
                def acting() -> Any:
                    with client.as_current():
                        return act()

                return acting

            def passing(design: Any = design) -> Any:
                return design.loss_and_gradient(*params)

            def fitting(here: Any = here, estimator: Any = estimator) -> Any:
                return estimator.fit(here, labels)

            def nothing(parts: Any = parts) -> Any:
                return parts.total(operator.attrgetter("weight_sum"))

            passes[name] = as_current(passing)
            fits[name], fitted_ones[name] = as_current(fitting), estimator
            empty[f"empty, {name}"] = as_current(nothing)
        many = np.concatenate([X] * PARTITIONS)
        one = resident(many, labels)
        passes[IN_PROCESS] = lambda: one.loss_and_gradient(*params)
        local_fit = LogisticRegression()
        fits[IN_PROCESS] = lambda: local_fit.fit(many, labels)
        fitted_ones[IN_PROCESS] = local_fit
        found = alternated(passes | empty, 2 if quick else 25)
        fitted = alternated(fits, 1 if quick else 2)
        for name, figures in fitted.items():
            found[name]["fit_seconds"] = figures["seconds"]
            found[name]["n_passes"] = fitted_ones[name].n_passes_
        with_client = alternated(
            {f"{k} tasks": partial(_do_nothing, client, k) for k in (1, 201)}, 2 if quick else 9
        )
    return {"cases": found | with_client, "X_bytes": PARTITIONS * X.nbytes}


def _rows_again(quick: bool, number: int) -> Array:
    return copy_of_rows(quick)[0]


def _do_nothing(client: Any, n_tasks: int) -> None:
    client.gather(client.map(abs, range(n_tasks), pure=False))


# --- A file larger than the memory ----------------------------------------------------------------


def disk(quick: bool, folder: Path) -> dict[str, Any]:
    """Return seconds of reading a file, of a pass over rows in memory, and of one over the file."""
    from fastsoftmax import LogisticRegression
    from fastsoftmax._designs.streamed import StreamedParts
    from fastsoftmax.batches import ArrayBatches
    from fastsoftmax.linear_model._parts import Format

    X, y = copy_of_rows(quick)
    copies = PARTITIONS + 1
    path = folder / "X.npy"
    file = np.lib.format.open_memmap(path, "w+", X.dtype, (copies * len(X), X.shape[1]))
    for start in range(0, len(file), len(X)):
        file[start : start + len(X)] = X
    file.flush()
    file_bytes = file.nbytes
    del file
    labels = np.tile(y, copies)
    params = model_of(int(y.max()) + 1, X.shape[1])
    # All rows at once would be what the limit is to forbid: a fifth stands for them.
    some: Any = resident(np.concatenate([X] * 2), labels[: 2 * len(X)])
    classes = np.arange(params[0].shape[0])
    shape = Format(classes, np.ones(len(classes)), X.dtype, X.shape[1], 0.0)
    source = ArrayBatches(path, labels)

    def designs() -> Iterator[tuple[int, Any]]:
        for number, batch in enumerate(source.batches()):
            yield len(batch[1]), shape.design(batch, number)

    streamed = StreamedParts(designs, len(labels))

    def passing() -> None:
        _dropped(path)
        streamed.total(operator.methodcaller("loss_and_gradient", *params))

    acts: dict[str, Callable[[], Any]] = {
        "disk": lambda: _read(path),
        "resident": partial(some.loss_and_gradient, *params),
        "pass": passing,
    }
    found = alternated(acts, 2 if quick else 9)
    some = None
    acts.clear()  # and the rows with it
    limit = file_bytes // FILE_TIMES
    before = status_bytes("RssAnon")
    _limit_memory(limit)
    most = [before]

    class Watched(ArrayBatches):
        n_reads = 0

        def batches(self) -> Iterator[Any]:
            Watched.n_reads += 1
            for batch in super().batches():
                most.append(status_bytes("RssAnon"))
                yield batch

    watched = Watched(path, labels)
    _dropped(path)
    fit_seconds = seconds_of(lambda: LogisticRegression().fit(watched))
    times = copies / 2
    return {
        "X_bytes": file_bytes,
        "seconds": found["pass"]["seconds"],
        "median_seconds": found["pass"]["median_seconds"],
        "disk_seconds": found["disk"]["seconds"],
        "disk_median_seconds": found["disk"]["median_seconds"],
        "resident_seconds": times * found["resident"]["seconds"],
        "fit_seconds": fit_seconds,
        "n_reads": Watched.n_reads,
        "growth_bytes": max(most) - before,
        "limit_bytes": limit,
    }


def _limit_memory(n_bytes: int) -> None:
    """Let this process have so many bytes of data besides those that it has."""
    limit = status_bytes("VmData") + max(n_bytes, _LEAST_LIMIT)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _dropped(path: Path) -> None:
    """Have the system forget a file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path) -> None:
    """Read a file from its start to its end, as the system does it best, not from its cache."""
    _dropped(path)
    memory = np.ones(_READ_BYTES, np.uint8)
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(memory.data):
            position = file.tell() - n_bytes
            os.posix_fadvise(file.fileno(), position, n_bytes, os.POSIX_FADV_DONTNEED)


# --- A network of sleeps --------------------------------------------------------------------------


def simulate(task: Task, network: Network, n_workers: int, fan_in: int) -> float:
    """Return the seconds of a pass of threads that sleep as long as machines would work and send.

    What goes over a link goes one after the other.
    """
    tree = _Tree(task, network, n_workers, fan_in)
    workers = [threading.Thread(target=tree.work, args=(number,)) for number in range(n_workers)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - begin


class _Link:
    """What sends one thing after the other, each for some seconds.

    Sleeps end at times that are known before, so that what they are late by does not add up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0

    def send(self, seconds: float) -> None:
        """Sleep until what is sent has arrived."""
        with self._lock:
            self._free_at = max(self._free_at, time.perf_counter()) + seconds
            arrival = self._free_at
        time.sleep(max(0.0, arrival - time.perf_counter()))


class _Tree:
    """Workers, and the nodes in which their sums are added."""

    def __init__(self, task: Task, network: Network, n_workers: int, fan_in: int) -> None:
        self._task, self._network, self._fan_in = task, network, fan_in
        self._rows = -(-task.n_samples // n_workers)
        self._sizes = [n_workers]
        while self._sizes[-1] > 1:
            self._sizes.append(-(-self._sizes[-1] // fan_in))
        self._client = _Link()
        self._links = [[_Link() for _ in range(size)] for size in self._sizes]
        self._arrived = [[0] * size for size in self._sizes]
        self._counting = threading.Lock()

    def work(self, number: int) -> None:
        """Be a worker, and each node that its sum is the last one to reach."""
        network, task = self._network, self._task
        self._client.send(task.down_bytes / network.bandwidth)
        time.sleep(network.latency + self._rows * task.row_seconds)
        for level in range(1, max(2, len(self._sizes))):
            if level == len(self._sizes):  # one worker, whose sum goes to the client
                time.sleep(network.latency + task.up_bytes / network.bandwidth)
                return
            n_children = self._sizes[level - 1]
            node = number // self._fan_in
            expected = min(self._fan_in, n_children - node * self._fan_in)
            time.sleep(network.latency)
            self._links[level][node].send(task.up_bytes / network.bandwidth)
            with self._counting:
                self._arrived[level][node] += 1
                if self._arrived[level][node] < expected:
                    return
            number = node


def simulations(quick: bool) -> dict[str, Any]:
    """Return the seconds of passes by name; see `simulated_cases`."""
    return {
        "cases": {
            name: {"seconds": min(simulate(*case) for _ in range(1 if quick else 5))}
            for name, case in simulated_cases(quick).items()
        }
    }


def simulated_cases(quick: bool) -> dict[str, tuple[Task, Network, int, int]]:
    """Return tasks, networks, workers and fan-ins, slow enough for sleeps to be exact."""
    cases = {}
    for n_features in (1000, 20_000):
        for n_workers in (2, 8, 32) if quick else (1, 2, 4, 8, 16, 32, 64):
            for fan_in in (2, 8, 64):
                task = Task(400_000, n_features, 10, 1e-6)
                network = Network(latency=0.005, bandwidth=200e6)
                name = f"d = {n_features}, {n_workers} workers, fan-in {fan_in}"
                cases[name] = task, network, n_workers, fan_in
    return cases


# --- The kernel -----------------------------------------------------------------------------------


def kernel(name: str, dtype: str, quick: bool) -> dict[str, Any]:
    """Return the seconds of value and gradient over rows in memory."""
    n, d, K = parse_shape(name)
    rng = np.random.default_rng(0)
    X = np.empty((n, d), dtype)
    for start in range(0, n, 10_000):
        X[start : start + 10_000] = rng.standard_normal((len(X[start : start + 10_000]), d), "f4")
    design = resident(X, np.arange(n) % K)
    params = model_of(K, d)
    acts = {"pass": lambda: design.loss_and_gradient(*params)}
    return alternated(acts, 2 if quick else 25)["pass"] | {"X_bytes": X.nbytes}


def main() -> None:
    """Measure what the arguments name."""
    what, *arguments = sys.argv[1:]
    quick = "--quick" in arguments
    warnings.simplefilter("ignore")  # of fits that were not to converge
    if what == "kernel":
        reply = kernel(arguments[0], arguments[1], quick)
    elif what == "disk":
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            reply = disk(quick, Path(folder))
    else:
        reply = {"cluster": cluster, "simulate": simulations}[what](quick)
    print(json.dumps(reply))


if __name__ == "__main__":
    main()
