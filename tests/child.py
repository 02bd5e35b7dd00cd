"""Run a piece of Python in a process of its own: threads, forks and caches need a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(code: str, *, path: Path = ROOT, timeout: float = 120, **environment: str) -> str:
    """Return what `code` prints, with fastsoftmax imported from the folder `path`.

    Warnings are errors. Fails with the child's own message if its exit status is not 0, and kills
    it after `timeout` seconds, so that a deadlock is a failure.
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command,
        cwd=path,  # which `-c` puts before PYTHONPATH
        env=os.environ | {"PYTHONPATH": str(path)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
