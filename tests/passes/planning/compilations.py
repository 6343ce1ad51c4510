"""A compilation that knows loads, layers, topology and budget: all that planning needs."""

from dataclasses import replace

import numpy as np

from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.passes.base import Pipeline
from craftc.passes.compilation import Compilation
from craftc.passes.planning.allocate_replicas import AllocateReplicas
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.passes.planning.place_replicas import PlaceReplicas
from craftc.topology import Topology


def compilation(experts=16, budget_bytes=3200, sizes=(100, 100, 100), **changes):
    rng = np.random.default_rng(0)
    counts_SLE = (rng.lognormal(0, 1.2, (6, len(sizes), experts)) * 50).astype(np.int64)
    loads = LoadProfile.from_counts(counts_SLE, top_k=(2,) * len(sizes))
    layers = tuple(MoELayer(f"layers.{n}", n, experts, size, 2) for n, size in enumerate(sizes))
    start = Compilation(
        loads=loads, layers=layers, topology=Topology(8, 2), budget_bytes=budget_bytes, budget_requested="4replicas/gpu"
    )
    return replace(start, **changes)


def pipeline(planner):
    return Pipeline((EstimateBenefit(planner), AllocateReplicas(planner), PlaceReplicas(planner)))
