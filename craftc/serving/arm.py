"""One way to place experts, judged on one server: what is needed to say what it is worth, and what that is.

Axes: S steps, L layers, E experts, G GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from craftc.loads.load_profile import LoadProfile
from craftc.serving.memory import KVCache, fullest_gpu_bytes, kv_cache
from craftc.serving.peaks import measure_peaks
from craftc.serving.saturation import Saturation, Seconds, prefill_seconds, saturation
from craftc.serving.serving_model import ServingModel
from craftc.serving.step_time import StepTimes
from craftc.solvers.problem import Placement, Shares
from craftc.solvers.replay import replay
from craftc.topology import Topology

_FASTER = 1.1
"""What binds is the part of the server of which this much more gains most."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A placement on a server, and what was measured of it on loads."""

    name: str
    """Planner, or file of the plan."""
    replicas_per_gpu: float
    """Replicas over all layers / G."""
    expert_bytes: float
    """Bytes of experts on the GPU that has most."""
    balancedness: float
    """Mean over layers of the mean over steps of mean GPU load / max GPU load, in 0..1."""
    times: StepTimes
    """Seconds of its steps, from its peaks."""

    @property
    def mean_peak(self) -> float:
        """Mean over layers and steps of max GPU load / mean GPU load, at least 1: what time follows."""
        return float(self.times.peaks.gpu_PL[0].mean())

    @property
    def cache(self) -> KVCache:
        """What its experts leave for the KV cache."""
        return kv_cache(self.times.server, self.times.topology, self.expert_bytes)

    @property
    def requests(self) -> int:
        """Requests in flight on a data-parallel rank: as many as the KV cache holds, or the workload's batch."""
        return int(self.requests_of(self.cache.requests))

    def requests_of(self, held: float) -> float:
        """Requests in flight on a rank whose KV cache holds `held` requests."""
        batch = self.times.server.workload.batch
        return held if batch is None else min(held, batch * self.times.server.tensor_parallel)

    def on(self, server: ServingModel) -> Arm:
        """The same placement on another server: constants or workload differ, the model is the same."""
        return replace(self, times=replace(self.times, server=server))


@dataclass(frozen=True)
class Worth:
    """What a placement is worth on a server, on loads that it was judged on."""

    replicas_per_gpu: float
    """Replicas over all layers / G."""
    kv_bytes: float
    """Memory for the KV cache on every GPU; negative by what is missing."""
    requests: int
    """Whole requests that it holds on each data-parallel rank."""
    balancedness: float
    """Balancedness, in 0..1."""
    mean_peak: float
    """Mean over layers and steps of max GPU load / mean GPU load, at least 1."""
    nic_peak: float
    """The same of the tokens of network cards."""
    node_peak: float
    """The same of the tokens of nodes."""
    goodput: float
    """Requests per second of a server that always has some waiting, within the limit on time between tokens; 0 if none
    fits the KV cache."""
    ttft_s: float
    """Time to the first token of a request that need not wait, in seconds."""
    itl_s: float
    """Mean time between tokens at that goodput, in seconds."""
    parts: Seconds
    """Seconds of a mean step at that goodput, part by part."""
    binds: str
    """Part of the server of which a tenth more gains most: `KV`, `network`, `experts` or `attention`. `memory`
    if no request fits the KV cache, `latency` if no number of requests keeps the limit on time between tokens."""


def measured_arm(
    name: str,
    placements: Sequence[Placement],
    loads: LoadProfile,
    server: ServingModel,
    topology: Topology,
    shares_L: Sequence[Shares | None] | None = None,
) -> Arm:
    """Replay `loads` against placements, one per layer of the loads.

    Raises BadInput if the topology is not one of the cluster's.
    """
    server.ranks(topology)
    per_nic = min(int(server.cluster.network.gpus_per_nic.value), topology.gpus_per_node)
    experts = server.model.layers[len(server.model.layers) - len(placements) :]
    counts_SLE = loads.counts_SLE
    top_k_L = server.top_k_L[len(server.top_k_L) - len(placements) :]
    peaks = measure_peaks(counts_SLE, placements, top_k_L, per_nic, topology.gpus_per_node, shares_L)
    slots = sum(len(gpu) for placement in placements for gpu in placement)
    replicas = slots - sum(layer.experts for layer in experts)
    balancedness = float(replay(counts_SLE, placements, shares_L).mean())
    held = fullest_gpu_bytes(server, topology, placements)
    return Arm(name, replicas / topology.gpus, held, balancedness, StepTimes(server, topology, peaks))


def worth(arm: Arm) -> Worth:
    """What the placement is worth when requests never run out."""
    reached = saturation(arm.times, arm.requests)
    cache, peaks = arm.cache, arm.times.peaks
    return Worth(
        replicas_per_gpu=arm.replicas_per_gpu,
        kv_bytes=cache.bytes_per_gpu,
        requests=cache.requests,
        balancedness=arm.balancedness,
        mean_peak=arm.mean_peak,
        nic_peak=float(peaks.nic_PL[0].mean()),
        node_peak=float(peaks.node_PL[0].mean()),
        goodput=reached.rate,
        ttft_s=prefill_seconds(arm.times) if arm.times.server.workload.phase != "decode" else 0.0,
        itl_s=reached.itl_s,
        parts=reached.step,
        binds=_binds(arm, reached),
    )


def balanced(arm: Arm) -> Arm:
    """The ceiling: perfect balance at the memory of `arm`, which has no replicas."""
    peaks = arm.times.peaks
    ones_PL = np.ones_like(peaks.gpu_PL)
    even = replace(peaks, gpu_PL=ones_PL, nic_PL=ones_PL, node_PL=ones_PL)
    return replace(arm, name="ceiling", balancedness=1.0, times=replace(arm.times, peaks=even))


def _binds(arm: Arm, reached: Saturation) -> str:
    if reached.rate == 0:
        return "memory" if arm.requests < 1 else "latency"
    step = reached.step
    saved = 1 - 1 / _FASTER
    gains = {
        "network": step.total / (step.total - saved * step.all_to_all),
        "experts": step.total / (step.total - saved * step.experts),
        "attention": step.total / (step.total - saved * step.attention),
        "KV": saturation(arm.times, arm.requests_of(arm.cache.requests * _FASTER)).rate / reached.rate,
    }
    return max(gains, key=lambda part: gains[part])
