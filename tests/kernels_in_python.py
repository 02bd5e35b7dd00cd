"""Every kernel as plain Python on tiny shapes, beside the oracle, with indices looked at.

`run` is for a process of its own with ``NUMBA_DISABLE_JIT=1``; see `test_kernels_in_python`.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import coverage
import numba
import numpy as np

KERNELS = Path(__file__).parents[1] / "fastsoftmax" / "_kernels"


class Checked(np.ndarray):
    """An array that refuses indices below 0, which would count from the end.

    Those beyond the end NumPy itself refuses, and writing to read-only inputs; compiled code looks
    for none of these.
    """

    def __getitem__(self, index):
        refuse_negative(index)
        return super().__getitem__(index)

    def __setitem__(self, index, value):
        refuse_negative(index)
        super().__setitem__(index, value)


def refuse_negative(index):
    for part in index if type(index) is tuple else (index,):
        if type(part) is slice:
            is_negative = (part.start or 0) < 0 or (part.stop or 0) < 0
        elif isinstance(part, np.ndarray):
            is_negative = (part < 0).any()
        else:
            is_negative = part is not None and part < 0
        if is_negative:
            raise IndexError(f"a kernel counts from the end: {index}")


def checked(argument):
    return argument.view(Checked) if type(argument) is np.ndarray else argument


#: Drivers, by name, and how often they were called.
calls: dict[str, int] = {}


def plain_njit(**flags):
    """Stand for `numba.njit`: callees stay what they are, drivers get checked arrays."""
    is_callee = flags.get("no_cpython_wrapper", False)
    return (lambda function: function) if is_callee else watched


def watched(function):
    name = f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"
    calls[name] = 0

    @functools.wraps(function)
    def driver(*arguments):
        calls[name] += 1
        with np.errstate(all="ignore"):  # compiled code never warns
            function(*map(checked, arguments))

    return driver


def run():
    """Run all checks; return the lines of each file and those not run, and calls of drivers."""
    watch = coverage.Coverage(data_file=None, config_file=False, include=[f"{KERNELS}/*"])
    watch.start()
    with mock.patch.object(numba, "njit", plain_njit):
        import fastsoftmax  # noqa: F401  # only now: importing it defines the kernels
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check()
    watch.stop()
    return lines(watch), calls


def lines(watch):
    """Return, by file, the numbers of its statements and of those that did not run."""
    found = {}
    for source in sorted(KERNELS.glob("*.py")):
        _, statements, _, missing, _ = watch.analysis2(str(source))
        found[source.name] = [statements, missing]
    return found


# --- Sums over rows -------------------------------------------------------------------------------


def problems(kinds):
    import test_csr

    for n_rows, dtype, kind in itertools.product((1, 2, 3), (np.float32, np.float64), kinds):
        yield test_csr.make_problem(n_rows, dtype, kind), dtype, kind


def check_sums():
    """Loss, gradient, products and diagonals: dense and sparse, with gradients apart and in one."""
    import test_csr

    from fastsoftmax._designs import partition
    from fastsoftmax._designs import sparse as storage
    from fastsoftmax._kernels import csr

    for p, dtype, kind in problems(["finite weights", "weights soft offset"]):
        expected = test_csr.oracle_sums(p)
        for limit in (0.0, 2.0**60):
            with ExitStack() as stack:
                for module in (partition, storage):
                    stack.enter_context(mock.patch.object(module, "_GRADIENT_BYTES", limit))
                    stack.enter_context(mock.patch.object(module, "_GRADIENT_SHARE", 0.0))
                stack.enter_context(mock.patch.object(csr, "_PIECE", 16))
                for design in (p.dense, p.sparse()):
                    found = test_csr.all_sums(design, p, "weights soft" not in kind)
                    for name, sums in found.items():
                        test_csr.near(sums, expected[name], p, dtype)


def check_rows_without_weight():
    """Blocks of a fold that are skipped."""
    import test_csr

    from fastsoftmax._validation import check_weights

    for p, dtype, _ in problems(["plain"]):
        counts = np.arange(len(p.X)) >= 66  # a block and some rows more
        part = p._replace(weights=check_weights(counts.astype(float), p.X))
        part.oracle.weights = part.oracle.masses = counts.astype(float)
        expected = test_csr.oracle_sums(part)
        for design in (part.dense, part.sparse()):
            for name, sums in test_csr.all_sums(design, part).items():
                test_csr.near(sums, expected[name], part, dtype)


def check_second_order_sums():
    """Hessians and Gram matrices, from dense products and from products of non-zeros."""
    import test_csr

    from fastsoftmax._designs import curvature
    from fastsoftmax._designs import sparse as storage

    for p, dtype, _ in problems(["plain", "finite weights"]):
        (n_rows, D), model = p.params.shape, (p.coef, p.intercept)
        whole = p.oracle.loss_hessian(p.params) * p.scale
        blocks = whole.reshape(n_rows, D, n_rows, D)[range(n_rows), :, range(n_rows), :]
        size = max(1, n_rows - 1) * D
        for costs in ((0.0, 1.0), (1.0, 0.0)):
            with (
                mock.patch.object(curvature, "costs", lambda *_, costs=costs: costs),
                mock.patch.object(curvature, "csr_cost", lambda *_, costs=costs: 1e9 * costs[1]),
                mock.patch.object(storage, "_EXACT_PASSES", costs[0]),
            ):
                for design in (p.dense, p.sparse()):
                    test_csr.near(design.hessian(*model), whole[:size, :size], p, dtype)
                    grams = design.class_grams(*model, len(p.X), False)
                    test_csr.near(grams, blocks, p, dtype)
                    picked = design.class_grams(*model, 20, False)
                    assert np.all(np.isfinite(picked))


def check_predictions():
    import reference

    from fastsoftmax._designs.base import Response
    from fastsoftmax._designs.choose import predict

    for p, dtype, kind in problems(["plain", "offset"]):
        probabilities = reference.softmax(p.oracle.logits(p.params))
        expected = {
            Response.LOGITS: p.oracle.logits(p.params)[:, -len(p.coef) :],
            Response.PROBABILITIES: probabilities,
            Response.LOG_PROBABILITIES: np.log(probabilities),
            Response.LABELS: probabilities.argmax(axis=1),
        }
        model = p.coef.astype(dtype), p.intercept.astype(dtype)
        for X, (response, numbers) in itertools.product((p.X, p.sparse().X), expected.items()):
            found = predict(X, *model, response, p.offset)
            np.testing.assert_allclose(found, numbers, rtol=1e-4, atol=1e-5)
            if kind == "plain":
                assert_raises(ValueError, predict, X, model[0] * np.inf, model[1], response)


def assert_raises(kind, function, *arguments, **options):
    try:
        with np.errstate(all="ignore"):
            function(*arguments, **options)
    except kind:
        return
    raise AssertionError(f"{function} did not raise {kind}")


# --- Functions of arrays --------------------------------------------------------------------------


def check_functions():
    """Equations 1 to 6, by rows, by columns, folded and in segments."""
    import reference

    from fastsoftmax import functional
    from fastsoftmax._kernels import softmax as maps

    rng = np.random.default_rng(0)
    short = mock.patch.multiple(maps, LONGEST=200, SEGMENT=128)
    shapes = [(70, 3), (70, 11), (2, 5000), (3, 300)]
    for shape, dtype in itertools.product(shapes, (np.float32, np.float64)):
        z = (5.0 * rng.normal(size=shape)).astype(dtype)
        tolerance = {"rtol": 1e-4, "atol": 1e-6}
        P = reference.softmax(z)
        with short if shape == (3, 300) else nullcontext():
            for axis, logits in ((-1, z), (0, np.ascontiguousarray(z.T))):
                found = functional.softmax(logits, axis=axis)
                np.testing.assert_allclose(found if axis else found.T, P, **tolerance)
                found = functional.log_softmax(logits, axis=axis)
                np.testing.assert_allclose(found if axis else found.T, np.log(P), **tolerance)
                found = functional.logsumexp(logits, axis=axis)
                expected = z[:, 0] - np.log(P[:, 0])
                np.testing.assert_allclose(found, expected, **tolerance)
            for bad in (np.nan, np.inf):
                spoiled = z.copy()
                spoiled[1, 2] = bad
                for function in (functional.softmax, functional.logsumexp):
                    assert_raises(ValueError, function, spoiled)
            for row in ([-np.inf] * shape[1], [np.nan] + [-np.inf] * (shape[1] - 1)):
                spoiled = z.copy()
                spoiled[1] = row
                assert_raises(ValueError, functional.softmax, spoiled)


def check_losses():
    import reference

    from fastsoftmax import functional

    rng = np.random.default_rng(0)
    for dtype, n_classes in itertools.product((np.float32, np.float64), (3, 70)):
        z = rng.normal(size=(9, n_classes)).astype(dtype)
        labels, weights = rng.integers(0, n_classes, 9), np.arange(9.0)
        z[2, labels[2]] = 30.0  # all but certain
        shares = rng.dirichlet(np.ones(n_classes), 9).astype(dtype)
        shares[0] = np.eye(n_classes)[1]
        P = reference.softmax(z).astype(dtype)
        for targets in (labels, shares):
            Y = reference.one_hot(labels, n_classes) if targets is labels else shares
            w = weights / weights.sum()
            expected = {
                "cross_entropy": reference.cross_entropy(P, Y, weights),
                "cross_entropy_gradient": -w[:, None] * Y / P,
                "softmax_cross_entropy": reference.softmax_cross_entropy(z, Y, weights),
                "softmax_cross_entropy_gradient": reference.residual(z, Y, weights),
            }
            for name, numbers in expected.items():
                given = z if name.startswith("softmax") else P
                found = getattr(functional, name)(given, targets, sample_weight=weights)
                found = found[-1] if type(found) is tuple else found
                np.testing.assert_allclose(found, numbers, rtol=1e-4, atol=1e-6, err_msg=name)
            refuse_bad_rows(functional, z, P, targets)
        direction = rng.normal(size=P.shape).astype(dtype)
        J = reference.jacobian(P.astype(float))
        np.testing.assert_allclose(functional.softmax_jacobian(P), J, atol=1e-6)
        found = functional.softmax_jvp(P, direction)
        np.testing.assert_allclose(found, np.einsum("iab,ib->ia", J, direction), atol=1e-6)
        for bad in (P.copy(), direction.copy()):
            bad[0, 0] = np.nan
        assert_raises(ValueError, functional.softmax_jacobian, P - 1)
        assert_raises(ValueError, functional.softmax_jvp, P - 1, direction)
        assert_raises(ValueError, functional.softmax_jvp, P, direction * np.inf)


def refuse_bad_rows(functional, z, P, targets):
    """Each kind of number that is refused, and a probability of 0 where all the mass is."""
    is_soft = targets.ndim == 2
    for function in (functional.softmax_cross_entropy, functional.softmax_cross_entropy_gradient):
        for bad in (np.nan, np.inf):
            spoiled = z.copy()
            spoiled[1, 2] = bad
            assert_raises(ValueError, function, spoiled, targets)
        assert_raises(ValueError, function, np.full_like(z, -np.inf), targets)
        if is_soft:
            assert_raises(ValueError, function, z, targets - 1)
    for function in (functional.cross_entropy, functional.cross_entropy_gradient):
        assert_raises(ValueError, function, P - 1, targets)
        if is_soft:
            assert_raises(ValueError, function, P, targets - 1)
        assert not np.all(np.isfinite(function(np.zeros_like(P), targets)))


def check_exponentials():
    """What takes the place of the functions that plain Python calls; NumPy's are right."""
    from fastsoftmax._kernels import exp, log1p

    with np.errstate(all="ignore"):
        for dtype in (np.float32, np.float64):
            x = np.concatenate([-np.geomspace(1e-6, 60.0, 50), [0.0, -np.inf, -1e4]]).astype(dtype)
            suffix = np.dtype(dtype).name
            of_difference = getattr(exp, f"_exp_of_difference_{suffix}")
            pairs = [
                (getattr(exp, f"_exp_{suffix}"), np.exp, x),
                (functools.partial(of_difference, greatest=dtype(0)), np.exp, x),
                (getattr(log1p, f"_log1p_{suffix}"), np.log1p, -x),
            ]
            for function, expected, values in pairs:
                found = np.array([function(value) for value in values])
                few = 4 * float(np.finfo(dtype).eps)
                np.testing.assert_allclose(found, expected(values.astype(float)), rtol=few)


