"""Compiled kernels on disk: one checked file for each, which nobody else can have written.

Numba's own on-disk cache can serve stale or foreign machine code (an edited callee in another
file, an upgrade killed between two writes, two processes at once) and can make an import fail
where nothing is writable. This one cannot: an entry is a single file, named by a hash of all
that determines its content, guarded by a checksum and put in place atomically; every error is
a miss; the disk is not touched before the first compilation.

Entries are pickles: who writes one decides what its reader runs. So other users must not be able
to. The folder is looked at first (`trusted_folder`), and again each file, when it is open, for a
name may stand for something else by then (`_read`). ``SECURITY.md`` says what that promises.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.resources
import os
import pickle
import platform
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

_CHECKSUM_BYTES = 32
_MOST_ENTRIES = 512

_ENTRY, _UNFINISHED = ".kernel", ".kernel.part"
#: Seconds after which an unfinished file is that of a process killed while it wrote.
_ABANDONED = 3600.0


def cache_directory() -> Path | None:
    """Return the folder for compiled kernels, or None where no trustworthy one can be had."""
    try:
        return trusted_folder()
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return None


def trusted_folder() -> Path:
    """Return the folder for compiled kernels; what is missing of its path is created, private.

    ``$FASTSOFTMAX_CACHE_DIR``, else the user's cache folder.

    Raises
    ------
    OSError, RuntimeError
        If there is none that only this user and root can change; says why.
    """
    named = os.environ.get("FASTSOFTMAX_CACHE_DIR")
    folder = Path(named) if named else _user_cache_home() / "fastsoftmax"
    if not folder.is_absolute():  # a folder of whatever project the process is started in
        raise OSError(f"{folder} is not an absolute path")
    for place in (*reversed(folder.parents), folder):
        place.mkdir(mode=0o700, exist_ok=True)
    if _HAS_OWNERS:
        _check_private(folder)
    return folder


def _user_cache_home() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"  # XDG ignores relative paths


#: Windows has neither user numbers nor modes; a user's folders there are closed to others anyhow.
_HAS_OWNERS = hasattr(os, "geteuid")


def _is_ours(status: os.stat_result) -> bool:
    """Tell whether something belongs to this user, or root, and nobody else may write to it.

    Where access lists grant more than the mode, the bits of the group show it.
    """
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022


def _check_private(folder: Path) -> None:
    """Raise an OSError if others could put files into a folder, or another folder in its place.

    A folder above it may belong to somebody else, or to a group, as homes in containers do: of
    what these put in its place, `_read` takes nothing. It may not be open to all.
    """
    target = folder.resolve()
    for place in {folder, *folder.parents, target, *target.parents}:
        status = place.lstat()
        if stat.S_ISLNK(status.st_mode):
            if status.st_uid not in (os.geteuid(), 0):
                raise OSError(f"{place} is a link that belongs to another user")
        elif status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            raise OSError(f"{place} can be written to by everybody")
    if not _is_ours(target.stat()):
        raise OSError(f"{folder} belongs to another user, or others can write to it")


def _read(entry: Path) -> bytes:
    """Return the content of a file that nobody but this user and root can have written.

    Raises
    ------
    OSError
        If it is another one. The open file is asked, since its name, and the folder's, may stand
        for something else from one call to the next.
    """

    def without_waiting(path: str, flags: int) -> int:  # for the other end of a pipe
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    with open(entry, "rb", opener=without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or (_HAS_OWNERS and not _is_ours(status)):
            raise OSError(f"{entry} is not a file of this user's alone")
        return file.read()


def _write(entry: Path, content: bytes) -> None:
    """Put a file in place in one step; only its owner may read it, as ever with such names."""
    with tempfile.NamedTemporaryFile(dir=entry.parent, suffix=_UNFINISHED, delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.replace(file.name, entry)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def _prune(folder: Path) -> None:
    """Delete the oldest entries beyond `_MOST_ENTRIES`, of other builds, and what was abandoned."""
    entries = sorted(folder.glob(f"*{_ENTRY}"), key=lambda entry: entry.stat().st_mtime)
    abandoned = time.time() - _ABANDONED
    unfinished = (u for u in folder.glob(f"*{_UNFINISHED}") if u.stat().st_mtime < abandoned)
    for file in (*entries[:-_MOST_ENTRIES], *unfinished):
        file.unlink(missing_ok=True)


def _sources() -> bytes | None:
    """Return a hash of the sources of all kernels as they are on disk, or None.

    Where a package is installed without them, of what was compiled from them.
    """
    digest = hashlib.sha256()
    try:
        package = importlib.resources.files("fastsoftmax")
        sources = [s for s in package.iterdir() if s.name.startswith(("_cache.", "_jit."))]
        sources += (package / "_kernels").iterdir()
        for source in sorted((s for s in sources if s.is_file()), key=lambda s: s.name):
            digest.update(source.name.encode() + source.read_bytes())
    except Exception:  # frozen, for example; an import must not fail for that
        return None
    return digest.digest()


#: Read before any kernel is imported. If there are others when one is saved, nobody knows which
#: were compiled: the package was edited, or upgraded, under a running process.
_SOURCES = _sources()


@functools.cache
def _build_stamp() -> bytes:
    """Return a hash of everything but function and signature that machine code depends on.

    The sources of all kernels are in it, so that an edited callee changes its callers' keys.
    """
    if _SOURCES is None:
        raise OSError("the sources of the kernels cannot be read")
    stamp = hashlib.sha256(_SOURCES)
    versions = (numba.__version__, llvmlite.__version__, np.__version__)
    stamp.update(repr((versions, sys.version, platform.machine())).encode())
    settings = {name: getattr(config, name) for name in dir(config) if name.isupper()}
    relevant = {name: value for name, value in settings.items() if _changes_code(name)}
    stamp.update(repr(sorted(relevant.items())).encode())
    return stamp.digest()


def _changes_code(setting: str) -> bool:
    """Tell whether a name of `numba.config` may change the machine code."""
    words = ("OPT", "VECTORIZE", "BOUNDSCHECK", "AVX", "SVML", "DEBUGINFO", "CPU", "LLVM_PASS")
    return any(word in setting for word in words)


def _checksum(entry: Path, payload: bytes) -> bytes:
    """Return what tells a damaged file, or one under the name of another, from a good one."""
    return hashlib.sha256(entry.name.encode() + payload).digest()


class KernelCache(NullCache):
    """Numba's cache interface over one checked file per (build, function, options, signature).

    It is always on. There is nothing to flush: entries of other builds are never read, and are
    pruned in time.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._function = function
        self._options = repr(sorted((name, repr(value)) for name, value in options.items()))

    @property
    def cache_path(self) -> str | None:
        folder = cache_directory()
        return None if folder is None else str(folder)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        try:
            target_context.refresh()
            entry = self._entry(sig, target_context.codegen())
            content = _read(entry)
            checksum, payload = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
            if _checksum(entry, payload) != checksum:
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:  # whatever is wrong with an entry, compiling anew is right
            return None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
        if data.library.has_dynamic_globals or any(not x.can_cache for x in data.lifted):
            return
        if _sources() != _SOURCES:
            return  # or new names would stand for old code, for good
        with contextlib.suppress(Exception):  # a full disk, or none, must not break a fit
            entry = self._entry(sig, data.codegen)
            payload = dumps(data._reduce())
            _write(entry, _checksum(entry, payload) + payload)
            _prune(entry.parent)

    def _entry(self, sig: Any, codegen: Any) -> Path:
        key = hashlib.sha256(_build_stamp())
        key.update(self._function.__code__.co_code)
        parts = (self._function.__module__, self._function.__qualname__, self._options)
        key.update(repr((parts, str(sig), codegen.magic_tuple())).encode())
        name = f"{self._function.__name__}-{key.hexdigest()[:40]}{_ENTRY}"
        return trusted_folder() / name
