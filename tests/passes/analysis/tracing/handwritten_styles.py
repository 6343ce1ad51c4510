"""MoE blocks whose code decides in Python what goes where: counts, unique experts, queues, capacities.

Each is written anew in the manner of a public model or library, which its docstring names.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, HIDDEN, TOP_K, Block, Expert


class HitLoop(Block):
    """Transformers 4: a loop over the experts that were hit, by a permuted one-hot mask."""

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        mask = functional.one_hot(chosen, num_classes=EXPERTS).permute(2, 1, 0)
        for hit in mask.sum(dim=(-1, -2)).greater(0).nonzero():
            ranks, rows = torch.where(mask[hit].squeeze(0))
            out.index_add_(0, rows, self.experts[int(hit)](flat[rows]) * weights[rows, ranks, None])
        return out


class UniqueLoop(Block):
    """A loop over the experts that occur."""

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out.index_add_(0, rows, self.experts[number](flat[rows]) * weights[rows, ranks, None])
        return out


class CountsWithShared(Block):
    """DeepSeek-V3's reference: counts as a Python list, empty experts skipped, a shared expert for all."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = Expert()

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        counts = torch.bincount(chosen.flatten(), minlength=EXPERTS).tolist()
        for number in range(EXPERTS):
            if counts[number] == 0:
                continue
            rows, ranks = torch.where(chosen == number)
            out[rows] += self.experts[number](flat[rows]) * weights[rows, ranks, None]
        return out + self.shared(flat)


