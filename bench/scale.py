"""``python -m bench scale``: rows in parts against one machine, and what more machines would do.

Measured are passes over partitions of a cluster on this machine, passes and fits of a file larger
than the memory that a fit may use, and threads that sleep as long as a network would take. The last
are to agree with the model (`bench.scale_model`), which then tells of machines that are not here.

``python -m bench.scale FOLDER PAGE`` puts the tables of saved rows between the page's marks, and
draws the plot beside the rows.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from bench.console import messages, progress_bar, rich_table, terminal
from bench.goals import Verdict, at_least, at_most, verdicts_table
from bench.operation import OURS, installed_version, parse_shape
from bench.process import ChildError, run_child
from bench.results import NAN, append_csv, read_csv
from bench.scale_child import IN_PROCESS, simulated_cases
from bench.scale_model import (
    FAN_INS,
    FLOAT32,
    NETWORKS,
    WORKERS,
    Network,
    Task,
    break_even_rows,
    n_tasks,
    pass_bytes,
    pass_seconds,
)
from bench.tables import TextTable, number

FILE, PLOT = "scale.csv", "scale.png"
MARKERS = ("<!-- tables -->", "<!-- /tables -->")
LIMIT = 900.0
#: Of two processes against one, of Dask's pass and fit against the same threads without, of a pass
#: over a file against the slower of disk and kernel, of the model against threads that sleep.
SPEED_UP, OVERHEAD, SHARE, AGREEMENT = 1.6, 25.0, 0.7, 15.0
GROWTH = 150.0  # MB
#: The kernel's speed is taken from rows of the plan's shape.
KERNEL = ("200000x1000x10", "float32")
QUICK_KERNEL = ("2000x1000x10", "float32")
PLAN_ROWS = 1_000_000_000
PLAN_PASSES = 100
PLAN_MEMORY = 64e9  # bytes of a machine, of which three quarters may hold rows
FAN_IN = 32


@dataclass(frozen=True)
class ScaleRow:
    """A measurement. The first three fields are its key."""

    what: str  # "cluster", "disk", "kernel" or "simulate"
    case: str
    version: str
    status: str = "ok"
    reason: str = ""
    X_bytes: int = 0
    seconds: float = NAN  # of a pass, the least of many
    median_seconds: float = NAN
    fit_seconds: float = NAN
    n_passes: int = 0  # of the fit
    n_reads: int = 0  # of the file by the fit
    disk_seconds: float = NAN  # of reading the file from its start to its end
    disk_median_seconds: float = NAN
    resident_seconds: float = NAN  # of a pass over as many rows in memory
    growth_bytes: int = 0  # how far the fit raised the process's own memory
    limit_bytes: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what identifies the measurement."""
        return self.what, self.case, self.version


def run_scale(folder: Path, fresh: bool, quick: bool) -> int:
    """Measure, write ``scale.csv``, print the tables and goals, and draw the plot."""
    path = folder / FILE
    if fresh:
        path.unlink(missing_ok=True)
    version = installed_version(OURS) or ""
    name, dtype = QUICK_KERNEL if quick else KERNEL
    todo = {"cluster": [], "disk": [], "simulate": [], "kernel": [name, dtype]}
    done = {row.what for row in read_rows(path) if row.version == version}
    with progress_bar(messages()) as progress:
        task = progress.add_task("starting", total=len(todo))
        for what, arguments in todo.items():
            progress.update(task, description=what)
            if what not in done:
                case = name if what == "kernel" else ""
                for row in _measured(ScaleRow(what, case, version), arguments, quick):
                    append_csv(path, asdict(row))
            progress.advance(task)
    rows = latest(read_rows(path))
    for table in (*scale_tables(rows), verdicts_table(scale_goals(rows), "Goals of scale")):
        terminal().print(rich_table(table))
    if any(row.status == "ok" and row.what == "kernel" for row in rows):
        messages().print(f"plot: {plot_scale(rows, folder / PLOT)}")
    return 1 if any(row.status != "ok" for row in rows) else 0


def _measured(row: ScaleRow, arguments: list[str], quick: bool) -> Iterator[ScaleRow]:
    """Yield a row for each case that a child measures."""
    flags = ["--quick"] if quick else []
    try:
        reply = run_child(
            ["bench.scale_child", row.what, *arguments, *flags], "installed", limit=LIMIT
        )
    except ChildError as error:
        yield replace(row, status=error.status, reason=str(error))
        return
    common = {name: value for name, value in reply.items() if name != "cases"}
    for case, figures in reply.get("cases", {row.case: {}}).items():
        yield replace(row, case=case, **common, **figures)


def read_rows(path: Path) -> list[ScaleRow]:
    """Return the saved rows."""
    kinds: dict[str, Any] = {name: _kind(name) for name in ScaleRow.__annotations__}
    return [ScaleRow(**{k: kinds[k](v) for k, v in line.items()}) for line in read_csv(path)]


