"""Pytest plugin that gives a test module of scikit-learn our classes in place of its own.

Loaded by `test_sklearn_suite.py` into a process of its own, in which no test of ours runs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import sklearn.linear_model

import fastsoftmax

#: Environment variable: the file that gets a line of JSON per test.
OUTCOMES = "SKLEARN_SUITE_OUTCOMES"
CLASSES = ("LogisticRegression", "LogisticRegressionCV")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Replace the classes while a module is imported, for its decorators hold them, too."""
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(collector, pytest.Module):
            for name in CLASSES:
                patch.setattr(sklearn.linear_model, name, getattr(fastsoftmax, name))
        return (yield)


def pytest_runtest_logreport(report):
    if report.when != "call" and report.passed:
        return
    name = report.nodeid.split("::")[-1]
    line = json.dumps({"name": name, "outcome": report.outcome, "text": _last_line(report)})
    with Path(os.environ[OUTCOMES]).open("a") as file:
        file.write(line + "\n")


def _last_line(report):
    """Return why a test failed or was skipped, in a line."""
    if isinstance(report.longrepr, tuple):  # skipped: file, line, reason
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash else ""
