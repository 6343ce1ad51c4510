"""Recordings as the servers write them, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

COUNTS_SLE = np.array([[[5, 1, 1, 9], [2, 7, 3, 4]], [[1, 1, 2, 12], [0, 8, 8, 0]], [[3, 3, 5, 5], [1, 2, 3, 10]]])
"""Three steps of the toy model's two MoE layers (decoder layers 1 and 2)."""
MAP_LP = np.array([[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 1], [2, 3, 0, 1, 2, 3]])
"""Slots of all three decoder layers."""


def physical_counts(counts_SLE: np.ndarray, map_LP: np.ndarray, ranks: int) -> np.ndarray:
    """`[ranks, S, L, P]`: every expert's tokens split over its slots and over ranks."""
    steps, layers, _ = counts_SLE.shape
    counts = np.zeros((ranks, steps, layers, map_LP.shape[1]), dtype=np.int32)
    for layer in range(layers):
        for expert in range(counts_SLE.shape[2]):
            cells = [(rank, slot) for rank in range(ranks) for slot in np.flatnonzero(map_LP[layer] == expert)]
            for step in range(steps):
                for number in range(counts_SLE[step, layer, expert]):
                    rank, slot = cells[(number * 7 + step) % len(cells)]
                    counts[rank, step, layer, slot] += 1
    return counts


def with_dense_layer(counts_SLE: np.ndarray) -> np.ndarray:
    """A decoder layer without tokens in front."""
    return np.concatenate([np.zeros_like(counts_SLE[:, :1]), counts_SLE], axis=1)


def write_stat(path: Path, counts_SLE: np.ndarray, unused: int = 2) -> Path:
    """A `stat` dump of all decoder layers, with unused steps at the end of its buffer."""
    counts = torch.from_numpy(np.concatenate([counts_SLE, np.zeros_like(counts_SLE[:1]).repeat(unused, axis=0)]))
    torch.save({"rank": 0, "logical_count": counts.to(torch.int32), "average_utilization_rate_over_window": None}, path)
    return path


def write_passes(folder: Path, counts: np.ndarray, map_LP: np.ndarray, first_pass: int = 40) -> Path:
    """`per_pass` dumps, a file per rank; counts `[ranks, S, L, P]`."""
    for rank, counts_SLP in enumerate(counts):
        records = [
            {
                "forward_pass_id": first_pass + step,
                "rank": rank,
                "gatherer_key": "primary",
                "global_physical_count": torch.from_numpy(counts_LP.astype(np.int32)),
            }
            for step, counts_LP in enumerate(counts_SLP)
        ]
        dump = {"records": records, "last_physical_to_logical_map": torch.from_numpy(map_LP)}
        torch.save(dump, folder / f"expert_distribution_recorder_17000{rank}.25_{rank}.pt")
    return folder


def write_tokens(folder: Path, counts: np.ndarray, map_LP: np.ndarray) -> Path:
    """`per_token` dumps: the same with what they add."""
    write_passes(folder, counts, map_LP)
    for file in folder.iterdir():
        dump = torch.load(file, weights_only=True)
        for record in dump["records"]:
            tokens = int(record["global_physical_count"][-1].sum())
            record |= {
                "input_ids": [1] * tokens,
                "positions": list(range(tokens)),
                "extend_seq_lens": [tokens],
                "forward_mode": 1,
                "topk_ids_of_layer": torch.full((len(map_LP), tokens, 8), -1, dtype=torch.int32),
                "misc_objects": [],
            }
        torch.save(dump, file)
    return folder


def write_trtllm(folder: Path, counts: np.ndarray, layers: Sequence[int], first: int = 100) -> Path:
    """Statistics of counts `[ranks, S, L, E]`, with a raw file that is to be skipped."""
    (folder / "meta_info.json").write_text(json.dumps({"num_experts": counts.shape[3], "num_experts_per_token": 2}))
    for rank, counts_SLE in enumerate(counts):
        tensors = {
            f"{first + step}_{layer}": counts_SLE[step, ordinal].astype(np.int64)
            for step in range(len(counts_SLE))
            for ordinal, layer in enumerate(layers)
        }
        save_file(tensors, folder / f"rank{rank}.safetensors")
    save_file({"100_1": np.zeros(1)}, folder / "rank0_raw.safetensors")
    return folder


def write_omni(folder: Path, counts_SLE: np.ndarray, ranks: int, first: int = 7) -> Path:
    """One text file per record step and rank."""
    for step, counts_LE in enumerate(counts_SLE):
        for rank, counts_LX in enumerate(np.split(counts_LE, ranks, axis=1)):
            text = "".join("".join(f"{count}\t" for count in row) + "\n" for row in counts_LX)
            (folder / f"activation_counts_recordstep_{first + step}_rank_{rank}.txt").write_text(text)
    return folder


def vllm_lines(counts_SLP: np.ndarray, map_LP: np.ndarray, redundant: int) -> list[str]:
    """The meta record and one statistics record per step."""
    meta = {
        "record_type": "eplb_load_meta", "version": 1, "model": "toy", "num_ranks": 2, "num_groups": 1,
        "num_nodes": 1, "num_layers": len(map_LP), "num_redundant_experts": redundant,
    }  # fmt: skip
    stats = [
        {
            "record_type": "eplb_load_stats",
            "version": 1,
            "step": 10 * step + 7,
            "num_ranks": 2,
            "expert_load": counts_LP.tolist(),
            "p2l_map": map_LP.tolist(),
        }
        for step, counts_LP in enumerate(counts_SLP)
    ]
    return [json.dumps(record) for record in (meta, *stats)]
