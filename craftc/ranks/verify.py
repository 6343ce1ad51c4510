"""One rank's part of `craftc verify --ranks`: `python -m craftc.ranks.verify MODEL PLAN RESULT`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn

from craftc.models.model_file import load_model_source
from craftc.passes.analysis.profile_loads import batches_of
from craftc.passes.analysis.tracing.model import call_model
from craftc.passes.compilation import Verification
from craftc.passes.pipelines import analysed
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
from craftc.passes.rewriting.checking.token_prediction import RoutedTokens, routed_tokens, token_deviation
from craftc.passes.rewriting.rewrite_experts import rewrite_experts
from craftc.passes.rewriting.verify_rewrite import why_not_run
from craftc.plans.file import read_plan
from craftc.ranks.program import run_on_rank
from craftc.ranks.rows import rows_of_rank
from craftc.runtime.agreement import check_ranks_agree
from craftc.runtime.process_group import DEFAULT_TIMEOUT_S
from craftc.runtime.rank_group import RankGroup
from craftc.runtime.replicated_experts import ReplicatedExperts, distributed_experts

BATCHES = 4
"""Calibration batches to count tokens on."""


def verify_rank(model: str, plan_file: Path, result: Path, group: RankGroup) -> None:
    """Compare on this rank's rows of every batch; rank 0 writes the worst of all ranks to `result`."""
    plan = read_plan(plan_file)
    check_ranks_agree(plan, group)
    source = load_model_source(model)
    traced = analysed(source.model, source.inputs).graph
    rewritten = rewrite_experts(traced, plan, lambda experts, layer: distributed_experts(experts, layer, group))
    batches = [batch.inputs for batch in islice(batches_of(source.inputs), BATCHES)]
    example, _ = rows_of_rank(source.inputs.example, group.rank, group.size)
    found: dict[str, Difference] = {}
    skipped: dict[str, str] = {}
    with torch.no_grad():
        deviation = _token_deviation(rewritten, batches, group)
        for dtype in RELATIVE_TOLERANCE:
            (original,) = in_dtype(dtype, source.model)
            whole = cast_inputs(source.inputs.example, dtype)  # on every rank the same, and so is the answer
            if original is not source.model and (reason := why_not_run(original, whole)):
                skipped[str(dtype).removeprefix("torch.")] = reason
                continue
            found |= _differences(source.model, traced, rewritten, example, dtype)
    for what, gap in found.items():
        check_difference(what, gap)
    gathered: list[Any] = [None] * group.size
    dist.all_gather_object(gathered, (found, deviation), group=group.process_group)
    if group.rank == 0:
        result.write_text(json.dumps(asdict(replace(worst_of(gathered), skipped=skipped))))


def worst_of(ranks: list[tuple[dict[str, Difference], float]]) -> Verification:
    """The differences nearest to their tolerances, and the largest deviation, over all ranks."""
    worst = {what: max((found[what] for found, _ in ranks), key=lambda gap: gap.excess) for what in ranks[0][0]}
    return Verification(
        {what: gap.value for what, gap in worst.items()},
        {what: gap.tolerance for what, gap in worst.items()},
        max(deviation for _, deviation in ranks),
    )


def _token_deviation(rewritten: nn.Module, batches: list[dict[str, Any]], group: RankGroup) -> float:
    """Largest deviation of this rank's tokens from the plan's prediction for the tokens of all ranks together."""
    with routed_tokens(rewritten) as routed:
        for batch in batches:
            rewritten(**rows_of_rank(batch, group.rank, group.size)[0])
    worst = 0.0
    for module in replicated_modules(rewritten):
        tokens_E, calls = routed[module.name].tokens_E, routed[module.name].calls
        dist.all_reduce(tokens_E, group=group.process_group)
        on_all_ranks = RoutedTokens(tokens_E, calls)
        found = token_deviation(module.name, module.table, module.tokens_per_gpu(), on_all_ranks, senders=group.size)
        worst = max(worst, found)
    return worst


def _differences(
    model: nn.Module, traced: fx.GraphModule, rewritten: fx.GraphModule, example: dict[str, Any], dtype: torch.dtype
) -> dict[str, Difference]:
    """How this rank's outputs, and every layer's on the activations that reach it, differ from the original's.

    Every rank compares everything before it reports: a rank that left earlier would break the exchanges of the others.
    """
    name = str(dtype).removeprefix("torch.")
    original, reference, copied = in_dtype(dtype, model, traced, rewritten)
    experts_of = {
        node.meta["moe"].name: reference.get_submodule(str(node.target))
        for node in traced.graph.nodes
        if "moe" in node.meta
    }
    layers: list[Difference] = []

    def compare(module: ReplicatedExperts, args: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append(difference(f"layer {module.name}", output, experts_of[module.name](*args)))

    inputs = cast_inputs(example, dtype)
    expected = seeded(lambda: call_model(original, inputs))
    with hooked(copied, compare):
        got = seeded(lambda: copied(**inputs))
    return {
        name: output_difference(got, expected),
        f"{name}, GPU by GPU": max(layers, key=lambda gap: gap.excess),
    }


def main(model: str, plan: str, result: str) -> int:
    """Parse the arguments that `verify_on_ranks` passes; returns the exit code."""
    return run_on_rank(lambda group: verify_rank(model, Path(plan), Path(result), group), DEFAULT_TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
