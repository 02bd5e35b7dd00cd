"""The bench of L1 penalties: its objective, its libraries, its bookkeeping. Nothing is timed."""

import dataclasses
from itertools import takewhile

import numpy as np
import pytest
from bench_fakes import FakeWorker, make_problem

from bench import l1
from bench.__main__ import PROCESSES, main
from bench.adapter import Effort, Fit, OutOfTimeError
from bench.l1 import Case, L1Row, l1_goals, l1_tables, peer_limit, read_rows, run_l1_curve
from bench.l1_libraries import RATIOS, DoublingAdapter, find_l1_libraries, l1_libraries
from bench.page import write_page
from bench.process import Worker, WorkerCutError, WorkerError
from bench.results import append_csv
from bench.score import l1_objective, l2_of, objective
from bench.worker import packed
from fastsoftmax import LogisticRegression


def scaled_problem(n_classes):
    problem = make_problem(n_classes)
    return dataclasses.replace(problem, X=problem.X / problem.X.std(axis=0))


def test_objective_is_loss_and_both_penalties():
    problem = make_problem(3)
    params = np.random.default_rng(0).normal(size=(3, 6)) / 50
    coef = params[:, :-1]
    penalty = 0.3 * (0.25 * np.abs(coef).sum() + 0.75 / 2 * (coef**2).sum())
    expected = objective(problem.X, problem.y, params, 0.0) + penalty
    assert l1_objective(problem.X, problem.y, params, 0.3, 0.25) == pytest.approx(
        expected, rel=1e-14
    )


@pytest.mark.parametrize("l1_ratio", RATIOS)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("library", l1_libraries(1.0))
def test_every_library_minimises_the_objective(library, n_classes, l1_ratio):
    adapter = l1_libraries(l1_ratio)[library]
    problem, C = scaled_problem(n_classes), 0.1
    if reason := adapter.skip_reason(problem):
        pytest.skip(reason)
    model = LogisticRegression(C=C, l1_ratio=l1_ratio, tol=1e-10).fit(problem.X, problem.y)
    known = np.column_stack([model.coef_, model.intercept_])
    if library == "fastsoftmax":
        *_, fit = adapter.trace(problem, C, Effort(repeats=1))
    else:
        fit = adapter.fit(problem, C, 2000)
    found, optimum = (
        l1_objective(problem.X, problem.y, params, l2_of(C, len(problem.y)), l1_ratio)
        for params in (packed(fit), known)
    )
    assert found == pytest.approx(optimum, rel=1e-8)


class Slow(DoublingAdapter):
    name = "slow"

    def memory_estimate(self, problem):
        return 0

    def fit(self, problem, C, budget):
        return Fit(np.zeros((3, 5)), np.zeros(3), budget, 0.25 * budget)


def test_the_last_budget_fills_the_limit():
    trace = Slow().trace(make_problem(3), 1.0, Effort(limit=2.6, after=1, repeats=1))
    assert [next(trace).n_iter for _ in range(4)] == [2, 4, 8, 10]
    with pytest.raises(OutOfTimeError):
        next(trace)


def test_workers_know_the_adapters():
    assert len(find_l1_libraries()) == len(RATIOS) * len(l1_libraries(1.0))
    with Worker("sklearn-saga l1_ratio=0.5", "iris", "float64", "1", True, 1) as worker:
        points = takewhile(lambda point: point[0]["n_iter"] <= 4, worker.trace(0.1, 0, 60.0, True))
        assert [reply["n_iter"] for reply, _ in points] == [1, 2, 4]


# Bookkeeping, with a worker of this process.


class Installed(Slow):
    def version(self):
        return "1"

    def skip_reason(self, problem):
        return None


def template(problem, library="peer"):
    return L1Row(problem.name, 1.0, 30.0, 0.1, library, "")


def curve(path, worker, library="peer", adapter=None, time_limit=60.0):
    problem = make_problem(3)
    row = template(problem, library)
    run_l1_curve(path, problem, adapter or Installed(), row, worker, time_limit)
    return [(r.n_iter, r.status) for r in read_rows(path) if r.library == library]


def points(n_iters):
    return {n: np.full((3, 6), 1.0 / n) for n in n_iters}


def save_ours(path):
    ours = template(make_problem(3), "fastsoftmax")
    append_csv(path, dataclasses.asdict(dataclasses.replace(ours, seconds=0.5, objective=1e-3)))


def test_an_interrupted_curve_goes_on_and_a_complete_one_stays(tmp_path):
    path = tmp_path / l1.FILE
    save_ours(path)
    with pytest.raises(KeyboardInterrupt):
        curve(path, FakeWorker(points([1, 2]) | {4: KeyboardInterrupt()}))
    second = FakeWorker(points([1, 2, 4]))
    assert curve(path, second) == [(1, "ok"), (2, "ok"), (4, "ok"), (-1, "end")]
    assert second.asked == [4]
    third = FakeWorker({})
    curve(path, third)
    assert third.asked == []


