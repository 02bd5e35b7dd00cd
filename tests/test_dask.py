"""Fits of Dask collections: the model of the same rows in memory, faults, and predictions."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from child import ROOT, run_python
from dask import distributed
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from tight import pack, relative_distance, sample_weights

from fastsoftmax import LogisticRegression as Local
from fastsoftmax import _cluster
from fastsoftmax.dask import LogisticRegression
from fastsoftmax.linear_model import _logistic

#: Relative, of coefficients at tight tol, whatever the chunks.
PROMISE = 1e-8
TIGHT = {"tol": 1e-12, "max_iter": 10_000}

IRIS = load_iris(return_X_y=True)
DIGITS = load_digits(return_X_y=True)


@pytest.fixture(params=["synchronous", "threads"])
def scheduler(request):
    with dask.config.set(scheduler=request.param):
        yield request.param


@pytest.fixture
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def assert_alike(model, local, promise=PROMISE):
    assert relative_distance(pack(model), pack(local)) < promise
    np.testing.assert_array_equal(model.classes_, local.classes_)


@pytest.mark.parametrize("chunks", [1797, 500, (1, 1000, 0, 796)], ids=str)
def test_the_model_does_not_depend_on_chunks(scheduler, chunks):
    X, y = DIGITS
    weights = sample_weights(len(y))
    local = Local(**TIGHT).fit(X, y, weights)
    rows = da.from_array(X, chunks=(chunks, 30))
    labels, w = da.from_array(y, chunks=600), da.from_array(weights, chunks=1797)
    assert_alike(LogisticRegression(**TIGHT).fit(rows, labels, w), local)
    assert_alike(LogisticRegression(**TIGHT).fit(rows, y, list(weights)), local)


@pytest.mark.parametrize(
    "options",
    [
        {"class_weight": "balanced"},
        {"C": 0.01, "solver": "newton-cg"},
        {"solver": "newton-cholesky"},
        {"l1_ratio": 1.0, "C": 0.5},
    ],
    ids=str,
)
def test_options(synchronous, options):
    X, y = IRIS
    local = Local(**TIGHT, **options).fit(X, y)
    model = LogisticRegression(**TIGHT, **options).fit(da.from_array(X, chunks=(40, 4)), y)
    assert_alike(model, local, 1e-6 if "l1_ratio" in options else PROMISE)


@pytest.mark.parametrize("fan_in", [2, 3])
def test_a_deep_tree_of_sums(synchronous, monkeypatch, fan_in):
    monkeypatch.setattr(_cluster, "_FAN_IN", fan_in)
    X, y = IRIS
    model = LogisticRegression(**TIGHT).fit(da.from_array(X, chunks=(17, 4)), y)
    assert_alike(model, Local(**TIGHT).fit(X, y))


def test_frames_have_names(synchronous):
    X, y = load_iris(return_X_y=True, as_frame=True)
    frame = dd.from_pandas(X, npartitions=4)
    labels = dd.from_pandas(y.map({0: "a", 1: "b", 2: "c"}), npartitions=4)
    model = LogisticRegression(**TIGHT).fit(frame, labels)
    assert_alike(model, Local(**TIGHT).fit(X, y.map({0: "a", 1: "b", 2: "c"})))
    np.testing.assert_array_equal(model.feature_names_in_, X.columns)
    assert_alike(LogisticRegression(**TIGHT).fit(frame, np.asarray(y)), Local(**TIGHT).fit(X, y))
    found = model.predict(frame)
    assert isinstance(found, da.Array)
    np.testing.assert_array_equal(found.compute(), model.predict(X))
    assert model.score(frame, labels) == model.score(X, labels.compute())


def test_sparse_chunks(synchronous):
    X, y = DIGITS
    rows = da.from_array(X, chunks=(600, 64)).map_blocks(sparse.csr_matrix)
    model = LogisticRegression(**TIGHT).fit(rows, y)
    assert_alike(model, Local(**TIGHT).fit(X, y))
    np.testing.assert_array_equal(model.predict(rows).compute(), model.predict(X))


def test_soft_targets(synchronous):
    X, y = IRIS
    masses = np.eye(3)[y] + np.random.default_rng(0).uniform(0, 0.3, (len(y), 3))
    rows, targets = da.from_array(X, chunks=(40, 4)), da.from_array(masses, chunks=(40, 2))
    model = LogisticRegression(**TIGHT).fit(rows, targets)
    local = Local(**TIGHT).fit(X, masses)
    assert_alike(model, local)
    assert model.score(rows, targets) == pytest.approx(local.score(X, masses), rel=1e-12)


def test_classes_that_some_partitions_lack_and_rows_without_weight(synchronous):
    X, y = IRIS  # sorted by class
    weights = np.ones(len(y))
    weights[50:75] = 0.0
    model = LogisticRegression(**TIGHT).fit(da.from_array(X, chunks=(25, 4)), y, weights)
    assert_alike(model, Local(**TIGHT).fit(X, y, weights))


def test_a_warm_start_goes_on(synchronous):
    X, y = DIGITS
    rows = da.from_array(X, chunks=(500, 64))
    model = LogisticRegression(warm_start=True).fit(rows, y)
    assert model.fit(rows, y).n_iter_[0] == 0


def test_float32_stays_float32(synchronous):
    X, y = DIGITS
    rows = da.from_array(X.astype(np.float32), chunks=(500, 64))
    model = LogisticRegression().fit(rows, y)
    assert model.coef_.dtype == np.float32
    assert model.predict_proba(rows).dtype == np.float32


# --- Predictions ----------------------------------------------------------------------------------


METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_predictions_of_collections_are_lazy_and_those_of_arrays_are_not(
    synchronous, method, n_classes
):
    X, y = (part[:100] if n_classes == 2 else part for part in IRIS)
    model = LogisticRegression().fit(X, y)
    expected = getattr(Local().fit(X, y), method)(X)
    np.testing.assert_array_equal(getattr(model, method)(X), expected)
    rows = da.from_array(X, chunks=((30, 0, len(X) - 30), 3))
    found = getattr(model, method)(rows)
    assert isinstance(found, da.Array)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.compute(), expected)


def test_rows_in_memory_are_fitted_as_ever():
    np.testing.assert_array_equal(LogisticRegression().fit(*IRIS).coef_, Local().fit(*IRIS).coef_)


def test_a_fitted_estimator_needs_no_dask(synchronous, tmp_path):
    X, y = IRIS
    model = LogisticRegression().fit(da.from_array(X, chunks=(50, 4)), y)
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(model))
    printed = run_python(
        f"""
        import pickle, sys
        sys.modules["dask"] = None  # an import of it fails
        from sklearn.datasets import load_iris
        X, y = load_iris(return_X_y=True)
        model = pickle.loads(open({str(path)!r}, "rb").read())
        print(model.score(X, y))
        """
    )
    assert float(printed) == model.score(X, y)
    assert clone(model).get_params() == model.get_params()


# --- Faults ---------------------------------------------------------------------------------------


def with_bad_row(row, value):
    X = IRIS[0].copy()
    X[row] = value
    return da.from_array(X, chunks=(50, 4))


@pytest.mark.parametrize(
    ("X", "y", "kind", "words"),
    [
        (with_bad_row(120, np.nan), IRIS[1], ValueError, "Partition 2: Input X contains NaN"),
        (da.from_array(IRIS[0], chunks=(50, 4)), IRIS[1][:9], ValueError, "inconsistent numbers"),
        (da.from_array(IRIS[0], chunks=(50, 4)), np.zeros(150), ValueError, "at least 2 classes"),
        (da.from_array(IRIS[0][:, 0], chunks=50), IRIS[1], ValueError, "two dimensions"),
        (da.from_array(IRIS[0], chunks=(50, 4)), None, ValueError, "requires y"),
        (da.from_array(IRIS[0][:0], chunks=(50, 4)), IRIS[1][:0], ValueError, "no rows"),
    ],
    ids=["NaN", "lengths", "one-class", "1-D", "no-y", "empty"],
)
def test_what_cannot_be_fitted_is_named_and_nothing_is_lost(synchronous, X, y, kind, words):
    model = LogisticRegression().fit(*IRIS)
    before = dict(vars(model))
    with pytest.raises(kind, match=words):
        model.fit(X, y)
    assert vars(model) == before


def test_partitions_of_unknown_length(synchronous):
    X, y = IRIS
    frame = dd.from_pandas(pd.DataFrame(X), npartitions=3)
    rows = frame.to_dask_array()  # of unknown lengths
    labels = dd.from_pandas(pd.Series(y), npartitions=3).to_dask_array()
    assert_alike(LogisticRegression(**TIGHT).fit(rows, labels), Local(**TIGHT).fit(X, y))
    assert_alike(LogisticRegression(**TIGHT).fit(rows, y), Local(**TIGHT).fit(X, y))
    with pytest.raises(ValueError, match="same partitions"):
        LogisticRegression().fit(rows, da.from_array(y, chunks=20))


# --- Where partitions are -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "holders", "most"),
    [
        ([1] * 10, "aaaaaabbbb", 5.0),
        ([1] * 4, "aaaa", 2.0),
        ([5, 1, 1], "abb", 5.0),
        ([3, 3, 2, 2], "aabb", 6.0),  # they are not exchanged
        ([], "", 0.0),
    ],
    ids=str,
)
def test_partitions_move_to_workers_that_have_less(sizes, holders, most):
    threads = {"a": 1, "b": 1}
    places = _cluster._moves(sizes, list(holders), threads)
    loads = dict.fromkeys(threads, 0)
    for size, holder, place in zip(sizes, holders, places, strict=True):
        assert place != holder
        loads[place or holder] += size
    assert max(loads.values()) == most


def test_workers_of_more_threads_get_more_partitions():
    places = _cluster._moves([1] * 8, ["a"] * 8, {"a": 3, "b": 1})
    assert places.count("b") == 2
    assert _cluster._moves([1] * 8, ["a"] * 8, {"a": 8}) == [None] * 8


# --- A cluster ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(processes=True, silence_logs=50, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def rows(client):
    """Return digits in ten chunks, of which each of two workers has some."""
    return da.from_array(DIGITS[0], chunks=(180, 64))


def at_iteration(number, act, monkeypatch):
    """Have a verbose fit act once when it has made so many iterations."""
    acted = []

    def on_iteration(state):
        if state.iteration == number and not acted:
            acted.append(state)
            act()

    monkeypatch.setattr(_logistic, "print_progress", on_iteration)
    return acted


def assert_idle(client):
    """Wait until the cluster neither works nor holds anything for us."""
    gc.collect()
    deadline = time.monotonic() + 30
    while any(client.processing().values()) or any(client.has_what().values()):
        assert time.monotonic() < deadline, (client.processing(), client.has_what())
        time.sleep(0.05)


def test_two_processes_fit_what_one_does(client, rows):
    model = LogisticRegression(**TIGHT).fit(rows, DIGITS[1])
    assert_alike(model, Local(**TIGHT).fit(*DIGITS))
    assert model.score(rows, DIGITS[1]) == model.score(*DIGITS)
    assert_idle(client)


def test_an_error_of_a_worker_names_its_partition(client):
    with pytest.raises(ValueError, match="Partition 1: Input X contains infinity"):
        LogisticRegression().fit(with_bad_row(60, np.inf), IRIS[1])
    assert_idle(client)


def test_a_worker_that_is_killed_in_the_middle_of_a_fit(client, rows, monkeypatch):
    def kill():
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

    killed = at_iteration(3, kill, monkeypatch)
    model = LogisticRegression(**TIGHT, verbose=1).fit(rows, DIGITS[1])
    assert killed
    assert_alike(model, Local(**TIGHT).fit(*DIGITS))


def test_a_worker_that_joins_late(client, rows, monkeypatch):
    joined = at_iteration(3, lambda: client.cluster.scale(3), monkeypatch)
    model = LogisticRegression(**TIGHT, verbose=1).fit(rows, DIGITS[1])
    assert joined
    assert_alike(model, Local(**TIGHT).fit(*DIGITS))


def test_a_cluster_of_threads():
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}
    with distributed.Client(processes=False, **options) as client:
        rows = da.from_array(DIGITS[0], chunks=(180, 64))
        assert_alike(LogisticRegression(**TIGHT).fit(rows, DIGITS[1]), Local(**TIGHT).fit(*DIGITS))
        assert_idle(client)


def test_workers_started_from_a_shell_over_tcp(tmp_path):
    file = str(tmp_path / "scheduler.json")
    dask_command = [sys.executable, "-m", "dask"]
    scheduler = [*dask_command, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    worker = [*dask_command, "worker", "--nthreads", "1", "--no-dashboard"]
    started = []
    try:
        for command in (scheduler, worker, worker):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            place = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
            command = [*command, "--scheduler-file", file]
            started.append(subprocess.Popen(command, **place, **quiet))
        with distributed.Client(scheduler_file=file, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
            rows = da.from_array(DIGITS[0], chunks=(180, 64))
            model = LogisticRegression(**TIGHT).fit(rows, DIGITS[1])
            assert_alike(model, Local(**TIGHT).fit(*DIGITS))
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


def test_an_interrupted_fit_leaves_nothing_behind(client, rows, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    at_iteration(3, interrupt, monkeypatch)
    model = LogisticRegression(verbose=1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(rows, DIGITS[1])
    assert not hasattr(model, "coef_")
    assert_idle(client)
