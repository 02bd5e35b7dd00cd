"""Pipelines of text and of categories, against scikit-learn's converged model at their end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from fastsoftmax import LogisticRegression, LogisticRegressionCV

#: Of probabilities: both fits end within 1e-8 of the optimum, where logits are below 10.
PROBABILITY = 1e-5
#: Relative, of scikit-learn's objective at both.
OBJECTIVE = 1e-10

N_TEXTS = 150


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread():
    """On a busy machine scikit-learn's own fits are 10 times slower with two."""
    with threadpool_limits(1, user_api="blas"):
        yield


def ours(**params):
    return LogisticRegression(**({"tol": 1e-10, "max_iter": 10_000} | params))


def theirs(**params):
    return SklearnLogisticRegression(**({"tol": 1e-9, "max_iter": 10_000} | params))


def make_texts(n_classes, seed=0):
    """Return texts of words of which some are more frequent in some classes; one is empty."""
    rng = np.random.default_rng(seed)
    words = np.array([f"{a}{b}{c}" for a in "bdfk" for b in "aeio" for c in "lmnr"])
    labels = rng.integers(0, n_classes, N_TEXTS)
    shares = rng.dirichlet(np.full(len(words), 0.3), n_classes) + 1 / len(words)
    shares /= shares.sum(axis=1, keepdims=True)
    texts = [
        " ".join(rng.choice(words, size, p=shares[k]))
        for k, size in zip(labels, rng.integers(1, 25, N_TEXTS), strict=True)
    ]
    texts[3] = ""
    return texts, np.array(["linux", "games", "science"])[labels]


