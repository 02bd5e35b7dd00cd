"""The parent's end of a worker: start it, ask it for fits, cut it when it takes too long."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.adapter import Effort
from bench.score import Float64Array

ROOT = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",  # fastsoftmax's and scikit-learn's own threads, too
    "MKL_NUM_THREADS",
)
# Loading and warming up are not timed against the cut, but must end some day.
START_LIMIT = 600.0
CHILD_LIMIT = 300.0  # of a child that measures one thing
# A traced fit cuts itself at the next iterate past the limit; one that never gets there is killed.
TRACE_PATIENCE = 2.0
TRACE_SLACK = 10.0


class WorkerError(Exception):
    """A fit that failed, with the reason."""


class WorkerCutError(Exception):
    """A fit that took longer than its limit; the worker has been killed."""


class ChildError(Exception):
    """A measuring process that failed or was cut; ``status`` says which."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def run_child(
    arguments: list[str],
    threads: str,
    variables: dict[str, str] | None = None,
    limit: float = CHILD_LIMIT,
) -> dict[str, Any]:
    """Run a module of the bench in a fresh process and return the object it prints last.

    Parameters
    ----------
    arguments : list of str
        The module's name and its arguments.
    threads : str
        As `worker_environment` takes them.
    variables : dict, default=None
        More environment variables.
    limit : float
        Seconds after which the process is killed.

    Raises
    ------
    ChildError
        If the process failed or took longer.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-m", *arguments],
            env=worker_environment(threads) | (variables or {}),
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError("cut", f"longer than {limit:g} s") from error
    if child.returncode != 0:
        words = child.stderr.strip().splitlines() or [f"code {child.returncode}"]
        raise ChildError("failed", words[-1])
    return dict(json.loads(child.stdout.splitlines()[-1]))


class Worker:
    """A lazily started worker process; after a cut or a crash the next fit starts another."""

    def __init__(
        self, library: str, problem: str, dtype: str, threads: str, quick: bool, repeats: int
    ) -> None:
        self.arguments = [library, problem, dtype, *(["--quick"] if quick else [])]
        self.threads = threads
        self.repeats = repeats
        self.warmup_seconds = float("nan")
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")

    def __enter__(self) -> "Worker":
        """Return the worker, not started yet."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Kill the process and remove its files."""
        self._stop()
        self._folder.cleanup()

    def fit(self, C: float, limit: float) -> tuple[dict[str, Any], Float64Array]:
        """Return the worker's reply to a fit at the library's defaults, and the params.

        Raises
        ------
        WorkerCutError
            If the fit has taken more than ``limit`` seconds.
        WorkerError
            If the library raised or its process died.
        """
        # Repeated short fits share the limit; each is far below it.
        request = {"kind": "fit", "C": C, "repeats": self.repeats}
        return self._ask_for_params(request, limit)

    def trace(
        self, C: float, after: int, limit: float, quick: bool
    ) -> Iterator[tuple[dict[str, Any], Float64Array]]:
        """Yield replies and params along a curve, from more than ``after`` iterations on.

        Raises
        ------
        WorkerCutError
            After what was reached before, when a fit has taken more than ``limit`` seconds.
        WorkerError
            If the library raised or its process died.
        """
        effort = Effort(limit, after, self.repeats, quick)
        start = {"kind": "trace", "C": C, "effort": asdict(effort)}
        cuts_itself = self._ask(start, START_LIMIT)["cuts_itself"]
        patience = TRACE_PATIENCE * limit + TRACE_SLACK if cuts_itself else limit
        while True:
            reply, params = self._ask_for_params({"kind": "next"}, patience)
            if "end" in reply:
                if reply["end"] == "cut":
                    raise WorkerCutError(f"longer than {limit:.3g} s")
                return
            yield reply, params

    def _ask_for_params(
        self, request: dict[str, Any], limit: float
    ) -> tuple[dict[str, Any], Float64Array]:
        path = Path(self._folder.name) / "params.npy"
        reply = self._ask(request | {"params_path": str(path)}, limit)
        return reply, np.load(path) if "seconds" in reply else np.empty((0, 0))

    def _start(self) -> None:
        self._errors = open(Path(self._folder.name) / "stderr", "w+")  # noqa: SIM115 (open as long as the child)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=worker_environment(self.threads),
            text=True,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        try:
            self.warmup_seconds = self._ask({"kind": "warm_up"}, START_LIMIT)["warmup_seconds"]
        except WorkerCutError as error:
            raise WorkerError(f"loading and warming up took {error}") from error
        except WorkerError:
            self._stop()
            raise

    def _ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timed_out = threading.Event()

        def cut() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(limit, cut)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            reason = self._last_words()
            self._stop()
            if timed_out.is_set():
                raise WorkerCutError(f"longer than {limit:.3g} s")
            raise WorkerError(reason)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _last_words(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        return f"the process ended with code {code}" + (f": {lines[-1]}" if lines else "")

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:
                pass
        self._process = None


def worker_environment(threads: str) -> dict[str, str]:
    """Return the environment of a child: this one, with the BLAS threads set or as installed."""
    environment = dict(os.environ)
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    if threads != "installed":
        environment.update(dict.fromkeys(THREAD_VARIABLES, threads))
    return environment
