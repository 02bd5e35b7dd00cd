"""A whole fit of a small problem: L-BFGS over block factors of the curvature, without Python.

Where a pass takes 10 us, Python's share of an iteration is ten times that. So here the iterations
themselves are compiled. Passes and Gram matrices come from the drivers of the other modules, by
their addresses; what is left is small. Only the ordinary course of events is dealt with: at the
first sign of trouble (rounding, overflow, a failing line search) the solver hands over to
`fastsoftmax._solvers.minimize_lbfgs`, which starts from where it got.

Parameters x are (n_rows, D), flat; ``u = [x - centre, 1]``, D columns of which count.
"""

from __future__ import annotations

import math

import numpy as np

from fastsoftmax._jit import Array, call, driver, scalar_kernel

#: Entries of ``numbers``: value, largest gradient component and decrement at x, scale of the
#: preconditioner, step size taken last.
VALUE, NORM, DECREMENT, SCALE, STEP = range(5)
N_NUMBERS = 5
#: Entries of ``counts``: status, iterations, passes, pairs kept, position of the oldest of them,
#: iterations since the factors were built, iterations until they are to be.
STATUS, N_ITER, N_PASSES, N_PAIRS, OLDEST, AGE, LAG = range(7)
N_COUNTS = 7
#: Statuses. START: x is to be evaluated first.
START, RUNNING, CONVERGED, AT_LIMIT, HAND_OVER = range(5)
#: Entries of ``settings``: see `minimize`.
TOL, VALUE_SCALE, NOISE, WEIGHT_SUM, HAS_OFFSET, MAX_ITER = range(6)
N_SETTINGS = 6
#: Rows of ``vectors``: parameters, gradient, direction, trial and its gradient, scratch.
X, G, DIRECTION, TRIAL, TRIAL_G, SCRATCH = range(6)
N_VECTORS = 6

_MOST_TRIALS = 8
#: As `fastsoftmax._solvers.lbfgs._CAUTION`.
_CAUTION = 10.0
#: Classes whose curvatures differ by no more than this share a factor at the start.
_ALIKE = 1.5
#: Iterations until the factors are built anew, the first time and later.
_FIRST_LAG, _LAG = 12, 40
#: As `fastsoftmax.linear_model._solve._LEAST_CURVATURE`.
_LEAST_CURVATURE = 1e-3


@scalar_kernel
def _dot(u: Array, v: Array, n: int) -> float:
    s = 0.0
    for i in range(n):
        s += u[i] * v[i]
    return s


@scalar_kernel
def _largest(u: Array) -> float:
    s = 0.0
    for i in range(u.shape[0]):
        s = max(s, abs(u[i]))
    return s


@scalar_kernel
def _add(x: Array, scale: float, y: Array, n: int) -> None:
    for i in range(n):
        x[i] += scale * y[i]


@scalar_kernel
def _set_params(params: Array, x: Array) -> None:
    for k in range(params.shape[0]):
        row, source = params[k], x[k]
        for j in range(x.shape[1]):
            row[j] = source[j]


@scalar_kernel
def _clear(sums: Array) -> None:
    for k in range(sums.shape[1]):
        row = sums[0, k]
        for j in range(row.shape[0]):
            row[j] = 0


@scalar_kernel
def _penalised(x: Array, l2: Array, weight_sum: float, sums: Array, gradient: Array) -> float:
    """Write the gradient of mean loss and penalty, and return the penalty."""
    penalty = 0.0
    for k in range(sums.shape[1]):
        row, total, w = gradient[k], sums[0, k], x[k]
        for j in range(l2.shape[0]):
            row[j] = total[j] / weight_sum + l2[j] * w[j]
            penalty += 0.5 * l2[j] * w[j] * w[j]
    return penalty


@scalar_kernel
def _factor(a: Array, scale: Array) -> bool:
    """Overwrite the lower triangle of ``a`` by L, ``L Lᵀ`` being ``a`` scaled to unit diagonal.

    The shift of the diagonal starts at 1e-13 and grows until all pivots are positive; the upper
    triangle keeps the matrix for that. Returns False if an entry is not finite.
    """
    n = a.shape[0]
    for i in range(n):
        scale[i] = 1.0 / math.sqrt(a[i, i]) if a[i, i] > 1e-300 else 1.0
    for i in range(n):
        for j in range(i + 1):
            a[j, i] = a[i, j] * scale[i] * scale[j]
            if not math.isfinite(a[j, i]):
                return False
    shift = 1e-13
    while shift < 1e3:
        positive = True
        for i in range(n):
            row = a[i]
            for j in range(i):
                row[j] = (a[j, i] - _dot(row, a[j], j)) / a[j, j]
            pivot = 1.0 + shift - _dot(row, row, i)
            if not pivot > 0.0:
                positive = False
                break
            row[i] = math.sqrt(pivot)
        if positive:
            return True
        # The diagonal was overwritten; the entries above it still are the scaled matrix.
        shift *= 10.0
    return False


