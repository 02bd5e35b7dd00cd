"""Data on which solvers go astray, through the estimator, with every solver."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from scipy import special
from scipy.optimize import linprog
from sklearn.exceptions import ConvergenceWarning

from fastsoftmax import LogisticRegression, SoftmaxObjective
from fastsoftmax._solvers import DiagonalPreconditioner, Status
from fastsoftmax.linear_model._recession import recession_test
from fastsoftmax.linear_model._small import is_small
from fastsoftmax.linear_model._solve import solve

SOLVERS = ["auto", "lbfgs", "newton-cholesky", "newton-cg"]
every_solver = pytest.mark.parametrize("solver", SOLVERS)
both_numbers_of_classes = pytest.mark.parametrize("n_classes", [2, 3])


def make_data(n_classes=3, n_samples=120, n_features=4, seed=0):
    """Return overlapping blobs, every class having some samples."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_samples) % n_classes
    return rng.normal(size=(n_samples, n_features)) + np.eye(n_classes, n_features)[y], y


def params_of(model):
    return np.column_stack([model.coef_, model.intercept_])


def oracle_of(X, y, C=1.0, weights=None):
    w = np.ones(len(y)) if weights is None else weights
    n_classes = int(np.max(y)) + 1
    return reference.LinearModel(X, reference.one_hot(y, n_classes), w, 1.0 / (C * np.sum(w)))


def assert_certified(model, X, y, C=1.0, weights=None):
    """Assert that the attributes say of `coef_` what the oracle does, and that it is converged."""
    oracle, params = oracle_of(X, y, C, weights), params_of(model)
    assert np.all(np.isfinite(params))
    assert model.converged_
    assert model.objective_ == pytest.approx(oracle.value(params), rel=1e-9, abs=1e-14)
    norm = np.abs(oracle.gradient(params)).max()
    # The rounding of residuals, which is that of logits, times the largest feature.
    logits = np.abs(X) @ np.abs(params[:, : X.shape[1]]).T
    rounding = 1e-14 * max(1.0, np.abs(X).max()) * max(1.0, 0.1 * logits.max())
    assert model.gradient_norm_ == pytest.approx(norm, rel=1e-6, abs=rounding)


def assert_optimal(model, X, y, C=1.0, rel=1e-8, weights=None):
    """Assert that the objective is the oracle's least, up to `rel`."""
    params, oracle = reference.logistic_optimum(X, y, int(np.max(y)) + 1, C, weights)
    least = oracle.value(params)
    assert oracle.value(params_of(model)) - least <= rel * least


# --- Without a penalty: separable or not ----------------------------------------------------------


def blobs(n_classes):
    X, y = make_data(n_classes)
    return X + 20.0 * np.eye(n_classes, 4)[y], y


def empty_cell(n_classes):
    """A category in which the last class never occurs; the rest overlaps."""
    X, y = make_data(n_classes)
    category = np.random.default_rng(1).integers(0, 2, len(y))
    category[y == n_classes - 1] = 0
    return np.column_stack([X, category]), y


def one_column(n_classes):
    """A constant column, and one that tells the classes apart."""
    y = np.arange(90) % n_classes
    return np.column_stack([np.ones(90), y + np.linspace(0.0, 0.5, 90)]), y


def empty_class(n_classes):
    X, y = make_data(n_classes)
    return X, y, np.where(y == 1, 0.0, 1.0)


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("make", [blobs, empty_cell, one_column, empty_class])
def test_separable_data_without_a_penalty(make, n_classes, solver):
    X, y, *weights = make(n_classes)
    model = LogisticRegression(C=np.inf, solver=solver).fit(X, y, *weights)
    assert np.all(np.isfinite(params_of(model)))
    assert model.gradient_norm_ <= model.tol
    assert model.converged_
    assert model.status_.startswith("The classes are separable")
    assert "Lower C" in model.status_
    if make in (blobs, one_column):
        assert model.score(X, y) == 1.0