def _kind(name: str) -> Any:
    if name.endswith("seconds"):
        return float
    return int if name.endswith("bytes") or name.startswith("n_") else str


def latest(rows: list[ScaleRow]) -> list[ScaleRow]:
    """Return the rows of the version that was measured last."""
    return [row for row in rows if row.version == rows[-1].version]


# --- Tables and goals -----------------------------------------------------------------------------


def scale_tables(rows: list[ScaleRow]) -> list[TextTable]:
    """Return what was measured, how the model compares, and what it tells."""
    tables = [table for table in (_cluster_table(rows), _disk_table(rows)) if table.rows]
    if _of(rows, "simulate"):
        tables.append(_simulation_table(rows))
    if _kernel(rows) is None:
        return tables
    return [*tables, *(f(rows) for f in (_model_table, _fan_in_table, _float32_table, _plan_table))]


def scale_goals(rows: list[ScaleRow]) -> list[Verdict]:
    """Return the verdicts."""
    cluster = _of(rows, "cluster")
    one, two, local, threads = (
        cluster.get(name) for name in ("1 process", "2 processes", IN_PROCESS, "2 threads")
    )
    speed_ups = [("a pass", one.seconds / two.seconds)] if one and two else []
    extra = []
    for row in filter(None, (two, threads)):
        if local:
            extra += [
                (f"pass, {row.case}", 100 * (row.seconds / local.seconds - 1)),
                (f"fit, {row.case}", 100 * (row.fit_seconds / local.fit_seconds - 1)),
            ]
    files = list(_of(rows, "disk").values())
    differences = [
        (case, 100 * abs(row.seconds / expected - 1)) for case, row, expected in _simulated(rows)
    ]
    return [
        at_least("two processes are at least 1.6x as fast as one", SPEED_UP, speed_ups),
        at_most("Dask costs at most 25 % more than the same threads", OVERHEAD, extra, " %"),
        at_least(
            "a pass over a file runs at 70 % of the lower of disk and kernel",
            SHARE,
            [("pass", _bound(row) / row.seconds) for row in files]
            + [("fit", row.n_reads * _bound(row) / row.fit_seconds) for row in files],
            "",
        ),
        at_most(
            "... in flat memory", GROWTH, [("fit", row.growth_bytes / 1e6) for row in files], " MB"
        ),
        at_most("the model is within 15 % of threads that sleep", AGREEMENT, differences, " %"),
    ]


def _of(rows: list[ScaleRow], what: str) -> dict[str, ScaleRow]:
    return {row.case: row for row in rows if row.what == what and row.status == "ok"}


def _bound(row: ScaleRow) -> float:
    return max(row.disk_seconds, row.resident_seconds)


def _kernel(rows: list[ScaleRow]) -> ScaleRow | None:
    return next(iter(_of(rows, "kernel").values()), None)


def _simulated(rows: list[ScaleRow]) -> list[tuple[str, ScaleRow, float]]:
    """Return cases that were simulated, and what the model tells of them."""
    measured = _of(rows, "simulate")
    cases = simulated_cases(False) | simulated_cases(True)
    return [
        (case, measured[case], pass_seconds(*arguments))
        for case, arguments in cases.items()
        if case in measured
    ]


def _cluster_table(rows: list[ScaleRow]) -> TextTable:
    lines = [
        [
            case,
            *(number(1e3 * s) for s in (row.seconds, row.median_seconds, row.fit_seconds)),
            str(row.n_passes or "-"),
        ]
        for case, row in _of(rows, "cluster").items()
    ]
    note = (
        "Ten partitions, each the training images of mnist in float32, 1.9 GB in all; value and "
        "gradient for ten classes. In process: the same rows in one array, two threads. Empty: a "
        "pass that adds one number of each partition. Fits end by the default tol, after passes of "
        "the last column."
    )
    header = ["rows in", "pass, ms", "median", "fit, ms", "its passes"]
    return TextTable("Partitions of a cluster on this machine", header, lines, note)


def _disk_table(rows: list[ScaleRow]) -> TextTable:
    lines = [
        [
            number(row.X_bytes / 1e9),
            number(row.limit_bytes / 1e6),
            *(f"{s:.2f}" for s in (row.disk_seconds, row.resident_seconds, row.seconds)),
            number(_bound(row) / row.seconds),
            f"{row.fit_seconds:.1f}",
            str(row.n_reads),
            number(row.n_reads * _bound(row) / row.fit_seconds),
            number(row.growth_bytes / 1e6),
        ]
        for row in _of(rows, "disk").values()
    ]
    header = ["file, GB", "limit, MB", "disk, s", "resident, s", "pass, s", "share", "fit, s",
              "reads", "share of the fit", "growth, MB"]  # fmt: skip
    note = (
        "The file is dropped from the system's cache before each read. Resident: a pass over rows "
        "in memory, scaled to as many. The share is that of the slower of the two. A fit reads "
        "the file once for each pass and once before."
    )
    return TextTable("A file five times the memory", header, lines, note)


