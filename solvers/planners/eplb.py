"""DeepSeek's Expert Parallelism Load Balancer (EPLB), written from its published description: the baseline in
serving stacks.

The same number of replicas in every layer; copies are given greedily by load / copies and packed, heaviest first, into
the least loaded GPU with room. Hierarchical mode first packs expert groups into nodes and then does both within each
node.
Source: github.com/deepseek-ai/EPLB (README), DeepSeek-V3 report (arXiv 2412.19437), section 3.4.

Axes: L layers, E experts, G GPUs, N nodes, M expert groups, B a batch of rows, I items, K slots of a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from craftc.errors import BadInput, Infeasible
from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.slots import assign_slots
from craftc.solvers.problem import Allocation, BenefitCurves, Placement, Planner, PlanningProblem
from craftc.solvers.replay import placements_of, replay_batch
from craftc.topology import Topology


def balanced_packing(weight_BI: np.ndarray, packs: int) -> np.ndarray:
    """`pack_BI`: items, heaviest first, each into the lightest pack with room; every pack gets I / packs items."""
    batch, items = weight_BI.shape
    order_BI = np.argsort(-weight_BI, axis=1, kind="stable")
    pack_BI = np.empty((batch, items), dtype=np.int64)
    load_BP = np.zeros((batch, packs))
    room_BP = np.full((batch, packs), items // packs)
    rows = np.arange(batch)
    for position in range(items):
        item = order_BI[:, position]
        pack = np.where(room_BP > 0, load_BP, np.inf).argmin(axis=1)
        pack_BI[rows, item] = pack
        load_BP[rows, pack] += weight_BI[rows, item]
        room_BP[rows, pack] -= 1
    return pack_BI


def eplb_placements(load_LE: np.ndarray, replicas: int, topology: Topology, groups: int = 1) -> np.ndarray:
    """`expert_LGK` as EPLB places it, with the same `replicas` in every layer; may put two copies on one GPU.

    load_LE: loads, not negative; groups: expert groups; hierarchical if several nodes divide the groups evenly, global
    otherwise. Raises BadInput if slots do not divide evenly over GPUs, or experts over groups.
    """
    _check_shape(load_LE.shape[1], replicas, topology, groups)
    copies_at_most = load_LE.shape[1] + replicas
    return _placements(load_LE, replicas, topology, groups, copies_at_most)


def eplb_placements_without_duplicates(
    load_LE: np.ndarray, replicas: int, topology: Topology, groups: int = 1
) -> np.ndarray:
    """`expert_LGK` like `eplb_placements`, with at most one copy of an expert per GPU: a second one would waste memory.

    Copies are capped at the number of GPUs (of a node in hierarchical mode); duplicates are exchanged with other GPUs.
    """
    _check_shape(load_LE.shape[1], replicas, topology, groups)
    cells = topology.nodes if _is_hierarchical(topology, groups) else 1
    gpus = topology.gpus // cells
    expert_LGK = _placements(load_LE, replicas, topology, groups, gpus)
    for layer, load_E in enumerate(load_LE):
        copies_E = np.bincount(expert_LGK[layer].ravel(), minlength=len(load_E))
        for cell_GK in np.split(expert_LGK[layer], cells):
            _exchange_duplicates(cell_GK, load_E / copies_E)
    return expert_LGK


def uniform_replicas(experts: int, topology: Topology) -> int:
    """The smallest number of replicas per layer, at least 1, that EPLB can do: slots must divide evenly over GPUs.

    0 with a single GPU, which can hold no replicas.
    """
    return 0 if topology.gpus == 1 else topology.gpus - experts % topology.gpus


@dataclass(frozen=True)
class EplbPlanner(Planner):
    """EPLB under a budget: the largest uniform number of replicas that it pays for, without duplicates.

    Hierarchical if the problem has expert groups and several nodes, as long as slots divide evenly over the GPUs.
    """

    name: str = "eplb"
    keeps_groups = True
    per_layer = False

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """Two points: no replicas, and the uniform number the budget pays for."""
        candidates = tuple(sorted({0, self._affordable(problem)}))
        load_LE = problem.counts_SLE.sum(axis=0)
        balancedness_CL = [
            replay_batch(
                problem.counts_SLE,
                np.arange(problem.layers),
                self._expert_LGK(problem, load_LE, (count,) * len(load_LE)),
            )
            for count in candidates
        ]
        return BenefitCurves(candidates, np.stack(balancedness_CL, axis=1))

    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """The last candidate in every layer. Raises Infeasible if the budget does not pay for a divisible number."""
        gpus = problem.topology.gpus
        count = curves.candidates_C[-1]
        if (problem.experts + count) % gpus:
            least = uniform_replicas(problem.experts, problem.topology)
            need = least * sum(problem.expert_bytes_L)
            raise Infeasible(
                f"planner eplb: {problem.experts} experts and {gpus} GPUs need at least {least} replicas in every "
                f"layer, {need} bytes, {need - problem.budget_bytes} more than the budget; "
                f"give a budget of {need} bytes or choose another planner"
            )
        objective = float(curves.benefit_LC[:, -1].sum())
        return Allocation((count,) * problem.layers, "heuristic", objective, objective, "uniform", 0.0)

    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """EPLB's placement, with duplicates exchanged away."""
        return placements_of(self._expert_LGK(problem, problem.counts_SLE.sum(axis=0), replicas_L))

    def _expert_LGK(self, problem: PlanningProblem, load_LE: np.ndarray, replicas_L: tuple[int, ...]) -> np.ndarray:
        experts, topology = problem.experts, problem.topology
        if len(set(replicas_L)) == 1 and (experts + replicas_L[0]) % topology.gpus == 0:
            return eplb_placements_without_duplicates(load_LE, replicas_L[0], topology, problem.groups)
        # EPLB cannot do this; even slots and greedy placement come closest.
        copies_LE = greedy_copies(load_LE, np.array(replicas_L), topology.gpus)
        slots_L = (experts + np.array(replicas_L)).tolist()
        return greedy_placements(
            load_LE, copies_LE, assign_slots(slots_L, problem.expert_bytes_L, topology), Topology(topology.gpus)
        )

    def _affordable(self, problem: PlanningProblem) -> int:
        """The largest divisible uniform number of replicas within the budget, 0 if there is none."""
        experts, gpus = problem.experts, problem.topology.gpus
        most = min(problem.budget_bytes // sum(problem.expert_bytes_L), experts * (gpus - 1))
        return max(0, (experts + most) // gpus * gpus - experts)


def _check_shape(experts: int, replicas: int, topology: Topology, groups: int) -> None:
    if (experts + replicas) % topology.gpus:
        raise BadInput(
            f"EPLB: {experts} experts and {replicas} replicas do not divide evenly over {topology.gpus} GPUs; "
            f"give {uniform_replicas(experts, topology)} replicas"
        )
    if groups < 1 or experts % groups:
        raise BadInput(f"EPLB: {experts} experts do not divide into {groups} groups")


def _is_hierarchical(topology: Topology, groups: int) -> bool:
    return topology.nodes > 1 and groups % topology.nodes == 0


def _placements(load_LE: np.ndarray, replicas: int, topology: Topology, groups: int, copies_at_most: int) -> np.ndarray:
    """`expert_LGK`: experts go to nodes (one in global mode) and get copies there, which go to the node's GPUs."""
    layers, experts = load_LE.shape
    cells = topology.nodes if _is_hierarchical(topology, groups) else 1
    gpus, per_cell = topology.gpus // cells, experts // cells
    expert_LNX = _experts_of_nodes(load_LE, cells, groups)
    expert_BX = expert_LNX.reshape(layers * cells, per_cell)
    load_BX = np.take_along_axis(load_LE, expert_LNX.reshape(layers, experts), axis=1).reshape(expert_BX.shape)
    copies_BX = greedy_copies(load_BX, np.full(len(load_BX), replicas // cells), copies_at_most)
    copies_per_cell = per_cell + replicas // cells
    which_BI = np.repeat(np.tile(np.arange(per_cell), len(load_BX)), copies_BX.ravel()).reshape(-1, copies_per_cell)
    weight_BI = np.take_along_axis(load_BX / copies_BX, which_BI, axis=1)
    pack_BI = balanced_packing(weight_BI, gpus)
    by_pack_BI = np.argsort(pack_BI, axis=1, kind="stable")
    expert_BI = np.take_along_axis(expert_BX, np.take_along_axis(which_BI, by_pack_BI, axis=1), axis=1)
    return expert_BI.reshape(layers, topology.gpus, copies_per_cell // gpus).astype(np.int32)


def _experts_of_nodes(load_LE: np.ndarray, nodes: int, groups: int) -> np.ndarray:
    """`expert_LNX`: the experts of every node, whole groups packed evenly; in order if there is one node."""
    layers, experts = load_LE.shape
    if nodes == 1:
        return np.broadcast_to(np.arange(experts), (layers, 1, experts))
    group_load_LM = load_LE.reshape(layers, groups, -1).sum(axis=2)
    group_LM = np.argsort(balanced_packing(group_load_LM, nodes), axis=1, kind="stable")
    size = experts // groups
    expert_LMX = group_LM[:, :, None] * size + np.arange(size)
    return expert_LMX.reshape(layers, nodes, -1)


def _exchange_duplicates(expert_GK: np.ndarray, weight_E: np.ndarray) -> None:
    """Exchange copies between GPUs until none holds an expert twice; changes `expert_GK`.

    Each exchange takes the least loaded result among those with the fewest duplicates left, and always leaves fewer:
    some GPU lacks the duplicated expert as long as it has no more copies than there are GPUs.
    """
    while (duplicate := _first_duplicate(expert_GK)) is not None:
        gpu, slot = duplicate
        expert = expert_GK[gpu, slot]
        load_G = weight_E[expert_GK].sum(axis=1)
        best = (math.inf, math.inf, -1, -1)
        for other_gpu in np.flatnonzero(~(expert_GK == expert).any(axis=1)):
            for back, moved in enumerate(expert_GK[other_gpu]):
                here = int((expert_GK[gpu] == moved).any())
                repeated = int((expert_GK[other_gpu] == moved).sum() > 1)
                shift = weight_E[expert] - weight_E[moved]
                peak = max(load_G[gpu] - shift, load_G[other_gpu] + shift)
                best = min(best, (here - repeated, float(peak), int(other_gpu), back))
        _, _, partner, back = best
        expert_GK[gpu, slot], expert_GK[partner, back] = expert_GK[partner, back], expert


def _first_duplicate(expert_GK: np.ndarray) -> tuple[int, int] | None:
    """GPU and slot of a second copy of an expert on one GPU, None if there is none."""
    sorted_GK = np.sort(expert_GK, axis=1)
    twice = np.argwhere(sorted_GK[:, 1:] == sorted_GK[:, :-1])
    if not len(twice):
        return None
    gpu, position = twice[0]
    return int(gpu), int(np.flatnonzero(expert_GK[gpu] == sorted_GK[gpu, position])[-1])
