"""A plan judged on loads: its own, others, and those of another model."""

from __future__ import annotations

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.plans.evaluation import evaluate
from tests.plans.sample_plans import toy_plan

EVEN = LoadProfile.from_counts(np.ones((2, 2, 4), dtype=np.int64))


def test_every_figure_is_replayed():
    """Layer 0: experts 0 and 1 on both GPUs, 2 on GPU 0 and 3 on GPU 1; all of expert 2's tokens go to GPU 0."""
    counts_SLE = np.array([[[2, 2, 4, 0], [1, 1, 1, 1]]])
    judged = evaluate(toy_plan(), LoadProfile.from_counts(counts_SLE))
    first, second = judged.layers
    assert first.planned == pytest.approx(4 / 6)
    assert first.contiguous == pytest.approx(1.0)
    assert second.planned == 1.0
    assert judged.planned == pytest.approx((4 / 6 + 1) / 2)
    assert all(layer.planned <= layer.bound + 1e-12 for layer in judged.layers)
    assert judged.step_time == pytest.approx((6 + 2) / (4 + 2))
    assert judged.contiguous_step_time == pytest.approx(1.0)
    assert not judged.own_loads
    assert judged.steps == 1


def test_loads_of_another_model_are_refused():
    with pytest.raises(BadInput, match="has 3 layers, the plan has 2 MoE layers"):
        evaluate(toy_plan(), LoadProfile.from_counts(np.ones((1, 3, 4), dtype=np.int64)))
    assert evaluate(toy_plan(), EVEN).planned == 1.0
