"""Batches that are read anew in each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from fastsoftmax._designs.base import Design
from fastsoftmax._designs.parts import plus

Item = TypeVar("Item")


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield items, the next of which a thread makes while the last one is at work."""
    end: Any = object()
    with ThreadPoolExecutor(1, "fastsoftmax-reader") as reader:
        ahead: Future[Any] = reader.submit(next, items, end)
        while (item := ahead.result()) is not end:
            ahead = reader.submit(next, items, end)
            yield item
            del item  # before the one after the next is made


class StreamedParts:
    """The batches of a source as designs; see `fastsoftmax._designs.parts.Parts`.

    Parameters
    ----------
    designs : callable
        Without arguments. Returns an iterator over the batches' numbers of rows and designs, None
        where no row has weight.
    n_samples : int
        Rows of all batches.
    on_rows : callable, default=None
        Takes the number of rows that a pass has seen so far, 0 at its start.
    """

    def __init__(
        self,
        designs: Callable[[], Iterator[tuple[int, Design | None]]],
        n_samples: int,
        on_rows: Callable[[int], None] | None = None,
    ) -> None:
        self._designs, self._n_samples = designs, n_samples
        self._on_rows = on_rows or (lambda n_rows: None)

    def total(self, operation: Callable[[Design], Any], start: Any = None) -> Any:
        """Return the sum over batches, each times its `weight_scale`, added to `start` if any.

        Raises
        ------
        ValueError
            If there are not as many rows as before.
        """
        sums = start
        n_rows = 0
        self._on_rows(0)
        for n_new, design in read_ahead(self._designs()):
            if design is not None:
                sums = plus(sums, operation(design), design.weight_scale)
            n_rows += n_new
            self._on_rows(n_rows)
        if n_rows != self._n_samples or sums is None:
            raise ValueError(
                f"The source had {self._n_samples} rows at first, and {n_rows} in a later pass: "
                "its batches() must return a new iterator over the same rows each time."
            )
        return sums
