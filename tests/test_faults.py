"""Faults in a fit: a typed error and an estimator as it was, or a warning and a finite model."""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import json
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from child import run_python
from routes import ROUTES
from sklearn.exceptions import ConvergenceWarning

import fastsoftmax
from fastsoftmax import LogisticRegressionCV, functional
from fastsoftmax._designs.ascent import DualAscent
from fastsoftmax._designs.dense import DenseDesign
from fastsoftmax._designs.sparse import SparseDesign
from fastsoftmax._kernels import solver as compiled_solver
from fastsoftmax._linalg import Cholesky, NotPositiveDefiniteError
from fastsoftmax.linear_model import _logistic, _small

every_route = pytest.mark.parametrize("name", ROUTES)


class Patient:
    """A model fitted by a route, to be fitted again under faults."""

    def __init__(self, name, **params):
        self.route = ROUTES[name]
        self.X, self.y = (part.copy() for part in self.route.make())
        self.model = self.route.model(**params)
        with self.route.taken():
            self.model.fit(self.X, self.y)
        self._before = dict(vars(self.model))

    def fit(self, fault, typed=()):
        """Fit under a fault; return the error, if it is one of `typed`, and else None.

        After an error the attributes must be those of before. Else the model is finite, and there
        was one warning if the fit did not converge, and none if it did or was stopped.
        """
        before = dict(vars(self.model))
        with self.route.taken(), fault, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.model.fit(self.X, self.y)
            except typed as error:
                assert list(vars(self.model)) == list(before)
                assert all(vars(self.model)[name] is value for name, value in before.items())
                return error
        for name in ("coef_", "intercept_", "objective_", "gradient_norm_"):
            assert np.all(np.isfinite(getattr(self.model, name))), name
        is_silent = self.model.converged_ or self.model.status_.startswith("The caller asked")
        assert [w.category for w in caught] == [] if is_silent else [ConvergenceWarning]
        return None

    def is_well(self):
        """Assert that the model can be fitted as if nothing had happened."""
        with self.route.taken():
            self.model.fit(self.X, self.y)
        for name in ("coef_", "intercept_", "n_iter_"):
            np.testing.assert_array_equal(getattr(self.model, name), self._before[name])


# --- No memory ------------------------------------------------------------------------------------

