"""Rows of Dask collections in the memory of workers, and sums over them.

Each partition becomes a design (X, targets and weights as kernels take them) in the memory of a
worker, once. A pass of the solver, which runs in the client, is one graph: a task for each thread
of a worker, which adds up an operation over its designs, then a tree of sums. What travels for it
is the parameters to the workers, and one gradient from each of their threads.

Dask is imported only to run.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from fastsoftmax._designs import Design, Survey, plus
from fastsoftmax.linear_model._parts import Format, survey_part

#: Sums that are added in one task, or in the client: see docs/scale.md.
_FAN_IN = 32


# --- Partitions -----------------------------------------------------------------------------------


class _Surveyed(NamedTuple):
    """What a worker tells of its partition."""

    survey: Survey
    n_features: int
    names: NDArray[Any] | None


class Partitions:
    """Partitions in the memory of workers, while a block runs.

    See `fastsoftmax._designs.parts.Parts`.

    Parameters
    ----------
    parts : list of Delayed
        Each of ``(X, y, sample_weight)``, the last of which may be missing.
    """

    def __init__(self, parts: list[Any]) -> None:
        self._parts = _persist(parts)
        self._n_entries: list[int] = []
        self._designs: list[Any] = []
        self._groups: list[list[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Let workers forget them, also where a traceback that somebody keeps refers to them."""
        _release([*self._parts, *self._designs])

    def survey(self, estimator: Any) -> Survey:
        """Return the survey of all partitions, and have the estimator know the features.

        Raises
        ------
        ValueError
            If partitions have different features, or none has rows.
        """
        blank = clone(estimator._in_memory())
        found = compute(
            [later(_surveyed, part, blank, number) for number, part in enumerate(self._parts)]
        )
        kept = [number for number, one in enumerate(found) if one is not None]
        if not kept:
            raise ValueError("X has no rows; at least one partition must have some.")
        first = found[kept[0]]
        for number in kept:
            one = found[number]
            if one.n_features != first.n_features or not np.array_equal(one.names, first.names):
                raise ValueError(
                    f"Partition {number} has {one.n_features} features, {_names(one)}; partition "
                    f"{kept[0]} has {first.n_features}, {_names(first)}. All partitions need the "
                    "same columns, in the same order."
                )
        estimator.n_features_in_ = first.n_features
        if first.names is not None:
            estimator.feature_names_in_ = first.names
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        self._parts = [self._parts[number] for number in kept]
        self._n_entries = [found[number].survey.n_entries for number in kept]
        return reduce(Survey.__add__, (found[number].survey for number in kept))

    def designs(self, shape: Format) -> Partitions:
        """Turn all partitions into designs: where they are, or where fewer rows are."""
        designs = []
        for number, (part, worker) in enumerate(zip(self._parts, self._workers(), strict=True)):
            place = {"workers": [worker], "allow_other_workers": True} if worker else {}
            with _annotated(**place):
                designs.append(later(shape.design, part, number))
        self._designs = _persist(designs)
        _release(self._parts)  # a design has X, where it is plain, without a copy
        self._parts = []
        self._groups = _groups(self._designs)
        return self

    def _workers(self) -> list[str | None]:
        """Return where each partition is to be, None for where it is.

        The scheduler gives partitions to whoever is free first, and a pass takes as long as the
        worker with the most rows: with 6 and 4 partitions a fifth longer than with 5 and 5.
        """
        holders, threads = _holders(self._parts)
        return _moves(self._n_entries, holders, threads)

    def total(self, operation: Callable[[Design], Any], start: Any = None) -> Any:
        """Return the sum over partitions, each times its `weight_scale`; see `Parts`."""
        sums = [later(_sums, group, operation) for group in self._groups]
        while len(sums) > _FAN_IN:
            groups = [sums[first : first + _FAN_IN] for first in range(0, len(sums), _FAN_IN)]
            sums = [later(_added, group) for group in groups]
        total = _added(compute(sums), start)
        if total is None:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return total


