"""Run a piece of Python in a process of its own: threads, forks and caches need a fresh one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_command(
    command: Sequence[str], *, path: Path = ROOT, timeout: float = 120, **environment: str
) -> str:
    """Return what a command prints, with fastsoftmax imported from the folder `path`.

    Fails with the command's own message if its exit status is not 0. After `timeout` seconds it is
    killed together with what it started, so that a deadlock is a failure and leaves no process.
    """
    with subprocess.Popen(
        command,
        cwd=path,
        env=os.environ | {"PYTHONPATH": str(path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, errors = process.communicate(timeout=timeout)
            end = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            _kill(process)
            printed, errors = process.communicate()
            end = f"killed after {timeout} s"
        except BaseException:  # an interrupt
            _kill(process)
            raise
    assert end == "exit status 0", f"{end}\n{printed}\n{errors}"
    return printed


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and, where there are sessions, all others of its own."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def run_python(code: str, *, path: Path = ROOT, timeout: float = 120, **environment: str) -> str:
    """Return what `code` prints; see `run_command`. Warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return run_command(command, path=path, timeout=timeout, **environment)  # `-c` imports from cwd