ALLOCATORS = ("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "concatenate", "einsum")


class Allocations:
    """Counts what NumPy allocates, and lets the n-th fail."""

    def __init__(self, failing=None):
        self.n, self._failing = 0, failing

    @contextlib.contextmanager
    def watched(self):
        with contextlib.ExitStack() as stack:
            for name in ALLOCATORS:
                watched = self._watched(getattr(np, name))
                stack.enter_context(mock.patch.object(np, name, watched))
            yield

    def _watched(self, allocate):
        @functools.wraps(allocate)
        def wrapper(*args, **options):
            self.n += 1
            if self.n == self._failing:
                raise MemoryError("injected")
            return allocate(*args, **options)

        return wrapper


def places(n):
    """Return some of the numbers 1 to n: the first two, the last, and between."""
    return sorted({1, 2, n, *np.linspace(1, n, 8).astype(int).tolist()})


@every_route
def test_a_fit_without_memory(name):
    patient = Patient(name)
    count = Allocations()
    assert patient.fit(count.watched()) is None
    assert count.n > 20
    for place in places(count.n):
        error = patient.fit(Allocations(failing=place).watched(), MemoryError)
        assert str(error) == "injected"
    patient.is_well()


@pytest.mark.parametrize("name", ["compiled", "sparse"])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
def test_a_prediction_without_memory(name, method):
    patient = Patient(name)
    predict = getattr(patient.model, method)
    expected, count = predict(patient.X), Allocations()
    with count.watched():
        predict(patient.X)
    for place in places(count.n):
        with Allocations(failing=place).watched(), pytest.raises(MemoryError, match="injected"):
            predict(patient.X)
    np.testing.assert_array_equal(predict(patient.X), expected)


def test_a_search_without_memory():
    X, y = ROUTES["compiled"].make()
    model = LogisticRegressionCV(Cs=[0.1, 1.0], cv=3, l1_ratios=(0.0,), scoring="accuracy",
                                 use_legacy_attributes=False)  # fmt: skip
    count = Allocations()
    with count.watched():
        model.fit(X, y)
    before = dict(vars(model))
    for place in places(count.n):
        with Allocations(failing=place).watched(), pytest.raises(MemoryError, match="injected"):
            model.fit(X, y)
        assert vars(model).keys() == before.keys()
        assert all(vars(model)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(model.fit(X, y).coef_, before["coef_"])


def test_a_thread_without_memory_for_its_scratch_is_noticed(monkeypatch):
    """The only kernel that allocates by itself; Numba forgets an error inside its threads."""
    monkeypatch.setattr(functional, "sweep", lambda *arguments: None)  # all threads gave up
    with pytest.raises(MemoryError, match="no memory for its scratch"):
        functional.softmax(np.zeros((3, 4)))


LIMITED = """
import json, resource, warnings
import numpy as np
from scipy import sparse
from fastsoftmax import LogisticRegression, _threads

_threads._SERIAL_WORK = 0.0
rng = np.random.default_rng(0)
y = rng.integers(0, 3, 3000)
dense = rng.normal(size=(3000, 150)) + np.eye(3, 150)[y]
words = sparse.random_array((3000, 20_000), density=0.002, format="csr", random_state=0)
cases = [
    (LogisticRegression(tol=1e-3), dense),
    (LogisticRegression(tol=1e-3, solver="newton-cg"), dense),
    (LogisticRegression(tol=1e-3), dense[:200].repeat(4, axis=1)),
    (LogisticRegression(tol=1e-3), words),
    (LogisticRegression(tol=1e-2, l1_ratio=1.0, C=2.0), words),
]
warnings.simplefilter("ignore")
found = []
for model, X in cases:
    labels = y[: X.shape[0]]
    expected = model.fit(X, labels).coef_
    n_errors = 0
    for headroom in (0, 1, 8):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + headroom * 2**20, resource.RLIM_INFINITY))
        before = dict(vars(model))
        try:
            model.fit(X, labels)
        except MemoryError:
            n_errors += 1
            assert all(vars(model)[name] is value for name, value in before.items())
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        assert np.array_equal(model.coef_, expected)
    found.append(n_errors)
    assert np.array_equal(model.fit(X, labels).coef_, expected)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep RLIMIT_AS")
def test_fits_where_the_system_has_no_memory():
    # Arrays of 64 kB and more come from the system, and go back to it.
    environment = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    n_errors = json.loads(run_python(LIMITED, timeout=100, **environment))
    assert all(n > 0 for n in n_errors), n_errors


# --- Numbers that are none ------------------------------------------------------------------------


class Spoiled:
    """Spoils what passes over X return: the n-th, or all from the n-th on.

    Parameters
    ----------
    first : int
    what : {'value', 'gradient', 'infinite gradient', 'rising'}
        NaN, NaN, infinity, or a value that is larger each time.
    lasts : bool
    """

    def __init__(self, first, what, lasts):
        self.n, self._first, self._what, self._lasts = 0, first, what, lasts

    @contextlib.contextmanager
    def passes(self):
        with contextlib.ExitStack() as stack:
            for owner in (DenseDesign, SparseDesign):
                self._patch(stack, owner, "loss_and_gradient", self._spoil_pair)
            self._patch(stack, SparseDesign, "mean_loss_into", self._spoil_into)
            self._patch(stack, DualAscent, "epoch", self._spoil_found)
            stack.enter_context(mock.patch.object(_small.kernels, "minimize", hand_over))
            yield

    def _patch(self, stack, owner, name, spoil):
        original = getattr(owner, name)

        def method(design, *arguments):
            result = original(design, *arguments)
            self.n += 1
            is_spoiled = self.n >= self._first if self._lasts else self.n == self._first
            return spoil(result, *arguments) if is_spoiled else result

        stack.enter_context(mock.patch.object(owner, name, method))

    def _value(self, value):
        return {"value": np.nan, "rising": value + 1e6 * self.n}.get(self._what, value)

    def _spoil_gradient(self, gradient):
        gradient.flat[0] = {"gradient": np.nan, "infinite gradient": np.inf}.get(
            self._what, gradient.flat[0]
        )

    def _spoil_pair(self, result, *arguments):
        self._spoil_gradient(result[1])
        return self._value(result[0]), result[1]

    def _spoil_into(self, value, *arguments):
        self._spoil_gradient(arguments[-1])
        return self._value(value)

    def _spoil_found(self, found, *arguments):
        self._spoil_gradient(found.intercept_gradient)
        return found._replace(gap=self._value(found.gap))


def hand_over(first, last, *arguments):
    """Let the compiled solver give up at once: its passes cannot be spoiled."""
    arguments[-2][compiled_solver.STATUS] = compiled_solver.HAND_OVER


hand_over.overloads = ()  # as a compiled function has


@every_route
@pytest.mark.parametrize("what", ["value", "gradient", "infinite gradient", "rising"])
def test_a_spoiled_pass_is_tried_again(name, what):
    patient = Patient(name)
    optimum = patient.model.objective_
    for first in (2, 4):
        spoiled = Spoiled(first, what, lasts=False)
        assert patient.fit(spoiled.passes()) is None
        assert patient.model.converged_
        # Within what `tol` allows, twice.
        assert patient.model.objective_ <= optimum * (1.0 + 0.02 * patient.model.tol)
    patient.is_well()


@every_route
@pytest.mark.parametrize("what", ["value", "gradient", "infinite gradient"])
def test_a_first_pass_that_is_not_finite_is_refused(name, what):
    patient = Patient(name)
    if name.startswith("dual"):
        assert patient.fit(Spoiled(1, what, lasts=False).passes()) is None
        assert patient.model.converged_  # the primal solver has gone on
    else:
        error = patient.fit(Spoiled(1, what, lasts=False).passes(), ValueError)
        assert "cannot start" in str(error)
    patient.is_well()


@every_route
@pytest.mark.parametrize("what", ["value", "gradient", "infinite gradient", "rising"])
def test_passes_that_stay_spoiled_end_in_a_warning_or_an_error(name, what):
    patient = Patient(name)
    for first in (2, 4):
        error = patient.fit(Spoiled(first, what, lasts=True).passes(), ValueError)
        if error is None:
            assert not patient.model.converged_
    patient.is_well()


def at_iteration(number, act):
    """Return a context in which a verbose fit calls `act` at an iteration."""

    def on_iteration(state):
        return act() if state.iteration == number else None

    return mock.patch.object(_logistic, "print_progress", on_iteration)


@every_route
@pytest.mark.parametrize("iteration", [0, 1, 3])
def test_an_x_that_becomes_nan_during_the_fit(name, iteration):
    """As if another thread wrote to it."""
    patient = Patient(name, verbose=1)
    numbers = patient.X.data if hasattr(patient.X, "tocsr") else patient.X
    before = numbers.copy()

    def spoil():
        numbers[...] = np.nan

    error = patient.fit(at_iteration(iteration, spoil), ValueError)
    # Some routes have copied what they read; whoever has not must notice.
    is_noticed = error is not None or not patient.model.converged_
    assert is_noticed or name in ("dual", "vocabulary")
    numbers[...] = before
    patient.is_well()


@pytest.mark.parametrize("name", [name for name in ROUTES if "L1" in name] + ["bounds"])
def test_a_hessian_that_overflows_is_refused_and_not_called_converged(name):
    """At coefficients of 0 neither the objective nor its gradient overflow."""
    route = ROUTES[name]
    X, y = route.make()
    with route.taken(), pytest.raises(ValueError, match=r"the Hessian overflows.*scale X"):
        route.model().fit(X * 1e160, y)


# --- Factors, and steps that lead nowhere ---------------------------------------------------------


@contextlib.contextmanager
def failing_factors(first):
    """Let all factors fail from the n-th on."""
    original, count = Cholesky.__init__, itertools.count(1)

    def init(self, matrix):
        if next(count) >= first:
            raise NotPositiveDefiniteError("injected")
        original(self, matrix)

    with mock.patch.object(Cholesky, "__init__", init):
        yield


@every_route
def test_factors_that_fail_whatever_is_added_to_the_diagonal(name):
    patient = Patient(name)
    for first in (1, 3):
        error = patient.fit(failing_factors(first), ValueError)
        assert error is None or "not positive definite" in str(error)
    patient.is_well()


@every_route
def test_no_step_lowers_the_objective(name):
    patient = Patient(name)
    assert patient.fit(Spoiled(3, "rising", lasts=True).passes()) is None
    assert patient.model.status_.startswith("No step along the search direction lowers")
    patient.is_well()


# --- Callbacks ------------------------------------------------------------------------------------


class Deadline:
    """A callback that stops a fit when a clock has reached a time."""

    def __init__(self, clock, end):
        self._clock, self._end = clock, end

    def __call__(self, state):
        return self._clock() >= self._end


@every_route
@pytest.mark.parametrize("end", [0, 2])
def test_a_limit_of_time(name, end):
    patient = Patient(name, verbose=1)
    deadline = Deadline(itertools.count().__next__, end)
    assert patient.fit(mock.patch.object(_logistic, "print_progress", deadline)) is None
    assert patient.model.status_.startswith("The caller asked to stop")
    assert patient.model.n_iter_ == [end]
    patient.is_well()


@every_route
@pytest.mark.parametrize("kind", [KeyError, MemoryError, KeyboardInterrupt])
def test_a_callback_that_raises(name, kind):
    patient = Patient(name, verbose=1)

    def fail():
        raise kind("from the callback")

    for iteration in (0, 2):
        error = patient.fit(at_iteration(iteration, fail), kind)
        assert error.args == ("from the callback",)
    patient.is_well()


# --- What kernels may not do ----------------------------------------------------------------------

PACKAGE = Path(fastsoftmax.__file__).parent
KERNELS = sorted((PACKAGE / "_kernels").glob("*.py"))


def functions_of(source):
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("source", KERNELS, ids=lambda source: source.name)
def test_kernels_raise_nothing_and_return_statuses(source):
    """Numba's threads lose an exception: half of the result is missing then, without a word."""
    forbidden = ast.Raise | ast.Assert | ast.Try
    found = [
        node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, forbidden)
    ]
    assert not found


def test_the_kernels_that_allocate_are_known():
    """Those have to be looked after: a status that is written last tells whether they got memory.

    `padded_zeros`, `aligned_zeros` and `plan` are for Python.
    """
    allocators = {"empty", "zeros", "ones", "full", "array", "arange", "concatenate", "copy"}
    found = {
        (source.stem, function.name)
        for source in KERNELS
        for function in functions_of(source)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in allocators
    }
    for_python = {("tiles", "padded_zeros"), ("csr", "aligned_zeros"), ("softmax", "plan")}
    plain = {("tiles", "forward_tile")}  # what vector code takes the place of
    assert found == {("softmax", "map")} | for_python | plain


def test_nothing_but_a_bare_call_runs_in_numbas_threads():
    found = []
    for source in PACKAGE.rglob("*.py"):
        for function in functions_of(source):
            loops = [node for node in ast.walk(function) if isinstance(node, ast.For)]
            for loop in loops:
                if "prange" in ast.unparse(loop.iter):
                    found.append((source.stem, function.name, ast.unparse(loop.body)))
    call = "call(address, np.int64(unit), np.int64(unit) + 1, arguments)"
    assert found == [("_jit", "_launch", call)]
    text = "".join(source.read_text() for source in PACKAGE.rglob("*.py"))
    assert text.count("numba.prange") == 1
