"""A plan made anew from the one in use."""

from dataclasses import replace

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.passes.base import Pipeline, run_checked
from craftc.passes.planning.allocate_replicas import AllocateReplicas
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.passes.planning.replan_replicas import ANY_MOVE, ReplanReplicas
from craftc.plans.diff import diff_plans
from craftc.solvers.replay import replay
from craftc.topology import Topology
from tests.passes.planning.compilations import compilation, planned, random_loads

OLD = planned().plan


def drifted(**changes):
    """The same layers, other hot experts, curves and allocation made."""
    counts_SLE = np.ascontiguousarray(random_loads().counts_SLE[:, ::-1])
    start = compilation(loads=LoadProfile.from_counts(counts_SLE, top_k=(2, 2, 2)), **changes)
    return Pipeline((EstimateBenefit(), AllocateReplicas())).run(start)


def replanned(old, max_move_bytes, start):
    return run_checked(ReplanReplicas(old, max_move_bytes), start).plan


def test_no_moves_is_the_old_plan_with_a_new_estimate():
    start = drifted()
    plan = replanned(OLD, 0, start)
    assert plan.layers == OLD.layers
    reached = replay(start.loads.counts_SLE, [layer.placement for layer in OLD.layers]).mean()
    assert plan.estimate.balancedness == pytest.approx(reached)
    assert plan.provenance.status == "heuristic"
    assert plan.provenance.loads == f"sha256:{start.loads.sha256}"


def test_moves_within_the_limit_make_it_better():
    start = drifted()
    none = replanned(OLD, 0, start)
    few = replanned(OLD, 500, start)
    many = replanned(OLD, ANY_MOVE, start)
    assert 0 < diff_plans(OLD, few).moved_bytes <= 500
    assert none.estimate.balancedness < few.estimate.balancedness < many.estimate.balancedness
    assert few.estimate.balancedness <= few.estimate.bound


def test_shares_stay_with_the_placements_they_were_made_for():
    first = OLD.layers[0]
    shares = tuple(tuple(1.0 / first.copies_E[expert] for expert in gpu) for gpu in first.placement)
    old = replace(OLD, layers=(replace(first, shares=shares), *OLD.layers[1:]))
    start = drifted()
    assert replanned(old, 0, start).layers == old.layers
    for layer, before in zip(replanned(old, ANY_MOVE, start).layers, old.layers, strict=True):
        assert layer.shares == (before.shares if layer.placement == before.placement else None)


@pytest.mark.parametrize(
    ("old", "message"),
    [
        (replace(OLD, topology=Topology(8, 4)), "8 GPUs in 4 nodes, asked for are 8 in 2"),
        (replace(OLD, layers=OLD.layers[:2]), "has 2 MoE layers, the model has 3"),
        (
            replace(OLD, layers=(*OLD.layers[:2], replace(OLD.layers[2], expert_bytes=7))),
            "experts of 7 bytes, the model has layers.2 with 16 of 100",
        ),
    ],
)
def test_a_plan_for_something_else_is_refused(old, message):
    with pytest.raises(BadInput, match=message):
        replanned(old, ANY_MOVE, drifted())


def test_groups_must_be_kept_by_the_plan_in_use():
    with pytest.raises(BadInput, match=r"old plan does not keep 4 groups on nodes \(layer layers.0: group 0"):
        replanned(OLD, 0, drifted(expert_groups=4))


def test_a_grouped_plan_stays_grouped():
    old = planned(expert_groups=4).plan
    plan = replanned(old, 800, drifted(expert_groups=4))
    assert plan.groups == 4
    assert plan.estimate.balancedness > replanned(old, 0, drifted(expert_groups=4)).estimate.balancedness
