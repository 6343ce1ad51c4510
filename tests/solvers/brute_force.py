"""Every placement there is, for tiny layers: the oracle of planners and bounds."""

import itertools

import numpy as np

from craftc.solvers.replay import placement_array, placements_of, replay_batch


def every_placement(experts, gpus, replicas):
    """All sound placements of one layer as a list, up to the order within a GPU."""
    low, extra = divmod(experts + replicas, gpus)
    sizes = [size for size in (low, low + 1) if size <= experts]
    subsets = [held for size in sizes for held in itertools.combinations(range(experts), size)]
    found = []
    for placement in itertools.product(subsets, repeat=gpus):
        if sum(len(held) > low for held in placement) != extra:
            continue
        if len(set(itertools.chain(*placement))) == experts:
            found.append(placement)
    return found


def best_balancedness(counts_SE, gpus, replicas):
    """The largest balancedness of any sound placement, and a placement that has it."""
    expert_BGK = placement_array(every_placement(counts_SE.shape[1], gpus, replicas))
    balancedness_B = replay_batch(counts_SE[:, None], np.zeros(len(expert_BGK), dtype=int), expert_BGK)
    best = int(balancedness_B.argmax())
    return float(balancedness_B[best]), placements_of(expert_BGK[[best]])[0]
