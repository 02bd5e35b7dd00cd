"""`LogisticRegressionCV` against scikit-learn's, and against fits of the folds by an oracle."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import reference
import sklearn
from scipy import sparse
from sklearn import linear_model
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, get_scorer, log_loss, make_scorer
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold
from sklearn.preprocessing import scale
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.fixes import parse_version

from fastsoftmax import LogisticRegression, LogisticRegressionCV

#: scikit-learn 1.8's fails on a class that a fold lacks, and lays out some attributes otherwise.
like_1_9 = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"),
    reason="compares with the class of scikit-learn 1.9",
)
#: No defaults that will change.
PLAIN = {"l1_ratios": (0.0,), "scoring": "neg_log_loss", "use_legacy_attributes": False}
LEGACY = {**PLAIN, "use_legacy_attributes": True}
#: Our optima are within about 1e-2 tol of the objective, scikit-learn's within tol: scores of
#: models that both have nearly converged differ by less.
TIGHT = {"tol": 1e-8}
CS = [1e-3, 0.1, 10.0]


def theirs(**params):
    return linear_model.LogisticRegressionCV(
        **{**PLAIN, "solver": "newton-cholesky", **TIGHT, **params}
    )


def ours(**params):
    return LogisticRegressionCV(**{**PLAIN, **TIGHT, **params})


@pytest.fixture(scope="module", params=["iris", "wine", "binary"])
def data(request):
    if request.param == "binary":
        X, y = load_breast_cancer(return_X_y=True)
        X = X[:, :8]
    else:
        X, y = {"iris": load_iris, "wine": load_wine}[request.param](return_X_y=True)
    return scale(X), y


@pytest.fixture(scope="module")
def fitted(data):
    return ours(Cs=CS).fit(*data)


def _attributes(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_")}


def _shape(value):
    if isinstance(value, dict):
        return {label: np.shape(entry) for label, entry in value.items()}
    return np.shape(value)


def assert_same_bits(a, b):
    """Two fitted models have the same attributes, to the last bit."""
    assert _attributes(a).keys() == _attributes(b).keys()
    for name, value in _attributes(a).items():
        other = getattr(b, name)
        if isinstance(value, dict):
            assert value.keys() == other.keys()
            for label in value:
                np.testing.assert_array_equal(value[label], other[label], err_msg=name)
        else:
            np.testing.assert_array_equal(value, other, err_msg=name)


# Against scikit-learn


@pytest.mark.parametrize(
    "scoring", ["neg_log_loss", "accuracy", "neg_brier_score", "balanced_accuracy"]
)
def test_scores_and_choice_are_scikit_learns(data, scoring):
    X, y = data
    a, b = ours(Cs=CS, scoring=scoring).fit(X, y), theirs(Cs=CS, scoring=scoring).fit(X, y)
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-5)
    np.testing.assert_allclose(a.coefs_paths_, b.coefs_paths_, atol=1e-3)
    assert (a.C_, a.l1_ratio_) == (b.C_, b.l1_ratio_)
    np.testing.assert_allclose(a.coef_, b.coef_, atol=1e-3)
    np.testing.assert_allclose(a.intercept_, b.intercept_, atol=1e-3)
    assert a.score(X, y) == pytest.approx(b.score(X, y), abs=1e-5)


@like_1_9
@pytest.mark.filterwarnings("ignore:'l1_ratios=None' was:FutureWarning")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("l1_ratios", [(0.0,), None])
@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_shapes_and_types_are_scikit_learns(data, legacy, l1_ratios, refit, fit_intercept):
    X, y = data
    names = np.array(["x", "y", "z"])[y]
    params = {
        "Cs": 2,
        "cv": 3,
        "use_legacy_attributes": legacy,
        "l1_ratios": l1_ratios,
        "refit": refit,
        "fit_intercept": fit_intercept,
        "tol": 1e-3,
    }
    a, b = ours(**params).fit(X, names), theirs(**params).fit(X, names)
    expected = _attributes(b)
    assert expected.keys() <= _attributes(a).keys()
    for name, value in expected.items():
        assert type(getattr(a, name)) is type(value), name
        assert _shape(getattr(a, name)) == _shape(value), name
    np.testing.assert_array_equal(a.Cs_, b.Cs_)
    np.testing.assert_array_equal(a.l1_ratios_, b.l1_ratios_)
    np.testing.assert_array_equal(a.l1_ratio_, b.l1_ratio_)


@pytest.mark.parametrize("refit", [False, True])
def test_legacy_and_new_layout_hold_the_same(data, refit):
    X, y = data
    new, old = ours(Cs=CS, cv=3, refit=refit), ours(Cs=CS, cv=3, refit=refit, **LEGACY)
    new.fit(X, y)
    old.fit(X, y)
    labels = new.classes_ if len(new.classes_) > 2 else new.classes_[1:]
    for k, label in enumerate(labels):
        for i, j in np.ndindex(3, len(CS)):
            np.testing.assert_array_equal(
                old.coefs_paths_[label][i, j, 0], new.coefs_paths_[i, 0, j, k]
            )
            assert old.scores_[label][i, j, 0] == new.scores_[i, 0, j]
            assert old.n_iter_[0, i, j, 0] == new.n_iter_[i, 0, j]
    assert set(old.C_) == {new.C_}
    np.testing.assert_array_equal(old.coef_, new.coef_)


@like_1_9
def test_without_refit_models_are_averaged(data):
    X, y = data
    a, b = ours(Cs=CS, refit=False).fit(X, y), theirs(Cs=CS, refit=False).fit(X, y)
    np.testing.assert_allclose(a.coef_, b.coef_, atol=1e-3)
    np.testing.assert_allclose(a.intercept_, b.intercept_, atol=1e-3)
    best = a.scores_[:, 0].argmax(axis=1)
    assert pytest.approx(np.mean(a.Cs_[best])) == a.C_
    chosen = a.coefs_paths_[np.arange(5), 0, best]
    np.testing.assert_allclose(a.coef_, chosen[..., :-1].mean(axis=0), rtol=1e-12)


# Against an oracle


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 0.3, 1: 4.0}])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_fold_is_the_fit_of_its_rows(data, fit_intercept, class_weight, shuffle):
    X, y = data
    rng = np.random.default_rng(0)
    sample_weight = rng.uniform(0.5, 3.0, len(y))
    folds = list(
        StratifiedKFold(3, shuffle=shuffle, random_state=0 if shuffle else None).split(X, y)
    )
    model = ours(Cs=CS, cv=folds, fit_intercept=fit_intercept, class_weight=class_weight)
    model.fit(X, y, sample_weight)
    by_class = np.ones(y.max() + 1)
    if class_weight == "balanced":  # over all rows, not a fold's
        by_class = sample_weight.sum() / np.bincount(y, sample_weight) / len(by_class)
    elif class_weight:
        by_class[:2] = class_weight[0], class_weight[1]
    weights = sample_weight * by_class[y]
    for j, C in enumerate(CS):
        for i, (train, test) in enumerate(folds):
            params, _ = reference.logistic_optimum(
                X[train], y[train], len(by_class), C, weights[train], fit_intercept
            )
            found = model.coefs_paths_[i, 0, j]
            np.testing.assert_allclose(
                found, params[:, : found.shape[1]], atol=2e-4 * np.abs(params).max()
            )
            z = X[test] @ params[:, :-1].T + params[:, -1]
            p = reference.softmax(np.hstack([np.zeros_like(z), z]) if len(params) == 1 else z)
            # Scores have the sample weights, but not those of the classes.
            expected = -np.average(
                -np.log(p[np.arange(len(test)), y[test]]), weights=sample_weight[test]
            )
            assert model.scores_[i, 0, j] == pytest.approx(expected, abs=1e-5)
    best = model.scores_.mean(axis=(0, 1)).argmax()
    assert CS[best] == model.C_
    params, _ = reference.logistic_optimum(X, y, len(by_class), CS[best], weights, fit_intercept)
    np.testing.assert_allclose(model.coef_, params[:, :-1], atol=2e-4 * np.abs(params).max())


def test_order_of_Cs_is_kept(data):
    X, y = data
    a, b = ours(Cs=CS).fit(X, y), ours(Cs=[CS[2], CS[0], CS[1]]).fit(X, y)
    np.testing.assert_array_equal(a.scores_[:, :, [2, 0, 1]], b.scores_)
    np.testing.assert_array_equal(a.coefs_paths_[:, :, [2, 0, 1]], b.coefs_paths_)
    assert a.C_ == b.C_


def test_of_equal_scores_the_first_counts(data):
    X, y = data

    def constant(estimator, X, y):
        return 0.5

    for Cs in (CS, CS[::-1]):
        assert Cs[0] == ours(Cs=Cs, scoring=constant).fit(X, y).C_
        assert Cs[0] == ours(Cs=Cs, scoring=constant, refit=False).fit(X, y).C_


def test_infinite_C(data):
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X[:, :3])
    model = ours(Cs=[1.0, np.inf]).fit(X, y)
    expected = LogisticRegression(C=np.inf, tol=1e-8).fit(X, y)
    alone = ours(Cs=[np.inf]).fit(X, y)
    np.testing.assert_allclose(alone.coef_, expected.coef_, rtol=1e-5)
    np.testing.assert_allclose(model.coefs_paths_[:, 0, 1], alone.coefs_paths_[:, 0, 0], rtol=1e-3)


# Splitters


@pytest.mark.parametrize(
    "cv",
    [
        4,
        KFold(3, shuffle=True, random_state=1),
        ShuffleSplit(3, test_size=0.3, train_size=0.4, random_state=2),
    ],
)
def test_splitters(data, cv):
    X, y = data
    a, b = ours(Cs=CS, cv=cv).fit(X, y), theirs(Cs=CS, cv=cv).fit(X, y)
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-5)


@like_1_9
def test_masks_and_repeated_rows(data):
    X, y = data
    rng = np.random.default_rng(0)
    train = rng.choice(len(y), 2 * len(y))  # a bootstrap: rows count as often as they are drawn
    test = np.setdiff1d(np.arange(len(y)), train)
    mask = np.zeros(len(y), bool)
    mask[::3] = True
    folds = [(train, test), (~mask, mask), (list(range(0, len(y), 2)), [1, 3, 5, 77])]
    a, b = ours(Cs=CS, cv=folds).fit(X, y), theirs(Cs=CS, cv=folds).fit(X, y)
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-5)
    np.testing.assert_allclose(a.coefs_paths_, b.coefs_paths_, atol=1e-3)


def test_groups_are_routed(data):
    X, y = data
    groups = np.random.default_rng(0).integers(0, 6, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        cv = GroupKFold(3).set_split_request(groups=True)
        a = ours(Cs=CS, cv=cv).fit(X, y, groups=groups)
        b = theirs(Cs=CS, cv=cv).fit(X, y, groups=groups)
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-5)
    with pytest.raises(ValueError, match="enable_metadata_routing=True"):
        ours(cv=GroupKFold(3)).fit(X, y, groups=groups)
    with pytest.raises(ValueError, match="enable_metadata_routing=True"):
        a.score(X, y, groups=groups)


def test_empty_training_rows_are_refused(data):
    X, y = data
    rows = np.arange(len(y))
    with pytest.raises(ValueError, match="Fold 1 of cv has no training rows"):
        ours(cv=[(rows, rows[:5]), (rows[:0], rows)]).fit(X, y)
    with pytest.raises(ValueError, match="no training rows of positive weight"):
        ours(cv=[(rows[:20], rows[20:])]).fit(X, y, np.where(rows < 20, 0.0, 1.0))


@like_1_9
@pytest.mark.parametrize("n_classes", [2, 3])
def test_class_missing_in_training_or_test_rows(n_classes):
    X, y = load_iris(return_X_y=True)
    X, y = X[: 50 * n_classes], np.array(["a", "b", "c"])[y[: 50 * n_classes]]
    folds = list(KFold(n_classes).split(X))
    a = ours(Cs=[1e-6, 1.0], cv=folds, scoring="neg_brier_score").fit(X, y)
    b = theirs(Cs=[1e-6, 1.0], cv=folds, scoring="neg_brier_score").fit(X, y)
    # The missing class's intercept falls without end: each stops somewhere.
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-3)
    assert a.coefs_paths_.shape == b.coefs_paths_.shape
    assert a.C_ == b.C_
    accuracy = ours(Cs=[1e-6, 1.0], cv=folds, scoring="accuracy").fit(X, y)
    np.testing.assert_array_equal(accuracy.scores_, 0.0)


# Weights and scorers


def test_weights_are_repetitions(data):
    X, y = data
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 4, len(y))
    group = rng.integers(0, 3, len(y))
    rows = np.repeat(np.arange(len(y)), counts)
    folds = [(np.flatnonzero(group != g), np.flatnonzero(group == g)) for g in range(3)]
    many = [(np.flatnonzero(group[rows] != g), np.flatnonzero(group[rows] == g)) for g in range(3)]
    a = ours(Cs=CS, cv=folds).fit(X, y, sample_weight=counts)
    b = ours(Cs=CS, cv=many).fit(X[rows], y[rows])
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-6)
    np.testing.assert_allclose(a.coef_, b.coef_, atol=1e-4)


@pytest.mark.parametrize("scoring", [None, "accuracy", "neg_log_loss"])
def test_weights_in_scores(data, scoring):
    X, y = data
    weights = np.where(y == 0, 5.0, 0.5)
    a = ours(Cs=CS, scoring=scoring).fit(X, y, weights)
    b = theirs(Cs=CS, scoring=scoring).fit(X, y, weights)
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-5)
    assert a.score(X, y, weights) == pytest.approx(b.score(X, y, sample_weight=weights), abs=1e-5)


@pytest.mark.parametrize("requested", [False, True])
def test_weights_reach_the_scorer_where_it_asks(data, requested):
    X, y = data
    weights = np.where(y == 0, 5.0, 0.5)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = get_scorer("neg_log_loss").set_score_request(sample_weight=requested)
        a = ours(Cs=CS, scoring=scorer).fit(X, y, sample_weight=weights)
        b = theirs(Cs=CS, scoring=scorer).fit(X, y, sample_weight=weights)
        np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-5)
        if requested:
            a.score(X, y, sample_weight=weights)
        else:
            with pytest.raises(TypeError, match="not routed to any object"):
                a.score(X, y, sample_weight=weights)


def test_a_callable_sees_models_and_rows(data):
    X, y = data
    seen = []

    def scorer(estimator, X_test, y_test):
        seen.append((estimator.C, X_test))
        return accuracy_score(y_test, estimator.predict(X_test)) - 1.0 / estimator.C

    a = ours(Cs=CS, cv=3, scoring=scorer).fit(X, y)
    b = ours(Cs=CS, cv=3, scoring="accuracy").fit(X, y)
    np.testing.assert_allclose(a.scores_, b.scores_ - 1.0 / np.array(CS))
    assert [C for C, _ in seen] == 3 * CS
    # The rows of a fold are copied once, not for each C.
    assert len({id(X_test) for _, X_test in seen}) == 3


def test_test_rows_are_not_copied(data, monkeypatch):
    """scikit-learn's scorers ask for predictions only: these are made in blocks of rows."""
    X, y = data
    from fastsoftmax.linear_model import _fold_scores

    whole = ours(Cs=CS, scoring="roc_auc_ovr" if y.max() > 1 else "roc_auc").fit(X, y)
    monkeypatch.setattr(_fold_scores, "_GATHERED", 7 * X.shape[1])
    blocks = clone(whole).fit(X, y)
    assert_same_bits(whole, blocks)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["accuracy", "neg_log_loss"])
