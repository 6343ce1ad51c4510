"""What the options of planning buy, on recorded traces: expert groups, unequal shares, moves, the automatic budget.

Run from the repository root: `python -m benchmarks.plan_options [FOLDER OF TRACES]` (default `../shared/traces`).

Plans are made on the even steps; "held out" is judged on the odd ones. All entries of a table come from one run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from craftc.solvers.allocation.auto_budget import budget_curve
from craftc.solvers.placement.node_spread import pairs_on_a_node
from craftc.solvers.planners.eplb import eplb_placements, eplb_placements_without_duplicates, uniform_replicas
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import Placement, PlanningProblem, Shares
from craftc.solvers.replanning.replan import OldLayer, replan
from craftc.solvers.replay import placement_array, placements_of, replay
from craftc.solvers.shares import best_shares, choose_shares
from craftc.topology import Topology


@dataclass(frozen=True)
class Trace:
    """A recorded trace and what to plan for."""

    name: str
    topology: Topology
    groups: int
    replicas_per_gpu: int
    summed: int = 1
    """Consecutive steps summed into one."""
    kept: int = 10**9
    """Steps kept after that, evenly spaced."""


TRACES = (
    Trace("gpt-oss-20b-decode", Topology(8, 2), 4, 8, summed=16, kept=120),
    Trace("gpt-oss-20b-domains", Topology(8, 2), 8, 8),
    Trace("glm-5.2-domains", Topology(64, 8), 32, 8),
    Trace("mixtral-8x7b-mmlu", Topology(4, 2), 4, 8),
)
MOVED = (0.0, 0.005, 0.02, 0.1, 0.5, 2.0)
"""Budgets of moves, as parts of all slots."""


def main(folder: Path) -> None:
    for trace in TRACES:
        counts_SLE = steps_of(trace, folder)
        problem = problem_of(trace, counts_SLE[::2])
        shape = f"{problem.layers} x {problem.experts}, {trace.topology.gpus} GPUs, R={trace.replicas_per_gpu}"
        print(f"\n{trace.name}: {shape}")
        for table in (grouped, shared, replanned, automatic):
            print("\n".join(table(trace, problem, counts_SLE[1::2])), flush=True)


def grouped(trace: Trace, problem: PlanningProblem, unseen_SLE: np.ndarray) -> Iterator[str]:
    """Groups within nodes, next to EPLB's hierarchical mode with as many replicas."""
    nodes, groups = trace.topology.nodes, trace.groups
    constrained = replace(problem, groups=groups)
    planner = planner_for("craftc", constrained)
    replicas = uniform_replicas(problem.experts, trace.topology)
    load_LE = problem.counts_SLE.sum(axis=0)
    entries: dict[str, Sequence[Placement]] = {
        "EPLB hierarchical": placements_of(eplb_placements(load_LE, replicas, trace.topology, groups)),
        "EPLB hierarchical, no expert twice on a GPU": placements_of(
            eplb_placements_without_duplicates(load_LE, replicas, trace.topology, groups)
        ),
        "craftc, the same replicas": planner.place(constrained, (replicas,) * problem.layers),
        f"craftc, {trace.replicas_per_gpu} replicas/GPU": plan(constrained),
        f"craftc, {trace.replicas_per_gpu} replicas/GPU, no groups": plan(problem),
    }
    yield f"  {f'{groups} groups on {nodes} nodes':<46}{'replicas/GPU':>13}{'own steps':>11}{'held out':>10}"
    for name, placements in entries.items():
        slots = sum(len(gpu) for placement in placements for gpu in placement)
        per_gpu = (slots - problem.experts * problem.layers) / trace.topology.gpus
        yield (
            f"  {name:<46}{per_gpu:>13.1f}{replay(problem.counts_SLE, placements).mean():>11.4f}"
            f"{replay(unseen_SLE, placements).mean():>10.4f}"
        )
    pairs = sum(pairs_on_a_node(expert_GK, trace.topology) for expert_GK in placement_array(plan(problem)))
    yield f"  without groups: {pairs} pairs of copies of one expert on one node, over all layers"