def make_frame(seed=0):
    """Return a frame of categories and numbers, and labels."""
    rng = np.random.default_rng(seed)
    colours, towns = rng.integers(0, 4, N_TEXTS), rng.integers(0, 9, N_TEXTS)
    size = rng.normal(size=N_TEXTS)
    logits = np.column_stack([size, colours - 1.5, towns % 3 - 1.0])
    frame = pd.DataFrame(
        {
            "colour": np.array(["red", "green", "blue", "white"], object)[colours],
            "town": np.array([f"town {i}" for i in range(9)], object)[towns],
            "size": size,
            "height": rng.exponential(size=N_TEXTS),
        }
    )
    return frame, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def objective(pipeline, texts, y):
    """Return scikit-learn's objective at the last step, over what the others hand on."""
    model = pipeline[-1]
    P = model.predict_proba(pipeline[:-1].transform(texts))
    own = P[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    return model.C * -np.log(own).sum() + 0.5 * np.sum(np.square(model.coef_, dtype=float))


def assert_same_model(found, expected, X, y, others):
    assert sparse.issparse(found[:-1].transform(X))
    for Z in (X, others):
        np.testing.assert_allclose(
            found.predict_proba(Z), expected.predict_proba(Z), atol=PROBABILITY
        )
        assert np.mean(found.predict(Z) == expected.predict(Z)) > 0.97
    assert found.score(X, y) == pytest.approx(expected.score(X, y), abs=0.01)
    assert objective(found, X, y) < objective(expected, X, y) * (1 + OBJECTIVE)


TEXT_STEPS = {
    "hashing": lambda: [HashingVectorizer(n_features=2**9)],
    "hashing, wide": lambda: [HashingVectorizer(n_features=2**15)],
    "hashing, no signs": lambda: [HashingVectorizer(n_features=2**9, alternate_sign=False)],
    "tf-idf": lambda: [TfidfVectorizer()],
    "tf-idf, float32": lambda: [TfidfVectorizer(sublinear_tf=True, dtype=np.float32)],
    "tf-idf, pairs": lambda: [TfidfVectorizer(ngram_range=(1, 2), min_df=2)],
    "counts": lambda: [CountVectorizer()],
    "presence": lambda: [CountVectorizer(binary=True, dtype=bool)],
    "small counts": lambda: [CountVectorizer(dtype=np.uint8)],
    "scaled": lambda: [CountVectorizer(), MaxAbsScaler()],
    "scaled without mean": lambda: [CountVectorizer(), StandardScaler(with_mean=False)],
    "selected": lambda: [CountVectorizer(), SelectKBest(chi2, k=20)],
    "union": lambda: [
        FeatureUnion(
            [
                ("words", TfidfVectorizer()),
                ("letters", HashingVectorizer(analyzer="char", n_features=2**8)),
            ]
        )
    ],
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("steps", TEXT_STEPS.values(), ids=TEXT_STEPS.keys())
def test_text(steps, n_classes):
    texts, y = make_texts(n_classes)
    others, _ = make_texts(n_classes, seed=1)
    is_single = "float32" in str(steps()[0])
    found = make_pipeline(*steps(), ours(tol=1e-7 if is_single else 1e-10)).fit(texts, y)
    expected = make_pipeline(*steps(), theirs(tol=1e-6 if is_single else 1e-9)).fit(texts, y)
    if is_single:
        assert found[-1].coef_.dtype == np.float32
        np.testing.assert_allclose(
            found.predict_proba(others), expected.predict_proba(others), atol=1e-3
        )
        return
    assert_same_model(found, expected, texts, y, others)
    one_by_one = np.vstack([found.predict_proba([text]) for text in others[:20]])
    np.testing.assert_allclose(one_by_one, found.predict_proba(others[:20]), atol=1e-14)


def encoded(**params):
    return OneHotEncoder(handle_unknown="ignore", **params)


ONE_HOT = {
    "one-hot": (["colour", "town"], lambda: encoded()),
    "one-hot, float32 and rare": (
        ["colour", "town"],
        lambda: encoded(dtype=np.float32, min_frequency=18),
    ),
    "one-hot, dropped": (["colour", "town"], lambda: OneHotEncoder(drop="first")),
    "one-hot, integers": (["colour", "town"], lambda: encoded(dtype=np.int8)),
    "column transformer": (
        ["colour", "town", "size", "height"],
        lambda: ColumnTransformer(
            [
                ("categories", encoded(), ["colour", "town"]),
                ("numbers", StandardScaler(), ["size", "height"]),
            ],
            sparse_threshold=1.0,
        ),
    ),
    "column transformer with counts": (
        ["colour", "town", "size"],
        lambda: ColumnTransformer(
            [
                ("words", CountVectorizer(analyzer="char"), "town"),
                ("categories", encoded(), ["colour"]),
            ],
            remainder="passthrough",
            sparse_threshold=1.0,
        ),
    ),
}


@pytest.mark.parametrize("name", ONE_HOT)
def test_one_hot(name):
    columns, make = ONE_HOT[name]
    frame, y = make_frame()
    others, _ = make_frame(seed=1)
    found = make_pipeline(make(), ours()).fit(frame[columns], y)
    # float64, where scikit-learn reaches the optimum
    expected = make_pipeline(make(), theirs())
    if "float32" in name:
        expected.set_params(onehotencoder__dtype=np.float64)
        assert found[-1].coef_.dtype == np.float32
        expected.fit(frame[columns], y)
        np.testing.assert_allclose(
            found.predict_proba(others[columns]),
            expected.predict_proba(others[columns]),
            atol=1e-4,
        )
        return
    expected.fit(frame[columns], y)
    assert_same_model(found, expected, frame[columns], y, others[columns])


@pytest.mark.filterwarnings("ignore:Allowing arbitrary scalar fill_value:FutureWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, bool])
def test_sparse_frames(dtype):
    frame, y = make_frame()
    encoder = OneHotEncoder(dtype=dtype).fit(frame[["colour", "town"]])
    X = encoder.transform(frame[["colour", "town"]])
    sparse_frame = pd.DataFrame.sparse.from_spmatrix(X, columns=encoder.get_feature_names_out())
    before = sparse_frame.copy()
    found, expected = ours(tol=1e-6).fit(sparse_frame, y), ours(tol=1e-6).fit(X.toarray(), y)
    assert found.coef_.dtype == (np.float32 if dtype == np.float32 else np.float64)
    np.testing.assert_array_equal(found.feature_names_in_, encoder.get_feature_names_out())
    atol = 1e-4 if dtype == np.float32 else 1e-5
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=atol)
    for Z in (sparse_frame, sparse_frame[:1], sparse_frame[50:]):
        np.testing.assert_allclose(
            found.predict_proba(Z), expected.predict_proba(Z.to_numpy()), atol=atol
        )
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        found.predict(sparse.csr_array(X))
    with pytest.raises(ValueError, match="feature names should match"):
        found.predict(sparse_frame[sparse_frame.columns[::-1]])
    pd.testing.assert_frame_equal(sparse_frame, before)


def test_sparse_frames_of_several_dtypes():
    """Also such as scikit-learn refuses: with booleans among numbers, and filled with others."""
    frame, y = make_frame()
    columns = {
        "flags": pd.arrays.SparseArray(frame["colour"] == "red"),
        "counts": pd.arrays.SparseArray(frame["town"].str[-1].astype("int8")),
        "singles": pd.arrays.SparseArray(frame["height"].clip(1).astype("float32"), fill_value=1),
        "is_large": pd.arrays.SparseArray(frame["height"] > 0.5, fill_value=True),
        "blocks": pd.arrays.SparseArray(frame["height"].clip(0.7), fill_value=0.7, kind="block"),
        "zeros": pd.arrays.SparseArray(0.0 * frame["height"], fill_value=0.0, kind="block"),
        "doubles": pd.arrays.SparseArray(frame["size"].clip(0), fill_value=0),
    }
    mixed = pd.DataFrame(columns, columns=list(columns))
    dense = pd.DataFrame({name: np.asarray(column, float) for name, column in mixed.items()})
    assert dense.to_numpy().any(axis=0).sum() == dense.shape[1] - 1
    for names in (list(columns), ["flags"], ["flags", "counts"], ["singles"], ["singles", "flags"]):
        found, expected = (ours(tol=1e-6).fit(X[names], y) for X in (mixed, dense))
        assert found.coef_.dtype == (np.float32 if names[0] == "singles" else np.float64)
        np.testing.assert_array_equal(found.feature_names_in_, names)
        np.testing.assert_allclose(
            found.predict_proba(mixed[names]), expected.predict_proba(dense[names]), atol=1e-4
        )
    with_nan = pd.DataFrame({"a": pd.arrays.SparseArray([1.0, np.nan, 0.0, 2.0])})
    with pytest.raises(ValueError, match="Input X contains NaN"):
        ours().fit(with_nan, [0, 1, 0, 1])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        found.predict(with_nan.set_axis(names[:1], axis=1).assign(flags=with_nan["a"]))


def test_dummies_of_pandas():
    frame, y = make_frame()
    dummies = pd.get_dummies(frame[["colour", "town"]], sparse=True)
    found, expected = ours().fit(dummies, y), ours().fit(dummies.to_numpy(), y)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-6)
    np.testing.assert_array_equal(found.predict(dummies), expected.predict(dummies.to_numpy()))


def test_grid_search():
    texts, y = make_texts(3)
    grid = {
        "tfidfvectorizer__min_df": [1, 3],
        "tfidfvectorizer__dtype": [np.float64],
        "logisticregression__C": [0.1, 10.0],
    }
    found, expected = (
        GridSearchCV(
            make_pipeline(TfidfVectorizer(), model()), grid, cv=3, scoring="neg_log_loss"
        ).fit(texts, y)
        for model in (ours, theirs)
    )
    assert found.best_params_ == expected.best_params_
    np.testing.assert_allclose(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], atol=1e-5
    )


