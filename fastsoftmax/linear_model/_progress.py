"""What long fits show of themselves, if `verbose` asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from fastsoftmax._solvers import IterationState


def print_progress(state: IterationState) -> None:
    """Print a line about an iteration."""
    print(  # noqa: T201 (verbose asks for it)
        f"fastsoftmax: iteration {state.iteration:4d}  passes {state.n_passes:5d}  objective "
        f"{state.objective:.10f}  max |gradient| {state.gradient_norm:.2e}  step size "
        f"{state.step_size:.2g}"
    )


@contextlib.contextmanager
def progress_of_rows(is_wanted: bool) -> Iterator[Callable[[int], None] | None]:
    """Show how many rows the present pass has seen, while the block runs, if rich is installed.

    Yields what takes the number of rows, 0 at the start of a pass; None where nothing is shown. A
    bar can be drawn from the second pass on, when it is known how many rows there are.
    """
    if not is_wanted:
        yield None
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError:  # the extra fastsoftmax[progress]; the lines about iterations remain
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("fastsoftmax", total=None)
        n_passes = most = 0

        def on_rows(n_rows: int) -> None:
            nonlocal n_passes, most
            n_passes += n_rows == 0
            most = max(most, n_rows)
            what = f"pass {n_passes - 1}" if n_passes > 1 else "reading"
            total = most if n_passes > 1 else None
            progress.update(task, description=what, completed=n_rows, total=total)

        yield on_rows
