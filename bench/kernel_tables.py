"""The tables of ``python -m bench kernels``, from saved rows and the machine's limits."""

from bench.gathers import case_name
from bench.kernel_rows import Measurements, known
from bench.operation import Shape, shape_name
from bench.operations.sparse import NAME as SPARSE
from bench.operations.sparse import PROBLEMS
from bench.summary import geometric_mean
from bench.tables import NEVER, TextTable, number


def kernel_tables(found: Measurements) -> list[TextTable]:
    """Return a table for each group of operations that has rows."""
    tables = [
        _passes(found),
        _in_passes(found, "hessian_vector_product", "Hessian-vector product"),
        _in_passes(found, "hessian_operator", "The same with probabilities kept"),
        _grams(found),
        *(_predictions(found, name) for name in ("predict_proba", "predict")),
        _one_row(found),
        _softmax(found),
        _narrow(found),
        _sparse(found),
    ]
    if missing := found.missing():
        lines = [[*row.key[:-1], row.status, row.reason] for row in missing]
        header = ["operation", "shape", "dtype", "library", "threads", "CPU", "", "reason"]
        tables.append(TextTable("Not measured", header, lines))
    return [table for table in tables if table.rows]


def _passes(found: Measurements) -> TextTable:
    name = "value_and_gradient"
    peers = found.peers(name)
    rows = []
    for shape, dtype in found.cases(name):
        arguments = found.operations[name].bound_arguments(shape, dtype)
        bound = found.machine["2"].bound(*arguments)
        by = "compute" if found.machine["2"].is_compute_bound(*arguments) else "memory"
        row = found.find(name, shape, dtype)
        rows.append(
            [
                shape_name(shape),
                dtype,
                *_ours_ms(found, name, shape, dtype),
                f"{number(1e3 * bound)} {by}",
                *(_percent(found.attained(name, shape, dtype, threads)) for threads in "21"),
                number(found.scaling(name, shape, dtype), "x"),
                *(_peer_ms(found, name, shape, dtype, peer) for peer in peers),
                number(found.ratio(name, shape, dtype), "x"),
                NEVER if row is None else f"{row.error:.0e}",
            ]
        )
    header = ["n x d x K", "dtype", "ms, 2 thr", "ms, 1 thr", "bound, ms", "attained",
              "1 thr", "1 to 2", *(f"{peer}, ms" for peer in peers), "best peer / ours",
              "error"]  # fmt: skip
    return TextTable(
        "One pass: value and gradient",
        header,
        rows + _means(found, name, len(header), peers),
        "Median seconds. The bound is max(bytes of X / bandwidth, 4 n d K / peak); attained is its "
        "share of our time, at as many threads. A peer's threads, the better of 1 and 2, stand in "
        "brackets. The error is the largest of value and gradient against float64 NumPy.",
    )


def _means(found: Measurements, name: str, width: int, peers: list[str]) -> list[list[str]]:
    """Return a line of geometric means of the ratios, one for each dtype."""
    lines = []
    for dtype in ("float64", "float32"):
        shapes = [shape for shape, other in found.cases(name) if other == dtype]
        if not shapes:
            continue
        means = [mean_ratio(found, name, dtype, peer) for peer in [*peers, None]]
        cells = [number(mean, "x") for mean in means]
        tail = [""] if name == "value_and_gradient" else []
        blank = [""] * (width - 2 - len(cells) - len(tail))
        lines.append(["geometric mean of ratios", dtype, *blank, *cells, *tail])
    return lines


def mean_ratio(found: Measurements, name: str, dtype: str, peer: str | None = None) -> float:
    """Return the geometric mean of a peer's, or the best peer's, time over ours."""
    ratios = [found.ratio(name, s, dtype, peer) for s, other in found.cases(name) if other == dtype]
    return geometric_mean([ratio for ratio in ratios if known(ratio)])


def _in_passes(found: Measurements, name: str, title: str) -> TextTable:
    rows = []
    for shape, dtype in found.cases(name):
        cells = [passes(found, name, shape, dtype, threads) for threads in ("2", "1")]
        row = found.find(name, shape, dtype)
        rows.append(
            [
                shape_name(shape),
                dtype,
                *_ours_ms(found, name, shape, dtype),
                *(number(cell) for cell in cells),
                NEVER if row is None else f"{row.error:.0e}",
            ]
        )
    header = ["n x d x K", "dtype", "ms, 2 thr", "ms, 1 thr", "passes, 2", "passes, 1",
              "error"]  # fmt: skip
    note = "A pass is `value_and_gradient`, called in turns with the product in one process."
    return TextTable(title, header, rows, note)


