"""A model whose routing is exact arithmetic on small integers: the same on every machine. Used by the CLI's tests."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

HIDDEN, EXPERTS, TOP_K, LAYERS = 8, 8, 2, 2


class Router(nn.Module):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.score = nn.Linear(HIDDEN, EXPERTS, bias=False)
        with torch.no_grad():
            self.score.weight.copy_((torch.arange(HIDDEN * EXPERTS).reshape(EXPERTS, HIDDEN) * step) % 23)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = self.score(x.round()).topk(TOP_K, dim=-1)
        return weights.softmax(dim=-1), chosen


class MoE(nn.Module):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.router = Router(step)
        self.experts = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(EXPERTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, HIDDEN)
        weights, chosen = self.router(flat)
        routed = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, ranks = torch.where(chosen == number)
            routed.index_add_(0, rows, expert(flat[rows]) * weights[rows, ranks, None])
        return x + 0.001 * routed.reshape(x.shape)


class GoldenModel(nn.Module):
    """`x [batch, length, HIDDEN]`, integers as floats; layers add so little that rounding brings the integers back."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MoE(step) for step in (5, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return GoldenModel().eval()


def example_inputs() -> dict[str, torch.Tensor]:
    return {"x": (torch.arange(2 * 3 * HIDDEN).reshape(2, 3, HIDDEN) * 7 % 5).float()}


def calibration_inputs() -> Iterator[dict[str, torch.Tensor]]:
    for batch in range(4):
        yield {"x": (torch.arange(4 * 16 * HIDDEN).reshape(4, 16, HIDDEN) * (3 + batch) % 11).float()}
