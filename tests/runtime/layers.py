"""Experts modules of the model families, and routing for them. Axes: T tokens, H hidden size, K experts per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from craftc.passes.analysis.tracing.experts import find_experts
from tests.model_families import COMMON, FAMILIES


def experts_of(family: str) -> Any:
    """The first experts module of a tiny model of `family`."""
    model = FAMILIES[family].build()
    found, _ = find_experts(model)
    return model.get_submodule(found[0].path)


def routing(experts: Any, tokens: int, top_k: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [T, H], distinct experts [T, K] and weights [T, K]."""
    generator = torch.Generator().manual_seed(seed)
    hidden_TH = torch.randn(tokens, COMMON["hidden_size"], generator=generator)
    score_TE = torch.rand(tokens, experts.num_experts, generator=generator)
    weight_TK, index_TK = score_TE.topk(top_k, dim=1)
    return hidden_TH, index_TK, weight_TK
