"""Times of whole planning runs, next to the EPLB algorithm as a Python loop in the same run.

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

from craftc.api import plan
from craftc.errors import CraftcError
from craftc.loads.load_profile import LoadProfile
from craftc.planning_options import PlanningOptions
from craftc.solvers.allocation.dynamic_program import allocate_exactly
from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.planners.eplb import eplb_placements, uniform_replicas
from craftc.solvers.problem import BenefitCurves, EffortName, Placement, PlanningProblem
from craftc.solvers.replay import placements_of, replay
from craftc.solvers.search.local_search import searcher
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
    Shape(3000, 61, 384, Topology(1024, 128), 4),
)


def main() -> None:
    searcher()  # compiled before anything is timed
    for shape in SHAPES:
        print("\n".join(compare_planners(shape)), flush=True)
    print("\n".join(compare_allocations()))


def compare_planners(shape: Shape) -> Iterator[str]:
    """A table: processor and wall-clock seconds from loads to a compared, verified and cross-validated plan."""
    problem = problem_of(shape)
    loads = LoadProfile.from_counts(problem.counts_SLE)
    yield f"\n{shape}, {shape.replicas_per_gpu} replicas/GPU"
    heads = f"{'x EPLB loop':>13}{'balancedness':>14}{'replicas/GPU':>14}{'bound':>8}"
    yield f"{'planner':<24}{'CPU s':>8}{'wall s':>8}{heads}"
    replicas = uniform_replicas(shape.experts, shape.topology)
    load_LE = problem.counts_SLE.sum(axis=0)
    loop_s, wall_s, placements = timed(eplb_in_a_loop, load_LE, replicas, shape.topology.gpus)
    yield row("EPLB, Python loop", loop_s, wall_s, 1.0, replay(problem.counts_SLE, placements).mean(), replicas, shape)
    own_s, wall_s, placed_LGK = timed(eplb_placements, load_LE, replicas, shape.topology)
    reached = replay(problem.counts_SLE, placements_of(placed_LGK)).mean()
    yield row("EPLB, craftc's in numpy", own_s, wall_s, own_s / loop_s, reached, replicas, shape)
    runs: list[tuple[str, EffortName]] = [
        ("eplb", "medium"),
        ("craft", "medium"),
        ("craftc", "medium"),
        *(("craftc", e) for e in shape.efforts),
    ]
    for name, effort in runs:
        options = PlanningOptions(planner=name, effort=effort)
        budget = f"{shape.replicas_per_gpu}replicas/gpu"
        try:
            cpu_s, wall_s, made = timed(plan, loads, shape.topology, budget, expert_bytes=88_080_384, options=options)
        except CraftcError as error:
            yield f"{name:<24}{error}"
            continue
        assert made.estimate is not None
        own = made.estimate.planners[-1]
        label = f"--planner {name}" if name != "craftc" else f"--effort {effort}"
        yield (
            f"{label:<24}{cpu_s:>8.2f}{wall_s:>8.2f}{cpu_s / loop_s:>13.2f}{own.balancedness:>14.4f}"
            f"{own.replicas_per_gpu:>14.1f}{made.estimate.bound:>8.3f}"
        )


def eplb_in_a_loop(load_LE: np.ndarray, replicas: int, gpus: int) -> tuple[Placement, ...]:
    """EPLB's published algorithm with one Python step per copy and pack, as its reference implementation works."""
    return tuple(_eplb_of_layer(load_E.tolist(), replicas, gpus) for load_E in load_LE)


def _eplb_of_layer(load_E: list[float], replicas: int, gpus: int) -> Placement:
    copies = [1] * len(load_E)
    for _ in range(replicas):
        heaviest = max(range(len(load_E)), key=lambda expert: load_E[expert] / copies[expert])
        copies[heaviest] += 1
    weight = {expert: load / number for expert, (load, number) in enumerate(zip(load_E, copies, strict=True))}
    every = sorted((expert for expert, number in enumerate(copies) for _ in range(number)), key=lambda e: -weight[e])
    packs: list[list[int]] = [[] for _ in range(gpus)]
    filled = [0.0] * gpus
    for expert in every:
        gpu = min((g for g in range(gpus) if len(packs[g]) < len(every) // gpus), key=filled.__getitem__)
        packs[gpu].append(expert)
        filled[gpu] += weight[expert]
    return tuple(map(tuple, packs))


def row(name: str, cpu_s: float, wall_s: float, ratio: float, reached: float, replicas: int, shape: Shape) -> str:
    per_gpu = replicas * shape.layers / shape.topology.gpus
    return f"{name:<24}{cpu_s:>8.2f}{wall_s:>8.2f}{ratio:>13.2f}{reached:>14.4f}{per_gpu:>14.1f}"


def compare_allocations() -> Iterator[str]:
    """What solves allocations by default next to integer programs and the whole table, on random staircases."""
    heads = "".join(f"{name:>10}" for name in ("auto", "highs", "cbc", "table"))
    yield f"\n{'allocation':<16}{heads}{'highs / auto':>14}{'status':>10}"
    for layers, candidates in ((61, 65), (61, 257)):
        balancedness_LC = np.sort(np.random.default_rng(0).random((layers, candidates)), axis=1)
        curves = BenefitCurves(tuple(range(candidates)), balancedness_LC)
        budget, sizes_L = layers * candidates // 8, (1,) * layers
        solve_allocation(curves, sizes_L, budget // 2, solver="highs")  # loaded before anything is timed
        auto_s, _, auto = timed(solve_allocation, curves, sizes_L, budget)
        highs_s, _, highs = timed(partial(solve_allocation, solver="highs"), curves, sizes_L, budget)
        cbc_s, _, _ = timed(partial(solve_allocation, solver="cbc"), curves, sizes_L, budget)
        exact_s, _, exact = timed(allocate_exactly, curves, sizes_L, budget)
        if max(abs(each.objective - exact.objective) for each in (auto, highs)) > 1e-6:
            raise SystemExit(f"auto {auto.objective}, highs {highs.objective}, table {exact.objective} disagree")
        times = "".join(f"{seconds:>9.3f}s" for seconds in (auto_s, highs_s, cbc_s, exact_s))
        yield f"{f'{layers} x {candidates}':<16}{times}{highs_s / auto_s:>14.1f}{auto.status:>10}"


def problem_of(shape: Shape) -> PlanningProblem:
    rng = np.random.default_rng(0)
    popularity_LE = rng.lognormal(0, 1, (shape.layers, shape.experts))
    counts_SLE = np.empty((shape.steps, shape.layers, shape.experts), dtype=np.int64)
    for step in range(shape.steps):
        counts_SLE[step] = 200 * popularity_LE * rng.lognormal(0, 0.3, popularity_LE.shape)
    expert_bytes = 88_080_384
    budget_bytes = shape.replicas_per_gpu * shape.topology.gpus * expert_bytes
    return PlanningProblem(counts_SLE, shape.topology, (expert_bytes,) * shape.layers, budget_bytes)


def timed(
    work: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> tuple[float, float, Value]:
    """Processor seconds, wall-clock seconds, and the result."""
    started, cpu = time.perf_counter(), time.process_time()
    value = work(*args, **kwargs)
    return time.process_time() - cpu, time.perf_counter() - started, value


if __name__ == "__main__":
    main()
