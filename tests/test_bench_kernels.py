"""The bench of kernels, start-up and memory: what it computes and tells. No time is judged."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from bench.__main__ import main
from bench.gathers import Gathers, read_bounds
from bench.gathers import measure_and_keep as measure_gathers
from bench.goals import kernel_goals
from bench.kernel_rows import KernelRow, Measurements
from bench.kernel_tables import kernel_tables
from bench.kernels import _measure as measure_row
from bench.machine import Limits
from bench.measure import timed
from bench.memory import MemoryRow, memory_goals
from bench.operation import Case, find_operations
from bench.peak import _loop_source, fma_peak
from bench.process import ROOT, run_child
from bench.results import append_csv, read_csv
from bench.startup import StartupRow

OPERATIONS = find_operations()


@pytest.mark.parametrize(
    ("operation", "library"),
    [(name, library) for name in OPERATIONS for library in OPERATIONS[name].libraries],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_library_computes_what_the_operation_asks_for(operation, library, dtype):
    if library == "torch":
        pytest.importorskip("torch")
    shapes = OPERATIONS[operation].quick_shapes
    three_and_two_classes = [(*shapes[0][:2], k) for k in (2, 3)] if len(shapes[0]) == 3 else shapes
    for shape in three_and_two_classes:
        case = OPERATIONS[operation].libraries[library](shape, dtype)
        assert case.error(case.run()) < {"float64": 1e-12, "float32": 1e-4}[dtype]
        if case.companion:
            case.companion()


def test_counts_of_a_pass_are_those_of_the_issue():
    operation = OPERATIONS["value_and_gradient"]
    assert operation.bound_arguments((10, 4, 3), "float32") == (160, 480, "float32")
    assert operation.bound_arguments((10, 4, 2), "float64") == (320, 160, "float64")
    assert OPERATIONS["gram_block"].bound_arguments((10, 4), "float64") == (320, 200, "float64")


def test_companions_are_called_in_turns(monkeypatch):
    monkeypatch.setattr("bench.measure.MIN_SECONDS", 0.0)
    calls = []
    case = Case(lambda: calls.append("run"), float, lambda: calls.append("companion"), repeats=9)
    found = timed(case)
    assert found["repeats"] == 9
    assert set(zip(calls[::2], calls[1::2], strict=True)) == {("run", "companion")}


def test_register_loop_runs_and_its_code_has_a_vector_per_accumulator():
    assert fma_peak("float32", 2, repeats=1, n_iterations=1000) > 0
    source = _loop_source("double", 8, 16)
    assert source.count("call <8 x double> @llvm.fma.v8f64") == 16


def test_limits_keep_the_best_that_was_seen():
    slow = Limits(1.0, {"float64": 5.0, "float32": 2.0}, {"float64": "loop", "float32": "loop"})
    fast = Limits(2.0, {"float64": 4.0, "float32": 3.0}, {"float64": "BLAS", "float32": "BLAS"})
    best = slow.better_of(fast)
    assert best.bandwidth == 2.0
    assert best.peak == {"float64": 5.0, "float32": 3.0}
    assert best.peak_by == {"float64": "loop", "float32": "BLAS"}
    assert best.bound(6.0, 5.0, "float64") == 3.0
    assert best.is_compute_bound(1.0, 5.0, "float64")


def machine_of_one_gigahertz():
    one = Limits(1e9, {"float64": 1e9, "float32": 2e9}, {"float64": "loop", "float32": "loop"})
    return {"1": one, "2": one}


def kernel_rows():
    seconds = {
        ("fastsoftmax", "1"): 2.0,
        ("fastsoftmax", "2"): 1.0,
        ("scikit-learn", "1"): 4.0,
        ("scikit-learn", "2"): 5.0,
        ("torch", "2"): 3.0,
    }
    operation = "value_and_gradient"
    rows = [
        KernelRow(operation, "200000x100x10", dtype, *key, "native", "2", seconds=s, error=0.0)
        for key, s in seconds.items()
        for dtype in ("float64", "float32")
    ]
    older = dataclasses.replace(rows[0], version="1", seconds=0.001)
    haswell = dataclasses.replace(rows[0], threads="2", cpu="haswell", seconds=8.0)
    missing = dataclasses.replace(rows[-1], threads="1", status="skipped", reason="not installed")
    return [older, *rows, haswell, missing]


def test_measurements_take_the_better_threads_and_the_latest_version():
    found = Measurements(kernel_rows(), machine_of_one_gigahertz())
    case = ("value_and_gradient", (200_000, 100, 10), "float64")
    assert found.seconds(*case) == 1.0
    assert found.best_peer(*case).library == "torch"
    assert found.ratio(*case) == 3.0
    assert found.ratio(*case, "scikit-learn") == 4.0
    assert found.scaling(*case) == 2.0
    assert found.attained(*case) == pytest.approx(4 * 200_000 * 100 * 10 / 1e9)
    assert found.is_compute_bound(*case)


def test_goals_say_what_is_missed_and_by_how_much():
    goals = {
        v.goal: v for v in kernel_goals(Measurements(kernel_rows(), machine_of_one_gigahertz()))
    }
    assert goals["a pass is 2.5x the best peer's in float64, as geometric mean"].met
    slow = goals["a pass is 3.5x the best peer's in float32, as geometric mean"]
    assert slow.cells()[1:] == ["not met, 0 of 1", "geometric mean: 3x, 14 % short"]
    haswell = goals["compiled for haswell, a pass is never slower than scikit-learn's"]
    assert haswell.misses == ["200000x100x10 float64: 0.5x, 50 % short"]
    unmeasured = goals["compiled for generic, a pass is never slower than scikit-learn's"]
    assert unmeasured.cells()[1] == "not measured"
    assert not unmeasured.met


def test_page_is_generated_with_a_roofline_and_keeps_the_remarks(tmp_path, capsys):
    for row in kernel_rows():
        append_csv(tmp_path / "kernels.csv", dataclasses.asdict(row))
    limits = {t: dataclasses.asdict(m) for t, m in machine_of_one_gigahertz().items()}
    (tmp_path / "machine.json").write_text(json.dumps({"cpu": "an abacus", "threads": limits}))
    fit = StartupRow("iris", "cold", "2", fit_wall=6.0, signatures='{"kernel": 2}')
    append_csv(tmp_path / "startup.csv", dataclasses.asdict(fit))
    room = MemoryRow("1000x100x3", "float32", "memmap", "2", X_bytes=400_000, extra_bytes=10**9)
    append_csv(tmp_path / "memory.csv", dataclasses.asdict(room))
    page = tmp_path / "docs" / "benchmarks.md"
    command = ["report", str(tmp_path), "--page", str(page), "--output", str(tmp_path / "plots")]
    assert main(command) == 0
    assert capsys.readouterr().out.split() == [str(page), str(tmp_path / "plots" / "roofline.png")]
    text = page.read_text()
    assert "![Roofline](../plots/roofline.png)" in text
    assert "| 200000x100x10 | float64 | 1000 | 2000 | 800 compute | 80 % |" in text
    assert "iris: 6 s, 20 % over" in text
    assert "| iris (150x4x3) | cold |" in text
    assert "| a fit needs no more extra memory than allowed, also with a memmap | not met" in text
    assert "an abacus" in text
    page.write_text(text.replace("<!-- remarks -->", "<!-- remarks -->\n\nPhysics forbids it."))
    assert main(command) == 0
    assert page.read_text().count("Physics forbids it.") == 1


def test_memory_allowed_is_that_of_the_documentation():
    row = MemoryRow("1000x100x3", "float32", "array", "1", X_bytes=400_000)
    n_params = 3 * 101
    allowed = 0.05 * 400_000 + 40 * n_params * 8 + n_params**2 * 8
    assert row.allowed_bytes == allowed + 2 * 1000 * 3 * 4
    many = dataclasses.replace(row, shape="1000x100x5")
    assert many.allowed_bytes == 0.05 * 400_000 + 40 * 505 * 8 + 505**2 * 8


def test_memory_allowed_for_sparse_X():
    row = MemoryRow("600x1000x4", "float32", "csr", "1", X_bytes=400_000, extra_bytes=10**6)
    assert row.allowed_bytes == 12 * 4 * 1001 * 4 + 2 * 400_000 + 600 * 4 * 4
    dense, sparse = memory_goals([row, MemoryRow("9x9x3", "float32", "array", "1", X_bytes=1)])
    assert (dense.n_measured, sparse.n_measured) == (1, 1)
    assert sparse.met


def test_kernels_command_skips_libraries_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bench.kernels.installed_version", lambda name: None if name == "scipy" else "1"
    )
    monkeypatch.setattr("bench.machine.measure", lambda quick: machine_of_one_gigahertz())
    asked = []

    def reply(arguments, threads, variables):
        asked.append((arguments[2], threads, variables))
        return {"seconds": 1.0, "repeats": 7, "error": 0.0, "companion_seconds": None}

    monkeypatch.setattr("bench.kernels.run_child", reply)
    command = ["kernels", "--operations", "softmax", "value_and_gradient", "--dtype", "float32"]
    command += ["--shapes", "20x3", "30x2x3", "--cpu-names", "haswell", "--output", str(tmp_path)]
    assert main(command) == 0
    rows = {
        row.key[:6]: row for row in map(KernelRow.from_strings, read_csv(tmp_path / "kernels.csv"))
    }
    skipped = rows["softmax", "20x3", "float32", "scipy", "1", "native"]
    assert (skipped.status, skipped.reason) == ("skipped", "scipy is not installed")
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    assert ("fastsoftmax", "2", narrow) in asked
    assert {key[1] for key in rows} == {"20x3", "30x2x3"}
    asked.clear()
    assert main(command) == 0  # all rows stand there
    assert not asked


def test_a_failed_child_is_a_row_with_its_last_words(tmp_path):
    row = KernelRow("softmax", "0x0x0", "float64", "fastsoftmax", "1", "native", "1")
    found = measure_row(row)
    assert found.status == "failed"
    assert "Error" in found.reason


def test_a_kernel_is_measured_in_a_process_that_generates_narrower_code():
    variables = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    code = "from bench.measure import vector_bits; print(vector_bits())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) in (0, 128)  # 0: not an x86 CPU


def test_startup_child_counts_signatures(tmp_path):
    np.savez(tmp_path / "data.npz", X=np.arange(40.0).reshape(20, 2) % 7, y=np.arange(20) % 3)
    reply = run_child(["bench.startup_child", str(tmp_path / "data.npz")], "2")
    assert reply["signatures_after_import"] == 0
    assert sum(reply["signatures"].values()) > 0
    assert {"wall", "cpu"} == set(reply["fit"]) == set(reply["import"])
    after = run_child(["bench.startup_child", "after-sklearn"], "2")
    assert set(after) == {"import"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_child_measures_a_memmap():
    reply = run_child(["bench.memory", "70000x8x3", "float32", "memmap"], "2")
    assert reply["X_bytes"] == 70_000 * 8 * 4
    assert reply["n_iter"] > 0
    reply = run_child(["bench.memory", "3000x1000x4", "float32", "csr"], "2")
    assert reply["X_bytes"] > 3000 * 50 * 8
    assert reply["n_iter"] > 0


def made_gathers():
    """Rows of one, two, four and eight lines at 1 ns a line in the cache, 10 ns beyond."""
    seconds = {"L1": [1e-9, 2e-9, 4e-9, 8e-9], "memory": [1e-8, 2e-8, 4e-8, 8e-8]}
    return Gathers({"L1": 256}, {"1": seconds, "2": seconds})


def test_frequent_rows_are_read_from_the_cache_that_holds_them():
    gathers = made_gathers()
    counts = np.array([5, 0, 100, 7, 1])
    # Rows of 100 bytes are two lines; two of them fit in 256 bytes.
    assert gathers.reads("1", counts, 100) == pytest.approx(107 * 2e-9 + 6 * 2e-8)
    assert gathers.row_seconds("1", "L1", 3) == pytest.approx(3e-9)
    assert gathers.row_seconds("1", "memory", 16) == pytest.approx(16e-8)


def test_sparse_bound_is_the_cheaper_way_back_or_the_arithmetic():
    X = scipy.sparse.csr_array(np.tile([1.0, 0.0, 2.0], (4, 1)))
    machine = machine_of_one_gigahertz()
    bound = made_gathers().bound("1", machine, X, 2, "float64")
    # Three of its four lines of residuals at most fit in 256 bytes; both used columns do.
    assert (bound.forward, bound.backward, bound.backward_by) == (8e-9, 8e-9, "rows")
    assert bound.streamed == pytest.approx((8 * 12 + 16 * 7) / 1e9)
    assert bound.seconds == pytest.approx(bound.streamed + 16e-9)
    assert bound.arithmetic == pytest.approx(4 * 8 * 2 / 1e9)
    wide = made_gathers().bound("1", machine, X[:, [0, 2]], 2, "float32")
    assert wide.streamed == pytest.approx((8 * 8 + 8 * 6) / 1e9)


def test_gathers_are_measured_and_kept_with_bounds(tmp_path):
    path = tmp_path / "gathers.json"
    for _ in range(2):  # the second time beside the first
        measure_gathers(path, machine_of_one_gigahertz(), [("600x1000x4", "float32")], quick=True)
    bounds = read_bounds(path)["600x1000x4 float32"]
    assert 0.0 < bounds["2"].forward < bounds["2"].seconds
    assert read_bounds(tmp_path / "none.json") == {}
    rows = [
        KernelRow("sparse_loss_gradient", "600x1000x4", "float32", library, threads, "native", "2",
                  seconds=seconds, error=0.0)
        for library, threads, seconds in [("fastsoftmax", "2", 1.0), ("scikit-learn", "1", 3.0)]
    ]  # fmt: skip
    found = Measurements(rows, machine_of_one_gigahertz(), read_bounds(path))
    case = ("sparse_loss_gradient", (600, 1000, 4), "float32")
    assert found.attained(*case) == bounds["2"].seconds
    assert found.ratio(*case) == 3.0
    goals = [goal.cells() for goal in kernel_goals(found)[-3:]]
    assert goals[0][1] == "not measured"
    assert goals[2][0] == "a sparse pass attains 60 % of the bound"
    (table,) = (t for t in kernel_tables(found) if "sparse" in t.title)
    assert "| 600x1000x4 | float32 | 1000 |" in table.markdown()
