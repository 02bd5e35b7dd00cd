"""One module per library; each registers its adapters when it is imported."""
