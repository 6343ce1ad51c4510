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

from craftc.solvers.placement.dealt import dealt_placements
from craftc.solvers.search.effort import SearchEffort
from craftc.solvers.search.search_loads import Goal, SearchLoads, loads_for_slots, loads_of_layers
from craftc.solvers.search.step_compression import RepresentativeSteps

Settle = Callable[[np.ndarray, np.ndarray], None]
"""Rearranges a placement in place: see `craftc.solvers.search.settling.settle`."""
Search = Callable[[SearchLoads, np.ndarray, int, bool, int, float, int], float]
"""Improves a placement in place and returns its value: see `craftc.solvers.search.annealing.anneal`."""


def search_stages(
    steps: RepresentativeSteps,
    layer_B: np.ndarray,
    replicas_B: np.ndarray,
    gpus: int,
    effort: SearchEffort,
    seed: int,
    goal: Goal,
) -> list[np.ndarray]:
    """Placements `expert_BGC` (padded with -1) with few stragglers, after every judged stage.

    layer_B: the layer of every placement; replicas_B: its copies beyond the first of every expert. The result for a
    placement depends only on these, on `steps`, effort, seed and goal, not on other placements or threads.
    """
    start_BGC = dealt_placements(steps.peak_LE[layer_B], replicas_B, gpus)
    if gpus == 1:
        return [start_BGC]
    experts, loads_L = steps.load_LKE.shape[2], loads_of_layers(steps)
    settle, search = searcher()
    found = [np.full_like(start_BGC, -1) for stage in effort.stages if stage.judged]

    def improve(row: int) -> None:
        layer, slots = int(layer_B[row]), -(-(experts + int(replicas_B[row])) // gpus)
        slot_GC = np.ascontiguousarray(start_BGC[row, :, :slots])
        slot_GC[slot_GC < 0] = experts
        copies_X = np.bincount(slot_GC.ravel(), minlength=experts + 1)
        settle(slot_GC, np.append(steps.peak_LE[layer] / copies_X[:experts], 0.0))
        loads = loads_for_slots(loads_L[layer], slot_GC)
        judged = iter(found)
        for stage in effort.stages:
            proposals = stage.proposals(len(loads_L), steps.load_LKE.shape[1], slot_GC.size)
            search(loads, slot_GC, goal.squarings + stage.sharper, goal.step_time, proposals, stage.heat, seed + layer)
            if stage.judged:
                next(judged)[row, :, :slots] = np.where(slot_GC == experts, -1, slot_GC)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
        for _ in threads.map(improve, range(len(start_BGC))):
            pass
    return found


@functools.cache
def searcher() -> tuple[Settle, Search]:
    """The compiled start and search, ready to run, or slower ones if numba cannot be used, which a warning says once.

    The first call on a machine compiles, for about ten seconds; numba keeps the result in a cache folder.
    """
    from craftc.solvers.search.compiled import numba
    from craftc.solvers.search.settling import settle

    try:
        if numba is None:
            raise ImportError("it cannot be imported")
        from craftc.solvers.search.annealing import anneal, warm_up

        warm_up()
        settle(np.array([[0], [1]], dtype=np.int32), np.ones(3))
    except Exception as error:  # whatever keeps numba from compiling here
        from craftc.solvers.search.descent import descend

        reason = str(error).partition("\n")[0][:200]
        warnings.warn(f"numba cannot be used ({reason}): placements are searched with numpy, slower", stacklevel=2)
        return getattr(settle, "py_func", settle), descend
    return settle, anneal
