"""What the pages promise stands there: links lead somewhere, the headline table is filled."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "bench" / "README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


def test_readme_has_two_commands_and_a_headline():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^```sh\n(.+?)\n```$", text, flags=re.MULTILINE | re.DOTALL)
    assert ["bench run" in commands[0], "pytest" in commands[1], len(commands)] == [True, True, 2]
    headline = text.split("<!-- bench -->")[1].split("<!-- /bench -->")[0]
    assert headline.count("\n| ") > 4


def names_in(name: str) -> set[str]:
    """Return the names of the tests of a file; of a method also that of its class."""
    tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return {node.name for node in functions if node.name.lower().startswith("test")}


def table(page: Path) -> list[tuple[str, ...]]:
    """Return the rows of a page's table, without head and headings."""
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = [tuple(map(str.strip, line.strip("|").split("|"))) for line in lines if "|" in line]
    return [row for row in rows[2:] if not row[0].startswith("**")]


def named_tests(proof: str) -> list[tuple[str, str]]:
    """Return file and name of the tests of a cell; check that they exist."""
    tests = re.findall(r"`(test_\w+\.py)::(\w+)`", proof)
    assert proof.count("::") == len(tests)
    for file, name in tests:
        assert name in names_in(file), f"{file} has no {name}"
    return tests


@pytest.mark.parametrize("row", table(ROOT / "docs" / "features.md"), ids=lambda row: row[0])
def test_a_feature_is_proved_by_tests_that_exist(row):
    _, theirs, ours, proof = row
    assert theirs
    assert named_tests(proof) or not ours.startswith("yes")


@pytest.mark.parametrize("row", table(ROOT / "SECURITY.md"), ids=lambda row: row[0][:40])
def test_a_promise_is_proved_by_tests_that_exist(row):
    promise, proof = row
    assert promise.endswith(".")
    assert named_tests(proof)
