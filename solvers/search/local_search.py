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
from craftc.solvers.search.batch import Batch
from craftc.solvers.search.effort import SearchEffort
from craftc.solvers.search.search_loads import Goal, LayerLoads, loads_of_layers
from craftc.solvers.search.step_compression import RepresentativeSteps

Search = Callable[[LayerLoads, Batch, int, int], None]
"""Searches every so many rows of a batch from a first one on: see `craftc.solvers.search.annealing.anneal_rows`."""
_PARTS = 8
"""Parts of a batch, whatever the number of threads that share them."""


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
    if gpus == 1 or not len(start_BGC):
        return [start_BGC]
    experts, loads, search = steps.load_LKE.shape[2], loads_of_layers(steps), searcher()
    slots_B = (experts + np.asarray(replicas_B, dtype=np.int64) + gpus - 1) // gpus
    batch = Batch(
        layer_B=np.ascontiguousarray(layer_B, dtype=np.int64),
        slots_B=slots_B,
        slot_BGC=np.ascontiguousarray(np.where(start_BGC < 0, experts, start_BGC), dtype=np.int32),
        squarings_T=np.array([goal.squarings + stage.sharper for stage in effort.stages]),
        heat_T=np.array([stage.heat for stage in effort.stages]),
        proposals_TB=np.array(
            [stage.proposals(len(steps.load_LKE), steps.load_LKE.shape[1], slots_B * gpus) for stage in effort.stages]
        ),
        found_TBGC=np.full((len(effort.stages), *start_BGC.shape), -1, dtype=np.int32),
        falls=goal.step_time,
        seed=seed,
    )
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _PARTS)) as threads:
        for _ in threads.map(lambda part: search(loads, batch, part, _PARTS), range(_PARTS)):
            pass
    return [found_BGC for found_BGC, stage in zip(batch.found_TBGC, effort.stages, strict=True) if stage.judged]


@functools.cache
def searcher() -> Search:
    """The compiled search, ready to run, or a slower one if numba cannot be used, which a warning says once.

    The first call on a machine compiles, for about ten seconds; numba keeps the result in a cache folder.
    """
    from craftc.solvers.search.compiled import numba

    try:
        if numba is None:
            raise ImportError("it cannot be imported")
        from craftc.solvers.search.annealing import anneal_rows, warm_up

        warm_up()
    except Exception as error:  # whatever keeps numba from compiling here
        from craftc.solvers.search.descent import descend_rows

        reason = str(error).partition("\n")[0][:200]
        warnings.warn(f"numba cannot be used ({reason}): placements are searched with numpy, slower", stacklevel=2)
        return descend_rows
    return anneal_rows
