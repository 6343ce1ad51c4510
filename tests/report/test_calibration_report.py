"""How well fitted constants predict."""

from __future__ import annotations

import json
from dataclasses import replace

from craftc.report.calibration_report import calibration_document, calibration_text
from craftc.serving.calibration import Calibration, Comparison
from tests.serving.small_server import cluster_of

CELLS = (
    Comparison(2, "throughput", 3.0, 1.5, 1.02),
    Comparison(2, "ttft_ms", 900.0, 0.5, 0.9),
    Comparison(3, "kv_tokens", 4e5, 1.1, 1.0),
)
FOUND = Calibration(cluster_of(), ("server.memory_fraction", "server.sync"), 0.5, 0.05, 0.08, CELLS, ("edge",))


def test_what_was_fitted_and_how_far_predictions_are_off():
    assert calibration_text(FOUND).splitlines() == [
        "calibrated with 3 measured values of 2 rows: server.memory_fraction, server.sync",
        "predictions are off by 64.9% before, 5.1% after, 8.3% for each row by a fit to the others (root mean square); "
        "worst: line 2, ttft_ms -10%",
    ]


def test_nothing_fitted_is_said():
    assert "no constant, the measurements do not tell any apart" in calibration_text(replace(FOUND, freed=()))


def test_a_prediction_of_nothing_is_the_worst():
    nothing = replace(FOUND, comparisons=(*CELLS, Comparison(5, "throughput", 2.0, 0.5, 0.0)))
    assert calibration_text(nothing).endswith("worst: line 5, throughput -100%")


def test_json_holds_every_value():
    document = json.loads(json.dumps(calibration_document(FOUND)))
    assert document["comparisons"][1] == {
        "line": 2, "quantity": "ttft_ms", "measured": 900.0, "before": 0.5, "after": 0.9,
    }  # fmt: skip
    assert document["freed"] == ["server.memory_fraction", "server.sync"]
    assert "cluster" not in document
