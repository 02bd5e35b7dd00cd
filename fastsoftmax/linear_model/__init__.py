"""Estimators: validate, encode, choose a solver, solve, store."""

from fastsoftmax.linear_model._c_min import c_min
from fastsoftmax.linear_model._logistic import LogisticRegression

__all__ = ["LogisticRegression", "c_min"]
