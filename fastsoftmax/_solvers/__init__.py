"""Minimisers of convex functions. They know callables and vectors, nothing of data or classes."""

from fastsoftmax._solvers.diagonal import Functions, minimize_in_diagonal_metric
from fastsoftmax._solvers.dual_ascent import Outcome, ascend
from fastsoftmax._solvers.lbfgs import minimize_lbfgs
from fastsoftmax._solvers.newton_cg import minimize_newton_cg
from fastsoftmax._solvers.preconditioner import (
    BlockPreconditioner,
    CentredPreconditioner,
    DiagonalPreconditioner,
    KroneckerPreconditioner,
    NearbyPreconditioner,
    Preconditioner,
    SumZeroPreconditioner,
)
from fastsoftmax._solvers.progress import Stopping
from fastsoftmax._solvers.proximal import minimize_composite
from fastsoftmax._solvers.result import IterationState, SolverResult, Status
from fastsoftmax._solvers.separable import SeparablePenalty
from fastsoftmax._solvers.step import Step, step_towards_minimum

__all__ = [
    "BlockPreconditioner",
    "CentredPreconditioner",
    "DiagonalPreconditioner",
    "Functions",
    "IterationState",
    "KroneckerPreconditioner",
    "NearbyPreconditioner",
    "Outcome",
    "Preconditioner",
    "SeparablePenalty",
    "SolverResult",
    "Status",
    "Step",
    "Stopping",
    "SumZeroPreconditioner",
    "ascend",
    "minimize_composite",
    "minimize_in_diagonal_metric",
    "minimize_lbfgs",
    "minimize_newton_cg",
    "step_towards_minimum",
]
