from __future__ import annotations

import torch

from craftc.backend.call_counter import CallCounter, Step, stack_steps


def tokens(*counts: int) -> torch.Tensor:
    return torch.tensor(counts)


def test_it_hands_over_when_the_call_after_the_last_begins():
    handed: list[tuple[Step, ...]] = []
    counter = CallCounter(2, handed.append)
    for call in range(2):
        counter.count("a", tokens(call, 1))
        counter.count("b", tokens(2, call))
    assert not handed
    counter.count("a", tokens(9, 9))
    (steps,) = handed
    assert stack_steps(steps, ("a", "b")).tolist() == [[[0, 1], [2, 0]], [[1, 1], [2, 1]]]


def test_a_layer_that_a_call_skips_has_no_tokens_there():
    handed: list[tuple[Step, ...]] = []
    counter = CallCounter(2, handed.append)
    for name in ("a", "b", "a", "a"):
        counter.count(name, tokens(3))
    assert stack_steps(handed[0], ("a", "b")).tolist() == [[[3], [3]], [[3], [0]]]


def test_layers_with_fewer_experts_have_no_tokens_beyond_them():
    steps = ({"a": tokens(1, 2), "b": tokens(3, 4, 5)}, {"a": tokens(6, 7)})
    assert stack_steps(steps, ("a", "b")).tolist() == [[[1, 2, 0], [3, 4, 5]], [[6, 7, 0], [0, 0, 0]]]
