"""A small problem of the bench, and a worker that computes nothing."""

import dataclasses

import numpy as np
import scipy.sparse

from bench import reference
from bench.problems import Problem
from bench.results import ResultsFolder, Row
from bench.run import Plan


def make_problem(n_classes, *, n_samples=120, n_features=5, dtype="float64", sparse=False):
    rng = np.random.default_rng(n_classes)
    X = rng.normal(size=(n_samples, n_features)) * np.logspace(0, 2, n_features)
    y = np.arange(n_samples) % n_classes
    X[:, 0] += y
    X = scipy.sparse.csr_array(X) if sparse else X
    X = X.astype(dtype)
    return Problem(f"made{n_classes}", X[:90], y[:90], X[90:], y[90:])


# Bookkeeping: a worker of this process stands in for the one behind a pipe.


class FakeWorker:
    """Returns given params at the defaults, under None, and then along a curve."""

    warmup_seconds = 0.5

    def __init__(self, outcomes, seconds=0.1):
        self.outcomes, self.seconds, self.asked = dict(outcomes), seconds, []

    def fit(self, C, limit):
        return self._outcome(None)

    def trace(self, C, after, limit, quick):
        for n_iter in self.outcomes:
            if n_iter is not None and n_iter > after:
                yield self._outcome(n_iter)

    def _outcome(self, n_iter):
        self.asked.append(n_iter)
        outcome = self.outcomes[n_iter]
        if isinstance(outcome, BaseException):
            raise outcome
        return {"seconds": self.seconds, "repeats": 1, "n_iter": n_iter or 100}, outcome


PLAN = Plan([], [])


def template(problem):
    return Row(problem.name, 1.0, "float64", "peer", "1", "default", version="1")


def params_near_optimum(problem, distance):
    params = reference.minimise(problem, 1.0).params.copy()
    params[:, 0] += distance * np.arange(1, len(params) + 1)
    return params


def near_and_nearer(problem, n_iters):
    return {n: params_near_optimum(problem, 1 / (n or 9)) for n in n_iters}


def budgets_and_reasons(folder):
    return [(row.budget, row.status, row.reason) for row in ResultsFolder(folder).rows.values()]


def scored_row(like, optimum, *, gap=1e-7, **changes):
    return dataclasses.replace(like, objective=optimum.objective * (1 + gap), n_iter=9, **changes)
