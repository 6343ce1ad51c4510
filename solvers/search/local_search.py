"""Improve many placements against individual steps, each on its own, on all processors.

Axes: E experts, B placements, G GPUs, C slots of a GPU.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from craftc.solvers.search.effort import SearchEffort
from craftc.solvers.search.search_loads import Goal, SearchLoads, loads_for_slots, loads_of_layers
from craftc.solvers.search.step_compression import RepresentativeSteps

Search = Callable[[SearchLoads, np.ndarray, int, bool, int, float, int], float]
"""Improves a placement in place and returns its value: see `craftc.solvers.search.annealing.anneal`."""


def search_placements(
    steps: RepresentativeSteps, layer_B: np.ndarray, expert_BGC: np.ndarray, effort: SearchEffort, seed: int, goal: Goal
) -> np.ndarray:
    """The placements of `search_stages` after the last stage."""
    return search_stages(steps, layer_B, expert_BGC, effort, seed, goal)[-1]


def search_stages(
    steps: RepresentativeSteps, layer_B: np.ndarray, expert_BGC: np.ndarray, effort: SearchEffort, seed: int, goal: Goal
) -> list[np.ndarray]:
    """Placements that straggle less than `expert_BGC` (padded with -1), with as many slots, after every stage.

    layer_B: the layer of every placement. Which GPUs have one slot more than others may change. The result for a
    placement depends only on `steps`, its layer, its start, effort, seed and goal, not on other placements or threads.
    """
    if expert_BGC.shape[1] == 1:
        return [expert_BGC] * len(effort.stages)
    loads_L = loads_of_layers(steps)
    experts, search = steps.load_LKE.shape[2], searcher()
    found = [np.full_like(expert_BGC, -1) for _ in effort.stages]

    def improve(row: int) -> None:
        layer = int(layer_B[row])
        slot_GC = _slots(expert_BGC[row], experts)
        loads = loads_for_slots(loads_L[layer], slot_GC)
        for stage, improved in zip(effort.stages, found, strict=True):
            proposals = stage.proposals(len(loads_L), steps.load_LKE.shape[1], slot_GC.size)
            search(loads, slot_GC, goal.squarings, goal.step_time, proposals, stage.heat, seed + layer)
            improved[row, :, : slot_GC.shape[1]] = np.where(slot_GC == experts, -1, slot_GC)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
        for _ in threads.map(improve, range(len(expert_BGC))):
            pass
    return found


@functools.cache
def searcher() -> Search:
    """The compiled search, ready to run, or the slower one in numpy if numba cannot be used, which a warning says once.

    The first call on a machine compiles, for about ten seconds; numba keeps the result in a cache folder.
    """
    try:
        from craftc.solvers.search.annealing import anneal, warm_up

        warm_up()
    except Exception as error:  # whatever keeps numba from compiling here
        from craftc.solvers.search.descent import descend

        reason = str(error).partition("\n")[0][:200]
        warnings.warn(f"numba cannot be used ({reason}): placements are searched with numpy, slower", stacklevel=2)
        return descend
    search: Search = anneal
    return search


def _slots(expert_GC: np.ndarray, experts: int) -> np.ndarray:
    """`slot_GC` int32 with as many columns as the fullest GPU has slots; the id after all experts in empty slots."""
    most = int((expert_GC >= 0).sum(axis=1).max())
    packed_GC = np.sort(expert_GC, axis=1)[:, ::-1][:, :most]
    return np.ascontiguousarray(np.where(packed_GC < 0, experts, packed_GC), dtype=np.int32)
