"""What every rank does in `python -m benchmarks.runtime memory`: loads its part of an optimized folder.

Peak resident memory is what the kernel counted. The share of the interpreter and its libraries is taken off: what a
rank had after a tiny model of the same class ran, so that the libraries' code is mapped.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from craftc.deployment.load_model import load_model
from craftc.ranks.program import run_on_rank
from craftc.runtime.rank_group import RankGroup
from craftc.units import format_size


def main(folder: Path, model: str, group: RankGroup) -> None:
    run_tiny_model()
    before = peak_bytes()
    loaded = load_model(folder, group=group.process_group, model=model)
    with torch.inference_mode():
        loaded(torch.zeros(1, 1, dtype=torch.int64), use_cache=False)
    for parameter in loaded.parameters():
        parameter.sum()  # files are mapped, and become memory when they are read
    cost = peak_bytes() - before
    weights = sum(parameter.numel() * parameter.element_size() for parameter in loaded.parameters())
    gathered: list[Any] = [None] * group.size
    dist.all_gather_object(gathered, (weights, cost), group=group.process_group)
    if group.rank == 0:
        print(f"\nmemory of {group.size} ranks: weights, peak while loading, running and reading every weight")
        for rank, (size, peak) in enumerate(gathered):
            print(f"rank {rank}: {format_size(size):>10} {format_size(peak):>10} {peak / size:6.2f}", flush=True)


def run_tiny_model() -> None:
    """Less than 100 KiB of weights."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
    )
    with torch.inference_mode():
        MixtralForCausalLM(config)(torch.zeros(1, 1, dtype=torch.int64), use_cache=False)


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(run_on_rank(lambda group: main(Path(sys.argv[1]), sys.argv[2], group), timeout_s=300))
