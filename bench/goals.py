"""The goals, as sentences with a verdict: met, or by which rows not and by how much."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.kernel_rows import NARROW_CPUS, Measurements, known
from bench.kernel_tables import (
    mean_ratio,
    narrow_cpus,
    narrow_ratio,
    passes,
    peak_share,
    sparse_name,
)
from bench.operation import Shape, shape_name
from bench.operations.sparse import NAME as SPARSE
from bench.tables import TextTable, number

BOUND_SHARE = 0.6
GRAM_SHARE = 0.6
PASSES = {"hessian_vector_product": 1.6, "hessian_operator": 1.1}
SCALING = 1.7
ONE_ROW = 2.0
MEAN_RATIOS = {"float64": 2.5, "float32": 3.5}
SPARSE_RATIOS = {"debian_sections": 6.0, "zipf_corpus": 8.0}
BIG = 1_000_000  # n d


@dataclass(frozen=True)
class Verdict:
    """A goal and what was found."""

    goal: str
    n_met: int
    n_measured: int
    misses: list[str]  # where and by how much, the worst first

    @property
    def met(self) -> bool:
        """Return whether every row that was measured met it."""
        return self.n_measured > 0 and self.n_met == self.n_measured

    def cells(self) -> list[str]:
        """Return goal, verdict and misses."""
        if not self.n_measured:
            return [self.goal, "not measured", ""]
        verdict = "met" if self.met else "not met"
        return [self.goal, f"{verdict}, {self.n_met} of {self.n_measured}", "; ".join(self.misses)]


def at_least(
    goal: str, least: float, values: Iterable[tuple[str, float]], unit: str = "x"
) -> Verdict:
    """Return the verdict on values, by name, that must not be below a number."""
    found = [(name, value) for name, value in values if known(value)]
    misses = sorted((value, name) for name, value in found if value < least)
    words = [
        f"{name}: {number(value, unit)}, {100 * (1 - value / least):.0f} % short"
        for value, name in misses
    ]
    return Verdict(goal, len(found) - len(misses), len(found), words)


def at_most(goal: str, most: float, values: Iterable[tuple[str, float]], unit: str = "") -> Verdict:
    """Return the verdict on values, by name, that must not be above a number."""
    found = [(name, value) for name, value in values if known(value)]
    misses = sorted(((value, name) for name, value in found if value > most), reverse=True)
    words = [
        f"{name}: {number(value, unit)}, {100 * (value / most - 1):.0f} % over"
        for value, name in misses
    ]
    return Verdict(goal, len(found) - len(misses), len(found), words)


def verdicts_table(verdicts: list[Verdict], title: str = "Goals") -> TextTable:
    """Return goals, verdicts and misses."""
    return TextTable(title, ["goal", "rows", "misses"], [v.cells() for v in verdicts])


def kernel_goals(found: Measurements) -> list[Verdict]:
    """Return the verdicts on the rows of ``python -m bench kernels``."""
    return [
        *_pass_goals(found),
        *(
            at_most(
                f"`{name}` costs at most {most} passes",
                most,
                (
                    (f"{_name(s, d)} {threads} threads", passes(found, name, s, d, threads))
                    for s, d in found.cases(name)
                    for threads in "21"
                ),
                " passes",
            )
            for name, most in PASSES.items()
        ),
        at_least(
            f"weighted Gram blocks reach {100 * GRAM_SHARE:.0f} % of the peak",
            100 * GRAM_SHARE,
            _over(found, "gram_block", lambda s, d: 100 * peak_share(found, s, d)),
            " %",
        ),
        *_prediction_goals(found),
        *(
            at_least(
                f"`functional.softmax` at least {least:g}x {peer}",
                least,
                _over(found, "softmax", lambda s, d, peer=peer: found.ratio("softmax", s, d, peer)),
            )
            for peer, least in (("scipy", 2.0), ("torch", 1.0))
        ),
        *(
            at_least(
                f"compiled for {cpu}, a pass is never slower than scikit-learn's",
                1.0,
                _over(
                    found,
                    "value_and_gradient",
                    lambda s, d, cpu=cpu: narrow_ratio(found, s, d, cpu),
                ),
            )
            for cpu in dict.fromkeys([*NARROW_CPUS, *narrow_cpus(found)])
        ),
        *(_sparse_goals(found) if found.cases(SPARSE) else ()),
    ]


def _sparse_goals(found: Measurements) -> list[Verdict]:
    cases = [(f"{sparse_name(s)} {d}", s, d) for s, d in found.cases(SPARSE)]
    return [
        *(
            at_least(
                f"a sparse pass is {least:g}x scikit-learn's on {problem}",
                least,
                [
                    (name, found.ratio(SPARSE, s, d))
                    for name, s, d in cases
                    if sparse_name(s) == problem
                ],
            )
            for problem, least in SPARSE_RATIOS.items()
        ),
        at_least(
            f"a sparse pass attains {100 * BOUND_SHARE:.0f} % of the bound",
            100 * BOUND_SHARE,
            [(name, 100 * found.attained(SPARSE, s, d)) for name, s, d in cases],
            " %",
        ),
    ]


def _pass_goals(found: Measurements) -> list[Verdict]:
    name = "value_and_gradient"
    big = [(s, d) for s, d in found.cases(name) if s[0] * s[1] >= BIG]
    return [
        at_least(
            f"a pass attains {100 * BOUND_SHARE:.0f} % of the bound where n d >= 1e6",
            100 * BOUND_SHARE,
            [(_name(s, d), 100 * found.attained(name, s, d)) for s, d in big],
            " %",
        ),
        *(
            at_least(
                f"a pass is {least}x the best peer's in {dtype}, as geometric mean",
                least,
                [("geometric mean", mean_ratio(found, name, dtype))],
            )
            for dtype, least in MEAN_RATIOS.items()
        ),
        at_least(
            "a pass is never slower than the best peer's",
            1.0,
            _over(found, name, lambda s, d: found.ratio(name, s, d)),
        ),
        at_least(
            f"two threads are {SCALING}x one where arithmetic is the bound and n d >= 1e6",
            SCALING,
            [
                (_name(s, d), found.scaling(name, s, d))
                for s, d in big
                if found.is_compute_bound(name, s, d)
            ],
        ),
    ]


def _prediction_goals(found: Measurements) -> list[Verdict]:
    verdicts = []
    for name in ("predict_proba", "predict"):
        verdicts.append(
            at_least(
                f"`{name}` is 3x scikit-learn's, as geometric mean of each dtype",
                3.0,
                [(dtype, mean_ratio(found, name, dtype)) for dtype in MEAN_RATIOS],
            )
        )
        verdicts.append(
            at_least(
                f"`{name}` is 1.3x scikit-learn's on each row",
                1.3,
                _over(found, name, lambda s, d, name=name: found.ratio(name, s, d)),
            )
        )
    rows = [found.find("predict_proba_one_row", *c) for c in found.cases("predict_proba_one_row")]
    verdicts.append(
        at_least(
            "`predict_proba` of one row takes half of scikit-learn's time",
            ONE_ROW,
            [(row.dtype, row.companion_seconds / row.seconds) for row in rows if row is not None],
        )
    )
    return verdicts


def _over(found: Measurements, operation: str, value: object) -> list[tuple[str, float]]:
    """Return a value for each case of an operation, by name."""
    assert callable(value)
    return [(_name(s, d), value(s, d)) for s, d in found.cases(operation)]


def _name(shape: Shape, dtype: str) -> str:
    return f"{shape_name(shape)} {dtype}"
