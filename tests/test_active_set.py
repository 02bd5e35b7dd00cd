"""Active sets of coefficients: where X has more columns than a column has entries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastsoftmax import LogisticRegression, LogisticRegressionCV, SoftmaxObjective, c_min
from fastsoftmax._designs import ColumnAccess
from fastsoftmax._solvers import SeparablePenalty, Status, minimize_composite
from fastsoftmax._solvers.active_set import ColumnMetric, ColumnModel, TrustRegion
from fastsoftmax._solvers.model import Faces, Metric, QuasiNewtonModel
from tests.reference import LinearModel, constrained_optimum, one_hot

ACTIVE = "proximal Newton (active columns)"


def text(n=300, d=2500, K=5, seed=0, density=0.01):
    """Return many rare words, ten of which tell the classes apart; the last 50 never occur.

    With an even number of classes a column's coefficients may shift alike between the middle ones.
    """
    rng = np.random.default_rng(seed)
    X = np.array(sparse.random(n, d, density, random_state=rng).todense())
    X[:, :10] = rng.random((n, 10)) * (rng.random((n, 10)) < 0.5)
    X[:, -50:] = 0.0
    W = np.zeros((K, d))
    W[:, :10] = 4.0 * rng.standard_normal((K, 10))
    y = (X @ W.T + rng.gumbel(size=(n, K))).argmax(axis=1)
    return X, y


def hessian_metric(model, n_rows, D):
    """Return what makes metrics of the oracle's Hessian."""

    def make(x):
        H = model.loss_hessian(x.reshape(n_rows, D)) / model.masses.sum()
        return Metric(H[None], np.tile(model.l2, n_rows), np.empty(0), True)

    return make


def column_metric(objective, radius=np.inf, centre=None):
    """Return what makes metrics by columns."""
    centre = np.zeros(objective.n_features) if centre is None else centre
    access, trust = ColumnAccess(objective.design, centre), TrustRegion(radius)
    l2 = np.tile(objective.l2, objective.n_rows)
    moves = centre if centre.any() else np.empty(0)

    def make(x):
        P = access.probabilities(*objective.unpack(x))
        return ColumnMetric(l2, moves, P, access.weights, access.pick, trust)

    return make


def l1_penalty(shape, strength, lower=-np.inf, upper=np.inf):
    l1, low, up = np.full(shape, strength), np.full(shape, lower), np.full(shape, upper)
    l1[:, -1], low[:, -1], up[:, -1] = 0.0, -np.inf, np.inf
    return SeparablePenalty(l1.ravel(), low.ravel(), up.ravel())


