"""The optimum f* that sub-optimality is measured from: Newton's method in float64 NumPy.

It shares no code with any library. The dense Hessian is factorised while ``n_params`` is
small; beyond that each Newton system is solved by conjugate gradients, preconditioned with
the Hessian of every 8th row, with one weighted Gram matrix per class where there are many
params, or with the Hessian's diagonal where X is wide or sparse.

The certificate is the Newton decrement ``g' H^-1 g / 2``, which estimates ``f - f*`` and, unlike
a gradient norm, does not depend on the scale of the features. With millions of params a system
that is solved well enough for it takes minutes. There it is a bound that holds at any params,
``f - f* <= |g_W|^2 / (2 l2)``, with the intercepts that are best for the coefficients
(`duality_gap`).

References
----------
Boyd & Vandenberghe, Convex Optimization, section 9.5 (decrement, algorithm 9.5).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.sparse
from threadpoolctl import threadpool_limits

from bench.problems import Array, Matrix, Problem, row_blocks
from bench.score import (
    Float64Array,
    class_logits,
    columns_of,
    dense_or_sparse_float64,
    l2_of,
    log_probabilities,
    objective,
    value_and_gradient,
    width_of,
)

TOLERANCE = 1e-12  # of the decrement, relative to f
# n_params from which the gap certifies, and down to what, relative to f: a hundredth of what a time
# to 1e-6 could notice.
LARGE_PARAMS = 1_000_000
GAP_TOLERANCE = 1e-9
NEAR = 1e-3  # relative decrement up to which a start needs no steps on fewer rows
DENSE_PARAMS = 2500  # n_params up to which the full Hessian is built: 50 MB
# With many rows the Hessian of every 8th one is the preconditioner: flights' full one is
# n (K d)^2 = 5e11 flops, a product with it 2e9, and a dozen products suffice.
THINNING = 8
GRAM_FEATURES = 2000
GRAM_BYTES = 1 << 30
# Each Newton step leaves 1e-2 of the gradient, so 1e-4 of the sub-optimality, and the decrement
# that conjugate gradients report is below the true one by that part at most.
CG_TOLERANCE = 1e-2
CG_ITERATIONS = 2000
INTERCEPT_STEPS = 20

Apply = Callable[[Float64Array], Float64Array]


@dataclass(frozen=True)
class Optimum:
    """The end of the Newton run and its certificate."""

    params: Float64Array
    objective: float
    decrement: float  # estimate of f - f*
    gradient_norm: float
    n_iter: int  # on all rows
    seconds: float = 0.0
    gap: float = math.inf  # a bound of f - f*, where it was computed

    @property
    def reached(self) -> bool:
        """Whether the decrement, or the gap, is below its tolerance."""
        if self.gap <= GAP_TOLERANCE * self.objective:
            return True
        return self.decrement <= TOLERANCE * self.objective


def minimise(
    problem: Problem, C: float, start: Float64Array | None = None, time_limit: float = 600.0
) -> Optimum:
    """Return the optimum of a problem, from ``start`` or from zero.

    Far from the optimum Newton's steps are damped and many. They are taken on every 64th, then
    on every 8th row, where those still outnumber the params, unless ``start`` is near, or better
    than what they lead to: flights (raw) needs 30 steps from zero, few of them on all rows.
    """
    begin = time.perf_counter()
    X, labels = problem.X, problem.y
    n_samples = X.shape[0]
    l2, deadline = l2_of(C, n_samples), begin + time_limit
    if problem.n_params >= LARGE_PARAMS:
        params = np.zeros((problem.n_rows, X.shape[1] + 1)) if start is None else start
        large = _large(X, labels, params.astype(np.float64), l2, deadline)
        return replace(large, seconds=time.perf_counter() - begin)
    coarse = np.zeros((problem.n_rows, X.shape[1] + 1))
    params = coarse if start is None else start.astype(np.float64)
    optimum = None
    if start is not None:
        optimum = _newton(X, labels, params, l2, TOLERANCE, deadline, most=NEAR)
    if optimum is None or optimum.decrement > NEAR * optimum.objective:
        for stride in (THINNING**2, THINNING):
            if n_samples // stride >= 2 * problem.n_params:
                rows = slice(None, None, stride)
                coarse = _newton(X[rows], labels[rows], coarse, l2, 1e-6, deadline).params
        if objective(X, labels, coarse, l2) < objective(X, labels, params, l2):
            params = coarse
        optimum = _newton(X, labels, params, l2, TOLERANCE, deadline)
    return replace(optimum, seconds=time.perf_counter() - begin)


def _newton(
    X: Matrix,
    labels: Array,
    params: Float64Array,
    l2: float,
    tolerance: float,
    deadline: float,
    most: float = math.inf,
) -> Optimum:
    """Return the end of Newton's method: decrement below the tolerance, or out of time.

    It ends at once where the first decrement is above ``most``, relative to f.
    """
    value, gradient, _ = value_and_gradient(X, labels, params, l2)
    n_iter = 0
    while True:
        n_iter += 1
        direction, decrement = _Hessian(X, params, l2).solve(-gradient, deadline)
        reached = decrement <= tolerance * value
        step = 0.0
        far = n_iter == 1 and decrement > most * value
        if not reached and not far and time.perf_counter() < deadline:
            step = _step_size(X, labels, params, direction, l2, value, decrement)
        if step == 0.0:
            return Optimum(params, value, decrement, float(np.abs(gradient).max()), n_iter)
        params = params + step * direction
        value, gradient, _ = value_and_gradient(X, labels, params, l2)


def _large(X: Matrix, labels: Array, params: Float64Array, l2: float, deadline: float) -> Optimum:
    """Return the end of Newton's method with the gap below its tolerance, or out of time."""
    n_iter, decrement = 0, math.inf
    while True:
        params, value, gradient, gap = duality_gap(X, labels, params, l2)
        step = 0.0
        if gap > GAP_TOLERANCE * value and time.perf_counter() < deadline:
            n_iter += 1
            direction, decrement = _Hessian(X, params, l2).solve(-gradient, deadline)
            step = _step_size(X, labels, params, direction, l2, value, decrement)
        if step == 0.0:
            norm = float(np.abs(gradient).max())
            # The decrement of the last step, before it was taken, says nothing about its end.
            return Optimum(params, value, gap, norm, n_iter, gap=gap)
        params = params + step * direction


