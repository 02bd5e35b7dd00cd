"""Threads of our own, for processes in which Numba's cannot be entered.

Kernels release the GIL, so Python threads run them side by side. Everything that threads share is
of C: a `SimpleQueue` and an `itertools.count`, whose single steps an interrupt cannot divide. So
there is no lock that a Ctrl-C, or a fork, could leave held.

The caller works, too, and takes what no other thread has taken: a sweep ends even if no thread
of the pool ever runs.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

#: Pieces of a sweep for each thread: the first one to be done takes another.
_PIECES_PER_THREAD = 4


class _Sweep:
    """Units of work in pieces, and who has taken them."""

    def __init__(
        self,
        driver: Callable[..., None],
        n_units: int,
        arguments: tuple[Any, ...],
        n_threads: int,
    ) -> None:
        self._driver, self._arguments = driver, arguments
        n_pieces = min(n_units, _PIECES_PER_THREAD * n_threads)
        self._bounds = [n_units * piece // n_pieces for piece in range(n_pieces + 1)]
        self._n_pieces = n_pieces
        self._next = itertools.count().__next__
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._is_off = False

    def work(self) -> None:
        """Take pieces as long as there are any."""
        while not self._is_off and (piece := self._next()) < self._n_pieces:
            error: BaseException | None = None
            try:
                self._driver(self._bounds[piece], self._bounds[piece + 1], *self._arguments)
            except BaseException as caught:  # for the caller to see, whichever thread this is
                error = caught
            self._ended.put(error)

    def finish(self) -> None:
        """Work along, and wait for the pieces of others.

        Raises
        ------
        BaseException
            What a piece raised.
        """
        try:
            self.work()
            for _ in range(self._n_pieces):
                error = self._ended.get()
                if error is not None:
                    raise error
        finally:
            self._is_off = True  # after an error, or an interrupt, no further piece is begun


class _Pool:
    """Daemon threads that wait for sweeps."""

    def __init__(self) -> None:
        self._sweeps: SimpleQueue[_Sweep] = SimpleQueue()
        self._n_threads = 0

    def run(self, sweep: _Sweep, n_helpers: int) -> None:
        # Where no thread can be started, at the end of the interpreter too, fewer will do.
        with contextlib.suppress(RuntimeError):
            while self._n_threads < n_helpers:
                name = f"fastsoftmax-{self._n_threads + 1}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
                self._n_threads += 1
        for _ in range(min(n_helpers, self._n_threads)):
            self._sweeps.put(sweep)
        sweep.finish()

    def _serve(self) -> None:
        while True:
            self._sweeps.get().work()


_pool = _Pool()


def run(
    driver: Callable[..., None], n_units: int, arguments: tuple[Any, ...], n_threads: int
) -> None:
    """Run ``driver(first, last, *arguments)`` over all units, in `n_threads` threads.

    Raises
    ------
    BaseException
        What the driver raised, in whichever thread.
    """
    _pool.run(_Sweep(driver, n_units, arguments, n_threads), n_threads - 1)


def forget() -> None:
    """Begin anew, in a forked child: no thread but the caller has come along."""
    global _pool
    _pool = _Pool()
