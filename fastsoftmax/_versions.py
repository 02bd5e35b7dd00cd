"""What one needs to know of a machine to reproduce a result or read a bug report."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from fastsoftmax._cache import trusted_folder
from fastsoftmax._threads import available_threads, limits, plan

_WORDS = {"numba": "Numba's threads", "pool": "threads of our own", "serial": "one thread"}


def show_versions() -> None:
    """Print versions, threads and why these, and the folder of compiled kernels."""
    print("\n".join(f"{name:>16}: {value}" for name, value in describe().items()))  # noqa: T201 (its purpose)


def describe() -> dict[str, str]:
    """Return what `show_versions` prints. Launches Numba's threads."""
    facts = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
    }
    for package in ("fastsoftmax", "numba", "llvmlite", "numpy", "scipy", "scikit-learn"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    chosen = plan()
    facts["large sweeps"] = f"{_WORDS[chosen.name]} ({chosen.reason})"
    least = min(limits())
    facts["threads"] = f"{available_threads()} ({least.reason})"
    facts["kernel cache"] = _place_of_kernels()
    return facts


def _place_of_kernels() -> str:
    try:
        return str(trusted_folder())
    except (OSError, RuntimeError) as error:
        return f"none, kernels compile in every process: {error}"
