"""Multinomial logistic regression for CPUs: scikit-learn's interface, fused Numba kernels."""

from fastsoftmax import functional
from fastsoftmax._version import __version__
from fastsoftmax._versions import show_versions
from fastsoftmax._warmup import warmup
from fastsoftmax.linear_model import LogisticRegression, LogisticRegressionCV, c_min
from fastsoftmax.objective import SoftmaxObjective

__all__ = [
    "LogisticRegression",
    "LogisticRegressionCV",
    "SoftmaxObjective",
    "__version__",
    "c_min",
    "functional",
    "show_versions",
    "warmup",
]
