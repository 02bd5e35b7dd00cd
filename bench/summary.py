"""Saved rows as comparable numbers: times to a sub-optimality, better thread counts, ratios."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.adapter import libraries_apart
from bench.operation import OURS
from bench.problems import SUITES
from bench.results import DEFAULT_BUDGET, NAN, ResultsFolder, Row, optimum_key
from bench.tables import NEVER

LEVELS = (1e-3, 1e-6, 1e-9)


@dataclass(frozen=True)
class Duration:
    """Seconds, or a lower bound of them, or nan where a level was never reached."""

    seconds: float
    is_bound: bool = False

    def __str__(self) -> str:
        """Return three digits, ``>`` before a bound."""
        if math.isnan(self.seconds):
            return NEVER
        return (">" if self.is_bound else "") + short(self.seconds)


class Timed(Protocol):
    """What a row needs to be a point, or the end, of a curve."""

    @property
    def status(self) -> str:
        """``ok`` with a score; a cut one has the seconds that were not enough."""

    @property
    def seconds(self) -> float:
        """Of the fit."""

    @property
    def objective(self) -> float:
        """At the coefficients it returned."""


def suboptimality(row: Timed, optimum: float) -> float:
    """Return ``(f - f*) / f*``, not below 0."""
    return max((row.objective - optimum) / optimum, 0.0)


def time_to(rows: Sequence[Timed], optimum: float, level: float) -> Duration:
    """Return the shortest fit that reaches a sub-optimality, else the cut as a bound."""
    scored = [row for row in rows if row.status == "ok"]
    reached = [row.seconds for row in scored if suboptimality(row, optimum) <= level]
    if reached:
        return Duration(min(reached))
    cuts = [row.seconds for row in rows if row.status == "cut"]
    return Duration(max(cuts), is_bound=True) if cuts else Duration(NAN)


@dataclass(frozen=True)
class Entry:
    """One library on one (problem, C, dtype) at its better BLAS thread count."""

    library: str
    threads: str
    rows: list[Row]
    optimum: float

    @property
    def default(self) -> Row:
        """Return the row at the library's own tol and max_iter."""
        return next(row for row in self.rows if row.budget == DEFAULT_BUDGET)

    @property
    def scored(self) -> list[Row]:
        """Return the rows with a score."""
        return [row for row in self.rows if row.status == "ok"]

    def suboptimality(self, row: Row) -> float:
        """Return ``(f - f*) / f*``, not below 0."""
        return suboptimality(row, self.optimum)

    def time_to(self, level: float) -> Duration:
        """Return the shortest fit that reaches a sub-optimality, else the cut as a bound."""
        return time_to(self.rows, self.optimum, level)

    def preference(self) -> tuple[float, ...]:
        """Return the sort key of "better": time to 1e-6, then 1e-3, then the best objective."""
        times = [self.time_to(level) for level in (1e-6, 1e-3)]
        best = min((row.objective for row in self.scored), default=math.inf)
        return (
            *(math.inf if t.is_bound or math.isnan(t.seconds) else t.seconds for t in times),
            best,
        )


@dataclass(frozen=True)
class Group:
    """All libraries on one (problem, C, dtype)."""

    problem: str
    C: float
    dtype: str
    optimum: float
    reached: bool  # the reference ended below 1e-12
    entries: list[Entry]
    apart: list[Row] = field(default_factory=list)  # defaults of libraries of other objectives

    @property
    def title(self) -> str:
        """Return the group's name in tables and plots."""
        return f"{self.problem}, C = {self.C:g}, {self.dtype}"

    def ratio(self, level: float) -> tuple[Duration, str] | None:
        """Return best peer's time over ours (a Duration as "times") and the peer, if both exist."""
        ours = [e.time_to(level) for e in self.entries if e.library == OURS]
        if not ours or ours[0].is_bound or math.isnan(ours[0].seconds):
            return None
        peers = [(e.time_to(level), e.library) for e in self.entries if e.library != OURS]
        peers = [(t, name) for t, name in peers if not math.isnan(t.seconds)]
        if not peers:
            return None
        best, name = min(peers, key=lambda peer: (peer[0].is_bound, peer[0].seconds))
        return Duration(best.seconds / ours[0].seconds, best.is_bound), name