@scalar_kernel
def _solve(a: Array, scale: Array, b: Array) -> None:
    """Overwrite b by the solution of the system that `_factor` factored."""
    n = a.shape[0]
    for i in range(n):
        b[i] = (b[i] * scale[i] - _dot(a[i], b, i)) / a[i, i]
    for back in range(n):
        i = n - 1 - back
        b[i] /= a[i, i]
        _add(b, -b[i], a[i], i)
        b[i] *= scale[i]


@scalar_kernel
def _precondition(step: Array, centre: Array, factors: Array, scales: Array) -> None:
    """Overwrite a gradient (n_rows, D) by the step that the factors make of it."""
    n_rows, D = step.shape
    n_features = centre.shape[0]
    for k in range(n_rows):
        row = step[k]
        if n_features < D:
            _add(row, -row[n_features], centre, n_features)
        _solve(factors[k], scales[k], row)
    if n_rows > 1:
        for j in range(D):
            mean = 0.0
            for k in range(n_rows):
                mean += step[k, j]
            for k in range(n_rows):
                step[k, j] -= mean / n_rows
    if n_features < D:
        for k in range(n_rows):
            row = step[k]
            row[n_features] -= _dot(row, centre, n_features)


@scalar_kernel
def _set_curvatures(residual: Array, weights: Array, curvatures: Array) -> None:
    """Write ``w p (1 - p)``; ``residual`` (n_blocks, n_rows, n_lanes) holds the probabilities."""
    n_lanes = residual.shape[2]
    n_samples = curvatures.shape[1]
    for k in range(curvatures.shape[0]):
        target = curvatures[k]
        for block in range(residual.shape[0]):
            p = residual[block, k]
            first = block * n_lanes
            for i in range(min(n_lanes, n_samples - first)):
                target[first + i] = p[i] * (1.0 - np.float64(p[i]))
        if weights.shape[0] > 0:
            for i in range(n_samples):
                # A row of weight 0 is as if removed, whatever its logits are.
                target[i] = target[i] * weights[i] if weights[i] > 0 else 0.0


@scalar_kernel
def _build(
    grams: Array, n_grams: int, probabilities: Array, l2: Array, least: Array, weight_sum: float,
    factors: Array, scales: Array,
) -> bool:  # fmt: skip
    """Factor the classes' Gram matrices plus penalty and least curvature.

    If ``n_grams`` is 1, all samples have the same ``probabilities`` (n_rows, 1), and the classes'
    matrices are multiples of the first one. The first build sets the least curvature.
    """
    n_rows, D = factors.shape[0], l2.shape[0]
    if least[0] < 0.0:
        for j in range(D):
            mean = 0.0
            for k in range(n_rows):
                mean += _multiple(probabilities, k, n_grams) * grams[min(k, n_grams - 1), j, j]
            least[j] = _LEAST_CURVATURE * mean / n_rows / weight_sum
    for k in range(n_rows):
        a, gram = factors[k], grams[min(k, n_grams - 1)]
        multiple = _multiple(probabilities, k, n_grams)
        if k >= n_grams and 1.0 / _ALIKE <= multiple <= _ALIKE:
            for i in range(D):
                scales[k, i] = scales[0, i]
                for j in range(i + 1):
                    a[i, j] = factors[0, i, j]
        else:
            for i in range(D):
                for j in range(i + 1):
                    a[i, j] = multiple * gram[i, j] / weight_sum
                a[i, i] += l2[i] + least[i]
            if not _factor(a, scales[k]):
                return False
    return True


@scalar_kernel
def _multiple(probabilities: Array, k: int, n_grams: int) -> float:
    """Return by what to multiply the Gram matrix of class ``min(k, n_grams - 1)`` for class k."""
    if k < n_grams:
        return 1.0
    p, first = np.float64(probabilities[k, 0]), np.float64(probabilities[0, 0])
    return p * (1.0 - p) / (first * (1.0 - first))


@scalar_kernel
def _direction(
    vectors: Array, shaped: Array, steps: Array, changes: Array, shares: Array, counts: Array,
    scale: float, centre: Array, factors: Array, scales: Array,
) -> None:  # fmt: skip
    """Write the direction: Nocedal & Wright (2006), algorithm 7.4, factors for H0."""
    direction, g = vectors[DIRECTION], vectors[G]
    n_pairs, memory, n = counts[N_PAIRS], steps.shape[0], g.shape[0]
    for i in range(n):
        direction[i] = -g[i]
    for back in range(n_pairs):
        p = (counts[OLDEST] + n_pairs - 1 - back) % memory
        shares[p] = _dot(steps[p], direction, n) / _dot(steps[p], changes[p], n)
        _add(direction, -shares[p], changes[p], n)
    _precondition(shaped[DIRECTION], centre, factors, scales)
    for i in range(g.shape[0]):
        direction[i] *= scale
    for pair in range(n_pairs):
        p = (counts[OLDEST] + pair) % memory
        share = shares[p] - _dot(changes[p], direction, n) / _dot(steps[p], changes[p], n)
        _add(direction, share, steps[p], n)


