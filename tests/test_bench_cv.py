"""The bench of cross-validation: goals from rows, bounds, and the page."""

import json

import numpy as np
import pytest

from bench import cv
from bench.__main__ import main
from bench.operation import OURS
from bench.results import append_csv


def rows(status="ok"):
    scores = [json.dumps(values) for values in ([-0.3, -0.2], [-0.3, -0.2004])]
    return [
        cv.CVRow("iris", cv.FIT, OURS, "1", seconds=0.5),
        cv.CVRow("iris", cv.CV, OURS, "1", seconds=5.0, n_passes=99.0, C=1.0, scores=scores[0]),
        cv.CVRow("iris", cv.CV, cv.PEER, "2", status, seconds=200.0, scores=scores[1]),
    ]


def test_goals_and_table():
    in_fits, ratio, difference = cv.cv_goals(rows())
    assert [v.goal for v in (in_fits, ratio, difference)] == [
        "51 fits cost at most 15 default fits",
        "20x scikit-learn's, run to convergence",
        "scores within 0.001",
    ]
    text = "\n".join(table.markdown() for table in cv.cv_tables(rows()))
    assert in_fits.met
    assert ratio.met
    assert difference.met
    assert "| iris | 0.5 | 5 | 10x | 99 | 200 | 40x | 0.0004 |" in text
    *_, undecided = cv.cv_goals(rows("cut"))
    assert not undecided.n_measured
    assert "> 200" in cv.cv_tables(rows("cut"))[0].markdown()


def test_rows_are_read_as_they_were_written_and_the_latest_counts(tmp_path):
    path = tmp_path / cv.FILE
    old = [row for row in rows() if row.library == OURS]
    for row in [*(cv.CVRow(**{**vars(r), "version": "0"}) for r in old), *rows()]:
        append_csv(path, vars(row))
    found = cv.read_rows(path)
    assert len(found) == 5
    assert [row.version for row in cv.latest(found)] == ["1", "1", "2"]
    assert main(["report", str(tmp_path)]) in (0, 1)


def test_a_measurement_finds_what_the_estimator_finds():
    reply = cv.measure("iris", cv.CV, OURS)
    scores = np.array(json.loads(reply["scores"]))
    assert scores.shape == (10,)
    assert reply["seconds"] > 0.0
    assert np.logspace(-4, 4, 10)[scores.argmax()] == pytest.approx(reply["C"])
