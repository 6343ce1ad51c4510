"""The traces that quality is measured on, with the batching, the GPUs and the aims of each.

Axes: S steps, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.synthetic_trace import synthetic_counts
from craftc.errors import BadInput
from craftc.loads.read_loads import read_loads
from craftc.topology import Topology

RECORDED = Path("../shared/traces")
"""Folder of recorded traces, which need not be there."""


@dataclass(frozen=True)
class Aim:
    """A balancedness that craftc was asked to reach."""

    replicas_per_gpu: int
    balancedness: float
    held_out: bool = True
    """False: on the plan's own steps."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Loads and what to plan for."""

    name: str
    counts_SLE: np.ndarray
    """Tokens, at least two steps."""
    topology: Topology
    aims: tuple[Aim, ...] = ()


def trace_of(path: Path, topology: Topology, summed: int, kept: int) -> Trace:
    """A trace from a file. Raises BadInput if it cannot be used."""
    return Trace(path.stem, batched(read_loads(path).counts_SLE, summed, kept), topology)


def known_traces(folder: Path) -> Iterator[Trace]:
    """The recorded traces that are present, and a synthetic one."""
    every = 10**9
    known: tuple[tuple[str, Topology, int, int, tuple[Aim, ...]], ...] = (
        ("gpt-oss-20b-decode", Topology(8), 16, 120, (Aim(0, 0.87), Aim(8, 0.90))),
        ("gpt-oss-20b-domains", Topology(8), 1, every, ()),
        ("glm-5.2-domains", Topology(64, 8), 1, every, (Aim(8, 0.43), Aim(8, 0.70, held_out=False))),
        ("olmoe-1b-7b-domains", Topology(8), 1, every, ()),
        ("mixtral-8x7b-mmlu", Topology(4), 1, every, ()),
    )
    for name, topology, summed, kept, aims in known:
        path = folder / f"{name}.npz"
        if path.exists():
            yield Trace(name, batched(read_loads(path).counts_SLE, summed, kept), topology, aims)
    yield Trace("synthetic", synthetic_counts(), Topology(64, 8), (Aim(4, 0.81), Aim(8, 0.87)))


def batched(counts_SLE: np.ndarray, summed: int, kept: int) -> np.ndarray:
    """`summed` consecutive steps added up, an incomplete last batch dropped, then `kept` of them, evenly spaced.

    Raises BadInput if fewer than two are left: the protocol needs even and odd ones.
    """
    batches = len(counts_SLE) // max(1, summed)
    if min(batches, kept, summed + 1) < 2:
        raise BadInput(f"{len(counts_SLE)} steps, {summed} to a sum, {kept} kept: at least 2 sums of 1 or more needed")
    counts_SLE = counts_SLE[: batches * summed].reshape(batches, summed, *counts_SLE.shape[1:]).sum(axis=1)
    return counts_SLE[np.linspace(0, batches - 1, min(batches, kept)).round().astype(int)]
