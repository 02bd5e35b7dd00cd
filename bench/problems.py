"""The problems of the bench: data, labels, a fixed held-out split and the values of C.

A problem is a function that returns ``Data``; ``@register`` gives it a name. Everything
after that (subsampling, the split, label encoding, the dtype) is the same for all of them.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

Array = npt.NDArray[Any]
Matrix = Any  # an (n_samples, n_features) array in C order, or a CSR array

QUICK_ROWS = 750
HELD_OUT_EVERY = 5


class ProblemUnavailableError(Exception):
    """The data of a problem are neither in the data folder nor behind a public loader."""


@dataclass(frozen=True)
class Data:
    """What a problem function returns: raw data, with a test set where one is published."""

    X: Matrix
    y: Array
    X_test: Matrix | None = None
    y_test: Array | None = None
    C: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Problem:
    """Training and held-out data as the libraries and the score see them.

    ``y`` holds labels 0..K-1, each of which occurs in the training rows.
    """

    name: str
    X: Matrix
    y: Array
    X_test: Matrix
    y_test: Array
    C: tuple[float, ...] = (1.0,)

    @property
    def n_classes(self) -> int:
        """Return K, the number of classes."""
        return int(self.y.max()) + 1

    @property
    def n_rows(self) -> int:
        """Return the number of logit rows: one for two classes, as in scikit-learn."""
        return 1 if self.n_classes == 2 else self.n_classes

    @property
    def n_params(self) -> int:
        """Return the number of coefficients and intercepts."""
        return self.n_rows * (int(self.X.shape[1]) + 1)

    @property
    def X_bytes(self) -> int:
        """Return the size of the training matrix in bytes."""
        return matrix_bytes(self.X)

    def sample(self, per_class: int = 5, n_classes: int = 3) -> "Problem":
        """Return the first training rows of the first classes, for a warm-up fit.

        Few classes, since newton-cholesky takes a minute for 13878 params however few the rows.
        """
        chosen = np.sort(
            np.concatenate(
                [
                    np.flatnonzero(self.y == k)[:per_class]
                    for k in range(min(self.n_classes, n_classes))
                ]
            )
        )
        return replace(self, X=self.X[chosen], y=self.y[chosen])


Loader = Callable[[], Data]
PROBLEMS: dict[str, Loader] = {}
#: What quick runs use in place of some problems, which would take long to make and then thin.
QUICK_PROBLEMS: dict[str, Loader] = {}
DEFAULT_PROBLEMS = ("digits", "synthetic")
#: Groups of problems by name. The first is what the goals are about.
SUITES = {
    "solvers": (
        "iris",
        "wine",
        "breast_cancer",
        "digits",
        "diamonds",
        "diamonds_standardised",
        "wide",
        "ill_conditioned",
        "debian_embeddings",
        "flights",
        "flights_standardised",
        "mnist",
        "mnist_raw",
        "embedding_probe",
    ),
    "sparse": ("debian_sections", "zipf_corpus", "flights_onehot"),
}
#: Where nothing else is asked for.
FLOAT32_PROBLEMS = ("embedding_probe", "debian_sections", "zipf_corpus")
STRENGTHS = (0.01, 1.0, 100.0)


def problem_dtypes(name: str) -> list[str]:
    """Return the dtypes that a problem is run in by default."""
    return ["float32" if name in FLOAT32_PROBLEMS else "float64"]


def register(function: Loader) -> Loader:
    """Make a function that returns ``Data`` a problem of the same name."""
    PROBLEMS[function.__name__] = function
    return function


def load_problem(name: str, dtype: str = "float64", quick: bool = False) -> Problem:
    """Return the named problem in a dtype, with its deterministic held-out split.

    Raises
    ------
    ProblemUnavailableError
        If the name is unknown or its data cannot be had.
    """
    if name not in PROBLEMS:
        raise ProblemUnavailableError(f"no problem {name!r}; there are: {', '.join(PROBLEMS)}")
    is_small = quick and name in QUICK_PROBLEMS
    data = (QUICK_PROBLEMS if is_small else PROBLEMS)[name]()
    X, y, X_test, y_test = data.X, data.y, data.X_test, data.y_test
    quick = quick and not is_small
    if quick:
        X, y = _thin(X, y)
    if X_test is None or y_test is None:
        held_out = _held_out(len(y))
        X_test, y_test = X[held_out], y[held_out]
        X, y = X[~held_out], y[~held_out]
    elif quick:
        X_test, y_test = _thin(X_test, y_test)
    classes, labels = np.unique(y, return_inverse=True)
    known = np.isin(y_test, classes)
    return Problem(
        name=name,
        X=_as_matrix(X, dtype),
        y=labels.astype(np.int64),
        X_test=_as_matrix(X_test[known], dtype),
        y_test=np.searchsorted(classes, y_test[known]).astype(np.int64),
        C=(1.0,) if quick or is_small else data.C,
    )


def matrix_bytes(X: Matrix) -> int:
    """Return the size of a matrix in bytes."""
    if scipy.sparse.issparse(X):
        return int(X.data.nbytes + X.indices.nbytes + X.indptr.nbytes)
    return int(X.nbytes)


def row_blocks(n_samples: int, width: int, block_bytes: int = 1 << 25) -> Iterator[slice]:
    """Yield slices of rows whose float64 blocks of ``width`` columns stay below a size."""
    step = max(64, block_bytes // (8 * max(width, 1)))
    for start in range(0, n_samples, step):
        yield slice(start, min(start + step, n_samples))


def _thin(X: Matrix, y: Array) -> tuple[Matrix, Array]:
    stride = max(1, -(-len(y) // QUICK_ROWS))
    return X[::stride], y[::stride]


def _as_matrix(X: Matrix, dtype: str) -> Matrix:
    if scipy.sparse.issparse(X):
        X = scipy.sparse.csr_array(X).astype(dtype)
        # scikit-learn's saga and liblinear refuse 64-bit indices; SciPy may choose them.
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
        return X
    return np.ascontiguousarray(X, dtype=dtype)


def _read(name: str) -> dict[str, Array] | None:
    """Return the arrays of ``$FASTSOFTMAX_DATA/<name>.npz``, or None without such a file."""
    folder = os.environ.get("FASTSOFTMAX_DATA", "")
    path = Path(folder) / f"{name}.npz"
    if not folder or not path.is_file():
        return None
    with np.load(path) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _require(name: str) -> dict[str, Array]:
    arrays = _read(name)
    if arrays is None:
        raise ProblemUnavailableError(
            f"{name}: no {name}.npz in the folder that FASTSOFTMAX_DATA names, and there is no "
            "public loader for it"
        )
    return arrays


def standardised(data: Data) -> Data:
    """Return a problem with features of mean 0 and standard deviation 1 over its training rows.

    Constant features are centred only.
    """
    X = np.asarray(data.X, dtype=np.float64)
    training = X if data.X_test is not None else X[~_held_out(len(X))]
    mean, scale = training.mean(axis=0), training.std(axis=0)
    scale[scale == 0.0] = 1.0
    X_test = None if data.X_test is None else (data.X_test - mean) / scale
    return replace(data, X=(X - mean) / scale, X_test=X_test)


def _held_out(n_samples: int) -> Array:
    """Return which rows are held out where there is no published test set."""
    return np.arange(n_samples) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def _bundled(name: str) -> Data:
    """Return one of the data sets that scikit-learn bundles, as it is."""
    from sklearn import datasets

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return Data(X, y)


def drawn_labels(X: Array, coef: Array, rng: np.random.Generator, spread: float) -> Array:
    """Return labels drawn from a softmax model whose logits have that standard deviation."""
    logits = X @ coef
    logits *= spread / logits.std()
    logits += rng.gumbel(size=logits.shape)
    return logits.argmax(axis=1)


@register
def iris() -> Data:
    """Return the 150 irises that scikit-learn bundles."""
    return _bundled("iris")


@register
def wine() -> Data:
    """Return the 178 wines that scikit-learn bundles, unscaled."""
    return _bundled("wine")


@register
def breast_cancer() -> Data:
    """Return the 569 tumours that scikit-learn bundles, unscaled; two classes."""
    return _bundled("breast_cancer")


@register
def digits() -> Data:
    """Return the 1797 8 x 8 digits that scikit-learn bundles, pixels 0..16 as they are."""
    return replace(_bundled("digits"), C=STRENGTHS)


@register
def synthetic() -> Data:
    """Return labels drawn from a softmax model over 40 correlated features of mixed scale."""
    n_samples, n_features, n_classes = 5000, 40, 6
    rng = np.random.default_rng(20240607)
    mixing = rng.normal(size=(n_features, n_features)) * np.logspace(0, -2, n_features)
    X = rng.normal(size=(n_samples, n_features)) @ mixing
    logits = X @ rng.normal(size=(n_features, n_classes)) * 0.3
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return Data(X, y)


@register
def ill_conditioned() -> Data:
    """Return 200 rotated features with singular values from 1 to 1e-8: no scaling helps."""
    n_samples, n_features, n_classes = 25_000, 200, 8
    rng = np.random.default_rng(8)
    rotation, _ = np.linalg.qr(rng.normal(size=(n_features, n_features)))
    latent = rng.normal(size=(n_samples, n_features))
    y = drawn_labels(latent, rng.normal(size=(n_features, n_classes)), rng, spread=3.0)
    # Scaled by sqrt(d), so that a feature's variance is some 1/40 of the largest direction's.
    X = (latent * np.logspace(0, -8, n_features)) @ rotation.T * np.sqrt(n_features)
    return Data(X, y, C=STRENGTHS)


@register
def wide() -> Data:
    """Return 500 training rows of 5000 correlated features: more params than labels."""
    n_samples, n_features, n_classes = 625, 5000, 10
    rng = np.random.default_rng(9)
    factors = rng.normal(size=(n_samples, 50))
    X = factors @ rng.normal(size=(50, n_features)) / np.sqrt(50)
    X += rng.normal(size=X.shape)
    y = drawn_labels(factors, rng.normal(size=(50, n_classes)), rng, spread=3.0)
    return Data(X, y, C=STRENGTHS)


@register
def embedding_probe() -> Data:
    """Return 100000 training rows of 512 features like a network's, and 200 noisy classes."""
    n_samples, n_features, n_classes = 125_000, 512, 200
    rng = np.random.default_rng(10)
    # Classes lie around centres; the spectrum decays as 1/i, and all rows share an offset.
    spectrum = 1.0 / np.arange(1, n_features + 1, dtype=np.float32) ** 0.5
    rotation, _ = np.linalg.qr(rng.normal(size=(n_features, n_features)))
    centres = rng.standard_normal((n_classes, n_features), dtype=np.float32)
    labels = rng.integers(n_classes, size=n_samples)
    X = rng.standard_normal((n_samples, n_features), dtype=np.float32)
    X += 0.2 * centres[labels]
    X *= spectrum
    X = X @ rotation.astype(np.float32)
    X += rng.standard_normal(n_features, dtype=np.float32)
    noisy = rng.random(n_samples) < 0.05
    labels[noisy] = rng.integers(n_classes, size=int(noisy.sum()))
    return Data(X, labels, C=STRENGTHS)


