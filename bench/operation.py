"""What the kernels are asked to do: operations, each with its libraries, shapes and counts."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from bench.adapter import find_libraries

Shape = tuple[int, ...]
Count = Callable[[Shape], int]

OURS = "fastsoftmax"
#: The distribution of each library.
DISTRIBUTIONS = {OURS: OURS, "scikit-learn": "scikit-learn", "torch": "torch", "scipy": "scipy"}


@dataclass(frozen=True)
class Case:
    """One library's work on one shape, ready to be called again and again."""

    run: Callable[[], Any]
    error: Callable[[Any], float]  # of what `run` returned, against float64 NumPy
    companion: Callable[[], Any] | None = None  # called in turns with `run`, and timed too
    repeats: int = 7  # at least


Maker = Callable[[Shape, str], Case]


@dataclass(frozen=True)
class Operation:
    """A row of the registry: one thing to do, and who can do it."""

    name: str
    libraries: dict[str, Maker]
    shapes: list[Shape]
    quick_shapes: list[Shape]
    n_flops: Count | None = None
    n_words: Count | None = None  # numbers that must come from memory
    threads: tuple[str, ...] = ("1", "2")
    narrow: bool = False  # whether it is also measured with narrower vector code
    only_these: bool = False  # whether there are no other shapes

    def bound_arguments(self, shape: Shape, dtype: str) -> tuple[float, float, str]:
        """Return bytes, flops and dtype, as `Limits.bound` takes them."""
        n_bytes = self.n_words(shape) * (8 if dtype == "float64" else 4) if self.n_words else 0
        return n_bytes, self.n_flops(shape) if self.n_flops else 0, dtype


OPERATIONS: dict[str, Operation] = {}


def register(operation: Operation) -> None:
    """Make an operation known under its name."""
    OPERATIONS[operation.name] = operation


def find_operations() -> dict[str, Operation]:
    """Import every module of ``bench/operations`` and return the operations by name."""
    import bench.operations

    for module in pkgutil.iter_modules(bench.operations.__path__):
        importlib.import_module(f"bench.operations.{module.name}")
    return OPERATIONS


def installed_version(library: str) -> str | None:
    """Return a library's version, ours with a digest of the sources; None if not installed."""
    if library == OURS:
        return find_libraries()[OURS].version()
    try:
        return metadata.version(DISTRIBUTIONS[library])
    except metadata.PackageNotFoundError:
        return None


def shape_name(shape: Shape) -> str:
    """Return ``NxDxK``."""
    return "x".join(map(str, shape))


def parse_shape(text: str) -> Shape:
    """Return the shape that ``NxDxK`` names."""
    return tuple(map(int, text.lower().split("x")))
