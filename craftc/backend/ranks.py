"""Where a compiled model runs: virtual GPUs in this process, or the ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from craftc.backend.moe_call import AllExperts, MoECall, OwnExperts
from craftc.backend.options import CompileOptions
from craftc.errors import BadInput, CraftcError
from craftc.planning_options import PlanningRequest
from craftc.plans.file import parse_plan, plan_bytes
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.runtime.agreement import check_ranks_agree
from craftc.runtime.c10d import C10dDispatcher
from craftc.runtime.copy_choice import copy_choice
from craftc.runtime.exchange import rank_failures
from craftc.runtime.rank_group import RankGroup, rank_group
from craftc.runtime.replicated_experts import ReplicatedExperts, virtual_experts
from craftc.runtime.slot_table import slot_table


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks to run on; None means virtual GPUs in this process."""

    group: RankGroup | None

    @classmethod
    def of(cls, options: CompileOptions) -> Ranks:
        """The group that `options` name. Raises BadInput unless it has one rank for every GPU to plan for."""
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        chosen = options.group or (dist.group.WORLD if several else None)
        if chosen is None:
            return cls(None)
        group = rank_group(chosen)
        if isinstance(options.plan, PlanningRequest) and (gpus := options.plan.topology.gpus) != group.size:
            raise BadInput(
                f"torch.compile: option gpus is {gpus}, but {group.size} ranks are running; "
                f"start {gpus} ranks, or give gpus={group.size}"
            )
        return cls(group)

    def check(self, plan: ReplicationPlan) -> None:
        """Raise BadInput, on every rank, if the plans of the ranks differ or are for another number of GPUs."""
        if self.group is not None:
            check_ranks_agree(plan, self.group)

    def sum(self, counts: Tensor) -> Tensor:
        """`counts` summed over all ranks."""
        if self.group is None:
            return counts
        total = counts.clone()
        with rank_failures(self.group, "sum of the counted loads"):
            dist.all_reduce(total, group=self.group.process_group)
        return total

    def agree(self, make: Callable[[], ReplicationPlan]) -> ReplicationPlan:
        """The plan that the first rank makes, for every rank; an error of the first rank is raised on every rank."""
        if self.group is None:
            return make()
        message: list[bytes | CraftcError | None] = [_plan_or_error(make) if self.group.rank == 0 else None]
        with rank_failures(self.group, "broadcast of the plan"):
            dist.broadcast_object_list(message, group=self.group.process_group, group_src=0)
        answer = message[0]
        if isinstance(answer, CraftcError):
            raise answer
        assert answer is not None
        return parse_plan(answer)

    def replicate(self, call: MoECall, layer: LayerPlan) -> None:
        """From its next forward on, `call` runs as `layer` says."""
        if self.group is None:
            call.replicate(virtual_experts(nn.Module(), layer), AllExperts())
            return
        table = slot_table(layer)
        dispatcher = C10dDispatcher(table, self.group, layer.name)
        choice = copy_choice(layer, self.group.rank)
        own = OwnExperts(table.experts_of(self.group.rank))
        call.replicate(ReplicatedExperts(nn.Module(), choice, dispatcher, table, layer.name), own)


def _plan_or_error(make: Callable[[], ReplicationPlan]) -> bytes | CraftcError:
    try:
        return plan_bytes(make())
    except CraftcError as error:
        return error
