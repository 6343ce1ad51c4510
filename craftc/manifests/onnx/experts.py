"""A rewritten model in ONNX: one node of our own domain per MoE layer, whose body is an ONNX function.

The body runs the model's own experts code over all slots, exported by torch; which copy a token goes to is decided by
its occurrence number within the expert. The exchange of tokens between devices is left to the runtime: ONNX cannot
express an exchange whose sizes depend on the tokens.

Axes: T tokens, K experts per token, P = T x K pairs, H hidden size, S slots, E experts, C copies of the most copied
expert.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from craftc.errors import Unsupported
from craftc.manifests.onnx.annotations import DOMAIN, annotate
from craftc.models.workload import WorkloadInputs
from craftc.passes.pipelines import analysed
from craftc.passes.rewriting.rewrite_experts import rewrite_experts
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.runtime.local_experts import local_experts
from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.slot_table import SlotTable, slot_table

_TOKENS = 5
"""Example tokens of a body; their number is free in the result."""


class ChosenSlots(nn.Module):
    """`index_TK -> slot_TK`: the copies of an expert take turns."""

    def __init__(self, table: SlotTable) -> None:
        super().__init__()
        slots_E = [
            [slot for slot, held in enumerate(table.expert_S) if held == expert] for expert in range(table.experts)
        ]
        most = max(table.copies_E)
        padded = [[slots[copy_number % len(slots)] for copy_number in range(most)] for slots in slots_E]
        self.register_buffer("slot_EC", torch.tensor(padded))
        self.register_buffer("copies_E", torch.tensor(table.copies_E))

    slot_EC: Tensor
    copies_E: Tensor

    def forward(self, index_TK: Tensor) -> Tensor:
        index_P = index_TK.reshape(-1)
        is_expert_PE = nn.functional.one_hot(index_P, self.copies_E.shape[0])
        occurrence_P = (is_expert_PE.cumsum(0) * is_expert_PE).sum(1) - 1
        return self.slot_EC[index_P, occurrence_P % self.copies_E[index_P]].view_as(index_TK)


class FusedBody(nn.Module):
    """Runs all slots through the experts module's own forward, with the weights of the slots as arguments."""

    def __init__(self, experts: nn.Module, table: SlotTable) -> None:
        super().__init__()
        self.choice = ChosenSlots(table)
        slots = local_experts(experts, table.expert_S)
        self.tensors_S = {name: parameter.detach() for name, parameter in slots.named_parameters()}
        if hasattr(slots, "config"):  # transformers' other implementations cannot be exported
            config: Any = copy.copy(slots.config)
            config._experts_implementation = "batched_mm"
            vars(slots)["config"] = config
        self.run = [slots]  # in a list: its parameters are arguments, not this module's

    def forward(self, hidden_TH: Tensor, index_TK: Tensor, weight_TK: Tensor, tensors: list[Tensor]) -> Tensor:
        named = dict(zip(self.tensors_S, tensors, strict=True))
        return torch.func.functional_call(self.run[0], named, (hidden_TH, self.choice(index_TK), weight_TK))


class ListBody(nn.Module):
    """Runs the expert module of every slot on all tokens, weighted by the router, so no sizes depend on the routing."""

    def __init__(self, experts: ModuleListExperts, table: SlotTable) -> None:
        super().__init__()
        self.choice = ChosenSlots(table)
        modules = [experts.experts[expert] for expert in table.expert_S]
        states = [{name: parameter.detach() for name, parameter in module.named_parameters()} for module in modules]
        self.tensors_S = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        self.run = [modules[0]]

    def forward(self, hidden_TH: Tensor, index_TK: Tensor, weight_TK: Tensor, tensors: list[Tensor]) -> Tensor:
        slot_TK = self.choice(index_TK)
        output_TH = torch.zeros_like(hidden_TH)
        for slot in range(tensors[0].shape[0]):
            named = {name: tensor[slot] for name, tensor in zip(self.tensors_S, tensors, strict=True)}
            weight_T1 = (weight_TK * (slot_TK == slot)).sum(1, keepdim=True)
            output_TH = output_TH + torch.func.functional_call(self.run[0], named, (hidden_TH,)) * weight_T1
        return output_TH.to(hidden_TH.dtype)


class ExpertsNode(nn.Module):
    """Stands for the experts of one layer in the exported model: a single node with the weights of the slots as
    inputs."""

    def __init__(self, op_type: str, tensors_S: dict[str, Tensor]) -> None:
        super().__init__()
        self.op_type = op_type
        for name, tensor in tensors_S.items():
            self.register_buffer(name.replace(".", "_"), tensor)

    def forward(self, hidden_TH: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
        inputs = (hidden_TH, index_TK, weight_TK, *self.buffers())
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.op_type}", inputs, dtype=hidden_TH.dtype, shape=hidden_TH.shape, version=1
        )


