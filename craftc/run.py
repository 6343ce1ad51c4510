"""Run an optimized model: `torchrun --nproc-per-node G -m craftc.run DIR --inputs x.safetensors --out y.safetensors`.

The batch is split over the ranks; the outputs are written to one file, in the order of the batch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from craftc.deployment.load_model import load_model
from craftc.errors import BadInput
from craftc.files.atomic_write import write_bytes
from craftc.passes.analysis.tracing.model import call_model
from craftc.ranks.program import run_on_rank
from craftc.ranks.rows import named_tensors, rows_of_rank
from craftc.runtime.process_group import DEFAULT_TIMEOUT_S, rank_device, why_gpus_are_idle
from craftc.runtime.rank_group import RankGroup


def main(arguments: list[str]) -> int:
    """Parse `arguments` and run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m craftc.run", description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder that craftc optimize --out wrote")
    add("--inputs", type=Path, required=True, metavar="FILE", help="the forward's tensors by name, .safetensors")
    add("--out", type=Path, required=True, metavar="FILE", help="the outputs to write, .safetensors")
    add("--model", metavar="MODEL", help="where the model is now, if not where optimize found it")
    add("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="SECONDS", help="longest wait for another rank")
    options = parser.parse_args(arguments)
    return run_on_rank(
        lambda group: run(options.folder, options.inputs, options.out, group, options.model), options.timeout
    )


def run(folder: Path, inputs: Path, out: Path, group: RankGroup, model: str | None = None) -> None:
    """Load this rank's part of the model in `folder`, run its rows of `inputs`, and write `out` on rank 0."""
    device = str(rank_device())
    reason = why_gpus_are_idle()
    if group.rank == 0 and reason is not None:
        print(f"craftc: running on CPUs: {reason}", file=sys.stderr)
    batch, rows = rows_of_rank(_read_inputs(inputs), group.rank, group.size)
    loaded = load_model(folder, group=group.process_group, model=model, device=device)
    with torch.inference_mode():
        output = call_model(loaded, {name: tensor.to(device) for name, tensor in batch.items()})
    own = {name: tensor[:rows].cpu() for name, tensor in named_tensors(output).items()}
    gathered: list[Any] = [None] * group.size
    dist.all_gather_object(gathered, own, group=group.process_group)
    if group.rank == 0:
        _write_outputs({name: torch.cat([part[name] for part in gathered]) for name in own}, out)


def _read_inputs(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot read inputs {path}: {error}") from None


def _write_outputs(outputs: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save

    write_bytes(path, save({name: tensor.contiguous() for name, tensor in outputs.items()}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
