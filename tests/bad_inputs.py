"""Inputs that users get wrong, or that look wrong: what scikit-learn makes of each, and what we do.

`LOG` holds the 145 cases of an experiment with scikit-learn 1.9.1's LogisticRegression, by the
names of its log; `OTHERS` holds what came up later, and arguments that are ours alone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

OK, CRASH = "a result", "undefined: may end the process"


@dataclass(frozen=True)
class Case:
    """Arguments of `fit`, maybe a question to the model, and what comes of them.

    Attributes
    ----------
    theirs, ours : exception type, OK, or CRASH
        What the two estimators give; `theirs` is None where scikit-learn has no such argument.
    words : str
        A regular expression: what our message must hold, above all the remedy.
    arguments, params : dict
        Of `fit` and of the estimator.
    ask : callable or None
        Asks the fitted model; the case is about its answer, not about `fit`.
    warns : tuple of Warning types
        What both warn of, scikit-learn's numerical warnings apart.
    like : dict or None
        Where both give a result: arguments (and "params") with which scikit-learn finds the one
        that ours is to be like; None if there is none.
    since : str
        The first scikit-learn that does so.
    """

    theirs: Any
    ours: Any
    words: str
    arguments: dict[str, Any]
    params: dict[str, Any]
    ask: Callable[[Any], Any] | None
    warns: tuple[type[Warning], ...]
    like: dict[str, Any] | None
    since: str


_rng = np.random.default_rng(0)
y = np.arange(60) % 3
X = _rng.normal(size=(60, 4)) + np.eye(3, 4)[y]
X.flags.writeable = y.flags.writeable = False
ONES = np.ones(60)
NAMES = np.array(["a", "b", "c"])[y]
FRAME = pd.DataFrame(X, columns=list("abcd"))
MASSES = np.random.default_rng(1).dirichlet(np.ones(3), 60)
OFFSET = np.zeros((60, 3))


def case(
    theirs, words="", *, ours=None, params=None, ask=None, warns=(), like=(), since="1.8", **given
):
    """Return a case of X and y, apart from what is given; `ours` is as `theirs` if None."""
    arguments = {"X": X, "y": y} | given
    expected = theirs if ours is None else ours
    options = {"params": params or {}, "ask": ask, "warns": warns, "since": since}
    return Case(
        *(theirs, expected, words, arguments),
        **options,
        like=None if like is None else arguments | {"params": params or {}} | dict(like),
    )


def own(ours, words="", *, params=None, **given):
    """Return a case that scikit-learn need not be asked about."""
    return case(None, words, ours=ours, params=params, like=None, **given)


def bad_parameter(name, value, words=""):
    return case(InvalidParameterError, f"'{name}' parameter.*{words}", params={name: value})


def changed(a, index, value, dtype=None):
    a = np.array(a, dtype=dtype)
    a[index] = value
    return a


def answer(response, rows):
    return lambda model: getattr(model, response)(rows)


def unfitted_answer(model):
    return type(model)().predict(X)


def answer_with_infinite_coefficients(model):
    model = copy.copy(model)
    model.coef_ = np.full_like(model.coef_, np.inf)
    return model.predict_proba(X)


def outcome(call):
    """Return what a call returned or raised, and its warnings."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = error
    return result, [warning.message for warning in record]


class Raises:
    def __array__(self, *args, **kwargs):
        raise ZeroDivisionError("division by zero")


def as_matrix():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(X)


def backwards(a):
    """Return the same values from a view of negative strides."""
    return a[::-1, ::-1].copy()[::-1, ::-1]


def csr(**changes):
    """Return X as CSR, with some of its arrays changed behind its back."""
    made = sparse.csr_array(X)
    for name, change in changes.items():
        setattr(made, name, change(getattr(made, name)))
    return made


def wide(a):
    return a.astype(np.int64)


