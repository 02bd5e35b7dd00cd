"""Tables and goals on whole fits, from the rows of ``python -m bench run``."""

import math
from collections.abc import Iterable, Sequence

from bench.goals import Verdict, at_least, at_most
from bench.operation import OURS
from bench.results import DEFAULT_BUDGET, NAN, ResultsFolder, Row
from bench.run import RIVAL
from bench.summary import (
    Duration,
    Entry,
    Group,
    dense_and_sparse,
    geometric_mean,
    level_name,
    summarise,
)
from bench.tables import NEVER, TextTable, number

#: The levels that each dtype is judged at.
LEVELS = {"float64": (1e-3, 1e-6), "float32": (1e-3,)}
SPARSE = "sparse"  # one table and one mean for all of that suite
SPARSE_LEVELS = (1e-3, 1e-6)
MEAN_RATIO = 10.0
LEAST_RATIO = 3.0
SPARSE_LEAST_RATIO = 4.0
OBJECTIVE_SLACK = 1e-8  # relative


def solver_tables(results: ResultsFolder) -> list[TextTable]:
    """Return, for each dtype, ours against the best peer and against the usual defaults."""
    dense, sparse = dense_and_sparse(summarise(results))
    tables = [
        table
        for dtype, levels in LEVELS.items()
        if (chosen := [group for group in dense if group.dtype == dtype])
        for table in (_fits(chosen, levels, dtype), _defaults(results, chosen, dtype))
    ]
    if sparse:
        tables += [_fits(sparse, SPARSE_LEVELS, SPARSE), _defaults(results, sparse, SPARSE)]
        tables.append(apart_table(results, sparse))
    return [table for table in tables if table.rows]


def solver_goals(results: ResultsFolder) -> list[Verdict]:
    """Return the verdicts on ratios and on what the defaults reach."""
    dense, sparse = dense_and_sparse(summarise(results))
    verdicts = []
    if dense:
        for dtype, levels in LEVELS.items():
            verdicts += _ratio_goals(
                [g for g in dense if g.dtype == dtype], levels, dtype, LEAST_RATIO
            )
        verdicts += _default_goals(results, dense)
    if sparse:
        verdicts += _ratio_goals(sparse, SPARSE_LEVELS, SPARSE, SPARSE_LEAST_RATIO)
        pairs = _default_pairs(results, sparse)
        goal = f"at the defaults, {SPARSE} fits end with an objective at most as large as {RIVAL}'s"
        verdicts.append(_objective_goal(goal, pairs))
    return verdicts


def _ratio_goals(
    groups: list[Group], levels: Sequence[float], what: str, least: float
) -> list[Verdict]:
    """Return the verdicts on the best peer's time over ours, as a mean and on each row."""
    verdicts = []
    for level in levels:
        ratios = [(g.title, ratio(g, level)) for g in groups]
        name = f"{what} fits {level_name(level)} take the best peer's time"
        mean = [("geometric mean", mean_ratio(value for _, value in ratios))]
        verdicts += [
            at_least(f"{name} / {MEAN_RATIO:g}, as geometric mean", MEAN_RATIO, mean),
            at_least(f"{name} / {least:g} on each row", least, ratios),
        ]
    return verdicts


def _default_pairs(results: ResultsFolder, groups: list[Group]) -> list[tuple[str, Row, Row]]:
    """Return the fits at the defaults of ours and of the rival, where both are."""
    return [
        (group.title, ours, theirs)
        for group in groups
        if (ours := default_row(results, group, OURS)) is not None
        and (theirs := default_row(results, group, RIVAL)) is not None
    ]


def _objective_goal(goal: str, pairs: list[tuple[str, Row, Row]]) -> Verdict:
    return at_most(
        f"{goal}, up to {OBJECTIVE_SLACK:g} relatively",
        OBJECTIVE_SLACK,
        [(title, ours.objective / theirs.objective - 1.0) for title, ours, theirs in pairs],
    )


def _default_goals(results: ResultsFolder, groups: list[Group]) -> list[Verdict]:
    pairs = _default_pairs(results, groups)
    return [
        at_least(
            f"at the defaults, a fit ends no later than {RIVAL}'s",
            1.0,
            [(title, theirs.seconds / ours.seconds) for title, ours, theirs in pairs],
        ),
        at_most(
            f"... with an objective at most {OBJECTIVE_SLACK:g} above theirs, relatively",
            OBJECTIVE_SLACK,
            [(title, ours.objective / theirs.objective - 1.0) for title, ours, theirs in pairs],
        ),
        at_most(
            "... and without a ConvergenceWarning",
            0,
            [(title, float("Convergence" in ours.warnings)) for title, ours, _ in pairs],
        ),
    ]


