"""A fresh process that imports, or imports and fits, and prints what that cost.

Nothing of the bench or of a library is imported before the clocks run, but NumPy with the data.
"""

import json
import sys
import time
from typing import Any

import numpy as np


def cost(action: Any) -> tuple[Any, dict[str, float]]:
    """Return an action's result, and its wall and CPU seconds, all threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def import_peer() -> None:
    """Import what every user of scikit-learn's estimator has imported."""
    import sklearn.linear_model  # noqa: F401 (importing it is what is timed)


def import_ours() -> Any:
    """Import the package and return its estimator."""
    from fastsoftmax import LogisticRegression

    return LogisticRegression


def signatures() -> dict[str, int]:
    """Return how many signatures of each kernel were compiled, or loaded, in this process."""
    kernels: dict[int, Any] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("fastsoftmax"):
            for value in vars(module).values():
                if hasattr(value, "py_func") and hasattr(value, "signatures"):
                    kernels[id(value)] = value
    counts = {f"{k.py_func.__module__}.{k.__name__}": len(k.signatures) for k in kernels.values()}
    return {name: count for name, count in sorted(counts.items()) if count}


def main() -> None:
    """Print one JSON object; the argument is ``sklearn``, ``fastsoftmax`` or a file of data."""
    what = sys.argv[1]
    reply: dict[str, Any] = {}
    if what == "sklearn":
        _, reply["import"] = cost(import_peer)
    elif what == "fastsoftmax":
        _, reply["import"] = cost(import_ours)
    elif what == "after-sklearn":
        import_peer()
        _, reply["import"] = cost(import_ours)
    else:
        with np.load(what) as data:
            X, y = data["X"], data["y"]
        estimator, reply["import"] = cost(import_ours)
        reply["signatures_after_import"] = sum(signatures().values())
        model, reply["fit"] = cost(lambda: estimator().fit(X, y))
        _, reply["predict"] = cost(lambda: model.predict_proba(X))
        reply["signatures"] = signatures()
    print(json.dumps(reply))


if __name__ == "__main__":
    main()
