"""`python -m benchmarks.gpu`: the whole path on one CUDA GPU, virtual GPUs in one process; prints errors and ratios.

Tiny models of several families: trace, profile, plan, rewrite and verify on the GPU in bf16; `craftc.prepare`, eager
and with inductor; every figure next to the original model in the same run.
"""

from __future__ import annotations

import copy
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import craftc
from craftc.passes.analysis.tracing.model import call_model
from examples.plain_moe import model as plain_moe

GPUS = craftc.Topology(gpus=4, nodes=2)
REPEATS = 20


class Wide(nn.Module):
    """One MoE block of a realistic size: 64 experts, 4 for every token, bf16, fused parameters."""

    def __init__(self, hidden: int = 1024, inner: int = 512, experts: int = 64, top_k: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.experts = GroupedExperts(hidden, inner, experts)
        self.top_k = top_k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, index = self.gate(x).softmax(-1).topk(self.top_k, dim=-1)
        return x + self.experts(x, index, weights)


class GroupedExperts(nn.Module):
    """Experts in one grouped matrix product per projection."""

    def __init__(self, hidden: int, inner: int, experts: int) -> None:
        super().__init__()
        self.num_experts = experts
        self.up = nn.Parameter(torch.randn(experts, inner, hidden) * hidden**-0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, inner) * inner**-0.5)

    def forward(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        expert_P, order = index.reshape(-1).sort(stable=True)
        token = order // index.shape[-1]
        kept = (expert_P < self.num_experts)[:, None]  # "no expert" sorts last, behind the last group
        ends = torch.searchsorted(expert_P, torch.arange(1, self.num_experts + 1, device=index.device)).int()
        inner = torch.nn.functional.silu(torch._grouped_mm(hidden[token], self.up.transpose(1, 2), offs=ends))
        rows = torch._grouped_mm(inner, self.down.transpose(1, 2), offs=ends)
        rows = torch.where(kept, rows, 0) * weights.reshape(-1)[order, None]
        return torch.zeros_like(hidden).index_add(0, token, rows.to(hidden.dtype))


def milliseconds(model: Callable[[torch.Tensor], Any], x: torch.Tensor) -> float:
    """Median time of one call on the GPU."""
    for _ in range(3):
        model(x)
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model(x)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[REPEATS // 2] * 1e3


def compared(label: str, original: Callable[..., Any], replicated: Callable[..., Any], x: torch.Tensor) -> None:
    """Print error and times of the replicated model next to the original."""
    before, after = milliseconds(original, x), milliseconds(replicated, x)
    print(f"{label}: {gap(replicated(x), original(x))}; {before:.3f} ms -> {after:.3f} ms, ratio {after / before:.3f}")


def gap(got: torch.Tensor, expected: torch.Tensor) -> str:
    """Largest difference, and as a fraction of the largest value."""
    difference = (got.float() - expected.float()).abs().max().item()
    return f"{difference:.2e} ({difference / expected.float().abs().max().item():.1e} of the largest)"


def small_models() -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """Tiny models with their inputs; transformers' ones where it is installed."""
    models: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        "plain_moe": (plain_moe.build_model(), plain_moe.example_inputs())
    }
    try:
        from tests.model_families import FAMILIES, build_family
    except ImportError as error:
        print(f"transformers' families: not run, {error}")
        return models
    for name, family in FAMILIES.items():
        if family.experts_abi:
            try:
                models[name] = build_family(name)
            except Exception as error:
                print(f"{name}: not built, {type(error).__name__}: {error}")
    return models


def optimize_small(name: str, model: nn.Module, inputs: dict[str, Any]) -> None:
    """Everything on the GPU, in bf16."""
    model = model.to("cuda", torch.bfloat16)
    inputs = {key: value.to("cuda") for key, value in inputs.items()}
    done = craftc.optimize(model, inputs, GPUS, "1replicas/gpu")
    with torch.no_grad():
        difference = gap(done.model(**inputs), call_model(model, inputs))
    print(f"{name}: optimised on {next(model.parameters()).device}, {difference}; {done.verification}")


def wide_block() -> None:
    """Time and error of one block with replicas against the original, eager and compiled."""
    torch.manual_seed(0)
    model = Wide().to("cuda", torch.bfloat16).eval()
    for tokens in (16, 512, 8192):
        x = torch.randn(tokens, 1024, device="cuda", dtype=torch.bfloat16)
        plan = craftc.optimize(model, {"x": x}, GPUS, "8replicas/gpu").plan
        prepared = craftc.prepare(copy.deepcopy(model), plan)
        with torch.inference_mode():
            compared(f"wide, {tokens} tokens, eager", model, prepared, x)
        with torch.no_grad():
            torch._dynamo.reset()
            original, replicated = (torch.compile(each, fullgraph=True) for each in (model, prepared))
            compared(f"wide, {tokens} tokens, inductor", original, replicated, x)


def main() -> int:
    """Run everything; the number of parts that failed."""
    if not torch.cuda.is_available():
        print("no CUDA GPU here")
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    failed = 0
    parts: dict[str, Callable[[], None]] = {
        name: lambda name=name, made=made: optimize_small(name, *made)  # type: ignore[misc]
        for name, made in small_models().items()
    }
    for name, part in {**parts, "wide": wide_block}.items():
        try:
            part()
        except Exception as error:
            failed += 1
            print(f"{name}: FAILED, {type(error).__name__}: {error}")
            traceback.print_exc(limit=-6, file=sys.stdout)
    print(f"{failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
