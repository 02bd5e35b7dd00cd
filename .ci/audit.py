"""Look up known vulnerabilities of what fastsoftmax needs: ``python .ci/audit.py``.

Asks pip-audit about the versions installed and about the lowest ones that pyproject.toml allows. A
vulnerability fails, and so does whatever goes wrong but one thing: where the service of
advisories cannot be reached, directly or behind a mirror, this says so and passes, for that is
no fault of the project.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent

#: How pip-audit, and below it requests, speak of a service that does not answer.
UNREACHABLE = (
    r"ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|NameResolutionError|"
    r"Could not connect to|Max retries exceeded|your network may be blocking this service"
)


def direct() -> list[str]:
    """Return the names of what the package itself needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [name_in(requirement) for requirement in project["dependencies"]]


def name_in(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def installed() -> dict[str, str]:
    """Return the version of everything that the package needs to run, however indirectly."""
    versions: dict[str, str] = {}
    waiting = direct()
    while waiting:
        name = waiting.pop()
        if name in versions:
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # other systems'
            versions[name] = importlib.metadata.version(name)
            needed = importlib.metadata.requires(name) or ()
            waiting += [name_in(needs) for needs in needed if "extra ==" not in needs]
    return versions


def lowest() -> dict[str, str]:
    """Return the lowest versions of what the package itself needs."""
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, flags=re.MULTILINE))
    return {name: pinned[name] for name in direct()}


def verdict(status: int, report: str, messages: str) -> tuple[bool, str]:
    """Return whether to pass, and what to say, of what pip-audit returned and printed."""
    try:
        dependencies = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        if status and re.search(UNREACHABLE, messages):
            return True, "NOT AUDITED: the service of advisories cannot be reached from here."
        return False, f"pip-audit failed with exit status {status}:\n{messages}"
    if not dependencies:
        return False, "pip-audit looked at nothing."
    if all("skip_reason" in dependency for dependency in dependencies):
        return True, "NOT AUDITED: an index answers here that has no advisories."
    lines = []
    for dependency in dependencies:
        name = f"{dependency['name']} {dependency.get('version', '')}".strip()
        if "skip_reason" in dependency:
            lines.append(f"{name}: not audited, {dependency['skip_reason']}")
        for found in dependency.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "nowhere"
            lines.append(f"{name}: {found['id']}, fixed in {fixed}")
    is_vulnerable = any(dependency.get("vulns") for dependency in dependencies)
    if status and not is_vulnerable:
        return False, f"pip-audit failed with exit status {status}:\n{messages}"
    lines.append(f"{len(dependencies)} asked for, {'see above' if lines else 'nothing known'}.")
    return not is_vulnerable, "\n".join(lines)


def audit(versions: dict[str, str]) -> tuple[bool, str]:
    """Return the verdict about some versions."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text("".join(f"{n}=={v}\n" for n, v in versions.items()), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(pinned)]
        command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return verdict(done.returncode, done.stdout, done.stderr)


if __name__ == "__main__":
    passes = True
    for title, versions in (("Installed", installed()), ("Lowest", lowest())):
        passed, words = audit(versions)
        print(f"{title}: {', '.join(f'{n} {v}' for n, v in versions.items())}\n{words}")
        passes &= passed
    sys.exit(not passes)
