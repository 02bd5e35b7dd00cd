"""fastsoftmax in the environment as it is: no thread variable is set for it."""

import hashlib
from pathlib import Path
from typing import Any

import fastsoftmax
from bench.adapter import EstimatorAdapter, register
from bench.problems import Problem


class FastSoftmax(EstimatorAdapter):
    """``fastsoftmax.LogisticRegression``."""

    name = "fastsoftmax"
    distribution = "fastsoftmax"
    threads = ("installed",)
    growth = 1.25  # as fine as the peers' traces

    def version(self) -> str:
        """Return the version and a digest of the sources: a working copy changes in between."""
        folder = Path(fastsoftmax.__file__).parent
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
        return f"{fastsoftmax.__version__} (sources {digest.hexdigest()[:8]})"

    def memory_estimate(self, problem: Problem) -> int:
        """Return X, twenty vectors of params and one float64 Gram matrix per logit row."""
        width = min(int(problem.X.shape[1]) + 1, 2001)
        return problem.X_bytes + 160 * problem.n_params + 8 * problem.n_rows * width**2

    def estimator(self, C: float, **options: Any) -> Any:
        """Return the estimator at its defaults but for C and the budget."""
        return fastsoftmax.LogisticRegression(C=C, **options)

    def warm_up(self, problem: Problem) -> None:
        """Compile on a few rows, then take one iteration on all: the solver depends on the size."""
        super().warm_up(problem)
        self.fit(problem, 1.0, 1)


register(FastSoftmax())