def passes(found: Measurements, name: str, shape: Shape, dtype: str, threads: str) -> float:
    """Return what an operation costs in passes."""
    row = found.find(name, shape, dtype, threads=threads)
    return float("nan") if row is None else row.seconds / row.companion_seconds


def _grams(found: Measurements) -> TextTable:
    name = "gram_block"
    rows = []
    for shape, dtype in found.cases(name):
        flops = found.operations[name].bound_arguments(shape, dtype)[1]
        rows.append(
            [
                shape_name(shape),
                dtype,
                *_ours_ms(found, name, shape, dtype),
                number(flops / found.seconds(name, shape, dtype, threads="2") / 1e9),
                *(_percent(peak_share(found, shape, dtype, threads)) for threads in "21"),
                _peer_ms(found, name, shape, dtype, "scikit-learn"),
                number(found.ratio(name, shape, dtype), "x"),
            ]
        )
    header = ["n x d", "dtype", "ms, 2 thr", "ms, 1 thr", "GFLOP/s", "of peak, 2",
              "of peak, 1", "scikit-learn, ms", "ratio"]  # fmt: skip
    return TextTable(
        "Weighted Gram blocks",
        header,
        rows,
        "One block `[X, 1]ᵀ diag(w) [X, 1]` with given weights, counted as n d (d + 1) operations, "
        "one triangle, of the peak in float64, in which both dtypes are summed. scikit-learn's is "
        "`sandwich_dot`.",
    )


def peak_share(found: Measurements, shape: Shape, dtype: str, threads: str = "2") -> float:
    """Return our share of the peak in Gram blocks, at as many threads."""
    flops = found.operations["gram_block"].bound_arguments(shape, dtype)[1]
    attained = flops / found.seconds("gram_block", shape, dtype, threads=threads)
    # Both dtypes are summed in float64: a Hessian has the squared condition number of X.
    return attained / found.machine[threads].peak["float64"]


def _predictions(found: Measurements, name: str) -> TextTable:
    rows = [
        [
            shape_name(shape),
            dtype,
            *_ours_ms(found, name, shape, dtype),
            number(found.scaling(name, shape, dtype), "x"),
            _peer_ms(found, name, shape, dtype, "scikit-learn"),
            number(found.ratio(name, shape, dtype), "x"),
        ]
        for shape, dtype in found.cases(name)
    ]
    header = ["n x d x K", "dtype", "ms, 2 thr", "ms, 1 thr", "1 to 2", "scikit-learn, ms",
              "ratio"]  # fmt: skip
    return TextTable(f"`{name}`", header, rows + _means(found, name, len(header), []))


def _one_row(found: Measurements) -> TextTable:
    rows = []
    for shape, dtype in found.cases("predict_proba_one_row"):
        row = found.find("predict_proba_one_row", shape, dtype)
        if row is not None:
            ours, theirs = 1e6 * row.seconds, 1e6 * row.companion_seconds
            cells = (number(ours), number(theirs), number(theirs / ours, "x"))
            rows.append([shape_name(shape), dtype, *cells, str(row.repeats)])
    header = ["n x d x K", "dtype", "ours, microseconds", "scikit-learn", "ratio", "calls"]
    return TextTable("`predict_proba` of one row", header, rows, "Medians of calls in turns.")


def _softmax(found: Measurements) -> TextTable:
    name = "softmax"
    peers = found.peers(name)
    rows = []
    for shape, dtype in found.cases(name):
        n_bytes = found.operations[name].bound_arguments(shape, dtype)[0]
        rows.append(
            [
                shape_name(shape),
                dtype,
                *_ours_ms(found, name, shape, dtype),
                number(n_bytes / found.seconds(name, shape, dtype) / 1e9),
                *(_peer_ms(found, name, shape, dtype, peer) for peer in peers),
                *(number(found.ratio(name, shape, dtype, peer), "x") for peer in peers),
            ]
        )
    header = ["n x K", "dtype", "ms, 2 thr", "ms, 1 thr", "GB/s",
              *(f"{peer}, ms" for peer in peers),
              *(f"{peer} / ours" for peer in peers)]  # fmt: skip
    note = "GB/s counts one read and one write of each number, at our better thread count."
    return TextTable("`functional.softmax`", header, rows, note)


