"""What a solver reports: after every iteration, and at the end."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


class Status(enum.Enum):
    """Why a solver stopped; the value is a sentence with advice."""

    CONVERGED = "The gradient and the estimated distance to the optimum are below tol."
    FLOOR = (
        "No further progress is possible in this floating-point precision; the result is as good "
        "as the dtype allows."
    )
    SEPARABLE = (
        "The classes are separable, or nearly so: the loss falls towards its infimum "
        "while the coefficients grow, and no finite optimum exists. Lower C: a penalty makes one."
    )
    MAX_ITERATIONS = "The limit of iterations was reached: increase max_iter, or tol."
    STOPPED = "The caller asked to stop."
    LINE_SEARCH = (
        "No step along the search direction lowers the objective, though its gradient is not "
        "small: check that the gradient is right and X is not extremely scaled."
    )


@dataclass(frozen=True)
class IterationState:
    """State after an iteration, as `on_iteration` receives it.

    Attributes
    ----------
    iteration : int
        0 before the first step.
    n_passes : int
        Evaluations of the objective so far.
    objective, gradient_norm : float
        Value, and largest absolute component of the gradient.
    step_size : float
        Multiple of the search direction that was taken, 0 before the first step.
    params : ndarray
        Parameters; valid, and not to be written to, during the call.
    """

    iteration: int
    n_passes: int
    objective: float
    gradient_norm: float
    step_size: float
    params: NDArray[np.float64]


@dataclass(frozen=True)
class SolverResult:
    """Outcome of a minimisation.

    Attributes
    ----------
    params : ndarray
        The best parameters found; always finite.
    objective, gradient_norm : float
        At `params`.
    decrement : float
        Estimate of the objective's distance to its minimum: half the squared Newton decrement
        in the solver's metric.
    n_iterations, n_passes : int
    status : Status
    history : list of (n_passes, objective, gradient_norm)
    """

    params: NDArray[np.float64]
    objective: float
    gradient_norm: float
    decrement: float
    n_iterations: int
    n_passes: int
    status: Status
    history: list[tuple[int, float, float]] = field(repr=False)

    @property
    def converged(self) -> bool:
        """Whether nothing is left to do.

        The tolerance or the precision's floor was reached, or the gradient is within the
        tolerance and no finite optimum is left to look for.
        """
        return self.status in (Status.CONVERGED, Status.FLOOR, Status.SEPARABLE)

    @property
    def message(self) -> str:
        """The status as a sentence, with the numbers."""
        return (
            f"{self.status.value} (iterations: {self.n_iterations}, objective: "
            f"{self.objective:.6e}, max |gradient|: {self.gradient_norm:.2e}, estimated distance "
            f"to the optimum: {self.decrement:.2e})"
        )