def is_separable(X, y):
    """Tell, by linear programming, whether a direction shrinks no margin and widens one."""
    A, n_classes = np.column_stack([X, np.ones(len(X))]), int(y.max()) + 1
    margins = []
    for row, label in zip(A, y, strict=True):
        for other in set(range(n_classes)) - {label}:
            margin = np.zeros((n_classes, A.shape[1]))
            margin[label], margin[other] = row, -row
            margins.append(margin.ravel())
    margins = np.array(margins)
    found = linprog(
        -margins.sum(axis=0), A_ub=-margins, b_ub=np.zeros(len(margins)), bounds=(-1, 1)
    )
    assert found.status == 0
    return -found.fun > 1e-6


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("seed", range(12))
def test_separable_is_said_of_separable_data_only(seed, n_classes, solver):
    """Blobs that touch: some of these overlap by a few samples, some do not."""
    X, y = make_data(n_classes, 60, seed=seed)
    X = X + (0.5 + 0.25 * seed) * np.eye(n_classes, 4)[y]
    model = LogisticRegression(C=np.inf, tol=1e-6, solver=solver).fit(X, y)
    assert model.status_.startswith("The classes are separable") == is_separable(X, y)
    assert model.gradient_norm_ <= 1e-6
    assert_certified(model, X, y, np.inf)


def crossed_categories(seed, n_classes):
    """One-hot columns of two categories, and labels; in some cells some classes never occur."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 8, 1500), rng.integers(0, 12, 1500)
    shares = rng.gamma(0.3, size=(8, n_classes))[first]
    shares *= rng.gamma(0.3, size=(12, n_classes))[second]
    if seed % 2:
        shares += 0.02  # then every class occurs wherever it matters
    shares /= shares.sum(axis=1, keepdims=True)
    y = (rng.random((1500, 1)) > np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1)
    return np.column_stack([np.eye(8)[first], np.eye(12)[second]]), y


@pytest.mark.parametrize("n_classes", [2, 4, 6])
@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("seed", range(8, 12))
def test_separable_is_said_of_crossed_categories_with_empty_cells(seed, tol, n_classes):
    X, y = crossed_categories(seed, n_classes)
    model = LogisticRegression(C=np.inf, tol=tol).fit(X, y)
    assert model.status_.startswith("The classes are separable") == is_separable(X, y)
    assert model.gradient_norm_ <= tol


@pytest.mark.parametrize("n_classes", [3, 4])
@pytest.mark.parametrize("seed", range(8, 12))
def test_crossed_categories_in_float32(seed, n_classes):
    X, y = crossed_categories(seed, n_classes)
    model = LogisticRegression(C=np.inf).fit(X.astype(np.float32), y)
    assert model.status_.startswith("The classes are separable") == is_separable(X, y)
    assert model.converged_
    assert np.abs(model.coef_).max() < 100


@every_solver
@pytest.mark.parametrize("outlier", [30.0, 1e2, 3e3, 1e4, 1e5])
@pytest.mark.parametrize("seed", range(3))
def test_a_row_far_out_does_not_make_classes_separable(seed, outlier, solver):
    """It must not be the measure of how little all other margins shrink."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(300, 2))
    y = (rng.random(300) < special.expit(X[:, 0])).astype(int)
    X[0, 0], y[0] = outlier, 1
    model = LogisticRegression(C=np.inf, solver=solver).fit(X, y)
    assert "separable" not in model.status_
    assert model.converged_


@pytest.mark.parametrize("seed", range(8, 12))
def test_a_step_that_nearly_recedes_is_made_right(seed):
    """The solver's steps may shrink margins that are large already."""
    X, y = crossed_categories(seed, 4)
    objective = SoftmaxObjective(X, y)
    model = LogisticRegression(C=np.inf, tol=1e-8).fit(X, y)
    step = np.random.default_rng(seed).normal(size=objective.shape)
    recedes = recession_test(objective, lambda: DiagonalPreconditioner(np.full(step.shape, 0.1)))
    assert not recedes(params_of(model).ravel(), step.ravel(), True)  # it raises the objective
    early = LogisticRegression(C=np.inf, tol=1e-4).fit(X, y)
    step = params_of(model) - params_of(early)  # where classes separate, most of it is due to that
    recedes_in_the_end = recedes(params_of(model).ravel(), step.ravel(), True)
    assert recedes_in_the_end == is_separable(X, y)
    assert not recedes(params_of(model).ravel(), step.ravel(), False)  # as it is, it does not


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("gap", [-1.0, 0.0, 1.0])
def test_overlapping_data_without_a_penalty(gap, tol, n_classes, solver):
    """Also where the features tell nothing at all."""
    X, y = make_data(n_classes)
    X = X + gap * np.eye(n_classes, 4)[y]
    assert not is_separable(X, y)
    model = LogisticRegression(C=np.inf, tol=tol, solver=solver).fit(X, y)
    assert "separable" not in model.status_
    assert_certified(model, X, y, np.inf)
    if tol <= 1e-4:
        assert_optimal(model, X, y, np.inf, rel=1e-5 if tol > 1e-7 else 1e-8)