def summarise(results: ResultsFolder) -> list[Group]:
    """Return the groups whose optimum is known, each library at its better thread count."""
    optima = results.optima()
    others = libraries_apart()
    groups = []
    for problem, C, dtype in results.groups():
        optimum = optima.get(optimum_key(problem, C))
        if optimum is None:
            continue
        candidates: dict[tuple[str, str], list[Row]] = {}
        apart = []
        for row in results.rows.values():
            if (row.problem, row.C, row.dtype) != (problem, C, dtype):
                continue
            if row.library in others:
                apart += [row] if row.status != "skipped" else []
            else:
                candidates.setdefault((row.library, row.threads), []).append(row)
        best: dict[str, Entry] = {}
        for (library, threads), rows in candidates.items():
            if all(row.budget != DEFAULT_BUDGET for row in rows):
                continue
            entry = Entry(library, threads, rows, optimum["objective"])
            if library not in best or entry.preference() < best[library].preference():
                best[library] = entry
        entries = sorted(best.values(), key=lambda entry: entry.library != OURS)
        f, reached = optimum["objective"], optimum["reached"]
        groups.append(Group(problem, C, dtype, f, reached, entries, apart))
    return groups


def dense_and_sparse(groups: list[Group]) -> tuple[list[Group], list[Group]]:
    """Return the groups of dense problems and those of the suite ``sparse``, whose goals differ."""
    names = SUITES["sparse"]
    return (
        [group for group in groups if group.problem not in names],
        [group for group in groups if group.problem in names],
    )


def by_problem(groups: list[Group]) -> list[list[Group]]:
    """Return the groups of each problem and dtype, by C."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        found.setdefault((group.problem, group.dtype), []).append(group)
    return [sorted(same, key=lambda group: group.C) for same in found.values()]


def middle_of_each(groups: list[Group]) -> list[Group]:
    """Return each problem and dtype at the middle one of its C."""
    return [same[len(same) // 2] for same in by_problem(groups)]


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean, nan of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else NAN


def level_name(level: float) -> str:
    """Return the column title of a sub-optimality."""
    return f"to {level:.0e}".replace("e-0", "e-")


HEADER = (
    "library",
    "BLAS",
    *map(level_name, LEVELS),
    "default fit",
    "sub-opt.",
    "n_iter",
    "accuracy",
    "log-loss",
    "memory",
    "notes",
)


def cells(entry: Entry) -> list[str]:
    """Return the table cells of an entry, in the order of ``HEADER``; times in seconds."""
    default = entry.default
    ended = [row for row in entry.rows if row.status not in ("ok", "end")]
    notes = [f"{row.status}: {row.reason}" for row in ended]
    if default.warnings:
        notes.append(f"default: {default.warnings}")
    start = [entry.library, entry.threads, *(str(entry.time_to(level)) for level in LEVELS)]
    if default.status != "ok":
        bound = Duration(default.seconds, is_bound=True)
        return [
            *start,
            str(bound),
            NEVER,
            NEVER,
            NEVER,
            NEVER,
            NEVER,
            "; ".join(dict.fromkeys(notes)),
        ]
    return [
        *start,
        short(default.seconds),
        "<1e-10" if (gap := entry.suboptimality(default)) < 1e-10 else f"{gap:.0e}",
        str(default.n_iter),
        f"{default.test_accuracy:.4f}",
        f"{default.test_log_loss:.4f}",
        f"{default.peak_memory / 1e6:.0f} MB",
        "; ".join(dict.fromkeys(notes)),
    ]


APART_HEADER = (
    "another objective",
    "default fit",
    "n_iter",
    "accuracy",
    "log-loss",
    "memory",
    "notes",
)


def cells_apart(row: Row) -> list[str]:
    """Return the cells of a library of another objective, in the order of ``APART_HEADER``."""
    if row.status != "ok":
        bound = str(Duration(row.seconds, is_bound=True))
        return [row.library, bound, *[NEVER] * 4, f"{row.status}: {row.reason}"]
    return [
        row.library,
        short(row.seconds),
        str(row.n_iter),
        f"{row.test_accuracy:.4f}",
        f"{row.test_log_loss:.4f}",
        f"{row.peak_memory / 1e6:.0f} MB",
        row.warnings,
    ]


def short(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"
