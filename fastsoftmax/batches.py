"""Sources of rows that do not fit into memory, for ``LogisticRegression().fit(source)``.

A source hands out batches ``(X, y)`` or ``(X, y, sample_weight)``, the same ones in the same order
each time it is asked, since a fit makes many passes. Two of them are in memory at a time: the one
at work, and the next, which a thread reads meanwhile.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._files import read_blocks

#: ``(X, y)`` or ``(X, y, sample_weight)``.
Batch = tuple[Any, ...]

#: Bytes of X in a batch: enough that reading it takes ten times as long as what is done once for
#: each batch (0.3 ms), and few enough that the five there are at a time do not count beside a
#: process's own 150 MB. Reads are as fast as with 16 MB.
_BATCH_BYTES = 8 * 2**20


@runtime_checkable
class BatchSource(Protocol):
    """Rows in batches, as often as they are asked for.

    Any class with this method is one.
    """

    def batches(self) -> Iterator[Batch]:
        """Return an iterator over all batches, from the first one on.

        Each is ``(X, y)`` or ``(X, y, sample_weight)``; X is an array, a sparse matrix or a frame.
        The same rows in the same order whenever it is called. Batches may differ in length; empty
        ones are left out.
        """


class GeneratorBatches:
    """Batches from a function that returns a new iterator over them at each call.

    Parameters
    ----------
    factory : callable
        Without arguments. Returns an iterable of ``(X, y)`` or ``(X, y, sample_weight)``.

    Raises
    ------
    TypeError
        If `factory` is not callable. A generator is none: it can be read only once.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import LogisticRegression
    >>> from fastsoftmax.batches import GeneratorBatches
    >>> def read():
    ...     for month in range(12):
    ...         rng = np.random.default_rng(month)
    ...         X = rng.normal(size=(100, 3))
    ...         yield X, np.where(X[:, 0] + rng.normal(size=100) > 0, "up", "down")
    >>> LogisticRegression().fit(GeneratorBatches(read)).classes_
    array(['down', 'up'], dtype='<U4')
    """

    def __init__(self, factory: Callable[[], Iterable[Batch]]) -> None:
        if not callable(factory):
            raise TypeError(
                "GeneratorBatches takes a function that returns an iterator over batches, since a "
                f"fit reads them many times; got {type(factory).__name__}. Pass the generator "
                "function itself, without calling it."
            )
        self._factory = factory

    def batches(self) -> Iterator[Batch]:
        """Return what the function returns, as an iterator."""
        return iter(self._factory())


class ArrayBatches:
    """Batches of whatever can be sliced by rows: memory maps, HDF5 and Zarr arrays.

    Rows of a memory map are read from its file, past the mapping and, where possible, the system's
    cache, in which they would take the place of what others have there.

    Parameters
    ----------
    X : str, Path, or array of shape (n_samples, n_features)
        A name is that of an ``.npy`` file. Of an array ``shape``, ``dtype`` and slices of rows are
        used: ``numpy.memmap``, ``h5py.Dataset``, ``zarr.Array``.
    y : array-like of shape (n_samples,)
        Labels. Sliced like X where it is an array of any kind.
    sample_weight : array-like of shape (n_samples,), default=None
    batch_rows : int, default=None
        Rows of a batch; None is as many as take 8 MB.

    Raises
    ------
    ValueError
        If lengths differ, or X has not two dimensions.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        batch_rows: int | None = None,
    ) -> None:
        if isinstance(X, (str, Path)):
            X = np.load(X, mmap_mode="r")
        if len(X.shape) != 2:
            raise ValueError(f"X must have two dimensions, got shape {tuple(X.shape)}.")
        self._X = X
        self._y = y if hasattr(y, "shape") else np.asarray(y)
        self._weight = sample_weight
        if sample_weight is not None and not hasattr(sample_weight, "shape"):
            self._weight = np.asarray(sample_weight)
        for name, values in (("y", self._y), ("sample_weight", self._weight)):
            if values is not None and values.shape[0] != X.shape[0]:
                raise ValueError(
                    f"X has {X.shape[0]} rows, but {name} has {values.shape[0]} entries."
                )
        row_bytes = max(1, X.shape[1] * np.dtype(X.dtype).itemsize)
        self._batch_rows = max(1, _BATCH_BYTES // row_bytes) if batch_rows is None else batch_rows
        if self._batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, got {batch_rows!r}.")

    def batches(self) -> Iterator[Batch]:
        """Return an iterator over batches of consecutive rows."""
        starts = range(0, self._X.shape[0], self._batch_rows)
        slices = [slice(start, start + self._batch_rows) for start in starts]
        rows_of = _from_file if _is_in_file(self._X) else _from_array
        for rows, X in zip(slices, rows_of(self._X, slices), strict=True):
            batch: Batch = (X, np.asarray(self._y[rows]))
            yield batch if self._weight is None else (*batch, np.asarray(self._weight[rows]))
            del X, batch  # their memory is for a later one


def _from_array(X: Any, slices: list[slice]) -> Iterator[NDArray[Any]]:
    return (np.asarray(X[rows]) for rows in slices)


def _is_in_file(X: Any) -> bool:
    """Tell whether X is a memory map of plain rows; what a writable one holds may not be there."""
    is_map = isinstance(X, np.memmap) and _mapping(X) is not None and X.filename is not None
    return bool(is_map and X.flags.c_contiguous and X.mode in ("r", "c") and not X.dtype.hasobject)


def _from_file(X: Any, slices: list[slice]) -> Iterator[NDArray[Any]]:
    """Yield rows from the file of a memory map."""
    start = np.frombuffer(_mapping(X), np.uint8, count=1).ctypes.data
    origin = X.ctypes.data - start + X.offset - X.offset % mmap.ALLOCATIONGRANULARITY
    bounds = []
    for rows in slices:
        first, last, _ = rows.indices(len(X))
        bounds.append((origin + first * X.strides[0], origin + last * X.strides[0]))
    for block in read_blocks(X.filename, bounds):
        rows = block.view(X.dtype).reshape(-1, X.shape[1])
        yield rows if rows.flags.aligned else rows.copy()
        del block, rows


def _mapping(X: np.memmap[Any, Any]) -> Any:
    return getattr(X, "_mmap", None)


class ParquetBatches:
    """Batches of a Parquet, Arrow or CSV data set: a file, a folder, or many files.

    Needs pyarrow, the extra ``fastsoftmax[parquet]``.

    Parameters
    ----------
    source : str, Path, list of them, or pyarrow.dataset.Dataset
    target : str
        The column of labels.
    features : sequence of str, default=None
        The columns of X, in their order, each a number or boolean; None is all others.
    sample_weight : str, default=None
        The column of weights.
    batch_rows : int, default=131072
        Most rows of a batch.
    dtype : {numpy.float64, numpy.float32}, default=numpy.float64
        Of X.

    Raises
    ------
    ImportError
        Without pyarrow.
    ValueError
        If a column does not exist.
    """

    def __init__(
        self,
        source: Any,
        target: str,
        features: Sequence[str] | None = None,
        sample_weight: str | None = None,
        *,
        batch_rows: int = 2**17,
        dtype: Any = np.float64,
    ) -> None:
        try:
            from pyarrow import dataset
        except ImportError as error:
            raise ImportError(
                "ParquetBatches needs pyarrow: pip install 'fastsoftmax[parquet]'."
            ) from error
        if not isinstance(source, dataset.Dataset):
            names = [str(s) for s in source] if isinstance(source, (list, tuple)) else str(source)
            source = dataset.dataset(names)
        self._dataset, self._dtype, self._batch_rows = source, np.dtype(dtype), batch_rows
        others = {target, sample_weight}
        names = list(source.schema.names)
        self._features = [n for n in names if n not in others] if features is None else [*features]
        self._target, self._weight = target, sample_weight
        wanted = [*self._features, target] + ([] if sample_weight is None else [sample_weight])
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(f"no columns {unknown}; there are {names}.")
        self._columns = wanted

    def batches(self) -> Iterator[Batch]:
        """Return an iterator over batches of rows, in the order of the files."""
        # Readahead is the fit's own: pyarrow's would hold 16 batches.
        options = {"batch_size": self._batch_rows, "batch_readahead": 1, "fragment_readahead": 1}
        for records in self._dataset.to_batches(columns=self._columns, **options):
            X = np.empty((records.num_rows, len(self._features)), self._dtype)
            for number, name in enumerate(self._features):
                X[:, number] = records.column(name).to_numpy(zero_copy_only=False)
            y = _labels_of(records.column(self._target))
            if self._weight is None:
                yield X, y
            else:
                yield X, y, records.column(self._weight).to_numpy(zero_copy_only=False)


def _labels_of(column: Any) -> NDArray[Any]:
    """Return a column of Arrow's as labels; dictionary-encoded ones are written out."""
    if hasattr(column, "dictionary_decode"):
        column = column.dictionary_decode()
    labels = column.to_numpy(zero_copy_only=False)
    return labels.astype(str) if column.null_count == 0 and labels.dtype == object else labels