# --- Columns --------------------------------------------------------------------------------------


def collinear(X):
    return np.column_stack([X, X @ [1.0, -2.0, 0.5, 3.0], X[:, 0] + X[:, 1]])


def duplicate(X):
    return np.column_stack([X, X[:, :2], X[:, :2]])


def constant(X):
    return np.column_stack([X, np.full(len(X), 7.0), np.full(len(X), -1e-3)])


def zero(X):
    return np.column_stack([np.zeros(len(X)), X, np.zeros((len(X), 2))])


def nothing_but_constants(X):
    return np.full((len(X), 3), 2.5)


def one_hot_with_empty_cells(X):
    cells = reference.one_hot(np.random.default_rng(2).integers(0, 5, len(X)), 9)
    return np.column_stack([X, cells])


def standardised(X):
    """Columns that are constant stay 0, as with scikit-learn's scaler."""
    X = one_hot_with_empty_cells(X)
    scale = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


COLUMNS = [collinear, duplicate, constant, zero, nothing_but_constants, one_hot_with_empty_cells,
           standardised]  # fmt: skip


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("C", [1.0, 1e4, np.inf])
@pytest.mark.parametrize("columns", COLUMNS)
def test_columns_that_make_the_hessian_singular(columns, C, n_classes, solver):
    X, y = make_data(n_classes)
    X = columns(X)
    model = LogisticRegression(C=C, tol=1e-7, solver=solver).fit(X, y)
    assert_certified(model, X, y, C)
    assert model.gradient_norm_ <= 1e-7
    if np.isfinite(C):  # else the oracle's own Hessian is singular
        assert_optimal(model, X, y, C)


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("C", [1e-2, 1.0, 100.0])
def test_more_parameters_than_samples(C, n_classes, solver):
    X, y = make_data(n_classes, 40, 60)
    model = LogisticRegression(C=C, tol=1e-8, solver=solver).fit(X, y)
    assert_certified(model, X, y, C)
    assert_optimal(model, X, y, C)


@every_solver
@pytest.mark.parametrize("C", [1.0, 1e4])
def test_far_more_features_than_samples(C, solver):
    """300 features and 4 classes of 40 samples; the optimum is found in 40 dimensions.

    Its coefficients lie in the span of the rows, so that a rotation loses nothing.
    """
    X, y = make_data(4, 40, 300)
    model = LogisticRegression(C=C, tol=1e-8, solver=solver).fit(X, y)
    assert_certified(model, X, y, C)
    rows, _ = np.linalg.qr(X.T)
    params, oracle = reference.logistic_optimum(X @ rows, y, 4, C)
    least = oracle.value(params)
    assert model.objective_ - least <= 1e-8 * least


SCALES = {
    "tiny": np.full(4, 1e-8),
    "huge": np.full(4, 1e8),
    "mixed": np.array([1e-8, 1e-3, 1e3, 1e8]),
}


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("scale", SCALES)
def test_scales(scale, n_classes, solver):
    """The oracle scales the Hessian itself; it is exact where ours has to be."""
    X, y = make_data(n_classes)
    X = X * SCALES[scale]
    model = LogisticRegression(tol=1e-9, solver=solver).fit(X, y)
    assert_certified(model, X, y)
    assert_optimal(model, X, y)


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize("C", [1.0, np.inf])
def test_offsets(offset, C, n_classes, solver):
    """``W x + b = W (x - c) + b'`` with the same W: the oracle fits what is centred."""
    X, y = make_data(n_classes)
    far = X + offset * np.array([1.0, -1.0, 1.0, 1.0])
    near = far - offset * np.array([1.0, -1.0, 1.0, 1.0])  # exactly
    model = LogisticRegression(C=C, tol=1e-7, solver=solver).fit(far, y)
    assert model.converged_
    params, oracle = reference.logistic_optimum(near, y, n_classes, C)
    least = oracle.value(params)
    assert model.objective_ - least <= 1e-8 * least
    np.testing.assert_allclose(model.coef_, params[:, :-1], rtol=0, atol=1e-3)


