"""A hand-written MoE language model in plain PyTorch: a ModuleList of experts, its own router, a shared expert.

Nothing here knows of craftc or of Hugging Face. Run `craftc inspect examples/plain_moe/model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, HIDDEN, EXPERTS, TOP_K, BLOCKS = 64, 32, 8, 2, 4


class FeedForward(nn.Module):
    """A gated MLP: one expert, or the shared one."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, inner, bias=False)
        self.up = nn.Linear(hidden, inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Router(nn.Module):
    """Chooses `TOP_K` experts for every token; a bias a layer makes some of them hot."""

    def __init__(self, skew: float) -> None:
        super().__init__()
        self.score = nn.Linear(HIDDEN, EXPERTS)
        with torch.no_grad():
            self.score.bias.copy_(skew * torch.randn(EXPERTS))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = self.score(x).topk(TOP_K, dim=-1)
        return weights.softmax(dim=-1), chosen


class MoE(nn.Module):
    """Routed experts, one module each, plus a shared expert that sees every token."""

    def __init__(self, skew: float) -> None:
        super().__init__()
        self.router = Router(skew)
        self.experts = nn.ModuleList(FeedForward(HIDDEN, 2 * HIDDEN) for _ in range(EXPERTS))
        self.shared = FeedForward(HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = x.shape
        flat = x.reshape(-1, hidden)
        weights, chosen = self.router(flat)
        routed = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, ranks = torch.where(chosen == number)
            routed.index_add_(0, rows, expert(flat[rows]) * weights[rows, ranks, None])
        return (routed + self.shared(flat)).reshape(batch, length, hidden)


class Block(nn.Module):
    """Causal attention, then an MLP that is dense or routed."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        x = x + functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.mlp(self.mlp_norm(x))


class PlainMoE(nn.Module):
    """Token ids `[batch, length]` to logits `[batch, length, VOCABULARY]`; the first block is dense."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        dense = Block(FeedForward(HIDDEN, 2 * HIDDEN))
        self.blocks = nn.ModuleList([dense, *(Block(MoE(skew=0.3 * number)) for number in range(1, BLOCKS))])
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return PlainMoE().eval()


def example_inputs() -> dict[str, torch.Tensor]:
    return {"tokens": torch.arange(12).reshape(2, 6)}


def calibration_inputs() -> Iterator[dict[str, torch.Tensor]]:
    """Eight batches of random tokens, some tokens far more frequent than others."""
    generator = torch.Generator().manual_seed(1)
    frequency = 1 / torch.arange(1, VOCABULARY + 1)
    for _ in range(8):
        yield {"tokens": torch.multinomial(frequency, 4 * 32, replacement=True, generator=generator).reshape(4, 32)}
