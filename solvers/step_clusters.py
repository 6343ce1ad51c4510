"""Clusters of steps that route alike, found by their loads alone.

Axes: S steps, L layers, E experts, K compared steps, C clusters, X entries of a step's routing.
"""

from __future__ import annotations

import numpy as np

FEWEST_STEPS = 4
"""Fewest steps of a cluster: two to plan from, and two to judge the plan on."""
_SAMPLE = 256
"""Most steps that are compared with each other; the others join the nearest cluster."""
_SEPARATION = 2.2
"""Least mean over a large cluster of how much nearer its steps are to it than to another, in standard deviations; more
for small ones, whose steps are apart by chance. One normal cloud cut in two has 1.3, a uniform one 1.7; two normal
clouds have half of the distance between them."""
_NO_DISTANCE = 1e-9
"""Squared distances below this are rounding."""
_ROUNDS = 3
"""How often steps unlike all others are set aside."""


def _routing(counts_SLE: np.ndarray) -> np.ndarray:
    """`routing_SX`: the share of every expert in the tokens of its layer; even if there are none."""
    steps, _, experts = counts_SLE.shape
    tokens_SL1 = counts_SLE.sum(axis=2, keepdims=True, dtype=np.float64)
    even_SLE = np.full(counts_SLE.shape, 1 / experts)
    return np.divide(counts_SLE, tokens_SL1, out=even_SLE, where=tokens_SL1 > 0).reshape(steps, -1)


