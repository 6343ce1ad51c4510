"""Plans for the tiny models of the families."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from craftc.passes.analysis.tracing.experts import find_experts
from craftc.plans.replication_plan import ReplicationPlan
from craftc.runtime.plan_match import expert_bytes
from tests.model_families import FAMILIES
from tests.runtime.plans import plan_of, random_layer


def replaceable_families() -> list[str]:
    """Families whose experts take the experts ABI."""
    return [name for name, family in FAMILIES.items() if family.experts_abi]


def plan_for(model: nn.Module, gpus: int, replicas: int = 5) -> ReplicationPlan:
    """A random valid plan for the model's experts modules."""
    found, _ = find_experts(model)
    layers = tuple(
        replace(
            random_layer(module.path, module.experts, gpus, 0 if gpus == 1 else replicas, seed=ordinal, index=ordinal),
            expert_bytes=expert_bytes(model.get_submodule(module.path)),
        )
        for ordinal, module in enumerate(found)
    )
    return plan_of(layers, gpus)