# --- Factors --------------------------------------------------------------------------------------


def check_factors():
    from fastsoftmax._linalg import Cholesky, NotPositiveDefiniteError

    rng = np.random.default_rng(0)
    for n in (33, 68):
        A = rng.normal(size=(n, n + 5))
        A = A @ A.T
        factor = Cholesky(A)
        np.testing.assert_allclose(factor.lower(), np.linalg.cholesky(A), rtol=1e-8, atol=1e-8)
        for right in (rng.normal(size=n), rng.normal(size=(5, n))):
            np.testing.assert_allclose(factor.solve(right) @ A, right, rtol=1e-7, atol=1e-7)
        assert_raises(NotPositiveDefiniteError, Cholesky, -A)


# --- Fits -----------------------------------------------------------------------------------------


def small_routes():
    """Return the routes of `routes`, over a few rows."""
    import routes

    few = {
        routes.dense: lambda **options: routes.dense(**{"n_samples": 30} | options),
        routes.wide: lambda: routes.dense(n_samples=20, n_features=60),
        routes.texts: lambda: routes.texts(n_samples=30, n_features=30),
    }
    for name, route in routes.ROUTES.items():
        make = few.get(route.make)
        if name == "compiled, one logit":
            make = functools.partial(few[routes.dense], n_classes=2)
        if name == "sparse":
            make = routes.rows_of(few[routes.dense])
        yield name, route._replace(make=make)


