"""One table of inputs that users get wrong: scikit-learn's error, or a stricter one, and a remedy.

The rows follow section 7 of the project's reliability notes on scikit-learn 1.9.1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.fixes import parse_version

from fastsoftmax import LogisticRegression

RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")

_rng = np.random.default_rng(0)
y = np.arange(60) % 3
X = _rng.normal(size=(60, 4)) + np.eye(3, 4)[y]
X.flags.writeable = y.flags.writeable = False
ONES = np.ones(60)
NAMES = np.array(["a", "b", "c"])[y]
FRAME = pd.DataFrame(X, columns=list("abcd"))
MASSES = np.random.default_rng(1).dirichlet(np.ones(3), 60)
OFFSET = np.zeros((60, 3))

SAME = "the type of scikit-learn's error"
OK = "a fit with scikit-learn's predictions"
OURS = "a fit, which scikit-learn refuses"


@dataclass(frozen=True)
class Row:
    """Arguments of `fit`, and what is to happen: `SAME`, `OK`, `OURS` or an error of our own."""

    outcome: Any
    message: str = ""  # a regular expression: the culprit's name, or the remedy
    X: Any = None
    y: Any = None
    sample_weight: Any = None
    offset: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    warns: type[Warning] | None = None  # scikit-learn's, and so ours
    since: str = "1.8"  # the first scikit-learn that does so


def changed(a, index, value, dtype=None):
    a = np.array(a, dtype=dtype)
    a[index] = value
    return a


def of_dtype(dtype):
    return X.astype(dtype)


class Raises:
    def __array__(self, *args, **kwargs):
        raise ZeroDivisionError("division by zero")


def params(**values):
    return {"params": values}


# fmt: off
ROWS = {
    # X
    "X NaN": Row(SAME, "X contains NaN", X=changed(X, (3, 1), np.nan)),
    "X inf": Row(SAME, "X contains infinity", X=changed(X, (3, 1), np.inf)),
    "X -inf": Row(SAME, "X contains infinity", X=changed(X, (3, 1), -np.inf)),
    "X float32 NaN": Row(SAME, "X contains NaN", X=changed(X, (3, 1), np.nan, np.float32)),
    "X None inside": Row(SAME, "X contains NaN", X=changed(X, (3, 1), None, object)),
    "X no rows": Row(SAME, r"0 sample\(s\)", X=X[:0], y=y[:0]),
    "X no columns": Row(SAME, r"0 feature\(s\)", X=X[:, :0]),
    "X 1-D": Row(SAME, "(?s)Expected 2D array.*[Rr]eshape", X=X[:, 0]),
    "X 3-D": Row(SAME, "dim 3", X=X[:, :, None]),
    "X scalar": Row(SAME, "(?s)Expected 2D array.*[Rr]eshape", X=3.0),
    "X None": Row(SAME, "Expected 2D array", X=None),
    "X ragged": Row(SAME, "inhomogeneous", X=[[1.0, 2.0], [1.0]] * 30),
    "X words": Row(SAME, "could not convert string", X=np.full((60, 4), "a")),
    "X a word": Row(SAME, "could not convert string", X="abc"),
    "X dict inside": Row(SAME, "dict", X=changed(X, (0, 0), {}, object)),
    "X complex": Row(SAME, "Complex data not supported", X=of_dtype(complex)),
    "X structured": Row(SAME, "Expected 2D array", X=np.zeros(60, [("a", float)])),
    "X generator": Row(SAME, "generator", X=(row for row in range(3))),
    "X set": Row(SAME, "set", X={1, 2}),
    "X whose __array__ raises": Row(SAME, "division by zero", X=Raises()),
    "X frame with NA": Row(SAME, "X contains NaN", X=FRAME.astype("Float64").mask(FRAME > 2)),
    "X frame of categories": Row(
        SAME, "could not convert string", X=pd.DataFrame({"a": pd.Categorical(NAMES)})),
    "X frame of mixed names": Row(
        SAME, "only supported if all input features have string names",
        X=FRAME.rename(columns={"a": 0})),
    "X 1e200": Row(ValueError, "scale X", X=X * 1e200),
    "X 1e307": Row(ValueError, "scale X", X=X * 1e306),
    "X sparse 1e200": Row(ValueError, "scale X", X=sparse.csr_array(X * 1e200)),
    "X list": Row(OK, X=X.tolist()),
    "X numbers as strings": Row(OK, X=of_dtype(str)),
    "X objects": Row(OK, X=of_dtype(object)),
    "X bool": Row(OK, X=X > 0),
    "X datetime": Row(OK, X=(10 * X).astype("M8[s]")),
    "X masked": Row(OK, X=np.ma.array(X, mask=X > 2)),  # the mask is ignored, as there
    "X zeros": Row(OK, X=np.zeros((60, 4))),
    "X constant": Row(OK, X=np.full((60, 4), 7.0)),
    "X 1e100": Row(OK, X=X * 1e100),
    "two samples": Row(OK, X=X[:2], y=y[:2]),
    # sparse X
    "sparse NaN": Row(SAME, "X contains NaN", X=sparse.csr_array(changed(X, (3, 1), np.nan))),
    "sparse inf": Row(SAME, "X contains infinity", X=sparse.csc_array(changed(X, (3, 1), np.inf))),
    "sparse complex": Row(SAME, "Complex data not supported", X=sparse.csr_array(X + 0j)),
    "sparse 1-D": Row(SAME, "Expected 2D", X=sparse.coo_array(X[:, 0]), since="1.9"),
    "sparse int": Row(OK, X=sparse.csr_array((3 * X).astype(int))),
    "sparse bool": Row(OK, X=sparse.csr_array(X > 0)),
    "sparse longdouble": Row(OK, X=sparse.csr_array(of_dtype(np.longdouble))),
    "sparse without entries": Row(OK, X=sparse.csr_array((60, 4))),
    "sparse dia": Row(OK, X=sparse.dia_array(X)),
    "sparse frame": Row(OK, X=pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(X))),
    # y
    "y one class": Row(SAME, "one class", y=np.zeros(60)),
    "y one sample": Row(SAME, "one class", X=X[:1], y=y[:1]),
    "y continuous": Row(SAME, "Unknown label type: continuous", y=y + X[:, 0]),
    "y NaN": Row(SAME, "y contains NaN", y=changed(y, 4, np.nan, float)),
    "y inf": Row(SAME, "y contains infinity", y=changed(y, 4, np.inf, float)),
    "y object NaN": Row(ValueError, "y contains missing", y=changed(NAMES, 4, np.nan, object)),
    "y None inside": Row(ValueError, "y contains missing", y=changed(NAMES, 4, None, object)),
    "y list, None inside": Row(ValueError, "y contains missing", y=["a", None, "b"] * 20),
    "y string NA": Row(ValueError, "y contains missing",
                       y=pd.Series(["a", pd.NA, "b"] * 20, dtype="string")),
    "y Int64 NA": Row(SAME, "y contains NaN", y=pd.Series([1, pd.NA, 2] * 20, dtype="Int64")),
    "y categories NaN": Row(ValueError, "y contains missing",
                            y=pd.Categorical(["a", None, "b"] * 20)),
    "y objects": Row(SAME, "holds int.*astype", y=y.astype(object)),
    "y mixed objects": Row(SAME, "holds int, str.*astype", y=np.array([1, "a", 2] * 20, object)),
    "y huge objects": Row(SAME, "holds int.*astype", y=np.array([2**70, 1, 2] * 20, object)),
    "y None": Row(SAME, "requires y to be passed", y=None),
    "y scalar": Row(SAME, "should be a 1d array", y=3),
    # Two or more columns are soft targets: "should be a 1d array" in scikit-learn.
    "y indicators": Row(OURS, y=np.eye(3, dtype=int)[y]),
    "y two outputs": Row(OURS, y=np.column_stack([y, y])),  # nobody can tell them from counts
    "y short": Row(SAME, r"inconsistent numbers of samples: \[60, 59\]", y=y[:-1]),
    "y complex": Row(SAME, "Complex data not supported", y=y + 0j),
    "y bytes": Row(SAME, "Convert the labels", y=y.astype("S")),
    "y sparse": Row(SAME, "y", y=sparse.csr_array(y[:, None])),
    "y column": Row(OK, y=y[:, None], warns=DataConversionWarning),
    "y tuples": Row(OK, y=[(k,) for k in y], warns=DataConversionWarning),
    "y whole floats": Row(OK, y=y.astype(float)),
    "y bool": Row(OK, y=y > 0),
    "y int8": Row(OK, y=y.astype(np.int8)),
    "y uint64": Row(OK, y=y.astype(np.uint64)),
    "y huge": Row(OK, y=y + 2**62),
    "y negative": Row(OK, y=y - 1),
    "y big-endian": Row(OK, y=y.astype(">i8")),
    "y strings": Row(OK, y=NAMES),
    "y object strings": Row(OK, y=NAMES.astype(object)),
    "y categories": Row(OK, y=pd.Categorical(NAMES)),
    "y dates": Row(OK, y=y.astype("M8[D]")),
    "y empty string": Row(OK, y=np.array(["", "a", "b"])[y]),
    "y many classes": Row(OK, y=np.arange(60) % 40, warns=UserWarning),
    # soft targets
    "masses": Row(OURS, y=MASSES),
    "masses list": Row(OURS, y=MASSES.tolist()),
    "masses negative": Row(ValueError, r"y of shape \(60, 3\).*negative.*-0.5: clip",
                           y=changed(MASSES, (3, 1), -0.5)),
    "masses NaN": Row(ValueError, r"y of shape \(60, 3\) must hold soft.*y contains NaN",
                      y=changed(MASSES, (3, 1), np.nan)),
    "masses inf": Row(ValueError, r"y of shape \(60, 3\) must hold soft.*y contains infinity",
                      y=changed(MASSES, (3, 1), np.inf)),
    "masses NA": Row(ValueError, r"y of shape \(60, 3\) must hold soft.*y contains NaN",
                     y=pd.DataFrame(MASSES).astype("Float64").mask(MASSES > 0.9)),
    "masses None": Row(ValueError, r"y of shape \(60, 2\).*y contains NaN",
                       y=np.full((60, 2), None)),
    "masses words": Row(ValueError, r"y of shape \(60, 2\) must hold soft.*Labels have one dim",
                        y=np.column_stack([NAMES, NAMES])),
    "masses complex": Row(ValueError, "y of shape.*Complex data not supported", y=MASSES + 0j),
    "masses 3-D": Row(ValueError, r"y of shape \(60, 3, 1\).*one column per", y=MASSES[:, :, None]),
    "masses no column": Row(ValueError, r"y of shape \(60, 0\).*at least two", y=MASSES[:, :0]),
    "masses one column": Row(ValueError, r"y of shape \(60, 1\).*no labels.*column_stack",
                             y=MASSES[:, :1]),
    "masses short": Row(ValueError, r"inconsistent numbers of samples: \[60, 59\]", y=MASSES[1:]),
    "masses ragged": Row(ValueError, "y has rows of different lengths.*one column per class",
                         y=[[1.0, 2.0], [1.0]] * 30),
    "masses zero": Row(ValueError, "y holds no mass.*at least one", y=0.0 * MASSES),
    "masses huge": Row(ValueError, "soft targets in y.*infinity. Divide y", y=MASSES + 1e308),
    "masses sparse": Row(TypeError, "passed for y.*toarray", y=sparse.csr_array(MASSES)),
    "indicators sparse": Row(TypeError, "passed for y.*toarray",
                             y=sparse.csr_array(np.eye(3, dtype=int)[y])),
    "masses equal names": Row(ValueError, "y has several columns of the same name: a.*rename",
                              y=pd.DataFrame(MASSES, columns=["a", "b", "a"])),
    "masses weights zero": Row(ValueError, "at least one non-zero", y=MASSES,
                               sample_weight=0 * ONES),
    "masses weight negative": Row(ValueError, "sample_weight.*convex", y=MASSES,
                                  sample_weight=changed(ONES, 0, -1)),
    "masses weights short": Row(ValueError, r"sample_weight.shape == \(59,\)", y=MASSES,
                                sample_weight=ONES[1:]),
    "masses class_weight": Row(ValueError, "not in class_weight", y=MASSES,
                               **params(class_weight={7: 1})),
    "masses class_weight negative": Row(ValueError, "class_weight.*finite", y=MASSES,
                                        **params(class_weight={0: -1.0})),
    "masses class_weight zeros": Row(ValueError, "times class_weight", y=MASSES,
                                     **params(class_weight=dict.fromkeys(range(3), 0))),
    # offset
    "offset": Row(OURS, offset=OFFSET),
    "offset frame": Row(OURS, offset=pd.DataFrame(OFFSET)),
    "offset 1-D": Row(ValueError, r"offset must.* \(60, 3\); got shape \(60,\)", offset=ONES),
    "offset short": Row(ValueError, r"offset must.* \(60, 3\); got shape \(59, 3\)",
                        offset=OFFSET[1:]),
    "offset narrow": Row(ValueError, r"offset must.* \(60, 3\); got shape \(60, 2\)",
                         offset=OFFSET[:, 1:]),
    "offset scalar": Row(ValueError, r"offset must.*got shape \(\)", offset=0.5),
    "offset 3-D": Row(ValueError, r"offset must.*got shape \(60, 3, 1\)",
                      offset=OFFSET[:, :, None]),
    "offset ragged": Row(ValueError, "offset must.*inhomogeneous", offset=[[1.0], [1.0, 2.0]] * 30),
    "offset NaN": Row(ValueError, r"offset must.*finite.*contains NaN",
                      offset=changed(OFFSET, (3, 1), np.nan)),
    "offset inf": Row(ValueError, r"offset must.*finite.*contains infinity",
                      offset=changed(OFFSET, (3, 1), -np.inf)),
    "offset words": Row(ValueError, "offset must.*could not convert", offset=np.full((60, 3), "a")),
    "offset complex": Row(ValueError, "offset must.*Complex data", offset=OFFSET + 1j),
    "offset sparse": Row(TypeError, "offset must.*sparse", offset=sparse.csr_array(OFFSET)),
    "offset three columns": Row(ValueError, r"\(60, 2\) or \(60, 1\) or \(60,\); got .*\(60, 3\)",
                                y=y > 0, offset=OFFSET),
    "offset difference": Row(ValueError, "offset.*overflows float64.*clip", y=y > 0,
                             offset=np.tile([1e308, -1e308], (60, 1))),
    "offset huge": Row(ValueError, "X or offset", offset=np.outer(ONES, [1e308, -1e308, 0.0])),
    # sample_weight
    "weight NaN": Row(SAME, "sample_weight contains NaN", sample_weight=changed(ONES, 0, np.nan)),
    "weight inf": Row(SAME, "sample_weight contains inf", sample_weight=changed(ONES, 0, np.inf)),
    "weight None inside": Row(SAME, "sample_weight contains NaN", sample_weight=[None] * 60),
    "weights zero": Row(SAME, "at least one non-zero", sample_weight=0 * ONES, since="1.9"),
    "weights short": Row(SAME, r"sample_weight.shape == \(59,\)", sample_weight=ONES[1:]),
    "weights 2-D": Row(SAME, "must be 1D", sample_weight=np.ones((60, 2))),
    "weights words": Row(SAME, "could not convert string", sample_weight=NAMES),
    "weights complex": Row(SAME, "Complex data not supported", sample_weight=ONES * 1j),
    "weight negative": Row(ValueError, "sample_weight.*convex", sample_weight=changed(ONES, 0, -1)),
    "weights negative": Row(ValueError, "sample_weight.*convex", sample_weight=-ONES),
    "weights 1e-320": Row(ValueError, "rescale sample_weight", sample_weight=1e-320 * ONES),
    "weight scalar": Row(OK, sample_weight=2.0),
    "weights int": Row(OK, sample_weight=np.arange(60)),
    "weights bool": Row(OK, sample_weight=np.arange(60) % 7 > 0),
    "weights float32": Row(OK, sample_weight=ONES.astype(np.float32)),
    "a class without weight": Row(OK, sample_weight=np.where(y == 0, 0.0, 1.0)),
    # class_weight
    "class_weight unknown": Row(SAME, "not in class_weight", **params(class_weight={7: 1})),
    "class_weight incomplete": Row(SAME, r"\[1, 2\].*not in class_weight",
                                   **params(class_weight={0: 1, 7: 2})),
    "class_weight name": Row(SAME, "'class_weight'.*'balanced'", **params(class_weight="foo")),
    "class_weight list": Row(SAME, "'class_weight'", **params(class_weight=[1, 2, 3])),
    "class_weight word": Row(SAME, "could not convert", **params(class_weight={0: "a"})),
    "class_weight negative": Row(ValueError, "class_weight", **params(class_weight={0: -1})),
    "class_weight NaN": Row(ValueError, "class_weight.*finite", **params(class_weight={0: np.nan})),
    "class_weight inf": Row(ValueError, "class_weight.*finite", **params(class_weight={0: np.inf})),
    "class_weight zeros": Row(ValueError, "non-zero",
                              **params(class_weight=dict.fromkeys(range(3), 0))),
    "class_weight partial": Row(OK, **params(class_weight={1: 3.0})),
    "class_weight empty": Row(OK, **params(class_weight={})),
    # parameters
    "C 0": Row(SAME, "'C' parameter", **params(C=0)),
    "C negative": Row(SAME, "'C' parameter", **params(C=-1.0)),
    "C NaN": Row(SAME, "'C' parameter", **params(C=np.nan)),
    "C word": Row(SAME, "'C' parameter", **params(C="1")),
    "C None": Row(SAME, "'C' parameter", **params(C=None)),
    "C 1e-320": Row(ValueError, "Increase C", **params(C=1e-320)),
    "C inf": Row(OK, **params(C=np.inf)),
    "C 1e300": Row(OK, **params(C=1e300)),
    "C 1e-10": Row(OK, **params(C=1e-10)),
    "tol negative": Row(SAME, "'tol' parameter", **params(tol=-1e-3)),
    "tol NaN": Row(SAME, "'tol' parameter", **params(tol=np.nan)),
    "tol inf": Row(SAME, "'tol' parameter", **params(tol=np.inf)),
    "tol 0": Row(OK, **params(tol=0.0)),
    "max_iter negative": Row(SAME, "'max_iter' parameter", **params(max_iter=-1)),
    "max_iter 1.5": Row(SAME, "'max_iter' parameter", **params(max_iter=1.5)),
    "max_iter None": Row(SAME, "'max_iter' parameter", **params(max_iter=None)),
    "l1_ratio negative": Row(SAME, "'l1_ratio' parameter", **params(l1_ratio=-1)),
    "l1_ratio 2": Row(SAME, "'l1_ratio' parameter", **params(l1_ratio=2)),
    "l1_ratio word": Row(SAME, "'l1_ratio' parameter", **params(l1_ratio="a")),
    "fit_intercept word": Row(SAME, "'fit_intercept' parameter", **params(fit_intercept="yes")),
    "warm_start word": Row(SAME, "'warm_start' parameter", **params(warm_start="yes")),
    "verbose negative": Row(SAME, "'verbose' parameter", **params(verbose=-1)),
    "random_state word": Row(SAME, "'random_state' parameter", **params(random_state="a")),
    "solver word": Row(SAME, "'solver' parameter", **params(solver="newton")),
    "n_jobs 1.5": Row(SAME, "'n_jobs' parameter", **params(n_jobs=1.5)),
    "n_jobs word": Row(SAME, "'n_jobs' parameter", **params(n_jobs="all")),
    "n_jobs 0": Row(ValueError, "n_jobs.*use None", **params(n_jobs=0)),  # it has an effect here
    # parameters of ours
    "smoothing 1": Row(InvalidParameterError, r"'label_smoothing'.*range \[0.0, 1.0\).*Got 1.0",
                       **params(label_smoothing=1.0)),
    "smoothing negative": Row(InvalidParameterError, "'label_smoothing'.*Got -0.1",
                              **params(label_smoothing=-0.1)),
    "smoothing NaN": Row(InvalidParameterError, "'label_smoothing'.*Got nan",
                         **params(label_smoothing=np.nan)),
    "smoothing word": Row(InvalidParameterError, "'label_smoothing'.*Got 'a'",
                          **params(label_smoothing="a")),
    "factors": Row(OURS, **params(penalty_weights=[0, 1, 2, 3])),
    "factors short": Row(ValueError, r"penalty_weights must.*per feature, 4.*shape \(3,\)",
                         **params(penalty_weights=np.ones(3))),
    "factors 2-D": Row(ValueError, r"penalty_weights must.*per feature, 4.*shape \(1, 4\)",
                       **params(penalty_weights=np.ones((1, 4)))),
    "factors negative": Row(ValueError, r"penalty_weights\[2\] is -1.0. To leave a feature out",
                            **params(penalty_weights=[1, 1, -1, 1])),
    "factors NaN": Row(ValueError, r"penalty_weights\[2\] is nan",
                       **params(penalty_weights=[1, 1, np.nan, 1])),
    "factors inf": Row(ValueError, r"penalty_weights\[0\] is inf.*bounds",
                       **params(penalty_weights=[np.inf, 1, 1, 1])),
    "factors None inside": Row(ValueError, r"penalty_weights\[3\] is nan",
                               **params(penalty_weights=[1, 1, 1, None])),
    "factors words": Row(ValueError, "penalty_weights must.*could not convert",
                         **params(penalty_weights=list("abcd"))),
    "factors complex": Row(ValueError, "penalty_weights must.*complex128 is not real",
                           **params(penalty_weights=np.ones(4) * 1j)),
    "factors scalar": Row(InvalidParameterError, "'penalty_weights'.*Got 2.0",
                          **params(penalty_weights=2.0)),
    "factors huge": Row(ValueError, "penalty_weights.*overflows: C=1e-05.*Increase C",
                        **params(penalty_weights=np.full(4, 1e308), C=1e-5)),
    "positive word": Row(InvalidParameterError, "'positive'.*Got 'yes'", **params(positive="yes")),
    "bounds": Row(OURS, **params(bounds=[np.zeros(4), np.inf])),
    "bounds cross": Row(ValueError, r"bounds.*coef_\[0, 0\]: from 1.0 to 0.0. No lower",
                        **params(bounds=(1.0, 0.0))),
    "bounds cross once": Row(ValueError, r"bounds.*coef_\[0, 2\]: from 0.0 to -1.0",
                             **params(bounds=(0.0, [1.0, 1.0, -1.0, 1.0]))),
    "bounds cross 0": Row(ValueError, "bounds.*from 0.0 to -1.0, with positive=True",
                          **params(bounds=(-2.0, -1.0), positive=True)),
    "bounds NaN": Row(ValueError, "bounds.*from nan to 1.0.*-np.inf", **params(bounds=(np.nan, 1))),
    "bounds None inside": Row(ValueError, "bounds.*not NaN or None", **params(bounds=(0.0, None))),
    "bounds both inf": Row(ValueError, "bounds leave no number", **params(bounds=(np.inf, np.inf))),
    "bounds both -inf": Row(ValueError, "bounds leave no number",
                            **params(bounds=(-np.inf, -np.inf))),
    "bounds short": Row(ValueError, r"bounds.*coef_, \(3, 4\): .*shape \(3,\)",
                        **params(bounds=(0.0, np.zeros(3)))),
    "bounds 3-D": Row(ValueError, r"bounds.*coef_, \(3, 4\)",
                      **params(bounds=(0, np.ones((2, 3, 4))))),
    "bounds words": Row(ValueError, r"bounds must hold numbers.*'a'", **params(bounds=("a", 1.0))),
    "bounds complex": Row(ValueError, "bounds must hold numbers.*not real",
                          **params(bounds=(1j, 1))),
    "bounds three": Row(ValueError, r"bounds must be a pair \(lower, upper\), got 3",
                        **params(bounds=(0.0, 1.0, 2.0))),
    "bounds pairs": Row(ValueError, r"bounds must be a pair.*got 4.*bound per feature",
                        **params(bounds=[(0.0, 1.0)] * 4)),
    "bounds number": Row(InvalidParameterError, "'bounds'.*'tuple'.*Got 0.5", **params(bounds=0.5)),
    "bounds array": Row(InvalidParameterError, "(?s)'bounds'.*'tuple'.*Got array",
                        **params(bounds=np.array([[0.0] * 4, [1.0] * 4]))),
    **{
        f"{name} {solver}": Row(
            ValueError, f"Solver {solver} supports neither bounds nor positive.*Use solver='auto'",
            **params(solver=solver, **given))
        for solver in ("lbfgs", "newton-cg", "newton-cholesky", "sag")
        for name, given in (("bounds", {"bounds": (0, 1)}), ("positive", {"positive": True}))
    },
}
# fmt: on

_DEFAULTS = {"X": X, "y": y}
_NONE_IS_MEANT = {"X None": "X", "y None": "y"}


def arguments(name, row):
    values = {"sample_weight": row.sample_weight}
    if row.offset is not None:
        values["offset"] = row.offset
    for argument, default in _DEFAULTS.items():
        given = getattr(row, argument)
        missing = given is None and _NONE_IS_MEANT.get(name) != argument
        values[argument] = default if missing else given
    return values


def peer(**params):
    defaults = {} if "solver" in params else {"solver": "newton-cholesky"}
    return SklearnLogisticRegression(**defaults | {"max_iter": 1000, "tol": 1e-9} | params)


def outcome(fit: Callable[[], Any]) -> tuple[Any, list[type[Warning]]]:
    """Return what `fit` returned or raised, and the categories of the warnings."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            result = fit()
        except Exception as error:
            result = error
    return result, [warning.category for warning in record]


