"""``python -m fastsoftmax``: versions, threads and cache; ``... warmup`` fills the cache."""

import sys

from fastsoftmax._versions import show_versions
from fastsoftmax._warmup import warmup

if __name__ == "__main__":
    if sys.argv[1:] == ["warmup"]:
        warmup()
    elif sys.argv[1:]:
        sys.exit("usage: python -m fastsoftmax [warmup]")
    show_versions()