@register
def mnist() -> Data:
    """Return the MNIST digits, pixels divided by 255, with their published test set."""
    data = mnist_raw()
    assert data.X_test is not None
    return replace(data, X=data.X / 255.0, X_test=data.X_test / 255.0)


@register
def mnist_raw() -> Data:
    """Return the MNIST digits, pixels 0 to 255 as they are."""
    arrays = _read("mnist")
    if arrays is None:
        X, y = _fetch_openml("mnist_784")
        arrays = {"X": X[:60000], "y": y[:60000], "Xt": X[60000:], "yt": y[60000:]}
    return Data(arrays["X"], arrays["y"], arrays["Xt"], arrays["yt"], C=STRENGTHS)


@register
def flights() -> Data:
    """Return nycflights13: times, delays and distance unscaled, one-hot airports; y = carrier."""
    arrays = _require("flights")
    return Data(arrays["X"], arrays["y"], C=STRENGTHS)


@register
def flights_standardised() -> Data:
    """Return the flights with every column standardised."""
    return standardised(flights())


@register
def diamonds() -> Data:
    """Return the diamonds, prices and sizes unscaled, one-hot colour and clarity; y = cut."""
    arrays = _require("diamonds")
    return Data(arrays["X"], arrays["y"], C=STRENGTHS)


