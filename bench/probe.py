"""``python -m bench probe``: a linear probe of the size of ImageNet, on one machine.

Synthetic features with a decaying spectrum, a common offset and noisy labels are made in place,
fitted by the default estimator, and scored in NumPy. A second fit goes on from there to a far
smaller tolerance: what it reaches is taken for the optimum.
"""

import contextlib
import io
import json
import re
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from bench.console import messages, rich_table, terminal
from bench.goals import Verdict, at_most
from bench.memory import forget_peak, status_bytes
from bench.operation import Shape, shape_name
from bench.problems import Array
from bench.results import NAN
from bench.score import l2_of, objective
from bench.summary import LEVELS, level_name
from bench.tables import NEVER, TextTable, number

FILE, LOG, PLOT = "probe.json", "probe.log", "probe.png"
#: n_samples, n_features, n_classes: ImageNet's rows, a ResNet-50's features.
SHAPE: Shape = (1_281_167, 2048, 1000)
QUICK_SHAPE: Shape = (20_000, 64, 50)
_BLOCK_ROWS = 50_000


@dataclass
class Probe:
    """A fit of the probe, its curve and its certificate; seconds count from the call of `fit`."""

    shape: Shape
    C: float
    X_bytes: int
    seconds: float  # of the default fit
    extra_bytes: int  # how far it raised the largest resident size
    n_iter: int
    objective: float  # reported by the solver
    scored_objective: float  # in float64 NumPy
    accuracy: float
    optimum: float = NAN  # scored, after `polish_iterations` more
    polish_iterations: int = 0
    warnings: list[str] = field(default_factory=list)
    #: Seconds, passes, objective.
    curve: list[tuple[float, int, float]] = field(default_factory=list)


def features_and_labels(shape: Shape) -> tuple[Array, Array]:
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


def run_probe(folder: Path, fresh: bool, quick: bool) -> int:
    """Measure the probe unless it stands in ``probe.json``, and print the table."""
    path = folder / FILE
    if fresh:
        path.unlink(missing_ok=True)
    if not path.is_file():
        messages().print(f"making the features; the fit's progress goes to {folder / LOG}")
        _measure(path, QUICK_SHAPE if quick else SHAPE)
    probe = read_probe(path)
    assert probe is not None
    for table in probe_tables(probe):
        terminal().print(rich_table(table))
    return 0


def read_probe(path: Path) -> Probe | None:
    """Return the saved probe, if there is one."""
    if not path.is_file():
        return None
    probe = Probe(**json.loads(path.read_text()))
    if np.isnan(probe.optimum):  # cut before it was known better
        probe.optimum = _extrapolated([value for *_, value in probe.curve])
    return probe


def _extrapolated(values: list[float]) -> float:
    """Return the limit of a sequence that falls by a constant ratio (Aitken's formula)."""
    apart = (len(values) - 1) // 3
    first, middle, last = values[-1 - 2 * apart], values[-1 - apart], values[-1]
    ratio = (middle - last) / (first - middle)
    return last - (middle - last) * ratio / (1.0 - ratio)


def seconds_to(probe: Probe, level: float) -> float:
    """Return the seconds from the call of `fit` to a relative sub-optimality; nan for never."""
    most = probe.optimum * (1.0 + level)
    return next((seconds for seconds, _, value in probe.curve if value <= most), NAN)


def probe_tables(probe: Probe) -> list[TextTable]:
    """Return the table of levels."""
    lines = []
    for level in (1e-1, 1e-2, *LEVELS[:2]):
        seconds = seconds_to(probe, level)
        passes = [n for s, n, _ in probe.curve if s == seconds]
        lines.append([level_name(level), number(seconds), str(passes[0]) if passes else NEVER])
    stopped = bool(probe.warnings)
    lines.append(
        [
            "stopped at" if stopped else "default fit ends",
            number(probe.seconds),
            str(probe.curve[-1][1]),
        ]
    )
    n, d, K = probe.shape
    gap = (probe.scored_objective - probe.optimum) / probe.optimum
    optimum = (
        f"the objective that {probe.polish_iterations} more iterations reach"
        if probe.polish_iterations
        else "the optimum, as extrapolated from three points of the curve"
    )
    note = (
        f"n = {n}, d = {d}, K = {K}, float32, {probe.X_bytes / 1e9:.1f} GB, C = {probe.C:g}. The "
        f"fit ends {gap:.1e} above {optimum}, scored in "
        f"float64 NumPy, with training accuracy {probe.accuracy:.3f}; its extra memory is "
        f"{100 * probe.extra_bytes / probe.X_bytes:.1f} % of X. The curve is what `verbose` says, "
        f"which differs from the score by {abs(probe.objective - probe.scored_objective):.0e}."
    )
    return [TextTable("A linear probe of ImageNet's size", ["", "s", "passes"], lines, note)]


def probe_goals(probe: Probe) -> list[Verdict]:
    """Return the verdicts on time and memory."""
    return [
        at_most(
            "linear probe of ImageNet's size to 1e-3 within an hour",
            3600.0,
            [(shape_name(probe.shape), seconds_to(probe, 1e-3))],
            " s",
        ),
        at_most(
            "its extra memory is at most 10 % of X",
            10.0,
            [(shape_name(probe.shape), 100 * probe.extra_bytes / probe.X_bytes)],
            " %",
        ),
    ]


def plot_probe(probe: Probe, path: Path) -> Path:
    """Draw sub-optimality against time and return the path."""
    seconds = np.array([s for s, _, _ in probe.curve])
    gaps = np.array([(value - probe.optimum) / probe.optimum for *_, value in probe.curve])
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.semilogy(seconds / 60, np.maximum(gaps, 1e-9), "o-", markersize=3)
    axes.axhline(1e-3, color="grey", linewidth=0.8)
    axes.set_xlabel("minutes since the call of fit")
    axes.set_ylabel("(f - f*) / f*")
    axes.set_title(f"linear probe, {shape_name(probe.shape)}, float32, two cores")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _measure(path: Path, shape: Shape, C: float = 1.0, polish_iterations: int = 25) -> None:
    """Fit, score, go on, and write the probe after the first fit and at the end."""
    from fastsoftmax import LogisticRegression

    log = path.with_name(LOG)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
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
    path.write_text(json.dumps(asdict(probe), indent=1))
    model.set_params(warm_start=True, tol=1e-9, max_iter=polish_iterations)
    with warnings.catch_warnings(), contextlib.redirect_stdout(_Clock(log)):
        warnings.simplefilter("ignore")  # it need not converge
        model.fit(X, y)
    params = np.column_stack([model.coef_, model.intercept_]).astype(np.float64)
    probe.polish_iterations = int(max(model.n_iter_))
    probe.optimum = min(objective(X, y, params, l2), probe.scored_objective)
    path.write_text(json.dumps(asdict(probe), indent=1))
