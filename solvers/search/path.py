"""The placements that a descent passes through on its way from the placements in use: nearest first.

Axes: L layers, E experts, X experts and one empty slot, G GPUs, C slots of a GPU.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from craftc.solvers.objectives import slot_floor, step_weights
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.search.descent import moves
from craftc.solvers.search.search_loads import loads_of_layer, loads_of_layers, squarings_for
from craftc.solvers.search.step_compression import compress_steps

_FINE, _COARSE, _STRIDE = 40, 30, 4
"""The first 40 moves of a layer are all on the path, then every fourth, 30 times."""
_MOST_STEPS = 16
"""Representative steps searched against."""


def search_path(problem: PlanningProblem, start_LGC: np.ndarray, barred_LEG: np.ndarray) -> list[np.ndarray]:
    """Placements `expert_LGC` (padded with -1), the start first; every GPU keeps its number of slots in every layer.

    barred_LEG: whether a GPU may never hold an expert (because the expert's group is on another node), bool.

    A swap of two copies moves two experts, an exchange of a replica for one of another expert moves one. A layer in
    which nothing helps any more stays as it is.
    """
    if start_LGC.shape[1] == 1:
        return [start_LGC]
    experts, gpus, falls = problem.experts, problem.topology.gpus, problem.objective == "step-time"
    steps = compress_steps(problem.counts_SLE, gpus, _MOST_STEPS, step_weights(problem), slot_floor(problem))
    loads = loads_of_layers(steps)
    # Empty slots stay where they are: no GPU may be given one.
    barred_LXG = np.pad(barred_LEG, ((0, 0), (0, 1), (0, 0)), constant_values=True)

    def walk(layer: int) -> list[np.ndarray]:
        slot_GC = np.where(start_LGC[layer] < 0, experts, start_LGC[layer])
        own, most = loads_of_layer(loads, layer, slot_GC.shape[1]), _FINE + _COARSE * _STRIDE
        walked = moves(own, slot_GC, squarings_for(gpus), falls, barred_LXG[layer], most)
        states = [
            state_GC.copy() for number, state_GC in enumerate(walked, 1) if number <= _FINE or not number % _STRIDE
        ]
        return [start_LGC[layer], *(np.where(state == experts, -1, state).astype(np.int32) for state in states)]

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
        path_L = list(threads.map(walk, range(len(start_LGC))))
    longest = max(map(len, path_L))
    return [np.stack([states[min(number, len(states) - 1)] for states in path_L]) for number in range(longest)]
