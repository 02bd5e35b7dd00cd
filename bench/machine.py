"""What the machine can do: read bandwidth and matrix-product peak, measured on the spot."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

ARRAY_BYTES = 1 << 28  # far beyond any cache
MATRIX_SIZE = 2048


@dataclass(frozen=True)
class Machine:
    """Upper bounds of what one pass can attain; all cores, best of several runs."""

    bandwidth: float  # bytes read per second
    peak_float64: float  # flops per second
    peak_float32: float

    def bound(self, n_bytes: int, n_flops: int, dtype: str) -> float:
        """Return the least seconds of a pass: X read once, or its arithmetic at the peak."""
        peak = self.peak_float64 if dtype == "float64" else self.peak_float32
        return max(n_bytes / self.bandwidth, n_flops / peak)


def measure(quick: bool = False) -> Machine:
    """Return the limits of this machine in the present environment."""
    repeats = 3 if quick else 7
    return Machine(
        bandwidth=read_bandwidth(repeats, ARRAY_BYTES),
        peak_float64=gemm_peak("float64", repeats, MATRIX_SIZE // (4 if quick else 1)),
        peak_float32=gemm_peak("float32", repeats, MATRIX_SIZE // (4 if quick else 1)),
    )


def read_bandwidth(repeats: int, n_bytes: int) -> float:
    """Return bytes per second, the best over 1, 2, ... threads that each read a slice.

    ``max`` of integers is a vectorised reduction that does one comparison per word, so memory
    is what limits it; a floating-point ``sum`` is bound by its additions on some machines.
    """
    words = np.ones(n_bytes // 8, dtype=np.int64)
    n_cores = os.cpu_count() or 1
    best = 0.0
    for n_threads in sorted({1, 2, n_cores} & set(range(1, n_cores + 1))):
        slices = np.array_split(words, n_threads)
        with ThreadPoolExecutor(n_threads) as pool:
            for _ in range(repeats):
                begin = time.perf_counter()
                list(pool.map(np.max, slices))
                best = max(best, words.nbytes / (time.perf_counter() - begin))
    return best


def gemm_peak(dtype: str, repeats: int, size: int) -> float:
    """Return flops per second of a square matrix product in NumPy's BLAS as installed."""
    a = np.ones((size, size), dtype=dtype)
    out = np.empty_like(a)
    best = 0.0
    for _ in range(repeats):
        begin = time.perf_counter()
        np.matmul(a, a, out=out)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - begin))
    return best


if __name__ == "__main__":
    print(json.dumps(asdict(measure()), indent=2))
