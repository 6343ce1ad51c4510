"""Trains the model in this folder: a byte-level Mixtral on the standard library's source, without a balancing loss.

Run from the repository root: `python -m examples.tiny_moe.train`. Seeded; 1,200 steps of 16 x 256 bytes take minutes
on two cores. Experts specialise and loads become skewed by themselves, because nothing tells the routers to balance.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import MixtralConfig, MixtralForCausalLM

from examples.tiny_moe.model import CONTEXT, HERE, PAD, padded_batch, source_files

SEED = 0
STEPS = 1200
BATCH = 16
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
ROUTER_STD = 0.125
"""Initial routers tell tokens apart (logits of unit variance). From near-equal logits, with nothing to balance them,
the experts that learn first would take every token."""
ROUTER_LEARNING_RATE = 3e-4
REPORT_EVERY = 100
CONFIG: dict[str, Any] = {
    "vocab_size": 256,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 16,
    "num_experts_per_tok": 2,
    "max_position_embeddings": CONTEXT,
    "sliding_window": None,
    "output_router_logits": False,
}
"""Read by `MixtralConfig`; `output_router_logits` False is what leaves the balancing loss out."""


def learning_rate_scale(step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2


def held_out_report(model: MixtralForCausalLM) -> str:
    """Bits per byte, and the largest over the mean expert load of every layer, on 64 held-out files."""
    texts = [path.read_bytes() for path in source_files(held_out=True)]
    batch = padded_batch([text[:CONTEXT] for text in texts if len(text) >= CONTEXT][:64])
    with torch.no_grad():
        loss = model.eval()(**batch, labels=batch["input_ids"]).loss
        router_logits_LTE = model(**batch, output_router_logits=True).router_logits
    skew_L = []
    for logits_TE in router_logits_LTE:
        load_E = logits_TE.topk(CONFIG["num_experts_per_tok"]).indices.flatten().bincount(minlength=logits_TE.shape[1])
        skew_L.append(float(load_E.max() / load_E.float().mean()))
    return f"held out {float(loss) / math.log(2):.2f} bits per byte, skew {' '.join(f'{skew:.1f}' for skew in skew_L)}"


def train() -> MixtralForCausalLM:
    """The trained model; prints training loss (bits per byte) and held-out report every `REPORT_EVERY` steps."""
    torch.manual_seed(SEED)
    model = MixtralForCausalLM(MixtralConfig(**CONFIG))
    routers = [layer.mlp.gate.weight for layer in model.model.layers]
    for weight in routers:
        torch.nn.init.normal_(weight, std=ROUTER_STD)
    text = b"\n".join(path.read_bytes() for path in source_files(held_out=False))
    text_bytes = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    print(f"{len(text):,} bytes of text, {sum(p.numel() for p in model.parameters()):,} parameters")
    others = [weight for weight in model.parameters() if not any(weight is router for router in routers)]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": routers, "lr": ROUTER_LEARNING_RATE}]
    optimizer = torch.optim.AdamW(groups, PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_scale)
    started = time.perf_counter()
    for step in range(STEPS):
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1))
        input_ids_BT = text_bytes[starts + torch.arange(CONTEXT)].long()
        loss = model.train()(input_ids=input_ids_BT, labels=input_ids_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % REPORT_EVERY == 0:
            bits = float(loss.detach()) / math.log(2)
            print(
                f"step {step + 1}: training {bits:.2f}, {held_out_report(model)}, "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
    return model.eval()


def main() -> None:
    """Train and write config.json and model.safetensors next to this file."""
    torch.set_num_threads(1)  # sums then round the same way on any number of cores
    model = train()
    model.config.dtype = torch.bfloat16
    model.config.to_json_file(HERE / "config.json")
    weights = {name: weight.bfloat16().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, HERE / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
