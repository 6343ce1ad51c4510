"""Planning with expert groups: all copies of a group's experts stay on one node, as group-limited routing needs.

Every node gets the same number of groups, chosen so that nodes are balanced step by step. Then every node is a problem
of its own; all are searched at once against the steps, with loads in units of the mean over all GPUs. Replicas go to
the nodes whose experts need them, as long as memory stays even.

Axes: L layers, K steps, E experts, M groups, N nodes, G GPUs, X experts of a node, B pairs of a layer and a count,
P = B x N problems of one node, S slots of a GPU (padded with -1), T stages of the search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.solvers.objectives import replay_and_score, slot_floor, step_weights
from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.node_slots import assign_node_slots, wanted_extras
from craftc.solvers.planners.around import PlannerAround
from craftc.solvers.planners.rivals import better_than_eplb
from craftc.solvers.planners.searched_curves import replica_candidates, searched_curves
from craftc.solvers.planners.stepwise import StepwisePlanner
from craftc.solvers.problem import (
    Allocation,
    BenefitCurves,
    Placement,
    PlanningProblem,
)
from craftc.solvers.replay import placements_of
from craftc.solvers.search.effort import EFFORTS, SKETCH, SearchEffort
from craftc.solvers.search.local_search import search_stages
from craftc.solvers.search.search_loads import Goal, squarings_for
from craftc.solvers.search.step_compression import RepresentativeSteps, compress_steps
from craftc.topology import Topology

_MOST_STEPS = 16
"""Most representative steps in a search."""


@dataclass(frozen=True)
class GroupedPlanner(PlannerAround):
    """craftc's planner: `inner`, or every node as a problem of its own if there are groups to keep on several nodes."""

    inner: StepwisePlanner
    """Plans without groups, allocates replicas over layers, and sets how hard placements are searched."""
    keeps_groups = True
    sketches = True

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """Every candidate of every layer, searched like the final plan and replayed over all steps."""
        if not problem.has_groups_to_keep:
            return self.inner.estimate(problem)
        groups = _Groups.of(problem)

        def judge(layer_B: np.ndarray, replicas_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            expert_BGS = groups.search(layer_B, replicas_B, groups.extras(layer_B, replicas_B), self.inner.effort)
            return replay_and_score(problem, layer_B, expert_BGS)

        return searched_curves(problem, replica_candidates(problem, problem.topology.gpus_per_node), judge)

    def sketch(self, problem: PlanningProblem, layer_B: np.ndarray, replicas_B: np.ndarray) -> np.ndarray:
        """With little effort, whatever the planner's own."""
        if not problem.has_groups_to_keep:
            return self.inner.sketch(problem, layer_B, replicas_B)
        groups = _Groups.of(problem)
        return groups.search(layer_B, replicas_B, groups.extras(layer_B, replicas_B), SKETCH)

    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """As without groups, or the knapsack's optimum if there are groups to keep."""
        if problem.has_groups_to_keep:
            return self.knapsack(problem, curves)
        return self.inner.allocate(problem, curves)

    def knapsack(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """As without groups."""
        return self.inner.knapsack(problem, curves)

    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """Placements that keep groups on nodes, with slots assigned so that memory is even over all layers.

        If the replicas divide evenly, never worse than EPLB's hierarchical placement.
        """
        if not problem.has_groups_to_keep:
            return self.inner.place(problem, replicas_L)
        topology = problem.topology
        groups = _Groups.of(problem)
        layers, replicas_B = np.arange(problem.layers), np.array(replicas_L)
        fewest_B, least_B = _fewest(problem, replicas_B)
        slots_LG, content_LN = assign_node_slots(
            fewest_B.tolist(), groups.extras(layers, replicas_B), least_B.tolist(), problem.expert_bytes_L, topology
        )
        extra_LN = (slots_LG - fewest_B[:, None]).reshape(problem.layers, topology.nodes, -1).sum(axis=2)
        expert_LGS = groups.with_contents(content_LN).search(layers, replicas_B, extra_LN, self.inner.effort.final())
        expert_LGS = _rename_within_nodes(expert_LGS, slots_LG, topology)
        expert_LGS = better_than_eplb(problem, replicas_L, expert_LGS)
        return placements_of(expert_LGS)


@dataclass(frozen=True, eq=False)
class _Groups:
    """The experts of every node, layer by layer, and their loads."""

    problem: PlanningProblem
    expert_LNX: np.ndarray
    """The experts of every node, whole groups."""
    steps: RepresentativeSteps
    """Of all layers, with loads in units of the mean over all GPUs."""

    @classmethod
    def of(cls, problem: PlanningProblem) -> _Groups:
        """Groups assigned to nodes: greedily, then by swaps against the steps.

        The search is equally hard for every effort, so that more effort within nodes is never worse.
        """
        layers, topology = problem.layers, problem.topology
        steps = compress_steps(
            problem.counts_SLE, topology.gpus, _MOST_STEPS, step_weights(problem), slot_floor(problem)
        )
        size = problem.experts // problem.groups
        per_gpu = np.float32(1 / topology.gpus_per_node)
        load_LKM = steps.load_LKE.reshape(layers, -1, problem.groups, size).sum(axis=3) * per_gpu
        risk_LM = steps.risk_LE.reshape(layers, problem.groups, size).sum(axis=2) * per_gpu**2
        by_group = RepresentativeSteps(load_LKM, steps.weight_LK, risk_LM, np.zeros_like(steps.floor_LK))
        none_L, goal = np.zeros(layers, dtype=np.int64), _goal(problem, topology.nodes)
        group_LNM = search_stages(
            by_group, np.arange(layers), none_L, topology.nodes, EFFORTS["medium"], problem.seed, goal
        )[-1]
        expert_LNX = (group_LNM[..., None] * size + np.arange(size)).reshape(layers, topology.nodes, -1)
        return cls(problem, expert_LNX, steps)

    def with_contents(self, content_LN: np.ndarray) -> _Groups:
        """The same, with node n of layer l holding what node `content_LN[l, n]` held."""
        moved_LNX = np.take_along_axis(self.expert_LNX, content_LN[:, :, None], axis=1)
        return _Groups(self.problem, moved_LNX, self.steps)

    def extras(self, layer_B: np.ndarray, replicas_B: np.ndarray) -> np.ndarray:
        """`extra_BN`: number of GPUs per node with one slot above the minimum, more on nodes that want more copies."""
        problem = self.problem
        load_LE = problem.counts_SLE.sum(axis=0)
        copies_BE = greedy_copies(load_LE[layer_B], replicas_B, problem.topology.gpus)
        expert_BNX = self.expert_LNX[layer_B]
        copies_BNX = np.take_along_axis(copies_BE, expert_BNX.reshape(len(layer_B), -1), 1).reshape(expert_BNX.shape)
        return np.stack([wanted_extras(copies_NX, problem.topology) for copies_NX in copies_BNX])

    def search(
        self, layer_B: np.ndarray, replicas_B: np.ndarray, extra_BN: np.ndarray, effort: SearchEffort
    ) -> np.ndarray:
        """`expert_BGS`: every node searched as its own problem."""
        problem, topology = self.problem, self.problem.topology
        nodes, per_node = topology.nodes, topology.gpus_per_node
        fewest_B, _ = _fewest(problem, replicas_B)
        slots_P = (fewest_B[:, None] * per_node + extra_BN).ravel()
        which_P = (layer_B[:, None] * nodes + np.arange(nodes)).ravel()
        expert_PX = self.expert_LNX.reshape(-1, self.expert_LNX.shape[2])[which_P]
        steps = self._steps_of_nodes()
        replicas_P, goal = slots_P - expert_PX.shape[1], _goal(problem, per_node)
        stages = [
            _together(found_PGS, expert_PX, topology)
            for found_PGS in search_stages(steps, which_P, replicas_P, per_node, effort, problem.seed, goal)
        ]
        score_TB = np.stack([replay_and_score(problem, layer_B, found_BGS)[1] for found_BGS in stages])
        best_BGS: np.ndarray = np.stack(stages)[score_TB.argmax(axis=0), np.arange(len(layer_B))]
        return best_BGS

    def _steps_of_nodes(self) -> RepresentativeSteps:
        """The steps of L x N problems of one node."""
        layers, nodes, own = self.expert_LNX.shape
        steps = self.steps
        flat_L1X = self.expert_LNX.reshape(layers, 1, -1)
        load_LKNX = np.take_along_axis(steps.load_LKE, flat_L1X, axis=2).reshape(layers, -1, nodes, own)
        risk_LNX = np.take_along_axis(steps.risk_LE, flat_L1X[:, 0], axis=1)
        return RepresentativeSteps(
            load_LKNX.transpose(0, 2, 1, 3).reshape(layers * nodes, -1, own),
            steps.weight_LK.repeat(nodes, axis=0),
            risk_LNX.reshape(layers * nodes, own),
            steps.floor_LK.repeat(nodes, axis=0),
        )


def _goal(problem: PlanningProblem, gpus: int) -> Goal:
    return Goal(problem.objective == "step-time", squarings_for(gpus))


def _fewest(problem: PlanningProblem, replicas_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slots that every GPU has at least, and further slots that a node needs to hold each of its experts once."""
    topology = problem.topology
    fewest_B = (problem.experts + replicas_B) // topology.gpus
    return fewest_B, np.maximum(0, problem.experts // topology.nodes - fewest_B * topology.gpus_per_node)


def _together(expert_PGS: np.ndarray, expert_PX: np.ndarray, topology: Topology) -> np.ndarray:
    """`expert_BGS` from placements of single nodes, whose experts are numbered within the node."""
    problems, per_node, slots = expert_PGS.shape
    named_PY = np.take_along_axis(expert_PX, np.maximum(expert_PGS, 0).reshape(problems, -1), axis=1)
    named_PGS = np.where(expert_PGS < 0, -1, named_PY.reshape(expert_PGS.shape)).astype(np.int32)
    return named_PGS.reshape(problems // topology.nodes, topology.nodes * per_node, slots)


def _rename_within_nodes(expert_LGS: np.ndarray, slots_LG: np.ndarray, topology: Topology) -> np.ndarray:
    """The GPUs of every node reordered to fit `slots_LG`."""
    shape = (-1, topology.gpus_per_node)
    own_PGS = expert_LGS.reshape(*shape, expert_LGS.shape[2])
    from_PG = np.argsort((own_PGS >= 0).sum(axis=2), axis=1, kind="stable")
    to_PG = np.argsort(slots_LG.reshape(shape), axis=1, kind="stable")
    renamed_PGS = np.empty_like(own_PGS)
    np.put_along_axis(renamed_PGS, to_PG[:, :, None], np.take_along_axis(own_PGS, from_PG[:, :, None], 1), axis=1)
    return renamed_PGS.reshape(expert_LGS.shape)
