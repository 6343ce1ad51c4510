"""How many replicas pay: the rule, and the curve from one dynamic program."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import Infeasible, Unsupported
from craftc.solvers.allocation.auto_budget import budget_curve, knee
from craftc.solvers.allocation.dynamic_program import allocate_exactly, best_benefits
from craftc.solvers.problem import BenefitCurves


def curves_of(seed, layers=3, counts=(0, 1, 2, 4)):
    return BenefitCurves(counts, np.sort(np.random.default_rng(seed).random((layers, len(counts))), axis=1))


def test_the_last_replica_that_gains_as_much_as_the_mean_one():
    # Gains 0.2, 0.1, 0.05, 0.01, 0: the range ends at 4 with a mean of 0.09.
    assert knee(np.array([0.4, 0.6, 0.7, 0.75, 0.76, 0.76])) == 2


def test_a_straight_line_pays_to_its_end():
    assert knee(np.linspace(0.5, 0.9, 9)) == 8


def test_a_late_step_is_seen_behind_a_flat_start():
    assert knee(np.array([0.5, 0.5, 0.5, 0.9, 0.9])) == 3


def test_a_long_tail_does_not_stretch_the_range():
    curve = np.array([0.5, 0.8, *np.linspace(0.8, 0.801, 500)])
    assert knee(curve) == 1


def test_nothing_is_bought_for_next_to_nothing():
    assert knee(np.array([0.9, 0.904, 0.9049])) == 0
    assert knee(np.array([0.9])) == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=20))
def test_the_chosen_point_lies_farthest_above_the_line_to_the_end_of_the_range(gains):
    curve = 0.1 + np.cumsum(sorted(gains, reverse=True))
    chosen = knee(curve)
    gain = curve - curve[0]
    if gain[-1] < 0.005:
        assert chosen == 0
        return
    end = int(np.argmax(gain >= 0.99 * gain[-1]))
    above = gain[: end + 1] - np.arange(end + 1) * gain[end] / max(end, 1)
    assert above[chosen] == pytest.approx(above.max(), abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.lists(st.sampled_from([20, 30, 50]), min_size=1, max_size=4))
def test_every_point_is_the_optimum_of_its_budget(seed, sizes):
    curves = curves_of(seed, layers=len(sizes))
    curve = budget_curve(curves, sizes, gpus=2)
    assert curve.exact
    for point in curve.points:
        best = allocate_exactly(curves, sizes, point.replicas_per_gpu * 2 * max(sizes)).objective
        start = curves.balancedness_LC[:, 0].sum()
        assert point.reached == pytest.approx((start + best) / len(sizes))
        assert point.bytes_per_gpu == point.replicas_per_gpu * max(sizes)
    assert curve.points[-1].reached == pytest.approx(curves.balancedness_LC[:, -1].mean())
    gains = [point.marginal_gain for point in curve.points]
    assert sum(gains) == pytest.approx(curve.points[-1].reached - curve.points[0].reached)


def test_all_budgets_from_one_table():
    curves = curves_of(1)
    best_U = best_benefits(curves, (10, 20, 30), 200)
    for unit, best in enumerate(best_U):
        assert best == pytest.approx(allocate_exactly(curves, (10, 20, 30), unit * 10).objective)


def test_sizes_without_a_common_divisor_fall_back_to_greedy():
    curves = curves_of(2, layers=2)
    curve = budget_curve(curves, (10**9 + 7, 10**9 + 9), gpus=2)
    assert not curve.exact
    assert np.all(np.diff([point.reached for point in curve.points]) >= 0)


def test_never_less_than_every_gpu_needs():
    flat = BenefitCurves((0, 1, 2, 4), np.full((2, 4), 0.9))
    assert budget_curve(flat, (10, 10), gpus=2).chosen == 0
    assert budget_curve(flat, (10, 10), gpus=2, least_bytes=30).chosen == 2
    with pytest.raises(Infeasible, match="at least 300 bytes"):
        budget_curve(flat, (10, 10), gpus=2, least_bytes=300)


def test_for_step_time_the_points_are_step_times():
    score_LC = -np.array([[2.0, 1.6, 1.4, 1.3], [3.0, 1.5, 1.4, 1.4]])
    curves = BenefitCurves((0, 1, 2, 4), np.full((2, 4), 0.5), score_LC)
    curve = budget_curve(curves, (10, 10), gpus=2, objective="step-time")
    assert [point.reached for point in curve.points] == pytest.approx([2.5, 1.55, 1.4, 1.35, 1.35])
    assert [point.marginal_gain for point in curve.points] == pytest.approx([0, 0.95, 0.15, 0.05, 0])
    assert (curve.objective, curve.chosen) == ("step-time", 1)
    with pytest.raises(Unsupported, match="step time"):
        budget_curve(BenefitCurves((0, 1), np.ones((2, 2))), (10, 10), gpus=2, objective="step-time")


@pytest.mark.parametrize(("saved", "chosen"), [(0.012, 0), (0.014, 1)])
def test_half_a_percent_of_the_step_time_must_be_saved(saved, chosen):
    score_LC = -np.array([[2.6, 2.6 - saved]])
    curves = BenefitCurves((0, 1), np.ones((1, 2)), score_LC)
    assert budget_curve(curves, (10,), gpus=1, objective="step-time").chosen == chosen


def test_the_range_ends_at_the_largest_useful_budget():
    curves = BenefitCurves((0, 1, 2, 100), np.tile([0.5, 0.6, 0.65, 1.0], (2, 1)))
    assert len(budget_curve(curves, (10, 10), gpus=2).points) == 101
    curve = budget_curve(curves, (10, 10), gpus=2, most_bytes=40)
    assert len(curve.points) == 3
    assert curve.points[-1].reached == pytest.approx(0.65)
