"""The bench of rows in parts: the model of a pass, and what the tables tell. No time is judged."""

import dataclasses

import pytest

from bench.process import run_child
from bench.results import append_csv
from bench.scale import (
    FILE,
    ScaleRow,
    insert_tables,
    network_of,
    plot_scale,
    read_rows,
    run_scale,
    scale_goals,
    scale_tables,
    task_of,
)
from bench.scale_child import simulate
from bench.scale_model import (
    FLOAT32,
    Network,
    Task,
    break_even_rows,
    levels,
    n_tasks,
    pass_bytes,
    pass_seconds,
)

TASK = Task(n_samples=1000, n_features=99, n_classes=10, row_seconds=1e-3)
FREE = Network(latency=0.0, bandwidth=float("inf"))

ROWS = [
    ScaleRow("cluster", "1 process", "1", seconds=0.30, fit_seconds=6.0),
    ScaleRow("cluster", "2 processes", "1", seconds=0.20, fit_seconds=4.0),
    ScaleRow("cluster", "2 threads", "1", seconds=0.15, fit_seconds=3.9),
    ScaleRow("cluster", "in process", "1", seconds=0.14, fit_seconds=3.0),
    ScaleRow("cluster", "empty, 1 process", "1", seconds=0.01),
    ScaleRow("cluster", "empty, 2 processes", "1", seconds=0.01),
    ScaleRow("cluster", "1 tasks", "1", seconds=0.010),
    ScaleRow("cluster", "201 tasks", "1", seconds=0.210),
    ScaleRow(
        *("disk", "", "1"),
        X_bytes=10**9,
        seconds=1.25,
        disk_seconds=1.0,
        resident_seconds=0.3,
        fit_seconds=40.0,
        n_reads=20,
        growth_bytes=10**8,
        limit_bytes=2 * 10**8,
    ),
    ScaleRow("kernel", "1000x1000x10", "1", seconds=1e-3, X_bytes=4 * 10**6),
    ScaleRow("simulate", "d = 1000, 8 workers, fan-in 8", "1", seconds=0.07),
]


@pytest.mark.parametrize(
    ("n_workers", "fan_in", "expected"),
    [(1, 8, [1]), (8, 8, [1]), (9, 8, [2, 1]), (256, 2, [128, 64, 32, 16, 8, 4, 2, 1])],
)
def test_levels_of_a_tree(n_workers, fan_in, expected):
    assert levels(n_workers, fan_in) == expected
    assert n_tasks(n_workers, fan_in) == n_workers + sum(expected) - 1


def test_bytes_of_a_pass():
    assert TASK.down_bytes == 8 * 10 * 100
    assert pass_bytes(TASK, 4, 8) == 4 * 8000 + 4 * 8000
    half = dataclasses.replace(TASK, itemsize=FLOAT32)
    assert pass_bytes(half, 4, 2) == 4 * 8000 + 6 * 4000


def test_without_a_network_only_the_largest_share_of_rows_counts():
    for n_workers in (1, 3, 8):
        expected = -(-1000 // n_workers) * 1e-3
        assert pass_seconds(TASK, FREE, n_workers, 8) == pytest.approx(expected)


def test_each_cost_is_in_the_pass_once():
    none = Task(0, 99, 10, 0.0)
    assert pass_seconds(none, Network(1.0, float("inf")), 9, 8) == pytest.approx(3.0)
    assert pass_seconds(none, Network(0.0, 8000.0), 9, 8) == pytest.approx(9 + 2)
    assert pass_seconds(none, Network(0.0, float("inf"), 0.5, 7.0), 9, 8) == pytest.approx(12.5)


def test_at_the_break_even_both_take_the_same():
    network = Network(1e-3, 1e6, 1e-3, 0.01)
    rows = break_even_rows(TASK, network, 4, 8)
    task = dataclasses.replace(TASK, n_samples=round(4e6 * rows), row_seconds=1e-3 / 4e6)
    assert pass_seconds(task, network, 4, 8) == pytest.approx(rows * 1e-3, rel=1e-6)


def test_a_simulated_pass_lasts_no_less_than_its_longest_chain():
    task, network = Task(100, 99, 10, 1e-4), Network(1e-3, 8e6)
    assert simulate(task, network, 5, 2) >= 20 * 1e-4 + 4 * 2e-3
    assert simulate(task, network, 1, 2) >= 100 * 1e-4 + 2 * 2e-3


def test_speeds_come_from_the_rows():
    task = task_of(ROWS, 7)
    assert (task.n_samples, task.n_features, task.n_classes) == (7, 1000, 10)
    assert task.row_seconds == pytest.approx(1e-6)
    network = network_of(ROWS, 1e9)
    assert network.task_seconds == pytest.approx(1e-3)
    assert network.fixed_seconds == pytest.approx(9e-3)
    assert network_of(ROWS[8:], 1e9).task_seconds == 0.0
    with pytest.raises(ValueError, match="kernel"):
        task_of(ROWS[:3])


def test_goals():
    speed_up, overhead, share, memory, model = scale_goals(ROWS)
    assert not speed_up.met
    assert "1.5x" in speed_up.misses[0]
    assert (overhead.n_met, overhead.n_measured) == (1, 4)
    assert (share.n_met, share.n_measured) == (1, 2)
    assert "fit: 0.5" in share.misses[0]
    assert memory.met
    assert model.n_measured == 1


def test_tables_and_plot(tmp_path):
    path = tmp_path / FILE
    for row in ROWS:
        append_csv(path, dataclasses.asdict(row))
    rows = read_rows(path)
    assert [row.key for row in rows] == [row.key for row in ROWS]
    tables = {table.title: table for table in scale_tables(rows)}
    assert len(tables) == 7
    assert tables["A pass by workers"].rows[0][0] == "1"
    assert tables["A plan for a billion rows"].rows[0][0] == "84"  # 4 TB in three quarters of 64 GB
    assert plot_scale(rows, tmp_path / "scale.png").stat().st_size > 10_000
    assert scale_tables(rows[:1])[0].rows[0][0] == "1 process"


def test_tables_go_between_the_marks_of_a_page(tmp_path):
    page = tmp_path / "scale.md"
    page.write_text("# Scale\n\n<!-- tables -->\nSTALE\n<!-- /tables -->\n\n## Limits\n")
    insert_tables(ROWS, page)
    once = page.read_text()
    assert "STALE" not in once
    assert "## A pass by workers" in once
    assert once.endswith("## Limits\n")
    insert_tables(ROWS, page)
    assert page.read_text() == once


@pytest.mark.slow
def test_quick_run_measures_all(tmp_path):
    assert run_scale(tmp_path, fresh=True, quick=True) == 0
    assert {row.what for row in read_rows(tmp_path / FILE)} == {
        *("cluster", "disk", "simulate", "kernel")
    }


def test_kernel_child_measures():
    reply = run_child(["bench.scale_child", "kernel", "500x20x3", "float32", "--quick"], "1")
    assert reply["X_bytes"] == 500 * 20 * 4
    assert 0 < reply["seconds"] <= reply["median_seconds"]
