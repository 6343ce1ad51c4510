"""The numbers of a compilation that planners need. Not a pass: shared by the three planning passes."""

from __future__ import annotations

from craftc.errors import BadInput
from craftc.passes.compilation import Compilation
from craftc.solvers.problem import PlanningProblem


def planning_problem(compilation: Compilation) -> PlanningProblem:
    """Loads, topology, groups, expert sizes and budget. Raises BadInput where loads, layers or groups do not fit."""
    loads, layers = compilation.loads, compilation.layers
    assert loads is not None
    assert layers is not None
    assert compilation.topology is not None
    assert compilation.budget_bytes is not None
    if len(layers) != loads.layers:
        raise BadInput(
            f"loads have {loads.layers} layers, the model has {len(layers)} MoE layers; measure the loads of this model"
        )
    for layer in layers:
        if layer.experts != loads.experts:
            raise BadInput(
                f"loads have {loads.experts} experts per layer, layer {layer.name} has {layer.experts}; "
                f"measure the loads of this model"
            )
    sizes_L = tuple(layer.expert_bytes for layer in layers)
    return PlanningProblem(
        loads.counts_SLE,
        compilation.topology,
        sizes_L,
        compilation.budget_bytes,
        groups=compilation.expert_groups,
        # Workloads are weighed by their steps; what each step is worth stays balancedness.
        objective="step-time" if compilation.objective == "step-time" else "balancedness",
        step_weight_S=compilation.step_weight_S,
        effort=compilation.effort,
    )