def ratio(group: Group, level: float) -> float:
    """Return the best peer's seconds over ours; nan without a peer's, 0 where we do not get there.

    A peer that was cut counts with the seconds it had, so that the ratio is at least that.
    """
    found = group.ratio(level)
    if found is not None:
        return found[0].seconds
    ours = [e.time_to(level) for e in group.entries if e.library == OURS]
    return 0.0 if ours and math.isnan(ours[0].seconds) else NAN


def mean_ratio(ratios: Iterable[float]) -> float:
    """Return the geometric mean of the known ratios: 0 if one is."""
    known = [value for value in ratios if not math.isnan(value)]
    return 0.0 if 0.0 in known else geometric_mean(known)


def default_row(results: ResultsFolder, group: Group, library: str) -> Row | None:
    """Return a library's fit at its defaults, at the thread count that is faster."""
    rows = [
        row
        for row in results.rows.values()
        if (row.problem, row.C, row.dtype) == (group.problem, group.C, group.dtype)
        and row.library == library
        and row.budget == DEFAULT_BUDGET
        and row.status in ("ok", "cut")
    ]
    return min(rows, key=lambda row: (row.status != "ok", row.seconds), default=None)


def _fits(groups: list[Group], levels: Sequence[float], what: str) -> TextTable:
    lines = []
    for group in groups:
        line = [_name(group, what), f"{group.C:g}"]
        for level in levels:
            line += _against_best(group, level)
        lines.append(line)
    means = ["geometric mean", ""]
    for level in levels:
        means += ["", "", number(mean_ratio(ratio(group, level) for group in groups), "x")]
    header = ["problem", "C"]
    for level in levels:
        header += [f"{level_name(level)}: {OURS}, s", "best peer, s", "ratio"]
    note = (
        "Seconds of one fit from zero until the objective, scored in float64 NumPy, is within that "
        "factor of the optimum. In brackets the peer's BLAS threads. `>`: every peer was cut "
        "before it got there, and the ratio is at least what stands there; the mean counts it so."
    )
    return TextTable(f"Whole fits, {what}", header, [*lines, means], note)


def _name(group: Group, what: str) -> str:
    """Return the problem, with the dtype where a table has several."""
    return group.problem if what == group.dtype else f"{group.problem} {group.dtype}"


def _against_best(group: Group, level: float) -> list[str]:
    """Return our seconds, those of the best peer and the ratio."""
    ours = next((e.time_to(level) for e in group.entries if e.library == OURS), Duration(NAN))
    found = group.ratio(level)
    if found is None:
        return [str(ours), NEVER, NEVER]
    times, name = found
    peer = next(entry for entry in group.entries if entry.library == name)
    return [str(ours), f"{peer.time_to(level)} {name} ({peer.threads})", f"{times}x"]


def apart_table(results: ResultsFolder, groups: list[Group]) -> TextTable:
    """Return ours at the defaults beside libraries that minimise something else."""
    lines = []
    for group in groups:
        ours = default_row(results, group, OURS)
        rows = [row for row in (ours, *group.apart) if row is not None]
        for row in rows if group.apart else ():
            cells = [_name(group, SPARSE), f"{group.C:g}", row.library]
            if row.status == "ok":
                cells += [
                    number(row.seconds),
                    f"{row.test_log_loss:.4f}",
                    f"{row.test_accuracy:.4f}",
                ]
            else:
                cells += [str(Duration(row.seconds, is_bound=True)), NEVER, row.status]
            lines.append(cells)
    header = ["problem", "C", "library", "seconds", "held-out log-loss", "accuracy"]
    note = (
        "At the defaults. sklearn-liblinear is `OneVsRestClassifier` over "
        '`LogisticRegression(solver="liblinear")`: one binary problem per class, intercepts '
        "penalised, probabilities divided by their sum. Its objective is another one, so no row of "
        "the other tables compares with it."
    )
    return TextTable("One-vs-rest, another objective", header, lines, note)


def _defaults(results: ResultsFolder, groups: list[Group], what: str) -> TextTable:
    lines = []
    for group in groups:
        line = [_name(group, what), f"{group.C:g}"]
        for library in (OURS, RIVAL):
            row = default_row(results, group, library)
            line += [NEVER] * 3 if row is None else _default_cells(group, row)
        lines.append(line)
    header = ["problem", "C"]
    for library in (OURS, RIVAL):
        header += [f"{library}, s", "sub-optimality", "warnings"]
    note = "Each at its own tol and max_iter; the peer at its faster thread count."
    return TextTable(f"At the defaults, {what}", header, lines, note)


def _default_cells(group: Group, row: Row) -> list[str]:
    if row.status == "cut":
        return [str(Duration(row.seconds, is_bound=True)), NEVER, "cut"]
    gap = Entry(row.library, row.threads, [row], group.optimum).suboptimality(row)
    return [str(Duration(row.seconds)), f"{gap:.0e}", row.warnings]
