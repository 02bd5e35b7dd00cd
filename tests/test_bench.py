"""The bench: its score, its reference optimum, its bookkeeping. Nothing is timed."""

import dataclasses
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from bench import problems, reference
from bench import run as bench_run
from bench.__main__ import main
from bench.adapter import Adapter, Fit, find_libraries
from bench.problems import Problem, load_problem
from bench.process import ROOT, Worker, WorkerCutError, WorkerError
from bench.report import write_report
from bench.results import ResultsFolder, Row
from bench.run import Plan, fit_limit, growing_budgets, run_curve
from bench.score import l2_of, objective, score, value_and_gradient
from bench.summary import summarise
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


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.filterwarnings("ignore")  # with a tiny tolerance solvers end with their own warnings
def test_every_adapter_minimises_the_same_objective(name, n_classes):
    adapter, C = ADAPTERS[name], 0.1
    problem = make_problem(n_classes)
    problem = dataclasses.replace(problem, X=problem.X / problem.X.std(axis=0))
    if (reason := adapter.skip_reason(problem)) is not None:
        pytest.skip(reason)
    fit = adapter.fit(problem, C, 500)
    found = score(problem, C, packed(fit)).objective
    assert found == pytest.approx(reference.minimise(problem, C).objective, rel=1e-6)
    assert adapter.memory_estimate(problem) > problem.X_bytes


def test_l2_is_scikit_learn_C_per_sample():
    assert l2_of(2.0, 50) == 0.01


def test_budgets_grow_by_half():
    assert list(islice(growing_budgets(False), 9)) == [1, 2, 3, 5, 8, 12, 18, 27, 41]


# Bookkeeping: a worker of this process stands in for the one behind a pipe.


class FakeWorker:
    warmup_seconds = 0.5

    def __init__(self, outcomes, n_iter=None):
        self.outcomes, self.n_iter, self.asked = dict(outcomes), n_iter, []

    def fit(self, C, budget, limit):
        self.asked.append(budget)
        outcome = self.outcomes[budget]
        if isinstance(outcome, Exception):
            raise outcome
        n_iter = budget or 100 if self.n_iter is None else self.n_iter
        return {"seconds": 0.1, "repeats": 1, "n_iter": n_iter}, outcome


def template(problem):
    return Row(problem.name, 1.0, "float64", "peer", "1", "default", version="1")


def params_near_optimum(problem, distance):
    params = reference.minimise(problem, 1.0).params.copy()
    params[:, 0] += distance * np.arange(1, len(params) + 1)
    return params


def test_finished_rows_are_not_run_again(tmp_path):
    problem = make_problem(3)
    outcomes = {b: params_near_optimum(problem, 1 / (b or 9)) for b in (None, 1, 2, 3)}
    first = FakeWorker(outcomes)
    run_curve(problem, template(problem), first, ResultsFolder(tmp_path), iter([1, 2]), 60.0)
    assert first.asked == [None, 1, 2]
    second, results = FakeWorker(outcomes), ResultsFolder(tmp_path)
    run_curve(problem, template(problem), second, results, iter([1, 2, 3]), 60.0)
    assert second.asked == [3]
    assert [row.budget for row in results.rows.values()] == ["default", "1", "2", "3"]


def test_a_row_cut_short_on_disk_is_dropped_and_run_again(tmp_path):
    problem = make_problem(3)
    outcomes = dict.fromkeys([None, 1], params_near_optimum(problem, 0.1))
    run_curve(
        problem, template(problem), FakeWorker(outcomes), ResultsFolder(tmp_path), iter([1]), 60.0
    )
    path = tmp_path / "results.csv"
    path.write_text(path.read_text()[:-10])
    again, results = FakeWorker(outcomes), ResultsFolder(tmp_path)
    assert len(results.rows) == 1
    run_curve(problem, template(problem), again, results, iter([1]), 60.0)
    assert again.asked == [1]


def test_curve_ends_when_flat_or_when_the_library_stops(tmp_path):
    problem = make_problem(3)
    outcomes = dict.fromkeys([None, 1, 2, 3, 5, 8], params_near_optimum(problem, 0.1))
    flat = FakeWorker(outcomes)
    results = ResultsFolder(tmp_path / "flat")
    run_curve(problem, template(problem), flat, results, growing_budgets(False), 60.0)
    assert flat.asked == [None, 1, 2, 3]
    stopped = FakeWorker(outcomes, n_iter=1)
    results = ResultsFolder(tmp_path / "stopped")
    run_curve(problem, template(problem), stopped, results, growing_budgets(False), 60.0)
    assert stopped.asked == [None, 1, 2]


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
    worker = FakeWorker({None: params_near_optimum(problem, 0.1), 1: outcome})
    run_curve(
        problem, template(problem), worker, ResultsFolder(tmp_path), growing_budgets(False), 60.0
    )
    row = list(ResultsFolder(tmp_path).rows.values())[-1]
    assert (row.budget, row.status, row.reason) == ("1", status, reason)
    assert np.isnan(row.objective)


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


def test_peers_are_cut_at_a_multiple_of_our_time(tmp_path):
    problem = make_problem(3)
    results, peer = ResultsFolder(tmp_path), template(problem)
    assert fit_limit(results, peer, 60.0) == 60.0
    ours = dataclasses.replace(peer, library="fastsoftmax", threads="installed", seconds=4.0)
    results.append(ours)
    assert fit_limit(results, peer, 60.0) == 80.0
    assert fit_limit(results, peer, 90.0) == 90.0
    assert fit_limit(results, ours, 60.0) == 600.0


# Processes and files.


def test_a_crashing_worker_gives_its_last_words():
    with (
        Worker("no-such-library", "digits", "float64", "1", quick=True, repeats=1) as worker,
        pytest.raises(WorkerError, match="KeyError: 'no-such-library'"),
    ):
        worker.fit(1.0, 1, 60.0)


def test_a_worker_returns_params_and_is_cut_at_the_limit():
    with Worker("sklearn-lbfgs", "digits", "float64", "1", quick=True, repeats=1) as worker:
        reply, params = worker.fit(1.0, 3, 60.0)
        assert reply["n_iter"] == 3
        assert reply["warnings"] == "ConvergenceWarning"
        assert params.shape == (10, 65)
        with pytest.raises(WorkerCutError):
            worker.fit(1.0, 20_000, 0.0)


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
    cut = dataclasses.replace(peer, library="slow", status="cut", seconds=60.0, reason="too long")
    results.append(cut)
    return results


def test_report_writes_tables_and_plots(tmp_path, capsys):
    results = saved_results(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    written = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[-1] for path in written] == [
        "report.md",
        "suboptimality_digits_C1_float64.png",
        "suboptimality.png",
    ]
    text = (tmp_path / "report.md").read_text()
    assert "| digits, C = 1, float64 | 4x (peer) | 4x (peer) | 4x (peer) |" in text
    assert "| slow | 1 | >60 | >60 | >60 | >60 |" in text
    assert "cut: too long" in text
    (group,) = summarise(ResultsFolder(tmp_path))
    assert group.reached
    assert {entry.library: entry.threads for entry in group.entries}["peer"] == "2"
    assert write_report(results, tmp_path / "elsewhere")[0].is_file()


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
