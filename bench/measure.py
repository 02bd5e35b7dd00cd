"""The process that times one operation of one library on one shape, and prints what it found."""

import argparse
import json
import os
import re
import statistics
import sys
import time
from typing import Any

from bench.operation import Case, find_operations, parse_shape

MIN_SECONDS = 0.3


def timed(case: Case) -> dict[str, Any]:
    """Return medians of at least ``case.repeats`` calls, the companion's in turns with ours."""
    seconds: list[float] = []
    companion: list[float] = []
    end = time.perf_counter() + MIN_SECONDS
    while len(seconds) < case.repeats or time.perf_counter() < end:
        begin = time.perf_counter()
        case.run()
        middle = time.perf_counter()
        seconds.append(middle - begin)
        if case.companion is not None:
            case.companion()
            companion.append(time.perf_counter() - middle)
    return {
        "seconds": statistics.median(seconds),
        "repeats": len(seconds),
        "companion_seconds": statistics.median(companion) if companion else None,
    }


def vector_bits() -> int:
    """Return the width of the vector registers that Numba's code uses here; 0 if unknown."""
    import numba

    @numba.njit("void(f4, f4[::1], f4[::1])")
    def axpy(a, x, y):  # type: ignore[no-untyped-def]  # Numba infers them
        for i in range(len(x)):
            y[i] += a * x[i]

    (assembly,) = axpy.inspect_asm().values()
    for register, bits in (("zmm", 512), ("ymm", 256), ("xmm", 128)):
        if re.search(rf"%{register}\d", assembly):
            return bits
    return 0


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("operation")
    parser.add_argument("library")
    parser.add_argument("shape", type=parse_shape)
    parser.add_argument("dtype")
    options = parser.parse_args()
    if options.library == "torch":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    operation = find_operations()[options.operation]
    case = operation.libraries[options.library](options.shape, options.dtype)
    begin = time.perf_counter()
    first = case.run()
    reply: dict[str, Any] = {"first_seconds": time.perf_counter() - begin}
    reply["error"] = case.error(first)
    del first
    if case.companion is not None:
        case.companion()
    reply |= timed(case)
    if options.library == "fastsoftmax":
        reply["vector_bits"] = vector_bits()
    print(json.dumps(reply))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
