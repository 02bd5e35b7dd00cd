"""Estimators: validate, encode, choose a solver, solve, store."""

from fastsoftmax.linear_model._c_min import c_min
from fastsoftmax.linear_model._logistic import LogisticRegression
from fastsoftmax.linear_model._logistic_cv import LogisticRegressionCV

__all__ = ["LogisticRegression", "LogisticRegressionCV", "c_min"]
