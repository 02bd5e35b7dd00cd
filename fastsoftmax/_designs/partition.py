"""How a pass over a dense X is cut into units of work, and what each of them sums into."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs.base import Array, Float64Array
from fastsoftmax._kernels.lanes import N_LANE_ROWS
from fastsoftmax._kernels.tiles import STRIP_BYTES, padded_zeros

_MOST_LANES = 64
#: Units of work of a sweep: enough for the threads of a large machine.
_MOST_UNITS = 64
_BLOCK_BYTES = 2**19
#: Operations of one call into a kernel: about 0.1 s, after which Python may see Ctrl-C.
_CALL_WORK = 4e9
#: Gradients of all chunks together take at most so much memory, or this share of X.
_GRADIENT_BYTES = 2**23
_GRADIENT_SHARE = 0.05
#: Units beyond which gradients of chunks may take this share of X: each of them is cleared, added
#: to, and added up. With 64 a pass over 2675 rows of 784 features and 10 classes takes 20 % longer
#: than with 32, over 60 000 rows 4 %. Fewer save little, and many threads would share them badly.
_FEW_UNITS = 32
_CHEAP_SHARE = 0.02
#: Logits of all units together; bounds the units where there are more than 10^5 classes.
_SCRATCH_BYTES = 2**26
#: Rows of a shared gradient that a part has at least: about those of a register tile.
_LEAST_PART_ROWS = 5
#: Rows of X that two sweeps read one after the other, better from a shared cache: 10 % faster
#: than with eight times as many, on 5000 x 2000 x 20.
_PANEL_BYTES = 2**22
_LEAST_PANEL_BLOCKS = 32


def lanes_of_block(n_features: int, n_rows: int, itemsize: int) -> int:
    """Return the rows of a block: it and its logits stay in a core's second-level cache."""
    n_lanes = _MOST_LANES
    while n_lanes > 8 and n_lanes * (n_features + n_rows) * itemsize > _BLOCK_BYTES:
        n_lanes //= 2
    return n_lanes


class Partition:
    """How a pass is cut into units of work: by shapes only, never by the number of threads.

    Attributes
    ----------
    n_lanes : int
        Rows of a block.
    is_chunked : bool
        Whether a unit is a *chunk*, a run of `chunk_rows` rows with a gradient of its own. Else
        gradients are too large for that, and a pass goes from *panel* to panel of `panel_rows`
        rows: the residuals of a panel, a unit being a block, then one gradient, a unit being one
        of its parts, ``grid[0]`` by rows times ``grid[1]`` by columns.
    n_units : int
        Chunks, or the most blocks of a panel.
    want_gradient : bool
        Whether there is a gradient at all.
    """

    def __init__(
        self, n_samples: int, n_features: int, n_rows: int, itemsize: int, want_gradient: bool
    ) -> None:
        self.want_gradient = want_gradient
        self.n_lanes = lanes_of_block(n_features, n_rows, itemsize)
        n_blocks = -(-n_samples // self.n_lanes)
        scratch = self.n_lanes * (n_rows + N_LANE_ROWS) * itemsize
        most_units = max(1, min(_MOST_UNITS, n_blocks, _SCRATCH_BYTES // scratch))
        gradient = n_rows * (n_features + 1) * (8 if itemsize == 8 else 12)
        X_bytes = n_samples * n_features * itemsize
        affordable = max(_GRADIENT_BYTES, _GRADIENT_SHARE * X_bytes)
        self.is_chunked = not want_gradient or most_units * gradient <= affordable
        if self.is_chunked:
            cheap = max(_FEW_UNITS, int(_CHEAP_SHARE * X_bytes / gradient))
            most_units = min(most_units, cheap)
            self.chunk_rows = -(-n_blocks // most_units) * self.n_lanes
            self.n_units = -(-n_samples // self.chunk_rows) if n_samples else 0
        else:
            cached = max(
                _LEAST_PANEL_BLOCKS, _PANEL_BYTES // (n_features * itemsize * self.n_lanes)
            )
            interruptible = int(_CALL_WORK / (2.0 * n_features * n_rows * self.n_lanes))
            self.n_units = max(1, min(cached, interruptible, most_units))
            self.panel_rows = self.n_units * self.n_lanes
        # By columns first: then no part of X is read by two units.
        strips = min(_MOST_UNITS, -(-n_features * itemsize // STRIP_BYTES))
        self.grid = (min(_MOST_UNITS // strips, -(-n_rows // _LEAST_PART_ROWS)), strips)

    def cuts(self, work: float) -> list[NDArray[np.int64]]:
        """Return ``(chunk_rows, part_start, part_rows)`` for each call that makes up a pass.

        A call cannot be interrupted; `work` operations of the whole pass are cut into calls of
        about 0.1 s.
        """
        n_calls = max(1, math.ceil(work / _CALL_WORK))
        part_rows = max(1, -(-self.chunk_rows // n_calls // self.n_lanes)) * self.n_lanes
        starts = range(0, self.chunk_rows, part_rows)
        return [np.array([self.chunk_rows, start, part_rows]) for start in starts]

    def lanes(self, dtype: np.dtype[Any], *sizes: int) -> tuple[Array, ...]:
        """Return uninitialised lanes for each unit, one array of them for each number of rows."""
        return tuple(np.empty((self.n_units, size, self.n_lanes), dtype) for size in sizes)


class Memory:
    """Accumulators of a pass, kept for the next one; a pass at the same time gets others.

    Dask has its workers' allocator give memory back at once. Fresh accumulators then cost a page
    fault for each 4 KB, a fifth of a pass over mnist.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[tuple[Float64Array, Array]]] = {}

    @contextlib.contextmanager
    def accumulators(
        self, n_sums: int, n_rows: int, n_features: int, dtype: np.dtype[Any]
    ) -> Iterator[tuple[Float64Array, Array]]:
        """Lend what `accumulators` returns."""
        # All that sizes depend on: copies of a design share its memory, and may have another X.
        shape = n_sums, n_rows, n_features, dtype
        free = self._free.setdefault(shape, [])
        try:
            sums, partial = free.pop()
            sums.fill(0)
            partial.fill(0)
        except IndexError:
            sums, partial = accumulators(*shape)
        yield sums, partial
        free.append((sums, partial))

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, ()  # what it holds need not travel


def accumulators(
    n_sums: int, n_rows: int, n_features: int, dtype: np.dtype[Any]
) -> tuple[Float64Array, Array]:
    """Return float64 sums, and partial sums in the dtype of X, which may be the same.

    Shape (n_sums, n_rows, n_features + 1), zero, with padded rows.
    """
    shape = (n_sums, n_rows, n_features + 1)
    sums = padded_zeros(shape, np.dtype(np.float64))
    return (sums, sums) if dtype == np.float64 else (sums, padded_zeros(shape, dtype))
