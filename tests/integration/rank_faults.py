"""A rank of a run that breaks: `python -m tests.integration.rank_faults FAULT TIMEOUT`. The last rank has the fault."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
from torch import nn

from craftc.errors import BadInput
from craftc.plans.replication_plan import LayerPlan
from craftc.ranks.program import run_on_rank
from craftc.runtime.agreement import check_ranks_agree
from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.rank_group import RankGroup
from craftc.runtime.replicated_experts import distributed_experts
from craftc.solvers.problem import Placement
from tests.runtime.plans import plan_of

STEPS = 400
FAULT_STEP = 3


def main(fault: str, timeout_s: float) -> int:
    return run_on_rank(lambda group: work(fault, group), timeout_s)


def work(fault: str, group: RankGroup) -> None:
    faulty = group.rank == group.size - 1
    layer = _layer(group.size, turned=faulty and fault == "other plan")
    check_ranks_agree(plan_of((layer,), group.size + (fault == "other size")), group)
    torch.manual_seed(0)
    replicated = distributed_experts(ModuleListExperts(nn.Linear(4, 4) for _ in range(4)), layer, group)
    for step in range(STEPS):
        if faulty and step == FAULT_STEP:
            _break(fault)
        replicated(torch.ones(6, 4), torch.arange(12).reshape(6, 2) % 4, torch.ones(6, 2))
        time.sleep(0.01 if fault != "none" else 0)


def _break(fault: str) -> None:
    if fault == "raise":
        raise BadInput("the sum of two and two is five")
    if fault == "bug":
        raise KeyError("nothing here")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stuck":
        time.sleep(120)


def _layer(size: int, turned: bool) -> LayerPlan:
    held: list[list[int]] = [[] for _ in range(size)]
    for expert in range(4):
        held[(expert + turned) % size].append(expert)
    placement: Placement = tuple(map(tuple, held))
    return LayerPlan("experts", 0, 4, 2, 1, 0, placement)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
