"""Write down a plan: placements, budget, provenance, and what they are worth. Not a pass: shared by those that plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np

from craftc.models.fingerprint import fingerprint_model
from craftc.passes.compilation import Compilation
from craftc.passes.planning.writing.comparison import compare, with_planned
from craftc.plans.replication_plan import LayerPlan, PlanBudget, Provenance, ReplicationPlan
from craftc.plans.verifier import require_sound
from craftc.solvers.objectives import step_time, workload_balancedness
from craftc.solvers.problem import Allocation, BenefitCurves, Planner, PlanningProblem
from craftc.solvers.replay import replay


def written_plan(
    compilation: Compilation,
    problem: PlanningProblem,
    planner: Planner,
    curves: BenefitCurves,
    allocation: Allocation,
    layers: Sequence[LayerPlan],
) -> ReplicationPlan:
    """The plan with `layers`, compared with the baselines on its own loads.

    Raises VerificationFailed where a planner broke a rule of DESIGN section 5: a bug, never the user's mistake.
    """
    assert compilation.loads is not None
    model = compilation.model
    placements = [layer.placement for layer in layers]
    estimate = compare(problem, planner, curves, allocation, placements, _judge(compilation))
    if any(layer.shares is not None for layer in layers):
        planned_SL = replay(problem.counts_SLE, placements, [layer.shares for layer in layers])
        estimate = with_planned(estimate, planned_SL.mean(axis=0).tolist())
    plan = ReplicationPlan(
        topology=problem.topology,
        budget=PlanBudget(
            requested=compilation.budget_requested or f"{problem.budget_bytes}B",
            bytes=problem.budget_bytes,
            spent_bytes=sum(layer.replicas * layer.expert_bytes for layer in layers),
        ),
        layers=tuple(layers),
        estimate=estimate,
        provenance=Provenance(
            craftc=version("craftc"),
            loads=f"sha256:{compilation.loads.sha256}",
            model=None if model is None else f"sha256:{fingerprint_model(model)}",
            planner=planner.name,
            solver=allocation.solver,
            status=allocation.status,
            gap=None if allocation.status == "heuristic" else allocation.gap,
            objective=compilation.objective,
            curves="own" if compilation.validated_curves is None else "cross-validated",
        ),
        groups=problem.groups,
    )
    require_sound(plan)
    return plan


def _judge(compilation: Compilation) -> Callable[[np.ndarray], float] | None:
    """What the objective makes of `balancedness_SL`; None for balancedness itself."""
    loads = compilation.loads
    assert loads is not None
    if compilation.objective == "step-time":
        return lambda balancedness_SL: step_time(loads.counts_SLE, balancedness_SL)
    if compilation.objective == "worst-workload":
        return lambda balancedness_SL: min(workload_balancedness(balancedness_SL, loads.step_names).values())
    return None
