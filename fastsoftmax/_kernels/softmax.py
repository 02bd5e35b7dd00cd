"""Softmax, its logarithm and its losses on arrays of any size (eq. 1 and 6 on given logits).

An array is ``(n_outer, n_classes, n_inner)`` in C order: ``n_inner`` is 1 where the class axis is
the last one. All is done in *tiles*, which one core holds in its cache: ``tile[step, lane]`` in
scratch memory, such that maximum, exponential and sum run along the lanes as vector code. There
are three ways to fill a tile (`plan`):

- rows: `n_lanes` rows, transposed, one lane each and one class per step;
- columns: `n_lanes` neighbours along the inner axis, one class per step;
- folded: one long row, cut into steps of `n_lanes` classes, the last filled up with ``-inf``. The
  lanes' maxima and sums are then combined.

So an element is read once and written once. A row beyond `LONGEST` entries is cut into segments
of fixed size; their maxima and sums come from a first read, the result from a second
(`finish`), and threads share one row.

Conventions, besides those of `fastsoftmax._kernels.rows`: sums have the dtype of the logits, and
are compensated. Drivers take `geometry`, an int64 array
``(n_tiles, tiles_per_block, n_steps, n_lanes)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsoftmax._jit import block_kernel, driver, exact_kernel
from fastsoftmax._kernels.exp import exp_of_difference
from fastsoftmax._kernels.log1p import log1p_nonnegative
from fastsoftmax._kernels.rows import (
    ALL_MINUS_INFINITY,
    FINE,
    HAS_NAN,
    HAS_PLUS_INFINITY,
    add_compensated,
    log_probability,
)

#: A row of more bytes is folded: transposing then costs more than combining the lanes. With 200
#: classes of float64 2.6 ns an element and thread, not 3.2; with 100 transposing takes 2.4.
_WIDEST_BYTES = 1024

#: A row of more entries is cut. Half an L2 cache of 1 MB, in float64.
LONGEST = 65536
SEGMENT = 16384

#: Lanes of a folded tile, for short rows and for long ones: a cost per row, or a tenth of all.
_FOLDED_LANES = 16
_LONG_FOLDED_LANES = 32
_LONG = 4096

#: Tiles of rows are small, so that memory never rests for long: 16 kB took 15 % more time than
#: this with 100 classes of float64. Tiles of columns touch long runs of memory instead.
_TILE_BYTES = 8192
_COLUMN_LANES = 64

#: Entries of a block: some 20 us of one core.
_BLOCK_ENTRIES = 16384

# What the maps write.
SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, SUMS = range(4)

# Rows of the lanes' scratch.
_PEAK, _TOTAL, _ERROR, _TOPS = range(4)
_N_LANE_ROWS = 4


def plan(shape: tuple[int, ...], itemsize: int) -> tuple[Any, int]:
    """Return the geometry of a sweep, and how many entries of scratch a thread needs."""
    n_outer, n_classes, n_inner = shape
    n_steps = n_classes
    if n_classes > LONGEST:
        n_lanes = _LONG_FOLDED_LANES
        n_steps = SEGMENT // n_lanes
        n_tiles = n_outer * n_segments(n_classes)
    elif not takes_columns(n_classes, itemsize):
        n_lanes = _LONG_FOLDED_LANES if n_classes >= _LONG else _FOLDED_LANES
        n_steps, n_tiles = -(-n_classes // n_lanes), n_outer
    elif n_inner == 1:
        n_lanes = 64 // itemsize  # a cache line, and the widest vector
        while n_lanes < 64 and 2 * n_lanes * n_classes * itemsize <= _TILE_BYTES:
            n_lanes *= 2
        n_tiles = -(-n_outer // n_lanes)
    else:
        n_lanes = _COLUMN_LANES
        n_tiles = n_outer * -(-n_inner // n_lanes)
    tiles_per_block = max(1, _BLOCK_ENTRIES // (n_steps * n_lanes))
    geometry = np.array([n_tiles, tiles_per_block, n_steps, n_lanes], np.int64)
    return geometry, (n_steps + _N_LANE_ROWS) * n_lanes


def n_segments(n_classes: int) -> int:
    """Return into how many parts a row beyond `LONGEST` is cut."""
    return -(-n_classes // SEGMENT)


def takes_columns(n_classes: int, itemsize: int) -> bool:
    """Tell whether a lane holds one sample, so that the class axis need not be the last."""
    return n_classes * itemsize <= _WIDEST_BYTES


# --- A tile ---------------------------------------------------------------------------------------


@block_kernel
def _load_rows(rows: Any, tile: Any) -> None:
    """Transpose rows; the other lanes become 0.

    One cycle an element where the tile fits L1, if memory is read along the rows.
    """
    zero = tile.dtype.type(0)
    for j in range(rows.shape[0]):
        row = rows[j]
        for k in range(tile.shape[0]):
            tile[k, j] = row[k]
    for j in range(rows.shape[0], tile.shape[1]):
        for k in range(tile.shape[0]):
            tile[k, j] = zero


@block_kernel
def _load_columns(block: Any, first: Any, n: Any, tile: Any) -> None:
    zero = tile.dtype.type(0)
    for k in range(tile.shape[0]):
        line = tile[k]
        source = block[k, first : first + n]
        for i in range(n):
            line[i] = source[i]
        for i in range(n, tile.shape[1]):
            line[i] = zero


@block_kernel
def _load_folded(row: Any, flat: Any) -> None:
    for k in range(row.size):
        flat[k] = row[k]
    for k in range(row.size, flat.size):
        flat[k] = -np.inf


@block_kernel
def _peaks(tile: Any, peak: Any) -> None:
    """Write the maximum of each lane; a NaN is passed over."""
    n_lanes = tile.shape[1]
    for i in range(n_lanes):
        peak[i] = -np.inf
    n_fours = tile.shape[0] // 4
    for four in range(n_fours):
        a, b, c, d = tile[4 * four], tile[4 * four + 1], tile[4 * four + 2], tile[4 * four + 3]
        for i in range(n_lanes):
            ab = a[i] if a[i] > peak[i] else peak[i]
            ab = b[i] if b[i] > ab else ab
            ab = c[i] if c[i] > ab else ab
            peak[i] = d[i] if d[i] > ab else ab
    for k in range(4 * n_fours, tile.shape[0]):
        a = tile[k]
        for i in range(n_lanes):
            peak[i] = a[i] if a[i] > peak[i] else peak[i]


@block_kernel
def _unite_peaks(peak: Any) -> None:
    """Give all lanes of a folded row its maximum."""
    half = peak.size // 2
    while half > 0:
        for i in range(half):
            peak[i] = peak[half + i] if peak[half + i] > peak[i] else peak[i]
        half //= 2
    for i in range(1, peak.size):
        peak[i] = peak[0]


@block_kernel
def _exponentials(tile: Any, peak: Any) -> None:
    """Overwrite the tile by ``exp(z - peak)``."""
    for k in range(tile.shape[0]):
        row = tile[k]
        for i in range(tile.shape[1]):
            row[i] = exp_of_difference(row[i], peak[i])


@block_kernel
def _folded_exponentials(flat: Any, greatest: Any) -> None:
    for k in range(flat.size):
        flat[k] = exp_of_difference(flat[k], greatest)


@exact_kernel
def _add_four(total: Any, error: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Add four terms, themselves summed pairwise; reassociation would sum them in a row."""
    return add_compensated(total, error, (a + b) + (c + d))