@pytest.mark.parametrize(("name", "row"), ROWS.items(), ids=ROWS.keys())
def test_input(name, row):
    if parse_version(sklearn.__version__) < parse_version(row.since):
        pytest.skip(f"scikit-learn {sklearn.__version__} fails otherwise than {row.since}")
    given = arguments(name, row)
    found, categories = outcome(lambda: LogisticRegression(**row.params).fit(**given))
    if row.outcome == OK:
        assert isinstance(found, LogisticRegression), found
        expected, _ = outcome(lambda: peer(**row.params).fit(**given))
        assert isinstance(expected, SklearnLogisticRegression), expected
        assert categories == ([row.warns] if row.warns else [])
        np.testing.assert_array_equal(found.classes_, expected.classes_)
        assert found.classes_.dtype == expected.classes_.dtype
        if "1e100" in name:  # scikit-learn stops at the start; the problem is only rescaled
            given, scale = {**given, "X": X}, 1e100
            expected = LogisticRegression(C=np.inf).fit(**given)
            np.testing.assert_allclose(found.coef_ * scale, expected.coef_, atol=1e-2)
            return
        rows = given["X"]
        if getattr(rows, "dtype", X.dtype) != X.dtype and rows.dtype.kind in "UM":
            rows = rows.astype(float)  # scikit-learn's `predict` does not convert, its `fit` does
        np.testing.assert_array_equal(found.predict(given["X"]), expected.predict(rows))
        return
    if row.outcome == OURS:
        assert isinstance(found, LogisticRegression), found
        assert not categories
        assert found.converged_
        return
    assert isinstance(found, Exception), "accepted"
    if row.outcome == SAME:
        error, _ = outcome(lambda: peer(**row.params).fit(**given))
        assert type(found) is type(error), (found, error)
    else:
        assert type(found) is row.outcome, found
    with pytest.raises(type(found), match=row.message):
        raise found
    assert len(str(found)) < 600 or row.outcome == SAME, "an array is printed"
    assert not categories