def _simulation_table(rows: list[ScaleRow]) -> TextTable:
    lines = [
        [case, number(1e3 * row.seconds), number(1e3 * s), f"{100 * (s / row.seconds - 1):+.1f} %"]
        for case, row, s in _simulated(rows)
    ]
    note = (
        "400 000 rows of 1 us, ten classes, latency 5 ms, 200 MB/s: threads that sleep, links that "
        "carry one thing after the other."
    )
    header = ["", "slept, ms", "model, ms", "difference"]
    return TextTable("The model against threads that sleep", header, lines, note)


def task_of(rows: list[ScaleRow], n_samples: int = PLAN_ROWS) -> Task:
    """Return rows of the plan's shape at the kernel's measured speed.

    Raises
    ------
    ValueError
        If the kernel was not measured.
    """
    kernel = _kernel(rows)
    if kernel is None:
        raise ValueError("no row of the kernel")
    n, d, K = parse_shape(kernel.case)
    return Task(n_samples, d, K, kernel.seconds / n)


def network_of(rows: list[ScaleRow], bandwidth: float) -> Network:
    """Return a network in which tasks cost what they cost here, or nothing if not measured."""
    cluster = _of(rows, "cluster")
    if "201 tasks" not in cluster:
        return Network(bandwidth=bandwidth)
    one, many = cluster["1 tasks"].seconds, cluster["201 tasks"].seconds
    each = max(0.0, (many - one) / 200)
    return Network(bandwidth=bandwidth, task_seconds=each, fixed_seconds=max(0.0, one - each))


def _model_table(rows: list[ScaleRow]) -> TextTable:
    task = task_of(rows)
    lines = []
    for n_workers in WORKERS:
        line = [str(n_workers), number(pass_bytes(task, n_workers, FAN_IN) / 1e6)]
        for bandwidth in NETWORKS.values():
            network = network_of(rows, bandwidth)
            seconds = pass_seconds(task, network, n_workers, FAN_IN)
            even = break_even_rows(task, network, n_workers, FAN_IN) if n_workers > 1 else NAN
            kernel = task.n_samples * task.row_seconds / n_workers
            line += [number(seconds), number(100 * kernel / seconds, " %"), number(even / 1e3)]
        lines.append(line)
    header = ["workers", "MB sent"]
    for name in NETWORKS:
        header += [f"s at {name}", "kernel's share", "break-even, 1000 rows"]
    costs = network_of(rows, 1.0)
    note = (
        f"10^9 rows of {task.n_features} features, {task.n_classes} classes, float32; a worker of "
        f"two cores as here, {1e9 * task.row_seconds:.0f} ns for a row; latency 0.1 ms, "
        f"{1e3 * costs.task_seconds:.2f} ms for a task, {1e3 * costs.fixed_seconds:.0f} ms for a "
        "pass, as Dask takes here. Break-even: the rows from which so many workers are faster than "
        "one without a network."
    )
    return TextTable("A pass by workers", header, lines, note)


def _fan_in_table(rows: list[ScaleRow]) -> TextTable:
    lines = []
    for n_workers in (8, 32, 256):
        for fan_in in FAN_INS:
            times = []
            for n_features, n_classes in ((1000, 10), (2048, 1000)):
                task = Task(0, n_features, n_classes, 0.0)
                for bandwidth in NETWORKS.values():
                    network = network_of(rows, bandwidth)
                    times.append(number(1e3 * pass_seconds(task, network, n_workers, fan_in)))
            held = min(fan_in, n_workers) * Task(0, 2048, 1000, 0.0).up_bytes
            tasks = n_tasks(n_workers, fan_in)
            lines.append([str(n_workers), str(fan_in), str(tasks), *times, number(held / 1e6)])
    header = ["workers", "fan-in", "tasks"]
    header += [f"{shape}, {name}" for shape in ("1000 x 10", "2048 x 1000") for name in NETWORKS]
    note = (
        "What a pass takes besides the kernel, in ms, by d x K; and the gradients that a node "
        "holds at 2048 x 1000."
    )
    return TextTable("Fan-in of the tree", [*header, "held, MB"], lines, note)


