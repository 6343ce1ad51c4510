from __future__ import annotations

import pytest
import torch
from torch import nn

from craftc.errors import VerificationFailed
from craftc.passes.rewriting.checking.output_comparison import (
    check_difference,
    difference,
    in_dtype,
    output_difference,
    seeded,
)


def test_tolerance_grows_with_the_largest_value_but_not_below_one():
    assert difference("x", torch.zeros(2), torch.tensor([0.5, 0.1])).tolerance == pytest.approx(1e-5)
    assert difference("x", torch.zeros(2), torch.tensor([0.5, -50.0])).tolerance == pytest.approx(5e-4)
    assert difference("x", torch.zeros(0), torch.zeros(0)).value == 0


@pytest.mark.parametrize("value", [2e-5, float("nan"), float("inf")])
def test_what_is_too_different_is_refused_with_the_numbers(value):
    found = difference("layer a", torch.tensor([value]), torch.zeros(1))
    assert found.excess > 1
    with pytest.raises(VerificationFailed, match=r"\(float32\): layer a by .*, allowed 1e-05"):
        check_difference("float32", found)


def test_shapes_and_numbers_of_outputs_must_agree():
    with pytest.raises(VerificationFailed, match=r"x has shape \[1\], the original \[2\]"):
        difference("x", torch.zeros(1), torch.zeros(2))
    with pytest.raises(VerificationFailed, match="gives 1 tensors, the original 2"):
        output_difference(torch.zeros(1), (torch.zeros(1), torch.zeros(1)))


def test_the_worst_of_several_outputs_counts_and_integers_do_not():
    got = {"a": torch.zeros(2), "b": (torch.ones(2), torch.ones(2, dtype=torch.int64))}
    expected = {"a": torch.zeros(2), "b": (torch.zeros(2), torch.zeros(2, dtype=torch.int64))}
    assert output_difference(got, expected).value == 1
    assert output_difference(got, expected).where == "output 1"


def test_copies_in_another_dtype_share_weights_and_originals_stay():
    linear = nn.Linear(2, 2)
    holder = nn.Sequential(linear)
    assert in_dtype(torch.float32, linear, holder) == (linear, holder)
    copied, copied_other = in_dtype(torch.bfloat16, linear, holder)
    assert copied_other[0] is copied
    assert copied.weight.dtype == torch.bfloat16
    assert linear.weight.dtype == torch.float32


def test_dropout_drops_the_same():
    dropout = nn.Dropout()
    before = torch.get_rng_state()
    assert torch.equal(seeded(lambda: dropout(torch.ones(50))), seeded(lambda: dropout(torch.ones(50))))
    assert torch.equal(torch.get_rng_state(), before)