def assert_optimal(model, X, y, C, l1_ratio, slack, weight=None):
    """Karush, Kuhn & Tucker, over all coefficients, by the oracle's gradient."""
    w = np.ones(len(y)) if weight is None else weight
    labels = one_hot(np.searchsorted(model.classes_, y), len(model.classes_))
    strength = 1.0 / (C * w.sum())
    linear = LinearModel(X, labels, w, (1.0 - l1_ratio) * strength)
    gradient = linear.gradient(np.column_stack([model.coef_, model.intercept_]))
    coef, slope, l1 = model.coef_, gradient[:, :-1], l1_ratio * strength
    assert np.abs(slope[coef == 0]).max() <= l1 + slack
    assert np.abs(slope + l1 * np.sign(coef))[coef != 0].max(initial=0.0) <= slack
    assert np.abs(gradient[:, -1]).max() <= slack


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("centred", [False, True])
def test_hessian_by_columns_is_the_oracles(K, storage, centred):
    """``active_hessian`` and ``column_curvatures``, through models that are minimised by them."""
    rng = np.random.default_rng(0)
    X, y, w = rng.standard_normal((40, 6)), np.arange(40) % K, rng.random(40)
    X[rng.random(X.shape) < 0.5] = 0.0
    if centred and storage is sparse.csr_array:
        pytest.skip("a sparse X is not centred")
    centre = rng.standard_normal(6) * centred
    objective = SoftmaxObjective(storage(X), y, sample_weight=w, l2=0.01)
    x = rng.standard_normal(objective.shape).ravel()
    metric = column_metric(objective, centre=centre)(x)
    n_rows, D = objective.shape
    linear = LinearModel(X, one_hot(y, K), w, 0.01)
    exact = hessian_metric(linear, n_rows, D)(x)
    shift = np.eye(D)
    shift[-1, :-1] = -centre  # from coefficients of x - centre to those of x
    blocks = exact.blocks.reshape(n_rows, D, n_rows, D)
    blocks = np.einsum("di,kdle,ej->kilj", shift, blocks, shift)
    g = 0.1 * rng.standard_normal(objective.shape)
    if n_rows > 1:
        g[:, -1] -= g[:, -1].mean()  # as all gradients; else the model falls for ever
    g = g.ravel()
    h = l1_penalty(objective.shape, 0.01)
    inner = Metric(blocks.reshape(1, x.size, x.size), exact.l2, np.empty(0), True)
    expected, fall = QuasiNewtonModel(inner, (), x, g, h).minimize(Faces(), 1e-12)
    model = ColumnModel(metric, x, g, h)
    assert len(model.active) == x.size
    found, found_fall = model.minimize(Faces(), 1e-12)
    assert model.caution == 1.0
    assert found_fall == pytest.approx(fall, rel=1e-6)
    # A shift of all classes' intercepts costs nothing.
    found, expected = found.reshape(n_rows, D).copy(), expected.reshape(n_rows, D).copy()
    if n_rows > 1:
        found[:, -1] -= found[:, -1].mean()
        expected[:, -1] -= expected[:, -1].mean()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    K=st.integers(2, 4),
    l1=st.floats(1e-4, 0.05),
    l2=st.sampled_from([0.0, 0.01]),
    bounded=st.booleans(),
)
def test_same_minimum_as_with_the_whole_hessian(seed, K, l1, l2, bounded):
    rng = np.random.default_rng(seed)
    X = np.array(sparse.random(30, 12, 0.3, random_state=rng).todense())
    y = rng.integers(0, K, 30)
    y[:K] = np.arange(K)
    objective = SoftmaxObjective(sparse.csr_array(X), y, l2=l2)
    bounds = (-0.5, 0.8) if bounded else (-np.inf, np.inf)
    h = l1_penalty(objective.shape, l1, *bounds)
    f, start = objective.value_and_gradient, np.zeros(h.l1.size)
    whole = hessian_metric(LinearModel(X, one_hot(y, K), None, l2), *objective.shape)
    plain = minimize_composite(f, h, start, whole, (1,) * 1000, -np.inf, tol=1e-9)
    active = minimize_composite(
        f, h, start, column_metric(objective, 1.0), (1,) * 1000, -np.inf, tol=1e-9
    )
    assert plain.converged
    assert active.converged
    assert active.objective == pytest.approx(plain.objective, rel=1e-10)
    slope = h.least_subgradient(active.params, f(active.params)[1])
    assert np.abs(slope).max() <= 1.1e-9 or active.status is Status.FLOOR


@pytest.mark.parametrize("multiple", [1.5, 10.0, 300.0])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("K", [2, 5])
def test_conditions_of_optimality(multiple, l1_ratio, K):
    X, y = text(K=K)
    C = multiple * c_min(sparse.csr_array(X), y, l1_ratio=l1_ratio)
    options = {"C": C, "l1_ratio": l1_ratio, "tol": 1e-7}
    csr, dense = (LogisticRegression(**options).fit(Z, y) for Z in (sparse.csr_array(X), X))
    for model in (csr, dense):
        assert model.solver_ == ACTIVE
        assert model.converged_
        assert model.gradient_norm_ <= 1e-8
        assert_optimal(model, X, y, C, l1_ratio, 1.1e-8)
        assert not model.coef_[:, -50:].any()
    np.testing.assert_array_equal(csr.coef_ == 0, dense.coef_ == 0)
    np.testing.assert_allclose(csr.coef_, dense.coef_, atol=1e-4 * np.abs(dense.coef_).max())


