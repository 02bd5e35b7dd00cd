"""Runs a case of the stress matrix: ``python tests/stress_child.py CASE {small,full}``.

What has to happen before fastsoftmax is imported happens here. The rest is in `stress_cases`, which
is imported by that name, so that worker processes find it, too.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import sys

#: Seconds after which the parent kills this process and what it started; stacks are printed before.
TIMEOUT = 120


def _patch() -> None:
    """Put gevent's greenlets in the place of threads."""
    if importlib.util.find_spec("gevent"):
        from gevent import monkey

        monkey.patch_all()


def _fork_with_threads() -> None:
    """Go on in a forked child of a process in which another library launched Numba's threads."""
    import stress_foreign

    stress_foreign.run()
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        sys.exit(os.waitstatus_to_exitcode(status))


_BEFORE_IMPORT = {"gevent_patched": _patch, "late_import": _fork_with_threads}


def main() -> None:
    case, size = sys.argv[1:]
    if case in _BEFORE_IMPORT:
        _BEFORE_IMPORT[case]()
    # Not before a fork: a child that ends in the ordinary way would wait for its parent's watchdog.
    faulthandler.dump_traceback_later(TIMEOUT - 10)
    import stress_cases

    stress_cases.run(case, is_full=size == "full")


if __name__ == "__main__":
    main()
