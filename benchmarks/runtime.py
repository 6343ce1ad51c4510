"""Times of the runtime, each next to a baseline in the same run.

Run from the repository root: `python -m benchmarks.runtime [PART...]`; parts are `one-process`, `ranks` and `memory`,
all by default. Ranks use NCCL, GPUs and bfloat16 where every rank has a GPU, gloo and CPUs elsewhere.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.mid_size_moe import DECODE, PREFILL, build_model, random_tokens, skewed_plan
from craftc.deployment.optimized_folder import PLAN, WEIGHTS
from craftc.deployment.prepare_model import prepare
from craftc.deployment.weights import write_weights
from craftc.plans.file import write_plan
from craftc.ranks.launch import launch_ranks

VIRTUAL_GPUS = 4
MODEL_FILE = str(Path(__file__).with_name("mid_size_moe.py"))
RANKS = (4, 2)
ROUNDS = 15
LIMIT_S = 540.0


def main(parts: list[str]) -> None:
    for part in parts or ["one-process", "ranks", "memory"]:
        PARTS[part]()


def one_process() -> None:
    """The rewritten model against the original, both with the original's fastest experts implementation."""
    print("\n".join(compare_in_one_process()), flush=True)


def compare_in_one_process() -> Iterator[str]:
    """A table: milliseconds per forward for prefill and decode, and ratios: medians over pairs of forwards, one of each
    model, of times and of processor times."""
    yield f"\none process, {torch.get_num_threads()} threads, {VIRTUAL_GPUS} virtual GPUs, 25% replicas, float32"
    yield (f"{'tokens':<18}{'fastest experts':>16}{'original ms':>13}{'rewritten ms':>14}{'ratio':>8}{'CPU ratio':>11}")
    original = build_model()
    rewritten = prepare(build_model(), skewed_plan(original, VIRTUAL_GPUS))
    for name, shape in (("prefill", PREFILL), ("decode", DECODE)):
        tokens = random_tokens(shape, seed=1)
        times = {kind: min(spent(_forward(original, kind, tokens)) for _ in range(4)) for kind in _kinds(name)}
        fastest = min(times, key=lambda kind: times[kind])
        runs = [_forward(original, fastest, tokens), _forward(rewritten, fastest, tokens)]
        spent(runs[1])
        rounds = []
        for number in range(ROUNDS):  # each is first in every other round
            order = (0, 1) if number % 2 else (1, 0)
            found = {which: spent(runs[which]) for which in order}
            rounds.append((found[0], found[1]))
        wall, processor = ([(before[at], after[at]) for before, after in rounds] for at in (0, 1))
        ours, theirs = (statistics.median(times) for times in zip(*wall, strict=True))
        ratios = [statistics.median(after / before for before, after in pairs) for pairs in (wall, processor)]
        yield (
            f"{name} {shape[0]} x {shape[1]:<6}{fastest:>18}{ours:>13.1f}{theirs:>14.1f}"
            f"{ratios[0]:>8.3f}{ratios[1]:>11.3f}"
        )


def _kinds(name: str) -> tuple[str, ...]:
    """Experts implementations worth trying: batched_mm copies an expert's weights for every token."""
    return ("grouped_mm", "eager") if name == "prefill" else ("grouped_mm", "eager", "batched_mm")


def _forward(model: Any, kind: str, tokens: torch.Tensor) -> Callable[[], object]:
    def forward() -> object:
        model.config._experts_implementation = kind
        with torch.inference_mode():
            return model(tokens, use_cache=False)

    return forward


def spent(call: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds, and milliseconds of processor time over all threads, that `call` takes."""
    started, processor = time.perf_counter(), time.process_time()
    call()
    return 1000 * (time.perf_counter() - started), 1000 * (time.process_time() - processor)


def ranks() -> None:
    """Real ranks: transformers' own expert parallelism, this runtime without replicas, and with them."""
    for number in RANKS:
        launch_ranks(number, "benchmarks.runtime_ranks", [], LIMIT_S)


def memory() -> None:
    """Peak memory of a rank that loads its part, against the size of its weights."""
    model = build_model()
    planned = skewed_plan(model, RANKS[0])
    with tempfile.TemporaryDirectory(prefix="craftc-benchmark-") as folder:
        write_plan(planned, Path(folder) / PLAN)
        (Path(folder) / WEIGHTS).mkdir()
        write_weights(model, planned, Path(folder) / WEIGHTS)
        launch_ranks(RANKS[0], "benchmarks.runtime_memory", [folder, MODEL_FILE], LIMIT_S)


PARTS: dict[str, Callable[[], None]] = {"one-process": one_process, "ranks": ranks, "memory": memory}

if __name__ == "__main__":
    main(sys.argv[1:])
