"""Minimisers of convex functions. They know callables and vectors, nothing of data or classes."""

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

__all__ = [
    "BlockPreconditioner",
    "CentredPreconditioner",
    "DiagonalPreconditioner",
    "IterationState",
    "KroneckerPreconditioner",
    "NearbyPreconditioner",
    "Preconditioner",
    "SeparablePenalty",
    "SolverResult",
    "Status",
    "Stopping",
    "SumZeroPreconditioner",
    "minimize_composite",
    "minimize_lbfgs",
    "minimize_newton_cg",
]
