"""Fits of rows that are read in batches: the model of the same rows in memory, and flat memory."""

import itertools
import warnings

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr
from child import run_python
from pyarrow import dataset
from scipy import sparse
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from tight import pack, relative_distance, sample_weights, tight

from fastsoftmax import LogisticRegression
from fastsoftmax._designs.streamed import read_ahead
from fastsoftmax.batches import ArrayBatches, BatchSource, GeneratorBatches, ParquetBatches
from fastsoftmax.linear_model import _parts

#: Relative, of coefficients at tight tol, whatever the batches.
PROMISE = 1e-8

IRIS = load_iris(return_X_y=True)
DIGITS = load_digits(return_X_y=True)


def text(n=400, d=300, seed=0):
    """Return sparse counts and the class whose own words occur most often, of 4."""
    rng = np.random.default_rng(seed)
    X = sparse.random_array((n, d), density=0.03, random_state=rng, format="csr")
    return X, np.asarray(X @ np.eye(4)[np.arange(d) % 4]).argmax(axis=1)


def cut(X, y, lengths, weights=None):
    """Return a source of batches of some lengths, over and over."""

    def read():
        first = 0
        for length in itertools.cycle(lengths):
            if first >= X.shape[0]:
                return
            rows = slice(first, first + length)
            yield (X[rows], y[rows]) if weights is None else (X[rows], y[rows], weights[rows])
            first += length

    return GeneratorBatches(read)


def test_the_optimum_is_scikit_learns():
    X, y = IRIS
    peer = SklearnLogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(X, y)
    model = tight().fit(cut(X, y, [7, 20]))
    assert relative_distance(pack(model), pack(peer)) < 1e-7  # as far as theirs converges
    np.testing.assert_array_equal(model.classes_, peer.classes_)
    assert model.converged_


@pytest.mark.parametrize("lengths", [[1797], [100], [1, 50, 0, 333]], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"class_weight": "balanced"}, {"label_smoothing": 0.1}, {"fit_intercept": False}],
    ids=str,
)
def test_the_model_does_not_depend_on_batches(lengths, options):
    X, y = DIGITS
    weights = sample_weights(len(y))
    local = tight(**options).fit(X, y, weights)
    model = tight(**options).fit(cut(X, y, lengths, weights))
    assert relative_distance(pack(model), pack(local)) < PROMISE
    assert model.objective_ == pytest.approx(local.objective_, rel=1e-12)
    assert model.n_features_in_ == 64


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
def test_every_solver(solver):
    X, y = IRIS
    local = tight(solver=solver).fit(X, y)
    model = tight(solver=solver).fit(cut(X, y, [40]))
    assert relative_distance(pack(model), pack(local)) < PROMISE


@pytest.mark.parametrize(
    "options", [{"l1_ratio": 1.0}, {"l1_ratio": 0.5, "C": 0.1}, {"bounds": (-0.2, 0.3)}], ids=str
)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_l1_penalties_and_bounds(options, kind):
    X, y = IRIS if kind == "dense" else text()
    local = tight(**options).fit(X, y)
    model = tight(**options).fit(cut(X, y, [60]))
    assert relative_distance(pack(model), pack(local)) < 1e-6
    np.testing.assert_array_equal(model.coef_ == 0, local.coef_ == 0)


def test_sparse_batches():
    X, y = text()
    local = tight().fit(X, y)
    model = tight().fit(cut(X, y, [150, 10]))
    assert relative_distance(pack(model), pack(local)) < PROMISE


def test_float32_stays_float32():
    X, y = DIGITS
    model = LogisticRegression().fit(cut(X.astype(np.float32), y, [500]))
    assert model.coef_.dtype == np.float32
    local = LogisticRegression().fit(X.astype(np.float32), y)
    assert relative_distance(pack(model), pack(local)) < 1e-2  # both within tol of the optimum