def callable_by_number():
    """Return a stand-in for addresses of machine code, and for calls of what is there."""
    drivers = []

    def machine_code(driver, arguments):
        drivers.append(driver)
        return len(drivers) - 1

    def call(address, first, last, arguments):
        drivers[address](first, last, *arguments)

    return SimpleNamespace(machine_code=machine_code, call=call)


def compiled_solver():
    """Let the solver of small problems run, although nothing is compiled."""
    from fastsoftmax._designs import compiled
    from fastsoftmax._kernels import solver
    from fastsoftmax.linear_model import _solve

    code, stack = callable_by_number(), ExitStack()
    stack.enter_context(mock.patch.object(compiled, "machine_code", code.machine_code))
    stack.enter_context(mock.patch.object(solver, "call", code.call))
    # Wide data are to be rotated first.
    stack.enter_context(
        mock.patch.object(_solve, "is_small", lambda problem: problem.n_features < 50)
    )
    return stack


def dense_of(X):
    return X.toarray() if hasattr(X, "toarray") else X


def check_fits():
    """Every route ends at the optimum: the gradient of the oracle says so."""
    import reference

    for name, route in small_routes():
        X, y = route.make()
        context = compiled_solver() if "compiled" in route.runs else ExitStack()
        with context, route.taken():
            model = route.model(tol=1e-5).fit(X, y)
        if "compiled" in route.runs:
            assert model.solver_ == route.runs
        assert model.converged_, name
        is_l1, strength = model.l1_ratio == 1.0, 1.0 / (model.C * len(y))
        oracle = reference.LinearModel(
            dense_of(X), np.eye(y.max() + 1)[y], l2=0.0 if is_l1 else strength
        )
        params = np.column_stack([model.coef_, model.intercept_])
        gradient, W = oracle.gradient(params)[:, :-1], model.coef_
        if is_l1:
            at_kink = np.maximum(np.abs(gradient) - strength, 0.0)
            gradient = np.where(W == 0.0, at_kink, gradient + strength * np.sign(W))
        if model.positive:
            gradient = np.where(W == 0.0, np.minimum(gradient, 0.0), gradient)
        assert np.abs(gradient).max() <= 2e-5, name


