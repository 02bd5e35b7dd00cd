"""A curve from one fit: the iterates of a solver, with the time at which each was reached."""

import math
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from bench.adapter import MAX_BUDGET, Adapter, Effort, Fit, OutOfTimeError, middle
from bench.problems import Array, Problem

#: Larger iterates go to files: thirty of them are more than a fit of millions of params holds.
IN_MEMORY = 1 << 23
GROWTH = 1.25  # ratio of the iteration counts that are kept: 1, 2, 3, 4, 5, 7, 9, 12, ...


class Recorder:
    """Keeps copies of some iterates; the time that copying takes does not count.

    Parameters
    ----------
    limit : float
        Seconds after which `record` raises `OutOfTimeError`, with the last iterate kept.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.points: list[tuple[int, float, Array]] = []  # iterations, seconds, params
        self.is_cut = False
        self._last: tuple[int, float, Array] = (0, 0.0, np.empty(0))
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the seconds from the start to the last iterate."""
        return self._last[1]

    def record(self, params: Array) -> None:
        """Take note of an iteration's end."""
        now = time.perf_counter()
        n_iter = self._last[0] + 1
        self._last = n_iter, now - self._begin, params
        self.is_cut = self.seconds > self.limit
        kept = self.points[-1][0] if self.points else 0
        if n_iter >= max(kept + 1, math.ceil(kept * GROWTH)):
            self.points.append((n_iter, self.seconds, _copy(params)))
            self._begin += time.perf_counter() - now
        if self.is_cut:
            raise OutOfTimeError

    def finish(self) -> None:
        """Keep the last iterate, too."""
        if self._last[0] > (self.points[-1][0] if self.points else 0):
            self.points.append(self._last)


def _copy(params: Array) -> Array:
    """Return a copy in memory, or one in a file without a name, whose end is that of the array."""
    if params.nbytes <= IN_MEMORY:
        return params.copy()
    with tempfile.TemporaryFile() as file:
        params.tofile(file)
        return np.memmap(file, params.dtype, "r", shape=params.shape)


class TracedAdapter(Adapter):
    """A library whose iterates can be seen while it fits."""

    cuts_itself = True

    @abstractmethod
    def run_recorded(self, problem: Problem, C: float, budget: int, recorder: Recorder) -> None:
        """Fit from zero at a tiny tolerance and tell the recorder of every iterate."""

    @abstractmethod
    def unpack(self, problem: Problem, params: Array) -> tuple[Array, Array]:
        """Return coef and intercept of an iterate."""

    def trace(self, problem: Problem, C: float, effort: Effort) -> Iterator[Fit]:
        """Yield iterates of one fit, and raise `OutOfTimeError` at the end if it was cut."""

        def run() -> Recorder:
            recorder = Recorder(effort.limit)
            with suppress(OutOfTimeError):
                self.run_recorded(problem, C, 100 if effort.quick else MAX_BUDGET, recorder)
            recorder.finish()
            return recorder

        recorder = middle(run, lambda found: found.seconds, effort.repeats)
        while recorder.points:  # a file's pages count as memory once they were read
            n_iter, seconds, params = recorder.points.pop(0)
            if n_iter > effort.after:
                yield Fit(*self.unpack(problem, params), n_iter, seconds)
        if recorder.is_cut:
            raise OutOfTimeError
