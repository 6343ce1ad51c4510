import numpy as np

from tests.solvers.search.batches import assert_consistent, random_batch


def test_a_new_batch_is_consistent():
    batch = random_batch(0)
    assert batch.experts == 10
    assert_consistent(batch)


def test_swap_and_put_keep_it_consistent():
    batch = random_batch(1)
    slot_gpu_N = np.arange(batch.expert_BN.shape[1]) % batch.gpus
    swappable = [
        (first, second)
        for first in range(len(slot_gpu_N))
        for second in range(len(slot_gpu_N))
        if not batch.holds_BXG[0, batch.expert_BN[0, first], slot_gpu_N[second]]
        and not batch.holds_BXG[0, batch.expert_BN[0, second], slot_gpu_N[first]]
    ]
    first, second = swappable[0]
    before = batch.expert_BN[0].copy()
    part = batch.rows(np.array([0]))
    part.swap(np.array([0]), np.array([first]), np.array([second]))
    assert_consistent(part)
    assert (batch.expert_BN[0] == before).all()
    batch.put(np.array([0]), part)
    assert_consistent(batch)
    assert (batch.expert_BN[0, [first, second]] == before[[second, first]]).all()


def test_rows_are_copies():
    batch = random_batch(2)
    batch.rows(np.array([1])).expert_BN[:] = 0
    assert_consistent(batch)
