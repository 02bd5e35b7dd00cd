"""``python -m bench memory``: the peak extra memory of a fit, of dense X and of sparse.

The measuring process is this module, too: it makes X in place, block by block, fits a few rows so
that compiling is not counted, and reads how far the fit raised its largest resident size.
"""

import json
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.console import messages, progress_bar, rich_table, terminal
from bench.goals import Verdict, at_most, verdicts_table
from bench.kernel_tables import sparse_name
from bench.operation import OURS, Shape, installed_version, parse_shape, shape_name
from bench.operations.sparse import PROBLEMS, sparse_data
from bench.problems import Array, matrix_bytes, problem_dtypes
from bench.process import ChildError, run_child
from bench.results import NAN, append_csv, read_csv
from bench.tables import TextTable, number

#: 2 GB of float32 and of float64; K = 20 is not below d / 20, so its fit may hold no (n, K) array.
CASES: list[tuple[Shape, str]] = [
    ((5_000_000, 100, 3), "float32"),
    ((5_000_000, 100, 20), "float32"),
    ((2_500_000, 100, 3), "float64"),
]
QUICK_CASES: list[tuple[Shape, str]] = [((200_000, 50, 3), "float32")]
STORAGES = ("array", "memmap")
CSR = "csr"
#: The problems of the suite, by shape.
SPARSE_CASES: list[tuple[Shape, str]] = [
    (shape, problem_dtypes(name)[0]) for shape, name in PROBLEMS.items()
]
QUICK_SPARSE_CASES: list[tuple[Shape, str]] = [((20_000, 50_000, 8), "float32")]
COPIES = 12
FIT_LIMIT = 900.0  # seconds, with making X
# Memory that was freed before must not stay with the process, to be used again unseen.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MAX_ITER = 12  # beyond the iterations after which a preconditioner is built anew


@dataclass(frozen=True)
class MemoryRow:
    """The memory of one fit. The first four fields are its key."""

    shape: str
    dtype: str
    storage: str  # "array", "memmap" of a file, read-only, or "csr"
    version: str
    status: str = "ok"
    reason: str = ""
    X_bytes: int = 0
    extra_bytes: int = 0  # largest resident size during the fit, less that before
    n_iter: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        """Return what identifies the measurement."""
        return self.shape, self.dtype, self.storage, self.version

    @property
    def allowed_bytes(self) -> float:
        """Return 5 % of X + 40 coefficients + the preconditioner + 2 n K where K < d / 20.

        The preconditioner is counted as the largest of the documented: (K D)² in float64 with
        D = d + 1, up to 2000 free parameters; K D² beyond. For sparse X: 12 copies of the
        coefficients in the solver's dtype, 2 X and n K residuals in that of X.
        """
        n, d, K = parse_shape(self.shape)
        n_params = K * (d + 1)
        itemsize = 8 if self.dtype == "float64" else 4
        if self.storage == CSR:
            return COPIES * n_params * itemsize + 2 * self.X_bytes + n * K * itemsize
        square = n_params**2 if (K - 1) * (d + 1) <= 2000 else K * (d + 1) ** 2
        cached = 2 * n * K * itemsize if d / 20 > K else 0
        return 0.05 * self.X_bytes + 8 * (40 * n_params + square) + cached


def run_memory(folder: Path, fresh: bool, quick: bool) -> int:
    """Measure fits, write ``memory.csv`` and print the table and the goal."""
    path = folder / "memory.csv"
    if fresh:
        path.unlink(missing_ok=True)
    version = installed_version(OURS) or ""
    cases = QUICK_CASES if quick else CASES
    todo = [
        MemoryRow(shape_name(s), dtype, storage, version)
        for s, dtype in cases
        for storage in STORAGES
    ]
    sparse_cases = QUICK_SPARSE_CASES if quick else SPARSE_CASES
    todo += [MemoryRow(shape_name(s), dtype, CSR, version) for s, dtype in sparse_cases]
    done = {row.key for row in read_rows(path)}
    with progress_bar(messages()) as progress:
        task = progress.add_task("starting", total=len(todo))
        for row in todo:
            progress.update(task, description=" ".join(row.key[:-1]))
            if row.key not in done:
                append_csv(path, asdict(_measured(row)))
            progress.advance(task)
    keys = {row.key for row in todo}
    rows = [row for row in read_rows(path) if row.key in keys]
    for table in memory_tables(rows):
        terminal().print(rich_table(table))
    return 1 if any(row.status != "ok" for row in rows) else 0


