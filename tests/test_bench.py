"""The bench: its score, its reference optimum, its bookkeeping. Nothing is timed."""

import dataclasses
import math
import subprocess
import sys
from itertools import islice, pairwise

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from bench import problems, reference
from bench import run as bench_run
from bench.__main__ import main
from bench.adapter import (
    Adapter,
    Effort,
    Fit,
    OutOfTimeError,
    find_libraries,
    growing_budgets,
)
from bench.growth import GrowthRow, doublings
from bench.page import write_page
from bench.problems import Problem, load_problem
from bench.process import ROOT, Worker, WorkerCutError, WorkerError, run_child
from bench.recorder import Recorder
from bench.report import write_report
from bench.results import ResultsFolder, Row, append_csv
from bench.run import Plan, _slower_threads, curve_limit, fit_limit, run_curve
from bench.score import l2_of, objective, score, value_and_gradient
from bench.small import SmallRow
from bench.solver_tables import mean_ratio, ratio, solver_goals
from bench.summary import Group, middle_of_each, summarise
from bench.worker import packed


def make_problem(n_classes, *, n_samples=120, n_features=5, dtype="float64", sparse=False):
    rng = np.random.default_rng(n_classes)
    X = rng.normal(size=(n_samples, n_features)) * np.logspace(0, 2, n_features)
    y = np.arange(n_samples) % n_classes
    X[:, 0] += y
    X = scipy.sparse.csr_array(X) if sparse else X
    X = X.astype(dtype)
    return Problem(f"made{n_classes}", X[:90], y[:90], X[90:], y[90:])


def tight_fit(problem, C):
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=200)
    model.fit(problem.X, problem.y)
    return model, np.column_stack([model.coef_, model.intercept_])


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("block_rows", [True, False])
def test_score_is_scikit_learn_log_loss_plus_penalty(n_classes, block_rows, monkeypatch):
    problem, C = make_problem(n_classes), 0.3
    model, params = tight_fit(problem, C)
    if block_rows:
        blocks = [slice(i, min(i + 7, 90)) for i in range(0, 90, 7)]
        monkeypatch.setattr(
            "bench.score.row_blocks", lambda n, width: [b for b in blocks if b.start < n]
        )
    found = score(problem, C, params)
    n = len(problem.y)
    penalty = (model.coef_**2).sum() / (2 * C * n)
    expected = log_loss(problem.y, model.predict_proba(problem.X)) + penalty
    assert found.objective == pytest.approx(expected, rel=1e-12)
    assert found.gradient_norm < 1e-8
    assert found.accuracy == accuracy_score(problem.y, model.predict(problem.X))
    test_probabilities = model.predict_proba(problem.X_test)
    assert found.test_log_loss == pytest.approx(
        log_loss(problem.y_test, test_probabilities), rel=1e-12
    )
    assert found.test_accuracy == accuracy_score(problem.y_test, model.predict(problem.X_test))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_gradient_is_the_derivative_of_the_objective(n_classes):
    problem = make_problem(n_classes)
    rng = np.random.default_rng(0)
    params = rng.normal(size=(problem.n_rows, 6)) / 50
    direction = rng.normal(size=params.shape)
    _, gradient, _ = value_and_gradient(problem.X, problem.y, params, 0.1)
    h = 1e-6
    ahead, behind = (
        objective(problem.X, problem.y, params + sign * h * direction, 0.1) for sign in (1, -1)
    )
    assert np.vdot(gradient, direction) == pytest.approx((ahead - behind) / (2 * h), rel=1e-6)


def test_score_of_float32_data_is_computed_in_float64():
    problem = make_problem(3, dtype="float32")
    params = np.full((3, 6), 1e-3)
    exact = dataclasses.replace(problem, X=problem.X.astype("float64"))
    assert score(problem, 1.0, params).objective == score(exact, 1.0, params).objective


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("route", ["dense Hessian", "Gram", "diagonal", "sparse"])
def test_reference_optimum_is_that_of_newton_cholesky(n_classes, route, monkeypatch):
    problem = make_problem(n_classes)
    _, params = tight_fit(problem, 1.0)
    if route != "dense Hessian":
        monkeypatch.setattr(reference, "DENSE_PARAMS", 0)
    if route == "diagonal":
        monkeypatch.setattr(reference, "GRAM_FEATURES", 0)
    if route == "sparse":
        problem = make_problem(n_classes, sparse=True)
    optimum = reference.minimise(problem, 1.0)
    expected = score(problem, 1.0, params).objective
    assert optimum.reached
    assert optimum.decrement <= 1e-12 * optimum.objective
    assert optimum.objective == pytest.approx(expected, rel=1e-12)
    again = reference.minimise(problem, 1.0, start=optimum.params)
    assert again.n_iter == 1
    from_afar = reference.minimise(problem, 1.0, start=optimum.params + 0.03)
    assert from_afar.objective == pytest.approx(expected, rel=1e-12)