def test_soft_targets():
    X, y = IRIS
    rng = np.random.default_rng(0)
    masses = np.eye(3)[y] + rng.uniform(0, 0.3, (len(y), 3))
    frame = pd.DataFrame(masses, columns=["a", "b", "c"])
    local = tight(class_weight={"a": 1.0, "b": 2.0, "c": 0.5}).fit(X, frame)
    model = tight(class_weight={"a": 1.0, "b": 2.0, "c": 0.5}).fit(cut(X, frame, [33]))
    assert relative_distance(pack(model), pack(local)) < PROMISE
    assert list(model.classes_) == ["a", "b", "c"]


def test_names_of_features_and_labels():
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = LogisticRegression().fit(cut(X, names, [30]))
    np.testing.assert_array_equal(model.feature_names_in_, X.columns)
    assert list(model.classes_) == ["setosa", "versicolor", "virginica"]
    assert model.score(X, names) > 0.9


def test_a_batch_may_lack_classes_weight_and_rows():
    X, y = IRIS  # sorted by class
    weights = np.ones(len(y))
    weights[20:40] = 0.0
    local = tight().fit(X, y, weights)
    model = tight().fit(cut(X, y, [20, 0], weights))
    assert relative_distance(pack(model), pack(local)) < PROMISE


def test_a_warm_start_goes_on():
    X, y = DIGITS
    source = cut(X, y, [400])
    model = LogisticRegression(warm_start=True).fit(source)
    assert model.fit(source).n_iter_[0] == 0


# --- Sources --------------------------------------------------------------------------------------


def write(folder, X, order="C"):
    path = folder / "X.npy"
    np.save(path, np.asarray(X, order=order))
    return path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("batch_rows", [None, 1, 100])
def test_rows_of_a_file(tmp_path, order, batch_rows):
    X, y = IRIS
    path = write(tmp_path, X, order)
    source = ArrayBatches(path, y, sample_weights(len(y)), batch_rows=batch_rows)
    parts = list(source.batches())
    for column, expected in enumerate((X, y, sample_weights(len(y)))):
        np.testing.assert_array_equal(np.concatenate([p[column] for p in parts]), expected)


@pytest.mark.parametrize("view", [np.s_[10:], np.s_[:, 1:3], np.s_[::2], np.s_[5:50]], ids=str)
def test_views_of_a_map(tmp_path, view):
    X, y = IRIS
    mapped = np.load(write(tmp_path, X), mmap_mode="r")[view]
    found = [batch[0] for batch in ArrayBatches(mapped, y[: len(mapped)], batch_rows=17).batches()]
    np.testing.assert_array_equal(np.concatenate(found), X[view])