@register
def diamonds_standardised() -> Data:
    """Return the diamonds with every column standardised."""
    return standardised(diamonds())


@register
def debian_sections() -> Data:
    """Return sparse TF-IDF features of Debian packages, as they are; y = archive section."""
    arrays = _require("debian_sections")
    parts = (arrays["data"], arrays["indices"], arrays["indptr"])
    X = scipy.sparse.csr_array(parts, shape=tuple(arrays["shape"]))
    return Data(X, arrays["y"], C=(0.1, 1.0, 100.0))


@register
def zipf_corpus() -> Data:
    """Return 200000 training rows of 500000 TF-IDF features, some 60 in a row; 20 topics."""
    return made_corpus(250_000, 500_000, 20)


def made_corpus(n_samples: int, n_features: int, n_classes: int) -> Data:
    """Return TF-IDF rows of documents whose words follow Zipf's law, in the manner of Mandelbrot.

    The word of rank r has the probability 1 / (r + 10), up to a factor. One word in ten is replaced
    by that neighbour in rank which belongs to the document's topic; 5 % of the labels are noise.
    """
    rng = np.random.default_rng(11)
    shift, length = 10.0, 63
    shares = 1.0 / np.sqrt(np.arange(1.0, n_classes + 1))
    labels = rng.choice(n_classes, size=n_samples, p=shares / shares.sum()).astype(np.int32)
    # The inverse of the distribution function log(1 + r / shift) / log(1 + d / shift).
    uniform = rng.random((n_samples, length), dtype=np.float32)
    words = (shift * np.expm1(uniform * np.log1p(n_features / shift, dtype=np.float32))).astype(
        np.int32
    )
    topical = rng.random(words.shape, dtype=np.float32) < 0.1
    own = words - words % n_classes + labels[:, None]
    words = np.minimum(np.where(topical, own, words), n_features - 1)
    # Columns are in no order of frequency, as those of a sorted vocabulary.
    words = rng.permutation(n_features).astype(np.int32)[words]
    words.sort(axis=1)
    first = np.ones(words.shape, bool)
    first[:, 1:] = words[:, 1:] != words[:, :-1]
    starts = np.flatnonzero(first)
    indices = words.ravel()[starts]
    counts = np.diff(starts, append=words.size)
    indptr = np.concatenate([[0], first.sum(axis=1).cumsum()]).astype(np.int32)
    n_documents = np.bincount(indices, minlength=n_features)
    idf = 1.0 + np.log((1.0 + n_samples) / (1.0 + n_documents))
    data = ((1.0 + np.log(counts)) * idf[indices]).astype(np.float32)
    norms = np.sqrt(np.add.reduceat(data * data, indptr[:-1]))
    data /= np.repeat(norms, np.diff(indptr))
    X = scipy.sparse.csr_array((data, indices, indptr), shape=(n_samples, n_features))
    noisy = rng.random(n_samples) < 0.05
    labels[noisy] = rng.integers(n_classes, size=int(noisy.sum()))
    return Data(X, labels)