def test_common_scores_are_those_of_the_scorer(data, dtype, weighted, name):
    X, y = data
    X, y = X.astype(dtype), np.array(["x", "y", "z"])[y]
    weights = np.random.default_rng(0).integers(0, 3, len(y)) if weighted else None
    scorer, labels = get_scorer(name), np.unique(y)

    def slow(estimator, X, y, sample_weight=None):
        if name == "accuracy":
            return scorer(estimator, X, y, sample_weight=sample_weight)
        p = estimator.predict_proba(X)
        return -log_loss(y, p, labels=labels, sample_weight=sample_weight)

    params = {**PLAIN, "Cs": [*CS, 1e6], "cv": 3}
    a = LogisticRegressionCV(**{**params, "scoring": name}).fit(X, y, weights)
    b = LogisticRegressionCV(**{**params, "scoring": slow}).fit(X, y, weights)
    np.testing.assert_allclose(a.scores_, b.scores_, rtol=1e-12 if dtype == np.float64 else 1e-5)


def test_scorer_with_settings_of_its_own(data):
    X, y = data
    # scikit-learn's own class fails here for two classes: pos_label is set twice.
    scores = ours(Cs=CS, scoring="f1_macro").fit(X, y).scores_
    assert np.all((scores > 0.0) & (scores <= 1.0))