def test_a_peer_is_done_at_the_optimum(tmp_path):
    path = tmp_path / l1.FILE
    worker = FakeWorker({1: np.full((3, 6), 0.01), 2: KeyboardInterrupt()})
    assert curve(path, worker) == [(1, "ok"), (-1, "end")]  # nobody else has an objective


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(WorkerCutError("too long"), "cut"), (WorkerError("ValueError: no\nway"), "failed")],
)
def test_cut_and_failed_curves_stay(tmp_path, outcome, status):
    path = tmp_path / l1.FILE
    save_ours(path)
    assert curve(path, FakeWorker(points([1]) | {2: outcome}, seconds=3.5)) == [
        (1, "ok"),
        (-1, status),
    ]
    last = read_rows(path)[-1]
    assert last.reason == ("ValueError: no way" if status == "failed" else "")
    if status == "cut":
        assert last.seconds == 3.5


def test_a_library_that_is_not_there_is_a_row_with_a_reason(tmp_path):
    path = tmp_path / l1.FILE
    adapter = Slow()
    adapter.distribution = "no-such-distribution"
    assert curve(path, FakeWorker({}), adapter=adapter) == [(-1, "skipped")]
    assert read_rows(path)[0].reason == "no-such-distribution is not installed"


def test_strength_is_the_ratio_or_C():
    problem = scaled_problem(3)
    given = Case("made3", 1.0, multiple=2.0).with_C(problem)
    model = LogisticRegression(C=given.C, l1_ratio=1.0).fit(problem.X, problem.y)
    assert model.coef_.any()
    assert Case("made3", 1.0, C=given.C).with_C(problem).multiple == pytest.approx(2.0, rel=1e-3)


def rows_of_a_group():
    ours = L1Row("made", 1.0, 30.0, 0.1, "fastsoftmax", "1", n_nonzeros=7)
    coarse = dataclasses.replace(ours, seconds=0.5, objective=1.00001)
    fine = dataclasses.replace(ours, seconds=1.0, objective=1.0)
    saga = dataclasses.replace(coarse, library="sklearn-saga", seconds=4.0, objective=1.5)
    cut = dataclasses.replace(saga, status="cut", seconds=6.0, objective=np.nan)
    auto = dataclasses.replace(fine, library="cyanure-auto", seconds=3.0)
    quasi = dataclasses.replace(auto, library="cyanure-qning-ista", seconds=0.9)
    return [coarse, fine, saga, cut, auto, quasi]


def test_table_and_goals(tmp_path):
    rows = rows_of_a_group()
    text = l1_tables(rows)[0].markdown()
    assert "| made | 0.1 | 30 | 1 | fastsoftmax | 0.5 | - | 1 | - | 7 | <1e-10 |" in text
    assert "| sklearn-saga | >6 | >12x | >6 | >6x | 7 | 5e-01 |" in text
    saga, cyanure = l1_goals(rows)
    assert saga.met
    assert cyanure.misses == ["made C=0.1 l1_ratio=1: 0.9x, 10 % short"]
    for row in rows:
        append_csv(tmp_path / l1.FILE, dataclasses.asdict(row))
    page = tmp_path / "benchmarks.md"
    assert write_page(tmp_path, page, tmp_path) == [page]
    assert "## L1 penalties and elastic net" in page.read_text()
    assert "| L1 to 1e-4 10x saga's | met, 1 of 1 |" in page.read_text()


def test_a_skipped_library_stays_in_the_table():
    rows = rows_of_a_group()[:2]
    peer = dataclasses.replace(rows[0], library="cyanure-auto", objective=np.nan)
    rows.append(dataclasses.replace(peer, status="skipped", reason="not installed"))
    text = l1_tables(rows)[0].markdown()
    assert "| cyanure-auto | - | - | - | - | - | - | not installed |" in text
    assert l1_goals(rows)[1].cells()[1] == "not measured"


def test_where_we_do_not_get_is_a_miss():
    *_, auto, quasi = rows_of_a_group()
    ours = dataclasses.replace(auto, library="fastsoftmax", objective=2.0)
    assert l1_goals([ours, auto, quasi])[1].misses == ["made C=0.1 l1_ratio=1: 0x, 100 % short"]


def test_peers_are_cut_at_a_multiple_of_our_time():
    rows = rows_of_a_group()
    assert peer_limit(rows, 60.0) == 12.0
    assert peer_limit(rows, 7.0) == 7.0
    assert peer_limit([], 60.0) == 60.0
    quick = [dataclasses.replace(row, seconds=1e-3) for row in rows[:2]]
    assert peer_limit(quick, 60.0) == 2.0


def test_the_command_takes_a_time_limit(monkeypatch, tmp_path):
    asked = []

    def run(*arguments, **options):
        asked.append((arguments, options))
        return 0

    monkeypatch.setitem(PROCESSES, "l1", (run, "help"))
    assert main(["l1", "--time-limit", "7", "--output", str(tmp_path)]) == 0
    assert asked == [((tmp_path, False, False), {"time_limit": 7.0})]
