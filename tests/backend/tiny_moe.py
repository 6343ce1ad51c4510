"""A hand-written MoE model behind the experts ABI that compiles in a second, and plans for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from craftc.backend.planning import model_layers
from craftc.plans.replication_plan import PlanBudget, Provenance, ReplicationPlan, layer_plan
from craftc.topology import Topology

HIDDEN, EXPERTS, TOP_K = 8, 4, 2


class Experts(nn.Module):
    def __init__(self, experts: int = EXPERTS):
        super().__init__()
        self.num_experts = experts
        self.up = nn.Parameter(torch.randn(experts, HIDDEN, 6) / 3)
        self.down = nn.Parameter(torch.randn(experts, 6, HIDDEN) / 3)
        self.act = nn.SiLU()

    def forward(self, hidden: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        tokens, top_k = indices.shape
        expert = indices.reshape(-1)
        rows = hidden.repeat_interleave(top_k, dim=0)[:, None]
        out = torch.bmm(self.act(torch.bmm(rows, self.up[expert])), self.down[expert])[:, 0]
        return (out.view(tokens, top_k, HIDDEN) * weights[:, :, None]).sum(dim=1)


class Router(nn.Module):
    def __init__(self, experts: int = EXPERTS):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, HIDDEN))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        weights, indices = torch.topk((hidden @ self.weight.T).softmax(-1), TOP_K)
        return weights, indices


class Block(nn.Module):
    def __init__(self, experts: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        self.gate = Router()
        self.experts = experts

    def forward(self, hidden: Tensor) -> Tensor:
        flat = self.norm(hidden).view(-1, HIDDEN)
        weights, indices = self.gate(flat)
        return hidden + self.experts(flat, indices, weights).view(hidden.shape)


class TinyMoE(nn.Module):
    """`[batch, tokens, 8] -> [batch, tokens, 8]` through two MoE layers of four experts."""

    def __init__(self, experts: type[nn.Module] = Experts):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block(experts()) for _ in range(2))
        self.head = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


def batch(rows: int = 2, tokens: int = 5, seed: int = 0) -> Tensor:
    """`[rows, tokens, 8]`."""
    return torch.randn(rows, tokens, HIDDEN, generator=torch.Generator().manual_seed(seed))


def round_robin_plan(model: nn.Module, gpus: int = 2, replicas: int = 2) -> ReplicationPlan:
    """Experts dealt to GPUs in turn, then replicas of experts 1, 2, ... in turn: no expert twice on one GPU."""
    layers = model_layers(model)
    slots = [[*range(layer.experts), *range(1, replicas + 1)] for layer in layers]
    placed = tuple(
        layer_plan(layer, tuple(tuple(slots_of[gpu::gpus]) for gpu in range(gpus)))
        for layer, slots_of in zip(layers, slots, strict=True)
    )
    spent = sum(layer.replicas * layer.expert_bytes for layer in placed)
    provenance = Provenance("0.1.0", "sha256:0", None, "craftc", "none", "heuristic", None)
    return ReplicationPlan(Topology(gpus), PlanBudget(f"{spent}B", spent, spent), placed, None, provenance)