def _moves(sizes: list[int], holders: list[str], threads: dict[str, int]) -> list[str | None]:
    """Return the workers to which partitions should go, None where they should stay.

    Moves one from the worker with the most entries for each thread to the one with the least, as
    long as both then have less than the first one had.

    Parameters
    ----------
    sizes : list of int
        Entries of each partition.
    holders : list of str
        The worker that has it.
    threads : dict
        Threads of each worker.
    """
    places: list[str | None] = [None] * len(sizes)
    loads = dict.fromkeys(threads, 0.0)
    for holder, size in zip(holders, sizes, strict=True):
        loads[holder] += size / threads[holder]
    while len(loads) > 1:
        most, least = max(loads, key=loads.__getitem__), min(loads, key=loads.__getitem__)
        there = [n for n, place in enumerate(places) if (place or holders[n]) == most]
        fits = [n for n in there if loads[least] + sizes[n] / threads[least] < loads[most]]
        if not fits:
            break
        moved = max(fits, key=sizes.__getitem__)
        places[moved] = least
        loads[most] -= sizes[moved] / threads[most]
        loads[least] += sizes[moved] / threads[least]
    return places


def _holders(persisted: list[Any]) -> tuple[list[str], dict[str, int]]:
    """Return the worker that has each result, and the threads of workers.

    Without a cluster, this process is the only one, of name "", and has a thread for each.
    """
    distributed: Any = sys.modules.get("distributed")
    futures = distributed.futures_of(persisted) if distributed is not None else []
    if len(futures) != len(persisted):
        return [""] * len(persisted), {"": len(persisted)}
    distributed.wait(futures)
    client = futures[0].client
    found, threads = client.who_has(futures), dict(client.nthreads())
    holders = [next(iter(found[future.key]), "") for future in futures]
    return holders, threads | {holder: 1 for holder in holders if holder not in threads}


def _groups(designs: list[Any]) -> list[list[Any]]:
    """Return lists of designs in one place, as many for a worker as it has threads.

    One task for each list spares the scheduler what one for each design costs, several ms.
    """
    holders, threads = _holders(designs)
    groups: dict[tuple[str, int], list[Any]] = {}
    seen = dict.fromkeys(threads, 0)
    for design, holder in zip(designs, holders, strict=True):
        groups.setdefault((holder, seen[holder] % threads[holder]), []).append(design)
        seen[holder] += 1
    return list(groups.values())


def _surveyed(part: Any, blank: Any, number: int) -> _Surveyed | None:
    """Return what a partition tells; `blank` is an estimator that has not seen features."""
    estimator = clone(blank)
    survey = survey_part(estimator, part, number, "Partition", reset=True)
    if survey is None:
        return None
    names = getattr(estimator, "feature_names_in_", None)
    return _Surveyed(survey, estimator.n_features_in_, names)


def _names(one: _Surveyed) -> str:
    return "without names" if one.names is None else f"called {list(one.names)}"


def _sums(designs: list[Design | None], operation: Callable[[Design], Any]) -> Any:
    """Return an operation's sums times the unit of the weights, or None without weight."""
    total: Any = None
    for design in designs:
        if design is not None:
            total = plus(total, operation(design), design.weight_scale)
    return total


def _added(sums: list[Any], total: Any = None) -> Any:
    """Return the sum of what is not None, in order, and of `total`."""
    for one in sums:
        if one is not None:
            total = plus(total, one, 1.0)
    return total


# --- Collections ----------------------------------------------------------------------------------


def is_collection(X: Any) -> bool:
    """Tell a Dask collection from rows in memory."""
    return hasattr(X, "__dask_graph__")