def _narrow(found: Measurements) -> TextTable:
    name = "value_and_gradient"
    cpus = narrow_cpus(found)
    rows = []
    for shape, dtype in found.cases(name) if cpus else []:
        narrow = [found.find(name, shape, dtype, cpu=cpu) for cpu in cpus]
        rows.append(
            [
                shape_name(shape),
                dtype,
                *(NEVER if r is None else f"{number(1e3 * r.seconds)} ({r.vector_bits} bits)"
                  for r in narrow),
                _peer_ms(found, name, shape, dtype, "scikit-learn"),
                *(number(narrow_ratio(found, shape, dtype, cpu), "x") for cpu in cpus),
            ]
        )  # fmt: skip
    header = ["n x d x K", "dtype", *(f"{cpu}, ms" for cpu in cpus), "scikit-learn, ms",
              *(f"ratio, {cpu}" for cpu in cpus)]  # fmt: skip
    return TextTable(
        "Compiled for other CPUs",
        header,
        rows,
        "`value_and_gradient` with two threads under `NUMBA_CPU_NAME`, with the width of the "
        "vector registers that a probe in the same process got. scikit-learn uses all that this "
        "CPU has, through its BLAS.",
    )


def _sparse(found: Measurements) -> TextTable:
    rows = []
    for shape, dtype in found.cases(SPARSE):
        by_threads = found.bounds.get(case_name(shape_name(shape), dtype))
        parts = [NEVER] * 5
        if by_threads:
            bound = by_threads["2"]
            parts = [number(1e3 * s) for s in (bound.seconds, bound.streamed, bound.forward)]
            parts += [f"{number(1e3 * bound.backward)} {bound.backward_by}"]
            parts += [number(1e3 * bound.arithmetic)]
        row = found.find(SPARSE, shape, dtype)
        rows.append(
            [
                sparse_name(shape),
                dtype,
                *_ours_ms(found, SPARSE, shape, dtype),
                *parts,
                *(_percent(found.attained(SPARSE, shape, dtype, threads)) for threads in "21"),
                number(found.scaling(SPARSE, shape, dtype), "x"),
                _peer_ms(found, SPARSE, shape, dtype, "scikit-learn"),
                number(found.ratio(SPARSE, shape, dtype), "x"),
                NEVER if row is None else f"{row.error:.0e}",
            ]
        )
    header = ["problem", "dtype", "ms, 2 thr", "ms, 1 thr", "bound, ms", "streams", "forward",
              "backward", "arithmetic", "attained", "1 thr", "1 to 2", "scikit-learn, ms",
              "ratio", "error"]  # fmt: skip
    return TextTable(
        "One pass over sparse X: value and gradient",
        header,
        rows,
        "The bound is streams + forward + backward, with two threads, or the arithmetic. Streams: "
        "non-zeros with their indices, twice where the gradient is summed by columns, residuals "
        "and gradient once, at the bandwidth. Forward: a random read of a row of K coefficients "
        "for each non-zero; backward: of a row of K residuals by columns, or of the gradient by "
        "rows, whichever costs less. The most frequent rows are taken to stay in the caches that "
        "they fit in, and a row costs what the same run measured for random reads of as many cache "
        "lines from a table in that cache. What an order of rows or blocks would save is not "
        "counted. scikit-learn's is `LinearModelLoss.loss_gradient`.",
    )


def sparse_name(shape: Shape) -> str:
    """Return the name of the problem that a shape stands for."""
    return PROBLEMS.get(shape, shape_name(shape))


def narrow_cpus(found: Measurements) -> list[str]:
    """Return the CPUs other than this one that rows were compiled for."""
    return list(dict.fromkeys(row.cpu for row in found.rows if row.cpu != "native"))


def narrow_ratio(found: Measurements, shape: Shape, dtype: str, cpu: str) -> float:
    """Return scikit-learn's seconds over ours, compiled for another CPU."""
    ours = found.seconds("value_and_gradient", shape, dtype, cpu=cpu)
    return found.seconds("value_and_gradient", shape, dtype, "scikit-learn") / ours


def _ours_ms(found: Measurements, name: str, shape: Shape, dtype: str) -> list[str]:
    return [number(1e3 * found.seconds(name, shape, dtype, threads=t)) for t in ("2", "1")]


def _peer_ms(found: Measurements, name: str, shape: Shape, dtype: str, peer: str) -> str:
    row = found.find(name, shape, dtype, peer)
    return NEVER if row is None else f"{number(1e3 * row.seconds)} ({row.threads})"


def _percent(share: float) -> str:
    return number(100 * share, " %")