def test_scorer_of_ones_own(data):
    X, y = data
    loss = make_scorer(
        log_loss, greater_is_better=False, response_method="predict_proba", normalize=False
    )
    a, b = ours(Cs=CS, scoring=loss).fit(X, y), theirs(Cs=CS, scoring=loss).fit(X, y)
    np.testing.assert_allclose(a.scores_, b.scores_, rtol=1e-4)


# Storage


def test_float32_is_kept(data):
    X, y = data
    model = LogisticRegressionCV(Cs=CS, **PLAIN).fit(X.astype(np.float32), y)
    assert {model.coef_.dtype, model.intercept_.dtype, model.coefs_paths_.dtype} == {
        np.dtype(np.float32)
    }
    expected = LogisticRegressionCV(Cs=CS, **PLAIN).fit(X, y)
    np.testing.assert_allclose(model.scores_, expected.scores_, atol=1e-3)
    assert model.C_ == expected.C_


@pytest.mark.parametrize("scoring", ["neg_log_loss", lambda e, X, y: e.score(X, y)])
def test_sparse_is_dense(data, scoring):
    X, y = data
    X = np.where(X < 0, 0.0, X)
    a, b = ours(Cs=CS, scoring=scoring), ours(Cs=CS, scoring=scoring)
    a.fit(X, y)
    b.fit(sparse.csr_matrix(X), y)
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-6)
    np.testing.assert_allclose(a.coef_, b.coef_, atol=2e-4)


