"""The bench: its tables, plots, goals and command line."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from bench_fakes import template

from bench import reference
from bench.__main__ import main
from bench.console import terminal
from bench.cv import CVRow, cv_tables
from bench.growth import GrowthRow, doublings
from bench.page import write_page
from bench.problems import load_problem
from bench.process import ROOT, run_child
from bench.report import insert_headline, print_tables, write_report
from bench.results import ResultsFolder, append_csv
from bench.small import SmallRow
from bench.solver_tables import mean_ratio, ratio, solver_goals, solver_tables
from bench.summary import Group, middle_of_each, summarise


def saved_results(folder):
    problem = load_problem("digits", quick=True)
    results = ResultsFolder(folder)
    optimum = reference.minimise(problem, 1.0)
    results.save_optimum("digits", 1.0, optimum)
    peer = dataclasses.replace(template(problem), seconds=1.0, repeats=1, n_iter=9)
    times = {("fastsoftmax", "installed"): 0.5, ("peer", "1"): 6.0, ("peer", "2"): 2.0}
    for (library, threads), seconds in times.items():
        for i, budget in enumerate(["default", "1", "2", "3"]):
            f = optimum.objective * (1 + 10.0 ** (-4 * i))
            row = dataclasses.replace(
                peer, library=library, threads=threads, budget=budget, seconds=seconds * (i + 1)
            )
            results.append(dataclasses.replace(row, objective=f, test_accuracy=0.9))
    slow = dataclasses.replace(peer, library="slow", status="cut", seconds=60.0, reason="too long")
    results.append(slow)
    results.append(dataclasses.replace(slow, budget="end"))
    return results


def test_report_writes_tables_and_plots(tmp_path, capsys):
    results = saved_results(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    written = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[-1] for path in written] == [
        "report.md",
        "suboptimality_digits_float64.png",
        "suboptimality.png",
        "benchmarks.md",
    ]
    text = (tmp_path / "report.md").read_text()
    assert "| digits, C = 1, float64 | 4x (peer) | 4x (peer) | 4x (peer) |" in text
    assert "| slow | 1 | >60 | >60 | >60 | >60 |" in text
    assert "cut: too long" in text
    (group,) = summarise(ResultsFolder(tmp_path))
    assert group.reached
    assert {entry.library: entry.threads for entry in group.entries}["peer"] == "2"
    assert write_report(results, tmp_path / "elsewhere")[0].is_file()


def test_goals_on_whole_fits_say_what_is_missed(tmp_path):
    results = saved_results(tmp_path)
    (group,) = summarise(results)
    rival = template(load_problem("digits", quick=True))
    rival = dataclasses.replace(rival, library="sklearn-lbfgs", seconds=0.4)
    results.append(dataclasses.replace(rival, objective=1.5 * group.optimum))
    goals = {verdict.goal: verdict for verdict in solver_goals(results)}
    mean = goals["float64 fits to 1e-3 take the best peer's time / 10, as geometric mean"]
    assert mean.misses == ["geometric mean: 4x, 60 % short"]
    assert goals["float64 fits to 1e-6 take the best peer's time / 3 on each row"].met
    slower = goals["at the defaults, a fit ends no later than sklearn-lbfgs's"]
    assert slower.misses == ["digits, C = 1, float64: 0.8x, 20 % short"]
    assert not goals["... with an objective at most 1e-08 above theirs, relatively"].met
    assert goals["... and without a ConvergenceWarning"].met


def sparse_results(folder):
    """A sparse problem beside the dense one: 5 times the best peer, liblinear apart."""
    results = saved_results(folder)
    optimum = reference.Optimum(np.zeros((3, 2)), 2.0, 1e-13, 1e-9, 3, gap=1e-12)
    row = template(load_problem("digits", quick=True))
    for C in (0.1, 1.0):
        results.save_optimum("zipf_corpus", C, optimum)
        for library, seconds in [("fastsoftmax", 1.0), ("peer", 5.0), ("sklearn-lbfgs", 9.0)]:
            for budget in ("1", "default"):
                new = dataclasses.replace(
                    row, problem="zipf_corpus", C=C, dtype="float32", library=library
                )
                new = dataclasses.replace(new, budget=budget, seconds=seconds, objective=2.0)
                results.append(dataclasses.replace(new, test_accuracy=0.5, test_log_loss=1.5))
        apart = dataclasses.replace(
            row, problem="zipf_corpus", C=C, dtype="float32", library="sklearn-liblinear"
        )
        apart = dataclasses.replace(apart, seconds=0.01, test_accuracy=0.4, test_log_loss=1.75)
        results.append(apart)
    return results


def test_sparse_problems_have_goals_of_their_own(tmp_path):
    goals = {verdict.goal: verdict for verdict in solver_goals(sparse_results(tmp_path))}
    mean = goals["float64 fits to 1e-3 take the best peer's time / 10, as geometric mean"]
    assert mean.misses == ["geometric mean: 4x, 60 % short"]  # that of digits alone
    assert goals["float32 fits to 1e-3 take the best peer's time / 3 on each row"].n_measured == 0
    for level in ("1e-3", "1e-6"):
        name = f"sparse fits to {level} take the best peer's time / "
        assert goals[f"{name}4 on each row"].cells()[1] == "met, 2 of 2"
        assert goals[f"{name}10, as geometric mean"].misses == ["geometric mean: 5x, 50 % short"]
    assert goals[
        "at the defaults, sparse fits end with an objective at most as large as sklearn-lbfgs's, "
        "up to 1e-08 relatively"
    ].met


def test_another_objective_stands_apart(tmp_path, capsys):
    results = sparse_results(tmp_path)
    groups = [group for group in summarise(results) if group.problem == "zipf_corpus"]
    assert all(group.ratio(1e-6)[1] == "peer" for group in groups)
    assert all(entry.library != "sklearn-liblinear" for g in groups for entry in g.entries)
    print_tables(results, terminal())
    printed = capsys.readouterr().out
    assert "another objective" in printed
    tables = {table.title: table.markdown() for table in solver_tables(results)}
    apart = tables["One-vs-rest, another objective"]
    assert "| zipf_corpus float32 | 0.1 | sklearn-liblinear | 0.01 | 1.7500 | 0.4000 |" in apart
    assert "liblinear" not in tables["Whole fits, sparse"]
    assert "zipf" not in tables["Whole fits, float64"]
    assert "Whole fits, float32" not in tables


def test_a_pages_sparse_section_is_replaced_apart_from_the_dense_one(tmp_path):
    page = tmp_path / "README.md"
    text = "a\n\n<!-- bench -->\nold\n<!-- /bench -->\n\nb\n"
    page.write_text(text)
    results = saved_results(tmp_path / "dense")
    insert_headline(results, page, tmp_path)
    dense = page.read_text()
    assert "old" not in dense
    results = sparse_results(tmp_path / "both")
    with pytest.raises(ValueError, match="bench sparse"):
        insert_headline(results, page, tmp_path)
    page.write_text(dense + "<!-- bench sparse -->\nold\n<!-- /bench sparse -->\nc\n")
    insert_headline(results, page, tmp_path)
    found = page.read_text()
    assert found.startswith(dense)
    assert "old" not in found
    section = found[len(dense) :]
    assert "| zipf_corpus, C = 0.1, float32 | 1e-3 | 1 s | 5 s | peer | 5x |" in section
    assert "sklearn-liblinear" in section
    assert "![Sub-optimality against time](sparse.png)" in section
    assert "zipf" not in dense
    paths = write_report(results, tmp_path / "out")
    assert {"sparse.png", "suboptimality.png"} <= {path.name for path in paths}


def test_what_we_never_reach_counts_as_nothing(tmp_path):
    results = saved_results(tmp_path)
    (group,) = summarise(results)
    assert mean_ratio([ratio(group, 1e-3), math.nan]) == pytest.approx(4.0)
    assert ratio(group, 0.0) == 0.0
    assert mean_ratio([4.0, 0.0]) == 0.0


def test_page_compares_whole_fits_and_small_data(tmp_path):
    saved_results(tmp_path)
    seconds = {("fastsoftmax", "installed"): 0.001, ("scikit-learn", "1"): 0.02}
    for (library, threads), value in seconds.items():
        row = SmallRow("iris", library, threads, "1", seconds=value, repeats=20)
        append_csv(tmp_path / "small.csv", dataclasses.asdict(row))
    for shape, axis, value in [("9x9x3", "", 1.0), ("18x9x3", "n", 2.5)]:
        grown = GrowthRow(shape, axis, "1", seconds=value, extra_bytes=1000, n_passes=10)
        append_csv(tmp_path / "growth.csv", dataclasses.asdict(grown))
    page = tmp_path / "benchmarks.md"
    assert write_page(tmp_path, page, tmp_path) == [page]
    text = page.read_text()
    assert "| digits | 1 | 1 | 4 peer (2) | 4x | 1.5 | 6 peer (2) | 4x |" in text
    assert "| iris | 1 | 20 |  | 20x |" in text
    assert "| a fit of small data is 10x scikit-learn's | met, 1 of 1 |" in text
    assert "| 18x9x3 | n | 2500 | 2.5x | 10 | 2.5x | 0.001 | 1x |" in text


def test_small_and_growth_children_measure():
    reply = run_child(["bench.small", "iris", "fastsoftmax", "2"], "1")
    assert reply["repeats"] >= 2
    chosen = run_child(["bench.cv", "iris", "cross-validation", "fastsoftmax"], "1")
    assert len(json.loads(chosen["scores"])) == 10
    grown = run_child(["bench.growth", "200x5x3"], "1")
    assert grown["n_passes"] > 0


def test_growth_doubles_one_axis_at_a_time():
    shapes = dict.fromkeys(shape for shape, _ in doublings((10, 4, 3), 2))
    assert list(shapes) == [
        (10, 4, 3), (20, 4, 3), (40, 4, 3), (10, 8, 3), (10, 16, 3), (10, 4, 6), (10, 4, 12)
    ]  # fmt: skip


def test_the_overview_has_each_problem_at_its_middle_C():
    groups = [
        Group(name, C, "float64", 1.0, True, [])
        for name, strengths in [("a", (100.0, 0.01, 1.0)), ("b", (1.0,))]
        for C in strengths
    ]
    assert [(g.problem, g.C) for g in middle_of_each(groups)] == [("a", 1.0), ("b", 1.0)]


def test_other_versions_need_fresh(tmp_path, capsys):
    results = saved_results(tmp_path)
    results.write_json(
        "environment.json",
        {"libraries": {"sklearn-lbfgs": "0.1"}, "cpu": "an abacus", "settings": {"quick": True}},
    )
    arguments = ["run", "--quick", "--libraries", "sklearn-lbfgs", "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "sklearn-lbfgs was 0.1" in capsys.readouterr().err


def test_command_line_runs_outside_a_terminal(tmp_path):
    command = [sys.executable, "-m", "bench", "run", "--quick", "--problems", "synthetic"]
    command += ["--libraries", "sklearn-newton-cg", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sklearn-newton-cg" in done.stdout
    results = ResultsFolder(tmp_path / "out")
    assert {row.threads for row in results.rows.values()} == {"1", "2"}
    assert results.optima()["synthetic C=1"]["reached"]
    assert results.read_json("environment.json")["libraries"]


def test_fresh_can_discard_one_library(tmp_path):
    saved_results(tmp_path).discard(["peer"])
    results = ResultsFolder(tmp_path)
    assert {row.library for row in results.rows.values()} == {"fastsoftmax", "slow"}
    assert results.optima()
    results.discard([])
    assert not ResultsFolder(tmp_path).rows
    assert not results.optima()


def test_cross_validation_table_marks_a_bound():
    ours = {"library": "fastsoftmax", "version": "1"}
    rows = [
        CVRow("digits", "one fit", **ours, seconds=0.5),
        CVRow("digits", "cross-validation", **ours, seconds=5.0, n_passes=100, scores="[-0.5]"),
        CVRow("digits", "cross-validation", "scikit-learn", "1", "cut", "longer", seconds=110.0),
    ]
    text = "\n".join(table.markdown() for table in cv_tables(rows))
    assert "| digits | 0.5 | 5 | 10x | 100 | > 110 | > 22x | - | longer |" in text
    assert "| 51 fits cost at most 15 default fits | met, 1 of 1 |" in text
    assert "| scores within 0.001 | not measured |" in text