def duality_gap(
    X: Matrix, labels: Array, params: Float64Array, l2: float
) -> tuple[Float64Array, float, Float64Array, float]:
    """Return params with the best intercepts, their objective, its gradient and a bound of f - f*.

    The least objective over the intercepts, F(W), is strongly convex with modulus l2, since
    f - l2/2 ||W||^2 is convex in all params. So F(W) - f* <= ||grad F(W)||^2 / (2 l2), and grad F
    is the gradient of f with respect to W at the best intercepts. It is also the gap between f and
    the dual objective at the residuals.
    """
    columns = columns_of(X, params)
    logits = np.empty((X.shape[0], max(2, len(params))))
    for rows in row_blocks(X.shape[0], width_of(X, params)):
        logits[rows] = class_logits(dense_or_sparse_float64(X[rows]), params, columns)
    del columns
    counts = np.bincount(labels, minlength=logits.shape[1])
    shift = np.zeros(logits.shape[1])
    for _ in range(INTERCEPT_STEPS):
        P = np.exp(log_probabilities(logits + shift))
        g = (P.sum(axis=0) - counts)[1:]
        H = np.diag(P.sum(axis=0)) - P.T @ P
        newton = np.linalg.solve(H[1:, 1:], g)  # the first one's stays: only differences count
        shift[1:] -= newton
        if np.abs(newton).max() < 1e-14:
            break
    params = params.copy()
    params[:, -1] += shift[-len(params) :]
    value, gradient, _ = value_and_gradient(X, labels, params, l2)
    coef_gradient = gradient[:, :-1]
    return params, value, gradient, float(np.vdot(coef_gradient, coef_gradient)) / (2.0 * l2)


