"""What one needs to know of a machine to reproduce a result or read a bug report."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from fastsoftmax._jit import cache_directory
from fastsoftmax._threads import available_threads, threading_layer


def show_versions() -> None:
    """Print versions, threads, threading layer and the folder of compiled kernels."""
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
    layer = threading_layer()
    facts["threading layer"] = layer if layer in ("omp", "tbb") else f"{layer} (fits run serially)"
    facts["threads"] = str(available_threads())
    facts["kernel cache"] = str(cache_directory() or "none: kernels compile in every process")
    return facts
