"""Traced and planned tiny models for the tests of later passes."""

from __future__ import annotations

from dataclasses import replace

from craftc.passes.base import Compilation, Pipeline, WorkloadInputs
from craftc.passes.find_moe_layers import FindMoELayers
from craftc.passes.trace import Trace
from tests.model_families import build_family
from tests.runtime.plans import plan_of, random_layer


def traced(family: str) -> Compilation:
    """A family's tiny model, traced, with its MoE layers found."""
    model, example = build_family(family)
    compilation, _ = Pipeline((Trace(), FindMoELayers())).run(Compilation(model=model, inputs=WorkloadInputs(example)))
    return compilation


def planned(compilation: Compilation, gpus: int, replicas: int = 5) -> Compilation:
    """With a random valid plan."""
    assert compilation.layers is not None
    layers = tuple(
        replace(
            random_layer(layer.name, layer.experts, gpus, replicas, seed=ordinal, index=layer.index),
            expert_bytes=layer.expert_bytes,
        )
        for ordinal, layer in enumerate(compilation.layers)
    )
    return replace(compilation, plan=plan_of(layers, gpus))
