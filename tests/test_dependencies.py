"""What the package needs: bounds that are tested, and their audit in CI."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def bounds(requirements):
    """Return the lower bounds by name; leave out what a requirement of our own extras says."""
    parsed = [Requirement(requirement) for requirement in requirements]
    return {
        requirement.name: {s.operator: s.version for s in requirement.specifier}
        for requirement in parsed
        if requirement.name != "fastsoftmax"
    }


def pinned():
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, flags=re.MULTILINE))


def release(version):
    """2.0 and 2.0.0 are the same release."""
    return [int(part) for part in re.sub(r"(\.0)+$", "", version).split(".")]


EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize(
    ("name", "bound"),
    sorted(bounds(PROJECT["dependencies"] + EXTRAS["bench"] + EXTRAS["test"]).items()),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_tests_run_with_at_least_is_the_lower_bound(name, bound):
    """No upper bounds: they would keep users from mending what they depend on."""
    assert bound.keys() == {">="}
    assert release(pinned()[name]) == release(bound[">="])


def test_nothing_else_is_needed():
    """Each dependency is code that users must trust."""
    assert bounds(PROJECT["dependencies"]).keys() == {"numba", "numpy", "scipy", "scikit-learn"}


# --- The audit ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*vulnerabilities, **more):
    first = {"name": "numpy", "version": "2.0.0", "vulns": list(vulnerabilities)}
    second = {"name": "numba", "version": "0.62.0", "vulns": []} | more
    return json.dumps({"dependencies": [first, second], "fixes": []})


SKIPPED = {"name": "numpy", "skip_reason": "not found"}
FOUND = {"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}
OFFLINE = "requests.exceptions.ConnectionError: HTTPSConnectionPool: Max retries exceeded with url"


@pytest.mark.parametrize(
    ("status", "printed", "messages", "passes", "words"),
    [
        (0, report(), "No known vulnerabilities found", True, "nothing known"),
        (1, report(FOUND), "Found 1", False, "numpy 2.0.0: PYSEC-1, fixed in 2.1"),
        (1, report(FOUND), OFFLINE, False, "PYSEC-1"),
        (1, report(FOUND | {"fix_versions": []}), "", False, "fixed in nowhere"),
        (0, report(skip_reason="not found"), "", True, "numba 0.62.0: not audited, not found"),
        (0, json.dumps({"dependencies": [SKIPPED] * 2}), "", True, "NOT AUDITED"),
        (0, json.dumps({"dependencies": []}), "", False, "looked at nothing"),
        (1, "", OFFLINE, True, "NOT AUDITED"),
        (1, "", "ERROR: Tip: your network may be blocking this service.", True, "NOT AUDITED"),
        (1, "", "invalid requirements input", False, "invalid requirements"),
        (2, "", "No module named pip_audit", False, "No module named"),
        (1, report(), "interrupted", False, "exit status 1"),
        (0, "[]", OFFLINE, False, "exit status 0"),
    ],
)
def test_only_a_silent_service_is_excused(audit, status, printed, messages, passes, words):
    passed, said = audit.verdict(status, printed, messages)
    assert passed == passes
    assert words in said


def test_the_audit_asks_for_all_that_runs(audit):
    lowest = audit.lowest()
    assert lowest == {name: pinned()[name] for name in bounds(PROJECT["dependencies"])}
    assert audit.installed().keys() >= {*lowest, "llvmlite", "joblib", "threadpoolctl"}
