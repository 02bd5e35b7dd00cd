"""Consoles and the progress bar: tables go to stdout, what is going on to stderr."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.tables import TextTable


def terminal() -> Console:
    """Return a console on stdout; wide enough for the tables when it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


def messages() -> Console:
    """Return a console on stderr whose lines are not wrapped, so that a log can be searched."""
    return Console(stderr=True, soft_wrap=True)


def progress_bar(console: Console) -> Progress:
    """Return a bar that says what is running; outside a terminal it draws nothing."""
    return Progress(
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )


def rich_table(text: TextTable) -> Table:
    """Return a table for the terminal; columns of numbers stand to the right."""
    table = Table(title=text.title, title_justify="left", caption=text.note or None)
    table.caption_justify = "left"
    header, *rows = text.lines()
    for i, name in enumerate(header):
        words = any(row[i][:1].isalpha() for row in rows)
        table.add_column(name, justify="left" if i == 0 or words else "right")
    for row in rows:
        table.add_row(*row)
    return table
