"""What pytest does here besides: print the table of the stress matrix, and write it to a file."""

from __future__ import annotations

from pathlib import Path

import stress_matrix


def pytest_addoption(parser):
    # To be written with "=": else FILE, if it exists, is taken for a test before this is read.
    parser.addoption(
        "--stress-table", metavar="FILE", help="write the table of the stress matrix to FILE"
    )


def pytest_terminal_summary(terminalreporter, config):
    kinds = ("passed", "failed", "skipped", "error")
    reports = [report for kind in kinds for report in terminalreporter.getreports(kind)]
    cells = [cell for report in reports if (cell := stress_matrix.cell_of(report))]
    if not cells:
        return
    terminalreporter.section("stress matrix")
    for line in stress_matrix.as_text(cells):
        terminalreporter.line(line)
    file = config.getoption("--stress-table")
    if file:
        command = " ".join(["python -m pytest", *config.invocation_params.args])
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(stress_matrix.as_page(cells, command), encoding="utf-8")
