"""Kernels without the compiler: lines that run, indices that stay inside, the oracle's results.

Compiled code looks for no index. So all kernels run once more as plain Python, where NumPy does.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from child import run_python

CODE = """
import json, sys
sys.path.insert(0, {tests!r})
import kernels_in_python
print(json.dumps(kernels_in_python.{function}()))
"""
#: Share of the lines of all kernels, and of each file of them.
LEAST, LEAST_OF_A_FILE = 0.95, 0.9


def run(function, **environment):
    code = CODE.format(tests=str(Path(__file__).parent), function=function)
    return json.loads(run_python(code, timeout=300, **environment))


@pytest.fixture(scope="module")
def plain():
    return run("run", NUMBA_DISABLE_JIT="1")


def test_every_driver_ran(plain):
    _, calls = plain
    assert len(calls) > 20
    assert [name for name, n in calls.items() if n == 0 and name != "_jit._launch"] == []


def test_nearly_every_line_ran(plain):
    """What writes vector code runs where this is compiled, all else as plain Python."""
    compiled = run("compile_vector_code")
    n_lines = n_missing = 0
    for name, (statements, missing) in plain[0].items():
        missing = set(missing) & set(compiled[name][1])
        assert len(missing) <= (1.0 - LEAST_OF_A_FILE) * len(statements), (name, sorted(missing))
        n_lines, n_missing = n_lines + len(statements), n_missing + len(missing)
    assert n_lines > 1000
    assert n_missing <= (1.0 - LEAST) * n_lines, n_missing / n_lines
