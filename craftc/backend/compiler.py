"""The Dynamo backend: the MoE layers of a graph become replicated ones, and `inner` compiles the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch._dynamo.backends.registry import lookup_backend

from craftc.backend.owners import Frame, captured_frame
from craftc.backend.regions import Region, find_regions
from craftc.backend.session import Session, session_for
from craftc.backend.split import compile_around, replace_regions
from craftc.passes.analysis.tracing.experts import find_experts
from craftc.passes.compilation import NearMiss, no_moe_layer


@dataclass(frozen=True, eq=False)
class CompiledGraph:
    """What Dynamo runs in place of a graph."""

    run: Callable[..., Any]
    """Takes the graph's inputs and returns its outputs, a tuple."""
    session: Session
    """Kept alive as long as any graph of it is."""

    def __call__(self, *inputs: Any) -> Any:
        return self.run(*inputs)


def craftc(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> CompiledGraph:
    """The backend that `torch.compile(model, backend="craftc", options={...})` calls with every captured graph.

    `options` are the fields of `CompileOptions`. A layer that cannot be replaced is left to the inner backend, and the
    reason is logged once. Raises BadInput for wrong options, plans or loads, what planning raises, and under `strict`
    Unsupported for a layer that is not replaced; Dynamo wraps them in its BackendCompilerFailed.
    """
    session = session_for(options, mode)
    inner = lookup_backend(session.options.inner)
    frame = captured_frame(gm, example_inputs)
    if frame.root is not None and not frame.experts:
        session.leave_unchanged(_broken_layers(frame.root) or _unrecognised(frame.root, session))
    calls = _matched_calls(gm, frame, session)
    if not calls:
        return CompiledGraph(inner(gm, list(example_inputs)), session)
    replace_regions(gm, calls)
    return CompiledGraph(compile_around(gm, tuple(calls), inner), session)


def _matched_calls(gm: fx.GraphModule, frame: Frame, session: Session) -> dict[str, tuple[Region, nn.Module]]:
    """Attribute of `gm`, region and module of every layer that is replaced."""
    if frame.root is None or not frame.experts:
        return {}
    if reason := _why_not_a_model(frame):
        session.leave_unchanged([NearMiss(experts.parameters.name or "experts", reason) for experts in frame.experts])
        return {}
    plan = session.model_plan(frame.root)
    regions = find_regions(gm.graph, [experts.parameters for experts in frame.experts])
    found = [
        (region, plan.call_of(owned) if isinstance(region, Region) else region)
        for owned, region in zip(frame.experts, regions, strict=True)
    ]
    session.leave_unchanged([call for _, call in found if isinstance(call, NearMiss)])
    return {
        f"craftc_moe_{number}": (region, call)
        for number, (region, call) in enumerate(found)
        if isinstance(region, Region) and not isinstance(call, NearMiss)
    }


def _why_not_a_model(frame: Frame) -> str | None:
    if frame.is_piece:
        return (
            "Dynamo's DDP optimizer cuts the graph at DDP's buckets, through the experts: "
            "set torch._dynamo.config.optimize_ddp = False before the first call"
        )
    if any(experts.module is frame.root for experts in frame.experts):
        return "torch.compile broke the graph around it and compiles it alone; TORCH_LOGS=graph_breaks says why"
    return None


def _broken_layers(root: nn.Module) -> list[NearMiss]:
    """Layers of `root` that can be in none of its graphs, because Dynamo breaks the graph inside their forward."""
    broken = []
    for experts in find_experts(root)[0]:
        if experts.layout == "module_list":
            reason = (
                "torch.compile breaks the graph in its loop over experts: call craftc.prepare(model, plan, inputs=...) "
                "and compile the result with any other backend, or use the model of craftc.optimize(model, ...)"
            )
            broken.append(NearMiss(experts.path, reason))
            continue
        config = getattr(root.get_submodule(experts.path), "config", None)
        if getattr(config, "_experts_implementation", None) == "eager":
            reason = (
                "the experts implementation 'eager' breaks the graph: call "
                "model.set_experts_implementation('grouped_mm') (or 'batched_mm') before torch.compile"
            )
            broken.append(NearMiss(experts.path, reason))
    return broken


def _unrecognised(root: nn.Module, session: Session) -> tuple[NearMiss, ...]:
    """What is almost an MoE layer in `root`; that there is none at all, unless another graph had some."""
    recognised, near_misses = find_experts(root)
    if recognised or near_misses or session.has_plans:
        return near_misses
    kind = type(root).__name__
    return (NearMiss(kind, no_moe_layer(kind, ())),)
