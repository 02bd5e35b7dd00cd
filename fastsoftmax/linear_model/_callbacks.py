"""scikit-learn's callbacks: a fit is a task, and so is each of its iterations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastsoftmax._solvers import IterationState

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn 1.8: estimators have no `set_callbacks`

    class CallbackSupportMixin:  # type: ignore[no-redef]  # stands in for it
        """Stands for a class that came with scikit-learn 1.9."""


__all__ = ["CallbackSupportMixin", "FitTask"]

OnIteration = Callable[[IterationState], bool | None]


class FitTask:
    """A fit as the callbacks of an estimator see it; without callbacks, nothing happens.

    Calls their `setup`; `teardown` is called by scikit-learn, also where the fit raises.
    Like scikit-learn's lbfgs, a fit has one task per iteration, at least one, whose begin and end
    come with the model before and after it, and after these one task without end or model.

    Parameters
    ----------
    estimator : LogisticRegression
    X, y, sample_weight
        The arguments of `fit`: as the user has them, a frame with its names.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self._estimator = estimator
        self._task: Any = None
        if not hasattr(estimator, "_skl_callbacks"):
            return
        self._task = estimator._init_callback_context(max_subtasks=max(estimator.max_iter, 1) + 1)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._data = {"X": X, "y": y, "metadata": metadata}

    def begin(
        self, model_at: Callable[[Any], dict[str, Any]], on_iteration: OnIteration | None
    ) -> OnIteration | None:
        """Return what a solver calls after every iteration: `on_iteration`, then the callbacks.

        Parameters
        ----------
        model_at : callable
            Returns the fitted attributes that predictions need, by name, for a solver's
            parameters.
        on_iteration : callable or None
        """
        if self._task is None:
            return on_iteration
        self._task.call_on_fit_task_begin(estimator=self._estimator, **self._data)
        self._iteration: Any = None

        def on_iteration_and_callbacks(state: IterationState) -> bool:
            def model() -> dict[str, Any]:  # called only if a callback wants it
                return model_at(state.params)

            stops = bool(on_iteration and on_iteration(state))
            if self._iteration is not None:
                stops |= self._end_iteration(model)
            self._begin_iteration(model)
            return stops

        return on_iteration_and_callbacks

    def end(self) -> None:
        """Tell that the estimator is fitted."""
        if self._task is None:
            return
        if self._iteration.task_id == 0:  # no iteration was needed, or allowed
            self._end_iteration(dict)
            self._begin_iteration(dict)
        self._iteration.call_on_fit_task_end(estimator=self._estimator)
        self._task.call_on_fit_task_end(
            estimator=self._estimator, **self._data, reconstruction_attributes={}
        )

    def _begin_iteration(self, model: Callable[[], dict[str, Any]]) -> None:
        self._iteration = self._task.subcontext(task_name="iteration")
        self._iteration.call_on_fit_task_begin(
            estimator=self._estimator, **self._data, reconstruction_attributes=model
        )

    def _end_iteration(self, model: Callable[[], dict[str, Any]]) -> bool:
        return bool(
            self._iteration.call_on_fit_task_end(
                estimator=self._estimator, **self._data, reconstruction_attributes=model
            )
        )
