"""What the machine can do, measured on the spot: read bandwidth and peak arithmetic."""

import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.environment import cpu_model
from bench.peak import ITEM_BYTES, MATRIX_SIZE, fma_peak, host_features
from bench.process import run_child

ARRAY_BYTES = 1 << 28  # far beyond any cache
THREADS = ("1", "2")


@dataclass(frozen=True)
class Limits:
    """Upper bounds for a number of threads, each the best of several runs."""

    bandwidth: float  # bytes read per second
    peak: dict[str, float]  # flops per second, by dtype
    peak_by: dict[str, str]  # what attained the peak, by dtype

    def bound(self, n_bytes: float, n_flops: float, dtype: str) -> float:
        """Return the least seconds of a pass: its bytes read once, or its arithmetic at the peak.

        Parameters
        ----------
        n_bytes : float
            Bytes that must come from memory.
        n_flops : float
            Additions and multiplications.
        dtype : {"float64", "float32"}
        """
        return max(n_bytes / self.bandwidth, n_flops / self.peak[dtype])

    def is_compute_bound(self, n_bytes: float, n_flops: float, dtype: str) -> bool:
        """Return whether the arithmetic takes longer than the reading."""
        return n_flops / self.peak[dtype] > n_bytes / self.bandwidth

    def better_of(self, other: "Limits") -> "Limits":
        """Return the larger of each figure: a limit is the best that was ever seen."""
        ours = {d: self.peak[d] >= other.peak[d] for d in self.peak}
        return Limits(
            max(self.bandwidth, other.bandwidth),
            {d: (self if ours[d] else other).peak[d] for d in ours},
            {d: (self if ours[d] else other).peak_by[d] for d in ours},
        )

    def __str__(self) -> str:
        """Return a clause for a page or a terminal."""
        peaks = ", ".join(
            f"{peak / 1e9:.0f} GFLOP/s {dtype} ({self.peak_by[dtype]})"
            for dtype, peak in self.peak.items()
        )
        return f"reads {self.bandwidth / 1e9:.1f} GB/s, computes {peaks}"


Machine = dict[str, Limits]  # by thread count


def measure(quick: bool = False) -> Machine:
    """Return the limits of this machine in the present environment."""
    repeats = 3 if quick else 7
    return {threads: _measure_threads(threads, repeats, quick) for threads in THREADS}


def measure_and_keep(path: Path, quick: bool = False) -> Machine:
    """Return the limits, the better of now and of what a file holds for this CPU; write it."""
    machine = measure(quick)
    if path.is_file() and json.loads(path.read_text()).get("cpu") == cpu_model():
        saved = read(path)
        machine = {threads: saved[threads].better_of(now) for threads, now in machine.items()}
    content = {"cpu": cpu_model(), "threads": {t: asdict(m) for t, m in machine.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    return machine


def read(path: Path) -> Machine:
    """Return saved limits."""
    content = json.loads(path.read_text())
    return {threads: Limits(**limits) for threads, limits in content["threads"].items()}


def read_bandwidth(n_threads: int, repeats: int, n_bytes: int) -> float:
    """Return bytes per second of threads that each read a slice of an array, the best run.

    ``max`` of integers is a vectorised reduction that does one comparison per word, so memory
    is what limits it; a floating-point ``sum`` is bound by its additions on some machines.
    """
    words = np.ones(n_bytes // 8, dtype=np.int64)
    slices = np.array_split(words, n_threads)
    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(repeats):
            begin = time.perf_counter()
            list(pool.map(np.max, slices))
            best = max(best, words.nbytes / (time.perf_counter() - begin))
    return best


def _measure_threads(threads: str, repeats: int, quick: bool) -> Limits:
    n_threads = min(int(threads), os.cpu_count() or 1)
    n_iterations = 1_000_000 if quick else 5_000_000
    found = {
        "register loop": {d: fma_peak(d, n_threads, repeats, n_iterations) for d in ITEM_BYTES}
    }
    size = str(MATRIX_SIZE // (4 if quick else 1))
    for kernel in _blas_kernels():
        variables = {"OPENBLAS_CORETYPE": kernel} if kernel else {}
        found[f"BLAS {kernel or 'as installed'}"] = run_child(
            ["bench.peak", str(repeats), size], str(n_threads), variables
        )
    best = {d: max((found[name][d], name) for name in found)[1] for d in ITEM_BYTES}
    return Limits(
        read_bandwidth(n_threads, repeats, ARRAY_BYTES // (4 if quick else 1)),
        {d: found[name][d] for d, name in best.items()},
        best,
    )


def _blas_kernels() -> list[str]:
    """Return the sets of BLAS kernels to try; "" is BLAS's own choice, at times a slow one."""
    wide = platform.machine().lower() in ("x86_64", "amd64") and host_features().get("avx512f")
    return ["", "SkylakeX"] if wide else [""]
