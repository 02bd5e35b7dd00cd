"""The environment a result was measured in, saved beside it."""

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from bench.adapter import Adapter
from bench.process import ROOT

PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "scikit-learn", "joblib", "threadpoolctl")
PREFIXES = ("OPENBLAS_", "OMP_", "MKL_", "BLIS_", "KMP_", "NUMBA_")


def describe(libraries: Iterable[Adapter], **settings: Any) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat the numbers."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "n_cores": os.cpu_count(),
        "memory_bytes": total_memory(),
        "libraries": library_versions(libraries),
        "packages": {name: _version(name) for name in PACKAGES},
        "thread_pools": [
            {key: value for key, value in pool.items() if key != "filepath"}
            for pool in threadpool_info()
        ],
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(PREFIXES)},
        "settings": settings,
    }


def library_versions(libraries: Iterable[Adapter]) -> dict[str, str]:
    """Return the installed libraries' versions by adapter name."""
    return {a.name: version for a in libraries if (version := a.version()) is not None}


def conflicts(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Return sentences on what makes saved rows and new ones incomparable."""
    found = []
    for section in ("libraries", "packages", "settings"):
        before, now = saved.get(section, {}), current[section]
        found += [
            f"{name} was {before[name]}, is {now[name]}"
            for name in now
            if name in before and before[name] != now[name]
        ]
    if saved and saved["cpu"] != current["cpu"]:
        found.append(f"the CPU was {saved['cpu']}, is {current['cpu']}")
    return found


def cpu_model() -> str:
    """Return the CPU's marketing name where the system tells it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def total_memory() -> int | None:
    """Return the physical memory in bytes where the system tells it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def git_commit() -> str | None:
    """Return the commit of the working copy, with ``+`` when files differ from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    output = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    )
    return output.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
