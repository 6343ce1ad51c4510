"""Peaks: against a replay in plain Python, and against drawn tokens where chance counts.

Axes: S steps, L layers, E experts, G GPUs.
"""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.serving.peaks import Peaks, measure_peaks
from craftc.solvers.problem import Placement, Shares
from tests.serving.small_server import EXPERTS, skewed_counts

EVEN: Placement = tuple(tuple(range(4 * gpu, 4 * gpu + 4)) for gpu in range(8))


def contiguous(experts: int, gpus: int) -> Placement:
    return tuple(tuple(range(gpu * experts // gpus, (gpu + 1) * experts // gpus)) for gpu in range(gpus))


@st.composite
def cases(draw):
    """`counts_SLE`, placements with replicas, shares or None, GPUs per card and per node."""
    per_nic, nics, nodes = (draw(st.integers(1, 3)) for _ in range(3))
    gpus, experts = per_nic * nics * nodes, draw(st.integers(1, 6))
    steps, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    counts_SLE = random.integers(0, 50, (steps, layers, experts)) * random.integers(0, 2, (steps, layers, 1))
    counts_SLE[0] += 1
    placements, shares = [], []
    for _ in range(layers):
        copies = [random.permutation(gpus)[: random.integers(1, gpus + 1)] for _ in range(experts)]
        weights = [random.dirichlet(np.ones(len(held))) for held in copies]
        parts = {(e, g): w for e in range(experts) for g, w in zip(copies[e], weights[e], strict=True)}
        placement = tuple(tuple(e for e in range(experts) if g in copies[e]) for g in range(gpus))
        placements.append(placement)
        shares.append(tuple(tuple(parts[e, g] for e in held) for g, held in enumerate(placement)))
    given_shares = [None if draw(st.booleans()) else each for each in shares] if draw(st.booleans()) else None
    return counts_SLE, placements, given_shares, per_nic, per_nic * nics


def replayed(counts_SLE, placements, shares_L, together: int) -> list[float]:
    """Of every layer: mean over steps with tokens of max / mean over units of `together` GPUs."""
    found = []
    for layer, placement in enumerate(placements):
        shares: Shares | None = None if shares_L is None else shares_L[layer]
        copies = [sum(expert in gpu for gpu in placement) for expert in range(counts_SLE.shape[2])]
        ratios = []
        for counts_E in counts_SLE[:, layer].tolist():
            units = [0.0] * (len(placement) // together)
            for gpu, held in enumerate(placement):
                for slot, expert in enumerate(held):
                    part = 1 / copies[expert] if shares is None else shares[gpu][slot]
                    units[gpu // together] += counts_E[expert] * part
            if sum(units) > 0:
                ratios.append(max(units) / (sum(units) / len(units)))
        found.append(sum(ratios) / len(ratios))
    return found


def test_recorded_peaks_are_of_all_steps_also_of_more_than_are_drawn():
    counts_SLE = skewed_counts(1.0, steps=100) * (1 + np.arange(EXPERTS) * np.arange(100)[:, None, None] // 8)
    peaks = measure_peaks(counts_SLE, [EVEN] * 4, (4,) * 4, 2, 4)
    np.testing.assert_allclose(peaks.gpu_PL[0], replayed(counts_SLE, [EVEN] * 4, None, 1))
    assert (peaks.gpu_PL >= peaks.gpu_PL[0]).all()
    np.testing.assert_allclose(peaks.gpu_PL[1], peaks.gpu_PL[0], rtol=2e-3)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_recorded_peaks_are_those_of_a_plain_replay(case):
    counts_SLE, placements, shares_L, per_nic, per_node = case
    peaks = measure_peaks(counts_SLE, placements, (1,) * len(placements), per_nic, per_node, shares_L)
    for peak_PL, together in ((peaks.gpu_PL, 1), (peaks.nic_PL, per_nic), (peaks.node_PL, per_node)):
        np.testing.assert_allclose(peak_PL[0], replayed(counts_SLE, placements, shares_L, together))
    fullest = [max(len(gpu) for gpu in placement) for placement in placements]
    np.testing.assert_array_equal(peaks.slots_PL[0], fullest)


@settings(deadline=None, max_examples=30)
@given(cases())
def test_peaks_are_sound_at_any_number_of_tokens(case):
    counts_SLE, placements, shares_L, per_nic, per_node = case
    peaks = measure_peaks(counts_SLE, placements, (2,) * len(placements), per_nic, per_node, shares_L)
    for peak_PL in (peaks.gpu_PL, peaks.nic_PL, peaks.node_PL):
        assert np.isfinite(peak_PL).all()
        assert (peak_PL >= peak_PL[0]).all()
    assert (peaks.gpu_PL[0] >= peaks.nic_PL[0] - 1e-9).all()
    assert (peaks.nic_PL[0] >= peaks.node_PL[0] - 1e-9).all()
    assert (np.diff(peaks.slots_PL, axis=0) <= 1e-9).all()  # fewer tokens use fewer slots
    assert (peaks.slots_PL > 0).all()


@pytest.mark.parametrize(("skew", "experts", "gpus", "top_k"), [(0.0, 64, 16, 4), (1.0, 64, 16, 4), (0.5, 64, 32, 8)])
def test_drawn_peaks_are_those_of_poisson_tokens(skew, experts, gpus, top_k):
    layers = 60
    counts_SLE = skewed_counts(skew, steps=16, layers=layers, experts=experts, tokens=20000)
    peaks = measure_peaks(counts_SLE, [contiguous(experts, gpus)] * layers, (top_k,) * layers, 1, gpus)
    part_SLG = counts_SLE.reshape(16, layers, gpus, -1).sum(axis=3) / counts_SLE[:1].sum(axis=2)[..., None]
    random = np.random.default_rng(1)
    small = [number for number, tokens in enumerate(peaks.tokens_P) if 2 * gpus <= tokens * top_k < np.inf]
    for number in small:
        pairs = peaks.tokens_P[number] * top_k
        drawn = random.poisson(pairs * part_SLG, (20, *part_SLG.shape)).max(axis=-1).mean() * gpus / pairs
        assert peaks.gpu_PL[number].mean() == pytest.approx(drawn, rel=0.02)


def test_between_two_numbers_of_tokens_peaks_are_nearly_those_of_poisson_tokens():
    counts_SLE = skewed_counts(0.7, steps=16, layers=60, tokens=20000)
    peaks = measure_peaks(counts_SLE, [contiguous(32, 16)] * 60, (4,) * 60, 1, 8)
    part_SLG = counts_SLE.reshape(16, 60, 16, -1).sum(axis=3) / counts_SLE[:1].sum(axis=2)[..., None]
    random = np.random.default_rng(1)
    for tokens in (30.0, 120.0, 500.0, 2000.0):
        drawn = random.poisson(4 * tokens * part_SLG, (20, *part_SLG.shape)).max(axis=-1).mean() * 16 / (4 * tokens)
        assert peaks.at(np.array([tokens])).gpu_PL.mean() == pytest.approx(drawn, rel=0.03)


def test_many_tokens_leave_the_recorded_peak():
    peaks = measure_peaks(skewed_counts(1.0), [EVEN] * 4, (4,) * 4, 2, 4)
    np.testing.assert_allclose(peaks.gpu_PL[1], peaks.gpu_PL[0], rtol=2e-3)
    gaps = peaks.gpu_PL.mean(axis=1) - peaks.gpu_PL[0].mean()
    assert all(fewer >= more - 1e-3 for more, fewer in pairwise(gaps))


def test_interpolation_meets_the_known_numbers_and_stays_between_them():
    peaks = measure_peaks(skewed_counts(1.0), [EVEN] * 4, (4,) * 4, 2, 4)
    same = peaks.at(peaks.tokens_P)
    for name in ("gpu_PL", "nic_PL", "node_PL", "slots_PL"):
        np.testing.assert_allclose(getattr(same, name), getattr(peaks, name))
    fewest = peaks.at(np.array([1e-9, 0.3, 1.0]))
    np.testing.assert_allclose(fewest.gpu_PL, np.tile(peaks.gpu_PL[-1], (3, 1)))
    assert (np.diff(peaks.at(np.geomspace(64, 4096, 50)).slots_PL, axis=0) >= 0).all()


def most_used(chances: list[list[float]]) -> float:
    """Expected number of used slots on the GPU that uses most, over all ways in which slots can be used."""
    flat = [chance for gpu in chances for chance in gpu]
    ends = np.cumsum([len(gpu) for gpu in chances])[:-1]
    expected = 0.0
    for used in product((0, 1), repeat=len(flat)):
        weight = np.prod([chance if is_used else 1 - chance for is_used, chance in zip(used, flat, strict=True)])
        expected += weight * max(part.sum() for part in np.split(np.array(used), ends))
    return expected


@pytest.mark.parametrize("tokens", [1, 4, 16, 64])
def test_used_slots_are_those_of_the_gpu_that_is_expected_to_use_most(tokens):
    counts_SLE = np.array([[[6, 2, 0, 8]], [[1, 1, 20, 3]], [[1, 0, 0, 0]]])
    placement: Placement = ((0, 1), (2, 3), (0, 2, 3))
    shares: Shares = ((0.5, 1.0), (0.25, 0.125), (0.5, 0.75, 0.875))
    for given_shares, parts in ((None, ((0.5, 1.0), (0.5, 0.5), (0.5, 0.5, 0.5))), ([shares], shares)):
        peaks = measure_peaks(counts_SLE, [placement], (2,), 1, 3, given_shares)
        chances_S = [
            [
                [1 - math.exp(-2 * tokens * part * counts_E[e] / sum(counts_E)) for e, part in zip(*gpu, strict=True)]
                for gpu in zip(placement, parts, strict=True)
            ]
            for counts_E in counts_SLE[:, 0].tolist()
        ]
        number = peaks.tokens_P.tolist().index(tokens)
        assert peaks.slots_PL[number, 0] == pytest.approx(np.mean([most_used(chances) for chances in chances_S]))


def test_used_slots_of_many_gpus_are_those_of_poisson_tokens():
    counts_SLE = skewed_counts(1.0, steps=4, layers=20, experts=64)
    peaks = measure_peaks(counts_SLE, [contiguous(64, 16)] * 20, (4,) * 20, 1, 8)
    part_SLE = counts_SLE / counts_SLE.sum(axis=2, keepdims=True)
    random = np.random.default_rng(1)
    for tokens in (4, 16, 64):
        is_used = random.poisson(4 * tokens * part_SLE, (30, *part_SLE.shape)) > 0
        drawn = is_used.reshape(*is_used.shape[:-1], 16, 4).sum(axis=-1).max(axis=-1).mean()
        assert peaks.slots_PL[peaks.tokens_P.tolist().index(tokens)].mean() == pytest.approx(drawn, rel=0.02)


def test_two_copies_on_one_gpu_share_its_tokens():
    counts_SLE = np.array([[[8, 8]]])
    peaks = measure_peaks(counts_SLE, [((0, 0), (1,))], (1,), 1, 2)
    assert peaks.gpu_PL[0, 0] == 1
    number = peaks.tokens_P.tolist().index(4.0)
    half, whole = 1 - math.exp(-1), 1 - math.exp(-2)
    assert peaks.slots_PL[number, 0] == pytest.approx(most_used([[half, half], [whole]]))


def test_steps_without_tokens_in_a_layer_do_not_count():
    counts_SLE = skewed_counts(1.0, steps=3)
    padded_SLE = np.concatenate([counts_SLE, np.zeros_like(counts_SLE)])
    padded_SLE[3:, 0] = counts_SLE[:, 0]
    peaks, padded = (measure_peaks(counts, [EVEN] * 4, (4,) * 4, 2, 4) for counts in (counts_SLE, padded_SLE))
    np.testing.assert_allclose(padded.gpu_PL[0], peaks.gpu_PL[0])
    assert np.isfinite(padded.slots_PL).all()


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(4)), st.permutations(range(4)), st.permutations(range(2)))
def test_gpus_of_a_node_and_nodes_may_change_places(first, second, nodes):
    counts_SLE = skewed_counts(1.0)
    halves = [[EVEN[gpu] for gpu in first], [EVEN[4 + gpu] for gpu in second]]
    moved = tuple(gpu for node in nodes for gpu in halves[node])
    peaks, other = (measure_peaks(counts_SLE, [each] * 4, (4,) * 4, 1, 4) for each in (EVEN, moved))
    assert_same(peaks, other)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_gpus_of_one_card_may_change_places(swapped):
    moved = tuple(gpu for nic, swap in enumerate(swapped) for gpu in EVEN[2 * nic : 2 * nic + 2][:: -1 if swap else 1])
    counts_SLE = skewed_counts(1.0)
    peaks, other = (measure_peaks(counts_SLE, [each] * 4, (4,) * 4, 2, 4) for each in (EVEN, moved))
    assert_same(peaks, other)


def assert_same(one: Peaks, other: Peaks) -> None:
    for name in ("gpu_PL", "nic_PL", "node_PL", "slots_PL"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)


def test_the_same_loads_give_the_same_bytes():
    one, other = (measure_peaks(skewed_counts(1.0), [EVEN] * 4, (4,) * 4, 2, 4) for _ in range(2))
    assert one.gpu_PL.tobytes() == other.gpu_PL.tobytes()


@pytest.mark.parametrize(("per_nic", "per_node"), [(1, 3), (3, 4), (1, 16), (8, 4)])
def test_cards_and_nodes_that_do_not_divide_are_refused(per_nic, per_node):
    with pytest.raises(BadInput, match=f"8 GPUs, {per_node} to a node and {per_nic} to a network card, do not divide"):
        measure_peaks(skewed_counts(1.0), [EVEN] * 4, (4,) * 4, per_nic, per_node)
