import pytest

from craftc.solvers.search.effort import EFFORTS, SearchStage


def test_a_harder_effort_begins_with_the_easier_one():
    low, medium, high = (EFFORTS[name] for name in ("low", "medium", "high"))
    assert medium.stages[: len(low.stages)] == low.stages
    assert high.stages[: len(medium.stages)] == medium.stages
    assert len(low.stages) < len(medium.stages) < len(high.stages)


@pytest.mark.parametrize("name", EFFORTS)
def test_the_final_search_goes_on_from_the_curves(name):
    effort = EFFORTS[name]
    assert effort.final().stages[: len(effort.stages)] == effort.stages


def test_small_problems_get_more_restarts():
    stage = SearchStage(8, 16, work=1e9, least=1, most=20)
    sizes = [(1, 2, 4, 2), (24, 16, 8, 5), (58, 12, 64, 5), (61, 12, 1024, 2)]
    restarts = [stage.restarts(*size) for size in sizes]
    assert restarts == sorted(restarts, reverse=True)
    assert (restarts[0], restarts[-1]) == (20, 1)


def test_no_work_no_restarts():
    assert SearchStage(4, 8).restarts(1, 1, 2, 1) == 0
