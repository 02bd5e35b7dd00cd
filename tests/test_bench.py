"""The bench: its score, its reference optimum, its bookkeeping. Nothing is timed."""

import dataclasses
from itertools import islice, pairwise

import numpy as np
import pytest
import sklearn
from bench_fakes import make_problem
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.utils.fixes import parse_version

from bench import problems, reference
from bench.adapter import (
    Effort,
    OutOfTimeError,
    find_libraries,
    growing_budgets,
)
from bench.problems import load_problem
from bench.process import Worker, WorkerCutError, WorkerError
from bench.recorder import Recorder
from bench.score import l2_of, objective, score, score_one_vs_rest, value_and_gradient
from bench.worker import packed


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
SAME = sorted(name for name, adapter in ADAPTERS.items() if adapter.same_objective)


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
@pytest.mark.parametrize("name", SAME)
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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize("name", SAME)
@pytest.mark.filterwarnings("ignore")  # as above
def test_every_adapter_takes_sparse_X_in_its_dtype_or_says_why_not(
    name, dtype, tolerance, monkeypatch
):
    small = {"zipf_corpus": lambda: problems.made_corpus(400, 200, 3)}
    monkeypatch.setattr(problems, "QUICK_PROBLEMS", small)
    problem = load_problem("zipf_corpus", dtype, quick=True)
    # On sparse X saga moves the intercepts a hundred times more slowly.
    fit = installed_adapter(name, problem).fit(problem, 0.1, 500 if "saga" not in name else 5000)
    is_old = parse_version(sklearn.__version__) < parse_version("1.9")
    if not (is_old and name.startswith("sklearn")):  # which returns float64
        assert np.asarray(fit.coef).dtype == dtype
    found = score(problem, 0.1, packed(fit)).objective
    assert found == pytest.approx(reference.minimise(problem, 0.1).objective, rel=tolerance)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", SAME)
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


@pytest.mark.parametrize("in_memory", [1 << 23, 0])
def test_recorder_keeps_growing_counts_and_the_last_iterate(in_memory, monkeypatch):
    monkeypatch.setattr("bench.recorder.IN_MEMORY", in_memory)
    recorder = Recorder(limit=60.0)
    params = np.zeros(2)
    for _ in range(30):
        params += 1.0
        recorder.record(params)
    recorder.finish()
    assert [n for n, _, _ in recorder.points] == [1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 30]
    assert all((kept == n).all() for n, _, kept in recorder.points)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_large_sparse_optimum_has_a_bound_that_holds(n_classes, monkeypatch):
    problem = make_problem(n_classes, sparse=True)
    best = reference.minimise(problem, 1.0)
    monkeypatch.setattr(reference, "LARGE_PARAMS", 0)
    optimum = reference.minimise(problem, 1.0)
    assert optimum.reached
    assert optimum.gap <= reference.GAP_TOLERANCE * optimum.objective
    assert optimum.objective == pytest.approx(best.objective, rel=1e-9)
    rng = np.random.default_rng(5)
    for spread in (1e-1, 1e-2, 1e-3):
        params = optimum.params + spread * rng.normal(size=optimum.params.shape)
        _, value, gradient, gap = reference.duality_gap(
            problem.X, problem.y, params, l2_of(1.0, 90)
        )
        assert np.abs(gradient[:, -1]).max() < 1e-12  # the best intercepts
        assert 0.0 < value - best.objective <= gap


@pytest.mark.parametrize("n_classes", [2, 3])
def test_liblinear_is_scored_with_its_own_probabilities(n_classes):
    problem = make_problem(n_classes, sparse=True)
    problem = dataclasses.replace(problem, X=problem.X / 50, X_test=problem.X_test / 50)
    fit = ADAPTERS["sklearn-liblinear"].fit(problem, 1.0, None)
    model = ADAPTERS["sklearn-liblinear"].estimator(1.0).fit(problem.X, problem.y)
    found = score_one_vs_rest(problem, packed(fit))
    expected = log_loss(problem.y_test, model.predict_proba(problem.X_test))
    assert found.test_log_loss == pytest.approx(expected, rel=1e-12)
    assert found.test_accuracy == accuracy_score(problem.y_test, model.predict(problem.X_test))
    assert np.isnan(found.objective)
    assert ADAPTERS["sklearn-liblinear"].skip_reason(make_problem(3)) == "shown where X is sparse"


def test_l2_is_scikit_learn_C_per_sample():
    assert l2_of(2.0, 50) == 0.01


def test_budgets_grow_by_half():
    assert list(islice(growing_budgets(False, 1.5), 9)) == [1, 2, 3, 5, 8, 12, 18, 27, 41]
    assert list(growing_budgets(True, 1.5)) == [1, 4, 16, 64]


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
    for suite in problems.SUITES.values():
        assert set(suite) <= set(problems.PROBLEMS)
    assert problems.problem_dtypes("embedding_probe") == ["float32"]


def test_corpus_is_sparse_normalised_and_the_same_every_time():
    first, again = (problems.made_corpus(500, 3000, 5) for _ in range(2))
    assert (first.X != again.X).nnz == 0
    np.testing.assert_array_equal(first.y, again.y)
    assert first.X.has_canonical_format
    np.testing.assert_allclose(first.X.multiply(first.X).sum(axis=1), 1.0, rtol=1e-5)
    counts = np.sort(np.bincount(first.X.indices, minlength=3000))[::-1]
    assert 50 < first.X.nnz / 500 < 64
    assert counts[0] > 10 * counts[300] > 0  # few words are frequent
    quick = load_problem("zipf_corpus", "float32", quick=True)
    assert quick.X.shape == (600, 1000)
    assert quick.X.indices.dtype == quick.X.indptr.dtype == np.int32


def test_one_hot_has_a_column_for_each_value():
    X = problems.one_hot([np.array([7.0, 3.0, 7.0]), np.array([0, 1, 2])])
    np.testing.assert_array_equal(X.toarray(), [[0, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]])


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
