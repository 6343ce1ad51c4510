import itertools

import numpy as np
import pytest

from craftc.solvers.search.batch import PlacementBatch
from craftc.solvers.search.swaps import swap_best
from tests.solvers.search.batches import assert_consistent, random_batch, stand


def best_single_swap(batch, row):
    """Least potential after one swap, under the scale of the steps as they are."""
    now, slots = stand(batch), batch.expert_BN.shape[1]
    best = now.potential_BG[row].sum()
    for first, second in itertools.combinations(range(slots), 2):
        here, there = first % batch.gpus, second % batch.gpus
        one, other = batch.expert_BN[row, [first, second]]
        if here == there or batch.holds_BXG[row, one, there] or batch.holds_BXG[row, other, here]:
            continue
        load_KG = now.gpu_load_KBG[:, row].copy()
        shift_K = (batch.load_KBN[:, row, second] - batch.load_KBN[:, row, first]) * now.scale_KB[:, row]
        load_KG[:, here] += shift_K
        load_KG[:, there] -= shift_K
        best = min(best, (load_KG**16).sum())
    return best


@pytest.mark.parametrize("seed", range(5))
def test_one_straggler_gets_its_best_swap(seed):
    # With two GPUs every swap concerns the straggler, so that the best of all swaps is its best.
    batch = random_batch(seed, gpus=2, experts=7, replicas=2)
    expected = [best_single_swap(batch, row) for row in range(3)]
    now = stand(batch)
    moved_B = swap_best(batch, now, 4, stragglers=1, partners=1)
    load_KBG = batch.load_KBN.reshape(4, 3, -1, 2).sum(axis=2) * now.scale_KB[:, :, None]
    np.testing.assert_allclose((load_KBG**16).sum(axis=(0, 2)), expected, rtol=1e-3)
    assert moved_B.tolist() == [expected[row] < now.potential_BG[row].sum() * (1 - 1e-5) for row in range(3)]


@pytest.mark.parametrize("replicas", [0, 1, 3, 6])
def test_rounds_raise_the_value_and_end(replicas):
    batch = random_batch(7, replicas=replicas)
    slots_before = (batch.expert_BN < batch.experts).reshape(3, -1, 4).sum(axis=1)
    copies_before = batch.copies_BX.copy()
    for _ in range(100):
        now = stand(batch)
        moved_B = swap_best(batch, now, 4, stragglers=2, partners=3)
        assert_consistent(batch)
        assert (stand(batch).value_B[moved_B] > now.value_B[moved_B]).all()
        assert (stand(batch).value_B[~moved_B] == now.value_B[~moved_B]).all()
        if not moved_B.any():
            break
    assert not moved_B.any()
    assert (batch.copies_BX == copies_before).all()
    slots_after = (batch.expert_BN < batch.experts).reshape(3, -1, 4).sum(axis=1)
    assert (np.sort(slots_after) == np.sort(slots_before)).all()


def test_rows_do_not_depend_on_each_other():
    together = random_batch(9, batch=5, steps=3, experts=20, gpus=8)
    alone = [together.rows(np.array([row])) for row in range(5)]
    swap_best(together, stand(together), 4, stragglers=4, partners=3)
    for row, batch in enumerate(alone):
        swap_best(batch, stand(batch), 4, stragglers=4, partners=3)
        assert (batch.expert_BN[0] == together.expert_BN[row]).all()


def test_nothing_to_gain_nothing_moved():
    batch = random_batch(3)
    batch.loads.load_KBX[:, :, :-1] = 1
    batch.loads.risk_BX[:] = 0
    even = PlacementBatch.start(batch.loads, random_batch(3, replicas=0, experts=10).expert_BN, 4)
    before = even.expert_BN.copy()
    swap_best(even, stand(even), 4, stragglers=4, partners=3)
    assert (stand(even).value_B == stand(PlacementBatch.start(batch.loads, before, 4)).value_B).all()
