"""Axes: B rows of the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from craftc.errors import BadInput
from craftc.ranks.rows import batch_rows, named_tensors, rows_of_rank


@pytest.mark.parametrize(("rows", "ranks"), [(7, 4), (2, 4), (8, 2), (1, 1)])
def test_ranks_have_all_rows_in_order(rows, ranks):
    inputs: dict[str, Any] = {"ids": torch.arange(3 * rows).reshape(rows, 3), "flag": True}
    parts = [rows_of_rank(inputs, rank, ranks) for rank in range(ranks)]
    together = torch.cat([part["ids"][:own] for part, own in parts])
    assert torch.equal(together, inputs["ids"])
    assert all(len(part["ids"]) >= 1 and part["flag"] for part, _ in parts)
    assert max(own for _, own in parts) - min(own for _, own in parts) <= 1


@pytest.mark.parametrize(
    "inputs",
    [{}, {"ids": torch.zeros(0, 3)}, {"ids": torch.zeros(2, 3), "mask": torch.zeros(3, 3)}, {"scale": torch.tensor(1)}],
)
def test_inputs_without_a_common_batch_are_refused(inputs):
    with pytest.raises(BadInput, match="all tensors must have the batch as first dimension"):
        batch_rows(inputs)


def test_outputs_have_names():
    one, other = torch.zeros(1), torch.ones(1)
    assert list(named_tensors(one)) == ["output"]
    assert list(named_tensors((one, None, other))) == ["output.0", "output.2"]
    assert list(named_tensors({"logits": one})) == ["output.logits"]