@pytest.mark.parametrize("n_features", [23, 400])
def test_same_bits_for_any_n_jobs(n_features):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 4003)
    X = rng.normal(size=(len(y), n_features)) + 0.1 * rng.normal(size=(3, n_features))[y]
    params = {**PLAIN, "Cs": [0.01, 1.0], "cv": 2}
    one = LogisticRegressionCV(n_jobs=1, **params).fit(X, y)
    for n_jobs in (None, 2):
        assert_same_bits(one, LogisticRegressionCV(n_jobs=n_jobs, **params).fit(X, y))


# Conduct


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickle_and_clone(data, fitted, protocol):
    X, y = data
    copy = pickle.loads(pickle.dumps(fitted, protocol))
    assert_same_bits(copy, fitted)
    np.testing.assert_array_equal(copy.predict_proba(X), fitted.predict_proba(X))
    assert_same_bits(clone(fitted).fit(X, y), fitted)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"Cs": [1.0, -1.0]}, r"Cs must be .* in \(0, inf\]"),
        ({"Cs": []}, "Cs must be"),
        ({"Cs": ["a"]}, "Cs must be"),
        ({"Cs": [[1.0]]}, "Cs must be"),
        ({"Cs": 0}, "Cs"),
        ({"l1_ratios": []}, "l1_ratios must be"),
        ({"l1_ratios": [2.0]}, "l1_ratios must be"),
        ({"l1_ratios": ["a"]}, "l1_ratios must be"),
        ({"scoring": "nonsense"}, "scoring"),
        ({"cv": 1}, "cv"),
        ({"class_weight": {7: 1.0}}, "class_weight"),
        ({"refit": "yes"}, "refit"),
    ],
)
def test_bad_parameters(data, fitted, params, message):
    X, y = data
    before = _attributes(fitted)
    model = pickle.loads(pickle.dumps(fitted)).set_params(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    assert _attributes(model).keys() == before.keys()


@pytest.mark.parametrize("failure", ["scorer", "NaN", "interrupt"])
def test_a_failed_fit_changes_nothing(data, fitted, failure):
    X, y = data
    model = pickle.loads(pickle.dumps(fitted))

    def fails(estimator, X, y):
        raise KeyboardInterrupt if failure == "interrupt" else RuntimeError

    bad = X.copy()
    if failure == "NaN":
        bad[3, 1] = np.nan
    else:
        model.scoring = fails
    with pytest.raises(
        {"scorer": RuntimeError, "NaN": ValueError, "interrupt": KeyboardInterrupt}[failure]
    ):
        model.fit(bad[:, :3], y)
    assert model.n_features_in_ == X.shape[1]
    assert_same_bits(model, fitted)


def test_one_warning_counts_the_fits_that_did_not_converge(data):
    X, y = data
    with pytest.warns(
        ConvergenceWarning, match=r"12 of 12 fits did not converge.*C=0.01, all rows"
    ):
        model = ours(Cs=[0.01, 1.0, 100.0], cv=3, max_iter=1).fit(X, y)
    assert not model.converged_


def test_attributes_of_the_refit(data, fitted):
    X, y = data
    alone = LogisticRegression(C=fitted.C_, **TIGHT).fit(X, y)
    assert fitted.converged_
    assert fitted.objective_ == pytest.approx(alone.objective_, rel=1e-8)
    assert fitted.gradient_norm_ <= 1e-8
    np.testing.assert_allclose(fitted.predict_proba(X), alone.predict_proba(X), atol=1e-4)
    assert fitted.n_passes_ > fitted.n_iter_.sum()


def test_nothing_of_an_earlier_refit_stays(data, fitted):
    X, y = data
    again = pickle.loads(pickle.dumps(fitted)).set_params(refit=False).fit(X, y)
    assert _attributes(again).keys() == _attributes(clone(again).fit(X, y)).keys()
    assert not hasattr(again, "objective_")


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky", "newton-cg"])
def test_all_solvers_agree(data, fitted, solver):
    X, y = data
    other = ours(Cs=CS, solver=solver).fit(X, y)
    np.testing.assert_allclose(other.scores_, fitted.scores_, atol=1e-5)
    assert other.solver_.startswith(solver)


def test_wide_data_are_rotated_at_each_strength():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    X = rng.normal(size=(200, 1500)) + rng.normal(size=(3, 1500))[y] * 0.1
    Cs = [1e-4, 1e-2]
    a = ours(Cs=Cs, cv=2).fit(X, y)
    b = theirs(Cs=Cs, cv=2, solver="lbfgs", tol=1e-6, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(a.scores_, b.scores_, atol=1e-5)
    assert "rotated" in a.solver_


def test_verbose_prints_a_line_per_fit(data, capsys):
    ours(Cs=[1.0, 0.1], cv=2).fit(*data)
    assert capsys.readouterr().out == ""
    ours(Cs=[1.0, 0.1], cv=2, verbose=1).fit(*data)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("fastsoftmax: C=0.1,") for line in lines[:3])
    assert "all rows" in lines[0]
    assert "fold 1" in lines[2]


# What scikit-learn has announced


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"l1_ratios": "warn"}, "The default value for l1_ratios will change"),
        ({"l1_ratios": None}, "'l1_ratios=None' was deprecated"),
        ({"scoring": "warn"}, "The default value of the parameter 'scoring' will change"),
        (
            {"use_legacy_attributes": "warn"},
            "The default value of use_legacy_attributes will change from True",
        ),
        ({"penalty": "l2", "l1_ratios": None}, "'penalty' was deprecated"),
    ],
)
def test_announcements(data, params, message):
    X, y = data
    with pytest.warns(FutureWarning, match=message) as caught:
        LogisticRegressionCV(**{**PLAIN, "Cs": 1, "cv": 2, **params}).fit(X, y)
    assert [str(w.filename) for w in caught] == [__file__]


