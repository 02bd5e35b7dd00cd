"""The command line: ``python -m bench run | kernels | startup | memory | small | ...``."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from bench import environment
from bench.adapter import Adapter, find_libraries
from bench.console import messages, terminal
from bench.cv import run_cv
from bench.growth import run_growth
from bench.kernels import KernelPlan, run_kernels
from bench.l1 import run_l1
from bench.memory import run_memory
from bench.online import run_online
from bench.operation import find_operations, parse_shape
from bench.page import write_page
from bench.probe import run_probe
from bench.problems import (
    DEFAULT_PROBLEMS,
    PROBLEMS,
    SUITES,
    ProblemUnavailableError,
    load_problem,
)
from bench.report import insert_headline, print_tables, write_report
from bench.results import ResultsFolder, optimum_key
from bench.run import Plan, find_optima, run
from bench.scale import run_scale
from bench.small import run_small
from bench.startup import run_startup

#: Commands whose every row is a fresh process: what measures, and the help.
PROCESSES = {
    "startup": (run_startup, "imports and first fits, cold and warm"),
    "memory": (run_memory, "extra memory of a fit with 2 GB of X"),
    "small": (run_small, "fits and a grid search of small data"),
    "cv": (run_cv, "choosing C by cross-validation, against one fit and scikit-learn's"),
    "l1": (run_l1, "L1 penalties and elastic net, against saga and Cyanure"),
    "online": (run_online, "one pass of partial_fit over a stream, against a fit of all rows"),
    "growth": (run_growth, "our time and memory with n, d and K doubled"),
    "scale": (run_scale, "passes of a cluster, over a file larger than memory, and their model"),
    "probe": (run_probe, "a linear probe of ImageNet's size: 10.5 GB, about an hour"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "run":
        return _run(options)
    if options.command == "kernels":
        return _kernels(options)
    if options.command in PROCESSES:
        return _processes(options)
    return _report(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks of fastsoftmax and its peers."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    dtypes = ["float64", "float32"]

    fit = commands.add_parser("run", help="fit named problems with named libraries")
    fit.add_argument("--problems", nargs="+", metavar="NAME", help="default: two small ones")
    fit.add_argument(
        "--suite", choices=SUITES, help="a group of problems, with all libraries by default"
    )
    fit.add_argument("--libraries", nargs="+", metavar="NAME", help="default: the fast ones")
    fit.add_argument("--C", nargs="+", type=float, help="default: each problem's own list")
    fit.add_argument("--dtype", nargs="+", choices=dtypes, help="default: each problem's own")
    fit.add_argument(
        "--time-limit", type=float, default=math.inf, help="seconds at which a peer is cut at last"
    )
    fit.add_argument("--list", action="store_true", help="list problems and libraries, and stop")

    fit.add_argument(
        "--fresh", nargs="*", metavar="NAME", help="discard earlier rows, of all libraries or some"
    )

    kernels = commands.add_parser("kernels", help="each operation against bounds and peers")
    kernels.add_argument(
        "--shapes", nargs="+", type=parse_shape, metavar="NxDxK", help="default: the whole grid"
    )
    kernels.add_argument("--dtype", nargs="+", choices=dtypes, help="default: both")
    kernels.add_argument("--operations", nargs="+", metavar="NAME", choices=find_operations())
    kernels.add_argument(
        "--cpu-names", nargs="*", metavar="NAME", help="for Numba; default: haswell generic"
    )

    processes = [commands.add_parser(name, help=help) for name, (_, help) in PROCESSES.items()]
    for name in ("cv", "l1"):
        processes[list(PROCESSES).index(name)].add_argument(
            "--time-limit", type=float, default=math.inf, help="seconds at which a peer is cut"
        )
    for command in (kernels, *processes):
        command.add_argument("--fresh", action="store_true", help="discard earlier rows")

    report = commands.add_parser("report", help="Markdown tables and plots of saved results")
    report.add_argument("results", nargs="?", type=Path, default=Path("results/default"))

    for command in (fit, kernels, *processes):
        command.add_argument("--quick", action="store_true", help="small and short, for CI")
        command.add_argument(
            "--output", type=Path, help="default: results/default or results/quick"
        )
    report.add_argument("--output", type=Path, help="default: the results folder itself")
    report.add_argument("--page", type=Path, help="default: benchmarks.md in the output folder")
    report.add_argument("--readme", type=Path, help="a page whose headline table to replace, too")
    return parser


def _run(options: argparse.Namespace) -> int:
    libraries = find_libraries()
    if options.list:
        return _list(libraries)
    names = options.libraries or [
        a.name for a in libraries.values() if a.on_by_default or options.suite
    ]
    chosen = options.problems or SUITES.get(options.suite, DEFAULT_PROBLEMS)
    unknown = [n for n in names if n not in libraries] + [n for n in chosen if n not in PROBLEMS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; see python -m bench run --list", file=sys.stderr)
        return 2
    plan = Plan(
        problems=list(chosen),
        libraries=[libraries[name] for name in names],
        dtypes=options.dtype,
        C=options.C,
        quick=options.quick,
        time_limit=options.time_limit,
    )
    results = _open(options, plan.libraries)
    if results is None:
        return 2
    console = messages()
    try:
        missing = run(plan, results, console)
    except KeyboardInterrupt:
        console.print(
            f"Interrupted. {len(results.rows)} rows stand in {results.path}; "
            "the same command goes on from there.",
        )
        return 130
    print_tables(results, terminal())
    console.print(f"Rows in {results.path}; plots with: python -m bench report {results.path}")
    return 1 if missing else 0


def _open(options: argparse.Namespace, libraries: list[Adapter]) -> ResultsFolder | None:
    """Return the results folder, or None if its rows come from other versions or settings."""
    path = _folder(options)
    results = ResultsFolder(path)
    if options.fresh is not None:
        results.discard(options.fresh)
    current = environment.describe(libraries, quick=options.quick)
    saved = results.read_json("environment.json")
    for name in options.fresh or ():
        saved.get("libraries", {}).pop(name, None)
    conflicts = environment.conflicts(saved, current)
    if conflicts and results.rows:
        print(f"{path} was measured elsewhere: {'; '.join(conflicts)}.", file=sys.stderr)
        print(
            "Discard its rows with --fresh, those of some libraries with --fresh NAME ..., "
            "or use another --output.",
            file=sys.stderr,
        )
        return None
    current["libraries"] = saved.get("libraries", {}) | current["libraries"]
    results.write_json("environment.json", current)
    return results


def _list(libraries: dict[str, Adapter]) -> int:
    print("problems:")
    for name, function in PROBLEMS.items():
        print(f"  {name:24} {(function.__doc__ or '').splitlines()[0]}")
    print("libraries:")
    for name, adapter in libraries.items():
        print(f"  {name:24} {adapter.version() or 'not installed'}")
    return 0


def _kernels(options: argparse.Namespace) -> int:
    plan = KernelPlan(
        options.operations, options.shapes, options.dtype, options.cpu_names, options.quick
    )
    return run_kernels(plan, _folder(options), options.fresh)


def _processes(options: argparse.Namespace) -> int:
    measure: Callable[..., int] = PROCESSES[options.command][0]
    limit = {"time_limit": options.time_limit} if "time_limit" in options else {}
    try:
        return measure(_folder(options), options.fresh, options.quick, **limit)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from its rows.", file=sys.stderr)
        return 130


def _folder(options: argparse.Namespace) -> Path:
    return options.output or Path("results") / ("quick" if options.quick else "default")


def _report(options: argparse.Namespace) -> int:
    results = ResultsFolder(options.results)
    folder = options.output or options.results
    paths = _report_fits(results, folder, options.readme) if results.rows else []
    paths += write_page(options.results, options.page or folder / "benchmarks.md", folder)
    if not paths:
        print(f"no results in {options.results}; first: python -m bench run", file=sys.stderr)
        return 2
    for path in paths:
        print(path)
    return 0


def _report_fits(results: ResultsFolder, folder: Path, readme: Path | None) -> list[Path]:
    """Write the report on whole fits, and the headline of a page if one is named."""
    quick = bool(results.read_json("environment.json").get("settings", {}).get("quick"))
    for name, C, _ in results.groups():
        if optimum_key(name, C) in results.optima():
            continue
        try:
            find_optima(results, load_problem(name, quick=quick), [C], quick)
        except ProblemUnavailableError as error:
            print(f"no optimum for {error}", file=sys.stderr)
    paths = write_report(results, folder)
    if readme:
        insert_headline(results, readme, folder)
        paths.append(readme)
    return paths


if __name__ == "__main__":
    sys.exit(main())
