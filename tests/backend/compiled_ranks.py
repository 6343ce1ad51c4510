"""Program of `test_ranks.py`: the compiled model on real ranks against the model itself.

Prints nothing; the first failed check raises on its rank. Ranks have other batches, and at times none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from craftc.backend.model_plan import ModelPlan
from craftc.backend.moe_call import MoECall
from craftc.backend.owners import OwnedExperts
from craftc.passes.compilation import NearMiss
from craftc.runtime.process_group import rank_process_group
from tests.backend.tiny_moe import TOP_K, TinyMoE, batch, round_robin_plan

BATCHES = (((2, 5), (3, 5)), ((1, 7), (0, 7)), ((0, 5), (2, 5)))
"""Rows and tokens of every rank, call by call."""


def check_outputs(rank: int, group: Any) -> None:
    model = TinyMoE()
    options: dict[str, Any] = {"plan": round_robin_plan(model), "inner": "eager", "strict": True, "group": group}
    run = torch.compile(model, backend="craftc", options=options)
    with torch.no_grad():
        for number, shapes in enumerate(BATCHES):
            hidden = batch(*shapes[rank], seed=number)
            assert torch.allclose(run(hidden), model(hidden), atol=1e-5), (rank, shapes)
        for parameter in model.parameters():
            parameter.mul_(1.25)
        hidden = batch(seed=rank)
        assert torch.allclose(run(hidden), model(hidden), atol=1e-5), "the copies did not follow the weights"


def check_gradients(rank: int, wrap: Callable[[nn.Module], nn.Module], divisor: int) -> None:
    """Summed over ranks (averaged, with DDP), gradients are those of the sum of the ranks' losses (of their mean)."""
    model = TinyMoE()
    options: dict[str, Any] = {"plan": round_robin_plan(model), "inner": "aot_eager", "strict": True}
    run = torch.compile(wrap(model), backend="craftc", options=options)
    run(batch(2, 5, seed=rank)).square().sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    sum(model(batch(2, 5, seed=seed)).square().sum() for seed in range(2)).div(divisor).backward()
    for name, parameter in model.named_parameters():
        if divisor == 1:
            dist.all_reduce(ours[name])
        assert torch.allclose(ours[name], parameter.grad, atol=1e-4), name  # type: ignore[arg-type]


def check_profile_then_plan(rank: int) -> None:
    made: list[MoECall] = []
    call_of = ModelPlan.call_of

    def spy(self: ModelPlan, owned: OwnedExperts) -> MoECall | NearMiss:
        call = call_of(self, owned)
        assert isinstance(call, MoECall)
        made.append(call)
        return call

    ModelPlan.call_of = spy  # type: ignore[method-assign]
    model = TinyMoE()
    options: dict[str, Any] = {"gpus": 2, "budget": "50%", "profile_calls": 2, "inner": "eager", "strict": True}
    run = torch.compile(model, backend="craftc", options=options)
    with torch.no_grad():
        for number in range(3):
            hidden = batch(2 + rank, 5, seed=10 * number + rank)
            assert torch.allclose(run(hidden), model(hidden), atol=1e-5)
    for call in dict.fromkeys(made):
        assert call.replicated is not None
        tokens = torch.tensor(sum(call.replicated.tokens_per_gpu().values()))
        dist.all_reduce(tokens)
        assert int(tokens) == (2 + 3) * 5 * TOP_K
    slots = [0] * 2
    dist.all_gather_object(slots, [call.replicated.table.expert_S for call in made if call.replicated])
    assert slots[0] == slots[1]
    ModelPlan.call_of = call_of  # type: ignore[method-assign]


def check_wrong_number_of_ranks() -> None:
    plan = round_robin_plan(TinyMoE(), gpus=4, replicas=0)
    for source in ({"gpus": 4, "budget": "50%"}, {"plan": plan}):
        options: dict[str, Any] = {"inner": "eager", **source}
        with pytest.raises(BackendCompilerFailed, match=r"(for|is) 4( GPUs)?, but 2 ranks are running"):
            torch.compile(TinyMoE(), backend="craftc", options=options)(batch())


def check_ddp_in_several_buckets(rank: int) -> None:
    """Dynamo's DDP optimizer cuts the graph through the experts, unless told not to."""
    dist._DEFAULT_FIRST_BUCKET_BYTES = 512

    def wrap(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model, bucket_cap_mb=0.001)

    with pytest.raises(BackendCompilerFailed, match="optimize_ddp = False"):
        check_gradients(rank, wrap, 2)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(optimize_ddp=False):
        check_gradients(rank, wrap, 2)


def main() -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    with rank_process_group(timeout_s=60):
        for check in (
            lambda: check_outputs(rank, None),
            lambda: check_outputs(rank, init_device_mesh("cpu", (2,))),
            lambda: check_gradients(rank, lambda model: model, 1),
            lambda: check_gradients(rank, DistributedDataParallel, 2),
            lambda: check_ddp_in_several_buckets(rank),
            lambda: check_profile_then_plan(rank),
            check_wrong_number_of_ranks,
        ):
            torch._dynamo.reset()  # beyond 8 graphs of one forward Dynamo gives up and runs the model itself
            check()