QUICK_PROBLEMS["zipf_corpus"] = lambda: made_corpus(QUICK_ROWS, 1000, 4)


@register
def flights_onehot() -> Data:
    """Return flights as categories only, one-hot: airports, times and pairs; y = carrier."""
    arrays = _require("flights")
    X = arrays["X"]
    month, day, hour, minute = X[:, 0], X[:, 1], X[:, 10], X[:, 11]
    origin = X[:, 12:15].argmax(axis=1)
    destination = X[:, 15:].argmax(axis=1)
    categories = [origin, destination, hour, month, day, minute]
    categories += [1000 * origin + destination, 1000 * origin + hour]
    return Data(one_hot(categories), arrays["y"], C=STRENGTHS)


def one_hot(categories: list[Array]) -> Matrix:
    """Return a CSR array with a column for each value of each category, in order."""
    columns, offset = [], 0
    for values in categories:
        known, codes = np.unique(values, return_inverse=True)
        columns.append(codes + offset)
        offset += len(known)
    indices = np.column_stack(columns).astype(np.int32)
    indptr = np.arange(len(indices) + 1, dtype=np.int32) * indices.shape[1]
    parts = (np.ones(indices.size), indices.ravel(), indptr)
    return scipy.sparse.csr_array(parts, shape=(len(indices), offset))


@register
def debian_embeddings() -> Data:
    """Return the Debian packages in 256 dense dimensions, as for a linear probe."""
    arrays = _require("debian_embeddings")
    return Data(arrays["X"].astype(np.float32), arrays["y"], C=STRENGTHS)


def _fetch_openml(name: str) -> tuple[Array, Array]:
    from sklearn.datasets import fetch_openml

    try:
        X, y = fetch_openml(name, version=1, as_frame=False, return_X_y=True)
    except Exception as error:
        raise ProblemUnavailableError(
            f"{name}: not in the folder that FASTSOFTMAX_DATA names, and fetch_openml failed: "
            f"{error}"
        ) from error
    return X, y