def test_hessian_product_is_the_dense_hessian():
    problem = make_problem(3)
    params = np.random.default_rng(1).normal(size=(3, 6)) / 50
    hessian = reference._Hessian(problem.X, params, 0.1)
    dense = hessian._dense()
    direction = np.random.default_rng(2).normal(size=(3, 6))
    direction[:, -1] -= direction[:, -1].mean()  # the filled null direction apart
    np.testing.assert_allclose(
        (dense @ direction.ravel()).reshape(3, 6), hessian.product(direction), rtol=1e-10
    )
    np.testing.assert_allclose(
        hessian._diagonal()[:, :-1], np.diag(dense).reshape(3, 6)[:, :-1], rtol=1e-12
    )


ADAPTERS = find_libraries()


def installed_adapter(name, problem):
    if (reason := ADAPTERS[name].skip_reason(problem)) is not None:
        pytest.skip(reason)
    return ADAPTERS[name]


def scaled_problem(n_classes, dtype="float64"):
    problem = make_problem(n_classes, n_samples=190)
    X = (problem.X / problem.X.std(axis=0)).astype(dtype)
    return dataclasses.replace(problem, X=X)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.filterwarnings("ignore")  # with a tiny tolerance solvers end with their own warnings
def test_every_adapter_minimises_the_same_objective(name, n_classes, dtype, tolerance):
    C, problem = 0.1, scaled_problem(n_classes, dtype)
    adapter = installed_adapter(name, problem)
    expected = reference.minimise(problem, C).objective
    fit = adapter.fit(problem, C, 500)
    found = score(problem, C, packed(fit)).objective
    assert found == pytest.approx(expected, rel=tolerance)
    assert adapter.memory_estimate(problem) > problem.X_bytes
    default = score(problem, C, packed(adapter.fit(problem, C, None))).objective
    assert default == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.filterwarnings("ignore")  # as above
def test_a_trace_passes_through_the_fits_of_as_many_iterations(name, n_classes):
    C, problem = 0.1, scaled_problem(n_classes)
    adapter = installed_adapter(name, problem)
    trace = list(adapter.trace(problem, C, Effort(repeats=1)))
    assert [fit.n_iter for fit in trace[:4]] == [1, 2, 3, 4] or adapter.growth == 1.5
    assert all(a.seconds < b.seconds for a, b in pairwise(trace) if adapter.cuts_itself)
    objectives = [score(problem, C, packed(fit)).objective for fit in trace]
    expected = reference.minimise(problem, C).objective
    assert objectives[-1] == pytest.approx(expected, rel=1e-9)
    third = score(problem, C, packed(adapter.fit(problem, C, trace[2].n_iter))).objective
    assert objectives[2] == pytest.approx(third, rel=1e-9)
    later = adapter.trace(problem, C, Effort(after=2, repeats=1))
    assert next(later).n_iter == 3


@pytest.mark.parametrize("name", sorted(n for n, a in ADAPTERS.items() if a.cuts_itself))
def test_a_traced_fit_cuts_itself_and_keeps_what_it_reached(name):
    problem = scaled_problem(3)
    trace = installed_adapter(name, problem).trace(problem, 1.0, Effort(limit=0.0, repeats=1))
    assert next(trace).n_iter == 1
    with pytest.raises(OutOfTimeError):
        next(trace)


def test_intelex_runs_its_own_code_or_refuses(monkeypatch):
    pytest.importorskip("sklearnex", reason="scikit-learn-intelex is an optional peer")
    problem = scaled_problem(3)
    adapter = ADAPTERS["intelex-lbfgs"]
    with pytest.warns(ConvergenceWarning):  # after two iterations
        adapter.warm_up(problem)
    monkeypatch.setattr(type(adapter), "estimator", ADAPTERS["sklearn-lbfgs"].estimator)
    with pytest.warns(ConvergenceWarning), pytest.raises(RuntimeError, match="fell back"):
        adapter.warm_up(problem)


def test_recorder_keeps_growing_counts_and_the_last_iterate():
    recorder = Recorder(limit=60.0)
    params = np.zeros(2)
    for _ in range(30):
        params += 1.0
        recorder.record(params)
    recorder.finish()
    assert [n for n, _, _ in recorder.points] == [1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 30]
    assert all((kept == n).all() for n, _, kept in recorder.points)


def test_l2_is_scikit_learn_C_per_sample():
    assert l2_of(2.0, 50) == 0.01


