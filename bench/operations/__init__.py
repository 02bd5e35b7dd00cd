"""One module per group of operations; each registers them when it is imported."""
