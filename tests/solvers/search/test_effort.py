import numpy as np
import pytest

from craftc.solvers.search.effort import EFFORTS, SearchStage


def test_a_harder_effort_begins_with_the_easier_one():
    low, medium, high = (EFFORTS[name] for name in ("low", "medium", "high"))
    assert medium.stages[: len(low.stages)] == low.stages
    assert high.stages[: len(medium.stages)] == medium.stages
    assert low.final().stages == medium.final().stages[: len(low.final().stages)]
    assert len(low.stages) < len(medium.stages) < len(high.stages)


@pytest.mark.parametrize("name", EFFORTS)
def test_the_final_search_goes_on_from_the_curves(name):
    effort = EFFORTS[name]
    assert effort.final().stages[: len(effort.stages)] == effort.stages
    assert len(effort.final().stages) > len(effort.stages)


def test_small_problems_get_more_proposals_per_slot():
    stage = SearchStage(1e9, least=20, most=2_000, heat=0.1)
    sizes = [(1, 2, 8), (24, 16, 40), (58, 12, 320), (61, 32, 2048)]
    per_slot = [int(stage.proposals(layers, steps, np.array(slots))) / slots for layers, steps, slots in sizes]
    assert per_slot == sorted(per_slot, reverse=True), per_slot
    assert per_slot[0] == 2_000
    assert stage.proposals(61, 128, np.array(400)) == 20 * 400, "no placement gets fewer per slot,"
    assert stage.proposals(61, 128, np.array(4_000)) == 20 * 500, "unless it is large"
