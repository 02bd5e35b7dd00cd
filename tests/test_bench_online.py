"""The bench of streams: goals from rows, and what is measured."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from bench import online
from bench.__main__ import main
from bench.problems import load_problem
from bench.results import append_csv
from fastsoftmax import LogisticRegression


def rows(loss=0.3):
    return [
        online.OnlineRow("mnist", 1.0, online.SHUFFLED, batch, "1", "ok", "", seconds, value, 0.9)
        for batch, seconds, value in ((online.FIT, 2.0, 0.29), (100, 4.0, loss))
    ]


def test_goals_and_table():
    losses, times = online.online_goals(rows())
    assert losses.met
    assert times.met
    assert not online.online_goals(rows(loss=0.31))[0].met
    text = online.online_tables(rows())[0].markdown()
    assert "| mnist | 1 | shuffled | 100 | 0.29 | 0.3 | 1.034x |" in text


def test_rows_are_read_as_they_were_written_and_the_latest_counts(tmp_path):
    path = tmp_path / online.FILE
    for row in [*(online.replace(row, version="0") for row in rows()), *rows()]:
        append_csv(path, vars(row))
    found = online.read_rows(path)
    assert online.latest(found) == found[2:] == rows()
    assert main(["report", str(tmp_path)]) in (0, 1)
    assert "Streams" in (tmp_path / "benchmarks.md").read_text()


def test_a_measurement_is_of_a_fit_and_of_a_stream():
    fit, stream = online.measure("iris", 1.0, online.IN_ORDER, [50])
    problem = load_problem("iris")
    model = LogisticRegression().fit(problem.X, problem.y)
    assert fit["test_log_loss"] == pytest.approx(
        log_loss(problem.y_test, model.predict_proba(problem.X_test)), rel=1e-9
    )
    model = LogisticRegression()
    for first in range(0, len(problem.y), 50):
        some = slice(first, first + 50)
        model.partial_fit(problem.X[some], problem.y[some], classes=np.arange(3))
    assert stream["test_log_loss"] == pytest.approx(
        log_loss(problem.y_test, model.predict_proba(problem.X_test)), rel=1e-9
    )
    assert stream["seconds"] > 0.0
