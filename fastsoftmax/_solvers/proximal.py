"""Proximal quasi-Newton: a smooth function plus absolute values, within bounds."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Unpack

import numpy as np

from fastsoftmax._solvers.active_set import ColumnMetric
from fastsoftmax._solvers.model import Faces, Metric, Pair
from fastsoftmax._solvers.progress import Progress, Stopping
from fastsoftmax._solvers.result import SolverResult
from fastsoftmax._solvers.separable import SeparablePenalty
from fastsoftmax._solvers.vectors import Vector, dot, max_norm

#: By how much the model's fall may be too small a distance to the minimum: in an exact metric built
#: elsewhere, and in another one, whose model is not minimised to the end.
_CAUTION, _ROUGH_CAUTION = 10.0, 30.0
_SUFFICIENT_DECREASE = 1e-4
_LEAST_STEP_SIZE = 1e-10
#: Pairs of less curvature, relative to their lengths, are rounding.
_LEAST_COSINE = 1e-14
#: Where an exact metric's step has to be cut so far, it is old.
_LEAST_FITTING = 0.1
#: The least and the largest share of a model's fall that may be left.
_LEAST_LEFT, _MOST_LEFT = 1e-3, 0.1


def minimize_composite(
    value_and_gradient: Callable[[Vector], tuple[float, Vector]],
    penalty: SeparablePenalty,
    start: Vector,
    make_metric: Callable[[Vector], Metric | ColumnMetric],
    lags: Iterable[int] = (),
    build_cost: float = 0.0,
    *,
    memory: int = 10,
    balanced: Callable[[Vector], Vector] | None = None,
    **stopping: Unpack[Stopping],
) -> SolverResult:
    """Minimise a smooth convex function plus a separable penalty.

    Each step minimises a quasi-Newton model of the function plus the penalty itself, so that
    coordinates come to rest at kinks and bounds exactly.

    Parameters
    ----------
    value_and_gradient : callable
        Of a flat float64 vector: the smooth function; the value may be infinite away from `start`.
    penalty : SeparablePenalty
    start : ndarray of shape (n,)
        Not changed; moved into the bounds.
    make_metric : callable
        Estimates the Hessian at given parameters. A `Metric` that is not exact is scaled to the
        latest pair; a `ColumnMetric` takes no pairs, and is best built anew for every iteration.
    lags : iterable of int
        Iterations after which the first, second ... metric is old. Then it is built anew, and the
        pairs forgotten, unless ...
    build_cost : float
        ... so many more iterations seem to be enough: what building takes, in evaluations.
    memory : int
        Pairs kept.
    balanced : callable, default=None
        Returns a point of the same smooth value and no larger penalty, for directions along which
        the function is constant and no model tells how far to go.
    **stopping
        See `Stopping`; the gradient is the smallest subgradient, the distance to the minimum the
        model's fall.

    Returns
    -------
    SolverResult

    Raises
    ------
    FloatingPointError
        If the function is not finite at `start`.

    References
    ----------
    Lee, Sun & Saunders (2014), SIAM J. Optim. 24(3), algorithm 1. Yuan, Ho & Lin (2012), JMLR 13.
    """
    progress = Progress(**stopping)
    x = penalty.project(np.array(start, dtype=np.float64))
    f, g = progress.start(value_and_gradient, x)
    least_cosine = max(_LEAST_COSINE, stopping.get("noise", 0.0))
    remaining_lags = itertools.chain(lags, itertools.repeat(np.inf))
    metric, lag, age = make_metric(x), next(remaining_lags), 0
    pairs: deque[Pair] = deque(maxlen=memory)
    faces, fall = Faces(), np.inf
    total = f + penalty.value(x)
    progress.visit(x, total, max_norm(penalty.least_subgradient(x, g)))
    while True:
        inner_x = metric.inward(x)
        model = metric.model(pairs, inner_x, metric.inward_gradient(g), penalty, balanced)
        enough = _share_left(fall, total)
        target, fall = model.minimize(faces, enough)
        direction = metric.outward(target - inner_x)
        target = metric.outward(target)
        caution = _CAUTION if metric.is_exact else _ROUGH_CAUTION
        if metric.is_exact and age == 0:
            caution = model.caution
        status = progress.verdict(caution * fall, fall, direction)
        if status is not None:
            return progress.result(status)

        descent = penalty.value(x) - penalty.value(target) - dot(g, direction)
        step_size = 1.0
        while True:
            # At the full step kinks and bounds are met exactly.
            moved = target if step_size == 1.0 else penalty.project(x + step_size * direction)
            if balanced is not None:
                moved = balanced(moved)
            new_f, new_g = value_and_gradient(moved)
            progress.n_passes += 1
            change = new_f + penalty.value(moved) - total
            if change <= -_SUFFICIENT_DECREASE * step_size * fall:
                break
            if fall <= 1e3 * progress.noise and change <= 10.0 * progress.noise:
                break
            step_size = _shorter(step_size, descent, change)
            if step_size < _LEAST_STEP_SIZE:
                break
        metric.learn(step_size)
        if step_size < _LEAST_STEP_SIZE:
            if age == 0 and not pairs:
                return progress.result(progress.failure(fall))
            # Old curvature may be to blame: once more with a fresh one.
            metric, age = make_metric(x), 0
            pairs.clear()
            continue
        if isinstance(metric, Metric):
            step = metric.inward(moved - x)
            difference = metric.inward_gradient(new_g - g)
            curvature = dot(step, difference)
            if curvature > least_cosine * np.sqrt(dot(step, step) * dot(difference, difference)):
                pairs.append(Pair(step, difference, metric.unscaled(step)))
                if not metric.is_exact:
                    metric = _scaled(metric, pairs[-1], curvature)
        x, f, g, age = moved, new_f, new_g, age + 1
        total = f + penalty.value(x)
        progress.visit(x, total, max_norm(penalty.least_subgradient(x, g)), step_size)
        if _is_old(metric, age, lag, step_size) and progress.n_left > build_cost:
            metric, lag, age = make_metric(x), next(remaining_lags), 0
            pairs.clear()


def _shorter(step_size: float, descent: float, change: float) -> float:
    """Return the minimum of the parabola of a slope at 0 and a value, within bounds."""
    if not np.isfinite(change):
        return 0.1 * step_size
    bend = change + descent * step_size
    share = 0.5 * descent * step_size / bend if bend > 0.0 else 0.5
    return float(np.clip(share, 0.1, 0.5)) * step_size


def _share_left(fall: float, total: float) -> float:
    """Return the share of a model's fall that may be left: the further off, the more.

    Dembo, Eisenstat & Steihaug (1982), SIAM J. Numer. Anal. 19: what is far off need not be exact.
    """
    return float(
        np.clip(np.sqrt(fall / max(abs(total), np.finfo(float).tiny)), _LEAST_LEFT, _MOST_LEFT)
    )


def _is_old(metric: Metric | ColumnMetric, age: int, lag: float, step_size: float) -> bool:
    return age >= lag or (metric.is_exact and step_size < _LEAST_FITTING)


def _scaled(metric: Metric, pair: Pair, curvature: float) -> Metric:
    """Return the metric whose curvature along a pair's step is that of the function."""
    of_loss = curvature - dot(pair.step, metric.l2 * pair.step)
    of_blocks = dot(pair.step, pair.product)
    if not (of_blocks > 0.0 and of_loss > 1e-3 * metric.scale * of_blocks):
        return metric
    return replace(metric, scale=of_loss / of_blocks)