def _step_size(
    X: Matrix,
    labels: Array,
    params: Float64Array,
    direction: Float64Array,
    l2: float,
    value: float,
    decrement: float,
) -> float:
    """Return 1 or the first halving that decreases the objective enough; 0 if none does."""
    # Within 1e-9 of the optimum the objective's rounding hides the decrease, and Newton's
    # step is safe without a look at it.
    if decrement <= 1e-9 * value:
        return 1.0
    step = 1.0
    while step > 1e-10:
        trial = objective(X, labels, params + step * direction, l2)
        if trial <= value - 1e-4 * step * 2.0 * decrement:
            return step
        step *= 0.5
    return 0.0


class _Hessian:
    """The Hessian at one point: products, and the solution of a Newton system.

    Rows and columns are params in C order. With K > 2 logit rows the direction that adds one
    constant to all intercepts changes nothing: the Hessian is singular along it, the gradient
    has no part in it.
    """

    def __init__(self, X: Matrix, params: Float64Array, l2: float) -> None:
        self.X, self.params, self.l2 = X, params, l2
        self.n_rows, self.width = params.shape
        self.sparse = bool(scipy.sparse.issparse(X))
        n_classes = max(2, self.n_rows)
        self.probabilities = np.empty((X.shape[0], n_classes))
        columns = columns_of(X, params)
        for rows in self._blocks():
            logits = class_logits(dense_or_sparse_float64(X[rows]), params, columns)
            self.probabilities[rows] = np.exp(log_probabilities(logits))

    def solve(self, right: Float64Array, deadline: float) -> tuple[Float64Array, float]:
        """Return ``H^-1 right`` and the decrement ``right' H^-1 right / 2``."""
        if self.sparse or right.size > DENSE_PARAMS:
            apply = self._preconditioner()
        elif self.X.shape[0] < 2 * THINNING * right.size:
            inverse = _factorised(self._dense())
            solution = inverse(right.ravel()).reshape(right.shape)
            return solution, 0.5 * float(np.vdot(right, solution))
        else:
            thinned = _Hessian(self.X[::THINNING], self.params, self.l2)
            inverse = _factorised(thinned._dense())

            def apply(r: Float64Array) -> Float64Array:
                return inverse(r.ravel()).reshape(r.shape)

        solution = self._conjugate_gradients(right, apply, deadline)
        return solution, 0.5 * float(np.vdot(right, solution))

    def _blocks(self, extra: int = 0) -> list[slice]:
        return list(row_blocks(self.X.shape[0], extra + width_of(self.X, self.params)))

    def product(self, direction: Float64Array) -> Float64Array:
        """Return ``H V``: with U = [X, 1] V', T = P o (U - rowsum(P o U)) it is T' [X, 1] / n."""
        columns = columns_of(self.X, direction)
        result = np.zeros(direction.shape[::-1])
        for rows in self._blocks():
            block = dense_or_sparse_float64(self.X[rows])
            p = self.probabilities[rows]
            u = class_logits(block, direction, columns)
            t = p * (u - (p * u).sum(axis=1, keepdims=True))
            t = t[:, -self.n_rows :]
            result[:-1] += block.T @ t
            result[-1] += t.sum(axis=0)
        product = np.ascontiguousarray(result.T) / self.X.shape[0]
        product[:, :-1] += self.l2 * direction[:, :-1]
        return product

    def _dense(self) -> Float64Array:
        """Return the matrix: diag(P_k) Gram blocks minus the Gram matrix of rows p (x) x."""
        n_rows, width = self.n_rows, self.width
        matrix = np.zeros((n_rows * width, n_rows * width))
        for rows in self._blocks(extra=n_rows * width):
            block = _with_ones(dense_or_sparse_float64(self.X[rows]))
            p = self.probabilities[rows, -n_rows:]
            outer = (p[:, :, None] * block[:, None, :]).reshape(len(block), -1)
            matrix -= outer.T @ outer
            for k in range(n_rows):
                part = slice(k * width, (k + 1) * width)
                matrix[part, part] += block.T @ outer[:, part]
        matrix /= self.X.shape[0]
        blocks = matrix.reshape(n_rows, width, n_rows, width)
        j = np.arange(width - 1)
        for k in range(n_rows):
            blocks[k, j, k, j] += self.l2
        if n_rows > 1:
            # Fill the null direction; the gradient has no part in it, so the solution stays.
            blocks[:, -1, :, -1] += 1.0 / n_rows
        return matrix

    # These products are too small for threads, which wait for each other wherever the machine does
    # anything else: 0.7 s with one thread on debian_embeddings, 8 with two on two busy cores.
    @threadpool_limits.wrap(limits=1, user_api="blas")
    def _preconditioner(self) -> Apply:
        gram_bytes = 8 * self.n_rows * self.width**2
        if self.width > GRAM_FEATURES + 1 or gram_bytes > GRAM_BYTES:
            diagonal = self._diagonal()
            return lambda r: r / diagonal
        grams = np.zeros((self.n_rows, self.width, self.width))
        n_samples = self.X.shape[0]
        # Every 8th row will do where these still far outnumber the features: on debian_embeddings
        # (25 per feature) 55 s became 8, for 5 products instead of 4. On mnist (10 per feature) 49
        # products in place of 13 took what the Gram matrices spared.
        stride = THINNING if n_samples > 20 * THINNING * self.width else 1
        X, probabilities = self.X[::stride], self.probabilities[::stride, -self.n_rows :]
        for rows in row_blocks(X.shape[0], 3 * self.width + 4 * self.n_rows):
            block = dense_or_sparse_float64(X[rows])
            p = probabilities[rows]
            weights = np.sqrt(p * (1.0 - p))
            if self.sparse:
                block = scipy.sparse.hstack([block, np.ones((len(p), 1))], format="csr")
                for k in range(self.n_rows):
                    scaled = block.multiply(weights[:, k, None]).tocsr()
                    grams[k] += (scaled.T @ scaled).toarray()
                continue
            block = _with_ones(block)
            for k in range(self.n_rows):
                scaled = weights[:, k, None] * block
                grams[k] += scaled.T @ scaled  # NumPy calls syrk: half the work
        grams /= X.shape[0]
        j = np.arange(self.width - 1)
        grams[:, j, j] += self.l2
        solvers = [_factorised(gram) for gram in grams]
        return lambda r: np.stack([solve(r[k]) for k, solve in enumerate(solvers)])

    def _diagonal(self) -> Float64Array:
        diagonal = np.zeros((self.n_rows, self.width))
        for rows in self._blocks():
            squares = dense_or_sparse_float64(self.X[rows])
            squares = squares.power(2) if self.sparse else squares**2
            p = self.probabilities[rows, -self.n_rows :]
            weights = p * (1.0 - p)
            diagonal[:, :-1] += (squares.T @ weights).T
            diagonal[:, -1] += weights.sum(axis=0)
        diagonal /= self.X.shape[0]
        diagonal[:, :-1] += self.l2
        return np.maximum(diagonal, 1e-300)

    def _conjugate_gradients(
        self, right: Float64Array, apply: Apply, deadline: float
    ) -> Float64Array:
        solution = np.zeros_like(right)
        residual = right.copy()
        z = apply(residual)
        search = z.copy()
        rho = first = float(np.vdot(residual, z))
        for _ in range(CG_ITERATIONS):
            image = self.product(search)
            alpha = rho / float(np.vdot(search, image))
            solution += alpha * search
            residual -= alpha * image
            z = apply(residual)
            rho, previous = float(np.vdot(residual, z)), rho
            if rho <= CG_TOLERANCE**2 * first or time.perf_counter() > deadline:
                break
            search = z + (rho / previous) * search
        return solution


def _with_ones(block: Float64Array) -> Float64Array:
    return np.column_stack([block, np.ones(len(block))])


def _factorised(matrix: Float64Array) -> Apply:
    """Return the application of the inverse, by Cholesky after scaling to a unit diagonal."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale * scale[:, None]
    ridge = 0.0
    while True:
        try:
            factor = scipy.linalg.cho_factor(scaled + ridge * np.eye(len(scaled)))
        except scipy.linalg.LinAlgError:
            ridge = max(10.0 * ridge, 1e-14)
        else:
            break

    def apply(right: Float64Array) -> Float64Array:
        result: Float64Array = scale * scipy.linalg.cho_solve(factor, scale * right)
        return result

    return apply
