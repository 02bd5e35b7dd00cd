"""Storages of X. Each offers the same sums over rows, so objective and solvers know only one."""

from fastsoftmax._designs.ascent import DualAscent
from fastsoftmax._designs.base import Design, Response
from fastsoftmax._designs.choose import make_design, predict
from fastsoftmax._designs.columns import ColumnAccess, Columns
from fastsoftmax._designs.compiled import compiled_sums
from fastsoftmax._designs.dense import DenseDesign
from fastsoftmax._designs.parts import Parts, PartsDesign, Survey, plus
from fastsoftmax._designs.rotated import rotate
from fastsoftmax._designs.sparse import SparseDesign, Storage
from fastsoftmax._designs.streamed import StreamedParts

__all__ = [
    "ColumnAccess",
    "Columns",
    "DenseDesign",
    "Design",
    "DualAscent",
    "Parts",
    "PartsDesign",
    "Response",
    "SparseDesign",
    "Storage",
    "StreamedParts",
    "Survey",
    "compiled_sums",
    "make_design",
    "plus",
    "predict",
    "rotate",
]
