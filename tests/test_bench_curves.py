"""The bench: how a curve is run, cut, resumed and ended. Nothing is timed."""

import dataclasses
import math

import numpy as np
import pytest
from bench_fakes import (
    PLAN,
    FakeWorker,
    budgets_and_reasons,
    make_problem,
    near_and_nearer,
    params_near_optimum,
    scored_row,
    template,
)

from bench import reference
from bench import run as bench_run
from bench.adapter import (
    Adapter,
    Fit,
)
from bench.problems import Problem
from bench.process import WorkerCutError, WorkerError
from bench.results import ResultsFolder
from bench.run import Plan, _slower_threads, curve_limit, fit_limit, run_curve
from bench.score import score


def test_finished_rows_are_not_run_again(tmp_path):
    problem = make_problem(3)
    first = FakeWorker(near_and_nearer(problem, [1, 2, None]) | {3: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_curve(problem, template(problem), first, ResultsFolder(tmp_path), PLAN)
    second = FakeWorker(near_and_nearer(problem, [1, 2, 3, None]))
    run_curve(problem, template(problem), second, ResultsFolder(tmp_path), PLAN)
    assert (first.asked, second.asked) == ([1, 2, 3], [3, None])
    third = FakeWorker({})
    run_curve(problem, template(problem), third, ResultsFolder(tmp_path), PLAN)
    assert third.asked == []
    assert [row[0] for row in budgets_and_reasons(tmp_path)] == ["1", "2", "3", "end", "default"]


def test_a_row_cut_short_on_disk_is_dropped_and_run_again(tmp_path):
    problem = make_problem(3)
    outcomes = near_and_nearer(problem, [1, None])
    run_curve(problem, template(problem), FakeWorker(outcomes), ResultsFolder(tmp_path), PLAN)
    path = tmp_path / "results.csv"
    path.write_text(path.read_text()[:-10])
    again, results = FakeWorker(outcomes), ResultsFolder(tmp_path)
    assert len(results.rows) == 2
    run_curve(problem, template(problem), again, results, PLAN)
    assert again.asked == [None]


def test_a_curve_says_why_it_ends(tmp_path):
    problem = make_problem(3)
    flat = dict.fromkeys([1, 2, 3, 5, None], params_near_optimum(problem, 0.1))
    run_curve(problem, template(problem), FakeWorker(flat), ResultsFolder(tmp_path / "a"), PLAN)
    assert budgets_and_reasons(tmp_path / "a")[-2:] == [
        ("end", "end", "the objective stands still"),
        ("default", "ok", ""),
    ]
    results = ResultsFolder(tmp_path / "b")
    optimum = reference.minimise(problem, 1.0)
    results.save_optimum(problem.name, 1.0, optimum)
    outcomes = near_and_nearer(problem, [1, None]) | {2: optimum.params}
    run_curve(problem, template(problem), FakeWorker(outcomes), results, PLAN)
    assert budgets_and_reasons(tmp_path / "b")[-2] == ("end", "end", "at the optimum")


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (WorkerError("ValueError: no\nway"), "failed", "ValueError: no way"),
        (WorkerCutError("longer than 60 s"), "cut", "longer than 60 s"),
        (np.zeros((1, 1)), "failed", "unusable coefficients: params of shape (1, 1)"),
        (np.full((3, 6), np.nan), "failed", "unusable coefficients: not finite"),
    ],
)
def test_what_goes_wrong_becomes_a_row_with_a_reason(tmp_path, outcome, status, reason):
    problem = make_problem(3)
    worker = FakeWorker(near_and_nearer(problem, [1]) | {2: outcome})
    run_curve(problem, template(problem), worker, ResultsFolder(tmp_path), PLAN)
    *_, end, default = ResultsFolder(tmp_path).rows.values()
    assert (end.budget, end.status, end.reason) == ("end", status, reason)
    assert np.isnan(end.objective)
    assert (default.status, default.reason) == ("skipped", f"its curve: {status}")


def test_the_rival_is_tried_at_its_defaults_even_when_its_curve_is_cut(tmp_path):
    problem = make_problem(3)
    rival = dataclasses.replace(template(problem), library="sklearn-lbfgs")
    worker = FakeWorker(near_and_nearer(problem, [None]) | {1: WorkerCutError("too long")})
    run_curve(problem, rival, worker, ResultsFolder(tmp_path), PLAN)
    assert [row[:2] for row in budgets_and_reasons(tmp_path)] == [("end", "cut"), ("default", "ok")]


class Greedy(Adapter):
    name, distribution = "greedy", "numpy"
    threads = ("1",)

    def memory_estimate(self, problem: Problem) -> int:
        return 9 * 1024**3

    def fit(self, problem: Problem, C: float, budget: int | None) -> Fit:
        raise AssertionError("must not be called")