def shared(trace: Trace, problem: PlanningProblem, unseen_SLE: np.ndarray) -> Iterator[str]:
    """Even shares, the linear program's everywhere, and those kept because steps left out gain."""
    placements = plan(problem)
    layers = range(problem.layers)
    started = time.perf_counter()
    chosen = [choose_shares(problem.counts_SLE[:, layer], placements[layer]).shares for layer in layers]
    seconds = time.perf_counter() - started
    entries: dict[str, list[Shares | None]] = {
        "even": [None] * problem.layers,
        "lp in every layer": [best_shares(problem.counts_SLE[:, layer], placements[layer]) for layer in layers],
        "--shares lp": chosen,
    }
    title = f"shares (kept in {sum(share is not None for share in chosen)} of {len(chosen)} layers, {seconds:.1f} s)"
    yield f"  {title:<46}{'own steps':>24}{'held out':>10}"
    for name, shares_L in entries.items():
        own = replay(problem.counts_SLE, placements, shares_L).mean()
        yield f"  {name:<46}{own:>24.4f}{replay(unseen_SLE, placements, shares_L).mean():>10.4f}"


def replanned(trace: Trace, problem: PlanningProblem, unseen_SLE: np.ndarray) -> Iterator[str]:
    """The plan of the even steps taken to the odd ones with so many moves."""
    old_L = [OldLayer(placement) for placement in plan(problem)]
    new = replace(problem, counts_SLE=unseen_SLE)
    planner = planner_for("craftc", new)
    replicas_L = planner.allocate(new, planner.estimate(new)).replicas_L
    slots = sum(sum(old.slots_G) for old in old_L)
    yield f"  {'replanned for the odd steps, moves allowed':<46}{'moved':>24}{'odd steps':>10}"
    for part in MOVED:
        found = replan(new, planner, replicas_L, old_L, int(part * slots))
        reached = float(np.mean(found.score_L))
        yield f"  {f'{part:.1%} of {slots} slots':<46}{found.moved_bytes:>24}{reached:>10.4f}"
    yield f"  {'planned afresh':<46}{'':>24}{replay(unseen_SLE, planner.place(new, replicas_L)).mean():>10.4f}"


def automatic(trace: Trace, problem: PlanningProblem, unseen_SLE: np.ndarray) -> Iterator[str]:
    """Where `--budget auto` stops."""
    everything = replace(problem, budget_bytes=problem.layers * problem.topology.gpus)
    curves = planner_for("craftc", everything).estimate(everything)
    sizes_L, most_bytes = problem.expert_bytes_L, everything.budget_bytes
    curve = budget_curve(curves, sizes_L, problem.topology.gpus, most_bytes=most_bytes)
    budget = replace(problem, budget_bytes=curve.chosen * problem.topology.gpus)
    held_out = replay(unseen_SLE, plan(budget)).mean()
    ends = f"{curve.points[0].reached:.4f} to {curve.points[-1].reached:.4f}"
    yield (
        f"  --budget auto: {curve.chosen} of {len(curve.points) - 1} replicas/GPU, "
        f"{curve.points[curve.chosen].reached:.4f} of {ends}, held out {held_out:.4f}"
    )


def plan(problem: PlanningProblem) -> tuple[Placement, ...]:
    planner = planner_for("craftc", problem)
    return planner.place(problem, planner.allocate(problem, planner.estimate(problem)).replicas_L)


def problem_of(trace: Trace, counts_SLE: np.ndarray) -> PlanningProblem:
    budget = trace.replicas_per_gpu * trace.topology.gpus
    return PlanningProblem(counts_SLE, trace.topology, (1,) * counts_SLE.shape[1], budget)


def steps_of(trace: Trace, folder: Path) -> np.ndarray:
    with np.load(folder / f"{trace.name}.npz") as arrays:
        counts_SLE = arrays["counts"]
    whole = len(counts_SLE) // trace.summed * trace.summed
    counts_SLE = counts_SLE[:whole].reshape(-1, trace.summed, *counts_SLE.shape[1:]).sum(axis=1)
    kept = np.linspace(0, len(counts_SLE) - 1, min(len(counts_SLE), trace.kept)).round().astype(int)
    return counts_SLE[kept]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/traces"))
