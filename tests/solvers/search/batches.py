"""Batches of random placements for the tests of moves."""

import numpy as np

from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.search.batch import PlacementBatch
from craftc.solvers.search.smoothed_peak import ExpertLoads, standing
from craftc.topology import Topology


def random_batch(seed, batch=3, steps=4, experts=10, gpus=4, replicas=3):
    """A batch placed by loads that are not its own, so that moves help."""
    rng = np.random.default_rng(seed)
    load_KBX = np.zeros((steps, batch, experts + 1), dtype=np.float32)
    load_KBX[:, :, :experts] = rng.lognormal(-1, 0.8, (steps, batch, experts))
    risk_BX = np.zeros((batch, experts + 1), dtype=np.float32)
    risk_BX[:, :experts] = rng.uniform(0, 0.02, (batch, experts))
    loads = ExpertLoads(load_KBX, risk_BX, np.full((steps, batch), 1 / steps, dtype=np.float32))
    other_BE = rng.lognormal(0, 1, (batch, experts))
    copies_BE = greedy_copies(other_BE, np.full(batch, replicas), gpus)
    slots_BG = layer_slots([experts + replicas] * batch, Topology(gpus))
    expert_BGC = greedy_placements(other_BE, copies_BE, slots_BG, Topology(gpus))
    expert_BN = np.where(expert_BGC < 0, experts, expert_BGC).transpose(0, 2, 1).reshape(batch, -1).astype(np.int64)
    return PlacementBatch.start(loads, expert_BN, gpus)


def stand(batch, squarings=4):
    return standing(batch.load_KBN, batch.loads.weight_KB, batch.gpus, squarings)


def assert_consistent(batch):
    """The batch is what it would be if it were set up afresh, and no GPU holds anything twice."""
    fresh = PlacementBatch.start(batch.loads, batch.expert_BN.copy(), batch.gpus)
    assert (batch.copies_BX == fresh.copies_BX).all()
    assert (batch.holds_BXG == fresh.holds_BXG).all()
    np.testing.assert_allclose(batch.load_KBN, fresh.load_KBN, rtol=1e-6)
    assert (batch.holds_BXG.sum(axis=2) == batch.copies_BX).all()