def test_too_much_memory_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_run, "find_optima", lambda *arguments: None)
    from rich.console import Console

    results = ResultsFolder(tmp_path)
    with (tmp_path / "stderr").open("w") as stream:
        bench_run.run(
            Plan(["digits"], [Greedy()], ["float64"], quick=True), results, Console(file=stream)
        )
    (row,) = ResultsFolder(tmp_path).rows.values()
    assert row.status == "skipped"
    assert row.reason == "would need about 9.7 GB"


def test_peers_are_cut_at_a_multiple_of_our_time_or_of_the_best_peers(tmp_path):
    problem = make_problem(3)
    results, peer = ResultsFolder(tmp_path), template(problem)
    optimum = reference.minimise(problem, 1.0)
    results.save_optimum(problem.name, 1.0, optimum)
    assert fit_limit(results, peer, math.inf).seconds == 60.0
    ours = dataclasses.replace(peer, library="fastsoftmax", threads="installed")
    results.append(scored_row(ours, optimum, budget="1", seconds=0.01))
    assert fit_limit(results, peer, math.inf).seconds == 2.0
    results.discard(["fastsoftmax"])
    results.append(scored_row(ours, optimum, budget="1", seconds=0.5, gap=1e-5))
    results.append(scored_row(ours, optimum, budget="2", seconds=4.0))
    assert fit_limit(results, peer, math.inf).seconds == 80.0
    assert fit_limit(results, peer, 30.0).seconds == 30.0
    assert fit_limit(results, ours, math.inf).seconds == bench_run.OUR_LIMIT
    results.append(scored_row(peer, optimum, library="other", seconds=5.0))
    assert fit_limit(results, peer, math.inf).seconds == 80.0
    assert curve_limit(results, peer, math.inf).seconds == 15.0
    assert "3 times the best peer's" in curve_limit(results, peer, math.inf).reason
    assert curve_limit(results, ours, math.inf).seconds == bench_run.OUR_LIMIT


def test_a_traced_curve_without_an_iterate_is_not_tried_again(tmp_path):
    problem = make_problem(3)
    results, peer = ResultsFolder(tmp_path), template(problem)
    killed = FakeWorker({1: WorkerCutError("too long")})
    run_curve(problem, peer, killed, results, PLAN, traced=True)
    spared = FakeWorker({})
    for changes in ({"threads": "2"}, {"C": 100.0}):
        run_curve(problem, dataclasses.replace(peer, **changes), spared, results, PLAN, traced=True)
    assert spared.asked == []
    ends = [row for row in results.rows.values() if row.budget == "end"]
    assert [row.status for row in ends] == ["cut"] * 3
    assert ends[1].reason == "no iterate at C = 1 with 1 BLAS threads"
    slower = dataclasses.replace(peer, library="other")
    run_curve(problem, slower, FakeWorker(near_and_nearer(problem, [1, None])), results, PLAN)
    assert results.rows[(*slower.key[:-1], "end")].status == "end"


def test_the_number_of_threads_is_chosen_once_for_a_problem(tmp_path):
    problem, results = make_problem(3), ResultsFolder(tmp_path)
    other = template(problem)
    measured = dataclasses.replace(other, C=0.1, budget="4", status="ok", n_iter=4)
    results.append(dataclasses.replace(measured, seconds=1.0))
    assert _slower_threads(results, dataclasses.replace(other, threads="2")) is None  # not tried
    results.append(dataclasses.replace(measured, threads="2", seconds=2.0))
    assert _slower_threads(results, other) is None
    reason = _slower_threads(results, dataclasses.replace(other, threads="2"))
    assert reason == "1 BLAS threads were faster at another C"
    same_C = dataclasses.replace(other, C=0.1, threads="2")
    assert _slower_threads(results, same_C) is None
    assert _slower_threads(results, dataclasses.replace(other, library="another")) is None


def test_a_curve_of_separate_fits_ends_where_it_lags(tmp_path):
    problem = make_problem(3)
    results, peer = ResultsFolder(tmp_path), template(problem)
    first = score(problem, 1.0, params_near_optimum(problem, 1.0)).objective
    fast = dataclasses.replace(peer, library="other", budget="1", objective=first, seconds=1.0)
    results.append(fast)
    worker = FakeWorker(near_and_nearer(problem, [1, 2]), seconds=3.5)
    run_curve(problem, peer, worker, results, PLAN)
    assert budgets_and_reasons(tmp_path)[2:4] == [
        ("end", "lags", "another peer got as far 3 times as fast"),
        ("default", "skipped", "its curve: lags"),
    ]
    assert np.isnan(results.rows[(*peer.key[:-1], "end")].seconds)  # no bound
