"""``python -m bench kernels``: one pass over X, against the machine and scikit-learn."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from bench import machine
from bench.adapter import find_libraries
from bench.console import messages, progress_bar, terminal
from bench.process import worker_environment
from bench.results import NAN, append_csv, read_csv
from bench.summary import NEVER

PASS_LIMIT = 300.0
# A pass is not a fit: its libraries take version and thread counts from these adapters.
ADAPTERS = {"fastsoftmax": "fastsoftmax", "scikit-learn": "sklearn-lbfgs"}
KEY = ("shape", "dtype", "library", "threads", "version")


@dataclass(frozen=True)
class Shape:
    """The size of a pass."""

    n_samples: int
    n_features: int
    n_classes: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Return the shape that ``NxDxK`` names."""
        return cls(*map(int, text.lower().split("x")))

    def __str__(self) -> str:
        """Return ``NxDxK``."""
        return f"{self.n_samples}x{self.n_features}x{self.n_classes}"

    @property
    def n_flops(self) -> int:
        """Return 4 n d K: logits and gradient, a multiplication and an addition each."""
        n_rows = 1 if self.n_classes == 2 else self.n_classes
        return 4 * self.n_samples * self.n_features * n_rows

    def n_bytes(self, dtype: str) -> int:
        """Return the size of X."""
        return self.n_samples * self.n_features * (8 if dtype == "float64" else 4)


GRID = [
    Shape(200_000, 100, 10),
    Shape(60_000, 784, 10),
    Shape(500_000, 54, 7),
    Shape(100_000, 50, 3),
    Shape(1_000_000, 20, 2),
    Shape(50_000, 300, 100),
    Shape(20_000, 512, 1000),
    Shape(5000, 2000, 20),
    Shape(1797, 64, 10),
    Shape(150, 4, 3),
]
QUICK_GRID = [Shape(2000, 50, 5), Shape(150, 4, 3)]


@dataclass(frozen=True)
class PassRow:
    """One library's pass on one shape and dtype at one BLAS thread count."""

    shape: str
    dtype: str
    library: str
    threads: str
    version: str
    status: str = "ok"
    reason: str = ""
    seconds: float = NAN  # median
    repeats: int = 0
    first_seconds: float = NAN  # with compilation
    error: float = NAN  # relative, of value and gradient, against float64 NumPy
    gigabytes_per_second: float = NAN  # of X
    gigaflops_per_second: float = NAN
    bound_seconds: float = NAN

    @property
    def key(self) -> tuple[str, ...]:
        """Return what identifies the measurement."""
        return tuple(getattr(self, name) for name in KEY)


def run_kernels(
    shapes: list[Shape], dtypes: list[str], folder: Path, fresh: bool, quick: bool
) -> int:
    """Measure the machine and every pass, write ``kernels.csv`` and print the table."""
    path = folder / "kernels.csv"
    if fresh:
        path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    limits = machine.measure(quick)
    (folder / "machine.json").write_text(json.dumps(asdict(limits), indent=2) + "\n")
    libraries = find_libraries()
    versions = {name: libraries[adapter].version() or "" for name, adapter in ADAPTERS.items()}
    todo = [
        PassRow(str(shape), dtype, library, threads, versions[library])
        for shape in shapes
        for dtype in dtypes
        for library in ADAPTERS
        for threads in libraries[ADAPTERS[library]].threads
    ]
    keys = {row.key for row in todo}
    done = {key for line in read_csv(path) if (key := tuple(line.get(n) for n in KEY)) in keys}
    console = messages()
    try:
        with progress_bar(console) as progress:
            task = progress.add_task("starting", total=len(todo))
            for row in todo:
                progress.update(task, description=" ".join(row.key))
                if row.key not in done:
                    row = _measure(row, limits)
                    append_csv(path, asdict(row))
                    outcome = f"{row.seconds:.3g} s" if row.status == "ok" else row.reason
                    console.print(f"{' '.join(row.key)}: {outcome}")
                progress.advance(task)
    except KeyboardInterrupt:
        console.print(f"Interrupted. The rows stand in {path}; the same command goes on.")
        return 130
    lines = [line for line in read_csv(path) if tuple(line.get(n) for n in KEY) in keys]
    tables = terminal()
    tables.print(
        f"read bandwidth {limits.bandwidth / 1e9:.1f} GB/s, BLAS peak "
        f"{limits.peak_float64 / 1e9:.0f} GFLOP/s float64, "
        f"{limits.peak_float32 / 1e9:.0f} GFLOP/s float32"
    )
    tables.print(_table(lines, shapes, dtypes))
    return 0


def _measure(row: PassRow, limits: machine.Machine) -> PassRow:
    """Return the row with the figures of one process, or with the reason why there are none."""
    shape = Shape.parse(row.shape)
    command = [
        sys.executable,
        "-m",
        "bench.one_pass",
        row.library,
        *row.shape.split("x"),
        row.dtype,
    ]
    try:
        child = subprocess.run(
            command,
            env=worker_environment(row.threads),
            capture_output=True,
            text=True,
            timeout=PASS_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return replace(row, status="cut", reason=f"longer than {PASS_LIMIT:g} s")
    if child.returncode != 0:
        words = child.stderr.strip().splitlines() or [f"code {child.returncode}"]
        return replace(row, status="failed", reason=words[-1])
    reply = json.loads(child.stdout.splitlines()[-1])
    return replace(
        row,
        **reply,
        gigabytes_per_second=shape.n_bytes(row.dtype) / reply["seconds"] / 1e9,
        gigaflops_per_second=shape.n_flops / reply["seconds"] / 1e9,
        bound_seconds=limits.bound(shape.n_bytes(row.dtype), shape.n_flops, row.dtype),
    )


def _table(rows: list[dict[str, str]], shapes: list[Shape], dtypes: list[str]) -> Table:
    """Return a row per shape and dtype: ours, the bound, scikit-learn at its better threads."""
    table = Table(title="One pass (value and gradient), median", title_justify="left")
    for name in ("shape", "dtype", "ms", "GB/s", "GFLOP/s", "bound ms", "attained", "error",
                 "scikit-learn ms", "ratio"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("shape", "dtype") else "right")
    for shape in shapes:
        for dtype in dtypes:
            ours = _best(rows, shape, dtype, "fastsoftmax")
            peer = _best(rows, shape, dtype, "scikit-learn")
            seconds, bound = float(ours["seconds"]), float(ours["bound_seconds"])
            table.add_row(
                str(shape),
                dtype,
                _number(seconds * 1e3),
                _number(float(ours["gigabytes_per_second"])),
                _number(float(ours["gigaflops_per_second"])),
                _number(bound * 1e3),
                _number(100 * bound / seconds, " %"),
                ours["error"] if ours["status"] != "ok" else f"{float(ours['error']):.0e}",
                f"{_number(float(peer['seconds']) * 1e3)} ({peer['threads']})",
                _number(float(peer["seconds"]) / seconds, "x"),
            )
    return table


def _best(rows: list[dict[str, str]], shape: Shape, dtype: str, library: str) -> dict[str, str]:
    chosen = [
        r for r in rows if (r["shape"], r["dtype"], r["library"]) == (str(shape), dtype, library)
    ]
    return min(chosen, key=lambda r: (math.isnan(float(r["seconds"])), float(r["seconds"])))


def _number(value: float, unit: str = "") -> str:
    return NEVER if math.isnan(value) else f"{value:.3g}{unit}"
