"""The process that fits: one library, one problem, requests on stdin, replies on stdout.

A request is a JSON line with its ``kind``: ``warm_up``; ``fit`` at the defaults; ``trace``, which
starts a curve; and ``next``, its next point. A reply has the seconds; coefficients go to the
``params_path`` of the request. The parent scores between two requests, so nothing else of the bench
runs while a fit is timed.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.adapter import SHORT_FIT, Adapter, Effort, Fit, OutOfTimeError, find_libraries
from bench.l1_libraries import find_l1_libraries
from bench.problems import Problem, load_problem


class Service:
    """What a worker does: fits of one adapter on one problem, and the curve that is under way."""

    def __init__(self, adapter: Adapter, problem: Problem) -> None:
        self.adapter, self.problem = adapter, problem
        self._curve: Iterator[Fit] = iter(())
        self._repeats = 1

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a request."""
        kind = request["kind"]
        if kind == "warm_up":
            return self._warm_up()
        if kind == "trace":
            effort = Effort(**request["effort"])
            self._repeats = effort.repeats
            self._curve = self.adapter.trace(self.problem, request["C"], effort)
            return {"cuts_itself": self.adapter.cuts_itself}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if kind == "fit":
                self._repeats = request["repeats"]
                fit = self.adapter.timed_fit(self.problem, request["C"], None, self._repeats)
            else:
                try:
                    fit = next(self._curve)
                except (StopIteration, OutOfTimeError) as end:
                    return {"end": "cut" if isinstance(end, OutOfTimeError) else "end"}
        np.save(request["params_path"], packed(fit))
        return {
            "seconds": fit.seconds,
            "repeats": self._repeats if fit.seconds < SHORT_FIT else 1,
            "n_iter": fit.n_iter,
            "warnings": "; ".join(sorted({w.category.__name__ for w in caught})),
            "peak_memory": peak_memory(),
        }

    def _warm_up(self) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            begin = time.perf_counter()
            self.adapter.warm_up(self.problem)
            return {"warmup_seconds": time.perf_counter() - begin}


def packed(fit: Fit) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the params of a fit as float64 ``(n_rows, n_features + 1)``."""
    coef = np.atleast_2d(np.asarray(fit.coef, dtype=np.float64))
    intercept = np.asarray(fit.intercept, dtype=np.float64).ravel()
    return np.column_stack([coef, np.broadcast_to(intercept, len(coef))])


def peak_memory() -> int:
    """Return the largest resident size of this process so far in bytes; 0 where unknown."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Serve requests until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("problem")
    parser.add_argument("dtype")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    # A library that prints must not break the protocol: keep stdout, send prints to stderr.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    adapter = (find_libraries() | find_l1_libraries())[options.library]
    service = Service(adapter, load_problem(options.problem, options.dtype, options.quick))
    for line in sys.stdin:
        try:
            reply = service.answer(json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=channel)


if __name__ == "__main__":
    main()