def join_nearest(counts_SLE: np.ndarray, cluster_S: np.ndarray) -> np.ndarray:
    """`cluster_S` with every -1 replaced by the cluster whose mean routing is nearest."""
    left = np.flatnonzero(cluster_S < 0)
    if not len(left):
        return cluster_S
    mean_CX = np.stack(
        [
            _routing(counts_SLE[spaced(np.flatnonzero(cluster_S == cluster), _SAMPLE)]).mean(axis=0)
            for cluster in range(cluster_S.max() + 1)
        ]
    )
    filled_S = cluster_S.copy()
    for some in np.array_split(left, -(-len(left) // _SAMPLE)):
        # |x - mean|^2 without |x|^2, which is the same for all clusters
        filled_S[some] = (np.square(mean_CX).sum(axis=1) - 2 * _routing(counts_SLE[some]) @ mean_CX.T).argmin(axis=1)
    return filled_S


def cluster_steps(counts_SLE: np.ndarray) -> np.ndarray | None:
    """`cluster_S`, -1 for steps that have no cluster yet; None if the steps are one cloud."""
    steps = len(counts_SLE)
    # A random sample: evenly spaced steps would all be of one cluster if clusters alternate.
    compared = np.sort(np.random.default_rng(0).permutation(steps)[:_SAMPLE])
    routing_KX = _routing(counts_SLE[compared])
    routing_KX -= routing_KX.mean(axis=0)
    product_KK = routing_KX @ routing_KX.T
    square_K = product_KK.diagonal()
    found = _clusters(np.maximum(square_K[:, None] + square_K - 2 * product_KK, 0.0))
    if found is None:
        return None
    cluster_S = np.full(steps, -1)
    cluster_S[compared] = found
    return cluster_S


def _clusters(distance_KK: np.ndarray) -> np.ndarray | None:
    """`cluster_K` of three or two well separated clusters, -1 for steps unlike all others; None for a single cloud.

    distance_KK: squared distances.
    """
    kept = np.arange(len(distance_KK))
    for _ in range(_ROUNDS):
        own_KK = distance_KK[np.ix_(kept, kept)]
        halves_K = _bisected(own_KK, np.zeros(len(kept), dtype=int), 0)
        thirds = [_settled(own_KK, _bisected(own_KK, halves_K, half)) for half in (0, 1)]
        halves_K = _settled(own_KK, halves_K)
        thirds_K = min(thirds, key=lambda label_K: _scatter(own_KK, label_K))
        small_K = np.zeros(len(kept), dtype=bool)
        for label_K in (thirds_K, halves_K):
            size_C = np.bincount(label_K)
            if size_C.min() >= FEWEST_STEPS and _separated(own_KK, label_K):
                cluster_K = np.full(len(distance_KK), -1)
                cluster_K[kept] = label_K
                return cluster_K
            small_K |= (size_C < FEWEST_STEPS)[label_K]
        kept = kept[~small_K]
        if not small_K.any() or len(kept) < 2 * FEWEST_STEPS:
            return None
    return None


def _bisected(distance_KK: np.ndarray, label_K: np.ndarray, cluster: int) -> np.ndarray:
    """`label_K` with one cluster cut in two across its longest axis, where that leaves the least scatter."""
    members = np.flatnonzero(label_K == cluster)
    if len(members) < 2:
        return label_K
    along = _longest_axis(distance_KK[np.ix_(members, members)])
    order = np.argsort(along, kind="stable")
    size = np.arange(1, len(members))
    # The means of both parts differ the most, weighted by their sizes; `along` has mean 0.
    cut = np.square(np.cumsum(along[order])[:-1]) / (size * (len(members) - size))
    cut_K = label_K.copy()
    cut_K[members[order[: cut.argmax() + 1]]] = label_K.max() + 1
    return cut_K


def _longest_axis(distance_KK: np.ndarray) -> np.ndarray:
    """`along_K`: where the steps lie along the axis of their largest variance, roughly; mean 0."""
    mean_K = distance_KK.mean(axis=0)
    product_KK = (mean_K[:, None] + mean_K - distance_KK - mean_K.mean()) / 2
    along_K: np.ndarray = product_KK[product_KK.diagonal().argmax()]
    for _ in range(30):  # power iteration: k-means only needs a start
        along_K = product_KK @ (along_K / max(np.abs(along_K).max(), 1e-300))
    return along_K


def _settled(distance_KK: np.ndarray, label_K: np.ndarray) -> np.ndarray:
    """k-means from `label_K`, without clusters that lose all their steps."""
    for _ in range(50):
        moved_K = _to_means(distance_KK, label_K).argmin(axis=1)
        moved_K = np.unique(moved_K, return_inverse=True)[1]
        if (moved_K == label_K).all():
            break
        label_K = moved_K
    return label_K


def _members(label_K: np.ndarray) -> np.ndarray:
    """`member_KC`: 1.0 where a step is in a cluster."""
    return (label_K[:, None] == np.arange(label_K.max() + 1)).astype(np.float64)


def _to_means(distance_KK: np.ndarray, label_K: np.ndarray) -> np.ndarray:
    """`[K, C]`: squared distance of every step to the mean of every cluster."""
    member_KC = _members(label_K)
    size_C = member_KC.sum(axis=0)
    to_all_KC = distance_KK @ member_KC
    to_means_KC: np.ndarray = to_all_KC / size_C - (member_KC * to_all_KC).sum(axis=0) / (2 * size_C**2)
    return to_means_KC


def _scatter(distance_KK: np.ndarray, label_K: np.ndarray) -> float:
    return float(_to_means(distance_KK, label_K)[np.arange(len(label_K)), label_K].sum())


def _separated(distance_KK: np.ndarray, label_K: np.ndarray) -> bool:
    """Whether hardly any step lies between two clusters, each step judged by the means of the others.

    A step pulls the mean of its own cluster towards it: with thousands of experts and few steps, any cut through noise
    would look clean. So means are taken without it, and their own noise, which shrinks with size, is taken out.
    """
    if label_K.max() < 1:
        return False
    member_KC = _members(label_K)
    size_C = member_KC.sum(axis=0)
    to_all_KC = distance_KK @ member_KC
    inner_C = (member_KC * to_all_KC).sum(axis=0)
    others_KC = size_C - member_KC
    inner_KC = inner_C - 2 * member_KC * to_all_KC
    to_KC = to_all_KC / others_KC - inner_KC / (2 * others_KC * (others_KC - 1))
    for own in range(len(size_C)):
        least = _SEPARATION * (1 + 4 / size_C[own])
        for other in set(range(len(size_C))) - {own}:
            nearer_X = (to_KC[:, other] - to_KC[:, own])[label_K == own]
            if nearer_X.mean() < max(least * nearer_X.std(), _NO_DISTANCE):
                return False
    return True


def spaced(values_X: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the values, evenly spaced."""
    chosen_X: np.ndarray = values_X[np.linspace(0, len(values_X) - 1, min(len(values_X), most)).round().astype(int)]
    return chosen_X
