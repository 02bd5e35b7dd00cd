"""Rows of ``kernels.csv``, and what tables, plot and goals look up in them."""

import math
from dataclasses import dataclass, fields
from pathlib import Path

from bench.gathers import FILE as GATHERS
from bench.gathers import Bounds, case_name, read_bounds
from bench.machine import Limits, Machine
from bench.operation import OURS, Operation, Shape, find_operations, shape_name
from bench.operations.sparse import NAME as SPARSE
from bench.results import NAN, read_csv

NATIVE = "native"
#: CPUs whose narrower vector code must not be slower than scikit-learn.
NARROW_CPUS = ("haswell", "generic")


@dataclass(frozen=True)
class KernelRow:
    """One library's operation on one shape and dtype. The first seven fields are its key."""

    operation: str
    shape: str
    dtype: str
    library: str
    threads: str
    cpu: str  # "native", or the CPU that Numba was told to compile for
    version: str
    status: str = "ok"  # ok, cut, failed, skipped
    reason: str = ""
    seconds: float = NAN  # median
    repeats: int = 0
    first_seconds: float = NAN  # with compilation, or loading of compiled code
    companion_seconds: float = NAN  # median of what was called in turns with it
    error: float = NAN  # against float64 NumPy; see the operation
    vector_bits: int = 0  # of Numba's code in that process

    @property
    def key(self) -> tuple[str, ...]:
        """Return what identifies the measurement."""
        return (self.operation, self.shape, self.dtype, self.library, self.threads, self.cpu,
                self.version)  # fmt: skip

    @classmethod
    def from_strings(cls, strings: dict[str, str]) -> "KernelRow":
        """Return the row that a line of the CSV file holds."""
        return cls(**{f.name: f.type(strings[f.name]) for f in fields(cls)})  # type: ignore[operator]  # a class


class Measurements:
    """The rows of each library's latest version, and the machine's limits."""

    def __init__(
        self, rows: list[KernelRow], machine: Machine, bounds: Bounds | None = None
    ) -> None:
        self.versions = {row.library: row.version for row in rows}
        self.rows = [row for row in rows if row.version == self.versions[row.library]]
        self.machine = machine
        self.bounds = bounds or {}  # of passes over sparse X
        self.operations = find_operations()

    @classmethod
    def read(cls, path: Path, machine: Machine) -> "Measurements":
        """Return what a file holds."""
        rows = list(map(KernelRow.from_strings, read_csv(path)))
        return cls(rows, machine, read_bounds(path.parent / GATHERS))

    def cases(self, operation: str) -> list[tuple[Shape, str]]:
        """Return the (shape, dtype) of an operation that have rows, in the registry's order."""
        rows = [row for row in self.rows if row.operation == operation]
        names = list(dict.fromkeys(shape_name(s) for s in self._registered(operation)))
        found = {(row.shape, row.dtype) for row in rows}
        names += sorted({shape for shape, _ in found} - set(names))
        return [
            (tuple(map(int, name.split("x"))), dtype)
            for dtype in ("float64", "float32")
            for name in names
            if (name, dtype) in found
        ]

    def find(
        self,
        operation: str,
        shape: Shape,
        dtype: str,
        library: str = OURS,
        threads: str | None = None,
        cpu: str = NATIVE,
    ) -> KernelRow | None:
        """Return the row that was measured, at the best thread count if none is named."""
        wanted = (operation, shape_name(shape), dtype, library, cpu)
        rows = [
            row
            for row in self.rows
            if (row.operation, row.shape, row.dtype, row.library, row.cpu) == wanted
            and row.status == "ok"
            and threads in (None, row.threads)
        ]
        return min(rows, key=lambda row: row.seconds, default=None)

    def seconds(self, *arguments: str | Shape, **options: str) -> float:
        """Return the seconds of `find`, nan where there is no row."""
        row = self.find(*arguments, **options)  # type: ignore[arg-type]  # its own signature
        return NAN if row is None else row.seconds

    def peers(self, operation: str) -> list[str]:
        """Return the other libraries of an operation that have a row."""
        names = self.operations[operation].libraries
        measured = {r.library for r in self.rows if (r.operation, r.status) == (operation, "ok")}
        return [name for name in names if name != OURS and name in measured]

    def best_peer(self, operation: str, shape: Shape, dtype: str) -> KernelRow | None:
        """Return the fastest row of another library."""
        rows = [self.find(operation, shape, dtype, peer) for peer in self.peers(operation)]
        return min(filter(None, rows), key=lambda row: row.seconds, default=None)

    def ratio(self, operation: str, shape: Shape, dtype: str, peer: str | None = None) -> float:
        """Return the seconds of a peer, or of the best one, over ours; nan if one is missing."""
        if peer is None:
            best = self.best_peer(operation, shape, dtype)
            other = NAN if best is None else best.seconds
        else:
            other = self.seconds(operation, shape, dtype, peer)
        return other / self.seconds(operation, shape, dtype)

    def attained(self, operation: str, shape: Shape, dtype: str, threads: str = "2") -> float:
        """Return our share of the machine's bound at as many threads."""
        limits, registered = self.machine[threads], self.operations[operation]
        if operation == SPARSE:
            by_threads = self.bounds.get(case_name(shape_name(shape), dtype))
            bound = by_threads[threads].seconds if by_threads else NAN
        else:
            bound = limits.bound(*registered.bound_arguments(shape, dtype))
        return bound / self.seconds(operation, shape, dtype, threads=threads)

    def scaling(self, operation: str, shape: Shape, dtype: str) -> float:
        """Return our seconds with one thread over those with two."""
        one = self.seconds(operation, shape, dtype, threads="1")
        return one / self.seconds(operation, shape, dtype, threads="2")

    def is_compute_bound(self, operation: str, shape: Shape, dtype: str) -> bool:
        """Return whether arithmetic bounds an operation, at two threads as at one."""
        arguments = self.operations[operation].bound_arguments(shape, dtype)
        return all(limits.is_compute_bound(*arguments) for limits in self.machine.values())

    def missing(self) -> list[KernelRow]:
        """Return the rows without a measurement; each says why."""
        return [row for row in self.rows if row.status != "ok"]

    def _registered(self, operation: str) -> list[Shape]:
        registered: Operation = self.operations[operation]
        return [*registered.shapes, *registered.quick_shapes]


def roof(limits: Limits, dtype: str, intensity: float) -> float:
    """Return the flops per second that the machine allows at so many flops per byte."""
    return min(limits.peak[dtype], intensity * limits.bandwidth)


def known(value: float) -> bool:
    """Return whether a number was measured."""
    return not math.isnan(value)
