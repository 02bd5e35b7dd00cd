"""``python -m bench startup``: imports and first fits of fresh processes, cold and warm."""

import json
import statistics
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.console import messages, progress_bar, rich_table, terminal
from bench.goals import Verdict, at_most, verdicts_table
from bench.operation import OURS, installed_version
from bench.problems import Array
from bench.process import ChildError, run_child
from bench.results import NAN, append_csv, read_csv
from bench.tables import TextTable, number

#: n_samples, n_features, n_classes, dtype of the data sets to fit first. The second goes to the
#: full Hessian, the fourth to Gram matrices per class.
DATA = {
    "iris": (150, 4, 3, "float64"),
    "medium": (20_000, 50, 5, "float64"),
    "medium float32": (20_000, 50, 5, "float32"),
    "many classes": (4000, 300, 40, "float64"),
}
IMPORTS = ("sklearn", "fastsoftmax", "after-sklearn")
COLD_SECONDS = {"iris": 5.0}
COLD_SECONDS_OTHERS = 10.0
WARM_CPU_SECONDS = 1.0
IMPORT_SECONDS = 0.6


@dataclass(frozen=True)
class StartupRow:
    """Medians over fresh processes. The first three fields are its key."""

    what: str  # one of `IMPORTS`, or of `DATA`
    cache: str  # "cold", "warm", or "" for an import
    version: str
    status: str = "ok"
    reason: str = ""
    repeats: int = 0
    import_wall: float = NAN
    import_cpu: float = NAN
    fit_wall: float = NAN
    fit_cpu: float = NAN
    predict_wall: float = NAN
    predict_cpu: float = NAN
    signatures_after_import: int = 0
    signatures: str = "{}"  # number by kernel, JSON

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what identifies the measurement."""
        return self.what, self.cache, self.version

    @property
    def n_signatures(self) -> dict[str, int]:
        """Return compiled, or loaded, signatures by kernel."""
        return dict(json.loads(self.signatures))


def run_startup(folder: Path, fresh: bool, quick: bool) -> int:
    """Measure imports and first fits, write ``startup.csv`` and print tables and goals."""
    path = folder / "startup.csv"
    if fresh:
        path.unlink(missing_ok=True)
    version = installed_version(OURS) or ""
    sets = ["iris"] if quick else list(DATA)
    todo = [StartupRow(what, "", version) for what in IMPORTS]
    todo += [StartupRow(what, cache, version) for what in sets for cache in ("cold", "warm")]
    done = {row.key: row for row in read_rows(path)}
    repeats = {"": 1, "cold": 1, "warm": 1} if quick else {"": 7, "cold": 3, "warm": 7}
    console = messages()
    with progress_bar(console) as progress, tempfile.TemporaryDirectory() as scratch:
        task = progress.add_task("starting", total=len(todo))
        for row in todo:
            progress.update(task, description=f"{row.what} {row.cache}")
            if row.key not in done:
                append_csv(path, asdict(_measure(row, repeats[row.cache], Path(scratch))))
            progress.advance(task)
    rows = {row.key: row for row in read_rows(path)}
    for table in startup_tables([rows[row.key] for row in todo]):
        terminal().print(rich_table(table))
    return 1 if any(rows[row.key].status != "ok" for row in todo) else 0


def read_rows(path: Path) -> list[StartupRow]:
    """Return the saved rows."""
    return [
        StartupRow(**{k: _typed(k, v) for k, v in line.items()})  # type: ignore[arg-type]  # fields differ
        for line in read_csv(path)
    ]


def latest(rows: list[StartupRow]) -> list[StartupRow]:
    """Return the rows of the version that was measured last."""
    return [row for row in rows if row.version == rows[-1].version]


def startup_tables(rows: list[StartupRow]) -> list[TextTable]:
    """Return imports, first fits, and the goals."""
    imports, fits = [], []
    names = {"sklearn": "sklearn.linear_model", "fastsoftmax": "fastsoftmax",
             "after-sklearn": "fastsoftmax after sklearn.linear_model"}  # fmt: skip
    for row in rows:
        costs = [number(row.import_wall), number(row.import_cpu)]
        if row.what in IMPORTS:
            imports.append([names[row.what], *costs, row.reason])
            continue
        counts = row.n_signatures
        most = max(counts.values(), default=0)
        fits.append(
            [
                f"{row.what} ({'x'.join(map(str, DATA[row.what][:3]))})",
                row.cache,
                *costs,
                *(number(s) for s in (row.fit_wall, row.fit_cpu, row.predict_wall)),
                str(row.signatures_after_import),
                f"{sum(counts.values())} of {len(counts)} kernels, at most {most} of one",
                row.reason,
            ]
        )
    header = ["first fit on", "cache", "import, s", "CPU", "fit, s", "CPU", "predict_proba, s",
              "compiled by import", "signatures", ""]  # fmt: skip
    note = (
        "Medians over fresh processes with NumPy and the data loaded; CPU seconds of all threads. "
        "Cold: an empty cache folder; warm: filled by a process before. Signatures are those "
        "compiled, or loaded, for fit and `predict_proba`; a warm process does not load the "
        "functions that were inlined."
    )
    return [
        TextTable("Imports", ["import of", "wall, s", "CPU, s", ""], imports),
        TextTable("First fits", header, fits, note),
        verdicts_table(startup_goals(rows), "Startup goals"),
    ]


def startup_goals(rows: list[StartupRow]) -> list[Verdict]:
    """Return the verdicts on start-up."""
    imports = {row.what: row for row in rows if row.what in IMPORTS}
    fits = [row for row in rows if row.what not in IMPORTS]
    cold = [row for row in fits if row.cache == "cold"]
    base = imports["sklearn"].import_cpu if "sklearn" in imports else NAN
    extra = [(row.what, row.import_cpu + row.fit_cpu - base) for row in fits if row.cache == "warm"]
    added = [(row.what, row.import_wall) for row in rows if row.what == "after-sklearn"]
    return [
        at_most(
            f"with an empty cache, the first fit on iris takes at most {COLD_SECONDS['iris']:g} s",
            COLD_SECONDS["iris"],
            [(row.what, row.fit_wall) for row in cold if row.what == "iris"],
            " s",
        ),
        at_most(
            f"... and on anything at most {COLD_SECONDS_OTHERS:g} s",
            COLD_SECONDS_OTHERS,
            [(row.what, row.fit_wall) for row in cold],
            " s",
        ),
        at_most(
            f"with a warm cache, import and first fit take at most {WARM_CPU_SECONDS} s of CPU "
            "more than importing sklearn.linear_model alone",
            WARM_CPU_SECONDS,
            extra,
            " s",
        ),
        at_most(
            f"`import fastsoftmax` adds at most {IMPORT_SECONDS} s", IMPORT_SECONDS, added, " s"
        ),
        at_most(
            "... and compiles nothing",
            0,
            [(row.what, float(row.signatures_after_import)) for row in fits],
        ),
    ]


def data(name: str) -> tuple[Array, Array]:
    """Return X and y of a data set to fit first."""
    if name == "iris":
        from sklearn.datasets import load_iris

        X, y = load_iris(return_X_y=True)
        return X, y
    n_samples, n_features, n_classes, dtype = DATA[name]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, n_features))
    centres = rng.standard_normal((n_classes, n_features))
    y = (X @ centres.T + 3 * rng.gumbel(size=(n_samples, n_classes))).argmax(axis=1)
    return X.astype(dtype), y


def _measure(row: StartupRow, repeats: int, scratch: Path) -> StartupRow:
    """Return the row with medians over fresh processes."""
    argument = row.what
    if row.what not in IMPORTS:
        X, y = data(row.what)
        argument = str(scratch / "data.npz")
        np.savez(argument, X=X, y=y)
    replies: list[dict[str, Any]] = []
    try:
        # One process more than counted: it fills the caches, ours and the system's of files.
        for i in range(repeats + (row.cache != "cold")):
            # The first cold process fills the folder of the warm ones.
            folder = scratch / f"{row.what} {i if row.cache == 'cold' else 0}"
            variables = {"FASTSOFTMAX_CACHE_DIR": str(folder)}
            reply = run_child(["bench.startup_child", argument], "2", variables)
            if row.cache == "cold" or i > 0:
                replies.append(reply)
    except ChildError as error:
        return replace(row, status=error.status, reason=str(error))
    figures = {
        f"{step}_{clock}": statistics.median(reply[step][clock] for reply in replies)
        for step in ("import", "fit", "predict")
        if step in replies[0]
        for clock in ("wall", "cpu")
    }
    counts = json.dumps(replies[0].get("signatures", {}))
    after_import = replies[0].get("signatures_after_import", 0)
    row = replace(row, signatures=counts, signatures_after_import=after_import)
    return replace(row, repeats=repeats, **figures)


def _typed(name: str, text: str) -> str | int | float:
    """Return a field of the CSV file as its row has it."""
    kinds = {"float": float, "int": int, "str": str}
    kind = StartupRow.__annotations__[name]
    return kinds[kind if isinstance(kind, str) else kind.__name__](text)
