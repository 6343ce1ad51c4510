"""A plan made by the passes is sound; each mutation of it is caught, and named."""

from dataclasses import replace

import pytest

from craftc.errors import VerificationFailed
from craftc.plans.replication_plan import LayerPlan, PlanBudget, Provenance, ReplicationPlan
from craftc.plans.verifier import require_sound, verify_plan
from craftc.topology import Topology

FIRST = LayerPlan("a", 0, 4, 2, 10, 2, ((0, 1), (2, 0), (3, 1)))
SECOND = LayerPlan("b", 1, 4, 2, 10, 2, ((2, 3), (0, 3), (1, 2)))
PLAN = ReplicationPlan(
    Topology(3),
    PlanBudget("50B", 50, 40),
    (FIRST, SECOND),
    None,
    Provenance("0", "sha256:0", None, "craft", "highs", "optimal", 0.0),
)


def with_first(**changes):
    return replace(PLAN, layers=(replace(FIRST, **changes), SECOND))


MUTATIONS = {
    "other topology": (replace(PLAN, topology=Topology(4)), "the topology has 4"),
    "no layers": (replace(PLAN, layers=()), "has no layers"),
    "name twice": (with_first(name="b"), "layer b: named 2 times"),
    "missing expert": (with_first(placement=((0, 1), (2, 0), (2, 1))), "expert 3 has no copy"),
    "expert twice": (with_first(placement=((0, 0), (2, 1), (3, 1))), "GPU 0 holds expert 0 2 times"),
    "unknown expert": (with_first(placement=((0, 1), (2, 0), (3, 4))), "expert 4 is not in 0..3"),
    "replicas": (with_first(replicas=1), "1 replicas stated, 2 placed"),
    "shares": (with_first(shares=((0.5, 0.5), (1.0, 0.6), (1.0, 0.5))), "shares of expert 0 sum to 1.1"),
    "spent": (replace(PLAN, budget=PlanBudget("50B", 50, 50)), "50 bytes stated as spent"),
    "budget": (replace(PLAN, budget=PlanBudget("30B", 30, 40)), "10 too many"),
    "groups": (replace(PLAN, topology=Topology(3, 3), groups=2), "group 0 has copies on nodes 0, 1, 2"),
    "groups of experts": (replace(PLAN, groups=3), "4 experts do not divide into 3 groups"),
}


def test_a_sound_plan():
    assert verify_plan(PLAN) == ()
    require_sound(PLAN)


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_is_caught(name):
    plan, message = MUTATIONS[name]
    assert any(message in violation for violation in verify_plan(plan))
    with pytest.raises(VerificationFailed, match="plan is not sound"):
        require_sound(plan)


def test_all_violations_are_counted():
    with pytest.raises(VerificationFailed, match=r"and 1 more violations"):
        require_sound(replace(with_first(replicas=1), budget=PlanBudget("30B", 30, 40)))