def check_descent_along_columns():
    """As in `check_fits`, where no Hessian of the active coordinates may be formed."""
    import routes

    from fastsoftmax._solvers import active_set

    X, y = routes.texts(n_samples=40, n_features=30)
    route = routes.ROUTES["L1, active columns"]
    with route.taken():
        expected = route.model(tol=1e-6).fit(X, y)
        for dtype, n_features in ((np.float64, 0), (np.float32, 0), (np.float64, 31)):
            with mock.patch.object(active_set, "_MOST_DENSE", n_features):
                model = route.model(tol=1e-6).fit(X.astype(dtype), y)
            np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-3)
            assert model.solver_ == route.runs


def check_compiled_solver():
    """Weights, offsets, a rebuilt factor, a limit, and all that makes it hand over."""
    import routes
    from sklearn.exceptions import ConvergenceWarning

    from fastsoftmax import LogisticRegression
    from fastsoftmax.linear_model import _logistic

    rng = np.random.default_rng(0)
    X, y = routes.dense(n_samples=40)
    weights = rng.integers(0, 3, 40)
    offset = rng.normal(size=(40, 3))
    scaled = X * np.geomspace(1e-3, 1e3, X.shape[1]) + 5.0
    cases = [
        (X, {"sample_weight": weights}, {}),
        (X, {"offset": offset}, {"fit_intercept": False}),
        (scaled, {}, {"C": 1e4, "tol": 1e-7}),  # more iterations than factors last
        (X, {}, {"tol": 0.0, "max_iter": 200}),  # until rounding stops it
        (1e-160 * X, {}, {"C": 1e308}),  # no curvature that a float could hold
        (np.repeat(X, 2, axis=1), {}, {"C": 1e12, "tol": 1e-8}),  # a singular factor
        (np.eye(3)[y], {}, {"C": 1e12, "tol": 1e-10}),  # far to go: longer and longer steps
    ]
    for A, given, params in cases:
        with compiled_solver():
            model = LogisticRegression(**{"tol": 1e-5} | params).fit(A, y, **given)
        expected = LogisticRegression(**{"solver": "lbfgs", "tol": 1e-5} | params)
        expected.fit(A, y, **given)
        assert "compiled" in model.solver_
        assert model.objective_ <= expected.objective_ + 1e-6
    with compiled_solver():
        assert_raises(ValueError, LogisticRegression().fit, np.sign(X) * 1e308, y)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = LogisticRegression(max_iter=2).fit(X, y)
        assert ([w.category for w in caught], model.n_iter_) == ([ConvergenceWarning], [2])
        spoiled = X.copy()

        def spoil(state):  # no step is any good then, nor a factor
            spoiled[state.iteration == 1] = np.nan

        with mock.patch.object(_logistic, "print_progress", spoil):
            assert_raises(ValueError, LogisticRegression(verbose=1).fit, spoiled, y)


