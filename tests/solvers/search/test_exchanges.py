import numpy as np
import pytest

from craftc.solvers.search.batch import PlacementBatch
from craftc.solvers.search.exchanges import exchange_best
from craftc.solvers.search.smoothed_peak import ExpertLoads
from tests.solvers.search.batches import assert_consistent, random_batch, stand


def every_exchange(batch, row):
    """The values after every possible exchange in a row."""
    part = batch.rows(np.array([row]))
    for slot, expert in enumerate(part.expert_BN[0]):
        if expert == part.experts or part.copies_BX[0, expert] < 2:
            continue
        for other in range(part.experts):
            if part.holds_BXG[0, other, slot % part.gpus]:
                continue
            changed_BN = part.expert_BN.copy()
            changed_BN[0, slot] = other
            yield stand(PlacementBatch.start(part.loads, changed_BN, part.gpus)).value_B[0]


@pytest.mark.parametrize("seed", range(6))
def test_moves_where_an_exchange_helps_and_keeps_the_counts(seed):
    batch = random_batch(seed, replicas=4)
    before, counts = stand(batch).value_B, (batch.expert_BN < batch.experts).sum(axis=1)
    best = [max(every_exchange(batch, row), default=0.0) for row in range(3)]
    moved_B = exchange_best(batch, 4, wanted=10)
    assert_consistent(batch)
    after = stand(batch).value_B
    assert (after[moved_B] > before[moved_B]).all()
    assert (after[~moved_B] == before[~moved_B]).all()
    assert ((batch.expert_BN < batch.experts).sum(axis=1) == counts).all()
    for row in range(3):
        # Values are estimated where two experts share a GPU, and by the slope: near the best, never above.
        assert after[row] <= max(best[row], before[row]) * (1 + 1e-6)


def test_finds_the_one_replica_that_is_misplaced():
    # Expert 0 takes half of all load and has one copy; the replica lies on idle expert 3.
    load_KBX = np.array([[[2.0, 0.9, 0.9, 0.2, 0.0]]], dtype=np.float32)
    loads = ExpertLoads(load_KBX, np.zeros((1, 5), np.float32), np.ones((1, 1), np.float32))
    batch = PlacementBatch.start(loads, np.array([[0, 1, 2, 4, 3, 3]]), 3)
    assert exchange_best(batch, 4, wanted=2).tolist() == [True]
    assert batch.copies_BX[0].tolist() == [2, 1, 1, 1, 1]


def test_no_replicas_no_exchange():
    batch = random_batch(2, replicas=0)
    before = batch.expert_BN.copy()
    assert not exchange_best(batch, 4, wanted=4).any()
    assert (batch.expert_BN == before).all()