@like_1_9
def test_defaults_are_those_of_scikit_learn_1_9(data):
    X, y = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        a = LogisticRegressionCV(Cs=2).fit(X, y)
        b = LogisticRegressionCV(
            Cs=2, cv=5, l1_ratios=None, scoring="accuracy", use_legacy_attributes=True
        ).fit(X, y)
    assert_same_bits(a, b)
    ours_, theirs_ = LogisticRegressionCV().get_params(), theirs().get_params()
    assert ours_.keys() == theirs_.keys()
    defaults = linear_model.LogisticRegressionCV().get_params()
    different = {name for name in ours_ if ours_[name] != defaults[name]}
    assert different == {"solver", "max_iter"}


@pytest.mark.filterwarnings("ignore:'penalty' was deprecated:FutureWarning")
def test_old_penalty(data):
    X, y = data
    model = ours(Cs=CS, penalty="l2", l1_ratios=None).fit(X, y)
    np.testing.assert_array_equal(model.coef_, ours(Cs=CS).fit(X, y).coef_)
    with pytest.raises(ValueError, match="l1_ratios must be"):
        ours(penalty="elasticnet", l1_ratios=None).fit(X, y)
    with pytest.warns(UserWarning, match="l1_ratios parameter is only used"):
        ours(Cs=CS, penalty="l2", l1_ratios=[0.5]).fit(X, y)