def check_dual():
    """Two classes and three, labels and shares, with an offset and rows of weight 0."""
    import reference
    import routes

    from fastsoftmax.linear_model import _vocabulary

    rng = np.random.default_rng(0)
    for n_classes, is_soft in itertools.product((2, 3), (False, True)):
        X, y = routes.texts(n_classes, n_samples=40, n_features=30)
        n_rows = 1 if n_classes == 2 else n_classes
        offset, weights = rng.normal(size=(40, n_rows)), rng.integers(0, 3, 40).astype(float)
        targets = rng.dirichlet(np.ones(n_classes), 40) if is_soft else np.eye(n_classes)[y]
        with mock.patch.object(_vocabulary, "GRAM_COLUMNS", 5):
            model = routes.LogisticRegression(C=0.3, tol=1e-4)
            model.fit(X, targets if is_soft else y, weights, offset)
        assert model.solver_.startswith("dual")
        assert model.converged_
        l2 = 1.0 / (0.3 * weights.sum())
        oracle = reference.LinearModel(X.toarray(), targets, weights, l2, offset)
        gradient = oracle.gradient(np.column_stack([model.coef_, model.intercept_]))
        assert np.abs(gradient).max() <= 2e-4


# --- What writes vector code ----------------------------------------------------------------------


def compile_vector_code():
    """Compile what plain Python has twins for; return the lines of files and those not run."""
    watch = coverage.Coverage(data_file=None, config_file=False, include=[f"{KERNELS}/*"])
    watch.start()
    import fastsoftmax  # noqa: F401  # only now: importing it defines the kernels

    # Else some versions of Numba would report every line that they compile.
    nobody = mock.patch.object(coverage.Coverage, "current", return_value=None)
    for dtype in (np.float32, np.float64):
        with nobody:
            plain, compiled = (use_twins(decorate, dtype) for decorate in (lambda f: f, numba.njit))
        for a, b in zip(plain, compiled, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    watch.stop()
    return lines(watch)


def use_twins(decorate, dtype):
    """Return what a function finds that calls all of them once, compiled or not."""
    from fastsoftmax._kernels import csr, exp, log1p, tiles, vectors

    def twins(X, params, logits, gradient, indices, table, out):
        vectors.prefetch(X, 0, 0)
        tiles.forward_tile(X, 0, 4, params, 0, 2, logits, 0, 4)
        tiles.backward_tile(X, 0, 5, 0, 7, logits, 0, 2, gradient)
        csr.gather(X[0], indices, 0, 5, table, 0, 1, out, 0)
        csr.scatter(X[1], indices, 0, 5, table, 2, 0, 1, out)
        out[2, 0] = exp.exp_nonpositive(-X[2, 0]) + log1p.log1p_nonnegative(X[2, 1])
        out[2, 1] = exp.exp_of_difference(X[2, 2], X[2, 3])
        # All that depends on the CPU, and so differs from its twin, is used.
        return tiles.most_classes(X) + vectors.vector_lanes(X)

    rng = np.random.default_rng(0)
    X = np.sort(rng.random((5, 7))).astype(dtype)
    params, table, out = (
        csr.aligned_zeros(shape, np.dtype(dtype)) for shape in ((2, 16), (9, 8), (3, 8))
    )
    params[:, :8] = rng.normal(size=(2, 8))
    table[:] = rng.normal(size=(9, 8))
    logits, gradient = np.zeros((2, 8), dtype), np.zeros((2, 16), dtype)
    indices = np.array([0, 2, 1, 2, 0], np.int32)
    assert decorate(twins)(X, params, logits, gradient, indices, table, out) > 4
    return logits[:, :5], gradient[:, :7], out