class AttentionWithHeads(TorchFunctionMode):
    """While inside, attention on three axes `[batch, length, width]` is computed as attention of one head, because
    torch's exporter knows only four axes, with heads.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any
) -> Tensor:
    attention: Any = nn.functional.scaled_dot_product_attention
    if query.dim() != 3:
        return attention(query, key, value, attn_mask, *rest, **options)
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask.unsqueeze(1)
    heads = (matrix.unsqueeze(1) for matrix in (query, key, value))
    return attention(*heads, attn_mask, *rest, **options).squeeze(1)


def export_model(plan: ReplicationPlan, model: nn.Module, example: dict[str, Any]) -> onnx.ModelProto:
    """`model` rewritten to `plan` as an annotated ONNX model with free sizes. Raises BadInput if the two do not
    belong together, Unsupported if torch cannot export the model.
    """
    traced = analysed(model, WorkloadInputs(example))
    bodies: dict[str, FusedBody | ListBody] = {}

    def node_for(experts: nn.Module, layer: LayerPlan) -> nn.Module:
        table = slot_table(layer)
        body = ListBody(experts, table) if isinstance(experts, ModuleListExperts) else FusedBody(experts, table)
        bodies[layer.name] = body
        return ExpertsNode(_op_type(layer), body.tensors_S)

    rewritten = rewrite_experts(traced.graph, plan, node_for)
    free = {name: _free_axes(value) for name, value in example.items()}
    exported = _export(rewritten, (), example, free, "the model")
    nodes = {node.op_type: node for node in exported.graph.node if node.domain == DOMAIN}
    top_k = {layer.name: layer.top_k for layer in traced.layers}
    for layer in plan.layers:
        node = nodes[_op_type(layer)]
        hidden, dtype = _hidden(exported, node), next(iter(bodies[layer.name].tensors_S.values())).dtype
        _add_function(exported, node, bodies[layer.name], hidden, dtype, layer.top_k or top_k[layer.name] or 1)
        annotate(exported, node, layer, list(node.input[3:]))
    return exported


def _op_type(layer: LayerPlan) -> str:
    return f"ReplicatedExperts_{layer.index}"


def _hidden(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    """Hidden size, from the shape that the exporter noted for the node's output."""
    shape = next(value.type.tensor_type.shape for value in model.graph.value_info if value.name == node.output[0])
    return int(shape.dim[1].dim_value)


def _add_function(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    body: FusedBody | ListBody,
    hidden: int,
    dtype: torch.dtype,
    top_k: int,
) -> None:
    """Give `node` its meaning: the exported body as a function of the model; constants move into it."""
    tensors = list(body.tensors_S.values())
    index_TK = torch.arange(_TOKENS * top_k).reshape(_TOKENS, top_k) % body.choice.copies_E.shape[0]
    example = (torch.ones(_TOKENS, hidden, dtype=dtype), index_TK, torch.ones(_TOKENS, top_k, dtype=dtype), tensors)
    token = {0: torch.export.Dim.DYNAMIC}
    exported = _export(body, example, {}, (token, token, token, [None] * len(tensors)), f"layer {node.op_type}")
    graph = exported.graph
    constants = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    function = onnx.helper.make_function(
        DOMAIN,
        node.op_type,
        [value.name for value in graph.input],
        [value.name for value in graph.output],
        [*constants, *graph.node],
        list(exported.opset_import),
    )
    model.functions.append(function)
    known = {(function.domain, function.name) for function in model.functions}
    model.functions.extend(function for function in exported.functions if (function.domain, function.name) not in known)


def _free_axes(value: Any) -> dict[int, Any] | None:
    return dict.fromkeys(range(value.dim()), torch.export.Dim.AUTO) if isinstance(value, Tensor) else None


def _export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: Any, what: str) -> onnx.ModelProto:
    try:
        with torch.no_grad(), _quiet(), AttentionWithHeads():
            program = torch.onnx.export(
                module, args, kwargs=kwargs, dynamo=True, dynamic_shapes=free, verbose=False, optimize=True
            )
    except Exception as error:  # torch raises all kinds of errors from its many stages
        raise Unsupported(f"onnx: torch cannot export {what}: {_first_cause(error)}") from error
    assert program is not None
    return program.model_proto


def _first_cause(error: BaseException) -> str:
    """One line of the error that started the chain, which torch wraps in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """While inside, the exporter does not print remarks about packages with more operators."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
