"""What every rank does in `python -m benchmarks.runtime ranks`. Rank 0 prints.

Axes: W ranks, L layers.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.mid_size_moe import (
    DECODE,
    EXPERTS,
    MANY_SEQUENCES,
    build_model,
    calibration_batches,
    plain_plan,
    random_tokens,
    skewed_plan,
)
from craftc.deployment.prepare_model import prepare
from craftc.passes.rewriting.checking.output_comparison import replicated_modules
from craftc.passes.rewriting.checking.token_prediction import routed_tokens
from craftc.plans.replication_plan import ReplicationPlan
from craftc.ranks.program import run_on_rank
from craftc.runtime.local_experts import local_experts
from craftc.runtime.process_group import rank_device
from craftc.runtime.rank_group import RankGroup
from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.planners.contiguous import contiguous_placement
from craftc.topology import Topology

ROUNDS = 15
PHASES = ("route", "dispatch", "compute", "combine")


def main(group: RankGroup) -> None:
    device = rank_device()
    on_gpus = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpus else torch.float32
    if group.rank == 0 and not on_gpus:
        print("GPU part skipped: no GPU for every rank (NCCL, bfloat16); these are gloo ranks on CPUs", flush=True)
    model = build_model(dtype)
    planned = [skewed_plan(model, group.size) if group.rank == 0 else None]
    dist.broadcast_object_list(planned, group=group.process_group, group_src=0)
    assert planned[0] is not None
    plans = {"no replicas": plain_plan(planned[0], model), "craftc's plan": planned[0]}
    ours = {
        name: prepare(build_model(dtype).to(device), plan, group=group.process_group) for name, plan in plans.items()
    }
    theirs = {"transformers all_to_all": transformers_parallel(build_model(dtype).to(device), group)}
    for name, shape in (("prefill", MANY_SEQUENCES), ("decode", DECODE)):
        tokens = random_tokens(shape, seed=1 + group.rank).to(device)
        say(group, compare(f"{name} {shape[0]} x {shape[1]} tokens a rank", ours, theirs, plans, tokens, group))
    say(group, compare_with_plan(ours["craftc's plan"], planned[0], device, group))


def compare(
    title: str,
    ours: dict[str, nn.Module],
    theirs: dict[str, nn.Module],
    plans: dict[str, ReplicationPlan],
    tokens: torch.Tensor,
    group: RankGroup,
) -> Iterator[str]:
    """A table: milliseconds per step of the slowest rank, processor time of all ranks together, phases, tokens of the
    busiest rank, and ratios (medians over rounds of a step's time to that of the plain step in the same round)."""
    phases = {name: PhaseTimes(model) for name, model in ours.items()}
    times: dict[str, list[float]] = defaultdict(list)
    processor: dict[str, list[float]] = defaultdict(list)
    for model in (*ours.values(), *theirs.values()):
        step_ms(model, tokens, group)
    busiest = {name: busiest_over_mean(model, tokens, group) for name, model in ours.items()}
    for name in ours:
        phases[name].start()
    for _ in range(ROUNDS):  # in turn, so that a busy moment of the machine meets all
        for name, model in (ours | theirs).items():
            before = time.process_time()
            times[name].append(step_ms(model, tokens, group))
            spent = torch.tensor(1000 * (time.process_time() - before), device=tokens.device)
            dist.all_reduce(spent, group=group.process_group)
            processor[name].append(float(spent))
    yield f"\n{title}, {group.size} ranks, {'NCCL' if tokens.is_cuda else 'gloo'}, {next(iter(ours.values())).dtype}"
    yield (
        f"{'':<28}{'step ms':>9}{'x plain':>9}{'CPU ms':>9}"
        + "".join(f"{phase:>10}" for phase in PHASES)
        + f"{'busiest/mean':>14}{'predicted':>11}{'estimate':>10}"
    )
    for name, steps in times.items():
        ratio = statistics.median(step / plain for step, plain in zip(steps, times["no replicas"], strict=True))
        line = f"{name:<28}{statistics.median(steps):>9.1f}{ratio:>9.2f}{statistics.median(processor[name]):>9.1f}"
        if name in ours:
            line += "".join(f"{ms:>10.1f}" for ms in phases[name].slowest(ROUNDS, group))
            estimate = plans[name].estimate
            line += f"{busiest[name][0]:>14.3f}{busiest[name][1]:>11.3f}"
            line += "" if estimate is None else f"{1 / estimate.balancedness:>10.3f}"
        yield line


def compare_with_plan(model: nn.Module, plan: ReplicationPlan, device: torch.device, group: RankGroup) -> Iterator[str]:
    """Tokens of the busiest rank on the batches that the plan was made from, against what the plan says of them."""
    assert plan.estimate is not None
    modules = replicated_modules(model)
    balancedness = []
    for batch in calibration_batches():
        for module in modules:
            module.reset_counters()
        rows = batch["input_ids"].tensor_split(group.size)[group.rank].to(device)
        with torch.no_grad():
            model(rows, use_cache=False)
        tokens_LW = torch.zeros(len(modules), group.size, device=device)
        tokens_LW[:, group.rank] = torch.tensor([module.tokens_per_gpu()[group.rank] for module in modules])
        dist.all_reduce(tokens_LW, group=group.process_group)
        balancedness.append(float((tokens_LW.mean(1) / tokens_LW.amax(1)).mean()))
    counted, planned = statistics.mean(balancedness), plan.estimate.balancedness
    yield (
        f"\ntokens of the plan's own batches: the busiest rank has {1 / counted:.4f} x the mean, "
        f"1 / the plan's balancedness is {1 / planned:.4f} (ratio {planned / counted:.4f})"
    )


def step_ms(model: nn.Module, tokens: torch.Tensor, group: RankGroup) -> float:
    """Milliseconds of one forward, from a common start to the end of the slowest rank."""
    dist.barrier(group=group.process_group)
    started = time.perf_counter()
    with torch.no_grad():
        model(tokens, use_cache=False)
    synchronize(tokens)
    slowest = torch.tensor(1000 * (time.perf_counter() - started), device=tokens.device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX, group=group.process_group)
    return float(slowest)


def synchronize(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


class PhaseTimes:
    """Milliseconds in the phases of replicated experts. Dispatch and combine include waiting for other ranks."""

    def __init__(self, model: nn.Module) -> None:
        self.ms: dict[str, float] = {}
        for module in replicated_modules(model):
            dispatcher: Any = module.dispatcher
            module.choice.forward = self._timed("route", module.choice.forward)
            for phase in PHASES[1:]:
                setattr(dispatcher, phase, self._timed(phase, getattr(dispatcher, phase)))

    def start(self) -> None:
        self.ms = dict.fromkeys(PHASES, 0.0)

    def slowest(self, rounds: int, group: RankGroup) -> list[float]:
        """Per step, the largest of all ranks, in the order of PHASES."""
        gathered: list[Any] = [None] * group.size
        dist.all_gather_object(gathered, self.ms, group=group.process_group)
        return [max(phase_ms[phase] for phase_ms in gathered) / rounds for phase in PHASES]

    def _timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            started = time.perf_counter()
            result = call(*args)
            synchronize(args[0] if isinstance(args[0], torch.Tensor) else args[1])
            self.ms[phase] = self.ms.get(phase, 0.0) + 1000 * (time.perf_counter() - started)
            return result

        return timed


def busiest_over_mean(model: nn.Module, tokens: torch.Tensor, group: RankGroup) -> tuple[float, float]:
    """Tokens of the busiest rank / mean in one step, averaged over layers: counted, and predicted from the plan's
    shares and the experts that the routers chose."""
    modules = replicated_modules(model)
    for module in modules:
        module.reset_counters()
    with routed_tokens(model) as routed:
        step_ms(model, tokens, group)
    counted, predicted = [], []
    for module in modules:
        table, own = module.table, torch.zeros(group.size, device=tokens.device)
        own[group.rank] = module.tokens_per_gpu()[group.rank]
        tokens_E = routed[module.name].tokens_E
        for total in (own, tokens_E):
            dist.all_reduce(total, group=group.process_group)
        share_S = torch.tensor(table.share_S, device=tokens.device)
        slot_S = share_S * tokens_E[torch.tensor(table.expert_S, device=tokens.device)]
        gpu_W = torch.zeros_like(own).index_add(0, torch.tensor(table.gpu_S, device=tokens.device), slot_S)
        counted.append(float(own.max() / own.mean()))
        predicted.append(float(gpu_W.max() / gpu_W.mean()))
    return statistics.mean(counted), statistics.mean(predicted)


def transformers_parallel(model: Any, group: RankGroup) -> nn.Module:
    """`model` under transformers' own expert parallelism: its all-to-all dispatcher over even shards of the experts in
    order. Set up by hand, so that everything else is as in ours (`from_pretrained` also shards the dense parts)."""
    from transformers.distributed.expert_parallel import AllToAllEP

    mesh = init_device_mesh(model.device.type, (group.size, 1), mesh_dim_names=("ep", "tp"))
    held = contiguous_placement(layer_slots([EXPERTS], Topology(group.size))[0])[group.rank]
    for block in model.model.layers:
        block.mlp.experts = local_experts(block.mlp.experts, held)
        block.mlp.experts.forward = AllToAllEP(block.mlp.experts, mesh["ep"], mesh["tp"])
    return model


def say(group: RankGroup, lines: Iterator[str]) -> None:
    """Every rank computes the lines (they need all of them), rank 0 prints."""
    text = "\n".join(lines)
    if group.rank == 0:
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(run_on_rank(main, timeout_s=300))
