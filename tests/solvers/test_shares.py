"""Unequal shares: the linear program's optimum, and kept only where unseen steps gain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.replay import gpu_loads, replay
from craftc.solvers.shares import Aim, best_shares, choose_shares, mixed
from craftc.solvers.verifier import PlacedLayer, violations
from tests.plans.sample_plans import random_plan

# Expert 0 on both GPUs; GPU 0 also has the hot expert 1, GPU 1 the cold expert 2.
PLACEMENT = ((0, 1), (0, 2))


def sound(placement, shares, experts):
    slots = sum(map(len, placement))
    layer = PlacedLayer("x", experts, 1, slots - experts, placement, shares)
    return violations([layer], len(placement)) == ()


def straggling(counts_SE, placement, shares):
    load_SG = gpu_loads(counts_SE, placement, shares)
    return (load_SG.max(axis=1) / load_SG.mean(axis=1)).sum()


def test_the_copy_beside_the_hot_expert_takes_less():
    shares = best_shares(np.array([[6, 4, 0]]), PLACEMENT)
    assert shares == ((pytest.approx(1 / 6, abs=1e-5), 1.0), (pytest.approx(5 / 6, abs=1e-5), 1.0))
    assert replay(np.array([[[6, 4, 0]]]), [PLACEMENT], [shares]).item() == pytest.approx(1, abs=1e-5)


def test_two_steps_are_weighed_against_a_search_over_all_shares():
    counts_SE = np.array([[6, 4, 0], [6, 0, 2]])
    grid = np.linspace(0, 1, 1001)
    best = min(straggling(counts_SE, PLACEMENT, ((share, 1.0), (1 - share, 1.0))) for share in grid)
    assert straggling(counts_SE, PLACEMENT, best_shares(counts_SE, PLACEMENT)) == pytest.approx(best, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 6), st.integers(2, 4))
def test_sound_and_never_worse_than_even_on_the_fitted_steps(seed, steps, experts, gpus):
    slots = experts + min(3, experts * (gpus - 1))
    placement = random_plan(seed, gpus, experts, (slots,), 0).layers[0].placement
    counts_SE = np.random.default_rng(seed).integers(0, 50, (steps, experts)) + 1
    shares = best_shares(counts_SE, placement)
    assert sound(placement, shares, experts)
    assert straggling(counts_SE, placement, shares) <= straggling(counts_SE, placement, None) + 1e-4
    choice = choose_shares(counts_SE, placement)
    assert choice.shares is None or sound(placement, choice.shares, experts)
    assert choice.unequal >= choice.even
    assert choice.even == pytest.approx(replay(counts_SE[:, None], [placement]).mean())


def test_kept_where_all_steps_agree():
    counts_SE = np.array([[60, 40, 0], [63, 39, 1], [59, 42, 0], [61, 40, 2]])
    choice = choose_shares(counts_SE, PLACEMENT)
    assert choice.shares is not None
    assert choice.unequal > 0.95 > choice.even
    assert choice.shares[0][0] < 0.3


def test_dropped_where_what_one_step_wants_hurts_the_next():
    counts_SE = np.array([[60, 40, 0], [60, 0, 40]])
    choice = choose_shares(counts_SE, PLACEMENT)
    assert choice.shares is None
    assert choice.unequal == choice.even


def test_a_single_step_or_no_replicas_stay_even():
    assert choose_shares(np.array([[6, 4, 0]]), PLACEMENT).shares is None
    assert choose_shares(np.array([[6, 4], [6, 4]]), ((0,), (1,))).shares is None


def test_idle_steps_count_for_nothing():
    assert best_shares(np.array([[0, 0, 0], [6, 4, 0]]), PLACEMENT) == best_shares(np.array([[6, 4, 0]]), PLACEMENT)
    assert best_shares(np.zeros((2, 3), dtype=int), PLACEMENT) == ((0.5, 1.0), (0.5, 1.0))


def test_mixing_goes_part_of_the_way():
    assert mixed(((0.0, 1.0), (1.0, 1.0)), PLACEMENT, 0.5) == ((0.25, 1.0), (0.75, 1.0))


def longest(counts_SE, shares, least_tokens=0.0):
    """Tokens that steps wait for, summed over steps."""
    return np.maximum(gpu_loads(counts_SE, PLACEMENT, shares).max(axis=1), least_tokens).sum()


def test_for_step_time_a_large_step_counts_for_its_tokens():
    counts_SE = np.array([[600, 400, 0], *[[6, 0, 4]] * 3])
    balanced, quick = best_shares(counts_SE, PLACEMENT), best_shares(counts_SE, PLACEMENT, Aim("step-time"))
    assert longest(counts_SE, quick) < longest(counts_SE, balanced)
    grid = np.linspace(0, 1, 1001)
    best = min(longest(counts_SE, ((share, 1.0), (1 - share, 1.0))) for share in grid)
    assert longest(counts_SE, quick) == pytest.approx(best, abs=0.6)


def test_steps_that_wait_for_their_slots_do_not_pull_at_the_shares():
    counts_SE = np.array([[6, 4, 0], [6, 4, 0], [60, 0, 50]])
    slow = Aim("step-time", least_tokens=20.0)
    grid = np.linspace(0, 1, 1001)
    best = min(longest(counts_SE, ((share, 1.0), (1 - share, 1.0)), 20) for share in grid)
    assert longest(counts_SE, best_shares(counts_SE, PLACEMENT, slow), 20) == pytest.approx(best, abs=0.1)
    assert choose_shares(counts_SE[:2].repeat(4, axis=0), PLACEMENT, slow).shares is None


def test_shares_for_step_time_are_kept_where_unseen_steps_get_shorter():
    counts_SE = np.array([[60, 40, 0], [630, 390, 10], [59, 42, 0], [610, 400, 20]])
    choice = choose_shares(counts_SE, PLACEMENT, Aim("step-time"))
    assert choice.shares is not None
    assert choice.even < -1.05
    assert -1.05 < choice.unequal <= -1
    assert choice.even == pytest.approx(-longest(counts_SE, None) / (counts_SE.sum() / 2))