# A check with 2 samples of a class.
@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
@parametrize_with_checks(
    [
        LogisticRegressionCV(cv=3, **PLAIN),
        LogisticRegressionCV(
            Cs=3,
            cv=3,
            refit=False,
            class_weight="balanced",
            n_jobs=1,
            **{**LEGACY, "scoring": None},
        ),
    ]
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


# With an L1 norm in the penalty, and after the fit


def test_grid_of_l1_ratios(data):
    X, y = data
    folds = list(StratifiedKFold(3).split(X, y))
    ratios = (0.0, 0.5, 1.0)
    model = ours(Cs=CS, cv=folds, l1_ratios=ratios).fit(X, y)
    for i, (train, test) in enumerate(folds):
        for r, ratio in enumerate(ratios):
            for j, C in enumerate(CS):
                alone = LogisticRegression(C=C, l1_ratio=ratio, **TIGHT).fit(X[train], y[train])
                found = model.coefs_paths_[i, r, j]
                np.testing.assert_allclose(
                    found[:, :-1], alone.coef_, atol=1e-4 * max(1.0, np.abs(alone.coef_).max())
                )
                if ratio == 1.0:
                    np.testing.assert_array_equal(found[:, :-1] == 0, alone.coef_ == 0)
                p = alone.predict_proba(X[test])[np.arange(len(test)), y[test]]
                assert model.scores_[i, r, j] == pytest.approx(np.log(p).mean(), abs=1e-4)
    r, j = np.divmod(int(model.scores_.sum(axis=0).argmax()), len(CS))
    best = model.scores_.sum(axis=0)
    assert best[ratios.index(model.l1_ratio_), CS.index(model.C_)] == best[r, j]


@pytest.mark.parametrize("legacy", [False, True])
def test_ways_out_and_standard_errors_at_the_choice(data, legacy):
    X, y = data
    model = ours(Cs=CS, use_legacy_attributes=legacy).fit(X, y)
    C = float(np.ravel(model.C_)[0])
    other = model.to_sklearn()
    assert type(other) is linear_model.LogisticRegression
    assert other.C == C
    np.testing.assert_allclose(other.predict_proba(X), model.predict_proba(X), rtol=1e-9)
    alone = LogisticRegression(C=C, **TIGHT).fit(X, y)
    np.testing.assert_allclose(
        model.standard_errors(X, y).coef, alone.standard_errors(X, y).coef, rtol=1e-3
    )


def test_names_of_solvers_refuse_what_they_refuse_there(data):
    X, y = data
    with pytest.raises(ValueError, match="Solver lbfgs supports only 'l2'"):
        ours(Cs=CS, l1_ratios=(0.0, 1.0), solver="lbfgs").fit(X, y)
    with pytest.raises(ValueError, match="supports only dual=False"):
        ours(Cs=CS, solver="newton-cg", dual=True).fit(X, y)
    if len(np.unique(y)) > 2:
        with pytest.raises(ValueError, match="'liblinear' solver does not support multiclass"):
            ours(Cs=CS, solver="liblinear").fit(X, y)


@pytest.mark.filterwarnings("ignore:'penalty' was deprecated:FutureWarning")
def test_standard_errors_are_refused_without_a_fit_that_has_them(data):
    X, y = data
    with pytest.raises(ValueError, match="refit=True"):
        ours(Cs=CS, refit=False).fit(X, y).standard_errors(X, y)
    model = ours(Cs=[50.0], penalty="l1", l1_ratios=None, use_legacy_attributes=True).fit(X, y)
    with pytest.raises(ValueError, match="l1_ratio"):
        model.standard_errors(X, y)
    assert model.to_sklearn().l1_ratio == 1.0


def test_a_pair_whose_score_is_missing_is_not_chosen(data):
    X, y = data
    calls = []

    def scorer(model, X, y):
        calls.append(model.C)
        return np.nan if CS[1] == model.C else -model.C

    with pytest.warns(UserWarning, match="NaN for 1 of 3 pairs"):
        model = ours(Cs=CS, scoring=scorer).fit(X, y)
    assert CS[0] == model.C_
    with pytest.raises(ValueError, match="NaN for all pairs"):
        ours(Cs=CS, scoring=lambda *_: np.nan).fit(X, y)
    with pytest.raises(ValueError, match="yields no folds"):
        ours(Cs=CS, cv=[]).fit(X, y)
