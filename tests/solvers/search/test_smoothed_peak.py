import numpy as np
import pytest

from craftc.solvers.search.smoothed_peak import copies_of, root, squarings_for, standing, sum_by_expert, to_the_power
from tests.solvers.search.batches import random_batch, stand


def test_value_is_the_weighted_sum_of_inverse_power_means():
    batch = random_batch(0)
    load_KBG = batch.load_KBN.reshape(4, 3, -1, 4).sum(axis=2).astype(np.float64)
    expected_B = (batch.loads.weight_KB / (load_KBG**16).sum(axis=2) ** (1 / 16)).sum(axis=0)
    np.testing.assert_allclose(stand(batch).value_B, expected_B, rtol=1e-5)


def test_potential_has_the_slope_of_the_value():
    batch = random_batch(1)
    now = stand(batch)
    step, gpu = np.unravel_index(now.power_KBG[:, 1].argmax(), (4, 4))
    nudged_KBN = batch.load_KBN.copy()
    nudged_KBN[step, 1, gpu] += 0.005
    then = standing(nudged_KBN, batch.loads.weight_KB, 4, 4)
    heavier = now.gpu_load_KBG[step, 1, gpu] + 0.005 * now.scale_KB[step, 1]
    slope = (heavier**16 - now.power_KBG[step, 1, gpu]) / 16
    assert now.value_B[1] - then.value_B[1] == pytest.approx(slope, rel=0.1)


def test_more_of_a_power_is_closer_to_the_peak():
    batch = random_batch(2)
    peak_KB = batch.load_KBN.reshape(4, 3, -1, 4).sum(axis=2).max(axis=2)
    real_B = (batch.loads.weight_KB / peak_KB).sum(axis=0)
    gaps = [np.abs(stand(batch, squarings).value_B - real_B).max() for squarings in (2, 3, 4, 5)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.05


def test_idle_steps_weigh_nothing():
    batch = random_batch(3)
    batch.load_KBN[1] = 0
    now = stand(batch)
    assert np.isfinite(now.value_B).all()
    assert (now.potential_BG > 0).any()
    assert (now.power_KBG[1] == 0).all()


def test_root_undoes_the_power():
    value = np.array([0.3, 1.0, 1.7], dtype=np.float32)
    np.testing.assert_allclose(root(to_the_power(value.copy(), 5), 5), value, rtol=1e-5)


def test_power_grows_with_the_gpus():
    powers = [squarings_for(gpus) for gpus in (1, 2, 4, 8, 64, 1024, 10**6)]
    assert powers == sorted(powers)
    assert (powers[0], squarings_for(8), powers[-1]) == (3, 4, 5)


def test_counting_and_summing_by_expert():
    expert_BN = np.array([[0, 2, 2], [1, 1, 1]])
    assert copies_of(expert_BN, 3).tolist() == [[1, 0, 2], [0, 3, 0]]
    assert sum_by_expert(np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]]), expert_BN, 3).tolist() == [[1, 0, 5], [0, 4, 0]]