def test_work_is_on_columns_that_move(monkeypatch):
    X, y = text()
    picked = []
    pick = ColumnAccess.pick
    monkeypatch.setattr(
        ColumnAccess, "pick", lambda self, numbers: picked.append(numbers) or pick(self, numbers)
    )
    C = 3.0 * c_min(sparse.csr_array(X), y)
    picked.clear()
    model = LogisticRegression(C=C, l1_ratio=1.0).fit(sparse.csr_array(X), y)
    used = np.flatnonzero(model.coef_.any(axis=0))
    assert len(picked) == model.n_iter_ + 1
    assert max(len(numbers) for numbers in picked) < X.shape[1] / 10
    assert set(used) <= set(picked[-1])
    assert len(picked[-1]) <= len(used) + 5  # the intercept, and what is about to move


def test_columns_that_never_occur_are_zero_without_a_penalty_too():
    X, y = text()
    factors = np.ones(X.shape[1])
    factors[-5:] = 0.0
    options = {"C": 0.5, "l1_ratio": 1.0, "tol": 1e-6}
    free = LogisticRegression(penalty_weights=factors, **options).fit(sparse.csr_array(X), y)
    assert free.solver_ == ACTIVE
    assert free.converged_
    assert not free.coef_[:, -50:].any()


def test_weights_duplicates_and_order_of_entries():
    X, y = text()
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    options = {"C": 0.5, "l1_ratio": 0.9, "tol": 1e-8}
    weighted = LogisticRegression(**options).fit(sparse.csr_array(X), y, weight)
    assert_optimal(weighted, X, y, 0.5, 0.9, 1e-8, weight)
    entries = sparse.coo_array(X)
    order = np.random.default_rng(2).permutation(entries.nnz)
    rows, columns = (np.tile(index[order], 2) for index in entries.coords)
    by_row = np.argsort(rows, kind="stable")
    indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=len(y))))
    halves = np.tile(entries.data[order], 2)[by_row] / 2.0
    doubled = sparse.csr_array((halves, columns[by_row], indptr), shape=X.shape)
    again = LogisticRegression(**options).fit(doubled, y, weight)
    np.testing.assert_allclose(again.coef_, weighted.coef_, atol=1e-6)
    repeated = LogisticRegression(**options).fit(
        np.repeat(X, weight.astype(int), axis=0), np.repeat(y, weight.astype(int))
    )
    np.testing.assert_allclose(repeated.coef_, weighted.coef_, atol=1e-5)


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
def test_rows_of_weight_0_may_hold_anything(storage):
    X, y = text()
    weight = np.ones(len(y))
    weight[:20] = 0.0
    offset = np.random.default_rng(5).standard_normal((len(y), 5))
    options = {"C": 0.5, "l1_ratio": 1.0, "tol": 1e-7}
    without = LogisticRegression(**options).fit(storage(X[20:]), y[20:], offset=offset[20:])
    X[:20] = 1e300
    model = LogisticRegression(**options).fit(storage(X), y, weight, offset)
    np.testing.assert_allclose(model.coef_, without.coef_, atol=1e-5)


@pytest.mark.parametrize("K", [2, 3])
def test_bounds_and_offsets(K):
    X, y = text(n=60, d=2200, K=K, density=0.02)
    offset = np.random.default_rng(3).standard_normal((60, 1 if K == 2 else K))
    lower, upper = np.zeros(2200), np.full(2200, 1.5)
    upper[20:] = 0.0  # so that the oracle is small
    model = LogisticRegression(C=2.0, l1_ratio=0.5, bounds=(lower, upper), tol=1e-9)
    model.fit(sparse.csr_array(X), y, offset=offset)
    strength = 0.5 / (2.0 * 60)
    oracle = LinearModel(X[:, :20], one_hot(y, K), None, strength, offset)
    params = constrained_optimum(oracle, len(model.coef_), bounds=(0.0, 1.5), l1=strength)
    assert model.solver_ == ACTIVE
    assert not model.coef_[:, 20:].any()
    np.testing.assert_allclose(model.coef_[:, :20], params[:, :-1], atol=1e-5)


