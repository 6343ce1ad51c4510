from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.loads.read_loads import read_loads
from craftc.plans.file import read_plan
from craftc.report.gpu_load_picture import draw_gpu_loads, relative_loads
from tests.cli.command_line import LOADS, PLAN


def test_relative_loads_average_over_steps_with_tokens():
    counts_SLE = np.array([[[3, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 2, 2]]])
    placement = ((0, 1), (2, 3))
    load_LG = relative_loads(LoadProfile.from_counts(counts_SLE), [placement], [None])
    assert load_LG.tolist() == [[1.0, 1.0]]
    replicated = ((0, 1), (0, 2, 3))
    load_LG = relative_loads(LoadProfile.from_counts(counts_SLE[:1]), [replicated], [None])
    assert load_LG.tolist() == [[2.5 / 2, 1.5 / 2]]


def test_same_plan_and_loads_same_bytes(tmp_path: Path):
    for name in ("a.svg", "b.svg"):
        draw_gpu_loads(read_plan(Path(PLAN)), read_loads(Path(LOADS)), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "experts in order" in text
    assert "this plan, 0.75 replicas per GPU" in text


def test_loads_of_another_model_are_refused(tmp_path: Path):
    loads = replace(read_loads(Path(LOADS)), layer_names=("x", "y"))
    with pytest.raises(BadInput, match="layer 0 is x"):
        draw_gpu_loads(read_plan(Path(PLAN)), loads, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
