"""What sparse data cost at least: random reads of table rows, measured by the cache they come from.

The model of the bound of a pass over CSR rows, in seconds at a number of threads:

    streamed bytes / bandwidth + forward reads + backward reads, or its arithmetic at the peak.

Forward, each non-zero reads a row of K coefficients. Backward, it reads a row of K residuals (sums
by columns) or adds to a row of the gradient (sums by rows): the cheaper of the two counts.
A row is read as whole cache lines. The most frequent rows that fit in a cache are taken to stay
there, and their reads cost what reads from a table in that cache were measured to; so no order of
the rows and no blocking is foreseen, which may do better. Streamed are the non-zeros and their
indices, a second time where sums go by columns, the residuals and the gradient, once each.
"""

import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from bench.environment import cpu_model
from bench.machine import THREADS, Machine
from bench.operation import parse_shape
from bench.operations.sparse import sparse_data
from bench.problems import Array, Matrix, ProblemUnavailableError

FILE = "gathers.json"
LINE = 64
LINES = (1, 2, 4, 8)  # cache lines of a row
MEMORY_BYTES = 1 << 28  # of the table that no cache holds
N_READS = 1 << 18
MIN_SECONDS = 0.2  # of repeated runs, the best of which counts
#: Where the system does not tell: a level's bytes.
USUAL_CACHES = {"L1": 1 << 15, "L2": 1 << 20, "L3": 1 << 25}
MEMORY = "memory"

Seconds = dict[str, list[float]]  # of one row by level, for each of LINES; all threads busy


@dataclass(frozen=True)
class Bound:
    """The least seconds of a pass by the model, in its parts."""

    streamed: float
    forward: float
    backward: float
    arithmetic: float
    backward_by: str  # "columns" or "rows"

    @property
    def seconds(self) -> float:
        """Return the bound."""
        return max(self.streamed + self.forward + self.backward, self.arithmetic)


Bounds = dict[str, dict[str, Bound]]  # by `case_name` and threads


