"""Traced and planned tiny models for the tests of later passes."""

from __future__ import annotations

import random

from craftc.models.workload import WorkloadInputs
from craftc.passes.compilation import Compilation, updated
from craftc.passes.pipelines import analysed
from craftc.solvers.problem import Placement
from tests.model_families import build_family
from tests.plans.sample_plans import plan_of, random_placement


def traced(family: str) -> Compilation:
    """A family's tiny model, traced, with its MoE layers found."""
    model, example = build_family(family)
    return analysed(model, WorkloadInputs(example))


def planned(compilation: Compilation, gpus: int, replicas: int = 5) -> Compilation:
    """With a random sound plan: `replicas` in every layer, a layer's larger GPUs where the fewest slots are."""
    seed = random.Random(0)
    slots_G = [0] * gpus
    placements: list[Placement] = []
    for layer in compilation.layers:
        held = sorted(random_placement(seed, layer.experts, gpus, layer.experts + replicas), key=len, reverse=True)
        gpu_of = dict(zip(sorted(range(gpus), key=lambda gpu: slots_G[gpu]), held, strict=True))
        placements.append(tuple(gpu_of[gpu] for gpu in range(gpus)))
        slots_G = [slots + len(gpu_of[gpu]) for gpu, slots in enumerate(slots_G)]
    return updated(compilation, plan=plan_of(placements, compilation.layers))