@scalar_kernel
def _keep_pair(vectors: Array, t: float, steps: Array, changes: Array, counts: Array) -> bool:
    """Keep step and change of the gradient, unless rounding made their product worthless."""
    memory = steps.shape[0]
    p = (counts[OLDEST] + counts[N_PAIRS]) % memory
    step, change = vectors[SCRATCH], changes[p]
    curvature, s2, y2 = 0.0, 0.0, 0.0
    for i in range(step.shape[0]):
        s = t * vectors[DIRECTION, i]
        y = vectors[TRIAL_G, i] - vectors[G, i]
        step[i] = s
        vectors[TRIAL, i] = y
        curvature += s * y
        s2 += s * s
        y2 += y * y
    if not curvature > 1e-14 * math.sqrt(s2 * y2):
        return False
    for i in range(step.shape[0]):
        steps[p, i] = step[i]
        change[i] = vectors[TRIAL, i]
    if counts[N_PAIRS] == memory:
        counts[OLDEST] = (counts[OLDEST] + 1) % memory
    else:
        counts[N_PAIRS] += 1
    return True


@scalar_kernel
def _next_step(
    low: float, low_slope: float, high: float, high_slope: float, is_finite: bool, moved: int
) -> float:
    """As `fastsoftmax._solvers.line_search._next_step`; ``high < 0`` stands for none."""
    if high < 0.0:
        return 4.0 * low
    width = high - low
    if moved > 1 or not is_finite:
        return low + 0.1 * width
    if moved < -1:
        return high - 0.1 * width
    share = 0.5
    if high_slope > 0.0 and low_slope < 0.0:
        share = low_slope / (low_slope - high_slope)
    return low + min(max(share, 0.05), 0.95) * width