class Chunked:
    """What HDF5 and Zarr arrays offer: shape, dtype and slices, no more."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._array[rows]


def test_arrays_that_can_only_be_sliced():
    X, y = DIGITS
    source = ArrayBatches(Chunked(X), Chunked(y), Chunked(np.ones(len(y))), batch_rows=700)
    assert relative_distance(pack(tight().fit(source)), pack(tight().fit(X, y))) < PROMISE


@pytest.mark.parametrize("batch_rows", [300, None])
def test_hdf5(tmp_path, batch_rows):
    X, y = DIGITS
    w = sample_weights(len(y))
    with h5py.File(tmp_path / "digits.h5", "w") as file:
        stored = [
            file.create_dataset(name, data=values)
            for name, values in zip("Xyw", (X, y, w), strict=True)
        ]
        model = tight().fit(ArrayBatches(*stored, batch_rows=batch_rows))
    assert relative_distance(pack(model), pack(tight().fit(X, y, w))) < PROMISE


def test_zarr(tmp_path):
    X, y = DIGITS
    stored = zarr.create_array(tmp_path / "X", shape=X.shape, chunks=(200, 64), dtype=X.dtype)
    stored[:] = X
    model = tight().fit(ArrayBatches(stored, y, batch_rows=300))
    assert relative_distance(pack(model), pack(tight().fit(X, y))) < PROMISE


def test_what_a_writable_map_holds_counts(tmp_path):
    mapped = np.load(write(tmp_path, IRIS[0]), mmap_mode="r+")
    mapped[3] = 7.0
    ((X, _),) = ArrayBatches(mapped, IRIS[1]).batches()
    np.testing.assert_array_equal(X[3], 7.0)


def test_a_file_that_becomes_shorter_is_an_error(tmp_path):
    path = write(tmp_path, IRIS[0])
    source = ArrayBatches(path, IRIS[1], batch_rows=10)
    batches = source.batches()
    next(batches)
    with open(path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(OSError, match="become shorter"):
        list(batches)


def test_a_large_map_is_read_in_batches(tmp_path, monkeypatch):
    X, y = DIGITS
    mapped = np.load(write(tmp_path, X), mmap_mode="r")
    assert not _parts.is_large_map(mapped)
    monkeypatch.setattr(_parts, "memory", lambda: 1.5 * X.nbytes)
    assert _parts.is_large_map(mapped)
    local = tight().fit(X, y)
    assert relative_distance(pack(tight().fit(mapped, y)), pack(local)) < PROMISE


def test_parquet(tmp_path):
    X, y = IRIS
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    columns = {f"x{j}": X[:, j] for j in range(4)}
    table = pa.table({**columns, "kind": pa.array(names).dictionary_encode(), "w": np.ones(len(y))})
    dataset.write_dataset(
        table, tmp_path / "rows", format="parquet", max_rows_per_group=50, max_rows_per_file=100
    )
    source = ParquetBatches(tmp_path / "rows", "kind", sample_weight="w", batch_rows=40)
    model = tight().fit(source)
    assert relative_distance(pack(model), pack(tight().fit(X, names))) < PROMISE
    assert list(model.classes_) == ["setosa", "versicolor", "virginica"]
    some = ParquetBatches(tmp_path / "rows", "kind", ["x2", "x0"], dtype=np.float32)
    assert LogisticRegression().fit(some).coef_.dtype == np.float32
    with pytest.raises(ValueError, match="no columns"):
        ParquetBatches(tmp_path / "rows", "species")


def test_any_class_with_batches_is_a_source():
    assert isinstance(cut(*IRIS, [10]), BatchSource)
    assert not isinstance(IRIS[0], BatchSource)


def test_a_generator_is_refused():
    with pytest.raises(TypeError, match="generator function itself"):
        GeneratorBatches(batch for batch in [IRIS])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((IRIS[0], IRIS[1][:10]), "150 rows"),
        ((IRIS[0][0], IRIS[1]), "two dimensions"),
        ((IRIS[0], IRIS[1], np.ones(3)), "sample_weight has 3"),
    ],
    ids=["y", "X", "sample_weight"],
)
def test_arrays_that_do_not_match_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ArrayBatches(*arguments)


# --- Faults ---------------------------------------------------------------------------------------


def with_bad(X, row, value):
    X = X.copy()
    X[row] = value
    return X


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        (
            cut(with_bad(IRIS[0], 55, np.nan), IRIS[1], [50]),
            ValueError,
            "Batch 1: Input X contains",
        ),
        (cut(*IRIS, [50], -np.ones(150)), ValueError, "Batch 0: Negative values"),
        (cut(*IRIS, [50], np.zeros(150)), ValueError, "at least one non-zero"),
        (cut(IRIS[0], np.zeros(150), [50]), ValueError, "at least 2 classes"),
        (cut(IRIS[0][:0], IRIS[1][:0], [50]), ValueError, "has no rows"),
        (GeneratorBatches(lambda: [IRIS[0]]), TypeError, "Batch 0: must be"),
        (GeneratorBatches(lambda: [(IRIS[0], IRIS[1][:9])]), ValueError, "inconsistent numbers"),
        (
            GeneratorBatches(lambda: [IRIS, (IRIS[0][:, :3], IRIS[1])]),
            ValueError,
            "Batch 1: X has 3 features",
        ),
    ],
    ids=["NaN", "negative", "no-weight", "one-class", "empty", "no-tuple", "lengths", "width"],
)
def test_a_bad_batch_is_named_and_nothing_is_lost(source, kind, words):
    model = LogisticRegression().fit(*IRIS)
    before = dict(vars(model))
    with pytest.raises(kind, match=words):
        model.fit(source)
    assert vars(model) == before


def test_a_source_that_ends_early_in_a_later_pass_is_an_error():
    once = iter([IRIS, (IRIS[0][:20], IRIS[1][:20])])
    with pytest.raises(ValueError, match="a new iterator"):
        LogisticRegression().fit(GeneratorBatches(lambda: [next(once)]))


def test_labels_that_change_are_an_error():
    once = iter([IRIS, (IRIS[0], IRIS[1] + 1)])
    with pytest.raises(ValueError, match="none of the classes"):
        LogisticRegression().fit(GeneratorBatches(lambda: [next(once)]))


def test_an_error_of_the_source_reaches_the_caller():
    def read():
        yield IRIS
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        LogisticRegression().fit(GeneratorBatches(read))


def test_arguments_that_do_not_go_with_a_source_are_refused():
    source = cut(*IRIS, [50])
    with pytest.raises(ValueError, match="brings y"):
        LogisticRegression().fit(source, IRIS[1])
    with pytest.raises(ValueError, match="offset"):
        LogisticRegression().fit(source, offset=np.zeros(150))


def test_an_unfinished_fit_warns():
    with pytest.warns(ConvergenceWarning):
        LogisticRegression(max_iter=1).fit(cut(*DIGITS, [500]))


def test_without_y_the_error_is_scikit_learns():
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        LogisticRegression().fit(IRIS[0])


def test_progress_is_shown_if_asked_for(capsys):
    LogisticRegression(verbose=1).fit(cut(*IRIS, [50]))
    assert "iteration" in capsys.readouterr().out
    LogisticRegression().fit(cut(*IRIS, [50]))
    assert capsys.readouterr().out == ""


# --- Reading ahead --------------------------------------------------------------------------------


def test_items_come_in_order_and_the_next_is_made_meanwhile():
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number

    seen = []
    for number in read_ahead(items()):
        seen.append(number)
        assert len(made) <= number + 2
    assert seen == made == list(range(5))


def test_a_reader_that_is_left_stops():
    made = []

    def items():
        for number in range(1000):
            made.append(number)
            yield number

    reader = read_ahead(items())
    next(reader)
    reader.close()
    assert len(made) <= 3


GROWTH = """
import resource
import numpy as np
from fastsoftmax import LogisticRegression
from fastsoftmax.batches import ArrayBatches

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