# --- Classes and penalties ------------------------------------------------------------------------


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("C", [1e-2, 1.0, 1e4])
def test_a_class_of_one_sample(C, n_classes, solver):
    X, y = make_data(n_classes)
    y = np.where(y == n_classes - 1, 0, y)
    y[50] = n_classes - 1
    model = LogisticRegression(C=C, tol=1e-8, solver=solver).fit(X, y)
    assert_certified(model, X, y, C)
    assert_optimal(model, X, y, C)


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("C", [1e-12, 1e-6, 1e6, 1e12])
def test_tiny_and_huge_C(C, n_classes, solver):
    X, y = make_data(n_classes)
    model = LogisticRegression(C=C, tol=1e-9, solver=solver).fit(X, y)
    assert_certified(model, X, y, C)
    assert_optimal(model, X, y, C)


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("C", [1e6, 1e12])
def test_huge_C_on_separable_data(C, n_classes, solver):
    """There is an optimum, far out; tol decides how near a fit comes."""
    X, y = blobs(n_classes)
    model = LogisticRegression(C=C, solver=solver).fit(X, y)
    assert_certified(model, X, y, C)
    assert model.gradient_norm_ <= 1e-4
    assert model.score(X, y) == 1.0


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("C", [1e-2, 100.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_attributes_certify(weighted, C, n_classes, solver):
    X, y = make_data(n_classes)
    weights = np.random.default_rng(0).choice([0.0, 0.5, 4.0], len(y)) if weighted else None
    model = LogisticRegression(C=C, solver=solver).fit(X, y, weights)
    assert_certified(model, X, y, C, weights)
    assert model.gradient_norm_ <= 1e-4
    assert_optimal(model, X, y, C, 1e-5, weights)
    name = "compiled lbfgs" if solver == "auto" else solver
    assert model.solver_.startswith(f"{name} (")
    assert f"{model.gradient_norm_:.2e}" in model.status_


@every_solver
@both_numbers_of_classes
def test_a_weight_of_2_is_the_row_twice(n_classes, solver):
    X, y = make_data(n_classes)
    weights = 1 + np.arange(len(y)) % 3 % 2
    rows = np.repeat(np.arange(len(y)), weights)
    options = {"tol": 1e-9, "solver": solver}
    first = LogisticRegression(**options).fit(X, y, weights)
    second = LogisticRegression(**options).fit(X[rows], y[rows])
    np.testing.assert_allclose(params_of(first), params_of(second), rtol=0, atol=1e-6)


@every_solver
@both_numbers_of_classes
@pytest.mark.parametrize("C", [1.0, np.inf])
@pytest.mark.parametrize("max_iter", [0, 1, 2])
def test_an_unfinished_fit_warns_with_numbers_and_advice(max_iter, C, n_classes, solver):
    X, y = make_data(n_classes)
    model = LogisticRegression(C=C, tol=1e-9, max_iter=max_iter, solver=solver)
    with pytest.warns(ConvergenceWarning, match="increase max_iter") as record:
        model.fit(X * [1.0, 1e3, 1.0, 1.0], y)
    (warning,) = record
    assert str(warning.message).endswith(model.status_)
    assert f"max |gradient|: {model.gradient_norm_:.2e}" in model.status_
    assert not model.converged_
    assert model.gradient_norm_ > 1e-9
    assert model.n_iter_[0] <= max_iter
    assert np.all(np.isfinite(params_of(model)))
    oracle = oracle_of(X * [1.0, 1e3, 1.0, 1.0], y, C)
    assert model.objective_ == pytest.approx(oracle.value(params_of(model)), rel=1e-9)


def test_newton_cholesky_refuses_a_hessian_that_is_too_large():
    X, y = np.zeros((4, 10_001), np.float32), np.arange(4) % 3
    model = LogisticRegression(solver="newton-cholesky")
    with pytest.raises(ValueError, match=r"10001 features and 3 classes; use solver='auto'"):
        model.fit(X, y)
    assert not hasattr(model, "coef_")
    assert LogisticRegression(max_iter=5).fit(X, y).converged_


# --- What reviewers found -------------------------------------------------------------------------


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
def test_wide_data_far_from_zero(mean, fit_intercept):
    """Products of rows that are not centred would lose what tells the rows apart."""
    rng = np.random.default_rng(0)
    X, y = mean * fit_intercept + rng.normal(size=(40, 1000)), rng.integers(0, 3, 40)
    wide = LogisticRegression(fit_intercept=fit_intercept).fit(X, y)
    plain = LogisticRegression(fit_intercept=fit_intercept, solver="lbfgs").fit(X, y)
    assert "rotated" in wide.solver_
    assert "then" not in wide.solver_ or mean == 1e4
    assert wide.gradient_norm_ <= 1e-4
    assert wide.objective_ == pytest.approx(plain.objective_, rel=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_wide_data_in_float32_are_rotated_in_float64(soft):
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(60, 1500)).astype(np.float32), rng.uniform(0.5, 2.0, 60)
    Y = rng.dirichlet(np.ones(3), 60) if soft else np.eye(3)[np.arange(60) % 3]
    y = Y if soft else np.arange(60) % 3
    l2 = 1.0 / weights.sum()
    objective = SoftmaxObjective(X, y, sample_weight=weights, l2=l2)
    result, name = solve(objective, np.zeros(objective.shape), tol=1e-6, max_iter=1000)
    assert "rotated" in name
    assert "then" not in name
    assert result.converged
    oracle = reference.LinearModel(X.astype(np.float64), Y, weights, l2)
    params = result.params.reshape(objective.shape)
    assert oracle.value(params) == pytest.approx(result.objective, rel=1e-6)
    assert np.abs(oracle.gradient(params)).max() <= 1.1e-6


def test_a_row_of_weight_0_does_not_count_in_wide_data():
    rng = np.random.default_rng(0)
    X, y, weights = rng.normal(size=(40, 1000)), rng.integers(0, 3, 40), np.ones(40)
    X[3], weights[3] = 1e200, 0.0
    fitted = LogisticRegression().fit(X, y, weights)
    without = LogisticRegression().fit(np.delete(X, 3, 0), np.delete(y, 3))
    assert "rotated" in fitted.solver_
    assert "then" not in fitted.solver_
    assert fitted.objective_ == pytest.approx(without.objective_, rel=1e-10)


def test_wide_data_whose_products_overflow_are_not_rotated():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 50)) * np.geomspace(1e-3, 1e160, 50)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=r"[Ss]cale"):
        LogisticRegression().fit(X, np.arange(20) % 2)


