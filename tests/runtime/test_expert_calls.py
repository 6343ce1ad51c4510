"""What the arguments of a call of experts mean: every convention, there and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from craftc.runtime.expert_calls import (
    Buffers,
    OneExpert,
    SortedRows,
    TokensAndIndices,
    stacked_calls,
)

E, H = 3, 4
ROWS = torch.arange(24.0).view(6, H)


@pytest.mark.parametrize(
    ("args", "calls", "experts"),
    [
        ((ROWS.view(3, 2, H),), Buffers(E, 3, 0), [0, 0, 1, 1, 2, 2]),
        ((ROWS,), Buffers(E, 2, 0), [0, 0, 1, 1, 2, 2]),
        ((ROWS.view(3, 1, 2, H),), Buffers(E, 4, 0), [0, 0, 1, 1, 2, 2]),
        ((ROWS.view(1, 3, 2, H),), Buffers(E, 4, 1), [0, 0, 1, 1, 2, 2]),
        ((ROWS, torch.tensor([1, 0, 5])), SortedRows(False, torch.int64), [0, 2, 2, 2, 2, 2]),
        ((ROWS, torch.tensor([1, 1, 6], dtype=torch.int32)), SortedRows(True, torch.int32), [0, 2, 2, 2, 2, 2]),
        ((ROWS, [1, 0, 5]), SortedRows(False, None), [0, 2, 2, 2, 2, 2]),
    ],
)
def test_rows_and_their_experts(args, calls, experts):
    assert stacked_calls(args, args[0], E) == calls
    rows_PH, expert_P = calls.rows(args)
    assert torch.equal(rows_PH, ROWS)
    assert expert_P.tolist() == experts
    assert torch.equal(calls.output(args, rows_PH), args[0])


def test_tokens_with_indices_have_a_row_for_every_pair():
    args = (ROWS[:2], torch.tensor([[2, 0], [1, 2]]))
    calls = stacked_calls(args, torch.zeros(2, 2, H), E)
    assert calls == TokensAndIndices()
    rows_PH, expert_P = calls.rows(args)
    assert torch.equal(rows_PH, ROWS[[0, 0, 1, 1]])
    assert expert_P.tolist() == [2, 0, 1, 2]
    assert calls.output(args, rows_PH).shape == (2, 2, H)


def test_one_expert_takes_rows_of_any_shape_and_its_other_outputs_are_not_numbers():
    calls = OneExpert(expert=2, extras=1)
    rows_PH, expert_P = calls.rows((ROWS.view(2, 3, H),))
    assert torch.equal(rows_PH, ROWS)
    assert expert_P.tolist() == [2] * 6
    output, extra = calls.output((ROWS.view(2, 3, H),), rows_PH)
    assert output.shape == (2, 3, H)
    assert extra.isnan()


@pytest.mark.parametrize(
    ("args", "output"),
    [
        ((ROWS.view(3, 2, H),), torch.zeros(3, 2, 5)),
        ((torch.zeros(4, 2, H),), torch.zeros(4, 2, H)),
        ((torch.zeros(7, H),), torch.zeros(7, H)),
        ((ROWS.long(),), ROWS.long()),
        ((ROWS, torch.tensor([1, 5])), ROWS),
        ((ROWS, torch.zeros(6, 2, dtype=torch.int64)), ROWS),
        ((ROWS, torch.zeros(6, 2)), torch.zeros(6, 2, H)),
        ((ROWS, ROWS, ROWS), ROWS),
    ],
)
def test_what_is_none_of_the_conventions(args: Any, output: torch.Tensor):
    assert stacked_calls(args, output, E) is None
