"""Write down a plan: placements, budget, provenance, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np

from craftc.loads.load_profile import LoadProfile
from craftc.models.fingerprint import fingerprint_model
from craftc.passes.compilation import Compilation
from craftc.passes.planning.writing.comparison import compare, with_planned
from craftc.plans.replication_plan import LayerPlan, PlanBudget, PlanObjective, Provenance, ReplicationPlan
from craftc.plans.verifier import require_sound
from craftc.solvers.objectives import placed_step_time, workload_balancedness
from craftc.solvers.problem import Allocation, Planner
from craftc.solvers.replay import replay


def written_plan(
    compilation: Compilation, planner: Planner, allocation: Allocation, layers: Sequence[LayerPlan]
) -> ReplicationPlan:
    """The plan with `layers`, compared with the baselines on its own loads.

    Raises VerificationFailed if a planner broke a rule of plans (docs/plan-file.md): a bug, never the user's
    mistake.
    """
    loads, problem, objective = compilation.loads, compilation.problem, compilation.request.options.objective
    placements = [layer.placement for layer in layers]
    estimate = compare(problem, planner, compilation.curves, allocation, placements, _judge(loads, objective))
    if any(layer.shares is not None for layer in layers):
        planned_SL = replay(problem.counts_SLE, placements, [layer.shares for layer in layers])
        estimate = with_planned(estimate, planned_SL, placed_step_time(problem, planned_SL, placements))
    plan = ReplicationPlan(
        topology=problem.topology,
        budget=PlanBudget(
            requested=compilation.request.budget.text,
            bytes=problem.budget_bytes,
            spent_bytes=sum(layer.replicas * layer.expert_bytes for layer in layers),
        ),
        layers=tuple(layers),
        estimate=estimate,
        provenance=Provenance(
            craftc=version("craftc"),
            loads=f"sha256:{loads.sha256}",
            model=f"sha256:{fingerprint_model(compilation.model)}" if compilation.knows("model") else None,
            planner=planner.name,
            solver=allocation.solver,
            status=allocation.status,
            gap=None if allocation.status == "heuristic" else allocation.gap,
            objective=objective,
            tokens_per_slot=problem.tokens_per_slot,
            curves="own" if compilation.deciding_curves is compilation.curves else "cross-validated",
        ),
        groups=problem.groups,
    )
    require_sound(plan)
    return plan


def _judge(loads: LoadProfile, objective: PlanObjective) -> Callable[[np.ndarray], float] | None:
    """What the objective makes of `balancedness_SL`; None for those that every plan states."""
    if objective == "worst-workload":
        return lambda balancedness_SL: min(workload_balancedness(balancedness_SL, loads.step_names).values())
    return None