@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba", "decision_function"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_cross_val_predict(method, n_classes):
    texts, y = make_texts(n_classes)
    found, expected = (
        cross_val_predict(make_pipeline(CountVectorizer(), model()), texts, y, cv=3, method=method)
        for model in (ours, theirs)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_cross_validation_inside_is_that_outside():
    """Folds as weights over one CSR matrix, against fits of rows of it."""
    texts, y = make_texts(3)
    X = HashingVectorizer(n_features=2**9).fit_transform(texts)
    options = {"l1_ratios": (0.0,), "use_legacy_attributes": False, "scoring": "neg_log_loss"}
    inside = LogisticRegressionCV(Cs=[0.1, 10.0], cv=3, tol=1e-8, **options).fit(X, y)
    outside = [cross_val_score(ours(C=C), X, y, cv=3, scoring="neg_log_loss") for C in inside.Cs_]
    np.testing.assert_allclose(inside.scores_.reshape(3, 2), np.transpose(outside), rtol=1e-5)


def test_batches_of_a_stream_are_those_of_all():
    """predict_proba of sparse batches, whatever their size."""
    texts, y = make_texts(3)
    vectorizer = HashingVectorizer(n_features=2**12)
    X = vectorizer.transform(texts)
    model = LogisticRegression().fit(X, y)
    whole = model.predict_proba(X)
    for size in (1, 7, 64, 149):
        batches = [
            model.predict_proba(vectorizer.transform(texts[i : i + size]))
            for i in range(0, N_TEXTS, size)
        ]
        np.testing.assert_allclose(np.vstack(batches), whole, rtol=1e-12)
