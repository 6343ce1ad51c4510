"""The figures of the CRAFT paper (arXiv 2603.28768) that the serving model is held against, and its fitted constants.

Fitted: memory fraction and buffer to three losses of KV cache; sync and all-to-all latency to ten ratios of goodput.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from benchmarks.serving_sets import ServingSet
from craftc.serving.arm import Arm, worth
from craftc.serving.arms import baseline_arms, planned_arms
from craftc.serving.cluster import Cluster, Figure
from craftc.serving.held_out import HeldOut
from craftc.serving.serving_model import ServingModel

COUNTS = (0, 1, 2, 4, 6, 8, 12, 16, 24, 32)
"""Replicas per GPU of the curves."""
KV_LOSSES = {"D8": 0.19, "K6": 0.75, "K12": 0.24}
"""Part of the KV cache that EPLB's replicas take."""
MEMORY = ("server.memory_fraction", "server.buffer_gib_per_rank")
TIME = ("server.sync", "network.all_to_all_latency_ms")
_BOUNDS = {TIME[0]: (0.0, 1.0), TIME[1]: (0.01, 5.0), MEMORY[0]: (0.4, 1.0), MEMORY[1]: (0.0, 4.0)}


@dataclass(frozen=True)
class Ratio:
    """A ratio of goodput in the paper: the mean over `sets` of `above` / `below`."""

    name: str
    paper: float
    above: tuple[tuple[str, str, str], ...]
    """Set, skew and arm of every numerator."""
    below: tuple[tuple[str, str, str], ...]


def _ratio(name: str, paper: float, sets: Sequence[tuple[str, str]], above: str, below: str) -> Ratio:
    return Ratio(name, paper, tuple((*each, above) for each in sets), tuple((*each, below) for each in sets))


def _both(name: str) -> list[tuple[str, str]]:
    return [(name, "less"), (name, "skewed")]


RATIOS = (
    _ratio("CRA8/BASE, 8 nodes, skewed", 1.42, [("D8", "skewed"), ("K8", "skewed")], "CRA8", "BASE"),
    _ratio("EPLB/BASE, 8 nodes, skewed", 1.24, [("D8", "skewed"), ("K8", "skewed")], "EPLB", "BASE"),
    _ratio("CRA8/BASE, 8 nodes, less skewed", 1.14, [("D8", "less"), ("K8", "less")], "CRA8", "BASE"),
    _ratio("EPLB/BASE, 8 nodes, less skewed", 1.02, [("D8", "less"), ("K8", "less")], "EPLB", "BASE"),
    _ratio("CRA8/EPLB, D8", 1.15, _both("D8"), "CRA8", "EPLB"),
    _ratio("CRA8/EPLB, K8", 1.12, _both("K8"), "CRA8", "EPLB"),
    _ratio("EPLB/BASE, K6", 0.54, _both("K6"), "EPLB", "BASE"),
    _ratio("CRA8/BASE, K6", 1.14, _both("K6"), "CRA8", "BASE"),
    Ratio("CRA8, 6 to 8 nodes", 1.65, tuple((*each, "CRA8") for each in _both("K8")),
          tuple((*each, "CRA8") for each in _both("K6"))),
    Ratio("CRA8, 8 to 12 nodes", 1.60, tuple((*each, "CRA8") for each in _both("K12")),
          tuple((*each, "CRA8") for each in _both("K8"))),
)  # fmt: skip
"""The ten ratios; which sets count how much in the paper's means is not stated, here they count alike."""

Arms = Mapping[tuple[str, str], Mapping[str, Arm]]
"""By set and skew, then by arm: BASE, EPLB, and CRA<replicas per GPU>."""


def measured_set(chosen: ServingSet, cluster: Cluster) -> dict[str, Arm]:
    """BASE (placement only), EPLB as published, and CRAFT with each number of replicas per GPU."""
    server = ServingModel(chosen.model, cluster)
    split = HeldOut(server.matched(chosen.planned), server.matched(chosen.judged))
    base, eplb = baseline_arms(split, server, chosen.topology)
    craft = planned_arms("craft", COUNTS, split, server, chosen.topology)
    return {"BASE": base, "EPLB": eplb, **{f"CRA{count}": arm for count, arm in craft.items()}}


def on_cluster(arms: Arms, cluster: Cluster) -> Arms:
    """The same placements on another cluster."""
    return {
        key: {name: arm.on(replace(arm.times.server, cluster=cluster)) for name, arm in each.items()}
        for key, each in arms.items()
    }


def modelled_ratios(arms: Arms) -> np.ndarray:
    """The ten ratios as the model has them."""
    needed = {key for ratio in RATIOS for key in (*ratio.above, *ratio.below)}
    rate = {key: worth(arms[key[:2]][key[2]]).goodput for key in needed}
    return np.array(
        [np.mean([rate[a] / rate[b] for a, b in zip(ratio.above, ratio.below, strict=True)]) for ratio in RATIOS]
    )


def kv_losses(arms: Arms, arm: str = "EPLB") -> dict[str, float]:
    """Part of the KV cache that an arm's replicas take, of every set."""
    lost = {}
    for (name, _), each in arms.items():
        base_bytes, own_bytes = (each[which].cache.bytes_per_gpu for which in ("BASE", arm))
        lost[name] = 1 - own_bytes / base_bytes
    return lost


def with_values(cluster: Cluster, paths: Sequence[str], values: Iterable[float]) -> Cluster:
    """`cluster` with other figures."""
    for path, value in zip(paths, values, strict=True):
        cluster = cluster.with_figure(path, Figure(float(value), "fitted in this run"))
    return cluster


def fit_memory(arms: Arms, cluster: Cluster) -> np.ndarray:
    """Memory fraction and buffer by least squares on the logarithms of the losses of KV cache."""

    def residuals(values: np.ndarray) -> list[float]:
        lost = kv_losses(on_cluster(arms, with_values(cluster, MEMORY, values)))
        return [float(np.log(lost[name] / paper)) if lost[name] > 0 else 9.0 for name, paper in KV_LOSSES.items()]

    return _fitted(residuals, cluster, MEMORY)


def fit_time(arms: Arms, cluster: Cluster, kept: Sequence[int] = tuple(range(len(RATIOS)))) -> np.ndarray:
    """Sync and all-to-all latency by least squares on the logarithms of the `kept` ratios."""
    papers = np.array([ratio.paper for ratio in RATIOS])

    def residuals(values: np.ndarray) -> np.ndarray:
        modelled = modelled_ratios(on_cluster(arms, with_values(cluster, TIME, values)))
        return np.log(modelled / papers)[list(kept)]

    return _fitted(residuals, cluster, TIME)


def _fitted(residuals: object, cluster: Cluster, paths: Sequence[str]) -> np.ndarray:
    known = dict(cluster.figures)
    start = [known[path].value for path in paths]
    low, high = zip(*(_BOUNDS[path] for path in paths), strict=True)
    found: np.ndarray = least_squares(residuals, start, bounds=(low, high), diff_step=0.02).x
    return found
