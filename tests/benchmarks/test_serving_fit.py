"""The fit of the serving model's constants, on a small set under the names of the paper's."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.serving_fit import (
    MEMORY,
    RATIOS,
    TIME,
    fit_memory,
    fit_time,
    kv_losses,
    measured_set,
    modelled_ratios,
    on_cluster,
    with_values,
)
from benchmarks.serving_sets import ServingSet
from craftc.serving.cluster import read_cluster
from tests.serving.small_server import TOPOLOGY, cluster_of, model_of, skewed_loads


@pytest.fixture(scope="module")
def arms():
    """One small set for all eight: ratios between them are 1."""
    loads = skewed_loads(1.0)
    small = ServingSet("D8", "less", model_of(), TOPOLOGY, loads, skewed_loads(1.0, steps=5))
    measured = measured_set(small, cluster_of())
    return {(name, skew): measured for name in ("D8", "K6", "K8", "K12") for skew in ("less", "skewed")}


def test_ten_ratios_of_known_sets_and_arms(arms):
    assert len(RATIOS) == 10
    used = {key for ratio in RATIOS for key in (*ratio.above, *ratio.below)}
    assert {key[:2] for key in used} == set(arms)
    assert {key[2] for key in used} <= set(next(iter(arms.values())))


def test_arms_are_baselines_and_crafts_curve(arms):
    measured = arms["D8", "less"]
    assert list(measured)[:3] == ["BASE", "EPLB", "CRA0"]
    assert measured["CRA2"].replicas_per_gpu == 2
    losses = kv_losses(arms)
    assert set(losses) == {"D8", "K6", "K8", "K12"}
    assert 0 < losses["D8"] < 1
    assert kv_losses(arms, "CRA0")["D8"] == 0 < kv_losses(arms, "CRA2")["D8"] < losses["D8"]


def test_ratios_are_means_over_sets(arms):
    ratio = dict(zip((ratio.name for ratio in RATIOS), modelled_ratios(arms), strict=True))
    assert ratio["CRA8, 6 to 8 nodes"] == pytest.approx(1)
    assert ratio["CRA8/EPLB, D8"] == pytest.approx(ratio["CRA8/EPLB, K8"])


def test_figures_are_replaced_on_all_arms(arms):
    cluster = with_values(cluster_of(), TIME, (0.25, 1.5))
    assert dict(cluster.figures)[TIME[0]].value == 0.25
    moved = on_cluster(arms, cluster)
    assert moved["K6", "less"]["EPLB"].times.server.cluster == cluster
    assert moved["K6", "less"]["EPLB"].times.peaks is arms["K6", "less"]["EPLB"].times.peaks


def test_constants_are_fitted_again_from_what_they_predict(arms, monkeypatch):
    """Figures that the model itself makes from other constants give these constants back, or figures as good."""
    truth = with_values(cluster_of(), (*TIME, *MEMORY), (0.5, 0.3, 0.75, 0.02))
    known = on_cluster(arms, truth)
    ratios = [replace(ratio, paper=paper) for ratio, paper in zip(RATIOS, modelled_ratios(known), strict=True)]
    monkeypatch.setattr("benchmarks.serving_fit.RATIOS", tuple(ratios))
    monkeypatch.setattr("benchmarks.serving_fit.KV_LOSSES", kv_losses(known))
    start = with_values(truth, TIME, (0.6, 0.4))
    np.testing.assert_allclose(fit_time(arms, start), (0.5, 0.3), rtol=0.05)
    refitted = with_values(truth, MEMORY, fit_memory(arms, with_values(truth, MEMORY, (0.9, 0.1))))
    assert kv_losses(on_cluster(arms, refitted)) == pytest.approx(kv_losses(known), rel=0.01)


def test_the_preset_is_what_was_fitted():
    sources = {path: figure.source for path, figure in read_cluster("a100-80g-efa").figures}
    assert all(sources[path].startswith("fitted") for path in (*TIME, *MEMORY))
