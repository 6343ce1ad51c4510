"""The rewritten model computes what the original does, and every GPU gets the tokens that the plan predicts.

Axes: T tokens, H hidden size, K experts per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from craftc.errors import VerificationFailed, one_line
from craftc.models.module_state import same_state
from craftc.passes.analysis.profile_loads import batches_of
from craftc.passes.analysis.tracing.model import call_model, check_has_weights
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, Verification, updated
from craftc.passes.rewriting.checking.output_comparison import (
    RELATIVE_TOLERANCE,
    Difference,
    cast_inputs,
    check_difference,
    difference,
    hooked,
    in_dtype,
    output_difference,
    replicated_modules,
    seeded,
)
from craftc.passes.rewriting.checking.token_prediction import routed_tokens, token_deviation
from craftc.runtime.replicated_experts import ReplicatedExperts
from craftc.runtime.virtual import InTurnDispatcher

_SCALE = 1.25
"""Floating-point inputs are scaled by it for the second comparison, so that their means differ too."""


@dataclass(frozen=True)
class VerifyRewrite(Pass):
    """Three comparisons; the first two in fp32 and in bf16 on the example inputs.

    1. Outputs of the rewritten model against those of the original; also with other values in the inputs.
    2. In every MoE layer: one GPU after the other, each with its own copies and the tokens sent to it, against the
       original experts on the activations that reach the layer.
    3. Tokens counted per GPU over calibration batches against the plan's shares of the experts' tokens.

    For dtypes that the model does not have, works on a copy of its weights; those that the original does not run in
    are skipped, and said. State that forward updates is the same before every run, and afterwards.
    Raises VerificationFailed naming what differs, by how much, and the tolerance; BadInput if there are no weights.
    """

    batches: int = 4
    """Calibration batches to count tokens on, at least 1; the example inputs if there are none."""
    dtypes: tuple[torch.dtype, ...] = tuple(RELATIVE_TOLERANCE)
    """Dtypes to compare outputs in; fewer for a model that runs only in its own (an exported program)."""

    name: ClassVar[str] = "verify_rewrite"
    needs: ClassVar[tuple[str, ...]] = ("model", "graph", "plan", "inputs")
    gives: ClassVar[tuple[str, ...]] = ("verification",)

    def run(self, compilation: Compilation) -> Compilation:
        check_has_weights(compilation.model)
        batches = [batch.inputs for batch in islice(batches_of(compilation.inputs), self.batches)]
        example = compilation.inputs.example
        verification = verify_rewrite(compilation.model, compilation.graph, example, batches, self.dtypes)
        return updated(compilation, verification=verification)


def verify_rewrite(
    model: nn.Module,
    rewritten: fx.GraphModule,
    example: dict[str, Any],
    batches: list[dict[str, Any]],
    dtypes: tuple[torch.dtype, ...] = tuple(RELATIVE_TOLERANCE),
) -> Verification:
    """What was measured. Raises VerificationFailed at the first comparison that fails."""
    found: dict[str, Difference] = {}
    skipped: dict[str, str] = {}
    with torch.no_grad():
        deviation = _check_tokens(rewritten, batches)
        for dtype in dtypes:
            name = str(dtype).removeprefix("torch.")
            original, copied = in_dtype(dtype, model, rewritten)
            inputs = cast_inputs(example, dtype)
            if original is not model and (reason := why_not_run(original, inputs)):
                skipped[name] = reason
                continue
            found[name] = max(
                (_compare_outputs(original, copied, each) for each in (inputs, *_others(original, inputs))),
                key=lambda gap: gap.excess,
            )
            check_difference(name, found[name])
            found[f"{name}, GPU by GPU"] = _compare_gpu_by_gpu(copied, inputs)
            check_difference(f"{name}, GPU by GPU", found[f"{name}, GPU by GPU"])
    if not found:
        raise VerificationFailed(f"the model runs in none of the dtypes that outputs are compared in: {skipped}")
    for module in replicated_modules(rewritten):
        module.reset_counters()
    values, tolerances = (
        {what: getattr(gap, field) for what, gap in found.items()} for field in ("value", "tolerance")
    )
    return Verification(values, tolerances, deviation, skipped)


def why_not_run(model: nn.Module, inputs: dict[str, Any]) -> str | None:
    """Why the original, in a dtype that is not its own, does not run (a router in float32, a constant); None if it
    does."""
    try:
        with same_state(model):
            seeded(lambda: call_model(model, inputs))
    except Exception as error:
        return one_line(error)
    return None


def _others(model: nn.Module, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same inputs with their values shuffled and, if they are floating-point, scaled, masks excepted, if the model
    runs on them: a graph that kept what it computed on the example inputs shows on these."""
    generator = torch.Generator().manual_seed(0)

    def shuffled(value: Tensor) -> Tensor:
        order = torch.randperm(value.numel(), generator=generator).to(value.device)
        if value.dtype == torch.bool:
            return value
        other = value.reshape(-1)[order].reshape(value.shape)
        return other * _SCALE if other.is_floating_point() else other

    other = {
        name: value if "mask" in name else pytree.tree_map_only(Tensor, shuffled, value)
        for name, value in inputs.items()
    }
    if why_not_run(model, other) is None:
        yield other


def _compare_outputs(original: nn.Module, rewritten: nn.Module, inputs: dict[str, Any]) -> Difference:
    with same_state(original):
        expected = seeded(lambda: call_model(original, inputs))
    with same_state(rewritten):
        return output_difference(seeded(lambda: rewritten(**inputs)), expected)


def _compare_gpu_by_gpu(rewritten: nn.Module, inputs: dict[str, Any]) -> Difference:
    found: list[Difference] = []

    def compare(module: ReplicatedExperts, args: tuple[Tensor, ...], output: Tensor) -> None:
        hidden_TH, index_TK, weight_TK = args
        in_turn = InTurnDispatcher(module.table).to(hidden_TH.device)
        got_TH, _ = module.dispatched(in_turn, hidden_TH, index_TK, weight_TK)
        expected_TH = module.experts(hidden_TH, index_TK, weight_TK)
        found.append(difference(f"layer {module.name}", got_TH, expected_TH))

    with hooked(rewritten, compare), same_state(rewritten):
        seeded(lambda: rewritten(**inputs))
    return max(found, key=lambda gap: gap.excess)


def _check_tokens(rewritten: nn.Module, batches: list[dict[str, Any]]) -> float:
    """Largest deviation of any layer and GPU; see `token_deviation`."""
    modules = replicated_modules(rewritten)
    with routed_tokens(rewritten) as routed, same_state(rewritten):
        for module in modules:
            module.reset_counters()
        for batch in batches:
            rewritten(**batch)
        return max(
            token_deviation(module.name, module.table, module.tokens_per_gpu(), routed[module.name])
            for module in modules
        )
