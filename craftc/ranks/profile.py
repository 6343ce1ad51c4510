"""One rank's part of `craftc profile --ranks`: `python -m craftc.ranks.profile MODEL OPTIONS RESULT`.

Axes: S steps, L layers, E experts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from craftc.errors import BadInput
from craftc.loads.file import write_loads
from craftc.loads.load_profile import LoadProfile
from craftc.models.model_file import load_model_source
from craftc.models.workload import WorkloadInputs
from craftc.passes.analysis.profile_loads import ProfileLoads
from craftc.passes.pipelines import profiled
from craftc.ranks.program import run_on_rank
from craftc.runtime.process_group import DEFAULT_TIMEOUT_S
from craftc.runtime.rank_group import RankGroup


def profile_rank(model: str, max_steps: int | None, mask_input: str | None, result: Path, group: RankGroup) -> None:
    """Run batches rank, rank + size, rank + 2 size, ...; rank 0 writes the loads of all ranks to `result`."""
    source = load_model_source(model)
    stream = _own_stream(source.inputs, max_steps, group)
    own: LoadProfile | None = None
    if next(stream(), None) is not None:
        profiling = ProfileLoads(mask_input=mask_input, model_name=source.name)
        own = profiled(source.model, WorkloadInputs(source.inputs.example, stream), profiling).loads
    parts: list[LoadProfile | None] = [None] * group.size
    dist.all_gather_object(parts, own, group=group.process_group)
    if group.rank == 0:
        write_loads(summed_loads(parts), result)


def summed_loads(parts: list[LoadProfile | None]) -> LoadProfile:
    """The loads of all ranks, steps in the order of the stream. `parts[r]` has steps r, r + size, ...; None means no
    step.

    Raises BadInput if no rank has a step.
    """
    measured = [part for part in parts if part is not None]
    if not measured:
        raise BadInput("profile: calibration_inputs() yields no batch; yield at least one, or leave it out")
    steps = sum(part.steps for part in measured)
    counts_SLE = np.zeros((steps, *measured[0].counts_SLE.shape[1:]), dtype=np.int64)
    step_names = [""] * steps
    for rank, part in enumerate(measured):
        counts_SLE[rank :: len(parts)] += part.counts_SLE
        step_names[rank :: len(parts)] = part.step_names or [""] * part.steps
    return replace(
        measured[0],
        counts_SLE=counts_SLE,
        step_names=tuple(step_names) if any(step_names) else (),
    )


def _own_stream(inputs: WorkloadInputs, max_steps: int | None, group: RankGroup) -> Callable[[], Iterator[Any]]:
    stream = inputs.calibration or (lambda: [inputs.example])
    return lambda: islice(islice(stream(), max_steps), group.rank, None, group.size)


def main(model: str, options: str, result: str) -> int:
    """Parse the arguments that `profile_on_ranks` passes; returns the exit code."""
    chosen = json.loads(options)
    return run_on_rank(
        lambda group: profile_rank(model, chosen["max_steps"], chosen["mask_input"], Path(result), group),
        DEFAULT_TIMEOUT_S,
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
