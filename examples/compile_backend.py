"""`torch.compile(model, backend="craftc")`: the first calls are counted, then the model runs with replicated experts.

    python examples/compile_backend.py                                  virtual GPUs in one process
    torchrun --nproc-per-node 4 examples/compile_backend.py --gpus 4    real ranks, each with batches of its own

Nothing of craftc is imported for it: the backend is found by its name.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
import torch.distributed as dist
from transformers import MixtralConfig, MixtralForCausalLM

VOCABULARY = 256
CALLS_COUNTED = 3


def build_model() -> MixtralForCausalLM:
    """A random Mixtral with 4 MoE layers of 8 experts, some of them hot. Every rank builds the same."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        initializer_range=0.2,
    )
    return MixtralForCausalLM(config).eval()


def token_batch(seed: int) -> torch.Tensor:
    """Random tokens, `[4, 32]`."""
    return torch.randint(VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(seed))


def main() -> None:
    """Compile, run a few batches, compare every one with the model itself."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, default=4, help="GPUs to plan for; with torchrun, the number of ranks")
    parser.add_argument("--budget", default="25%", help="memory for replicas, such as 25%% or 2replicas/gpu")
    parser.add_argument("--inner", default="inductor", help="backend for what lies between the MoE layers")
    arguments = parser.parse_args()
    rank = int(os.environ.get("RANK", 0))
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")

    model = build_model()
    options = {
        "gpus": arguments.gpus,
        "budget": arguments.budget,
        "profile_calls": CALLS_COUNTED,
        "inner": arguments.inner,
        "strict": True,
    }
    compiled = torch.compile(model, backend="craftc", options=options)
    with torch.no_grad():
        for call in range(CALLS_COUNTED + 2):
            tokens = token_batch(seed=100 * call + rank)
            ours = compiled(input_ids=tokens, use_cache=False).logits
            difference = (ours - model(input_ids=tokens, use_cache=False).logits).abs().max().item()
            state = "counted" if call < CALLS_COUNTED else "replicated"
            print(f"rank {rank} call {call} ({state}): largest difference to the model {difference:.1e}", flush=True)

    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(0.3)  # gloo's threads end a moment later; leaving before that can abort the process


if __name__ == "__main__":
    main()
