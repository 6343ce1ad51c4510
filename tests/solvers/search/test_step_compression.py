import numpy as np
import pytest

from craftc.solvers.search.step_compression import compress_steps


def counts_of(steps, layers=2, experts=12, seed=0):
    return np.random.default_rng(seed).poisson(50, (steps, layers, experts))


def test_few_steps_stand_for_themselves():
    counts_SLE = counts_of(5)
    steps = compress_steps(counts_SLE, 4, 16)
    expected_SLE = counts_SLE * 4 / counts_SLE.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(steps.load_LKE, expected_SLE.transpose(1, 0, 2), rtol=1e-5)
    np.testing.assert_allclose(steps.weight_LK, 1 / 5)
    assert not steps.risk_LE.any()


def test_representatives_keep_mean_and_variance():
    counts_SLE = counts_of(300)
    steps = compress_steps(counts_SLE, 4, 16)
    load_SLE = counts_SLE * 4 / counts_SLE.sum(axis=2, keepdims=True)
    assert steps.load_LKE.shape == (2, 16, 12)
    np.testing.assert_allclose(steps.weight_LK.sum(axis=1), 1)
    weighted_LKE = steps.load_LKE * steps.weight_LK[:, :, None]
    np.testing.assert_allclose(weighted_LKE.sum(axis=1), load_SLE.mean(axis=0), rtol=1e-4)
    shown_LE = (np.square(steps.load_LKE) * steps.weight_LK[:, :, None]).sum(axis=1) - load_SLE.mean(axis=0) ** 2
    np.testing.assert_allclose(shown_LE + steps.risk_LE, load_SLE.var(axis=0), rtol=1e-2, atol=1e-5)


def test_workloads_are_told_apart_whatever_their_order():
    rng = np.random.default_rng(1)
    profiles_WE = rng.permuted(np.tile(2.0 ** np.arange(12), (3, 1)), axis=1)
    kind_S = rng.permutation(np.repeat([0, 1, 2], 40))
    counts_SLE = rng.poisson(profiles_WE[kind_S])[:, None, :]
    steps = compress_steps(counts_SLE, 4, 6)
    for profile_E in profiles_WE:
        distance_K = np.abs(steps.load_LKE[0] - profile_E * 4 / profile_E.sum()).max(axis=1)
        assert distance_K[steps.weight_LK[0] > 0].min() < 0.1
    assert steps.risk_LE.max() < 0.05


def test_idle_steps_and_identical_steps():
    counts_SLE = np.zeros((40, 1, 6), dtype=np.int64)
    counts_SLE[::2, 0, 3] = 7
    steps = compress_steps(counts_SLE, 2, 4)
    assert np.isfinite(steps.load_LKE).all()
    assert (steps.load_LKE >= 0).all()
    assert steps.weight_LK.sum() == pytest.approx(1)
    assert compress_steps(counts_SLE[1:2], 2, 4).risk_LE.tolist() == [[0.0] * 6]


def test_floors_are_means_over_the_steps_that_share_a_representative():
    counts_SLE = np.tile(counts_of(2), (10, 1, 1))
    floor_SL = np.tile([[1.0], [3.0]], (10, 2))
    steps = compress_steps(counts_SLE, 4, 2, floor_SL=floor_SL)
    assert sorted(steps.floor_LK[0].tolist()) == [1.0, 3.0]
    assert not compress_steps(counts_SLE, 4, 2).floor_LK.any()


def test_a_layer_without_weight_has_none():
    assert not compress_steps(counts_of(4), 4, 16, np.zeros((4, 2))).weight_LK.any()