@dataclass(frozen=True)
class Gathers:
    """Sizes of the caches and seconds of a row's read, at each number of threads."""

    caches: dict[str, int]
    seconds: dict[str, Seconds]

    def row_seconds(self, threads: str, level: str, n_lines: int) -> float:
        """Return the seconds of a row of so many lines, interpolated between those measured."""
        known = self.seconds[threads][level]
        if n_lines > LINES[-1]:
            return known[-1] * n_lines / LINES[-1]
        return float(np.interp(n_lines, LINES, known))

    def reads(self, threads: str, counts: Array, row_bytes: int) -> float:
        """Return the seconds to read table rows so many times each; see the module."""
        n_lines = -(-row_bytes // LINE)
        counts = np.sort(counts[counts > 0])[::-1]
        cumulated = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        total, done = 0.0, 0
        for level, size in [*self.caches.items(), (MEMORY, None)]:
            n_fit = len(counts) if size is None else min(len(counts), size // (LINE * n_lines))
            n_reads = int(cumulated[max(n_fit, done)] - cumulated[done])
            total += n_reads * self.row_seconds(threads, level, n_lines)
            done = max(n_fit, done)
        return total

    def bound(self, threads: str, machine: Machine, X: Matrix, n_rows: int, dtype: str) -> Bound:
        """Return the bound of a pass over X with so many logit rows."""
        itemsize = 8 if dtype == "float64" else 4
        row_bytes, bandwidth = n_rows * itemsize, machine[threads].bandwidth
        by_column = np.bincount(X.indices, minlength=X.shape[1])
        coefficients = self.reads(threads, by_column, row_bytes)
        residuals = self.reads(threads, np.diff(X.indptr), row_bytes)
        non_zeros = X.nnz * (itemsize + 4) / bandwidth
        written = row_bytes * (X.shape[0] + X.shape[1]) / bandwidth
        by_columns = residuals + non_zeros <= coefficients
        return Bound(
            non_zeros * (2 if by_columns else 1) + written,
            coefficients,
            residuals if by_columns else coefficients,
            4 * X.nnz * n_rows / machine[threads].peak[dtype],
            "columns" if by_columns else "rows",
        )


def measure(quick: bool = False) -> Gathers:
    """Return what reads take on this machine."""
    caches = cache_sizes()
    tables = {level: size // 2 for level, size in caches.items()}  # beside them lies the list
    tables[MEMORY] = max(MEMORY_BYTES // (8 if quick else 1), 2 * max(caches.values()))
    found = {
        threads: {
            level: [
                _row_seconds(int(threads), size, n, 0.02 if quick else MIN_SECONDS) for n in LINES
            ]
            for level, size in tables.items()
        }
        for threads in THREADS
    }
    return Gathers(caches, found)


def measure_and_keep(
    path: Path, machine: Machine, cases: Iterable[tuple[str, str]], quick: bool = False
) -> None:
    """Write what reads take, the better of now and before on this CPU, and the bounds of cases.

    A case is the name of a shape and a dtype.
    """
    now = measure(quick)
    saved = json.loads(path.read_text()) if path.is_file() else {}
    if saved.get("cpu") == cpu_model() and saved["caches"] == now.caches:
        best: dict[str, Seconds] = {
            threads: {
                level: list(map(min, seconds, saved["seconds"][threads][level]))
                for level, seconds in by_level.items()
            }
            for threads, by_level in now.seconds.items()
        }
        now = Gathers(now.caches, best)
    else:
        saved = {}
    bounds = saved.get("bounds", {})
    for shape, dtype in sorted(cases):
        try:
            X, _, params = sparse_data(parse_shape(shape), dtype)
        except ProblemUnavailableError:
            continue  # as its rows will say
        bounds[case_name(shape, dtype)] = {
            threads: asdict(now.bound(threads, machine, X, len(params), dtype))
            for threads in THREADS
        }
    content = {"cpu": cpu_model(), **asdict(now), "bounds": bounds}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_bounds(path: Path) -> Bounds:
    """Return the saved bounds by case and threads."""
    content = json.loads(path.read_text()) if path.is_file() else {"bounds": {}}
    return {
        case: {threads: Bound(**parts) for threads, parts in by_threads.items()}
        for case, by_threads in content["bounds"].items()
    }


def case_name(shape: str, dtype: str) -> str:
    """Return the key of a bound."""
    return f"{shape} {dtype}"


def cache_sizes() -> dict[str, int]:
    """Return the bytes of each level of data cache where the system tells, else usual ones."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = "L" + (index / "level").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[level] = 1024 * int(size[:-1])
    return found or dict(USUAL_CACHES)


def _row_seconds(n_threads: int, table_bytes: int, n_lines: int, least: float) -> float:
    """Return the seconds of one read of a random row of one table, the best run of all threads."""
    n_threads = min(n_threads, os.cpu_count() or 1)
    words = LINE // 8
    table = np.ones((max(1, table_bytes // (LINE * n_lines)), n_lines * words))
    rng = np.random.default_rng(0)
    rows = [rng.integers(len(table), size=N_READS, dtype=np.int32) for _ in range(n_threads)]
    best = np.inf
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda chosen: _gather(table, chosen[:64]), rows))  # compiled, once
        end = time.perf_counter() + least
        while time.perf_counter() < end or best == np.inf:
            begin = time.perf_counter()
            list(pool.map(lambda chosen: _gather(table, chosen), rows))
            best = min(best, time.perf_counter() - begin)
    return best / (n_threads * N_READS)


@numba.njit(nogil=True, fastmath=True)
def _gather(table: Any, rows: Any) -> Any:
    """Return the sum of one number of each cache line of the chosen rows."""
    total = 0.0
    for i in rows:
        for j in range(0, table.shape[1], 8):
            total += table[i, j]
    return total
