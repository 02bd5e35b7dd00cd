"""``python -m bench probe``: a linear probe of the size of ImageNet, on one machine.

Synthetic features with a decaying spectrum, a common offset and noisy labels are made in place,
fitted by the default estimator, and scored in NumPy. A second fit goes on from there to a far
smaller tolerance: what it reaches is taken for the optimum.
"""

import contextlib
import io
import json
import re
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from bench.console import messages
from bench.memory import forget_peak, status_bytes
from bench.problems import Array
from bench.score import l2_of, objective

#: n_samples, n_features, n_classes: ImageNet's rows, a ResNet-50's features.
SHAPE = (1_281_167, 2048, 1000)
QUICK_SHAPE = (20_000, 64, 50)
_BLOCK_ROWS = 50_000


@dataclass
class Probe:
    """A fit of the probe, its curve and its certificate; seconds count from the call of `fit`."""

    shape: tuple[int, int, int]
    C: float
    X_bytes: int
    seconds: float  # of the default fit
    extra_bytes: int  # how far it raised the largest resident size
    n_iter: int
    objective: float  # reported by the solver
    scored_objective: float  # in float64 NumPy
    accuracy: float
    optimum: float = np.nan  # scored, after `polish_iterations` more
    polish_iterations: int = 0
    warnings: list[str] = field(default_factory=list)
    #: Seconds, passes, objective.
    curve: list[tuple[float, int, float]] = field(default_factory=list)


def features_and_labels(shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Return float32 X of shape (n, d) and labels.

    Class means and noise around them share a spectrum that falls with the root of the index; all
    features have mean 0.5, and a tenth of the labels is drawn anew.
    """
    n_samples, n_features, n_classes = shape
    rng = np.random.Generator(np.random.SFC64(20_261_123))
    spectrum = (1.0 + np.arange(n_features)) ** -0.5
    spectrum /= np.sqrt(np.mean(spectrum**2))
    rotation, _ = np.linalg.qr(rng.standard_normal((n_features, n_features)))
    mixing = (spectrum[:, None] * rotation).astype(np.float32)
    means = np.float32(0.08) * rng.standard_normal((n_classes, n_features), dtype=np.float32)
    y = rng.integers(n_classes, size=n_samples)
    X = np.empty((n_samples, n_features), np.float32)
    for start in range(0, n_samples, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        hidden = rng.standard_normal(X[rows].shape, dtype=np.float32)
        hidden += means[y[rows]]
        np.matmul(hidden, mixing, out=X[rows])
        X[rows] += np.float32(0.5)
    noisy = rng.random(n_samples) < 0.1
    y[noisy] = rng.integers(n_classes, size=int(noisy.sum()))
    return X, y


class _Clock(io.TextIOBase):
    """A stream that notes when the solver's lines of progress were written."""

    _line = re.compile(r"passes +(\d+) +objective ([\d.]+)")

    def __init__(self, log: Path) -> None:
        self.begin = time.perf_counter()
        self.curve: list[tuple[float, int, float]] = []
        self._log = log

    def write(self, text: str) -> int:
        seconds = time.perf_counter() - self.begin
        if found := self._line.search(text):
            self.curve.append((seconds, int(found[1]), float(found[2])))
        with self._log.open("a") as log:
            log.write(f"{seconds:9.1f} {text}" if text.strip() else text)
        return len(text)


def run_probe(
    folder: Path, shape: tuple[int, int, int], C: float = 1.0, polish_iterations: int = 25
) -> Probe:
    """Fit, score, go on, and write ``probe.json``; progress goes to ``probe.log``."""
    from fastsoftmax import LogisticRegression

    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "probe.log"
    log.unlink(missing_ok=True)
    messages().print(f"making {shape[0]} x {shape[1]} features; see {log}", soft_wrap=True)
    X, y = features_and_labels(shape)
    few = slice(None, None, max(1, len(X) // 2000))
    LogisticRegression(tol=1e3).fit(X[few], y[few])  # compiles
    model = LogisticRegression(C=C, verbose=1)
    forget_peak()
    before = status_bytes("VmRSS")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clock = _Clock(log)
        with contextlib.redirect_stdout(clock):
            model.fit(X, y)
        seconds = time.perf_counter() - clock.begin
    extra = max(0, status_bytes("VmHWM") - before)
    l2 = l2_of(C, len(y))
    params = np.column_stack([model.coef_, model.intercept_]).astype(np.float64)
    probe = Probe(
        shape=shape,
        C=C,
        X_bytes=X.nbytes,
        seconds=seconds,
        extra_bytes=extra,
        n_iter=int(max(model.n_iter_)),
        objective=clock.curve[-1][2],
        scored_objective=objective(X, y, params, l2),
        accuracy=float(model.score(X, y)),
        warnings=[w.category.__name__ for w in caught],
        curve=clock.curve,
    )
    path = folder / "probe.json"
    path.write_text(json.dumps(asdict(probe), indent=1))
    model.set_params(warm_start=True, tol=1e-9, max_iter=polish_iterations)
    with warnings.catch_warnings(), contextlib.redirect_stdout(_Clock(log)):
        warnings.simplefilter("ignore")  # it need not converge
        model.fit(X, y)
    params = np.column_stack([model.coef_, model.intercept_]).astype(np.float64)
    probe.polish_iterations = int(max(model.n_iter_))
    probe.optimum = min(objective(X, y, params, l2), probe.scored_objective)
    path.write_text(json.dumps(asdict(probe), indent=1))
    return probe


if __name__ == "__main__":
    run_probe(Path(sys.argv[1]), QUICK_SHAPE if "--quick" in sys.argv else SHAPE)
