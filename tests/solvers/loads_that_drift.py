"""Loads whose hot experts stay, and loads that have other hot experts every step.

Axes: S steps, L layers, E experts.
"""

import numpy as np


def steady_loads(steps=8, layers=4, experts=32, seed=0):
    """Steps are alike: what replicas buy on some, they buy on others."""
    rng = np.random.default_rng(seed)
    popularity_LE = rng.lognormal(0, 1.2, (layers, experts))
    return (500 * popularity_LE * rng.lognormal(0, 0.1, (steps, layers, experts))).astype(np.int64)


def drifting_loads(steps=8, layers=4, experts=32, seed=0):
    """Steps have nothing in common: replicas fit the steps they were planned from and no others."""
    return (500 * np.random.default_rng(seed).lognormal(0, 1.2, (steps, layers, experts))).astype(np.int64)


def steady_or_drifting_loads(seed, steps=6, layers=12, experts=64):
    """Even layers drift, odd ones stay."""
    rng = np.random.default_rng(seed)
    drifts_L1 = (np.arange(layers) % 2 == 0)[:, None]
    popularity_LE = rng.lognormal(0, 1, (layers, experts)) ** np.where(drifts_L1, 0.1, 1.2)
    spread_L1 = np.where(drifts_L1, 1.5, 0.15)
    return (400 * popularity_LE * np.exp(rng.normal(0, 1, (steps, layers, experts)) * spread_L1)).astype(np.int64)
