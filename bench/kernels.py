"""``python -m bench kernels``: one pass over X, against the machine and scikit-learn."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.one_pass import PASSES
from bench.process import worker_environment
from bench.report import terminal
from bench.results import NAN, append_csv, read_csv
from bench.summary import NEVER

PASS_LIMIT = 300.0
THREADS = {"fastsoftmax": ("installed",), "scikit-learn": ("1", "2")}


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
        return (self.shape, self.dtype, self.library, self.threads)


def run_kernels(
    shapes: list[Shape], dtypes: list[str], folder: Path, fresh: bool, quick: bool
) -> int:
    """Measure the machine and every pass, write ``kernels.csv`` and print the table."""
    console, progress = terminal(), Console(stderr=True, soft_wrap=True)
    path = folder / "kernels.csv"
    if fresh:
        path.unlink(missing_ok=True)
    done = {tuple(row[name] for name in ("shape", "dtype", "library", "threads")): row
            for row in read_csv(path)}  # fmt: skip
    progress.print("measuring the machine")
    limits = machine.measure(quick)
    (folder).mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(asdict(limits), indent=2) + "\n")
    console.print(
        f"read bandwidth {limits.bandwidth / 1e9:.1f} GB/s, BLAS peak "
        f"{limits.peak_float64 / 1e9:.0f} GFLOP/s float64, "
        f"{limits.peak_float32 / 1e9:.0f} GFLOP/s float32"
    )
    try:
        for shape in shapes:
            for dtype in dtypes:
                for library in PASSES:
                    for threads in THREADS[library]:
                        key = (str(shape), dtype, library, threads)
                        if key in done:
                            continue
                        row = _measure(shape, dtype, library, threads, limits)
                        append_csv(path, asdict(row))
                        outcome = f"{row.seconds:.3g} s" if row.status == "ok" else row.reason
                        progress.print(f"{' '.join(key)}: {outcome}")
    except KeyboardInterrupt:
        progress.print(f"Interrupted. The rows stand in {path}; the same command goes on.")
        return 130
    console.print(_table(read_csv(path), shapes, dtypes))
    return 0


def _measure(
    shape: Shape, dtype: str, library: str, threads: str, limits: machine.Machine
) -> PassRow:
    sizes = [str(shape.n_samples), str(shape.n_features), str(shape.n_classes)]
    row = PassRow(str(shape), dtype, library, threads)
    try:
        child = subprocess.run(
            [sys.executable, "-m", "bench.one_pass", library, *sizes, dtype],
            env=worker_environment(threads),
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
        gigabytes_per_second=shape.n_bytes(dtype) / reply["seconds"] / 1e9,
        gigaflops_per_second=shape.n_flops / reply["seconds"] / 1e9,
        bound_seconds=limits.bound(shape.n_bytes(dtype), shape.n_flops, dtype),
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