n, d = {n_rows}, 128
X = np.lib.format.open_memmap({path!r}, "w+", np.float32, (n, d))
rng = np.random.default_rng(0)
for first in range(0, n, 4096):
    X[first : first + 4096] = rng.standard_normal((min(4096, n - first), d), dtype=np.float32)
X.flush()
y = np.empty(n, np.int8)
for first in range(0, n, 4096):
    y[first : first + 4096] = X[first : first + 4096, :5].argmax(axis=1)
del X
LogisticRegression(tol=0.1).fit(ArrayBatches({path!r}, y, batch_rows=500))
most = before = anonymous()

class Watched(ArrayBatches):
    def batches(self):
        global most
        for batch in super().batches():
            most = max(most, anonymous())
            yield batch

# The larger X of the two tests does not fit into this.
resource.setrlimit(resource.RLIMIT_DATA, (before + 600 * 2**20, before + 600 * 2**20))
model = LogisticRegression().fit(Watched({path!r}, y))
assert model.converged_
assert model.score(np.load({path!r}, mmap_mode="r")[:20000], y[:20000]) > 0.9
print(most - before)
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    path = str(tmp_path / "X.npy")
    with warnings.catch_warnings():
        grown = int(run_python(GROWTH.format(path=path, n_rows=1_600_000), timeout=900))
    assert grown < 150 * 2**20


def test_memory_is_flat_in_small(tmp_path):
    path = str(tmp_path / "X.npy")
    grown = int(run_python(GROWTH.format(path=path, n_rows=450_000), timeout=300))
    assert grown < 150 * 2**20  # X takes 230 MB