def frozen(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def int64_indices(solver, theirs=OK, like=()):
    X = csr(indices=wide, indptr=wide)
    return case(theirs, ours=OK, X=X, params={"solver": solver}, like=like)


_halves = (np.repeat(csr().data / 2, 2), np.repeat(csr().indices, 2), 2 * csr().indptr)
_unsorted = (X[:, ::-1].ravel(), np.tile([3, 2, 1, 0], 60), np.arange(61) * 4)
_BIG = 1e308 * np.array([[1.0, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, -1]])
with np.errstate(over="ignore"):
    _X_OVERFLOWS = X * 1e308

# fmt: off
LOG = {
    # X
    "X NaN": case(ValueError, "X contains NaN.*imputer", X=changed(X, (3, 1), np.nan)),
    "X +inf": case(ValueError, "X contains infinity.*[Rr]eplace", X=changed(X, (3, 1), np.inf)),
    "X -inf": case(ValueError, "X contains infinity.*[Rr]eplace", X=changed(X, (3, 1), -np.inf)),
    "X None (object)": case(ValueError, "X contains NaN.*imputer",
                            X=changed(X, (3, 1), None, object)),
    "X empty (0,4)": case(ValueError, r"0 sample\(s\).*minimum of 1", X=X[:0], y=y[:0]),
    "X (60,0)": case(ValueError, r"0 feature\(s\).*minimum of 1", X=X[:, :0]),
    "X 1-D": case(ValueError, "Expected 2D array.*Reshape", X=X[:, 0]),
    "X 3-D": case(ValueError, r"dim 3.*X\.reshape", X=X[:, :, None]),
    "X scalar": case(ValueError, "Expected 2D array.*Reshape", X=3.0),
    "X list of lists": case(OK, X=X.tolist()),
    "X ragged": case(ValueError, "inhomogeneous.*rows of the same length",
                     X=[[1.0, 2.0], [1.0]] * 30),
    "X strings numeric": case(OK, X=X.astype(str)),
    "X strings non numeric": case(ValueError, "could not convert string.*Encode",
                                  X=np.full((60, 4), "a")),
    "X object floats": case(OK, X=X.astype(object)),
    "X object dict": case(TypeError, "not 'dict'.*Give an array", X=changed(X, (0, 0), {}, object)),
    "X complex": case(ValueError, "Complex data not supported.*real", X=X + 0j),
    "X bool": case(OK, X=X > 0),
    "X int8": case(OK, X=(10 * X).astype(np.int8)),
    "X float16": case(OK, X=X.astype(np.float16)),
    "X float32 -> coef dtype": case(OK, X=X.astype(np.float32)),
    "X longdouble": case(OK, X=X.astype(np.longdouble)),
    "X big-endian": case(OK, X=X.astype(">f8")),
    "X big-endian f4": case(OK, X=X.astype(">f4")),
    "X F-order": case(OK, X=np.asfortranarray(X)),
    "X strided view": case(OK, X=np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2]),
    "X negative stride": case(OK, X=backwards(X)),
    "X readonly": case(OK, X=frozen(X)),
    "y readonly": case(OK, y=frozen(y)),
    "X datetime64": case(OK, X=(10 * X).astype("M8[s]")),  # the number since 1970
    "X structured": case(ValueError, "Expected 2D array.*Reshape", X=np.zeros(60, [("a", float)])),
    "X masked array": case(OK, X=np.ma.array(X, mask=X > 2)),  # the mask is ignored
    "X np.matrix": case(TypeError, r"np\.matrix is not supported.*np\.asarray", X=as_matrix()),
    "X DataFrame": case(OK, X=FRAME),
    "X DataFrame w/ pd.NA Float64": case(ValueError, "X contains NaN.*imputer",
                                         X=FRAME.astype("Float64").mask(FRAME > 2)),
    "X DataFrame category": case(ValueError, "could not convert string.*Encode",
                                 X=pd.DataFrame({"a": pd.Categorical(NAMES)})),
    "X DataFrame mixed col names": case(TypeError, r"string names.*convert them",
                                        X=FRAME.rename(columns={"a": 0})),
    "X 1e308 logits overflow": case(ValueError, "X contains infinity.*[Rr]eplace", X=_X_OVERFLOWS),
    "X 1e200": case(OK, "scale X", ours=ValueError, X=X * 1e200),  # zero coefficients there
    # predictions
    "predict_proba huge logits 1e308": case(OK, ask=answer("predict_proba", _BIG)),
    "predict_proba NaN": case(ValueError, "X contains NaN.*imputer",
                              ask=answer("predict_proba", changed(X, (3, 1), np.nan))),
    "predict_proba inf": case(ValueError, "X contains infinity.*[Rr]eplace",
                              ask=answer("predict_proba", changed(X, (3, 1), np.inf))),
    "predict n_features mismatch": case(ValueError, "X has 3 features.* is expecting 4.*Give",
                                        ask=answer("predict", X[:, :3])),
    "predict empty (0,4)": case(ValueError, r"0 sample\(s\).*minimum of 1",
                                ask=answer("predict", X[:0])),
    "predict before fit": case(NotFittedError, "Call 'fit'", ask=unfitted_answer),
    "predict df names differ": case(ValueError, "should match those that were passed", X=FRAME,
                                    ask=answer("predict", FRAME.rename(columns={"d": "e"}))),
    "predict df names order": case(ValueError, "must be in the same order", X=FRAME,
                                   ask=answer("predict", FRAME[list("badc")])),
    "predict ndarray after df fit": case(OK, X=FRAME, ask=answer("predict", X),
                                         warns=(UserWarning,)),
    "predict df after ndarray fit": case(OK, ask=answer("predict", FRAME), warns=(UserWarning,)),
    "predict 1-D": case(ValueError, "Expected 2D array.*Reshape", ask=answer("predict", X[0])),
    # y
    "y 1 class": case(ValueError, "needs samples of at least 2 classes", y=np.zeros(60)),
    "y continuous": case(ValueError, "label type: continuous.*Use a regressor", y=y + X[:, 0]),
    "y float ints": case(OK, y=y.astype(float)),
    "y NaN": case(ValueError, "y contains NaN.*Drop", y=changed(y, 4, np.nan, float)),
    "y inf": case(ValueError, "y contains infinity.*drop", y=changed(y, 4, np.inf, float)),
    "y None missing (object)": case(TypeError, "y contains missing.*Drop", ours=ValueError,
                                    y=changed(NAMES, 4, None, object)),
    "y list with None strings": case(TypeError, "y contains missing.*Drop", ours=ValueError,
                                     y=["a", None, "b"] * 20),
    "y pd string NA": case(TypeError, "y contains missing.*Drop", ours=ValueError,
                           y=pd.Series(["a", pd.NA, "b"] * 20, dtype="string")),
    "y pd Int64 NA": case(ValueError, "y contains NaN.*Drop",
                          y=pd.Series([1, pd.NA, 2] * 20, dtype="Int64")),
    "y object ints": case(ValueError, "holds int.*astype", y=y.astype(object)),
    "y object mixed int/str": case(ValueError, "holds int, str.*astype",
                                   y=np.array([1, "a", 2] * 20, object)),
    "y strings": case(OK, y=NAMES),
    "y object strings": case(OK, y=NAMES.astype(object)),
    "y bool": case(OK, y=y > 0),
    "y int8": case(OK, y=y.astype(np.int8)),
    "y uint64": case(OK, y=y.astype(np.uint64)),
    "y huge ints 2**62": case(OK, y=y + 2**62),
    "y python ints 2**70": case(ValueError, "holds int.*astype",
                                y=np.array([2**70, 1, 2] * 20, object)),
    "y negative ints": case(OK, y=y - 1),
    "y big-endian": case(OK, y=y.astype(">i8")),
    "y column vector": case(OK, y=y[:, None], warns=(DataConversionWarning,)),
    # Two or more columns are soft targets, which scikit-learn has not; indicators are labels ...
    "y 2-D multilabel": case(ValueError, ours=OK, y=np.eye(3, dtype=int)[y], like={"y": y}),
    # ... and nobody can tell two outputs from counts.
    "y multioutput": case(ValueError, ours=OK, y=np.column_stack([y, y]), like=None),
    "y wrong length": case(ValueError, r"inconsistent numbers.*\[60, 59\].*each row", y=y[:-1]),
    "y None arg": case(ValueError, "requires y to be passed", y=None),
    "y datetime": case(OK, y=y.astype("M8[D]")),
    "y complex": case(ValueError, "Complex data not supported.*real", y=y + 0j),
    "y tuples": case(OK, y=[(k,) for k in y], warns=(DataConversionWarning,)),
    "y bytes": case(TypeError, "Convert the labels", y=y.astype("S")),
    "y categorical": case(OK, y=pd.Categorical(NAMES)),
    "y 40 classes of 60": case(OK, y=np.arange(60) % 40, warns=(UserWarning,)),
    "y float 1e300-ish ints": case(ValueError, "label type: continuous.*Use a regressor",
                                   y=1e300 * (y + 1.0)),
    # sample_weight
    "sample_weight negative": case(OK, "sample_weight.*convex.*weight 0", ours=ValueError,
                                   sample_weight=changed(ONES, 0, -1)),
    "sample_weight nan": case(ValueError, "sample_weight contains NaN.*finite",
                              sample_weight=changed(ONES, 0, np.nan)),
    "sample_weight inf": case(ValueError, "sample_weight contains inf.*finite",
                              sample_weight=changed(ONES, 0, np.inf)),
    "sample_weight allzero": case(ValueError, "at least one non-zero",
                                  sample_weight=0 * ONES),
    "sample_weight wronglen": case(ValueError, r"sample_weight.shape == \(59,\).*each row",
                                   sample_weight=ONES[1:]),
    "sample_weight twod": case(ValueError, "must be 1D.*each row", sample_weight=np.ones((60, 2))),
    "sample_weight string": case(ValueError, "could not convert string.*number.*sample_weight",
                                 sample_weight=NAMES),
    "sample_weight scalar": case(OK, sample_weight=2.0),
    "sample_weight tiny": case(OK, "rescale sample_weight", ours=ValueError,
                               sample_weight=1e-320 * ONES),
    # A penalty of 1e-308 beside the losses is none; scikit-learn returns zeros.
    "sample_weight huge": case(OK, sample_weight=1e308 * ONES,
                               like={"sample_weight": None, "params": {"C": np.inf}}),
    "sample_weight int": case(OK, sample_weight=np.arange(60)),
    "sample_weight allneg": case(OK, "sample_weight.*convex.*weight 0", ours=ValueError,
                                 sample_weight=-ONES),
    "sample_weight bool": case(OK, sample_weight=np.arange(60) % 7 > 0),
    # Its intercept falls for ever, so that no two tolerances agree.
    "sample_weight zero for a whole class": case(OK, sample_weight=np.where(y == 0, 0.0, 1.0),
                                                 like=None),
    "sample_weight None elements": case(ValueError, "sample_weight contains NaN.*finite",
                                        sample_weight=[None] * 60),
    # class_weight
    "class_weight unknown label": case(ValueError, "not in class_weight.*labels that occur in y",
                                       params={"class_weight": {7: 1}}),
    "class_weight negative": case(OK, "class_weight.*non-negative", ours=ValueError,
                                  params={"class_weight": {0: -1}}),
    "class_weight bad str": bad_parameter("class_weight", "foo", "'balanced'"),
    # parameters
    "C=0": bad_parameter("C", 0, "range.*Got 0"),
    "C=-1": bad_parameter("C", -1, "range.*Got -1"),
    "C=nan": bad_parameter("C", np.nan, "range.*Got nan"),
    'C="1"': bad_parameter("C", "1", "must be a float.*Got '1'"),
    "C=inf": case(OK, params={"C": np.inf}),
    "tol=-1": bad_parameter("tol", -1, "range.*Got -1"),
    "max_iter=0": case(OK, params={"max_iter": 0}, warns=(ConvergenceWarning,)),
    "max_iter=1": case(OK, params={"max_iter": 1}, warns=(ConvergenceWarning,), like=None),
    "max_iter=-1": bad_parameter("max_iter", -1, "range.*Got -1"),
    # sparse X
    "sparse CSR": case(OK, X=sparse.csr_matrix(X)),
    "sparse CSC": case(OK, X=sparse.csc_matrix(X)),
    "sparse COO": case(OK, X=sparse.coo_matrix(X)),
    "sparse LIL": case(OK, X=sparse.lil_matrix(X)),
    "sparse DOK": case(OK, X=sparse.dok_matrix(X)),
    "sparse BSR": case(OK, X=sparse.bsr_matrix(X)),
    "sparse DIA": case(OK, X=sparse.dia_matrix(X)),
    "sparse array csr_array": case(OK, X=csr()),
    "sparse coo_array 1-D": case(ValueError, "Expected 2D.*[Rr]eshape",
                                 X=sparse.coo_array(X[:, 0]), since="1.9"),
    "sparse int64 indices lbfgs": int64_indices("lbfgs"),
    "sparse int64 indices newton-cg": int64_indices("newton-cg"),
    "sparse int64 indices newton-cholesky": int64_indices("newton-cholesky"),
    "sparse int64 indices saga": int64_indices("saga", ValueError, {"params": {}}),
    "sparse int64 indices sag": int64_indices("sag", ValueError, {"params": {}}),
    "sparse int dtype": case(OK, X=sparse.csr_array((3 * X).astype(int))),
    "sparse bool": case(OK, X=sparse.csr_array(X > 0)),
    "sparse float32": case(OK, X=sparse.csr_array(X.astype(np.float32))),
    "sparse complex": case(ValueError, "Complex data not supported.*real",
                           X=sparse.csr_array(X + 0j)),
    "sparse longdouble": case(OK, X=sparse.csr_array(X.astype(np.longdouble))),
    "sparse NaN": case(ValueError, "X contains NaN.*imputer",
                       X=sparse.csr_array(changed(X, (3, 1), np.nan))),
    "sparse duplicates": case(OK, X=sparse.csr_array(_halves, shape=X.shape)),
    "sparse unsorted indices": case(OK, X=sparse.csr_array(_unsorted, shape=X.shape)),
    "sparse out-of-range index (corrupt CSR)": case(
        CRASH, r"corrupt CSR matrix: indices must be in \[0, 4\).*Rebuild", ours=ValueError,
        X=csr(indices=lambda a: changed(a, 5, 2**30))),
    "sparse readonly buffers": case(OK, X=csr(data=frozen, indices=frozen, indptr=frozen)),
    "sparse predict after dense fit": case(OK, ask=answer("predict", csr())),
    "sparse n_features mismatch": case(ValueError, "X has 3 features.* is expecting 4.*Give",
                                       ask=answer("predict", csr()[:, :3])),
    "pandas sparse df": case(OK, X=pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(X))),
    "sparse all-zero": case(OK, X=sparse.csr_array((60, 4))),
    # the rest
    "1 sample": case(ValueError, "needs samples of at least 2 classes", X=X[:1], y=y[:1]),
    "2 samples 2 classes": case(OK, X=X[:2], y=y[:2]),
    "constant feature cols": case(OK, X=np.full((60, 4), 7.0)),
    "coef inf then predict": case(OK, "overflows.*Scale X.*check coef_", ours=ValueError,
                                  ask=answer_with_infinite_coefficients),  # NaN there
    "X Xarray-like __array__ raising": case(ZeroDivisionError, "division by zero", X=Raises()),
    "X generator": case(TypeError, "not 'generator'.*a list of rows", X=(row for row in X)),
    "X set": case(TypeError, "not 'set'.*a list of rows", X={1, 2}),
    "X str": case(ValueError, "could not convert string.*Encode", X="abc"),
    "X None": case(ValueError, "Expected 2D array.*Reshape", X=None),
}

