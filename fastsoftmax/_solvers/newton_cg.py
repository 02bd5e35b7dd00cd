"""Truncated Newton: a few steps of conjugate gradients solve each Newton system well enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from fastsoftmax._solvers.line_search import Point, search_from
from fastsoftmax._solvers.preconditioner import LaggedPreconditioner, Preconditioner
from fastsoftmax._solvers.progress import Progress, Stopping
from fastsoftmax._solvers.result import SolverResult
from fastsoftmax._solvers.vectors import Vector, dot, max_norm

#: Products per Newton system, so that the caller hears of the solver now and then.
_MOST_PRODUCTS = 500

#: A Rayleigh quotient of MH below this share of the largest is rounding: H is singular there. The
#: rounding of a product is some 1e-15 of it in float64.
_NO_CURVATURE = 1e-14

#: Residuals below this share of the gradient are rounding.
_NO_RESIDUAL = 1e-14

#: Residuals at most this share of the gradient before a decrement is believed: what is left may
#: hide a flat direction. With 0.1 and 1 it was 8 and 600 times too small on raw digits at C=100,
#: without a preconditioner; over 68 fits of small data sets 0.01 costs 3% more passes than 1.
_CERTAIN = 0.01

#: Eisenstat and Walker's choice 2: the factor, the exponent, and the largest forcing term. Over
#: the same fits exponents of 1 to 1.5 take 9% fewer passes than 2.
_FORCING_FACTOR, _FORCING_POWER, _FORCING_MOST = 0.9, 1.5, 0.5


@dataclass(frozen=True)
class NewtonStep:
    """An approximate solution of ``H d = -g``.

    Attributes
    ----------
    direction : ndarray of shape (n,)
        d, a descent direction; zero only if the preconditioned gradient is.
    decrement : float
        Estimate of ``g' H⁻¹ g / 2``; infinite where H is not positive, or overflows, along what
        is left of the gradient.
    n_products : int
    """

    direction: Vector
    decrement: float
    n_products: int


def solve_newton_system(
    product: Callable[[Vector], Vector],
    gradient: Vector,
    precondition: Callable[[Vector], Vector],
    forcing: float,
    enough: float | None = None,
) -> NewtonStep:
    r"""Solve ``H d = -g`` by preconditioned conjugate gradients, truncated.

    With residuals :math:`r = -g - H d` and the preconditioner M, the steps minimise the model
    :math:`m(d) = g'd + d'Hd/2`. Its distance to the minimum is
    :math:`g'H^{-1}g/2 = -m(d) + r'H^{-1}r/2`, where :math:`-m(d) = -g'd/2`, and the last term is
    at most :math:`r'Mr / 2\lambda` if :math:`\lambda` is the smallest eigenvalue of MH. The
    smallest Rayleigh quotient of the directions, an upper bound, stands for it.

    Parameters
    ----------
    product : callable
        Of a direction with H. A FloatingPointError counts as curvature that is not positive.
    gradient : ndarray of shape (n,)
    precondition : callable
        Product with M, symmetric positive definite.
    forcing : float
        Ends at residuals of this share of the gradient, both in the norm of M.
    enough : float, default=None
        If given, goes on until residuals are small and the decrement is known to be above
        `enough`, or with the remaining term below it.

    References
    ----------
    Nocedal & Wright (2006), algorithms 5.3 and 7.1. The latter ends at curvature that is
    not positive, with the direction so far or, at the first step, the preconditioned gradient
    (here of a gradient shortened to 1 if it is larger).
    """
    size = max_norm(gradient) or 1.0  # the system is linear: squares of what is scaled fit a float
    unit = size * size
    direction = np.zeros_like(gradient)
    residual = -gradient / size
    z = precondition(residual)
    square = first_square = dot(residual, z)
    p, p_square = z, square  # p' M⁻¹ p; a residual is orthogonal to earlier p, so squares add
    decrease, smallest, largest = 0.0, math.inf, 0.0
    if enough is not None:
        forcing = min(forcing, _CERTAIN)
    for n_products in range(_MOST_PRODUCTS):
        decrement = unit * (decrease + (0.5 * square / smallest if square > 0.0 else 0.0))
        solved = square <= forcing**2 * first_square
        if square <= _NO_RESIDUAL**2 * first_square or (
            solved and (enough is None or unit * decrease > enough or decrement <= enough)
        ):
            return NewtonStep(size * direction, decrement, n_products)
        try:
            Hp = product(p)
            curvature = dot(p, Hp)
        except FloatingPointError:
            curvature = math.nan
        quotient = curvature / p_square
        if not _NO_CURVATURE * largest < quotient < math.inf:
            # The line search may have to shorten the gradient much, if there is no preconditioner.
            step = min(size, 1.0) * p if n_products == 0 else size * direction
            return NewtonStep(step, decrement if solved else math.inf, n_products + 1)
        smallest, largest = min(smallest, quotient), max(largest, quotient)
        length = square / curvature
        direction = direction + length * p
        residual = residual - length * Hp
        decrease += 0.5 * length * square
        z = precondition(residual)
        square, previous = dot(residual, z), square
        share = square / previous
        p = z + share * p
        p_square = square + share * share * p_square
    decrement = unit * (decrease + 0.5 * square / smallest)
    return NewtonStep(size * direction, decrement, _MOST_PRODUCTS)


def minimize_newton_cg(
    value_and_gradient: Callable[[Vector], tuple[float, Vector]],
    hessian_operator: Callable[[Vector], Callable[[Vector], Vector]],
    start: Vector,
    make_preconditioner: Callable[[Vector], Preconditioner] | None = None,
    lags: Iterable[int] = (),
    build_cost: float = 0.0,
    **stopping: Unpack[Stopping],
) -> SolverResult:
    """Minimise a twice differentiable function.

    Newton's systems are solved only as far as pays (`solve_newton_system`): to a share of the
    gradient that falls with it. Where the gradient is within `tol`, they are solved until it is
    known whether the distance to the minimum is, too.

    Parameters
    ----------
    value_and_gradient, start
        See `minimize_lbfgs`. A product with the Hessian counts as an evaluation.
    hessian_operator : callable
        Of parameters; returns a callable that multiplies a direction by the Hessian there.
        FloatingPointError from either means that it overflows, which ends a Newton system like
        negative curvature does.
    make_preconditioner, lags, build_cost
        See `minimize_lbfgs`; the conjugate gradients' preconditioner.
    **stopping
        See `Stopping`.

    Returns
    -------
    SolverResult

    Raises
    ------
    FloatingPointError
        If the function is not finite at `start`.

    References
    ----------
    Nocedal & Wright (2006), algorithm 7.1 (line search Newton-CG). Eisenstat & Walker (1996),
    SIAM J. Sci. Comput. 17(1), choice 2 of the forcing terms, equation 2.6, and its safeguard.
    """
    progress = Progress(**stopping)
    x = np.array(start, dtype=np.float64)
    f, g = progress.start(value_and_gradient, x)
    preconditioner = LaggedPreconditioner(make_preconditioner, lags, build_cost, x)
    forcing, size = _FORCING_MOST, math.inf

    progress.visit(x, f, max_norm(g))
    while True:
        previous_size, size = size, math.sqrt(max(dot(g, preconditioner.apply(g)), 0.0))
        forcing = _next_forcing(forcing, size, previous_size)
        step = solve_newton_system(
            _product_or_overflow(hessian_operator, x),
            g,
            preconditioner.apply,
            forcing,
            progress.enough if progress.is_flat else None,
        )
        progress.n_passes += step.n_products
        slope = dot(step.direction, g)
        gain = -0.5 * slope  # of the model, all of what a truncated solution promises
        status = progress.verdict(step.decrement, gain, step.direction)
        if status is not None:
            return progress.result(status)

        start_point = Point(0.0, f, g, slope)
        point, n_trials = search_from(
            value_and_gradient, x, step.direction, start_point, 10.0 * progress.noise
        )
        progress.n_passes += n_trials
        if point is None:
            # The gain of a truncated step tells nothing of how far the minimum is.
            return progress.result(progress.failure(gain if progress.is_flat else step.decrement))
        x, f, g = x + point.step_size * step.direction, point.value, point.gradient
        progress.visit(x, f, max_norm(g), point.step_size)
        if preconditioner.is_old(point.step_size, progress.n_left * progress.passes_per_iteration):
            preconditioner.build(x)


def _next_forcing(forcing: float, size: float, previous_size: float) -> float:
    """Return the share of the gradient to which the next Newton system is solved.

    Unless the last one was large itself, it may fall as the gradient did, to the power 1.5.
    """
    if previous_size in (0.0, math.inf):
        return _FORCING_MOST
    safeguard = _FORCING_FACTOR * forcing**_FORCING_POWER
    forcing = _FORCING_FACTOR * min(size / previous_size, 1.0) ** _FORCING_POWER
    if safeguard > 0.1:
        forcing = max(forcing, safeguard)
    return min(forcing, _FORCING_MOST)


def _product_or_overflow(
    hessian_operator: Callable[[Vector], Callable[[Vector], Vector]], params: Vector
) -> Callable[[Vector], Vector]:
    """Return the operator at `params`; if it cannot be had, its products raise."""
    try:
        return hessian_operator(params)
    except FloatingPointError as error:
        reason = error

    def overflow(direction: Vector) -> Vector:
        raise FloatingPointError from reason

    return overflow