@driver
def minimize(
    first, last, addresses, loss_arguments, probability_arguments, gram_arguments, n_blocks,
    params, sums, partial, losses, residual, curvatures, grams, weights, l2, centre, least,
    vectors, shaped, steps, changes, shares, factors, scales, settings, numbers, counts, history,
):  # fmt: skip
    """Take the iterations ``first .. last - 1``, or fewer: ``counts[STATUS]`` tells.

    Parameters
    ----------
    addresses : (2,) int64
        Of the drivers `loss_gradient` and `weighted_grams`.
    loss_arguments, probability_arguments, gram_arguments : tuples
        Theirs, over the arrays below: one chunk with a gradient; blocks, whose residuals are
        probabilities; one unit for each curvature.
    n_blocks : int
    params, sums, partial, losses, residual, curvatures, grams
        What these arguments point to, to be written or read here.
    weights : (n,) or (0,)
    l2 : (D,)
    centre : (D - 1,) with an intercept, else (D,) and 0
    least : (D,)
        Least curvature; -1 before the first build.
    vectors : (N_VECTORS, n_rows D)
    shaped : (N_VECTORS, n_rows, D)
        The same.
    steps, changes : (memory, n_rows D)
    shares : (memory,)
    factors : (n_rows, D, D)
    scales : (n_rows, D)
    settings, numbers, counts
        See the constants above.
    history : (., 4)
        Passes, value, gradient norm and step size after each iteration from `first` on.
    """
    weight_sum = settings[WEIGHT_SUM]
    n_rows, n = params.shape[0], vectors.shape[1]
    x, g, direction = vectors[X], vectors[G], vectors[DIRECTION]
    trial, trial_g = vectors[TRIAL], vectors[TRIAL_G]
    for iteration in range(first, last):
        if counts[STATUS] == START:
            _set_params(params, shaped[X])
            _clear(sums)
            _clear(partial)
            losses[0] = 0.0
            call(addresses[0], 0, 1, loss_arguments)
            numbers[VALUE] = losses[0] / weight_sum
            numbers[VALUE] += _penalised(shaped[X], l2, weight_sum, sums, shaped[G])
            numbers[NORM] = _largest(g)
            counts[N_PASSES] += 1
            counts[STATUS] = RUNNING
            history[0, 0], history[0, 1] = counts[N_PASSES], numbers[VALUE]
            history[0, 2], history[0, 3] = numbers[NORM], 0.0
            if not (math.isfinite(numbers[VALUE]) and math.isfinite(numbers[NORM])):
                counts[STATUS] = HAND_OVER
            counts[AGE] = -1
            continue
        if counts[STATUS] != RUNNING:
            return

        if counts[AGE] < 0 or counts[AGE] >= counts[LAG]:
            # Without features all samples have the same probabilities.
            none = settings[HAS_OFFSET] == 0.0
            for k in range(n_rows):
                for j in range(centre.shape[0]):
                    none = none and shaped[X, k, j] == 0.0
            n_grams = 1 if none else n_rows
            _set_params(params, shaped[X])
            call(addresses[0], 0, n_blocks, probability_arguments)
            _set_curvatures(residual, weights, curvatures)
            for unit in range(n_grams):
                for i in range(grams.shape[1]):
                    row = grams[unit, i]
                    for j in range(row.shape[0]):
                        row[j] = 0.0
            call(addresses[1], 0, n_grams, gram_arguments)
            if not _build(
                grams, n_grams, residual[0], l2, least, weight_sum, factors, scales
            ):  # fmt: skip
                counts[STATUS] = HAND_OVER
                return
            counts[LAG] = _FIRST_LAG if counts[LAG] == 0 else _LAG
            counts[AGE] = 0
            counts[N_PAIRS] = 0
            counts[OLDEST] = 0

        value, norm = numbers[VALUE], numbers[NORM]
        _direction(
            vectors, shaped, steps, changes, shares, counts, numbers[SCALE], centre, factors,
            scales,
        )  # fmt: skip
        slope = _dot(direction, g, n)
        decrement = -0.5 * slope
        if norm <= settings[TOL] and numbers[SCALE] < 1.0:
            scratch = vectors[SCRATCH]
            for i in range(g.shape[0]):
                scratch[i] = g[i]
            _precondition(shaped[SCRATCH], centre, factors, scales)
            decrement = max(decrement, 0.5 * _dot(g, scratch, n))
        numbers[DECREMENT] = _CAUTION * decrement
        enough = 0.01 * settings[TOL] * max(abs(value), settings[VALUE_SCALE])
        if norm <= settings[TOL] and 0.0 <= _CAUTION * decrement <= enough:
            counts[STATUS] = CONVERGED
            return
        if counts[N_ITER] >= settings[MAX_ITER]:
            counts[STATUS] = AT_LIMIT
            return
        noise = settings[NOISE] * abs(value)
        if not (slope < 0.0 and decrement > 10.0 * noise):
            counts[STATUS] = HAND_OVER
            return

        t, found, moved = 1.0, False, 0
        low, low_slope, high, high_slope, is_finite = 0.0, slope, -1.0, 0.0, True
        new_value = value
        for _ in range(_MOST_TRIALS):
            for i in range(x.shape[0]):
                trial[i] = x[i] + t * direction[i]
            _set_params(params, shaped[TRIAL])
            _clear(sums)
            _clear(partial)
            losses[0] = 0.0
            call(addresses[0], 0, 1, loss_arguments)
            new_value = losses[0] / weight_sum
            new_value += _penalised(shaped[TRIAL], l2, weight_sum, sums, shaped[TRIAL_G])
            counts[N_PASSES] += 1
            new_slope = _dot(trial_g, direction, n)
            finite = math.isfinite(new_value) and math.isfinite(new_slope)
            if not finite or new_value > value + 1e-4 * t * slope:
                high, high_slope, is_finite = t, new_slope, finite
                moved = max(moved, 0) + 1
            elif new_slope < 0.9 * slope:
                low, low_slope = t, new_slope
                moved = min(moved, 0) - 1
            else:
                found = True
                break
            t = _next_step(low, low_slope, high, high_slope, is_finite, moved)
        if not found:
            if counts[AGE] == 0:
                counts[STATUS] = HAND_OVER
                return
            counts[AGE] = -1  # old curvature may be to blame: once more with a fresh one
            history[iteration - first, 0] = -1.0
            continue

        counts[N_ITER] += 1
        counts[AGE] += 1
        if _keep_pair(vectors, t, steps, changes, counts):
            p = (counts[OLDEST] + counts[N_PAIRS] - 1) % steps.shape[0]
            scratch = vectors[SCRATCH]
            for i in range(g.shape[0]):
                scratch[i] = changes[p, i]
            _precondition(shaped[SCRATCH], centre, factors, scales)
            numbers[SCALE] = _dot(steps[p], changes[p], n) / _dot(changes[p], scratch, n)
        _add(x, t, direction, n)
        for i in range(g.shape[0]):
            g[i] = trial_g[i]
        numbers[VALUE], numbers[NORM], numbers[STEP] = new_value, _largest(g), t
        row = history[iteration - first]
        row[0], row[1], row[2], row[3] = counts[N_PASSES], new_value, numbers[NORM], t
