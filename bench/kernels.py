"""``python -m bench kernels``: every operation against the machine's limits and the peers."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from bench import gathers, machine
from bench.console import messages, progress_bar, rich_table, terminal
from bench.goals import kernel_goals, verdicts_table
from bench.kernel_rows import NARROW_CPUS, NATIVE, KernelRow, Measurements
from bench.kernel_tables import kernel_tables
from bench.operation import OURS, Operation, Shape, find_operations, installed_version, shape_name
from bench.operations import sparse
from bench.process import ChildError, run_child
from bench.results import append_csv, read_csv

DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class KernelPlan:
    """What to measure. None: as the operation, or quickness, says."""

    operations: Sequence[str] | None = None
    shapes: Sequence[Shape] | None = None  # of those operations that have them
    dtypes: Sequence[str] | None = None
    cpu_names: Sequence[str] | None = None
    quick: bool = False

    def rows(self) -> list[KernelRow]:
        """Return the rows to measure, without figures, in an order that keeps rivals together."""
        found = find_operations()
        chosen = [found[name] for name in self.operations or found]
        return [
            row
            for operation in chosen
            for shape in self._shapes(operation)
            for dtype in self.dtypes or (DTYPES[:1] if self.quick else DTYPES)
            for row in self._rivals(operation, shape_name(shape), dtype)
        ]

    def _shapes(self, operation: Operation) -> Sequence[Shape]:
        shapes = operation.quick_shapes if self.quick else operation.shapes
        if self.shapes is None:
            return shapes
        if operation.only_these:
            return [s for s in self.shapes if s in (*operation.shapes, *operation.quick_shapes)]
        return [s for s in self.shapes if len(s) == len(shapes[0]) and len(operation.shapes) > 1]

    def _rivals(self, operation: Operation, shape: str, dtype: str) -> list[KernelRow]:
        threads = operation.threads[-1:] if self.quick else operation.threads
        rows = [
            KernelRow(operation.name, shape, dtype, library, count, NATIVE, "")
            for library in operation.libraries
            # SciPy's softmax has one thread, whatever the environment says.
            for count in (threads[:1] if library == "scipy" else threads)
        ]
        names = self.cpu_names
        if names is None:
            intel = platform.machine().lower() in ("x86_64", "amd64")
            names = NARROW_CPUS if operation.narrow and intel and not self.quick else ()
        if not operation.narrow:
            names = ()
        rows += [
            KernelRow(operation.name, shape, dtype, OURS, threads[-1], cpu, "") for cpu in names
        ]
        versions = {row.library: installed_version(row.library) for row in rows}
        return [replace(row, version=versions[row.library] or "") for row in rows]


def run_kernels(plan: KernelPlan, folder: Path, fresh: bool) -> int:
    """Measure the machine and every operation, write ``kernels.csv`` and print the tables."""
    path = folder / "kernels.csv"
    if fresh:
        for name in ("kernels.csv", "machine.json", gathers.FILE):
            (folder / name).unlink(missing_ok=True)
    console = messages()
    limits = machine.measure_and_keep(folder / "machine.json", plan.quick)
    for threads, limit in limits.items():
        console.print(f"{threads} thread{'s' if threads > '1' else ''}: {limit}")
    todo = plan.rows()
    sparse_cases = {(row.shape, row.dtype) for row in todo if row.operation == sparse.NAME}
    try:
        if sparse_cases:
            console.print("random reads")
            gathers.measure_and_keep(folder / gathers.FILE, limits, sparse_cases, plan.quick)
        _measure_all(todo, path, console)
    except KeyboardInterrupt:
        console.print(f"Interrupted. The rows stand in {path}; the same command goes on.")
        return 130
    keys = {row.key for row in todo}
    rows = [row for row in map(KernelRow.from_strings, read_csv(path)) if row.key in keys]
    measurements = Measurements(rows, limits, gathers.read_bounds(folder / gathers.FILE))
    tables = terminal()
    for table in kernel_tables(measurements):
        tables.print(rich_table(table))
    tables.print(rich_table(verdicts_table(kernel_goals(measurements))))
    return 1 if any(row.status in ("failed", "cut") for row in rows) else 0


def _measure_all(todo: list[KernelRow], path: Path, console: Console) -> None:
    done = {KernelRow.from_strings(line).key for line in read_csv(path)}
    with progress_bar(console) as progress:
        task = progress.add_task("starting", total=len(todo))
        for row in todo:
            name = " ".join(row.key[:-1])
            progress.update(task, description=name)
            if row.key not in done:
                row = _measure(row)
                append_csv(path, asdict(row))
                outcome = f"{row.seconds:.3g} s" if row.status == "ok" else row.reason
                console.print(f"{name}: {outcome}")
            progress.advance(task)


def _measure(row: KernelRow) -> KernelRow:
    """Return the row with the figures of one process, or with the reason why there are none."""
    if not row.version:
        return replace(row, status="skipped", reason=f"{row.library} is not installed")
    variables = {}
    if row.cpu != NATIVE:
        # Without the second variable Numba adds the features of the CPU at hand.
        variables = {"NUMBA_CPU_NAME": row.cpu, "NUMBA_CPU_FEATURES": ""}
    arguments = ["bench.measure", row.operation, row.library, row.shape, row.dtype]
    try:
        reply = run_child(arguments, row.threads, variables)
    except ChildError as error:
        return replace(row, status=error.status, reason=str(error))
    return replace(row, **{name: value for name, value in reply.items() if value is not None})
