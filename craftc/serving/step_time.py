"""Seconds of one step of a server of lockstep data-parallel ranks: attention and dense parts, experts, all-to-all.

A step takes as long as its busiest part everywhere: the rank with most tokens in attention, and in every layer the GPU
with most expert work and the network card with most traffic. Rooflines: a matrix multiplication takes the longer of its
operations and of reading its weights.

Axes: K ranks that prefill (0..ranks), L layers, D numbers of decoding requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.serving.memory import cache_bytes
from craftc.serving.peaks import Peaks
from craftc.serving.serving_model import ServingModel
from craftc.serving.step_table import StepTable
from craftc.topology import Topology

_ACTIVATION_BYTES = 2
"""Bytes of a value of the residual stream: servers keep it in 16 bits."""
_TABLE_ROWS = 24
"""Numbers of decoding requests in a step table, besides none."""


@dataclass(frozen=True, eq=False)
class StepParts:
    """Seconds of steps, one for every number of ranks that prefill."""

    attention_K: np.ndarray
    """Attention, dense and shared parts, and their all-reduce over tensor-parallel GPUs."""
    experts_K: np.ndarray
    """Routed experts of all layers, on the GPU that takes longest."""
    all_to_all_K: np.ndarray
    """Sending tokens to experts and back, as far as it is not hidden behind computation; 0 on one node."""

    @property
    def total_K(self) -> np.ndarray:
        return self.attention_K + self.experts_K + self.all_to_all_K


@dataclass(frozen=True, eq=False)
class StepTimes:
    """What steps take on one server with one placement."""

    server: ServingModel
    """Model, cluster and workload."""
    topology: Topology
    """GPUs and nodes."""
    peaks: Peaks
    """How uneven the placement leaves the work."""

    @property
    def ranks(self) -> int:
        """Data-parallel ranks."""
        return self.server.ranks(self.topology)

    def parts(self, prefilling_K: np.ndarray, decodes: float) -> StepParts:
        """Steps in which `prefilling_K` ranks prefill a chunk each, and every rank decodes `decodes` requests."""
        chunk = self.server.workload.chunk_tokens
        tokens_K = prefilling_K * chunk + self.ranks * decodes
        busiest_K = np.where(prefilling_K > 0, chunk, 0.0) + decodes
        uneven = self.peaks.at(np.maximum(tokens_K, 1e-9))
        return StepParts(
            np.where(tokens_K > 0, self._attention(prefilling_K > 0, busiest_K, decodes), 0.0),
            np.where(tokens_K > 0, self._experts(tokens_K, uneven), 0.0),
            np.where(tokens_K > 0, self._all_to_all(prefilling_K, tokens_K, decodes, uneven), 0.0),
        )

    def table(self, most_decodes: float) -> StepTable:
        """Mean seconds by ranks that prefill and requests that decode on all ranks together, up to `most_decodes`.

        In a share `sync` of the steps, prefills have been gathered: all ranks prefill in a few of them, none in others.
        """
        decodes_D = np.concatenate([[0.0], np.geomspace(1, max(2.0, most_decodes), _TABLE_ROWS)])
        prefilling_K = np.arange(self.ranks + 1)
        seconds_DK = np.array([self.parts(prefilling_K, decodes / self.ranks).total_K for decodes in decodes_D])
        none_D1, all_D1 = seconds_DK[:, :1], seconds_DK[:, -1:]
        gathered_DK = none_D1 + (all_D1 - none_D1) * prefilling_K / self.ranks
        sync = self.server.cluster.server.sync.value
        return StepTable(decodes_D, ((1 - sync) * seconds_DK + sync * gathered_DK).T)

    def _attention(self, prefills_K: np.ndarray, tokens_K: np.ndarray, decodes: float) -> np.ndarray:
        """Everything outside the routed experts, on the rank with most tokens."""
        shape, chip, parallel = self.server.shape, self.server.cluster.chip, self.server.tensor_parallel
        work = self.server.workload
        flops_per_s = self.server.peak_flops(shape.dense_dtype) * chip.dense_efficiency.value * parallel
        bytes_per_s = chip.hbm_tb_per_s.value * 1e12 * chip.streaming_efficiency.value
        score_flops_per_s = self.server.peak_flops("bfloat16") * chip.dense_efficiency.value * parallel
        matrices_K = np.maximum(
            2 * shape.dense_parameters * tokens_K / flops_per_s, shape.dense_bytes / parallel / bytes_per_s
        )
        # A prompt's tokens see half of it on average, a generated token the prompt and half of the output.
        prefill_flops = work.input / 2 * shape.score_flops_per_pair
        prefill_flops += sum(_mean_seen(work.input, each.tokens) * each.score_flops_per_pair for each in shape.windows)
        seen = work.input + work.output / 2
        decode_flops = seen * shape.decode_score_flops_per_pair
        decode_flops += sum(min(seen, each.tokens) * each.score_flops_per_pair for each in shape.windows)
        decode_s = decodes * max(decode_flops / score_flops_per_s, cache_bytes(shape, parallel, seen) / bytes_per_s)
        scores_K = np.where(prefills_K, work.chunk_tokens * prefill_flops / score_flops_per_s, 0.0) + decode_s
        link_bytes = 2 * (parallel - 1) / parallel * shape.hidden * _ACTIVATION_BYTES * tokens_K
        reduced_K = 2 * shape.decoder_layers * link_bytes / (self.server.cluster.node.link_gb_per_s.value * 1e9)
        attention_K: np.ndarray = matrices_K + scores_K + reduced_K
        return attention_K

    def _experts(self, tokens_K: np.ndarray, uneven: Peaks) -> np.ndarray:
        """Routed experts: operations of the GPU with most tokens, or reading the slots that are used."""
        per_token_L, per_slot_L = self._expert_seconds()
        pairs_KL = tokens_K[:, None] * self._top_k_L() / self.topology.gpus
        seconds_KL = np.maximum(pairs_KL * uneven.gpu_PL * per_token_L, uneven.slots_PL * per_slot_L)
        experts_K: np.ndarray = seconds_KL.sum(axis=1) * self._layers_per_recorded()
        return experts_K

    def _expert_seconds(self) -> tuple[np.ndarray, np.ndarray]:
        """`per_token_L, per_slot_L`: seconds of one expert for one token, and of reading its weights."""
        chip, shape = self.server.cluster.chip, self.server.shape
        flops_per_s = self.server.peak_flops(shape.expert_dtype) * chip.expert_efficiency.value
        bytes_per_s = chip.hbm_tb_per_s.value * 1e12 * chip.streaming_efficiency.value
        recorded = self._recorded()
        sizes_L = np.array([layer.expert_bytes for layer in self.server.model.layers[recorded]])
        parameters_L = np.array(shape.expert_parameters[recorded])
        return 2 * parameters_L / flops_per_s, sizes_L / bytes_per_s

    def _all_to_all(self, prefilling_K: np.ndarray, tokens_K: np.ndarray, decodes: float, uneven: Peaks) -> np.ndarray:
        """Tokens to experts and back, over the network cards: what the busiest one receives, or sends."""
        network, nodes = self.server.cluster.network, self.topology.nodes
        if nodes == 1:
            return np.zeros(len(tokens_K))
        per_nic, parallel = int(network.gpus_per_nic.value), self.server.tensor_parallel
        top_k_L = self._top_k_L()
        elsewhere = (nodes - 1) / nodes
        per_node_L = nodes * (1 - elsewhere**top_k_L)
        # Libraries that send one copy per node send one per expert, which is quicker, in steps that only decode.
        by_node_K1 = (network.wire_copies.value == "node") & (prefilling_K > 0)[:, None]
        copies_KL = np.where(by_node_K1, per_node_L, top_k_L)
        # GPUs of one card whose ranks prefill: of one rank, or of several that share it.
        prefilling_gpus_K = np.minimum(prefilling_K * parallel, per_nic)
        sent_K = (prefilling_gpus_K * self.server.workload.chunk_tokens + per_nic * decodes) / parallel
        received_KL = (tokens_K * per_nic / self.topology.gpus)[:, None] * copies_KL * uneven.nic_PL
        busiest_KL = elsewhere * np.maximum(received_KL, sent_K[:, None] * copies_KL)
        bytes_per_s = network.nic_gbit_per_s.value / 8 * 1e9 * network.efficiency.value
        there_and_back = self.server.shape.hidden * (self._sent_bytes() + _ACTIVATION_BYTES)
        latency_s = 2 * network.all_to_all_latency_ms.value / 1e3
        seconds_K = (busiest_KL * there_and_back / bytes_per_s + latency_s).sum(axis=1)
        all_to_all_K: np.ndarray = seconds_K * self._layers_per_recorded() * (1 - network.overlap.value)
        return all_to_all_K

    def _sent_bytes(self) -> int:
        """Bytes of a value on its way to the experts: 8 bits if they are multiplied in float8, as DeepEP sends it."""
        return 1 if self.server.shape.expert_dtype == "float8" else _ACTIVATION_BYTES

    def _recorded(self) -> slice:
        """The model's layers that have loads: the last ones."""
        return slice(len(self.server.model.layers) - self.peaks.gpu_PL.shape[1], None)

    def _layers_per_recorded(self) -> float:
        """MoE layers of the model per layer with loads; layers without count like the mean of the others."""
        return len(self.server.model.layers) / self.peaks.gpu_PL.shape[1]

    def _top_k_L(self) -> np.ndarray:
        return np.array(self.server.top_k_L[self._recorded()])


def _mean_seen(tokens: int, window: int) -> float:
    """Tokens that a token of a prompt sees on average, of a window that is not full at the beginning."""
    full = min(tokens, window)
    return full - full * full / (2 * tokens)
