"""Fits at many strengths of the penalty, of all rows and of those of folds, each near the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._solvers import SolverResult
from fastsoftmax.linear_model._problem import Problem
from fastsoftmax.linear_model._rotated import is_wide
from fastsoftmax.linear_model._small import is_small
from fastsoftmax.linear_model._solve import Neighbour, intercept_only

Vector = NDArray[np.float64]

#: A fit of all rows, started from the one before, that takes more is hard, and those of the folds
#: will be.
_EASY_PASSES = 15


class Fit(NamedTuple):
    """One fit of a path: at which place, of which part, and what came of it.

    Part 0 is all rows, the others are folds.
    """

    place: int
    part: int
    problem: Problem
    result: SolverResult
    solver: str


def fit_path(
    problem_of: Callable[[int, int], Problem],
    n_parts: int,
    places: Sequence[int],
    solve: Callable[[Problem, Vector, Neighbour | None], tuple[SolverResult, str]],
) -> Iterator[Fit]:
    """Yield the fits of all rows and of the folds at each place of a path.

    At each place all rows come first, from their optimum at the place before; then each fold,
    from there plus what lay between the two at the place before. The curvature at the optimum of
    all rows serves the folds, and all rows at the next place: it is built once for each place.

    Parameters
    ----------
    problem_of : callable
        ``problem_of(place, part)``; part 0 is all rows, the others are folds.
    n_parts : int
    places : sequence of int
        From the strongest penalty to the weakest.
    solve : callable
        ``solve(problem, start, near)`` returns a result and the solver's name.
    """
    apart: list[Vector | float] = [0.0] * n_parts
    whole: Vector | float = 0.0
    near = None
    for place in places:
        for part in range(n_parts):
            problem = problem_of(place, part)
            objective = problem.objective
            is_rotated = problem.penalty.is_smooth and is_wide(objective)
            if near is None or (is_rotated and not is_small(objective)):
                # Wide data are rotated, which only a start without coefficients allows.
                start = intercept_only(objective)
            else:
                start = np.reshape(whole + apart[part], objective.shape)
            result, solver = solve(problem, start, near)
            if part == 0:
                whole = result.params
                near = Neighbour(objective, result.params, result.n_passes > _EASY_PASSES)
            else:
                apart[part] = result.params - whole
            yield Fit(place, part, problem, result, solver)
