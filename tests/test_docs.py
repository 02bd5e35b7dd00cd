"""What the pages promise stands there: links lead somewhere, the headline table is filled."""

from __future__ import annotations

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
