"""``python -m fastsoftmax``: versions, threads and cache of this installation."""

from fastsoftmax._versions import show_versions

if __name__ == "__main__":
    show_versions()
