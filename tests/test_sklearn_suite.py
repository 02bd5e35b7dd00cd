"""scikit-learn's own tests of logistic regression, run with our classes in place of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sklearn
from sklearn_suite_plugin import OUTCOMES

ROOT = Path(__file__).parents[1]
SUITE = Path(sklearn.__file__).parent / "linear_model" / "tests" / "test_logistic.py"

pytestmark = [
    pytest.mark.skipif(
        not sklearn.__version__.startswith("1.9."),
        reason="the exclusions are those of the tests in scikit-learn 1.9",
    ),
    pytest.mark.skipif(not SUITE.exists(), reason="scikit-learn is installed without its tests"),
]

#: Tests that only scikit-learn's solvers can pass: a pattern of their names, and why.
EXCLUDED = {
    r"test_liblinear_dual_random_state\[.*": (
        "asks for another result from another random_state; our fits are deterministic"
    ),
    r"test_logistic_cv_multinomial_score\[.*": (
        "hands our parameters, of which scikit-learn lacks some, to a private function of its own"
    ),
    r"test_LogisticRegression_elastic_net_objective\[0\.1-100\.0\]": (
        "at the default tol compares objectives that differ by some 1e-10 of themselves"
    ),
    r"test_warm_start_newton_solver\[.*": (
        "two fits of one step as one of two: our steps depend on the curvature of those before"
    ),
    r"test_newton_cholesky_fallback_to_lbfgs": (
        "counts the iterations of lbfgs after a singular Hessian; ours needs no such fallback"
    ),
    r"test_dtype_match\[.*-liblinear\]": "LIBLINEAR knows float64 only; ours keeps float32",
    r"test_large_sparse_matrix\[.*-(liblinear|sag|saga)\]": (
        "asks for a refusal of 64-bit indices, which ours takes"
    ),
    r"test_liblinear_with_large_values": "asks for a refusal where LIBLINEAR hangs; ours fits",
    r"test_logisticregression_warns_with_n_jobs": "n_jobs has an effect here",
    r"test_logistic_regression_callback_support_warning": (
        "asks for a warning that only lbfgs calls callbacks; here every solver does"
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Return outcome and text of every test, by name."""
    folder = tmp_path_factory.mktemp("sklearn_suite")
    config, lines = folder / "pytest.ini", folder / "outcomes.jsonl"
    config.write_text("[pytest]\n")  # ours makes warnings errors
    command = [sys.executable, "-m", "pytest", str(SUITE), "-q", "--tb=short"]
    command += ["-c", str(config), "--noconftest", "-p", "no:cacheprovider"]
    command += ["-p", "sklearn.conftest", "-p", "sklearn_suite_plugin"]
    command += ["-k", "not (torch or cupy or dpnp or array_api_strict)"]
    done = subprocess.run(
        command,
        env=os.environ
        | {
            OUTCOMES: str(lines),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            "SCIPY_ARRAY_API": "1",  # else the tests of NumPy's arrays are skipped, too
            "SKLEARN_TESTS_GLOBAL_RANDOM_SEED": "42",
            "LOKY_MAX_CPU_COUNT": "1",  # sklearn.conftest takes as many threads of BLAS
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in (0, 1), f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    tests = [json.loads(line) for line in lines.read_text().splitlines()]
    return {test["name"]: (test["outcome"], test["text"]) for test in tests}


def reason(name):
    return next((why for pattern, why in EXCLUDED.items() if re.fullmatch(pattern, name)), None)


def test_no_other_test_of_scikit_learn_fails(outcomes):
    counts = Counter(
        "excluded" if reason(name) else outcome for name, (outcome, _) in outcomes.items()
    )
    print("scikit-learn's tests:", dict(counts))  # noqa: T201 (shown with -rA)
    failed = {
        name: text
        for name, (outcome, text) in outcomes.items()
        if outcome == "failed" and not reason(name)
    }
    assert counts["passed"] > 0
    assert not failed, "\n\n".join(f"{name}\n{text}" for name, text in failed.items())


@pytest.mark.parametrize("pattern", EXCLUDED)
def test_excluded_tests_fail(outcomes, pattern):
    found = {
        name: outcome for name, (outcome, _) in outcomes.items() if re.fullmatch(pattern, name)
    }
    assert "failed" in found.values(), f"no longer needed, or misspelt: {found}"
