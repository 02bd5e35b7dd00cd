"""The rows and columns of the stress matrix, and its table."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stress_child import TIMEOUT

#: Functions of `stress_cases`, and what the table calls them.
CASES = {
    "threads_fit": "threads fit",
    "threads_predict": "threads predict while one fits",
    "fork": "os.fork, the child fits",
    "grandchild": "os.fork in a forked child, both fit",
    "orphan": "os.fork in a forked child, which ends; the grandchild fits",
    "fork_while_sweeping": "os.fork while another thread fits",
    "late_import": "a forked child is the first to import fastsoftmax",
    "pool_of_processes": "multiprocessing.Pool (fork)",
    "executor_of_processes": "ProcessPoolExecutor (fork)",
    "search_loky": "GridSearchCV, loky",
    "search_threading": "GridSearchCV, threading",
    "search_multiprocessing": "GridSearchCV, multiprocessing",
    "dask_threads": "Dask, threads",
    "dask_cluster": "Dask, a cluster of threads",
    "gevent_patched": "gevent has patched all, greenlets and its threads fit",
    "interrupts": "Ctrl-C in the middle of a fit",
    "exit_while_fitting": "the interpreter exits while a daemon thread fits",
    "fit_at_exit": "a fit in an atexit handler",
    "foreign_kernel": "another library's parallel Numba kernel at the same time",
    "lightgbm_beside": "lightgbm trains at the same time",
    "torch_beside": "torch computes at the same time",
}


#: Whose versions stand on the page.
LIBRARIES = ("numba", "numpy", "scipy", "scikit-learn", "joblib")
EXPLANATION = f"""\
Each cell is a process of its own. `ok` means that it and all that it started ended well within
{TIMEOUT} s, that every result (coefficients, probabilities, scores of a search) has the bits that a
process with one thread computes, and that sweeps used the threads they were meant to: Numba's on
the `omp` and `tbb` layers; threads of fastsoftmax on `workqueue`, without the system's libgomp, and
in forked children; none where gevent has put greenlets in their place. `THREADING=` stands for the
variable `FASTSOFTMAX_THREADING`. Every sweep asks for 4 threads, however small it is and however
many CPUs there are."""
#: Numbers that are not added up over cells.
AT_ONCE = {"threads at once"}


class Column(NamedTuple):
    """A way to run all cases.

    Attributes
    ----------
    environment : dict
        Variables of the process.
    paths : tuple (str, str)
        Whose threads sweeps must use (``'numba'``, ``'pool'`` or ``'serial'``): in a process that
        was never forked, and in one that was.
    layer : str
        The layer that Numba must have.
    hides_libgomp : bool
        Whether the system's libgomp must be out of sight.
    """

    environment: dict[str, str]
    paths: tuple[str, str]
    layer: str
    hides_libgomp: bool = False


def _of_layer(name: str, *paths: str, **environment: str) -> Column:
    return Column({"NUMBA_THREADING_LAYER": name} | environment, paths, name)


COLUMNS = {
    "omp": _of_layer("omp", "numba", "pool"),
    "workqueue": _of_layer("workqueue", "pool", "pool"),
    "tbb": _of_layer("tbb", "numba", "pool"),
    "no libgomp": Column({}, ("pool", "pool"), "workqueue", hides_libgomp=True),
    "THREADING=numba": _of_layer("omp", "numba", "serial", FASTSOFTMAX_THREADING="numba"),
    "THREADING=pool": _of_layer("omp", "pool", "pool", FASTSOFTMAX_THREADING="pool"),
    "THREADING=serial": _of_layer("omp", "serial", "serial", FASTSOFTMAX_THREADING="serial"),
}


def folder_of_tbb() -> str:
    """Return where ``pip install tbb`` has put its library, which no loader looks for, or ''."""
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    found = [str(Path(f.locate()).resolve().parent) for f in files if f.name == "libtbb.so.12"]
    return found[0] if found else ""


@functools.cache
def without_libgomp() -> list[str]:
    """Return the beginning of a command that does not see the system's libgomp.

    In name spaces of its own, which not every system permits.
    """
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    files = re.findall(r"libgomp\.so\.1 .*=> (\S+)", listed)
    hiding = "".join(f"mount --bind /dev/null {shlex.quote(file)} && " for file in files)
    return ["unshare", "-rm", "sh", "-c", f'{hiding}exec "$@"', "sh"]


# --- The table ------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A case in a column: ``'ok'``, ``'FAILED'`` or ``'skipped'``, why, and its numbers."""

    case: str
    column: str
    outcome: str
    reason: str
    numbers: dict[str, int]


def cell_of(report: Any) -> Cell | None:
    """Return the cell that a report of pytest is about, if it is about one."""
    properties = dict(getattr(report, "user_properties", ()))  # a whole file skipped has none
    if "stress" not in properties:
        return None
    case, column = properties["stress"]
    outcome = {"passed": "ok", "failed": "FAILED"}.get(report.outcome, report.outcome)
    reason = ""
    if isinstance(report.longrepr, tuple):  # skipped: file, line, reason
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    return Cell(case, column, outcome, reason, properties.get("numbers", {}))


def grid(cells: Sequence[Cell]) -> list[list[str]]:
    """Return the table's lines, the head first."""
    columns = [name for name in COLUMNS if any(cell.column == name for cell in cells)]
    lines = [["case", *columns, "all columns together"]]
    for case, title in CASES.items():
        row = {cell.column: cell for cell in cells if cell.case == case}
        if row:
            outcomes = [row[name].outcome if name in row else "" for name in columns]
            lines.append(
                [title, *outcomes, _in_words(total(cell.numbers for cell in row.values()))]
            )
    return lines


def total(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sums of numbers; of those that are at the same time the largest."""
    sums: dict[str, int] = {}
    for part in parts:
        for name, number in part.items():
            before = sums.get(name, 0)
            sums[name] = max(before, number) if name in AT_ONCE else before + number
    return sums


def _in_words(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number)


def summary(cells: Sequence[Cell]) -> list[str]:
    """Return sentences about all cells."""
    outcomes = [cell.outcome for cell in cells]
    counts = {name: outcomes.count(name) for name in ("ok", "skipped", "FAILED")}
    skipped: dict[str, list[str]] = {}
    for cell in cells:
        if cell.outcome == "skipped":
            skipped.setdefault(cell.reason, []).append(cell.column)
    return [
        f"{len(cells)} cells: {_in_words(counts)}.",
        f"All together: {_in_words(total(cell.numbers for cell in cells))}.",
        *(f"Skipped ({', '.join(sorted(set(skipped[r])))}): {r}." for r in sorted(skipped)),
    ]


def as_text(cells: Sequence[Cell]) -> list[str]:
    """Return the table and the sentences, line by line."""
    lines = grid(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return [*table, "", *summary(cells)]


def as_page(cells: Sequence[Cell], command: str) -> str:
    """Return the table as a page of Markdown."""
    head, *body = grid(cells)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    lines = [
        "# The stress matrix",
        "",
        f"Written by `{command}`.",
        f"Python {platform.python_version()}, {', '.join(versions)}; {sys.platform}, "
        f"{platform.machine()}, {os.cpu_count()} CPUs.",
        "",
        EXPLANATION,
        "",
        *(f"- {sentence}" for sentence in summary(cells)),
        "",
        *("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body]),
    ]
    return "\n".join(lines) + "\n"