def test_budgets_grow_by_half():
    assert list(islice(growing_budgets(False, 1.5), 9)) == [1, 2, 3, 5, 8, 12, 18, 27, 41]
    assert list(growing_budgets(True, 1.5)) == [1, 4, 16, 64]


# Bookkeeping: a worker of this process stands in for the one behind a pipe.


class FakeWorker:
    """Returns given params at the defaults, under None, and then along a curve."""

    warmup_seconds = 0.5

    def __init__(self, outcomes, seconds=0.1):
        self.outcomes, self.seconds, self.asked = dict(outcomes), seconds, []

    def fit(self, C, limit):
        return self._outcome(None)

    def trace(self, C, after, limit, quick):
        for n_iter in self.outcomes:
            if n_iter is not None and n_iter > after:
                yield self._outcome(n_iter)

    def _outcome(self, n_iter):
        self.asked.append(n_iter)
        outcome = self.outcomes[n_iter]
        if isinstance(outcome, BaseException):
            raise outcome
        return {"seconds": self.seconds, "repeats": 1, "n_iter": n_iter or 100}, outcome


PLAN = Plan([], [])


def template(problem):
    return Row(problem.name, 1.0, "float64", "peer", "1", "default", version="1")


def params_near_optimum(problem, distance):
    params = reference.minimise(problem, 1.0).params.copy()
    params[:, 0] += distance * np.arange(1, len(params) + 1)
    return params


def near_and_nearer(problem, n_iters):
    return {n: params_near_optimum(problem, 1 / (n or 9)) for n in n_iters}


def budgets_and_reasons(folder):
    return [(row.budget, row.status, row.reason) for row in ResultsFolder(folder).rows.values()]


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


def scored_row(like, optimum, *, gap=1e-7, **changes):
    return dataclasses.replace(like, objective=optimum.objective * (1 + gap), n_iter=9, **changes)


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


# Processes and files.


def test_a_crashing_worker_gives_its_last_words():
    with (
        Worker("no-such-library", "digits", "float64", "1", quick=True, repeats=1) as worker,
        pytest.raises(WorkerError, match="KeyError: 'no-such-library'"),
    ):
        worker.fit(1.0, 60.0)


def test_a_worker_returns_params_and_is_cut_at_the_limit():
    with Worker("sklearn-lbfgs", "digits", "float64", "1", quick=True, repeats=1) as worker:
        reply, params = next(worker.trace(1.0, 2, 60.0, quick=True))
        assert reply["n_iter"] == 3
        assert params.shape == (10, 65)
        assert params.any()
        with pytest.raises(WorkerCutError, match="longer than 0 s"):
            list(worker.trace(1.0, 1, 0.0, quick=True))
        reply, params = worker.fit(1.0, 60.0)
        assert reply["warnings"] == "ConvergenceWarning"
        with pytest.raises(WorkerCutError):
            worker.fit(1.0, 0.0)


@pytest.mark.parametrize("with_test_set", [True, False])
def test_standardised_problems_use_the_training_rows_alone(with_test_set):
    rng = np.random.default_rng(3)
    X = np.column_stack([rng.normal(5.0, 3.0, size=100), np.full(100, 7.0)])
    test = {"X_test": X[:10], "y_test": np.zeros(10)} if with_test_set else {}
    data = problems.standardised(problems.Data(X, np.arange(100) % 2, **test))
    rows = slice(None) if with_test_set else np.arange(100) % 5 != 4
    np.testing.assert_allclose(data.X[rows].mean(axis=0), [0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(data.X[rows].std(axis=0), [1.0, 0.0], atol=1e-12)
    if with_test_set:
        np.testing.assert_array_equal(data.X_test, data.X[:10])


def test_a_suite_names_known_problems():
    assert set(problems.SUITES["solvers"]) <= set(problems.PROBLEMS)
    assert problems.problem_dtypes("embedding_probe") == ["float32"]


def test_missing_data_say_so(monkeypatch):
    monkeypatch.delenv("FASTSOFTMAX_DATA", raising=False)
    with pytest.raises(problems.ProblemUnavailableError, match="FASTSOFTMAX_DATA"):
        load_problem("flights")


def test_data_folder_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTSOFTMAX_DATA", str(tmp_path))
    X = np.arange(40.0).reshape(20, 2)
    np.savez(tmp_path / "flights.npz", X=X, y=np.repeat([3, 7], 10))
    problem = load_problem("flights", "float32")
    assert problem.X.shape == (16, 2)
    assert problem.X.dtype == np.float32
    np.testing.assert_array_equal(problem.X_test, X[4::5])
    assert set(problem.y) == {0, 1}


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
