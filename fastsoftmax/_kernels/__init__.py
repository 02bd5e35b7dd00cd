"""Compiled loops over bare arrays. Nothing here knows an object, a solver or an estimator."""
