"""What profiling costs: time of profile_loads over that of plain forward passes on the same batches of tiny_moe.

Run from the repository root: `python -m benchmarks.profiling`. Rounds alternate, the medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from craftc.models.workload import WorkloadInputs
from craftc.passes.analysis.profile_loads import ProfileLoads
from craftc.passes.analysis.trace import call_model
from craftc.passes.base import run_checked
from craftc.passes.pipelines import analysed
from examples.tiny_moe.model import build_model, calibration_inputs

ROUNDS = 7
TARGET = 1.10


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print the median seconds of both and their ratio."""
    model, batches = build_model(), list(calibration_inputs())
    compilation = analysed(model, WorkloadInputs(batches[0], lambda: batches))

    @torch.no_grad()
    def plain() -> None:
        for batch in batches:
            call_model(model, batch)

    def profiled() -> None:
        run_checked(ProfileLoads(), compilation)

    for work in (plain, profiled):
        work()  # first calls allocate
    rounds = [(seconds_of(plain), seconds_of(profiled)) for _ in range(ROUNDS)]
    plain_seconds, profiled_seconds = (statistics.median(column) for column in zip(*rounds, strict=True))
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    print(f"{len(batches)} batches, {tokens:,} tokens, median of {ROUNDS} rounds")
    print(f"plain forward passes  {plain_seconds:.3f} s")
    print(f"profile_loads         {profiled_seconds:.3f} s")
    print(f"ratio                 {profiled_seconds / plain_seconds:.3f} (target: at most {TARGET:.2f})")


if __name__ == "__main__":
    main()
