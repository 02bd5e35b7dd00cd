"""The results folder: rows of fits, optima and the environment, written as they come."""

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bench.reference import Optimum
from bench.score import Float64Array

NAN = math.nan
DEFAULT_BUDGET = "default"
CURVE_END = "end"
Key = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One fit, or the reason why there is none. The first six fields are its key.

    The last row of a curve has the budget ``end``: why the curve goes no further.
    """

    problem: str
    C: float
    dtype: str
    library: str
    threads: str  # BLAS threads: "1", "2" or "installed"
    budget: str  # iterations; "default": the library's own tol and max_iter; or "end"
    version: str = ""
    status: str = "ok"  # ok, cut, failed, skipped; of a curve's last row also end, lags
    reason: str = ""
    seconds: float = NAN  # of the fit; of a cut one, the limit
    repeats: int = 0
    n_iter: int = -1
    warmup_seconds: float = NAN
    objective: float = NAN
    gradient_norm: float = NAN
    accuracy: float = NAN
    test_accuracy: float = NAN
    test_log_loss: float = NAN
    memory_estimate: int = 0  # bytes
    peak_memory: int = 0  # bytes, of the worker until then, with the data
    warnings: str = ""

    @property
    def key(self) -> Key:
        """Return what identifies the fit."""
        return (self.problem, f"{self.C:g}", self.dtype, self.library, self.threads, self.budget)

    @classmethod
    def from_strings(cls, strings: dict[str, str]) -> "Row":
        """Return the row that a line of the CSV file holds."""
        return cls(**{f.name: f.type(strings[f.name]) for f in fields(cls) if f.name in strings})  # type: ignore[operator]  # a class


class ResultsFolder:
    """Rows in ``results.csv``, optima in ``optima.json``, versions in ``environment.json``.

    A row is on disk before the next fit starts, so an interrupted run loses one fit at most.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {row.key: row for row in map(Row.from_strings, self._lines())}

    def _lines(self) -> Iterable[dict[str, str]]:
        return read_csv(self.path / "results.csv")

    def append(self, row: Row) -> None:
        """Add a row to memory and to the file."""
        self.rows[row.key] = row
        append_csv(self.path / "results.csv", asdict(row))

    def curve(self, like: Row) -> list[Row]:
        """Return the saved rows that share all of a row's key but the budget."""
        return [row for row in self.rows.values() if row.key[:-1] == like.key[:-1]]

    def groups(self) -> list[tuple[str, float, str]]:
        """Return the (problem, C, dtype) that have rows, in the order they were run."""
        return list(dict.fromkeys((row.problem, row.C, row.dtype) for row in self.rows.values()))

    def discard(self, libraries: Iterable[str]) -> None:
        """Remove the rows of some libraries, with none named everything that a run has written.

        Optima and the params they start from stay in the first case: a certificate holds
        whoever found the params.
        """
        names = set(libraries)
        kept = [row for row in self.rows.values() if names and row.library not in names]
        self.rows = {row.key: row for row in kept}
        if not names:
            for path in (*self.path.glob("*.json"), *self.path.glob("params/*.npy")):
                path.unlink()
        partial = self.path / "results.csv.partial"
        partial.unlink(missing_ok=True)
        for row in kept:
            append_csv(partial, asdict(row))
        (self.path / "results.csv").unlink(missing_ok=True)
        if kept:
            partial.replace(self.path / "results.csv")

    # The best params so far stay, one file for each (problem, C): the reference starts there.

    def best_params(self, problem: str, C: float) -> Float64Array | None:
        """Return the saved params with the smallest objective."""
        path = self._params_path(problem, C)
        return np.load(path) if path.is_file() else None

    def keep_if_best(self, row: Row, params: Float64Array) -> None:
        """Save the params of a scored row unless a row or the optimum has a smaller objective."""
        others = [
            other.objective
            for other in self.rows.values()
            if (other.problem, other.C) == (row.problem, row.C)
            and other.status == "ok"
            and not math.isnan(other.objective)
        ]
        if optimum := self.optima().get(optimum_key(row.problem, row.C)):
            others.append(optimum["objective"])
        if row.objective < min(others, default=math.inf):
            self._save_params(row.problem, row.C, params)

    def _save_params(self, problem: str, C: float, params: Float64Array) -> None:
        path = self._params_path(problem, C)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, params)

    def _params_path(self, problem: str, C: float) -> Path:
        return self.path / "params" / f"{problem}_C{C:g}.npy"

    def optima(self) -> dict[str, dict[str, Any]]:
        """Return the saved optima with their certificates by ``optimum_key``."""
        return self.read_json("optima.json")

    def save_optimum(self, problem: str, C: float, optimum: Optimum) -> None:
        """Save an optimum and its certificate."""
        entry = {
            "objective": optimum.objective,
            "newton_decrement": optimum.decrement,
            "gradient_norm": optimum.gradient_norm,
            "n_iter": optimum.n_iter,
            "seconds": round(optimum.seconds, 3),
            "reached": optimum.reached,
        }
        if math.isfinite(optimum.gap):
            entry["gap"] = optimum.gap
        self.write_json("optima.json", self.optima() | {optimum_key(problem, C): entry})
        self._save_params(problem, C, optimum.params)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a saved object, empty if there is none."""
        path = self.path / name
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Replace a saved object; the old one stays whole until the new one is."""
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(self.path / name)


def optimum_key(problem: str, C: float) -> str:
    """Return the key of a problem's optimum; it does not depend on the dtype of the fits."""
    return f"{problem} C={C:g}"


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file, after removing a last line that was cut short."""
    if not path.is_file():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return list(csv.DictReader(whole.splitlines()))


def append_csv(path: Path, row: dict[str, Any]) -> None:
    """Append a row, with the header first if the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", newline="") as file:
        file.seek(0)
        header = next(csv.reader(file), None)
        if header is not None and header != list(row):
            raise ValueError(f"{path} has other columns; use --fresh or another --output")
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if header is None:
            writer.writeheader()
        writer.writerow(row)