def test_matrix_is_refused():
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(X)
    with pytest.raises(TypeError, match=r"np\.matrix is not supported.*np\.asarray"):
        LogisticRegression().fit(matrix, y)


# Predictions

BAD_ROWS = {
    "NaN": (changed(X, (3, 1), np.nan), "X contains NaN"),
    "inf": (changed(X, (3, 1), np.inf), "X contains infinity"),
    "three columns": (X[:, :3], "X has 3 features, but .* is expecting 4"),
    "sparse, three columns": (sparse.csr_array(X[:, :3]), "X has 3 features"),
    "no rows": (X[:0], r"0 sample\(s\)"),
    "1-D": (X[0], "(?s)Expected 2D array.*[Rr]eshape"),
    "words": (np.full((60, 4), "a"), "could not convert string"),
}


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize(("rows", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_input_of_predictions(rows, message, response):
    error, _ = outcome(lambda: getattr(peer().fit(X, y), response)(rows))
    with pytest.raises(type(error), match=message):
        getattr(LogisticRegression().fit(X, y), response)(rows)


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("size", [1e10, 1e300, 2e307])
def test_huge_rows_give_finite_answers_or_an_error(size, n_classes, storage, response):
    """At 2e307 times coefficients of order 10 some logits overflow."""
    kept = y < n_classes
    model = LogisticRegression(C=1e3).fit(X[kept], y[kept])
    if size == 2e307:
        model.coef_ = 50.0 * model.coef_
    rows = storage(np.clip(X, -3.0, 3.0) * size)
    if size == 2e307:
        with pytest.raises(ValueError, match=r"overflow.*[Ss]cale X"):
            getattr(model, response)(rows)
        return
    answer = getattr(model, response)(rows)
    assert np.all(np.isfinite(answer))
    direction = X @ model.coef_.T  # an intercept is nothing beside it
    best = (direction[:, 0] > 0).astype(int) if n_classes == 2 else direction.argmax(axis=1)
    clipped = np.all(np.abs(X) <= 3.0, axis=1)
    if response == "predict":
        np.testing.assert_array_equal(answer[clipped], best[clipped])
    if response == "predict_proba":
        np.testing.assert_array_equal(answer[clipped], np.eye(n_classes)[best[clipped]])


def test_infinite_coefficients_are_noticed():
    model = LogisticRegression().fit(X, y)
    model.coef_[0, 0] = np.inf
    with pytest.raises(ValueError, match="check coef_"):
        model.predict_proba(X)


# Corrupt sparse matrices: scikit-learn crashes the process on some of these


def corrupt(format, attribute, position, value):
    matrix = sparse.csr_array(X).asformat(format).copy()
    array = getattr(matrix, attribute).copy()
    array[position] = value
    if attribute in ("row", "col"):
        pair = {"row": matrix.row, "col": matrix.col} | {attribute: array}
        matrix.coords = (pair["row"], pair["col"])
    else:
        setattr(matrix, attribute, array)
    return matrix


CORRUPT = [
    (format, attribute, position, value)
    for format in ("csr", "csc", "bsr")
    for attribute, position, value in (
        ("indices", 5, 1000),
        ("indices", 5, 2**30),
        ("indices", 5, -5_000_000),
        ("indptr", 2, 1000),
        ("indptr", -1, 10_000),
        ("indptr", 0, 1),
    )
    if not (format == "bsr" and attribute == "indices" and position >= X.size)
] + [("coo", attribute, 5, value) for attribute in ("row", "col") for value in (1000, -5_000_000)]


@pytest.mark.parametrize(("format", "attribute", "position", "value"), CORRUPT)
def test_corrupt_sparse_matrix(format, attribute, position, value):
    matrix = corrupt(format, attribute, position if format != "bsr" else min(position, 0), value)
    with pytest.raises(ValueError, match=f"corrupt {format.upper()} matrix: .*Rebuild it"):
        LogisticRegression().fit(matrix, y)
    fitted = LogisticRegression().fit(X, y)
    for response in RESPONSES:
        with pytest.raises(ValueError, match=f"corrupt {format.upper()} matrix: .*Rebuild it"):
            getattr(fitted, response)(matrix)


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize(
    ("dtype", "exponents"), [(np.float64, range(140, 308, 8)), (np.float32, range(12, 38, 2))]
)
def test_overflow_never_passes_for_an_answer(dtype, exponents, storage):
    """From where squares overflow to where sums do: an error, or a result that fits."""
    n_fits = 0
    for exponent in exponents:
        scaled = storage((X * 10.0**exponent).astype(dtype))
        model, categories = outcome(lambda scaled=scaled: LogisticRegression().fit(scaled, y))
        assert not categories, exponent
        if isinstance(model, Exception):
            assert type(model) is ValueError, model
            assert "scale X" in str(model)
            continue
        n_fits += 1
        assert np.all(np.isfinite(model.coef_)), exponent
        assert model.score(scaled, y) > 0.6, exponent
    assert n_fits > 0


def test_unconverged_fit_warns_instead_of_failing():
    with pytest.warns(ConvergenceWarning, match="increase max_iter"):
        LogisticRegression(max_iter=1).fit(X, y)
