"""Pickles of estimators and objectives: of this version, of others, and of what is no model."""

from __future__ import annotations

import copy
import pickle
import warnings

import joblib
import numpy as np
import pytest
from reference import softmax
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastsoftmax
from fastsoftmax import LogisticRegression, LogisticRegressionCV, SoftmaxObjective, _persistence
from fastsoftmax._persistence import OtherVersionWarning

rng = np.random.default_rng(0)
y = np.arange(120) % 3
X = rng.normal(size=(120, 4)) + np.eye(3, 4)[y]


@pytest.fixture(scope="module")
def fitted():
    return LogisticRegression(C=0.5).fit(X, y)


@pytest.fixture(scope="module")
def fitted_cv():
    grid = {"Cs": [0.1, 1.0], "l1_ratios": (0.0,), "use_legacy_attributes": False}
    return LogisticRegressionCV(**grid, scoring="neg_log_loss", cv=3).fit(X, y)


@pytest.fixture(params=["fitted", "fitted_cv"])
def model(request):
    return request.getfixturevalue(request.param)


def assert_same_model(actual, desired):
    assert vars(actual).keys() == vars(desired).keys()
    assert str(actual.get_params()) == str(desired.get_params())
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(actual, method)(X), getattr(desired, method)(X))


@pytest.fixture
def stored_by(monkeypatch):
    """Return a function that pickles an object as another version would."""

    def store(version, thing, dumps=pickle.dumps):
        with monkeypatch.context() as patch:
            patch.setattr(_persistence, "__version__", version)
            return dumps(thing)

    return store


def skops_round_trip(model):
    io = pytest.importorskip("skops.io")
    payload = io.dumps(model)
    return io.loads(payload, trusted=io.get_untrusted_types(data=payload))


# --- This version ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "round_trip",
    [
        *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in (0, 2, 5)),
        copy.copy,
        copy.deepcopy,
        skops_round_trip,
    ],
    ids=["protocol 0", "protocol 2", "protocol 5", "copy", "deepcopy", "skops"],
)
def test_a_round_trip_keeps_everything_and_adds_nothing(round_trip, model):
    before = dict(vars(model))
    assert_same_model(round_trip(model), model)
    assert vars(model) == before


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_joblib_files(mmap_mode, model, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode=mmap_mode)
    assert isinstance(loaded.coef_, np.memmap) == (mmap_mode is not None)
    assert_same_model(loaded, model)


def test_a_pickle_says_its_version(model):
    state = model.__getstate__()
    assert state == vars(model) | {"_fastsoftmax_version": fastsoftmax.__version__}
    assert not hasattr(clone(model), "_fastsoftmax_version")
    before = dict(state)
    assert_same_model(from_state(state, type(model)), model)
    assert state == before


def test_an_estimator_without_a_fit(stored_by):
    payload = stored_by("0.0.1", LogisticRegression(C=3.0))
    with pytest.warns(OtherVersionWarning):
        loaded = pickle.loads(payload)
    with pytest.raises(NotFittedError):
        loaded.predict(X)
    assert loaded.fit(X, y).C == 3.0


def test_attributes_of_the_user_s_are_kept(stored_by, fitted):
    noted = copy.copy(fitted)
    noted.note = "of Tuesday"
    assert pickle.loads(pickle.dumps(noted)).note == "of Tuesday"
    with pytest.warns(OtherVersionWarning):
        assert pickle.loads(stored_by("0.0.1", noted)).note == "of Tuesday"


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        (b"cfastsoftmax.linear_model._logistic\nLogisticRegression\n.", LogisticRegression),
        (b"cfastsoftmax.linear_model._logistic_cv\nLogisticRegressionCV\n.", LogisticRegressionCV),
        (b"cfastsoftmax.objective\nSoftmaxObjective\n.", SoftmaxObjective),
    ],
    ids=["LogisticRegression", "LogisticRegressionCV", "SoftmaxObjective"],
)
def test_classes_are_found_where_pickles_look(stored, kind):
    """Who moves one leaves its name behind."""
    assert pickle.loads(stored) is kind


# --- Other versions -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.0.1", "0.99.0", "0.1.0.dev0+local", "0.1.0rc1", "?"])
def test_another_version_is_loaded_with_a_warning(version, stored_by, model):
    payload = stored_by(version, model)
    with pytest.warns(InconsistentVersionWarning) as caught:
        loaded = pickle.loads(payload)
    assert_same_model(loaded, model)
    (warning,) = (record.message for record in caught)
    assert type(warning) is OtherVersionWarning
    assert caught[0].filename == __file__
    for word in (type(model).__name__, f"fastsoftmax {version}", fastsoftmax.__version__):
        assert word in str(warning)
    assert warning.original_sklearn_version == version