def later(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return a task that calls a function."""
    from dask import delayed

    return delayed(function, pure=False, traverse=False)(*arguments)


def compute(tasks: list[Any]) -> list[Any]:
    """Return the results of tasks, all in one graph.

    An interrupt, or the error of a task, ends the others.
    """
    import dask

    return list(dask.compute(*tasks))


def _persist(tasks: list[Any]) -> list[Any]:
    """Have tasks done, and keep the results where they are."""
    import dask

    return list(dask.persist(*tasks))


def _annotated(**annotations: Any) -> Any:
    """Return a context in which tasks get annotations."""
    import dask

    return dask.annotate(**annotations)


def _release(persisted: list[Any]) -> None:
    """Let a cluster forget results; other schedulers have them in this process."""
    if (distributed := sys.modules.get("distributed")) is not None:
        for future in distributed.futures_of(persisted):
            future.release()


def rows_of(X: Any) -> Any:
    """Return a collection whose chunks hold whole rows.

    Raises
    ------
    TypeError or ValueError
        If it is no array or frame of two dimensions.
    """
    if hasattr(X, "map_partitions") and hasattr(X, "columns"):
        return X
    if not hasattr(X, "map_blocks"):
        raise TypeError(
            f"X must be a Dask array or dataframe, got {type(X).__name__}. Turn a bag or delayed "
            "objects into one of these."
        )
    if X.ndim != 2:
        raise ValueError(f"X must have two dimensions, got {X.ndim}.")
    return X.rechunk({1: -1}) if X.numblocks[1] > 1 else X


def delayed_parts(X: Any, y: Any, sample_weight: Any) -> list[Any]:
    """Return ``(X, y)`` or ``(X, y, sample_weight)`` of each partition, to be computed."""
    X = rows_of(X)
    blocks = [list(np.ravel(X.to_delayed()))]
    for name, values in (("y", y), ("sample_weight", sample_weight)):
        if values is not None:
            blocks.append(_like_rows_of(X, blocks[0], values, name))
    return [later(_as_tuple, *part) for part in zip(*blocks, strict=True)]


def _as_tuple(*items: Any) -> tuple[Any, ...]:
    return items


def _like_rows_of(X: Any, blocks: list[Any], values: Any, name: str) -> list[Any]:
    """Return the parts of y, or of weights, that belong to the partitions of X.

    Raises
    ------
    ValueError
        If they do not match.
    """
    if not is_collection(values):
        lengths = _lengths(X, blocks)
        values = values if hasattr(values, "shape") else np.asarray(values)
        if len(values) != sum(lengths):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: X has "
                f"{sum(lengths)}, {name} has {len(values)}."
            )
        bounds = np.cumsum([0, *lengths])
        rows = getattr(values, "iloc", values)
        return [rows[first:last] for first, last in itertools.pairwise(bounds)]
    if hasattr(values, "map_blocks"):
        if hasattr(X, "chunks") and values.chunks[0] != X.chunks[0] and _are_known(values, X):
            if values.shape[0] != X.shape[0]:
                raise ValueError(
                    f"Found input variables with inconsistent numbers of samples: X has "
                    f"{X.shape[0]}, {name} has {values.shape[0]}."
                )
            values = values.rechunk({0: X.chunks[0]})
        if values.ndim == 2:
            values = values.rechunk({1: -1})
    parts = list(np.ravel(values.to_delayed()))
    if len(parts) != len(blocks):
        raise ValueError(
            f"{name} has {len(parts)} partitions, X has {len(blocks)}, and their lengths are not "
            "known. Give both the same partitions, or call compute_chunk_sizes() on Dask arrays."
        )
    return parts


def _are_known(*arrays: Any) -> bool:
    return not any(np.isnan(n) for array in arrays for n in array.chunks[0])


def _lengths(X: Any, blocks: list[Any]) -> list[int]:
    """Return the number of rows of each partition, which a frame's must be computed for."""
    if hasattr(X, "chunks") and _are_known(X):
        return [int(n) for n in X.chunks[0]]
    return [int(n) for n in compute([later(_length, block) for block in blocks])]


def _length(block: Any) -> int:
    return int(block.shape[0])
