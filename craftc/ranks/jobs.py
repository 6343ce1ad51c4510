"""`craftc verify --ranks` and `craftc profile --ranks`: the same work as in one process, by real ranks.

The ranks are started through torchrun; rank 0 writes the result to a file that the starting process reads.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.loads.read_loads import read_loads
from craftc.passes.compilation import Verification
from craftc.plans.file import read_plan
from craftc.ranks.launch import launch_ranks

WHOLE_JOB_S = 3600.0
"""Longest time for all ranks together; a rank that waits for another gives up much sooner."""


def verify_on_ranks(model: str, plan: Path, ranks: int) -> Verification:
    """Start `ranks` ranks, each with its own copies, and compare outputs, layers and tokens per rank.

    model: as on the command line. Every batch is split over the ranks. Raises VerificationFailed if something differs,
    BadInput if the plan is for another number of GPUs, RankFailed if a rank breaks.
    """
    gpus = read_plan(plan).topology.gpus
    if ranks != gpus:
        raise BadInput(f"plan {plan} is for {gpus} GPUs, not for {ranks} ranks: give --ranks {gpus}")
    with tempfile.TemporaryDirectory(prefix="craftc-verify-") as folder:
        result = Path(folder) / "verification.json"
        launch_ranks(ranks, "craftc.ranks.verify", [model, str(plan), str(result)], WHOLE_JOB_S)
        return Verification(**json.loads(result.read_text()))


def profile_on_ranks(model: str, ranks: int, max_steps: int | None, mask_input: str | None) -> LoadProfile:
    """Start `ranks` ranks, each of which runs its share of the calibration batches; their counts are summed.

    The loads equal those that one process measures. Raises BadInput naming the batch at fault, RankFailed if a rank
    breaks.
    """
    if max_steps is not None and max_steps < 1:
        raise BadInput(f"profile: steps must be at least 1, got {max_steps}")
    options = json.dumps({"max_steps": max_steps, "mask_input": mask_input})
    with tempfile.TemporaryDirectory(prefix="craftc-profile-") as folder:
        result = Path(folder) / "loads.npz"
        launch_ranks(ranks, "craftc.ranks.profile", [model, options, str(result)], WHOLE_JOB_S)
        loads = read_loads(result)
    return replace(loads, provenance=f"{model}: {loads.steps} batches on {ranks} ranks")
