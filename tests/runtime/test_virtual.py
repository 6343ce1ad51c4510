"""More in test_replicated_experts.py. Axes: S slots."""

from __future__ import annotations

import torch

from craftc.runtime.virtual import count_per_slot


def test_every_occurrence_is_counted_once():
    slot = torch.tensor([[0, 3], [3, 1]])
    assert count_per_slot(slot, torch.zeros(5)).tolist() == [1, 1, 0, 2, 0]
    assert count_per_slot(slot[:0], torch.zeros(2)).tolist() == [0, 0]