def test_dense_columns_far_from_zero():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((80, 900)) + 1e4
    y = (X[:, :3] - 1e4 + rng.gumbel(size=(80, 3))).argmax(axis=1)
    far, near = (LogisticRegression(l1_ratio=1, C=0.3).fit(Z, y) for Z in (X, X - 1e4))
    assert far.solver_ == near.solver_ == ACTIVE
    assert far.converged_
    np.testing.assert_allclose(far.coef_, near.coef_, atol=1e-4)


def test_float32_and_threads():
    X, y = text()
    X = sparse.csr_array(X.astype(np.float32))
    single, other = (LogisticRegression(l1_ratio=1, C=0.5, n_jobs=n).fit(X, y) for n in (1, 2))
    double = LogisticRegression(l1_ratio=1, C=0.5).fit(X.astype(float), y)
    assert single.coef_.dtype == np.float32
    assert single.converged_
    np.testing.assert_array_equal(single.coef_, other.coef_)
    assert single.objective_ == pytest.approx(double.objective_, rel=1e-5)


def test_warm_start_limit_and_callbacks():
    X, y = text()
    X = sparse.csr_array(X)
    model = LogisticRegression(l1_ratio=1, C=0.5, max_iter=2)
    with pytest.warns(ConvergenceWarning, match="limit of iterations"):
        model.fit(X, y)
    assert model.n_iter_ == 2
    model.set_params(max_iter=1000, warm_start=True).fit(X, y)
    cold = LogisticRegression(l1_ratio=1, C=0.5).fit(X, y)
    assert model.n_iter_ < cold.n_iter_
    model.fit(X, y)
    assert model.n_iter_ == 0
    assert model.n_passes_ == 1
    np.testing.assert_array_equal(model.coef_ == 0, cold.coef_ == 0)


def test_history_counts_and_stops():
    X, y = text()
    objective = SoftmaxObjective(sparse.csr_array(X), y)
    h = l1_penalty(objective.shape, 0.01)
    seen = []
    arguments = (objective.value_and_gradient, h, np.zeros(h.l1.size), column_metric(objective, 1))
    found = minimize_composite(
        *arguments, (1,) * 99, on_iteration=lambda s: seen.append(s) and None
    )
    assert [state.iteration for state in seen] == list(range(found.n_iterations + 1))
    assert [(s.n_passes, s.objective, s.gradient_norm) for s in seen] == found.history
    assert seen[-1].n_passes == found.n_passes
    stopped = minimize_composite(*arguments, (1,) * 99, on_iteration=lambda s: s.iteration == 2)
    assert stopped.status is Status.STOPPED
    assert stopped.n_iterations == 2


def test_a_step_that_is_cut_is_no_certificate():
    X, y = text()
    objective = SoftmaxObjective(sparse.csr_array(X), y)
    h, x = l1_penalty(objective.shape, 0.01), np.zeros(objective.shape).ravel()
    model = column_metric(objective, 1e-9)(x).model(
        (), x, objective.value_and_gradient(x)[1], h, None
    )
    _, fall = model.minimize(Faces(), 0.1)
    assert fall < 1e-6
    assert model.caution == np.inf
    trust = TrustRegion()
    for step_size, radius in ((1.0, 2.0), (0.5, 1.0), (1e-3, 0.25)):
        trust.learn(step_size)
        assert trust.radius == radius


def test_cross_validation_of_sparse_rows():
    X, y = text()
    X = sparse.csr_array(X)
    C = c_min(X, y)
    cv = LogisticRegressionCV(
        Cs=[2.0 * C, 20.0 * C],
        l1_ratios=[0.5, 1.0],
        cv=3,
        scoring="neg_log_loss",
        use_legacy_attributes=False,
        tol=1e-6,
    ).fit(X, y)
    assert np.all(cv.converged_)
    alone = LogisticRegression(C=cv.C_, l1_ratio=cv.l1_ratio_, tol=1e-6).fit(X, y)
    np.testing.assert_allclose(cv.coef_, alone.coef_, atol=1e-4)
    assert (cv.coef_ == 0).mean() > 0.5
