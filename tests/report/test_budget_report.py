"""The curve behind --budget auto."""

import json
from pathlib import Path

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.report.budget_report import budget_document, budget_text, draw_budget_curve
from craftc.solvers.allocation.auto_budget import budget_curve
from craftc.solvers.problem import BenefitCurves

COUNTS = tuple(range(65))
CURVE = budget_curve(BenefitCurves(COUNTS, np.tile(1 - 0.5 * 0.95 ** np.array(COUNTS), (40, 1))), (2**20,) * 40, 64)


def test_the_rule_and_the_chosen_point():
    text = budget_text(CURVE)
    assert text.startswith("budget auto: the largest number of replicas per GPU whose last one")
    (chosen,) = [line for line in text.splitlines() if "<- chosen" in line]
    assert chosen.split()[0] == str(CURVE.chosen)
    assert len(text.splitlines()) <= 21


def test_json_has_every_point():
    document = json.loads(json.dumps(budget_document(CURVE)))
    assert document["chosen"] == CURVE.chosen
    assert [point["replicas_per_gpu"] for point in document["points"]] == list(range(41))
    assert set(document["points"][3]) == {"replicas_per_gpu", "bytes_per_gpu", "balancedness", "marginal_gain"}


def test_the_drawing_is_a_picture_and_the_same_each_time(tmp_path: Path):
    for name in ("a.png", "b.png"):
        draw_budget_curve(CURVE, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(BadInput):
        draw_budget_curve(CURVE, tmp_path / "none" / "a.png")


def test_a_curve_of_step_time_says_so(tmp_path: Path):
    score_LC = np.tile(-1 - 0.5 * 0.95 ** np.array(COUNTS), (40, 1))
    curves = BenefitCurves(COUNTS, np.ones(score_LC.shape), score_LC)
    curve = budget_curve(curves, (2**20,) * 40, 64, objective="step-time")
    head = budget_text(curve).splitlines()
    assert head[0].endswith("; a gain is step time saved")
    assert "step time" in head[1]
    assert "balancedness" not in budget_text(curve)
    document = budget_document(curve)
    assert document["objective"] == "step-time"
    assert document["points"][0]["step_time"] == pytest.approx(1.5)
    draw_budget_curve(curve, tmp_path / "time.png")
    draw_budget_curve(CURVE, tmp_path / "balancedness.png")
    assert (tmp_path / "time.png").read_bytes() != (tmp_path / "balancedness.png").read_bytes()
