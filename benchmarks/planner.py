"""Times of the planners, stage by stage, next to DeepSeek's EPLB algorithm in the same run.

Run from the repository root: `python -m benchmarks.planner`.

Loads are synthetic with the skew of real ones: a lognormal popularity per layer and expert, with noise per step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np

from craftc.solvers.allocation.dynamic_program import allocate_exactly
from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.cross_validation import deal_steps, seen_and_unseen
from craftc.solvers.planners.eplb import eplb_placements, uniform_replicas
from craftc.solvers.planners.registry import PLANNERS
from craftc.solvers.problem import BenefitCurves, EffortName, Planner, PlanningProblem
from craftc.solvers.replay import placements_of, replay
from craftc.solvers.verifier import PlacedLayer, violations
from craftc.topology import Topology

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class Shape:
    """One planning problem's size."""

    steps: int
    layers: int
    experts: int
    topology: Topology
    replicas_per_gpu: int
    efforts: tuple[EffortName, ...] = ()
    """Efforts of `craftc` besides the default."""

    def __str__(self) -> str:
        gpus = self.topology.gpus
        return f"{self.layers} layers x {self.experts} experts x {self.steps} steps on {gpus} GPUs"


SHAPES = (
    Shape(12, 58, 256, Topology(64, 8), 8, efforts=("low", "high")),
    Shape(3000, 58, 256, Topology(64, 8), 8),
    Shape(12, 61, 384, Topology(1024, 128), 4),
)


def main() -> None:
    for shape in SHAPES:
        print("\n".join(compare_planners(shape)))
    print("\n".join(compare_allocations()))


def compare_planners(shape: Shape) -> Iterator[str]:
    """A table: seconds per stage, ratio to EPLB's time, and balancedness on the loads planned from."""
    problem = problem_of(shape)
    yield f"\n{shape}, {shape.replicas_per_gpu} replicas/GPU"
    yield (
        f"{'planner':<12}{'curves':>10}{'allocate':>10}{'place':>10}{'verify':>10}{'validate':>10}{'total':>10}"
        f"{'x EPLB':>8}{'balancedness':>14}{'replicas/GPU':>14}"
    )
    replicas = uniform_replicas(shape.experts, shape.topology)
    eplb_s, placements = timed(
        lambda: placements_of(eplb_placements(problem.counts_SLE.sum(axis=0), replicas, shape.topology))
    )
    yield row("eplb", ("", "", eplb_s, "", ""), eplb_s, 1.0, problem, placements)
    planners = {name: planner for name, planner in PLANNERS.items() if name != "eplb"}
    planners |= {f"craftc {effort}": PLANNERS["craftc"].at_effort(effort) for effort in shape.efforts}
    for name, planner in planners.items():
        curves_s, curves = timed(planner.estimate, problem)
        allocate_s, allocation = timed(planner.allocate, problem, curves)
        place_s, placements = timed(planner.place, problem, allocation.replicas_L)
        verify_s, found = timed(violations, placed_layers(problem, placements), shape.topology.gpus)
        if found:
            raise SystemExit(f"{name}: {found[0]}")
        validate_s, _ = timed(cross_validated, problem, planner, allocation.replicas_L)
        stages = (curves_s, allocate_s, place_s, verify_s, validate_s)
        yield row(name, stages, sum(stages), sum(stages) / eplb_s, problem, placements)


def cross_validated(problem: PlanningProblem, planner: Planner, replicas_L: tuple[int, ...]) -> tuple[float, float]:
    """What the pass `cross_validate` does: balancedness on steps left out, without replicas and with them."""
    fold_S = deal_steps(len(problem.counts_SLE), folds=2)
    without, planned = (
        seen_and_unseen(problem, planner.at_effort("low"), counts_L, fold_S)
        for counts_L in ((0,) * problem.layers, replicas_L)
    )
    return float(without.unseen_FL.mean()), float(planned.unseen_FL.mean())


def compare_allocations() -> Iterator[str]:
    """The integer program next to the dynamic program, on random staircases."""
    yield f"\n{'allocation':<16}{'highs':>10}{'cbc':>10}{'DP':>10}{'highs / DP':>12}{'status':>10}"
    for layers, candidates in ((61, 65), (61, 257)):
        balancedness_LC = np.sort(np.random.default_rng(0).random((layers, candidates)), axis=1)
        curves = BenefitCurves(tuple(range(candidates)), balancedness_LC)
        budget, sizes_L = layers * candidates // 8, (1,) * layers
        highs_s, highs = timed(solve_allocation, curves, sizes_L, budget)
        cbc_s, _ = timed(partial(solve_allocation, solver="cbc"), curves, sizes_L, budget)
        exact_s, exact = timed(allocate_exactly, curves, sizes_L, budget)
        if abs(highs.objective - exact.objective) > 1e-6:
            raise SystemExit(f"integer program {highs.objective} and dynamic program {exact.objective} disagree")
        yield (
            f"{f'{layers} x {candidates}':<16}{highs_s:>9.3f}s{cbc_s:>9.3f}s{exact_s:>9.3f}s{highs_s / exact_s:>12.2f}"
            f"{highs.status:>10}"
        )


def row(name: str, stages: tuple, total_s: float, ratio: float, problem: PlanningProblem, placements: tuple) -> str:
    cells = "".join(f"{stage:>9.3f}s" if stage != "" else f"{'-':>10}" for stage in stages)
    replicas = sum(layer.replicas for layer in placed_layers(problem, placements)) / problem.topology.gpus
    balancedness = replay(problem.counts_SLE, placements).mean()
    return f"{name:<12}{cells}{total_s:>9.3f}s{ratio:>8.1f}{balancedness:>14.4f}{replicas:>14.1f}"


def placed_layers(problem: PlanningProblem, placements: tuple) -> list[PlacedLayer]:
    return [
        PlacedLayer(str(layer), problem.experts, size, sum(map(len, placement)) - problem.experts, placement)
        for layer, (size, placement) in enumerate(zip(problem.expert_bytes_L, placements, strict=True))
    ]


def problem_of(shape: Shape) -> PlanningProblem:
    rng = np.random.default_rng(0)
    popularity_LE = rng.lognormal(0, 1, (shape.layers, shape.experts))
    counts_SLE = np.empty((shape.steps, shape.layers, shape.experts), dtype=np.int64)
    for step in range(shape.steps):
        counts_SLE[step] = 200 * popularity_LE * rng.lognormal(0, 0.3, popularity_LE.shape)
    expert_bytes = 88_080_384
    budget_bytes = shape.replicas_per_gpu * shape.topology.gpus * expert_bytes
    return PlanningProblem(counts_SLE, shape.topology, (expert_bytes,) * shape.layers, budget_bytes)


def timed(work: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs) -> tuple[float, Value]:
    started = time.perf_counter()
    value = work(*args, **kwargs)
    return time.perf_counter() - started, value


if __name__ == "__main__":
    main()
