"""One architecture of the table, in a process of its own: `python -m tests.families.row SOURCE` prints its rows as
JSON, one per class: built tiny, traced, profiled, planned for 4 GPUs, rewritten, verified."""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

import craftc
from craftc.errors import one_line
from craftc.passes.analysis.tracing.model import call_model
from tests.families.tiny import VOCABULARY, architectures, build

GPUS = craftc.Topology(gpus=4, nodes=2)


@dataclass(frozen=True)
class Row:
    """What became of one architecture."""

    source: str
    """Folder in transformers/models."""
    model: str
    """Class of the model."""
    layers: int
    """Experts modules that it has and that a call on text reaches."""
    found: int
    """MoE layers that craftc found."""
    optimized: bool
    """Whether planning, rewriting and verifying succeeded."""
    reason: str
    """Why not, or why not all of it."""
    seconds: float
    """Wall-clock time of it all."""


def rows(source: str) -> list[Row]:
    """The rows of every class of a modeling file that can be built and called on text."""
    return [row for kind in architectures(source) if (row := _row(source, kind)) is not None]


def inputs(model: nn.Module, batch: int, tokens: int, seed: int) -> dict[str, Any]:
    """Random text without padding."""
    ids = torch.randint(3, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    is_encoder_decoder = getattr(model.config, "is_encoder_decoder", False)
    return example | ({"decoder_input_ids": ids} if is_encoder_decoder else {})


def _row(source: str, kind: type[nn.Module]) -> Row | None:
    start = time.perf_counter()
    try:
        model = build(kind)
        reached = _reached(model)
    except Exception as error:
        return Row(source, kind.__name__, 0, 0, False, f"not run: {one_line(error)}", time.perf_counter() - start)
    if not reached:
        return None
    found, optimized, reason = _tried(model)
    return Row(source, kind.__name__, reached, found, optimized, reason, time.perf_counter() - start)


def _reached(model: nn.Module) -> int:
    """Experts modules that a call on text runs; shared experts are no experts of a router."""
    called: set[str] = set()
    for name, module in model.named_modules():
        is_experts = type(module).__name__.endswith("Experts") and "shared" not in name.rpartition(".")[2]
        if is_experts:
            module.register_forward_pre_hook(lambda module, args, name=name: called.add(_layer(name)))
    with torch.no_grad():
        call_model(model, inputs(model, 2, 7, 0))
    for module in model.modules():
        module._forward_pre_hooks.clear()
    return len(called)


def _layer(name: str) -> str:
    """JetMoE's experts are two modules of one layer."""
    return name.removesuffix(".input_linear").removesuffix(".output_linear")


def _tried(model: nn.Module) -> tuple[int, bool, str]:
    found = 0
    try:
        inspected = craftc.inspect(model, inputs(model, 2, 7, 0))
        found = len(inspected.layers)
        if not found:
            return 0, False, f"{inspected.near_misses[0].name}: {inspected.near_misses[0].reason}"
        calibration = [inputs(model, 3, 11, seed) for seed in range(2)]
        craftc.optimize(model, inputs(model, 2, 7, 0), GPUS, "1replicas/gpu", calibration_inputs=calibration)
        missed = [miss for miss in inspected.near_misses if "never called" not in miss.reason]
        return found, True, f"{missed[0].name}: {missed[0].reason}" if missed else ""
    except Exception as error:
        return found, False, one_line(error)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for row in rows(sys.argv[1]):
        print(json.dumps(asdict(row)), flush=True)