@block_kernel
def _sums(tile: Any, total: Any, error: Any) -> None:
    """Sum the lanes: four terms pairwise, then compensated. So K = 1e5 rounds like K = 4."""
    n_lanes = tile.shape[1]
    zero = tile.dtype.type(0)
    for i in range(n_lanes):
        total[i] = zero
        error[i] = zero
    n_fours = tile.shape[0] // 4
    for four in range(n_fours):
        t = tile[4 * four : 4 * four + 4]
        for i in range(n_lanes):
            total[i], error[i] = _add_four(total[i], error[i], t[0, i], t[1, i], t[2, i], t[3, i])
    for k in range(4 * n_fours, tile.shape[0]):
        row = tile[k]
        for i in range(n_lanes):
            total[i], error[i] = add_compensated(total[i], error[i], row[i])


@block_kernel
def _set_tops_aside(tile: Any, tops: Any) -> None:
    """Count the exponentials of 1 in each lane, those of greatest logits; overwrite them by 0."""
    one, zero = tile.dtype.type(1), tile.dtype.type(0)
    for i in range(tile.shape[1]):
        tops[i] = zero
    n_fours = tile.shape[0] // 4
    for four in range(n_fours):
        t = tile[4 * four : 4 * four + 4]
        for i in range(tile.shape[1]):
            a, b, c, d = t[0, i], t[1, i], t[2, i], t[3, i]
            ab = (one if a >= one else zero) + (one if b >= one else zero)
            tops[i] += ab + ((one if c >= one else zero) + (one if d >= one else zero))
            t[0, i] = zero if a >= one else a
            t[1, i] = zero if b >= one else b
            t[2, i] = zero if c >= one else c
            t[3, i] = zero if d >= one else d
    for k in range(4 * n_fours, tile.shape[0]):
        row = tile[k]
        for i in range(tile.shape[1]):
            tops[i] += one if row[i] >= one else zero
            row[i] = zero if row[i] >= one else row[i]


