"""Small random layers for tests of the search.

Axes: S steps, K representative steps, X experts and one empty slot, G GPUs, C slots of a GPU.
"""

import numpy as np

from craftc.solvers.placement.dealt import dealt_placements
from craftc.solvers.search.search_loads import SearchLoads, loads_of_layer, loads_of_layers
from craftc.solvers.search.step_compression import compress_steps


def random_counts(seed: int, steps: int, experts: int) -> np.ndarray:
    """`counts_S1E` of one layer, skewed, and different from step to step."""
    rng = np.random.default_rng(seed)
    popular_E = rng.lognormal(0, 1, experts)
    return rng.poisson(popular_E * rng.lognormal(0, 0.5, (steps, experts)) * 99)[:, None]


def layer_and_start(
    seed: int, steps: int = 6, experts: int = 24, gpus: int = 8, replicas: int = 9, floor: float = 0.0
) -> tuple[SearchLoads, np.ndarray]:
    """The loads of one layer, and a placement to start from."""
    counts_SLE = random_counts(seed, steps, experts)
    compressed = compress_steps(counts_SLE, gpus, 16, floor_SL=np.full((steps, 1), floor))
    start_GC = dealt_placements(compressed.load_LKE.mean(axis=1), np.array([replicas]), gpus)[0]
    slot_GC = np.where(start_GC < 0, experts, start_GC).astype(np.int32)
    return loads_of_layer(loads_of_layers(compressed), 0, slot_GC.shape[1]), slot_GC


def plain_value(loads: SearchLoads, slot_GC: np.ndarray, squarings: int, falls: bool) -> float:
    """The value that a search raises, straight from its definition."""
    copies_X = np.bincount(slot_GC.ravel(), minlength=len(loads.risk_X))
    total = 0.0
    for step in loads.busy_K[: loads.busy]:
        load_G = [
            sum(float(loads.load_XK[x, step]) / copies_X[x] + float(loads.risk_X[x]) / copies_X[x] ** 2 for x in slot_C)
            for slot_C in slot_GC
        ]
        power = 2.0**squarings
        mean = (np.sum(np.array([*load_G, loads.floor_K[step]]) ** power)) ** (1 / power)
        total += float(loads.weight_K[step]) * (-mean if falls else 1 / mean)
    return total


def is_sound(slot_GC: np.ndarray, experts: int) -> bool:
    """Whether every expert has a copy and no GPU two of one, and slots of GPUs differ by at most one."""
    held = [[x for x in slot_C if x < experts] for slot_C in slot_GC.tolist()]
    once = all(len(set(own)) == len(own) for own in held)
    return (
        once
        and {x for own in held for x in own} == set(range(experts))
        and max(map(len, held)) - min(map(len, held)) <= 1
    )
