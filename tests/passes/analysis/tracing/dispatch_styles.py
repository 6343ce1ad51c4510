"""Hand-written MoE layers that get tokens to a ModuleList of experts in as many ways as people write."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

EXPERTS, HIDDEN, TOP_K = 6, 8, 2


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(HIDDEN, 12), nn.Linear(12, HIDDEN)

    def forward(self, x):
        return self.down(functional.gelu(self.up(x)))


class Block(nn.Module):
    """Router and experts; a style says how tokens get to them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(HIDDEN, EXPERTS)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x):
        flat = x.view(-1, HIDDEN)
        weights, chosen = self.router(flat).softmax(-1).topk(TOP_K, dim=-1)
        return self.combine(flat, chosen, weights / weights.sum(-1, keepdim=True)).view(*x.shape)

    def combine(self, flat, chosen, weights):
        raise NotImplementedError


class WhereIndexAdd(Block):
    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, ranks = torch.where(chosen == number)
            out.index_add_(0, rows, expert(flat[rows]) * weights[rows, ranks, None])
        return out


class ItemAssignment(Block):
    def combine(self, flat, chosen, weights):
        out = torch.zeros(flat.shape[0], HIDDEN, dtype=flat.dtype)
        for number, expert in enumerate(self.experts):
            rows, ranks = (chosen == number).nonzero(as_tuple=True)
            out[rows] += weights[rows, ranks].unsqueeze(-1) * expert(flat[rows])
        return out


class OneHotMask(Block):
    def combine(self, flat, chosen, weights):
        mask = functional.one_hot(chosen, num_classes=EXPERTS).permute(2, 1, 0)
        out = torch.zeros((flat.size(0), HIDDEN), dtype=flat.dtype, device=flat.device)
        for number in range(EXPERTS):
            ranks, rows = torch.where(mask[number])
            current = flat[None, rows].reshape(-1, HIDDEN)
            out.index_add_(0, rows, (self.experts[number](current) * weights[rows, ranks, None]).to(flat.dtype))
        return out


class DenseScatter(Block):
    def combine(self, flat, chosen, weights):
        gates = torch.zeros(flat.shape[0], EXPERTS, dtype=flat.dtype).scatter(1, chosen, weights)
        outputs = torch.stack([expert(flat) for expert in self.experts], dim=1)
        return (outputs * gates.unsqueeze(-1)).sum(dim=1)


class Running(Block):
    def combine(self, flat, chosen, weights):
        total = 0
        for number, expert in enumerate(self.experts):
            total = total + expert(flat) * (weights * (chosen == number)).sum(-1, keepdim=True)
        return total


class ThreeDimensional(Block):
    def forward(self, x):
        weights, chosen = torch.topk(functional.softmax(self.router(x), dim=-1), TOP_K, dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            out += expert(x) * torch.where(chosen == number, weights, 0.0).sum(-1)[..., None]
        return out


class SwitchTopOne(Block):
    def forward(self, x):
        flat = x.view(-1, HIDDEN)
        weight, chosen = self.router(flat).softmax(-1).max(dim=-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows = torch.where(chosen == number)[0]
            out[rows] = expert(flat[rows]) * weight[rows].unsqueeze(-1)
        return out.view_as(x)


class SkipsEmpty(Block):
    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            mask = (chosen == number).any(dim=-1)
            if mask.any():
                scale = (weights * (chosen == number)).sum(-1)[mask]
                out[mask] += expert(flat[mask]) * scale.unsqueeze(1)
        return out


class ReadsItsMask(OneHotMask):
    """Counts tokens with the mask that also dispatches them."""

    def combine(self, flat, chosen, weights):
        mask = functional.one_hot(chosen, num_classes=EXPERTS)
        out = torch.zeros_like(flat)
        for number in range(EXPERTS):
            rows, ranks = torch.where(mask[:, :, number])
            out.index_add_(0, rows, self.experts[number](flat[rows]) * weights[rows, ranks, None])
        return out * (1 + mask.sum() / 1000)


class SkipsByCount(Block):
    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, ranks = torch.where(chosen == number)
            if rows.numel() == 0:
                continue
            out = out.index_add(0, rows, expert(flat[rows]) * weights[rows, ranks, None])
        return out


class Model(nn.Module):
    """Two MoE layers on top of each other and a head."""

    def __init__(self, block: type[Block]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([block(), block()])
        self.head = nn.Linear(HIDDEN, 5)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def build(block: type[Block]) -> nn.Module:
    torch.manual_seed(0)
    return Model(block).eval()


def tokens(*shape: int, seed: int = 1) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(*shape, HIDDEN, generator=torch.Generator().manual_seed(seed))}


STYLES = [
    WhereIndexAdd,
    ItemAssignment,
    OneHotMask,
    DenseScatter,
    Running,
    ThreeDimensional,
    SwitchTopOne,
    ReadsItsMask,
    SkipsEmpty,
    SkipsByCount,
]
