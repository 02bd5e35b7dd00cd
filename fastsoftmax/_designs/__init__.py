"""Storages of X. Each offers the same sums over rows, so objective and solvers know only one."""

from fastsoftmax._designs.base import Design, Response
from fastsoftmax._designs.choose import make_design, predict
from fastsoftmax._designs.dense import DenseDesign

__all__ = ["DenseDesign", "Design", "Response", "make_design", "predict"]
