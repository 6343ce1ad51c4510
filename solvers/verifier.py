"""The only verifier of placements: every rule that a plan must obey, all violations at once.

Axes: L layers, E experts, G GPUs.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from craftc.solvers.problem import Placement, Shares
from craftc.topology import Topology

_SHARE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PlacedLayer:
    """What the rules need to know about a layer."""

    name: str
    """Name of the layer in messages."""
    experts: int
    """Number of experts E."""
    expert_bytes: int
    """Bytes of one expert."""
    replicas: int
    """Copies beyond the first one of every expert, as stated by the plan."""
    placement: Placement
    """Expert ids of every GPU."""
    shares: Shares | None = None
    """For every slot, the share of its expert's tokens; None for even shares."""


def violations(
    layers: Sequence[PlacedLayer], gpus: int, budget_bytes: int | None = None, spent_bytes: int | None = None
) -> tuple[str, ...]:
    """All violated rules in words, empty if the placement is sound (docs/plan-file.md).

    Every expert has a copy; no GPU holds an expert twice; between GPUs, the slots of a layer differ by at most one, and
    bytes over all layers by at most one (largest) expert, so not at all if all experts have the same size and the
    copies divide evenly over the GPUs; stated replicas and spent bytes are the real ones; the budget is kept; shares
    are in 0..1 and add up to 1.
    """
    found = [message for layer in layers for message in _layer_violations(layer, gpus)]
    if all(len(layer.placement) == gpus for layer in layers):
        found.extend(_memory_violations(layers, gpus))
    real_bytes = sum((sum(map(len, layer.placement)) - layer.experts) * layer.expert_bytes for layer in layers)
    if spent_bytes is not None and spent_bytes != real_bytes:
        found.append(f"budget: {spent_bytes} bytes stated as spent, the replicas take {real_bytes}")
    if budget_bytes is not None and real_bytes > budget_bytes:
        found.append(
            f"budget: replicas take {real_bytes} bytes of {budget_bytes}, {real_bytes - budget_bytes} too many"
        )
    return tuple(found)


def group_violations(layers: Sequence[PlacedLayer], topology: Topology, groups: int) -> tuple[str, ...]:
    """All expert groups with copies on several nodes, in words. Groups are contiguous and of equal size."""
    if groups < 1:
        return (f"groups: there must be at least 1, got {groups}",)
    if groups == 1:
        return ()  # it may be anywhere
    found = []
    for layer in layers:
        if layer.experts % groups:
            found.append(f"layer {layer.name}: {layer.experts} experts do not divide into {groups} groups")
            continue
        nodes: dict[int, set[int]] = {}
        for gpu, held in enumerate(layer.placement):
            for expert in held:
                nodes.setdefault(expert * groups // layer.experts, set()).add(gpu // topology.gpus_per_node)
        found.extend(
            f"layer {layer.name}: group {group} has copies on nodes {', '.join(map(str, sorted(on)))}, not on one"
            for group, on in sorted(nodes.items())
            if len(on) > 1
        )
    return tuple(found)


def _layer_violations(layer: PlacedLayer, gpus: int) -> Iterator[str]:
    where = f"layer {layer.name}"
    if len(layer.placement) != gpus:
        yield f"{where}: placed on {len(layer.placement)} GPUs, the topology has {gpus}"
    held_anywhere = set(itertools.chain.from_iterable(layer.placement))
    unknown = sorted(expert for expert in held_anywhere if not 0 <= expert < layer.experts)
    if unknown:
        yield f"{where}: expert {unknown[0]} is not in 0..{layer.experts - 1} ({len(unknown)} such ids)"
    missing = [expert for expert in range(layer.experts) if expert not in held_anywhere]
    if missing:
        yield f"{where}: expert {missing[0]} has no copy ({len(missing)} such experts)"
    for gpu, held in enumerate(layer.placement):
        if len(set(held)) < len(held):
            twice = [expert for expert, times in Counter(held).items() if times > 1]
            yield f"{where}: GPU {gpu} holds expert {twice[0]} {held.count(twice[0])} times ({len(twice)} such experts)"
    slots_G = [len(held) for held in layer.placement]
    slots = sum(slots_G)
    if slots_G and max(slots_G) - min(slots_G) > 1:
        yield f"{where}: {min(slots_G)} to {max(slots_G)} slots per GPU, they may differ by at most one"
    if slots - layer.experts != layer.replicas:
        yield f"{where}: {layer.replicas} replicas stated, {slots - layer.experts} placed"
    if layer.shares is not None:
        yield from _share_violations(where, layer.experts, layer.placement, layer.shares)


def _share_violations(where: str, experts: int, placement: Placement, shares: Shares) -> Iterator[str]:
    if [len(gpu) for gpu in shares] != [len(gpu) for gpu in placement]:
        yield f"{where}: shares are not shaped like the placement"
        return
    total = dict.fromkeys(range(experts), 0.0)
    for gpu, (held, parts) in enumerate(zip(placement, shares, strict=True)):
        for expert, part in zip(held, parts, strict=True):
            if not (math.isfinite(part) and 0.0 <= part <= 1.0):
                yield f"{where}: GPU {gpu} has share {part} of expert {expert}, it must be in 0..1"
            total[expert] = total.get(expert, 0.0) + part
    wrong = [expert for expert, part in total.items() if not abs(part - 1.0) <= _SHARE_TOLERANCE]
    if wrong:
        yield f"{where}: shares of expert {wrong[0]} sum to {total[wrong[0]]:.6f}, not 1 ({len(wrong)} such experts)"


def _memory_violations(layers: Sequence[PlacedLayer], gpus: int) -> Iterator[str]:
    bytes_G = [sum(len(layer.placement[gpu]) * layer.expert_bytes for layer in layers) for gpu in range(gpus)]
    spread = max(bytes_G) - min(bytes_G)
    largest = max(layer.expert_bytes for layer in layers)
    if spread > largest:
        yield f"memory: {min(bytes_G)} to {max(bytes_G)} bytes per GPU, more than one expert ({largest} bytes) apart"
