"""Small problems, solved inside compiled code; see `fastsoftmax._kernels.solver`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fastsoftmax._designs import DenseDesign, compiled_sums
from fastsoftmax._kernels import solver as kernels
from fastsoftmax._solvers import IterationState, SolverResult, Status, Stopping
from fastsoftmax.objective import SoftmaxObjective

Vector = NDArray[np.float64]

#: A pass of so many operations, and Gram matrices of so many, take 0.2 and some 10 ms.
_PASS_WORK = 1e7
_GRAM_WORK = 3e8
_MEMORY = 10
#: Operations of one call, some 30 ms; then Python may see Ctrl-C.
_CALL_WORK = 3e8


class SmallFit:
    """A fit of a small problem.

    Parameters
    ----------
    objective : SoftmaxObjective
        For which `is_small` holds.
    start : ndarray of shape (n,)
    centre : ndarray of shape (n_features,)
    stopping : Stopping
        All of its keywords; `recedes` is not asked.
    """

    def __init__(
        self,
        objective: SoftmaxObjective,
        start: Vector,
        centre: Vector,
        stopping: Stopping,
    ) -> None:
        n_rows, D = objective.shape
        design = objective.design
        assert isinstance(design, DenseDesign)
        sums = compiled_sums(design, n_rows, centre)
        settings = np.zeros(kernels.N_SETTINGS)
        settings[kernels.TOL] = stopping["tol"]
        settings[kernels.VALUE_SCALE] = stopping["value_scale"]
        settings[kernels.NOISE] = stopping["noise"]
        settings[kernels.WEIGHT_SUM] = design.weight_sum
        settings[kernels.HAS_OFFSET] = design.has_offset
        settings[kernels.MAX_ITER] = stopping["max_iter"]
        self._on_iteration = stopping["on_iteration"]
        n_params = n_rows * D
        vectors = np.zeros((kernels.N_VECTORS, n_params))
        vectors[kernels.X] = start
        self._numbers = np.zeros(kernels.N_NUMBERS)
        self._numbers[kernels.SCALE] = 1.0
        self._counts = np.zeros(kernels.N_COUNTS, np.int64)
        pass_work = 4.0 * design.n_samples * n_params
        most = _CALL_WORK / (pass_work + _gram_work(objective) / 8.0 + n_rows * D**3 / 3.0 + 1e5)
        self._most_iterations = int(min(max(most, 1.0), 100.0))
        self._history = np.zeros((self._most_iterations, 4))
        self._x = vectors[kernels.X]
        self._arguments = (
            *sums,
            objective.l2[:D].copy(),
            centre,
            np.full(D, -1.0),
            vectors,
            vectors.reshape(-1, n_rows, D),
            *(np.zeros((_MEMORY, n_params)) for _ in range(2)),
            np.zeros(_MEMORY),
            np.zeros((n_rows, D, D)),
            np.zeros((n_rows, D)),
            *(settings, self._numbers, self._counts, self._history),
        )

    def run(self) -> tuple[SolverResult, bool]:
        """Return the result, and whether the ordinary solver has to go on from it.

        Python gets control about every 30 ms, and after every iteration for a callback.
        """
        history: list[tuple[int, float, float]] = []
        on_iteration = self._on_iteration
        n_iterations = self._most_iterations if on_iteration is None else 1
        stopped = False
        while self._counts[kernels.STATUS] <= kernels.RUNNING and not stopped:
            self._history[:, 0] = 0.0
            kernels.minimize(0, n_iterations, *self._arguments)  # type: ignore[no-untyped-call]  # a driver
            for n_passes, value, norm, step_size in self._history:
                if n_passes > 0:
                    history.append((int(n_passes), float(value), float(norm)))
                    if on_iteration is not None:
                        state = IterationState(
                            len(history) - 1, *history[-1], float(step_size), self._x.copy()
                        )
                        stopped = bool(on_iteration(state))
        statuses: dict[int, Status] = {
            kernels.CONVERGED: Status.CONVERGED,
            kernels.AT_LIMIT: Status.MAX_ITERATIONS,
        }
        reached = int(self._counts[kernels.STATUS])
        result = SolverResult(
            self._x.copy(),
            float(self._numbers[kernels.VALUE]),
            float(self._numbers[kernels.NORM]),
            float(self._numbers[kernels.DECREMENT]),
            int(self._counts[kernels.N_ITER]),
            int(self._counts[kernels.N_PASSES]),
            statuses.get(reached, Status.STOPPED),
            history,
        )
        return result, reached == kernels.HAND_OVER and not stopped


def is_small(objective: SoftmaxObjective) -> bool:
    """Tell whether Python would take a large share of a fit."""
    return (
        isinstance(objective.design, DenseDesign)
        and 4.0 * objective.n_samples * math.prod(objective.shape) <= _PASS_WORK
        and _gram_work(objective) <= _GRAM_WORK
        and hasattr(kernels.minimize, "overloads")  # not under NUMBA_DISABLE_JIT
    )


def _gram_work(objective: SoftmaxObjective) -> float:
    n_rows, D = objective.shape
    return n_rows * D**2 * (objective.n_samples + D / 3.0)
