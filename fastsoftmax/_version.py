"""The version of the package, which everything in it may ask for."""

__version__ = "0.1.0.dev0"