def test_a_filter_for_scikit_learn_s_warning_silences_ours(stored_by, fitted):
    payload = stored_by("0.0.1", make_pipeline(StandardScaler(), fitted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        assert_same_model(pickle.loads(payload)[-1], fitted)


#: A model as a version might have stored it that knew neither versions nor half the parameters.
OLD_STATE = {
    "C": 2.0,
    "tol": 1e-6,
    "fit_intercept": True,
    "class_weight": None,
    "solver": "lbfgs",
    "max_iter": 100,
    "warm_start": False,
    "classes_": np.array(["ant", "bee", "cat"]),
    "coef_": np.array([[0.5, 0.0, 1.0, -2.0], [0.0, 1.5, 0.0, 1.0], [-0.5, -1.5, -1.0, 1.0]]),
    "intercept_": np.array([0.25, 0.0, -0.25]),
    "n_iter_": np.array([7], dtype=np.int32),
    "n_features_in_": 4,
}


def from_state(state, kind=LogisticRegression):
    model = kind.__new__(kind)
    model.__setstate__(state)
    return model


def test_an_old_state():
    before = dict(OLD_STATE)
    with pytest.warns(OtherVersionWarning, match="stored by fastsoftmax before 0.1.0, and this is"):
        model = from_state(OLD_STATE)
    assert before == OLD_STATE
    logits = X @ OLD_STATE["coef_"].T + OLD_STATE["intercept_"]
    np.testing.assert_allclose(model.predict_proba(X), softmax(logits), rtol=1e-13)
    np.testing.assert_array_equal(model.predict(X), OLD_STATE["classes_"][logits.argmax(axis=1)])
    given = {name: value for name, value in OLD_STATE.items() if not name.endswith("_")}
    assert model.get_params() == LogisticRegression(**given).get_params()
    # ... and it is as good as new.
    assert_same_model(pickle.loads(pickle.dumps(model)), model)
    labels = OLD_STATE["classes_"][y]
    refitted = model.fit(X, labels)
    assert_same_model(refitted, LogisticRegression(**given).fit(X, labels))


@pytest.mark.parametrize("missing", ["classes_", "coef_", "intercept_", "n_features_in_"])
def test_an_old_state_that_lacks_something(missing):
    state = {name: value for name, value in OLD_STATE.items() if name != missing}
    words = f"LogisticRegression .* lacks {missing}, .* Fit it again, .*to_sklearn"
    with pytest.raises(ValueError, match=words):
        from_state(state)


def test_an_old_state_of_a_choice_that_lacks_something(fitted_cv):
    state = {name: value for name, value in vars(fitted_cv).items() if name not in ("C_", "coef_")}
    with pytest.raises(ValueError, match="lacks coef_, C_, "):
        from_state(state, LogisticRegressionCV)


def test_a_later_major_version_is_refused(stored_by, model):
    payload = stored_by("1.0.0", model)
    with pytest.raises(ValueError, match=r"stored by fastsoftmax 1\.0\.0, .* Upgrade fastsoftmax"):
        pickle.loads(payload)


def test_an_earlier_major_version_is_loaded(monkeypatch, fitted):
    payload = pickle.dumps(fitted)
    monkeypatch.setattr(_persistence, "__version__", "1.0.0")
    with pytest.warns(OtherVersionWarning, match=r"and this is 1\.0\.0"):
        assert_same_model(pickle.loads(payload), fitted)


def test_a_failed_load_leaves_the_estimator_as_it_was(fitted):
    model = copy.copy(fitted)
    with pytest.raises(ValueError, match="Upgrade"):
        model.__setstate__(vars(fitted) | {"_fastsoftmax_version": "2.0", "coef_": None})
    assert_same_model(model, fitted)


# --- Objectives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_sparse", [False, True])
def test_an_objective_is_kept_by_its_own_version_only(is_sparse, stored_by):
    from scipy import sparse

    data = sparse.csr_array(X) if is_sparse else X
    objective = SoftmaxObjective(data, y, l2=0.1)
    params = rng.normal(size=objective.shape)
    loaded = pickle.loads(pickle.dumps(objective))
    value, gradient = objective.value_and_gradient(params)
    again, same = loaded.value_and_gradient(params)
    assert again == value
    np.testing.assert_array_equal(same, gradient)
    with pytest.raises(ValueError, match=r"SoftmaxObjective was stored .* 0\.0\.1 .* make it anew"):
        pickle.loads(stored_by("0.0.1", objective))
