"""Sets of the paper's servers: their loads have the stated skew, and their models the published sizes."""

import numpy as np
import pytest

from benchmarks.serving_sets import JUDGED_STEPS, MODELS, PLANNED_STEPS, SKEWS, skewed_counts, skewed_loads
from craftc.models.model_config import parse_model_config


@pytest.mark.parametrize("skew", SKEWS)
def test_layers_run_from_the_lowest_skew_to_the_highest(skew):
    counts_SLE = skewed_counts(20, 256, skew, seed=0, tokens=1_000_000)
    assert counts_SLE.shape == (PLANNED_STEPS + JUDGED_STEPS, 20, 256)
    assert (counts_SLE.sum(axis=2) == 8_000_000).all()
    popular_LE = counts_SLE.mean(axis=0)
    hottest_L = popular_LE.max(axis=1) / popular_LE.mean(axis=1)
    lowest, highest = SKEWS[skew]
    assert hottest_L.min() == pytest.approx(lowest, rel=0.15)
    assert hottest_L.max() == pytest.approx(highest, rel=0.15)


def test_skewed_loads_are_more_uneven_than_others():
    less, skewed = (
        (counts_SLE.max(axis=2) / counts_SLE.mean(axis=2)).max()
        for counts_SLE in (skewed_counts(8, 64, skew, seed=1) for skew in SKEWS)
    )
    assert skewed > 2 * less


def test_steps_differ_and_seeds_decide():
    one, same, other = (skewed_counts(2, 64, "less", seed) for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


@pytest.mark.parametrize(("name", "layers", "experts"), [("D", 58, 256), ("K", 60, 384)])
def test_models_have_their_layers_and_half_of_the_steps_judge(name, layers, experts):
    model = parse_model_config(MODELS[name])
    assert len(model.layers) == layers
    assert {layer.experts for layer in model.layers} == {experts}
    assert {layer.expert_bytes for layer in model.layers} == {3 * 7168 * 2048 * 2}
    planned, judged = skewed_loads(model, "less", seed=5)
    assert (planned.steps, judged.steps) == (PLANNED_STEPS, JUDGED_STEPS)
    assert planned.layers == layers
