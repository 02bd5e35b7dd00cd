"""Fit and predict with an installed fastsoftmax, away from its sources."""

import importlib.metadata
import pathlib

import numpy as np
from sklearn.datasets import load_iris

import fastsoftmax

sources = pathlib.Path(__file__).resolve().parents[1]
assert sources not in pathlib.Path(fastsoftmax.__file__).resolve().parents, fastsoftmax.__file__
assert fastsoftmax.__version__ == importlib.metadata.version("fastsoftmax")
assert (pathlib.Path(fastsoftmax.__file__).parent / "py.typed").is_file()
X, y = load_iris(return_X_y=True)
classifier = fastsoftmax.LogisticRegression().fit(X, y)
probabilities = classifier.predict_proba(X)
assert np.allclose(probabilities.sum(axis=1), 1.0)
assert classifier.score(X, y) > 0.96
fastsoftmax.show_versions()
