import numpy as np
import pytest

from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.replay import placements_of, replay_batch
from craftc.solvers.search.effort import EFFORTS, SearchEffort, SearchStage
from craftc.solvers.search.local_search import search_placements, search_stages
from craftc.solvers.search.step_compression import compress_steps
from craftc.solvers.verifier import PlacedLayer, violations
from craftc.topology import Topology

EFFORT = SearchEffort((SearchStage(4, 4), SearchStage(8, 7, least=2, most=2)))


def setting(seed=0, layers=3, experts=24, gpus=8, counts=(0, 3, 8, 9)):
    rng = np.random.default_rng(seed)
    counts_SLE = rng.poisson(
        rng.lognormal(0, 1, (1, layers, experts)) * rng.lognormal(0, 0.5, (6, layers, experts)) * 99
    )
    layer_B, replicas_B = np.repeat(np.arange(layers), len(counts)), np.tile(counts, layers)
    load_BE = counts_SLE.sum(axis=0)[layer_B]
    copies_BE = greedy_copies(load_BE, replicas_B, gpus)
    slots_BG = layer_slots((experts + replicas_B).tolist(), Topology(gpus))
    return counts_SLE, layer_B, replicas_B, greedy_placements(load_BE, copies_BE, slots_BG, Topology(gpus))


def test_straggles_less_and_stays_sound():
    counts_SLE, layer_B, replicas_B, start_BGC = setting()
    found_BGC = search_placements(compress_steps(counts_SLE, 8, 16), layer_B, start_BGC, EFFORT, 0)
    start_B, found_B = (replay_batch(counts_SLE, layer_B, one_BGC) for one_BGC in (start_BGC, found_BGC))
    assert (found_B > start_B + 0.01).all()
    for row, placement in enumerate(placements_of(found_BGC)):
        assert violations([PlacedLayer("layer", 24, 1, int(replicas_B[row]), placement)], 8) == ()


def test_a_problem_does_not_depend_on_its_batch():
    counts_SLE, layer_B, _, start_BGC = setting(1)
    steps = compress_steps(counts_SLE, 8, 16)
    together_BGC = search_placements(steps, layer_B, start_BGC, EFFORT, 5)
    for row in (0, 3, 7, 10):
        alone_BGC = search_placements(steps, layer_B[[row]], start_BGC[[row]], EFFORT, 5)
        assert (alone_BGC[0] == together_BGC[row]).all()


def test_same_seed_same_placement():
    counts_SLE, layer_B, _, start_BGC = setting(2)
    steps = compress_steps(counts_SLE, 8, 16)
    first, again, other = (search_placements(steps, layer_B, start_BGC, EFFORT, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_stages_go_on_from_each_other():
    counts_SLE, layer_B, _, start_BGC = setting(3)
    steps = compress_steps(counts_SLE, 8, 16)
    stages = search_stages(steps, layer_B, start_BGC, EFFORT, 0)
    first = search_stages(steps, layer_B, start_BGC, SearchEffort(EFFORT.stages[:1]), 0)
    assert len(stages) == 2
    assert (stages[0] == first[0]).all()
    assert (stages[1] != stages[0]).any()


@pytest.mark.parametrize(
    ("experts", "gpus", "counts"), [(6, 1, (0,)), (1, 3, (0, 2)), (5, 8, (0, 1, 11)), (4, 2, (4,))]
)
def test_odd_shapes(experts, gpus, counts):
    counts_SLE, layer_B, replicas_B, start_BGC = setting(4, 2, experts, gpus, counts)
    found_BGC = search_placements(compress_steps(counts_SLE, gpus, 16), layer_B, start_BGC, EFFORTS["low"], 0)
    for row, placement in enumerate(placements_of(found_BGC)):
        assert violations([PlacedLayer("layer", experts, 1, int(replicas_B[row]), placement)], gpus) == ()