OTHERS = {
    # X
    "X float32 NaN": case(ValueError, "X contains NaN", X=changed(X, (3, 1), np.nan, np.float32)),
    "X inf and -inf": case(ValueError, "X contains infinity.*[Rr]eplace",
                           X=changed(X, (3, slice(2)), [np.inf, -np.inf])),
    "X longdouble beyond float64": case(
        ValueError, "X contains infinity",
        X=X.astype(np.longdouble) * np.finfo(np.longdouble).max ** 0.5),
    "X frame of objects with NA": case(
        TypeError, "NAType.*Give an array", X=pd.DataFrame(changed(X, (3, 1), pd.NA, object))),
    "X 1e307": own(ValueError, "scale X", X=X * 1e306),
    "X sparse 1e200": own(ValueError, "scale X", X=sparse.csr_array(X * 1e200)),
    "X zeros": case(OK, X=np.zeros((60, 4))),
    "sparse inf": case(ValueError, "X contains infinity.*[Rr]eplace",
                       X=sparse.csc_array(changed(X, (3, 1), np.inf))),
    # y
    "y object NaN": own(ValueError, "y contains missing", y=changed(NAMES, 4, np.nan, object)),
    "y categories NaN": own(ValueError, "y contains missing",
                            y=pd.Categorical(["a", None, "b"] * 20)),
    "y scalar": case(ValueError, "should be a 1d array", y=3),
    "y sparse": case(TypeError, "y", y=sparse.csr_array(y[:, None])),
    "y empty string": case(OK, y=np.array(["", "a", "b"])[y]),
    # soft targets
    "masses": own(OK, y=MASSES),
    "masses list": own(OK, y=MASSES.tolist()),
    "masses negative": own(ValueError, r"y of shape \(60, 3\).*negative.*-0.5: clip",
                           y=changed(MASSES, (3, 1), -0.5)),
    "masses NaN": own(ValueError, r"y of shape \(60, 3\) must hold soft.*y contains NaN",
                      y=changed(MASSES, (3, 1), np.nan)),
    "masses inf": own(ValueError, r"y of shape \(60, 3\) must hold soft.*y contains infinity",
                      y=changed(MASSES, (3, 1), np.inf)),
    "masses NA": own(ValueError, r"y of shape \(60, 3\) must hold soft.*y contains NaN",
                     y=pd.DataFrame(MASSES).astype("Float64").mask(MASSES > 0.9)),
    "masses None": own(ValueError, r"y of shape \(60, 2\).*y contains NaN",
                       y=np.full((60, 2), None)),
    "masses words": own(ValueError, r"y of shape \(60, 2\) must hold soft.*Labels have one dim",
                        y=np.column_stack([NAMES, NAMES])),
    "masses complex": own(ValueError, "y of shape.*Complex data not supported", y=MASSES + 0j),
    "masses 3-D": own(ValueError, r"y of shape \(60, 3, 1\).*one column per", y=MASSES[:, :, None]),
    "masses no column": own(ValueError, r"y of shape \(60, 0\).*at least two", y=MASSES[:, :0]),
    "masses one column": own(ValueError, r"y of shape \(60, 1\).*no labels.*column_stack",
                             y=MASSES[:, :1]),
    "masses short": own(ValueError, r"inconsistent numbers of samples: \[60, 59\]", y=MASSES[1:]),
    "masses ragged": own(ValueError, "y has rows of different lengths.*one column per class",
                         y=[[1.0, 2.0], [1.0]] * 30),
    "masses zero": own(ValueError, "y holds no mass.*at least one", y=0.0 * MASSES),
    "masses huge": own(ValueError, "soft targets in y.*infinity. Divide y", y=MASSES + 1e308),
    "masses sparse": own(TypeError, "passed for y.*toarray", y=sparse.csr_array(MASSES)),
    "indicators sparse": own(TypeError, "passed for y.*toarray",
                             y=sparse.csr_array(np.eye(3, dtype=int)[y])),
    "masses equal names": own(ValueError, "y has several columns of the same name: a.*rename",
                              y=pd.DataFrame(MASSES, columns=["a", "b", "a"])),
    "masses weights zero": own(ValueError, "at least one non-zero", y=MASSES,
                               sample_weight=0 * ONES),
    "masses weight negative": own(ValueError, "sample_weight.*convex", y=MASSES,
                                  sample_weight=changed(ONES, 0, -1)),
    "masses weights short": own(ValueError, r"sample_weight.shape == \(59,\)", y=MASSES,
                                sample_weight=ONES[1:]),
    "masses class_weight": own(ValueError, "not in class_weight", y=MASSES,
                               params={"class_weight": {7: 1}}),
    "masses class_weight negative": own(ValueError, "class_weight.*finite", y=MASSES,
                                        params={"class_weight": {0: -1.0}}),
    "masses class_weight zeros": own(ValueError, "times class_weight", y=MASSES,
                                     params={"class_weight": dict.fromkeys(range(3), 0)}),
    # offset
    "offset": own(OK, offset=OFFSET),
    "offset frame": own(OK, offset=pd.DataFrame(OFFSET)),
    "offset 1-D": own(ValueError, r"offset must.* \(60, 3\); got shape \(60,\)", offset=ONES),
    "offset short": own(ValueError, r"offset must.* \(60, 3\); got shape \(59, 3\)",
                        offset=OFFSET[1:]),
    "offset narrow": own(ValueError, r"offset must.* \(60, 3\); got shape \(60, 2\)",
                         offset=OFFSET[:, 1:]),
    "offset scalar": own(ValueError, r"offset must.*got shape \(\)", offset=0.5),
    "offset 3-D": own(ValueError, r"offset must.*got shape \(60, 3, 1\)",
                      offset=OFFSET[:, :, None]),
    "offset ragged": own(ValueError, "offset must.*inhomogeneous", offset=[[1.0], [1.0, 2.0]] * 30),
    "offset NaN": own(ValueError, r"offset must.*finite.*contains NaN",
                      offset=changed(OFFSET, (3, 1), np.nan)),
    "offset inf": own(ValueError, r"offset must.*finite.*contains infinity",
                      offset=changed(OFFSET, (3, 1), -np.inf)),
    "offset words": own(ValueError, "offset must.*could not convert", offset=np.full((60, 3), "a")),
    "offset complex": own(ValueError, "offset must.*Complex data", offset=OFFSET + 1j),
    "offset sparse": own(TypeError, "offset must.*sparse", offset=sparse.csr_array(OFFSET)),
    "offset three columns": own(ValueError, r"\(60, 2\) or \(60, 1\) or \(60,\); got .*\(60, 3\)",
                                y=y > 0, offset=OFFSET),
    "offset difference": own(ValueError, "offset.*overflows float64.*clip", y=y > 0,
                             offset=np.tile([1e308, -1e308], (60, 1))),
    "offset huge": own(ValueError, "X or offset", offset=np.outer(ONES, [1e308, -1e308, 0.0])),
    # sample_weight
    "weight scalar NaN": own(ValueError, "sample_weight is nan.*finite", sample_weight=np.nan),
    "weight scalar inf": own(ValueError, "sample_weight is inf.*finite", sample_weight=np.inf),
    "weight scalar negative": own(ValueError, "sample_weight.*convex", sample_weight=-1.0),
    "weights inf and -inf": case(ValueError, "sample_weight contains inf.*finite",
                                 sample_weight=changed(ONES, slice(2), [np.inf, -np.inf])),
    "weights complex": case(ValueError, "Complex data not supported.*sample_weight",
                            sample_weight=ONES * 1j),
    "weights float32": case(OK, sample_weight=ONES.astype(np.float32)),
    "weights huge, balanced": own(ValueError, "class_weight='balanced' overflows.*Divide",
                                  sample_weight=1e308 * ONES, params={"class_weight": "balanced"}),
    "weights huge, class_weight": own(ValueError, "class_weight={0: 9.0} overflows.*Divide",
                                      sample_weight=1e308 * ONES,
                                      params={"class_weight": {0: 9.0}}),
    "weight negative, balanced": own(ValueError, "sample_weight.*convex",
                                     sample_weight=changed(ONES, 0, -20),
                                     params={"class_weight": "balanced"}),
    # class_weight
    "class_weight incomplete": case(ValueError, r"\[1, 2\].*not in class_weight.*labels that occur",
                                    params={"class_weight": {0: 1, 7: 2}}),
    "class_weight list": bad_parameter("class_weight", [1, 2, 3]),
    "class_weight word": case(ValueError, "could not convert.*numbers",
                              params={"class_weight": {0: "a"}}),
    "class_weight NaN": own(ValueError, "class_weight.*finite",
                            params={"class_weight": {0: np.nan}}),
    "class_weight inf": own(ValueError, "class_weight.*finite",
                            params={"class_weight": {0: np.inf}}),
    "class_weight zeros": own(ValueError, "non-zero",
                              params={"class_weight": dict.fromkeys(range(3), 0)}),
    "class_weight partial": case(OK, params={"class_weight": {1: 3.0}}),
    "class_weight empty": case(OK, params={"class_weight": {}}),
    # parameters
    "C None": bad_parameter("C", None),
    "C 1e-320": own(ValueError, "Increase C", params={"C": 1e-320}),
    "C 1e300": case(OK, params={"C": 1e300}, like={"params": {"C": np.inf}}),
    "C 1e-10": case(OK, params={"C": 1e-10}),
    "tol NaN": bad_parameter("tol", np.nan),
    "tol inf": bad_parameter("tol", np.inf),
    "tol 0": case(OK, params={"tol": 0.0}, like={"params": {}}),
    "max_iter 1.5": bad_parameter("max_iter", 1.5),
    "max_iter None": bad_parameter("max_iter", None),
    "l1_ratio negative": bad_parameter("l1_ratio", -1),
    "l1_ratio 2": bad_parameter("l1_ratio", 2),
    "l1_ratio word": bad_parameter("l1_ratio", "a"),
    "fit_intercept word": bad_parameter("fit_intercept", "yes"),
    "warm_start word": bad_parameter("warm_start", "yes"),
    "verbose negative": bad_parameter("verbose", -1),
    "random_state word": bad_parameter("random_state", "a"),
    "solver word": bad_parameter("solver", "newton"),
    "n_jobs 1.5": bad_parameter("n_jobs", 1.5),
    "n_jobs word": bad_parameter("n_jobs", "all"),
    "n_jobs 0": own(ValueError, "n_jobs.*use None", params={"n_jobs": 0}),  # it has an effect here
    # parameters of ours
    "smoothing 1": own(InvalidParameterError, r"'label_smoothing'.*range \[0.0, 1.0\).*Got 1.0",
                       params={"label_smoothing": 1.0}),
    "smoothing negative": own(InvalidParameterError, "'label_smoothing'.*Got -0.1",
                              params={"label_smoothing": -0.1}),
    "smoothing NaN": own(InvalidParameterError, "'label_smoothing'.*Got nan",
                         params={"label_smoothing": np.nan}),
    "smoothing word": own(InvalidParameterError, "'label_smoothing'.*Got 'a'",
                          params={"label_smoothing": "a"}),
    "factors": own(OK, params={"penalty_weights": [0, 1, 2, 3]}),
    "factors short": own(ValueError, r"penalty_weights must.*per feature, 4.*shape \(3,\)",
                         params={"penalty_weights": np.ones(3)}),
    "factors 2-D": own(ValueError, r"penalty_weights must.*per feature, 4.*shape \(1, 4\)",
                       params={"penalty_weights": np.ones((1, 4))}),
    "factors negative": own(ValueError, r"penalty_weights\[2\] is -1.0. To leave a feature out",
                            params={"penalty_weights": [1, 1, -1, 1]}),
    "factors NaN": own(ValueError, r"penalty_weights\[2\] is nan",
                       params={"penalty_weights": [1, 1, np.nan, 1]}),
    "factors inf": own(ValueError, r"penalty_weights\[0\] is inf.*bounds",
                       params={"penalty_weights": [np.inf, 1, 1, 1]}),
    "factors None inside": own(ValueError, r"penalty_weights\[3\] is nan",
                               params={"penalty_weights": [1, 1, 1, None]}),
    "factors words": own(ValueError, "penalty_weights must.*could not convert",
                         params={"penalty_weights": list("abcd")}),
    "factors complex": own(ValueError, "penalty_weights must.*complex128 is not real",
                           params={"penalty_weights": np.ones(4) * 1j}),
    "factors scalar": own(InvalidParameterError, "'penalty_weights'.*Got 2.0",
                          params={"penalty_weights": 2.0}),
    "factors huge": own(ValueError, "penalty_weights.*overflows: C=1e-05.*Increase C",
                        params={"penalty_weights": np.full(4, 1e308), "C": 1e-5}),
    "positive word": own(InvalidParameterError, "'positive'.*Got 'yes'",
                         params={"positive": "yes"}),
    "bounds": own(OK, params={"bounds": [np.zeros(4), np.inf]}),
    "bounds cross": own(ValueError, r"bounds.*coef_\[0, 0\]: from 1.0 to 0.0. No lower",
                        params={"bounds": (1.0, 0.0)}),
    "bounds cross once": own(ValueError, r"bounds.*coef_\[0, 2\]: from 0.0 to -1.0",
                             params={"bounds": (0.0, [1.0, 1.0, -1.0, 1.0])}),
    "bounds cross 0": own(ValueError, "bounds.*from 0.0 to -1.0, with positive=True",
                          params={"bounds": (-2.0, -1.0), "positive": True}),
    "bounds NaN": own(ValueError, "bounds.*from nan to 1.0.*-np.inf",
                      params={"bounds": (np.nan, 1)}),
    "bounds None inside": own(ValueError, "bounds.*not NaN or None",
                              params={"bounds": (0.0, None)}),
    "bounds both inf": own(ValueError, "bounds leave no number",
                           params={"bounds": (np.inf, np.inf)}),
    "bounds both -inf": own(ValueError, "bounds leave no number",
                            params={"bounds": (-np.inf, -np.inf)}),
    "bounds short": own(ValueError, r"bounds.*coef_, \(3, 4\): .*shape \(3,\)",
                        params={"bounds": (0.0, np.zeros(3))}),
    "bounds 3-D": own(ValueError, r"bounds.*coef_, \(3, 4\)",
                      params={"bounds": (0, np.ones((2, 3, 4)))}),
    "bounds words": own(ValueError, r"bounds must hold numbers.*'a'",
                        params={"bounds": ("a", 1.0)}),
    "bounds complex": own(ValueError, "bounds must hold numbers.*not real",
                          params={"bounds": (1j, 1)}),
    "bounds three": own(ValueError, r"bounds must be a pair \(lower, upper\), got 3",
                        params={"bounds": (0.0, 1.0, 2.0)}),
    "bounds pairs": own(ValueError, r"bounds must be a pair.*got 4.*bound per feature",
                        params={"bounds": [(0.0, 1.0)] * 4}),
    "bounds number": own(InvalidParameterError, "'bounds'.*'tuple'.*Got 0.5",
                         params={"bounds": 0.5}),
    "bounds array": own(InvalidParameterError, "'bounds'.*'tuple'.*Got array",
                        params={"bounds": np.array([[0.0] * 4, [1.0] * 4])}),
    **{
        f"{name} {solver}": own(
            ValueError, f"Solver {solver} supports neither bounds nor positive.*Use solver='auto'",
            params={"solver": solver, **given})
        for solver in ("lbfgs", "newton-cg", "newton-cholesky", "sag")
        for name, given in (("bounds", {"bounds": (0, 1)}), ("positive", {"positive": True}))
    },
}
# fmt: on
