"""Pass 8: the rewritten model computes what the original does, and every GPU gets the tokens that the plan predicts.

Axes: T tokens, H hidden size, K experts per token, E experts, S slots, G GPUs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from craftc.errors import VerificationFailed
from craftc.passes.base import Compilation, Pass, Verification

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from craftc.runtime.replicated_experts import ReplicatedExperts

RELATIVE_TOLERANCE = {"float32": 1e-5, "bfloat16": 2.0**-6}
"""Largest difference allowed, as a fraction of the largest absolute value compared (of 1, where that is smaller)."""


@dataclass(frozen=True)
class VerifyRewrite(Pass):
    """Three comparisons; the first two in fp32 and in bf16 on the example inputs.

    1. Outputs of the rewritten model against the original's.
    2. In every MoE layer: GPU after GPU, each with its own copies and the tokens sent to it, against the original
       experts on the activations that reach the layer.
    3. Tokens counted per GPU over calibration batches against the plan's shares of the experts' tokens.

    Works on a copy of the model's weights in the dtypes that the model does not have.
    Raises VerificationFailed naming what differs, by how much, and the tolerance.
    """

    batches: int = 4
    """Calibration batches to count tokens on, at least 1; the example inputs where there are none."""

    name: ClassVar[str] = "verify_rewrite"
    needs: ClassVar[tuple[str, ...]] = ("model", "graph", "plan", "inputs")
    gives: ClassVar[tuple[str, ...]] = ("verification",)

    def run(self, compilation: Compilation) -> Compilation:
        assert compilation.model is not None
        assert compilation.graph is not None
        assert compilation.inputs is not None
        example, calibration = compilation.inputs.example, compilation.inputs.calibration
        batches = [example] if calibration is None else list(islice(calibration(), self.batches))
        verification = verify_rewrite(compilation.model, compilation.graph, example, batches)
        return replace(compilation, verification=verification)


def verify_rewrite(
    model: nn.Module, rewritten: fx.GraphModule, example: dict[str, Any], batches: list[dict[str, Any]]
) -> Verification:
    """What was measured. Raises VerificationFailed at the first comparison that fails."""
    import torch

    differences: dict[str, float] = {}
    tolerances: dict[str, float] = {}
    with torch.no_grad():
        deviation = _check_tokens(rewritten, batches)
        for name, relative in RELATIVE_TOLERANCE.items():
            dtype = getattr(torch, name)
            original, copied = _in_dtype(model, rewritten, dtype)
            comparisons = {
                name: _compare_outputs(original, copied, _cast(example, dtype), relative),
                f"{name}, GPU by GPU": _compare_gpu_by_gpu(copied, _cast(example, dtype), relative),
            }
            for what, found in comparisons.items():
                _refuse_difference(what, found)
                differences[what], tolerances[what] = found.value, found.tolerance
    for module in _replicated(rewritten):
        module.reset_counters()
    return Verification(differences, tolerances, deviation)


@dataclass(frozen=True)
class _Difference:
    """Largest absolute difference found in one comparison."""

    value: float
    tolerance: float
    where: str


def _refuse_difference(what: str, found: _Difference) -> None:
    if not found.value <= found.tolerance:  # NaN is a difference too
        raise VerificationFailed(
            f"rewritten model differs from the original ({what}): {found.where} by {found.value:.3g}, "
            f"allowed {found.tolerance:.3g}"
        )


def _compare_outputs(original: nn.Module, rewritten: nn.Module, inputs: dict[str, Any], relative: float) -> _Difference:
    from craftc.passes.tracing_model import call_model

    expected = _float_tensors(_seeded(lambda: call_model(original, inputs)))
    got = _float_tensors(_seeded(lambda: rewritten(**inputs)))
    shapes, expected_shapes = [list(one.shape) for one in got], [list(one.shape) for one in expected]
    if shapes != expected_shapes:
        raise VerificationFailed(f"rewritten model gives shapes {shapes}, the original {expected_shapes}")
    found = [
        _difference(f"output {number}", one, other, relative)
        for number, (one, other) in enumerate(zip(got, expected, strict=True))
    ]
    return max(found, key=_excess)


def _compare_gpu_by_gpu(rewritten: nn.Module, inputs: dict[str, Any], relative: float) -> _Difference:
    from craftc.runtime.virtual import InTurnDispatcher

    found: list[_Difference] = []

    def compare(module: ReplicatedExperts, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        hidden_TH, index_TK, weight_TK = args
        in_turn = InTurnDispatcher(module.table).to(hidden_TH.device)
        got_TH, _ = in_turn(module.experts, hidden_TH, module.choice(index_TK), weight_TK)
        expected_TH = module.experts(hidden_TH, index_TK, weight_TK)
        found.append(_difference(f"layer {module.name}", got_TH, expected_TH, relative))

    with _hooked(rewritten, compare):
        _seeded(lambda: rewritten(**inputs))
    return max(found, key=_excess)


def _check_tokens(rewritten: nn.Module, batches: list[dict[str, Any]]) -> float:
    """Largest |counted - predicted| tokens of a GPU, as a fraction of the layer's mean.

    Every call rounds the share of every copy of a replicated expert by less than one token: no GPU may be further off.
    """
    import torch

    tokens_LE: dict[str, torch.Tensor] = {}
    modules = _replicated(rewritten)
    for module in modules:
        module.reset_counters()

    def count(module: ReplicatedExperts, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        tokens_E = torch.bincount(args[1].reshape(-1), minlength=module.table.experts)
        tokens_LE[module.name] = tokens_LE.get(module.name, 0) + tokens_E

    with _hooked(rewritten, count):
        for batch in batches:
            rewritten(**batch)
    worst = 0.0
    for module in modules:
        table, tokens_E = module.table, tokens_LE[module.name].tolist()
        for gpu, counted in module.tokens_per_gpu().items():
            held = [slot for slot in range(table.slots) if table.gpu_S[slot] == gpu]
            predicted = sum(table.share_S[slot] * tokens_E[table.expert_S[slot]] for slot in held)
            rounded = sum(table.copies_E[table.expert_S[slot]] > 1 for slot in held) * len(batches)
            if abs(counted - predicted) > rounded + 1e-5 * sum(tokens_E):
                raise VerificationFailed(
                    f"layer {module.name}: GPU {gpu} got {counted:,} tokens on {len(batches)} batches, "
                    f"the plan predicts {predicted:,.1f} (rounding explains {rounded})"
                )
            worst = max(worst, abs(counted - predicted) * table.gpus / sum(tokens_E))
    return worst


def _replicated(rewritten: nn.Module) -> list[ReplicatedExperts]:
    from craftc.runtime.replicated_experts import ReplicatedExperts

    return [module for module in rewritten.modules() if isinstance(module, ReplicatedExperts)]


@contextmanager
def _hooked(rewritten: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    """`hook(module, args, output)` after every call of a replicated module."""
    handles = [module.register_forward_hook(hook) for module in _replicated(rewritten)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_dtype(model: nn.Module, rewritten: fx.GraphModule, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Both in `dtype`: themselves where they are, else copies that share weights as the originals do."""
    if all(one.dtype == dtype for one in model.parameters() if one.is_floating_point()):
        return model, rewritten
    original, copied = copy.deepcopy((model, rewritten))
    return original.to(dtype), copied.to(dtype)


def _cast(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    from torch.utils import _pytree as pytree

    def cast(value: Any) -> Any:
        return value.to(dtype) if _is_float(value) else value

    return pytree.tree_map(cast, inputs)


def _float_tensors(output: Any) -> list[torch.Tensor]:
    from torch.utils import _pytree as pytree

    return [one for one in pytree.tree_leaves(output) if _is_float(one)]


def _is_float(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _seeded(call: Callable[[], Any]) -> Any:
    """`call()` with the same random numbers every time: a model in training mode drops the same activations."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return call()


def _difference(where: str, got: torch.Tensor, expected: torch.Tensor, relative: float) -> _Difference:
    if not expected.numel():
        return _Difference(0.0, relative, where)
    value = (got.double() - expected.double()).abs().max().item()
    return _Difference(value, relative * max(1.0, expected.double().abs().max().item()), where)


def _excess(difference: _Difference) -> float:
    """Orders differences by how near they are to their tolerance, NaN last."""
    return difference.value / difference.tolerance if difference.value == difference.value else float("inf")
