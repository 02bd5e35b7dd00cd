"""Benchmarks of fastsoftmax and its peers on one objective: ``python -m bench``."""
