import itertools

import numpy as np

from craftc.solvers.placement.dealt import dealt_placements
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import replay_batch
from craftc.solvers.search.path import search_path
from craftc.topology import Topology
from tests.solvers.search.layers import random_counts


def walked(gpus=4, replicas=3, barred=False):
    counts_SLE = np.concatenate([random_counts(seed, 5, 16) for seed in (0, 1)], axis=1)
    problem = PlanningProblem(counts_SLE, Topology(gpus), (1, 1), 2 * replicas)
    start_LGC = dealt_placements(counts_SLE.mean(axis=0), np.full(2, replicas), gpus)
    barred_LEG = np.full((2, 16, gpus), barred)
    return problem, start_LGC, search_path(problem, start_LGC, barred_LEG)


def test_starts_at_the_start_and_gets_better_without_changing_slots():
    problem, start_LGC, path = walked()
    assert (path[0] == start_LGC).all()
    assert len(path) > 5
    first_L, last_L = (replay_batch(problem.counts_SLE, np.arange(2), each) for each in (path[0], path[-1]))
    assert (last_L > first_L + 0.01).all()
    slots_LG = (start_LGC >= 0).sum(axis=2)
    assert all(((state >= 0).sum(axis=2) == slots_LG).all() for state in path)


def test_nearest_first():
    path = walked()[2]
    for before, after in itertools.pairwise(path[:9]):
        assert (before != after).sum(axis=(1, 2)).max() <= 2


def test_nothing_moves_where_everything_is_barred_or_there_is_one_gpu():
    assert len(walked(barred=True)[2]) == 1
    assert len(walked(gpus=1, replicas=0)[2]) == 1