class SortedSlices(Block):
    """DeepSeek-V2's remote code in inference: tokens sorted by expert, slices by NumPy counts, written back."""

    def combine(self, flat, chosen, weights):
        counts = chosen.new_zeros((chosen.shape[0], EXPERTS))
        counts.scatter_(1, chosen, 1)
        order = chosen.view(-1).argsort()
        sorted_tokens = flat[order // chosen.shape[1]]
        outputs, start = [], 0
        for number, count in enumerate(counts.sum(dim=0).cpu().numpy()):
            end = start + count
            if count == 0:
                continue
            outputs.append(self.experts[number](sorted_tokens[start:end]))
            start = end
        gathered = torch.cat(outputs, dim=0)
        unsorted = torch.empty_like(gathered)
        unsorted[order] = gathered
        return (unsorted.view(*chosen.shape, -1) * weights.unsqueeze(-1)).sum(dim=1)


class SplitBySizes(Block):
    """Chunks of sorted tokens, one per expert, by a list of sizes."""

    def combine(self, flat, chosen, weights):
        order = chosen.flatten().argsort(stable=True)
        sizes = torch.bincount(chosen.flatten(), minlength=EXPERTS).tolist()
        chunks = torch.split(flat[order // TOP_K], sizes)
        outputs = torch.cat([expert(chunk) for expert, chunk in zip(self.experts, chunks, strict=True)])
        scaled = outputs * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(flat).index_add(0, order // TOP_K, scaled)


class ZippedMasks(Block):
    """Masks and experts side by side; experts without tokens are skipped."""

    def combine(self, flat, chosen, weights):
        masks = [(chosen == number).any(-1) for number in range(EXPERTS)]
        out = torch.zeros_like(flat)
        for number, (mask, expert) in enumerate(zip(masks, self.experts, strict=True)):
            if not mask.any():
                continue
            gate = (weights * (chosen == number)).sum(-1)[mask]
            out[mask] = out[mask] + expert(flat[mask]) * gate[:, None]
        return out


class SwitchDropping(Block):
    """labml's Switch Transformer: one expert a token, tokens above its capacity pass unchanged."""

    def forward(self, x):
        flat = x.view(-1, HIDDEN)
        probability, routes = self.router(flat).softmax(-1).max(dim=-1)
        indexes = [torch.eq(routes, number).nonzero(as_tuple=True)[0] for number in range(EXPERTS)]
        capacity = int(1.2 * len(flat) / EXPERTS)
        dropped = [rows[capacity:] for rows in indexes]
        kept = [rows[:capacity] for rows in indexes]
        out = flat.new_zeros(flat.shape)
        for number in range(EXPERTS):
            out[kept[number], :] = self.experts[number](flat[kept[number], :])
        left = torch.cat(dropped)
        out[left, :] = flat[left, :]
        return (out * probability.view(-1, 1)).view_as(x)


class SparseDispatcher:
    """Shazeer's dispatcher as it is often ported: inputs split by part sizes, outputs combined with their gates."""

    def __init__(self, gates: torch.Tensor) -> None:
        self.gates = gates
        pairs = torch.nonzero(gates.t())
        self.rows = pairs[:, 1]
        self.sizes = (gates > 0).sum(0).tolist()
        self.weights = gates.t()[pairs[:, 0], pairs[:, 1]]

    def dispatch(self, flat):
        return torch.split(flat[self.rows], self.sizes, dim=0)

    def combine(self, outputs):
        stitched = torch.cat(outputs, 0) * self.weights[:, None]
        return torch.zeros(len(self.gates), HIDDEN, dtype=stitched.dtype).index_add(0, self.rows, stitched)


class Dispatched(Block):
    """A sparsely gated layer with that dispatcher, and its load-balancing loss beside the output."""

    def combine(self, flat, chosen, weights):
        dispatcher = SparseDispatcher(torch.zeros(len(flat), EXPERTS, dtype=flat.dtype).scatter(1, chosen, weights))
        inputs = dispatcher.dispatch(flat)
        return dispatcher.combine([self.experts[number](inputs[number]) for number in range(EXPERTS)])


class CapacityOneHot(Block):
    """GShard: one-hot places in the experts' buffers; what does not fit has no expert at all."""

    def combine(self, flat, chosen, weights):
        capacity = max(2, len(flat) * TOP_K // EXPERTS)
        mask = functional.one_hot(chosen, EXPERTS).transpose(0, 1).reshape(-1, EXPERTS)
        place = ((mask.cumsum(0) - 1) * mask).sum(-1).view(TOP_K, -1).t()
        kept = place < capacity
        places = functional.one_hot(place.clamp(max=capacity - 1), capacity).to(flat.dtype)
        experts = functional.one_hot(chosen, EXPERTS).to(flat.dtype) * kept[..., None]
        dispatch = torch.einsum("tke,tkc->tec", experts, places)
        combine = torch.einsum("tk,tke,tkc->tec", weights, experts, places)
        buffers = torch.einsum("tec,th->ech", dispatch, flat)
        outputs = torch.stack([expert(rows) for expert, rows in zip(self.experts, buffers, strict=True)])
        return torch.einsum("tec,ech->th", combine, outputs)


class StackedGather(Block):
    """Every expert on every token, then the chosen outputs gathered."""

    def combine(self, flat, chosen, weights):
        outputs = torch.stack([expert(flat) for expert in self.experts], dim=1)
        picked = outputs.gather(1, chosen[..., None].expand(-1, -1, HIDDEN))
        return torch.einsum("tk,tkh->th", weights, picked)


class TokenByToken(Block):
    """The textbook loop over tokens and their choices."""

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for token in range(flat.shape[0]):
            for rank in range(TOP_K):
                expert = self.experts[chosen[token, rank].item()]
                out[token] += weights[token, rank] * expert(flat[token])
        return out


class TopP(UniqueLoop):
    """As many experts as it takes to reach a probability: tokens have different numbers of them."""

    def forward(self, x):
        flat = x.view(-1, HIDDEN)
        probabilities, chosen = self.router(flat).softmax(-1).sort(dim=-1, descending=True)
        kept = probabilities.cumsum(-1) - probabilities < 0.5
        chosen = chosen.masked_fill(~kept, EXPERTS)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, ranks = torch.where(chosen == number)
            if len(rows):
                out.index_add_(0, rows, expert(flat[rows]) * probabilities[rows, ranks, None])
        return out.view_as(x)


class ExpertChoice(Block):
    """Experts choose tokens; a token may have none, or many."""

    def forward(self, x):
        flat = x.view(-1, HIDDEN)
        scores = self.router(flat).softmax(-1)
        weights, rows = scores.t().topk(max(1, len(flat) * TOP_K // EXPERTS), dim=-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            out = out.index_add(0, rows[number], expert(flat[rows[number]]) * weights[number, :, None])
        return out.view_as(x)


COUNTING_STYLES: list[type[Block]] = [
    HitLoop,
    UniqueLoop,
    CountsWithShared,
    SortedSlices,
    SplitBySizes,
    ZippedMasks,
    SwitchDropping,
    Dispatched,
    CapacityOneHot,
    StackedGather,
    TokenByToken,
    TopP,
    ExpertChoice,
]
