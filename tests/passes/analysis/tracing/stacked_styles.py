"""Hand-written MoE layers whose experts are one module with stacked parameters, called in as many ways as people do;
and layers that do more with their experts' outputs than to add them up."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, HIDDEN, TOP_K, Block, Expert

INNER = 12


class BufferExperts(nn.Module):
    """nanoMoE's: `[E, C, H]`, with biases; nothing says how many experts there are."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, INNER) / 3)
        self.up_bias = nn.Parameter(torch.randn(EXPERTS, 1, INNER) / 3)
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, HIDDEN) / 3)

    def forward(self, x):
        return functional.gelu(x @ self.up + self.up_bias) @ self.down


class CountedExperts(nn.Module):
    """torchtitan's: sorted rows, and how many each expert has (a tensor, or a list)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts = EXPERTS
        self.up = nn.Parameter(torch.randn(EXPERTS, INNER, HIDDEN) / 3)
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, INNER) / 3)

    def forward(self, x, counts):
        sizes = counts.tolist() if isinstance(counts, torch.Tensor) else counts
        chunks = x.split(sizes)
        return torch.cat(
            [(chunk @ up.T).relu() @ down.T for chunk, up, down in zip(chunks, self.up, self.down, strict=True)]
        )


class OffsetExperts(CountedExperts):
    """Grouped matrix products': where each expert's rows end."""

    def forward(self, x, ends):
        return super().forward(x, ends.diff(prepend=ends.new_zeros(1)))


class GatheredExperts(nn.Module):
    """gpt-fast's: every token with its experts' weights; `[T, K, H]` comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(EXPERTS, INNER, HIDDEN) / 3)
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, INNER) / 3)

    def forward(self, x, indices):
        inner = torch.einsum("th,tkfh->tkf", x, self.up[indices]).relu()
        return torch.einsum("tkf,tkhf->tkh", inner, self.down[indices])


class Stacked(Block):
    """Without the list of experts."""

    kind: type[nn.Module]

    def __init__(self) -> None:
        super().__init__()
        self.experts = self.kind()  # type: ignore[assignment]


class Gathered(Stacked):
    kind = GatheredExperts

    def combine(self, flat, chosen, weights):
        return torch.einsum("tkh,tk->th", self.experts(flat, chosen), weights)


class Buffers(Stacked):
    """Capacity: what does not fit into an expert's buffer is dropped."""

    kind = BufferExperts

    def combine(self, flat, chosen, weights):
        capacity = max(1, flat.shape[0] * TOP_K // EXPERTS)
        taken = functional.one_hot(chosen, EXPERTS)
        place = (taken.reshape(-1, EXPERTS).cumsum(0) - 1).view_as(taken)
        fits = (taken > 0) & (place < capacity)
        places = functional.one_hot(place.clamp(0, capacity - 1), capacity) * fits.unsqueeze(-1)
        combine = torch.einsum("tk,tkec->tec", weights, places.to(flat.dtype))
        buffers = torch.einsum("tec,th->ech", (combine > 0).to(flat.dtype), flat)
        return torch.einsum("tec,ech->th", combine, self.run(buffers))

    def run(self, buffers):
        return self.experts(buffers)


class BuffersBehindABatch(Buffers):
    def run(self, buffers):
        return self.experts(buffers[None])[0]


class FlatBuffers(Buffers):
    """Llama-4's shape, `[E * C, H]`."""

    class FlatExperts(BufferExperts):
        def forward(self, x):
            return super().forward(x.view(self.up.shape[0], -1, HIDDEN)).view(-1, HIDDEN)

    kind = FlatExperts

    def run(self, buffers):
        return self.experts(buffers.reshape(-1, HIDDEN)).view_as(buffers)


class Counted(Stacked):
    kind = CountedExperts

    def combine(self, flat, chosen, weights):
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=EXPERTS)
        outputs = self.run(flat[order // TOP_K], counts) * weights.flatten()[order, None]
        return torch.zeros_like(flat).index_add(0, order // TOP_K, outputs)

    def run(self, rows, counts):
        return self.experts(rows, counts)


class CountedByAList(Counted):
    def run(self, rows, counts):
        return self.experts(rows, counts.tolist())


class CountedByEnds(Counted):
    kind = OffsetExperts

    def run(self, rows, counts):
        return self.experts(rows, counts.cumsum(0))


class Scored(Counted):
    """torchtitan with its scores applied before the experts."""

    def combine(self, flat, chosen, weights):
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=EXPERTS)
        rows = flat[order // TOP_K] * weights.flatten()[order, None]
        return torch.zeros_like(flat).index_add(0, order // TOP_K, self.experts(rows, counts))


class Loop(Block):
    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out[rows] += self.experts[number](flat[rows]) * weights[rows, ranks, None]
        return out


class WeighingExpert(Expert):
    """Early Mixtral's: the expert weighs its own output."""

    def forward(self, x, weights):  # type: ignore[override]
        return weights * super().forward(x)


class Weighing(Block):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(WeighingExpert() for _ in range(EXPERTS))

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, ranks = torch.where(chosen == number)
            if rows.shape[0] == 0:
                continue
            out.index_add_(0, rows, expert(flat[rows], weights[rows, ranks, None]))
        return out


class NormAfter(Loop):
    """A second norm after the sum, as in Gemma and OLMo 2."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)

    def forward(self, x):
        return x + self.after(super().forward(self.before(x)))


class ProjectionAfter(Loop):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x):
        return self.out(super().forward(x))


class Logarithms(Loop):
    """An early port of Shazeer's dispatcher: outputs are combined as logarithms."""

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out[rows] += self.experts[number](flat[rows]).exp() * weights[rows, ranks, None]
        return out.clamp(min=1e-9).log()


class ScaledInput(Loop):
    """Llama-4's rule: the weight is on the expert's input."""

    def combine(self, flat, chosen, weights):
        weights /= weights.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out[rows] += self.experts[number](flat[rows] * weights[rows, ranks, None])
        return out


STACKED_STYLES = [
    Gathered, Buffers, BuffersBehindABatch, FlatBuffers, Counted, CountedByAList, CountedByEnds, Weighing,
]  # fmt: skip
"""One module for all experts, or experts that weigh; the block's output is a weighted sum."""
RECORDED_STYLES = [Scored, NormAfter, ProjectionAfter, Logarithms, ScaledInput]
"""The block's output is no weighted sum of what experts make of its tokens."""