@exact_kernel
def _plus_all_but_one(below: Any, tops: Any) -> Any:
    """Return ``below + (tops - 1)``, safe from reassociation: `below` may be tiny."""
    return below + (tops - np.float32(1))  # in either dtype


@block_kernel
def _unite_sums(total: Any, error: Any, tops: Any) -> None:
    """Add the lanes' sums and counts into lane 0, again compensated."""
    half = total.size // 2
    while half > 0:
        for i in range(half):
            both = error[i] + error[half + i]
            total[i], error[i] = add_compensated(total[i], both, total[half + i])
            tops[i] += tops[half + i]
        half //= 2


@block_kernel
def _status_of_peaks(tile: Any, n: Any, peak: Any) -> Any:
    n_bad = np.int64(0)
    for i in range(n):
        n_bad += np.int64(not (peak[i] > -np.inf and peak[i] < np.inf))
    if n_bad == 0:
        return FINE  # NaN entries show in the sums
    for i in range(n):
        if peak[i] == np.inf:
            return HAS_PLUS_INFINITY
    for k in range(tile.shape[0]):
        for i in range(n):
            if tile[k, i] != tile[k, i]:
                return HAS_NAN
    return ALL_MINUS_INFINITY


@block_kernel
def _position(tile_number: Any, logits: Any, n_entries: Any, n_lanes: Any, is_folded: Any) -> Any:
    """Return ``(outer, first, n)``: where a tile begins and how many lanes it fills.

    `first` counts along the inner axis, or the segments of a folded row.
    """
    n_outer, n_inner = logits.shape[0], logits.shape[2]
    if is_folded:
        per_row = (logits.shape[1] + n_entries - 1) // n_entries
        return tile_number // per_row, tile_number % per_row, np.int64(1)
    if n_inner == 1:
        first = tile_number * n_lanes
        return first, np.int64(0), min(n_lanes, n_outer - first)
    per_line = (n_inner + n_lanes - 1) // n_lanes
    first = (tile_number % per_line) * n_lanes
    return tile_number // per_line, first, min(n_lanes, n_inner - first)


# --- Equation 1 -----------------------------------------------------------------------------------


@block_kernel
def _store_folded(flat: Any, scale: Any, row: Any) -> None:
    for k in range(row.size):
        row[k] = flat[k] * scale


@block_kernel
def _store_rows(tile: Any, scale: Any, rows: Any) -> None:
    for j in range(rows.shape[0]):
        row, s = rows[j], scale[j]
        for k in range(tile.shape[0]):
            row[k] = tile[k, j] * s


@block_kernel
def _store_columns(tile: Any, scale: Any, first: Any, n: Any, block: Any) -> None:
    for k in range(tile.shape[0]):
        source, line = tile[k], block[k, first : first + n]
        for i in range(line.size):
            line[i] = source[i] * scale[i]


@block_kernel
def _log_rows(logits: Any, peak: Any, log_mass: Any, rows: Any) -> None:
    for j in range(rows.shape[0]):
        source, row = logits[j], rows[j]
        greatest, mass = peak[j], log_mass[j]
        for k in range(row.size):
            row[k] = log_probability(source[k], greatest, mass)


@block_kernel
def _log_columns(logits: Any, peak: Any, log_mass: Any, first: Any, n: Any, block: Any) -> None:
    for k in range(block.shape[0]):
        source, line = logits[k, first : first + n], block[k, first : first + n]
        for i in range(line.size):
            line[i] = log_probability(source[i], peak[i], log_mass[i])


