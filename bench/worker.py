"""The process that fits: one library, one problem, requests on stdin, replies on stdout.

A request is a JSON line ``{"C", "budget", "repeats", "params_path"}``, a reply one with the
seconds; the coefficients go to ``params_path``. The parent scores between two requests, so
nothing else of the bench runs while a fit is timed.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from typing import Any

import numpy as np

from bench.adapter import Adapter, Fit, find_libraries
from bench.problems import Problem, load_problem

SHORT_FIT = 0.2  # seconds below which one timing is mostly noise


def answer(adapter: Adapter, problem: Problem, request: dict[str, Any]) -> dict[str, Any]:
    """Fit as requested, save the params and return the reply."""
    C, budget = request["C"], request["budget"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = adapter.fit(problem, C, budget)
        seconds = [fit.seconds]
        while len(seconds) < request["repeats"] and fit.seconds < SHORT_FIT:
            seconds.append(adapter.fit(problem, C, budget).seconds)
    np.save(request["params_path"], packed(fit))
    return {
        "seconds": statistics.median(seconds),
        "repeats": len(seconds),
        "n_iter": fit.n_iter,
        "warnings": "; ".join(sorted({w.category.__name__ for w in caught})),
        "peak_memory": peak_memory(),
    }


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
    adapter = find_libraries()[options.library]
    problem = load_problem(options.problem, options.dtype, options.quick)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["kind"] == "warm_up":
                reply = warm_up(adapter, problem)
            else:
                reply = answer(adapter, problem, request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=channel)


def warm_up(adapter: Adapter, problem: Problem) -> dict[str, Any]:
    """Return the seconds of the adapter's warm-up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        adapter.warm_up(problem)
        return {"warmup_seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    main()
