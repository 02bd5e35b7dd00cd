"""Blocks of a file, read by threads, past the system's cache where it lets us.

A file that is larger than the memory gains nothing from that cache: what a pass reads is gone
before the next one. A direct read spares the copy out of it (0.15 s of a core for 1 GB), and others
keep what they have there. Two reads at a time keep a disk busy while one of them is handed over.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

#: Threads that read, each a block of its own; as many blocks are in memory beside those handed out.
_N_READERS = 2
#: Bytes of which the memory, the place and the length of a direct read are multiples.
_ALIGNMENT = 4096


def read_blocks(name: Any, bounds: Sequence[tuple[int, int]]) -> Iterator[Bytes]:
    """Yield the bytes of a file between bounds, in order.

    The memory of a block is used again when no array refers to it any more.

    Parameters
    ----------
    name : str or Path
    bounds : sequence of (start, stop)

    Raises
    ------
    OSError
        If the file cannot be read, or ends before a bound.
    """
    most = max((stop - start for start, stop in bounds), default=0)
    memories = _Memories(_aligned(most) + _ALIGNMENT)
    ahead: deque[Future[Bytes]] = deque()
    with ThreadPoolExecutor(_N_READERS, "fastsoftmax-file") as readers:
        try:
            for bound in bounds:
                ahead.append(readers.submit(_block, name, *bound, memories))
                if len(ahead) > _N_READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for block in ahead:
                block.cancel()


class _Memories:
    """Pieces of memory of one size, from the start of a page on; see `read_blocks`.

    Fresh memory costs as much as reading it twice: each of its pages is cleared first.
    """

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._free: list[mmap.mmap] = []

    def take(self) -> Bytes:
        """Return an array of bytes, whose memory is free again when the last view of it goes."""
        try:
            memory = self._free.pop()
        except IndexError:
            private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
            memory = mmap.mmap(-1, self._n_bytes, **private)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                # A request to the disk holds so many pages; of small ones it is 1 MB: 1.7 s for
                # 2 GB in the place of 1.1 s.
                memory.madvise(mmap.MADV_HUGEPAGE)
        array = np.frombuffer(memory, np.uint8)
        weakref.finalize(array, self._free.append, memory)
        return array


def _block(name: Any, start: int, stop: int, memories: _Memories) -> Bytes:
    """Return the bytes of a file from `start` to `stop`."""
    first = start - start % _ALIGNMENT
    memory = memories.take()
    try:
        _fill(memory, name, first, stop - first, _past_the_cache)
    except OSError as error:
        if error.errno != errno.EINVAL:  # else its file system has no direct reads, or other ones
            raise
        _fill(memory, name, first, stop - first, None)
    return memory[start - first : stop - first]


def _fill(
    memory: Bytes, name: Any, position: int, n_bytes: int, opener: Callable[..., int] | None
) -> None:
    """Read a file from a position on: so many bytes, and then up to a multiple.

    What goes through the system's cache is forgotten there, if it can be told.
    """
    n_read = 0
    with open(name, "rb", buffering=0, opener=opener) as file:
        file.seek(position)
        while n_read < n_bytes:
            n_more = file.readinto(memory[n_read : _aligned(n_bytes)].data)
            if not n_more:
                end = position + n_bytes
                raise OSError(f"{name} ends before byte {end}: it has become shorter.")
            n_read += n_more
        if opener is None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), position, n_read, os.POSIX_FADV_DONTNEED)


def _past_the_cache(name: str, flags: int) -> int:
    if not hasattr(os, "O_DIRECT"):
        raise OSError(errno.EINVAL, "no direct reads on this system")
    return os.open(name, flags | os.O_DIRECT)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