def _float32_table(rows: list[ScaleRow]) -> TextTable:
    lines = []
    for n_features, n_classes in ((1000, 10), (2048, 1000)):
        for n_workers in (8, 64, 256):
            line = [f"{n_features} x {n_classes}", str(n_workers)]
            for bandwidth in NETWORKS.values():
                network = network_of(rows, bandwidth)
                task = Task(0, n_features, n_classes, 0.0)
                whole, half = (
                    pass_seconds(t, network, n_workers, FAN_IN)
                    for t in (task, replace(task, itemsize=FLOAT32))
                )
                line += [
                    number(1e3 * whole),
                    number(1e3 * half),
                    f"{100 * (1 - half / whole):.1f} %",
                ]
            lines.append(line)
    header = ["d x K", "workers"]
    for name in NETWORKS:
        header += [f"float64, ms at {name}", "float32", "saved"]
    note = "What a pass takes besides the kernel if gradients travel as float64, or as float32."
    return TextTable("Gradients in float32", header, lines, note)


def _plan_table(rows: list[ScaleRow]) -> TextTable:
    task = task_of(rows)
    X_bytes = FLOAT32 * task.n_samples * task.n_features
    least = math.ceil(X_bytes / (0.75 * PLAN_MEMORY))
    lines = []
    for n_workers in (least, 128, 256):
        memory = X_bytes / n_workers
        for name, bandwidth in NETWORKS.items():
            seconds = pass_seconds(task, network_of(rows, bandwidth), n_workers, FAN_IN)
            first = memory / bandwidth  # every row once, over the worker's own link
            lines.append(
                [
                    str(n_workers),
                    name,
                    number(memory / 1e9),
                    number(first),
                    number(seconds),
                    number(PLAN_PASSES * seconds / 60),
                    number(n_workers * (first + PLAN_PASSES * seconds) / 3600),
                ]
            )
    header = ["workers", "network", "GB of rows in each", "loading, s", "pass, s",
              f"{PLAN_PASSES} passes, min", "machine hours"]  # fmt: skip
    note = (
        f"X of {task.n_samples:.0e} x {task.n_features} in float32 is {X_bytes / 1e12:.0f} TB: at "
        f"least {least} machines of {PLAN_MEMORY / 1e9:.0f} GB, three quarters of which hold rows. "
        "Loading is at the speed of each machine's own link."
    )
    return TextTable("A plan for a billion rows", header, lines, note)


def plot_scale(rows: list[ScaleRow], path: Path) -> Path:
    """Draw the time of a pass against workers, of the model and as measured."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, bandwidth in NETWORKS.items():
        for n_samples, style in ((10**6, ":"), (10**8, "--"), (PLAN_ROWS, "-")):
            task, network = task_of(rows, n_samples), network_of(rows, bandwidth)
            seconds = [pass_seconds(task, network, n, FAN_IN) for n in WORKERS]
            # The slower network below, wide and pale: at this shape they nearly coincide.
            look = ("#D55E00", 4.0, 0.35) if bandwidth < 2e9 else ("#0072B2", 1.5, 1.0)
            drawn = dict(zip(("color", "linewidth", "alpha"), look, strict=True))
            left.plot(WORKERS, seconds, style, label=f"{n_samples:.0e} rows, {name}", **drawn)
    left.set(xscale="log", yscale="log", xlabel="workers", ylabel="seconds of a pass")
    left.set_title("model: d = 1000, K = 10, float32", loc="left")
    simulated = _simulated(rows)
    right.plot(
        [1e3 * s for *_, s in simulated],
        [1e3 * row.seconds for _, row, _ in simulated],
        "o",
        label="threads that sleep",
    )
    cluster = _of(rows, "cluster")
    if "1 process" in cluster and "2 processes" in cluster:
        base, fixed = cluster["1 process"].seconds, cluster["empty, 2 processes"].seconds
        kernel = base - cluster["empty, 1 process"].seconds
        measured = cluster["2 processes"].seconds
        label = "mnist x 10, two processes"
        right.plot([1e3 * (kernel / 2 + fixed)], [1e3 * measured], "s", label=label)
    limits = [20, 2000]
    right.plot(limits, limits, color="grey", linewidth=0.8)
    right.set(xscale="log", yscale="log", xlabel="model, ms", ylabel="measured, ms")
    right.set_title("a pass, as measured here", loc="left")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def insert_tables(rows: list[ScaleRow], page: Path) -> None:
    """Replace what stands between the marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    tables = [verdicts_table(scale_goals(rows), "Goals"), *scale_tables(rows)]
    parts = [before + MARKERS[0], *(table.markdown() for table in tables), MARKERS[1] + after]
    page.write_text("\n\n".join(parts), encoding="utf-8")


def main() -> None:
    """Write the page and the plot from saved rows."""
    folder, page = map(Path, sys.argv[1:])
    rows = latest(read_rows(folder / FILE))
    insert_tables(rows, page)
    plot_scale(rows, folder / PLOT)


if __name__ == "__main__":
    main()
