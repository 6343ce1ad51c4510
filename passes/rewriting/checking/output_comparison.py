"""Are two outputs the same? Largest absolute differences against stated tolerances, in several dtypes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from craftc.errors import VerificationFailed
from craftc.runtime.replicated_experts import ReplicatedExperts

RELATIVE_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6}
"""Largest difference allowed, as a fraction of the largest absolute value compared (of 1, if that is smaller)."""


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference found in one comparison."""

    value: float
    """At least 0, or NaN."""
    tolerance: float
    """Largest value allowed."""
    where: str
    """What was compared, for messages."""

    @property
    def excess(self) -> float:
        """Value as a fraction of the tolerance; infinite for NaN, so that the worst comes out on top."""
        return self.value / self.tolerance if self.value == self.value else float("inf")


def check_difference(what: str, found: Difference) -> None:
    """Raise VerificationFailed if `found` is above its tolerance."""
    if not found.value <= found.tolerance:  # NaN is a difference too
        raise VerificationFailed(
            f"rewritten model differs from the original ({what}): {found.where} by {found.value:.3g}, "
            f"allowed {found.tolerance:.3g}"
        )


def difference(where: str, got: Tensor, expected: Tensor) -> Difference:
    """The difference of two tensors of one dtype, whose tolerance applies.

    Raises VerificationFailed if the shapes differ, or if `expected` holds NaN.
    """
    if got.shape != expected.shape:
        raise VerificationFailed(f"{where} has shape {list(got.shape)}, the original {list(expected.shape)}")
    relative = RELATIVE_TOLERANCE[expected.dtype]
    if not expected.numel():
        return Difference(0.0, relative, where)
    if expected.isnan().any():
        raise VerificationFailed(f"{where} of the original model is NaN in places: it computes nothing to compare with")
    gap = torch.where(got == expected, 0.0, (got.double() - expected.double()).abs())  # equal infinities: masked logits
    scale = expected[expected.isfinite()].double().abs()
    return Difference(gap.max().item(), relative * max([1.0, *scale.amax(0, keepdim=True).tolist()]), where)


def output_difference(got: Any, expected: Any) -> Difference:
    """The worst of all floating-point tensors in two outputs. Raises VerificationFailed if their numbers differ."""
    got_tensors, expected_tensors = _float_tensors(got), _float_tensors(expected)
    if len(got_tensors) != len(expected_tensors):
        raise VerificationFailed(
            f"rewritten model gives {len(got_tensors)} tensors, the original {len(expected_tensors)}"
        )
    pairs = zip(got_tensors, expected_tensors, strict=True)
    found = [difference(f"output {number}", got, expected) for number, (got, expected) in enumerate(pairs)]
    return max(found, key=lambda gap: gap.excess)


def in_dtype(dtype: torch.dtype, *modules: Any) -> Any:
    """The modules in `dtype`: themselves if the first one is in it, else copies that share weights as the originals
    do."""
    if all(weight.dtype == dtype for weight in modules[0].parameters() if weight.is_floating_point()):
        return modules
    return tuple(module.to(dtype) for module in copy.deepcopy(modules))


def cast_inputs(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """`inputs` with every floating-point tensor in `dtype`."""
    return pytree.tree_map(lambda value: value.to(dtype) if _is_float(value) else value, inputs)


def seeded(call: Callable[[], Any]) -> Any:
    """`call()` with the same random numbers every time: a model in training mode drops the same activations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return call()


def replicated_modules(model: nn.Module) -> list[ReplicatedExperts]:
    """All replicated experts in `model`, by ordinal."""
    return [module for module in model.modules() if isinstance(module, ReplicatedExperts)]


@contextmanager
def hooked(model: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    """`hook(module, args, output)` after every call of replicated experts."""
    handles = [module.register_forward_hook(hook) for module in replicated_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _float_tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if _is_float(leaf)]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
