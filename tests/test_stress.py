"""The stress matrix: threads, forks, interrupts and other libraries, on every threading layer.

A cell is a case (`stress_cases`) in a column (`stress_matrix`), run in a process of its own, which
is killed with all that it started if it does not end. Every result must have the bits that a
serial process computes, and sweeps must have used the threads that they were meant to use.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest
import stress_child
from child import run_command
from stress_matrix import (
    CASES,
    COLUMNS,
    Cell,
    Column,
    as_page,
    as_text,
    folder_of_tbb,
    total,
    without_libgomp,
)

fcntl = pytest.importorskip("fcntl", reason="this platform does not fork")

EVERYWHERE = {
    "NUMBA_NUM_THREADS": "4",
    "NUMBA_THREADING_LAYER": "default",
    "FASTSOFTMAX_THREADING": "auto",
    "JOBLIB_START_METHOD": "fork",  # of the backend "multiprocessing"
}
#: What the ordinary run has time for: 2 to 3 s a cell.
SMALL = [
    "threads_fit",
    "threads_predict",
    "grandchild",
    "fork_while_sweeping",
    "late_import",
    "pool_of_processes",
    "interrupts",
    "exit_while_fitting",
    "foreign_kernel",
]


def run_case(case: str, column: Column, size: str = "small") -> list[dict]:
    """Return what the processes of a case report, each by a dict; see `stress_cases.report`."""
    # Of Python 3.12: a fork with threads is what is tested here.
    warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *warnings, stress_child.__file__, case, size]
    environment = EVERYWHERE | column.environment
    if column.layer == "tbb":
        folders = [folder_of_tbb(), os.environ.get("LD_LIBRARY_PATH")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, folders))
    prefix = without_libgomp() if column.hides_libgomp else []
    printed = run_command([*prefix, *command], timeout=stress_child.TIMEOUT, **environment)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    for line in lines:
        if "skipped" in line:
            pytest.skip(line["skipped"])
    return lines


@functools.cache
def obstacle(column: str) -> str | None:
    """Return why there is no such column on this machine, or None."""
    wanted = COLUMNS[column]
    if wanted.hides_libgomp:
        try:
            subprocess.run([*without_libgomp(), "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return "no libgomp: mount namespaces are not permitted; workqueue is what is left then"
    if wanted.layer == "tbb" and not folder_of_tbb():
        return "tbb is not installed"
    (found,) = run_case("layer", wanted)
    return None if found["layer"] == wanted.layer else f"{column}: the layer is {found['layer']}"


@functools.cache
def reference() -> dict[str, set[str]]:
    """Return the digests of the results of a serial process, by kind."""
    digests = defaultdict(set)
    for record in run_case("reference", COLUMNS["THREADING=serial"]):
        assert record["paths"] == []
        for kind, digest in record["digests"]:
            digests[kind].add(digest)
    assert {kind: len(found) for kind, found in digests.items()} == {
        "fit": 1, "prediction": 1, "search": 1, "worker": 10}  # fmt: skip
    return digests


def check(case: str, column: str, size: str, record_property) -> None:
    """Run a cell, and check what its processes report."""
    record_property("stress", (case, column))
    if reason := obstacle(column):
        pytest.skip(reason)
    by_process = {}
    for record in run_case(case, COLUMNS[column], size):
        before = by_process.setdefault(record["pid"], record)
        if record["n_results"] >= before["n_results"]:  # reports are of all since the beginning
            by_process[record["pid"]] = record
    for record in by_process.values():
        for kind, digest in record["digests"]:
            assert digest in reference()[kind], f"other bits of a {kind}: {record}"
        if record["n_results"]:
            path = COLUMNS[column].paths[record["is_forked"]]
            if case == "gevent_patched" and path == "pool":
                path = "serial"
            assert record["paths"] == [path] * (path != "serial"), record
    numbers = total(
        {"results": record["n_results"], "processes": 1} | record["numbers"]
        for record in by_process.values()
    )
    assert numbers["results"] > 0
    record_property("numbers", numbers)


@pytest.mark.parametrize("column", ["omp", "workqueue"])
@pytest.mark.parametrize("case", SMALL)
def test_small(case, column, record_property):
    check(case, column, "small", record_property)


@pytest.mark.stress
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("case", CASES)
def test_matrix(case, column, record_property):
    check(case, column, "full", record_property)


def test_a_case_is_killed_with_the_processes_that_it_started(tmp_path):
    """Both hold a lock on a file, which is free again only when both are gone."""
    file = tmp_path / "lock"
    code = "import fcntl, os, sys, time; file = open(sys.argv[1], 'w'); "
    code += "fcntl.flock(file, fcntl.LOCK_EX); os.fork(); print('held', flush=True); time.sleep(99)"
    with pytest.raises(AssertionError, match="killed after 2 s\nheld\nheld"):
        run_command([sys.executable, "-I", "-S", "-c", code, str(file)], timeout=2)
    with file.open("w") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_table_shows_and_counts_all_cells():
    cells = [
        Cell("fork", "omp", "ok", "", {"results": 3, "threads at once": 2}),
        Cell("threads_fit", "tbb", "skipped", "no tbb", {}),
        Cell("fork", "tbb", "FAILED", "", {"results": 4, "threads at once": 9}),
    ]
    text = "\n".join(as_text(cells))
    assert re.search(r"^case +omp +tbb +all columns together$", text, flags=re.MULTILINE)
    assert re.search(r"^threads fit +skipped$", text, flags=re.MULTILINE)
    assert re.search(
        rf"^{CASES['fork']} +ok +FAILED +7 results, 9 threads at once$", text, re.MULTILINE
    )
    assert "3 cells: 1 ok, 1 skipped, 1 FAILED." in text
    assert "All together: 7 results, 9 threads at once." in text
    assert "Skipped (tbb): no tbb." in text
    page = as_page(cells, "the command")
    assert "Written by `the command`." in page
    assert "| threads fit |  | skipped |  |" in page
