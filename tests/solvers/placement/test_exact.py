import numpy as np
import pytest

from craftc.solvers.placement.exact import exact_placements
from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.planners.contiguous import contiguous_placement
from craftc.solvers.replay import placement_array, placements_of, replay_batch
from craftc.solvers.verifier import PlacedLayer, violations
from craftc.topology import Topology
from tests.solvers.brute_force import best_balancedness


@pytest.mark.parametrize(("experts", "gpus", "replicas"), [(4, 2, 0), (5, 3, 1), (3, 3, 4), (6, 2, 3), (2, 4, 3)])
def test_finds_the_optimum(experts, gpus, replicas):
    counts_SLE = np.random.default_rng(experts).poisson(20, (3, 2, experts))
    padded_BGK = np.full((2, gpus, experts), -1, dtype=np.int32)
    found_BGK = exact_placements(counts_SLE, np.array([1, 0]), np.array([replicas, replicas]), padded_BGK)
    found_B = replay_batch(counts_SLE, np.array([1, 0]), found_BGK)
    for row, layer in enumerate((1, 0)):
        assert found_B[row] == pytest.approx(best_balancedness(counts_SLE[:, layer], gpus, replicas)[0])
        placed = PlacedLayer("layer", experts, 1, replicas, placements_of(found_BGK[[row]])[0])
        assert violations([placed], gpus) == ()


def test_too_many_placements_are_left_alone():
    counts_SLE = np.random.default_rng(0).poisson(20, (2, 1, 32))
    start_BGK = placement_array([contiguous_placement(layer_slots([32], Topology(8))[0])])
    assert (exact_placements(counts_SLE, np.array([0]), np.array([0]), start_BGK) == start_BGK).all()


def test_idle_steps_do_not_count():
    counts_SLE = np.zeros((3, 1, 4), dtype=np.int64)
    counts_SLE[1, 0] = [3, 3, 1, 1]
    start_BGK = np.array([[[0, 1], [2, 3]]], dtype=np.int32)
    found_BGK = exact_placements(counts_SLE, np.array([0]), np.array([0]), start_BGK)
    assert replay_batch(counts_SLE, np.array([0]), found_BGK)[0] == pytest.approx(1)
