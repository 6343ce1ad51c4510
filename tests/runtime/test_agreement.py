"""With one rank; what several ranks do is in tests/integration/test_ranks_failures.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from craftc.errors import BadInput
from craftc.runtime.agreement import check_ranks_agree, plan_fingerprint
from tests.runtime.plans import plan_of, random_layer

PLAN = plan_of((random_layer("x", 4, 1, 0),), 1)


def test_one_rank_agrees_with_itself(one_rank):
    check_ranks_agree(PLAN, one_rank)


def test_a_plan_for_more_ranks_is_refused(one_rank):
    with pytest.raises(BadInput, match="plan is for 2 GPUs, but 1 ranks are running; start 2 ranks"):
        check_ranks_agree(plan_of((random_layer("x", 4, 2, 0),), 2), one_rank)


def test_fingerprints_tell_placements_and_shares_apart():
    layer = PLAN.layers[0]
    others = [
        replace(layer, placement=(tuple(reversed(layer.placement[0])),)),
        replace(layer, shares=((0.5,) * len(layer.placement[0]),)),
    ]
    prints = {plan_fingerprint(replace(PLAN, layers=(changed,))) for changed in (layer, *others)}
    assert len(prints) == 3
    assert plan_fingerprint(PLAN) == plan_fingerprint(replace(PLAN, estimate=None))