@block_kernel
def _map_block(
    block: Any,
    kind: Any,
    geometry: Any,
    logits: Any,
    out: Any,
    scratch: Any,
) -> Any:
    n_tiles, tiles_per_block, n_steps, n_lanes = geometry
    is_folded = n_steps < logits.shape[1]
    n_entries = n_steps * n_lanes
    flat = scratch[:n_entries]
    tile = flat.reshape(n_steps, n_lanes)
    lanes = scratch[n_entries : n_entries + _N_LANE_ROWS * n_lanes].reshape(_N_LANE_ROWS, n_lanes)
    peak, total, error, tops = lanes[_PEAK], lanes[_TOTAL], lanes[_ERROR], lanes[_TOPS]
    rows = logits.reshape(logits.shape[0], logits.shape[1] * logits.shape[2])
    out_rows = out.reshape(out.shape[0], out.shape[1] * out.shape[2])
    one = out.dtype.type(1)
    first_tile = block * tiles_per_block
    for number in range(first_tile, min(first_tile + tiles_per_block, n_tiles)):
        outer, first, n = _position(number, logits, n_entries, n_lanes, is_folded)
        if is_folded:
            _load_folded(rows[outer, first * n_entries : (first + 1) * n_entries], flat)
        elif logits.shape[2] == 1:
            _load_rows(rows[outer : outer + n], tile)
        else:
            _load_columns(logits[outer], first, n, tile)
        _peaks(tile, peak)
        if is_folded:
            _unite_peaks(peak)
        status = _status_of_peaks(tile, n, peak)
        if status != FINE and not (kind == SUMS and status == ALL_MINUS_INFINITY):
            return status
        if is_folded:
            _folded_exponentials(flat, peak[0])
        else:
            _exponentials(tile, peak)
        if kind != SOFTMAX:
            _set_tops_aside(tile, tops)
        _sums(tile, total, error)
        if is_folded:
            _unite_sums(total, error, tops)
        for i in range(n):
            if total[i] != total[i] and status == FINE:
                return HAS_NAN
        if kind != SOFTMAX:  # the `rest` of a row: one of its greatest logits is left out
            for i in range(n):
                total[i] = _plus_all_but_one(total[i], tops[i])
        if kind == SUMS:
            out[outer, first, 0] = peak[0]
            out[outer, first, 1] = total[0]
            out[outer, first, 2] = error[0]
            continue
        if kind == SOFTMAX:
            for i in range(n):
                total[i] = one / (total[i] + error[i])
            if is_folded:
                _store_folded(flat, total[0], out_rows[outer])
            elif logits.shape[2] == 1:
                _store_rows(tile, total, out_rows[outer : outer + n])
            else:
                _store_columns(tile, total, first, n, out[outer])
            continue
        for i in range(n):
            total[i] = log1p_nonnegative(np.float64(total[i]) + np.float64(error[i]))
        is_row_major = logits.shape[2] == 1
        if kind == LOGSUMEXP:
            for i in range(n):
                j = outer + i if is_row_major else outer
                out_rows[j, 0 if is_row_major else first + i] = peak[i] + total[i]
        elif is_row_major:
            _log_rows(rows[outer : outer + n], peak, total, out_rows[outer : outer + n])
        else:
            _log_columns(logits[outer], peak, total, first, n, out[outer])
    return FINE


@driver
def map(
    first: Any,
    last: Any,
    kind: Any,
    geometry: Any,
    logits: Any,
    out: Any,
    n_scratch: Any,
    statuses: Any,
) -> None:
    """Write eq. 1, its logarithm, or the logarithm of its denominator to `out`.

    `out` may be the logits' memory; for `LOGSUMEXP` it has one class. For `SUMS` it is
    ``(n_rows, n_segments, 3)`` and gets each segment's maximum, and its `rest` in two parts. A
    segment that is minus infinity throughout has that maximum, and an undefined `rest`.
    """
    scratch = np.empty(n_scratch, logits.dtype)
    for block in range(first, last):
        statuses[block] = _map_block(block, kind, geometry, logits, out, scratch)


# --- Equation 1 of rows too long for a cache ------------------------------------------------------


@block_kernel
def _map_segment(block: Any, kind: Any, logits: Any, peaks: Any, factors: Any, out: Any) -> None:
    n_segments = (logits.shape[1] + SEGMENT - 1) // SEGMENT
    i, segment = block // n_segments, block % n_segments
    source = logits[i, segment * SEGMENT : (segment + 1) * SEGMENT]
    row = out[i, segment * SEGMENT : (segment + 1) * SEGMENT]
    peak, factor = peaks[i], factors[i]
    if kind == SOFTMAX:
        for k in range(row.size):
            row[k] = exp_of_difference(source[k], peak) * factor
    else:
        for k in range(row.size):
            row[k] = log_probability(source[k], peak, factor)


@driver
def finish(
    first: Any, last: Any, kind: Any, logits: Any, peaks: Any, factors: Any, out: Any
) -> None:
    """Write eq. 1 or its logarithm from maxima, and reciprocal sums or their logarithms."""
    for block in range(first, last):
        _map_segment(block, kind, logits, peaks, factors, out)
