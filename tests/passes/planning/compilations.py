"""Compilations that planning passes start from: loads, layers, a request, and the problem that it poses."""

from __future__ import annotations

import numpy as np

from craftc.budget import parse_budget
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.passes.base import Pipeline
from craftc.passes.compilation import Compilation
from craftc.passes.planning.allocate_replicas import AllocateReplicas
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.passes.planning.place_replicas import PlaceReplicas
from craftc.passes.planning.pose_problem import PoseProblem
from craftc.passes.planning.resolve_budget import ResolveBudget
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.topology import Topology

PLANNING = Pipeline((EstimateBenefit(), AllocateReplicas(), PlaceReplicas()))
"""From a posed problem to a plan."""


def random_loads(experts=16, layers=3, step_names=()):
    rng = np.random.default_rng(0)
    counts_SLE = (rng.lognormal(0, 1.2, (6, layers, experts)) * 50).astype(np.int64)
    return LoadProfile.from_counts(counts_SLE, top_k=(2,) * layers, step_names=step_names)


def compilation(planner="craftc", loads=None, sizes=(100, 100, 100), budget="4replicas/gpu", experts=16, **options):
    """The problem of planning for 8 GPUs in 2 nodes; `sizes` are the layers' experts', `options` PlanningOptions."""
    loads = random_loads(experts, len(sizes)) if loads is None else loads
    layers = tuple(MoELayer(f"layers.{n}", n, loads.experts, size, 2) for n, size in enumerate(sizes))
    request = PlanningRequest(Topology(8, 2), parse_budget(budget), PlanningOptions(planner=planner, **options))
    return Pipeline((ResolveBudget(), PoseProblem()), request).run(Compilation(loads=loads, layers=layers))


def planned(*arguments, **options):
    """The same, planned."""
    return PLANNING.run(compilation(*arguments, **options))
