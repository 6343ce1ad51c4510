import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.dealt import dealt_placements
from craftc.solvers.replay import placements_of
from craftc.solvers.verifier import PlacedLayer, violations


@given(
    seed=st.integers(0, 999),
    experts=st.integers(1, 12),
    gpus=st.integers(1, 9),
    parts=st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
def test_sound_with_greedy_copies(seed, experts, gpus, parts):
    load_BE = np.random.default_rng(seed).integers(0, 50, (len(parts), experts))
    replicas_B = np.array([round(part * experts * (gpus - 1)) for part in parts])
    expert_BGK = dealt_placements(load_BE, replicas_B, gpus)
    copies_BE = greedy_copies(load_BE, replicas_B, gpus)
    for row, placement in enumerate(placements_of(expert_BGK)):
        assert violations([PlacedLayer("layer", experts, 1, int(replicas_B[row]), placement)], gpus) == ()
        assert np.bincount([e for gpu in placement for e in gpu]).tolist() == copies_BE[row].tolist()


def test_heaviest_first():
    assert dealt_placements(np.array([[1, 9, 3, 5]]), np.array([0]), 2)[0].tolist() == [[1, 2], [3, 0]]