def read_rows(path: Path) -> list[MemoryRow]:
    """Return the saved rows."""
    kinds: dict[str, Any] = dict.fromkeys(MemoryRow.__annotations__, str)
    kinds |= {"X_bytes": int, "extra_bytes": int, "n_iter": int}
    return [MemoryRow(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]


def latest(rows: list[MemoryRow]) -> list[MemoryRow]:
    """Return the rows of the version that was measured last."""
    return [row for row in rows if row.version == rows[-1].version]


def memory_tables(rows: list[MemoryRow]) -> list[TextTable]:
    """Return the table and the goal."""
    lines = [
        [
            _name(row),
            row.dtype,
            row.storage,
            number(row.X_bytes / 1e6),
            number(row.extra_bytes / 1e6),
            number(row.allowed_bytes / 1e6),
            number(_percent(row), " %"),
            str(row.n_iter),
            row.reason,
        ]
        for row in rows
    ]
    header = ["n x d x K", "dtype", "X is", "X, MB", "extra, MB", "allowed, MB", "of X", "n_iter",
              ""]  # fmt: skip
    note = (
        "How far a fit raises the largest resident size of its process, after a fit of a few rows "
        "and with every page of X resident. Allowed: 5 % of X, 40 copies of the coefficients, the "
        "preconditioner, and 2 n K numbers where K < d / 20."
    )
    note += (
        f" For sparse X, csr: {COPIES} copies of the coefficients in the solver's dtype, 2 X and "
        "n K residuals."
    )
    table = TextTable("Memory of a fit", header, lines, note)
    return [table, verdicts_table(memory_goals(rows), "Memory goals")]


def memory_goals(rows: list[MemoryRow]) -> list[Verdict]:
    """Return the verdict on memory: extra bytes in percent of those allowed."""
    measured = [row for row in rows if row.status == "ok"]
    shares = {
        is_sparse: [
            (f"{_name(r)} {r.dtype} {r.storage}", 100 * r.extra_bytes / r.allowed_bytes)
            for r in measured
            if (r.storage == CSR) == is_sparse
        ]
        for is_sparse in (False, True)
    }
    goal = "a fit needs no more extra memory than allowed, also with a memmap"
    verdicts = [at_most(goal, 100.0, shares[False], " % of it")]
    if shares[True]:
        goal = f"a fit of sparse X needs at most {COPIES} copies of the coefficients + 2 X + n K"
        verdicts.append(at_most(goal, 100.0, shares[True], " % of it"))
    return verdicts


def _name(row: MemoryRow) -> str:
    return sparse_name(parse_shape(row.shape)) if row.storage == CSR else row.shape


def _percent(row: MemoryRow) -> float:
    return 100 * row.extra_bytes / row.X_bytes if row.X_bytes else NAN


def _measured(row: MemoryRow) -> MemoryRow:
    try:
        arguments = ["bench.memory", row.shape, row.dtype, row.storage]
        reply = run_child(arguments, "2", GIVE_BACK, limit=FIT_LIMIT)
    except ChildError as error:
        return replace(row, status=error.status, reason=str(error))
    return replace(row, **reply)


# --- The measuring process ------------------------------------------------------------------------


def extra_memory(shape: Shape, dtype: str, storage: str, folder: Path) -> dict[str, Any]:
    """Return the bytes of X and those that a fit needs besides."""
    from fastsoftmax import LogisticRegression

    X, y = sparse_data(shape, dtype)[:2] if storage == CSR else _data(shape, dtype, storage, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        # Enough for threads; of a sparse X a tenth, with as many coefficients.
        few = slice(60_000 if storage != CSR else len(y) // 10)
        LogisticRegression(max_iter=MAX_ITER).fit(X[few].copy(), y[few])
        float(X.max())  # pages of a file count as resident once they were read
        forget_peak()
        before = status_bytes("VmRSS")
        model = LogisticRegression(max_iter=MAX_ITER)
        model.fit(X, y)
    extra = max(0, status_bytes("VmHWM") - before)
    return {
        "X_bytes": matrix_bytes(X),
        "extra_bytes": extra,
        "n_iter": int(max(model.n_iter_)),
    }


def _data(shape: Shape, dtype: str, storage: str, folder: Path) -> tuple[Array, Array]:
    """Return X, made in place, and labels that depend on it."""
    n_samples, n_features, n_classes = shape
    if storage == "memmap":
        path = folder / "X.npy"
        X: Array = np.lib.format.open_memmap(path, "w+", dtype, (n_samples, n_features))
    else:
        X = np.empty((n_samples, n_features), dtype)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_features, n_classes))
    y = np.empty(n_samples, np.int64)
    for start in range(0, n_samples, 50_000):
        rows = slice(start, start + 50_000)
        X[rows] = rng.standard_normal(X[rows].shape, dtype=np.float32)
        noise = 4 * rng.gumbel(size=(len(X[rows]), n_classes))
        y[rows] = (X[rows] @ centres + noise).argmax(axis=1)
    if isinstance(X, np.memmap):
        X.flush()
        X = np.load(path, mmap_mode="r")
    return X, y


def forget_peak() -> None:
    """Let the kernel count this process's largest resident size from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def status_bytes(name: str) -> int:
    """Return an entry of this process's status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def main() -> None:
    """Print one JSON object; the arguments are shape, dtype and storage."""
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("this system does not tell a process's largest resident size")
    shape, dtype, storage = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(extra_memory(parse_shape(shape), dtype, storage, Path(folder))))


if __name__ == "__main__":
    main()