def test_an_error_of_a_callback_passes_through_the_rotation():
    def fail(state):
        raise ValueError("enough")

    X = np.random.default_rng(0).normal(size=(200, 5000))
    objective = SoftmaxObjective(X, np.arange(200) % 3, l2=1e-2)
    start = np.zeros(objective.shape)
    with pytest.raises(ValueError, match="enough"):
        solve(objective, start, tol=1e-4, max_iter=100, on_iteration=fail)
    seen = []
    result, name = solve(objective, start, tol=1e-4, max_iter=100, on_iteration=seen.append)
    assert "rotated" in name
    assert "then" not in name
    np.testing.assert_allclose(seen[-1].params, result.params, rtol=0, atol=1e-12)
    assert seen[-1].objective == pytest.approx(objective.value(seen[-1].params), rel=1e-12)


@pytest.mark.parametrize("max_iter", [1, 5, 11])
def test_the_limit_of_iterations_holds_in_wide_data(max_iter):
    rng = np.random.default_rng(9)
    X = rng.normal(size=(30, 1000)) * np.r_[30, np.ones(999)]
    model = LogisticRegression(max_iter=max_iter)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, rng.integers(0, 3, 30))
    assert model.n_iter_.tolist() == [max_iter]


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cholesky"])
def test_classes_that_overlap_by_a_hair_are_not_separable(solver):
    """One sample of 201 on the wrong side: the optimum is at 10.54."""
    X = np.r_[-np.ones(100), np.ones(100), 0.01][:, None]
    y = np.r_[np.zeros(100), np.ones(100), 0.0]
    model = LogisticRegression(C=np.inf, fit_intercept=False, solver=solver).fit(X, y)
    assert "separable" not in model.status_
    assert model.coef_[0, 0] == pytest.approx(10.545, abs=0.05)


def test_a_penalised_feature_does_not_make_classes_separable():
    X, y = blobs(2)
    X = np.column_stack([X, np.random.default_rng(2).normal(size=len(y))])
    l2 = np.r_[np.full(4, 1e-3), 0.0]
    objective = SoftmaxObjective(X, y, l2=l2)
    result, _ = solve(objective, np.zeros(objective.shape), tol=1e-4, max_iter=1000)
    assert result.status is Status.CONVERGED


def test_many_features_are_not_small_however_few_samples_there_are():
    """A factor of 5400 x 5400 in one call could not be interrupted."""
    X = np.ones((10, 5400), np.float32)
    assert not is_small(SoftmaxObjective(X, np.arange(10) % 2))
    assert is_small(SoftmaxObjective(X[:, :40], np.arange(10) % 2))
