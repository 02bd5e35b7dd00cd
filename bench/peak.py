"""Peak arithmetic of this machine: a loop of fused multiply-adds in registers, and BLAS products.

The loop is LLVM code, not Python compiled by Numba, because its point is to be full-width vector
code whatever the vectoriser thinks: as many independent accumulators as hide the latency of a
multiply-add, and no memory. As a program it prints the peak of BLAS, which reads
``OPENBLAS_CORETYPE`` and the thread count once, when it is loaded.
"""

import ctypes
import functools
import json
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np

MATRIX_SIZE = 2048
LLVM_TYPES = {"float64": "double", "float32": "float"}
ITEM_BYTES = {"float64": 8, "float32": 4}


def fma_peak(dtype: str, n_threads: int, repeats: int, n_iterations: int) -> float:
    """Return flops per second of multiply-adds in registers, the best of several runs.

    Parameters
    ----------
    dtype : {"float64", "float32"}
    n_threads : int
        Threads that run the loop at once.
    repeats : int
        Runs, of which the best counts.
    n_iterations : int
        Turns of the loop in a run; 10 million take about 0.1 s.
    """
    loop, n_flops = _compiled_loop(dtype)
    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(repeats):
            begin = time.perf_counter()
            list(pool.map(loop, [n_iterations] * n_threads))
            seconds = time.perf_counter() - begin
            best = max(best, n_threads * n_iterations * n_flops / seconds)
    return best


def blas_peak(dtype: str, repeats: int, size: int) -> float:
    """Return flops per second of a square matrix product, in the environment as it is."""
    a = np.ones((size, size), dtype=dtype)
    out = np.empty_like(a)
    best = 0.0
    for _ in range(repeats):
        begin = time.perf_counter()
        np.matmul(a, a, out=out)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - begin))
    return best


def host_features() -> dict[str, bool]:
    """Return the CPU's features by LLVM's names; empty where LLVM cannot tell."""
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:
        return {}


def _vector_registers() -> tuple[int, int]:
    """Return bytes of the widest vector register, and how many accumulators to keep in them."""
    features = host_features()
    if features.get("avx512f"):
        return 64, 16  # of 32 registers
    if features.get("avx2"):
        return 32, 10  # of 16, two of which hold the factor and the term
    return 16, 24 if platform.machine().lower() in ("arm64", "aarch64") else 10


@functools.cache
def _compiled_loop(dtype: str) -> tuple[Callable[[int], float], int]:
    """Return the loop as a function of its turns, which releases the GIL, and flops per turn."""
    width, n_accumulators = _vector_registers()
    n_lanes = width // ITEM_BYTES[dtype]
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=",".join(f"{'+' if on else '-'}{name}" for name, on in host_features().items()),
        opt=2,
    )
    module = llvm.parse_assembly(_loop_source(LLVM_TYPES[dtype], n_lanes, n_accumulators))
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64)(
        engine.get_function_address("fma_loop")
    )

    def loop(n_iterations: int) -> float:
        assert engine is not None  # it owns the code
        return float(function(n_iterations))

    return loop, 2 * n_lanes * n_accumulators


def _loop_source(scalar: str, n_lanes: int, n_accumulators: int) -> str:
    """Return LLVM code that runs ``a = a * factor + term`` on every accumulator, n times."""
    vector = f"<{n_lanes} x {scalar}>"
    fma = f"@llvm.fma.v{n_lanes}{'f64' if scalar == 'double' else 'f32'}"
    numbers = range(n_accumulators)
    # The factor comes from memory, so that no compiler can fold the loop.
    before = [f"%a{i} = phi {vector} [ %factor, %entry ], [ %b{i}, %loop ]" for i in numbers]
    after = [
        f"%b{i} = call {vector} {fma}({vector} %a{i}, {vector} %factor, {vector} %factor)"
        for i in numbers
    ]
    sums = ["%s0 = extractelement " + f"{vector} %b0, i32 0"]
    for i in numbers[1:]:
        sums.append(f"%e{i} = extractelement {vector} %b{i}, i32 0")
        sums.append(f"%s{i} = fadd {scalar} %s{i - 1}, %e{i}")
    last = f"%s{n_accumulators - 1}"
    result = last if scalar == "double" else "%wide"
    if scalar != "double":
        sums.append(f"%wide = fpext {scalar} {last} to double")
    return f"""
declare {vector} {fma}({vector}, {vector}, {vector})
@half = global {scalar} 0.5
define double @fma_loop(i64 %n) "prefer-vector-width"="512" "min-legal-vector-width"="512" {{
entry:
  %x = load volatile {scalar}, ptr @half
  %v = insertelement {vector} undef, {scalar} %x, i32 0
  %factor = shufflevector {vector} %v, {vector} undef, <{n_lanes} x i32> zeroinitializer
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  {chr(10).join(before)}
  {chr(10).join(after)}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  {chr(10).join(sums)}
  ret double {result}
}}
"""


def main() -> None:
    """Print BLAS's flops per second by dtype; the arguments are repeats and matrix size."""
    repeats, size = map(int, sys.argv[1:])
    print(json.dumps({dtype: blas_peak(dtype, repeats, size) for dtype in LLVM_TYPES}))


if __name__ == "__main__":
    main()
