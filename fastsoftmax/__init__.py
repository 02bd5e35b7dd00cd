"""Multinomial logistic regression for CPUs: scikit-learn's interface, fused Numba kernels."""

__version__ = "0.1.0.dev0"

__all__ = ["__version__"]
