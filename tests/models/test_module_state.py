"""Whatever a forward does to a model's state, the model has its own again afterwards."""

from __future__ import annotations

import copy
from collections import Counter, deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from craftc.models.module_state import same_state


class Stateful(nn.Module):
    """Buffers moved in place and replaced, a counter, a log, a cache, a new attribute."""

    def __init__(self, shared: list[int]) -> None:
        super().__init__()
        self.register_buffer("moved", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(3))
        self.register_buffer("absent", None)
        self.weight = nn.Parameter(torch.ones(3))
        self.calls, self.log, self.by_key, self.shared = 0, [1], {"a": 1}, shared
        self.cache = torch.zeros(3)
        self.recent, self.seen = deque([1], maxlen=4), Counter({"a": 1})

    moved: Tensor
    replaced: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.moved.add_(x)
        self.replaced = self.replaced + x
        self.absent = x
        self.calls += 1
        self.log.append(self.calls)
        self.by_key["b"] = 2
        self.shared.append(7)
        self.cache[0] = 5.0
        self.new = x
        self.recent.append(2)
        self.seen["a"] += 1
        return x * self.weight + self.moved


def test_nothing_is_left_of_a_call():
    shared: list[int] = []
    model = nn.Sequential(Stateful(shared), Stateful(shared))
    before, tensors = copy.deepcopy(model), dict(model.named_buffers())
    with same_state(model):
        first = model(torch.ones(3))
        assert model[0].calls == 1
        assert model[0].shared is model[1].shared
    pairs: Any = zip(model, before, strict=True)
    for mine, expected in pairs:
        assert {name: value for name, value in vars(mine).items() if not name.startswith("_") and name != "cache"} == {
            name: value for name, value in vars(expected).items() if not name.startswith("_") and name != "cache"
        }
        assert torch.equal(mine.cache, expected.cache)
        assert mine.absent is None
    assert all(tensor is tensors[name] and not tensor.any() for name, tensor in model.named_buffers())
    assert {tensor._version for tensor in tensors.values()} == {0}
    with same_state(model):
        assert torch.equal(model(torch.ones(3)), first)
    assert shared == []


def test_state_is_restored_after_an_error_and_on_the_meta_device():
    with torch.device("meta"):
        model = Stateful([])
    with pytest.raises(RuntimeError, match="length 4"), same_state(model):
        model(torch.ones(4, device="meta"))
    assert model.calls == 0
    assert not hasattr(model, "new")
