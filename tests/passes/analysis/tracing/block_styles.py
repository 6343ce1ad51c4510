"""MoE blocks that are built, called or nested in other ways than a list of experts behind a router."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, HIDDEN, TOP_K, Block, Expert
from tests.passes.analysis.tracing.handwritten_styles import UniqueLoop


class WithAuxiliaryLoss(UniqueLoop):
    """Returns its load-balancing loss beside its output; the model adds the losses up."""

    def forward(self, x):
        flat = x.view(-1, HIDDEN)
        probabilities = self.router(flat).softmax(-1)
        weights, chosen = probabilities.topk(TOP_K, dim=-1)
        density = functional.one_hot(chosen, EXPERTS).float().mean((0, 1))
        return self.combine(flat, chosen, weights).view_as(x), EXPERTS * (density * probabilities.mean(0)).sum()


class WithLogits(UniqueLoop):
    """Returns its router's logits in a dict."""

    def forward(self, x):
        flat = x.view(-1, HIDDEN)
        logits = self.router(flat)
        weights, chosen = logits.sigmoid().topk(TOP_K, dim=-1)
        return {"hidden": self.combine(flat, chosen, weights).view_as(x), "logits": logits}


class NormInside(UniqueLoop):
    """Norm and residual inside the block: its experts get what the norm returns."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, x):
        return x + super().forward(self.norm(x))


class FunctionalNorm(UniqueLoop):
    """The norm is a function with the block's own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(HIDDEN))

    def forward(self, x):
        return x + super().forward(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale)


class Residual(UniqueLoop):
    """DeepSpeed's residual MoE: a dense expert and the routed ones, mixed by a learnt coefficient."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.coefficient = Expert(), nn.Linear(HIDDEN, 2)

    def forward(self, x):
        mix = self.coefficient(x).softmax(-1)
        return super().forward(x) * mix[..., 0:1] + self.dense(x) * mix[..., 1:]


class Noisy(UniqueLoop):
    """Noisy top-k gating: noise in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Linear(HIDDEN, EXPERTS)

    def forward(self, x):
        flat = x.view(-1, HIDDEN)
        logits = self.router(flat)
        if self.training:
            logits = logits + torch.randn_like(logits) * functional.softplus(self.noise(flat))
        weights, chosen = logits.topk(TOP_K, dim=-1)
        return self.combine(flat, chosen, weights.softmax(-1)).view_as(x)


class IdentityExperts(UniqueLoop):
    """More choices than experts: the last ones return the token itself."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(HIDDEN, EXPERTS + 2)
        self.correction = nn.Parameter(torch.randn(EXPERTS))

    def combine(self, flat, chosen, weights):
        out = (weights * (chosen >= EXPERTS)).sum(-1, keepdim=True) * flat
        for number in chosen[chosen < EXPERTS].unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out.index_add_(0, rows, self.experts[number](flat[rows]) * weights[rows, ranks, None])
        return out


class WithDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(HIDDEN, 12), nn.ReLU(), nn.Linear(12, HIDDEN), nn.Dropout(0.1))

    def forward(self, x):
        return self.net(x)


class DropoutExperts(UniqueLoop):
    """The tutorial's experts: a Sequential with biases and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(WithDropout() for _ in range(EXPERTS))


class WithBias(Expert):
    def forward(self, x):
        return super().forward(x), None


class TupleExperts(Block):
    """Megatron's experts: an output and a bias that may be None."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(WithBias() for _ in range(EXPERTS))

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            output, _ = self.experts[number](flat[rows])
            out.index_add_(0, rows, output * weights[rows, ranks, None])
        return out


class ExpertDict(Block):
    """Switch and NLLB in transformers 4: a ModuleDict, `expert_0` and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.experts: Any = nn.ModuleDict({f"expert_{number}": Expert() for number in range(EXPERTS)})

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out.index_add_(0, rows, self.experts[f"expert_{number}"](flat[rows]) * weights[rows, ranks, None])
        return out


class Groups(Block):
    """Experts in groups: a list of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.experts: Any = nn.ModuleList(nn.ModuleList(Expert() for _ in range(3)) for _ in range(EXPERTS // 3))

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            expert = self.experts[number // 3][number % 3]
            out.index_add_(0, rows, expert(flat[rows]) * weights[rows, ranks, None])
        return out


class Pool(nn.Module):
    """Dispatches; the router is its owner's."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out.index_add_(0, rows, self.experts[number](flat[rows]) * weights[rows, ranks, None])
        return out


class PoolBeside(nn.Module):
    """The router in one module, the dispatch in another."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.pool = nn.Linear(HIDDEN, EXPERTS), Pool()

    def forward(self, x):
        weights, chosen = self.router(x.view(-1, HIDDEN)).softmax(-1).topk(TOP_K, dim=-1)
        return self.pool(x.view(-1, HIDDEN), chosen, weights).view_as(x)


class SequenceFirst(UniqueLoop):
    """Works on [sequence, batch, hidden] inside."""

    def forward(self, x):
        return super().forward(x.transpose(0, 1).contiguous()).transpose(0, 1)


class BySequence(Block):
    """Routes whole sequences by their mean."""

    def forward(self, x):
        weights, chosen = self.router(x.mean(1)).softmax(-1).topk(TOP_K, dim=-1)
        outputs = []
        for row, sequence in enumerate(x):
            picked = zip(weights[row], chosen[row].tolist(), strict=True)
            outputs.append(sum(weight * self.experts[number](sequence) for weight, number in picked))
        return torch.stack(outputs)


class Chunks(nn.Module):
    """DeepSpeed's and Tutel's experts: a buffer with places for every expert's tokens goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.local = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, buffer):
        chunks = buffer.chunk(EXPERTS, dim=0)
        return torch.cat([expert(chunk) for expert, chunk in zip(self.local, chunks, strict=True)])


class DispatchAbove(nn.Module):
    """The block above dispatches; each expert may get as many tokens as it has places."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(HIDDEN, EXPERTS), Chunks()

    def forward(self, x):
        flat = x.reshape(-1, HIDDEN)
        gates = self.router(flat).softmax(-1)
        mask = functional.one_hot(gates.argmax(-1), EXPERTS)
        places = max(2, 2 * len(flat) // EXPERTS)
        place = ((mask.cumsum(0) - 1) * mask).sum(-1)
        kept = (place < places)[:, None] * mask
        combine = torch.einsum(
            "te,tc->tec", gates * kept, functional.one_hot(place.clamp(max=places - 1), places) * 1.0
        )
        buffers = self.experts(torch.einsum("tec,th->ech", combine.bool().to(flat), flat))
        return torch.einsum("tec,ech->th", combine, buffers).view_as(x)


BLOCK_STYLES: list[type[nn.Module]] = [
    WithAuxiliaryLoss,
    WithLogits,
    NormInside,
    FunctionalNorm,
    Residual,
    Noisy,
    IdentityExperts,
    DropoutExperts,
    TupleExperts,
    ExpertDict,
    Groups,
    PoolBeside,
    SequenceFirst,
    BySequence,
    DispatchAbove,
]
