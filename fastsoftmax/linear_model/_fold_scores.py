"""Scores of many models at the test rows of a fold."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, get_scorer, log_loss, make_scorer
from sklearn.utils.validation import _check_method_params

from fastsoftmax._designs import Response
from fastsoftmax.linear_model._logistic import LogisticRegression

#: Entries of rows that are gathered at a time: 4 MB of float64.
_GATHERED = 2**19


class _OnRows(LogisticRegression):
    """A fitted model that takes the numbers of rows of a given X in place of rows.

    A scorer of scikit-learn's hands its X to the model and does nothing else with it. So no
    fold is copied as a whole.
    """

    def on(self, X: Any) -> _OnRows:
        """Take the X whose rows are meant."""
        self._X = X
        return self

    def _respond(self, X: Any, response: Response, offset: Any = None) -> NDArray[Any]:
        # `size` counts the entries that are stored; logits are made besides.
        n = self._X.shape[0]
        step = max(1, _GATHERED * n // max(1, self._X.size + n * len(self.coef_)))
        blocks = (X[first : first + step] for first in range(0, max(1, len(X)), step))
        return np.concatenate([self._evaluate(_rows(self._X, some), response) for some in blocks])


def _rows(X: Any, numbers: NDArray[np.intp]) -> Any:
    """Return rows of X, in place where they are consecutive."""
    n = len(numbers)
    if n and numbers[-1] - numbers[0] == n - 1 and np.all(np.diff(numbers) == 1):
        return X[numbers[0] : numbers[0] + n]
    return X[numbers]


def _accuracy(
    model: _OnRows, test: NDArray[np.intp], labels: NDArray[np.intp], weights: Any
) -> float:
    return float(np.average(model._respond(test, Response.LABELS) == labels, weights=weights))


def _negative_log_loss(
    model: _OnRows, test: NDArray[np.intp], labels: NDArray[np.intp], weights: Any
) -> float:
    own = model.predict_proba(test)[np.arange(len(test)), labels]
    eps = np.finfo(own.dtype).eps
    return float(np.average(np.log(np.clip(own, eps, 1.0 - eps)), weights=weights))


#: The two scores most often asked for, without checks of what was made here: these take three
#: quarters of a fit of iris.
_OURS = {accuracy_score: (_accuracy, 1), log_loss: (_negative_log_loss, -1)}


class FoldScorer:
    """What a scorer says of models at the test rows of folds.

    Parameters
    ----------
    scoring : str, callable or None
        None is accuracy.
    classes : ndarray of shape (n_classes,)
        Also those that a fold does not show.
    params : dict
        What the scorer takes besides; arrays with an entry per row of X are cut to the fold's.
    n_jobs : int or None
        Threads for predictions.
    """

    def __init__(
        self,
        scoring: Any,
        classes: NDArray[Any],
        params: dict[str, Any],
        n_jobs: int | None,
    ) -> None:
        scorer = get_scorer("accuracy" if scoring is None else scoring)
        #: Whether the scorer leaves X to the model.
        self._leaves_X = hasattr(scorer, "_score_func")
        self._scorer = _told_classes(scorer, classes) if self._leaves_X else scorer
        ours, sign = _OURS.get(getattr(scorer, "_score_func", None), (None, 0))
        is_plain = ours is not None and scorer._sign == sign and not scorer._kwargs
        self._ours = ours if is_plain and params.keys() <= {"sample_weight"} else None
        self._classes, self._params, self._n_jobs = classes, params, n_jobs

    def scores(
        self,
        X: Any,
        y: NDArray[Any],
        test: NDArray[np.intp],
        models: Iterable[tuple[float, NDArray[Any], NDArray[Any]]],
    ) -> list[float]:
        """Return the scores of models ``(C, coef, intercept)`` at the rows `test` of X and y."""
        params = _check_method_params(X=X, params=self._params, indices=test)
        X_test, y_test = test if self._leaves_X else X[test], y[test]
        weights = params.get("sample_weight")
        any_weight = len(test) > 0 and (weights is None or np.sum(weights) > 0)
        ours = self._ours if any_weight else None
        labels = np.searchsorted(self._classes, y_test)
        scores = []
        for C, coef, intercept in models:
            kind = _OnRows if self._leaves_X else LogisticRegression
            model = kind(C=C, n_jobs=self._n_jobs)
            model.classes_, model.coef_, model.intercept_ = self._classes, coef, intercept
            model.n_features_in_ = X.shape[1]
            if isinstance(model, _OnRows):
                model.on(X)
            if ours is not None:
                scores.append(ours(model, test, labels, weights))
            else:
                scores.append(self._scorer(model, X_test, y_test, **params))
        return scores


def _told_classes(scorer: Any, classes: NDArray[Any]) -> Any:
    """Return a scorer that is told all classes, if its score has a parameter for them.

    The test rows need not show them all.
    """
    known = inspect.signature(scorer._score_func).parameters
    if "labels" not in known:
        return scorer
    settings = {"labels": classes}
    if "pos_label" in known and len(classes) == 2:
        settings["pos_label"] = classes[1]
    return make_scorer(
        scorer._score_func,
        greater_is_better=scorer._sign == 1,
        response_method=scorer._response_method,
        **{**settings, **scorer._kwargs},
    )
