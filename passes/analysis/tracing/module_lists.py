"""One experts node for every ModuleList of experts: finds the region around the experts' calls and fuses it.

Hand-written MoE layers differ in how they dispatch (masks, torch.where, index_add_, item assignment, dense weights).
What they share is a closed region: hidden states, indices and weights go in, one weighted sum comes out. Cuts are
proposed by shape, nearest first; the first one that is closed in the DiGraph and correct with stand-in experts is
fused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import networkx as nx
import torch
from torch import fx, nn

from craftc.passes.analysis.tracing.dataflow import (
    backwards,
    is_pure,
    meeting_points,
    outside_reader,
    region_between,
    tensor_flow,
    writes_in_place,
)
from craftc.passes.analysis.tracing.experts import ExpertsModule, is_named_experts
from craftc.passes.analysis.tracing.region_check import DispatchRegion, largest_difference, tolerance
from craftc.passes.compilation import NearMiss
from craftc.runtime.module_list_experts import ModuleListExperts, expert_modules

_CANDIDATES = 4
"""Most nodes tried for each of hidden states, indices, weights and output; shapes usually leave one or two."""


def fuse_module_lists(
    model: nn.Module, graph_module: fx.GraphModule, lists: tuple[ExpertsModule, ...]
) -> tuple[NearMiss, ...]:
    """Replace the region of every list of `model` in its graph by one call of `ModuleListExperts` at the list's path.

    Returns the lists that could not be fused. Chains (each module reads the one before) hold no experts and are
    ignored.
    """
    near_misses: list[NearMiss] = []
    regions: list[tuple[ExpertsModule, DispatchRegion]] = []
    flow = tensor_flow(graph_module.graph)
    for module_list in lists:
        names = expert_modules(model.get_submodule(module_list.path))
        number = {f"{module_list.path}.{name}": expert for expert, name in enumerate(names)}
        calls = [node for node in graph_module.graph.nodes if node.op == "call_module" and node.target in number]
        if calls and _is_chain(flow, calls) and not is_named_experts(module_list.path):
            continue
        expert_of = {node: number[str(node.target)] for node in calls}
        region = _why_not_called_once(module_list, expert_of) or _find_region(graph_module, flow, expert_of)
        if isinstance(region, DispatchRegion):
            regions.append((module_list, region))
        else:
            near_misses.append(NearMiss(module_list.path, region))
    _fuse_all(model, graph_module, regions)
    return tuple(near_misses)


def _is_chain(flow: nx.DiGraph, calls: list[fx.Node]) -> bool:
    return not nx.descendants(flow, calls[0]).isdisjoint(calls)


def _why_not_called_once(experts: ExpertsModule, expert_of: Mapping[fx.Node, int]) -> str | None:
    calls = list(expert_of.values())
    for expert in range(experts.experts):
        if calls.count(expert) != 1:
            return (
                f"expert {expert} of {experts.experts} is called {calls.count(expert)} times in one forward, not once"
            )
    arguments = next((node for node in expert_of if len(node.args) != 1 or node.kwargs), None)
    if arguments is not None:
        count = len(arguments.args) + len(arguments.kwargs)
        return f"its experts are called with {count} arguments, not with one tensor of tokens"
    return None


def _find_region(
    graph_module: fx.GraphModule, flow: nx.DiGraph, expert_of: Mapping[fx.Node, int]
) -> DispatchRegion | str:
    """The first cut that is closed and correct, or the condition that the most promising cut failed."""
    call = next(iter(expert_of))
    tokens, rows = call.args[0], call.meta["val"]
    if not isinstance(tokens, fx.Node) or not _is_float(tokens.meta["val"]) or not _is_float(rows):
        return f"its experts must map one tensor to one tensor, expert 0 gives {type(rows).__name__}"
    width = tokens.meta["val"].shape[-1]
    if rows.shape[-1] != width:
        return f"its experts map {width} features to {rows.shape[-1]}; the experts ABI needs as many out as in"
    failed = [(0, f"no hidden states [T, {width}] that all its experts read and whose shape their sum has")]
    for hidden in islice(_hidden_states(flow, tokens, width), _CANDIDATES):
        for output in islice(_outputs(flow, expert_of, hidden), _CANDIDATES):
            routing = _routing(flow, output, hidden)
            if not routing:
                failed.append((1, "no integer indices [T, K] with weights [T, K] between its router and its sum"))
            for indices, weights in routing:
                cut = (hidden, indices, weights)
                region = DispatchRegion(*cut, output, frozenset(region_between(flow, cut, output)))
                if problem := _why_not_closed(graph_module, region, expert_of):
                    failed.append((2, problem))
                elif problem := _why_not_equal(graph_module, region, expert_of):
                    failed.append((3, problem))
                else:
                    return region
    return max(failed, key=lambda failure: failure[0])[1]  # the first of the cuts that got furthest


def _hidden_states(flow: nx.DiGraph, tokens: fx.Node, width: int) -> Iterator[fx.Node]:
    for node in (tokens, *backwards(flow, tokens)):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and _is_float(value) and value.dim() >= 2 and value.shape[-1] == width:
            yield node


def _outputs(flow: nx.DiGraph, expert_of: Mapping[fx.Node, int], hidden: fx.Node) -> Iterator[fx.Node]:
    like = hidden.meta["val"]
    for node in meeting_points(flow, tuple(expert_of)):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.shape == like.shape and value.dtype == like.dtype:
            yield node


def _routing(flow: nx.DiGraph, output: fx.Node, hidden: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Candidates for indices with weights of the same shape: `[..., K]`, or `[...]` as of the hidden states.

    The candidates with most readers come first: every expert reads the real ones, while what is derived from them for
    one expert is read once.
    """
    leading = hidden.meta["val"].shape[:-1]
    without_hidden = flow.subgraph(node for node in flow if node is not hidden)
    shaped: list[tuple[fx.Node, torch.Tensor]] = []
    for node in backwards(without_hidden, output):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and leading in (value.shape, value.shape[:-1]):
            shaped.append((node, value))
    shaped.sort(key=lambda pair: -len(pair[0].users))
    indices = [(node, value.shape) for node, value in shaped if value.dtype in (torch.int64, torch.int32)]
    pairs: list[tuple[fx.Node, fx.Node]] = []
    for node, shape in indices[:_CANDIDATES]:
        weights = (other for other, value in shaped if value.is_floating_point() and value.shape == shape)
        pairs.extend((node, other) for other in islice(weights, 2 * _CANDIDATES))
    return pairs


def _why_not_closed(
    graph_module: fx.GraphModule, region: DispatchRegion, expert_of: Mapping[fx.Node, int]
) -> str | None:
    if missing := next((node for node in expert_of if node not in region.nodes), None):
        return f"expert {expert_of[missing]} does not reach the weighted sum ({region.output.name})"
    for node in region.nodes - set(expert_of):
        if node.op == "placeholder":
            return f"its weighted sum also depends on the model's input {node.target}"
        if node.op == "get_attr" and isinstance(_attribute(graph_module, node), nn.Parameter):
            return f"its weighted sum also reads the parameter {node.target}"
        if node.op == "call_module" and any(True for _ in graph_module.get_submodule(str(node.target)).parameters()):
            return f"its weighted sum also depends on the module {node.target}"
    # Masks and row numbers may also be read elsewhere (by a balancing loss, say) and then stay; sums may not.
    inside = {node for node in region.nodes if not _is_integer(node.meta.get("val"))}
    if leak := outside_reader(inside, region.output):
        return f"{leak[0].name}, inside its experts' region, is also read outside by {leak[1].name}"
    cut = (region.hidden, region.indices, region.weights)
    if writer := next((node for node in region.nodes if writes_in_place(node) and node.args[0] in cut), None):
        return f"{writer.name} writes in place into what the experts are given"
    return None


def _why_not_equal(
    graph_module: fx.GraphModule, region: DispatchRegion, expert_of: Mapping[fx.Node, int]
) -> str | None:
    allowed = tolerance(region.hidden.meta["val"].dtype)
    try:
        difference = largest_difference(graph_module, region, expert_of)
    except Exception as error:  # the region's code may not run on a wrong guess of its inputs
        return f"the region around its experts does not run on random tokens: {type(error).__name__}: {error}"
    if difference <= allowed:
        return None
    return (
        f"the region around its experts is not the weighted sum of the chosen experts' outputs: "
        f"relative difference {difference:.1e} with stand-in experts, {allowed:.1e} allowed"
    )


def _fuse_all(
    model: nn.Module, graph_module: fx.GraphModule, regions: list[tuple[ExpertsModule, DispatchRegion]]
) -> None:
    replaced: dict[fx.Node, fx.Node] = {}  # a region may read the output of the one before
    for module_list, region in regions:
        owner, _, name = module_list.path.rpartition(".")
        experts = ModuleListExperts(expert_modules(model.get_submodule(module_list.path)).values())
        experts.training = graph_module.training
        replaced[region.output] = _call_experts(graph_module.graph, module_list.path, region, replaced)
        _erase(graph_module.graph, region, replaced[region.output])
        setattr(graph_module.get_submodule(owner), name, experts)
    graph_module.recompile()


def _call_experts(graph: fx.Graph, path: str, region: DispatchRegion, replaced: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """The experts node, with the nodes that make its arguments matrices and give its output the region's shape."""
    original = replaced.get(region.hidden, region.hidden)
    with graph.inserting_before(region.output):
        hidden = _flat(graph, original)
        indices = _flat(graph, _with_top_k(graph, region.indices, original))
        weights = _flat(graph, _with_top_k(graph, region.weights, original))
        if indices.meta["val"].dtype != torch.int64:
            indices = _call(graph, "to", indices, torch.int64)
        experts = graph.call_module(path, (hidden, indices, weights))
        experts.meta["val"] = hidden.meta["val"]
        return experts if hidden is original else _call(graph, "view_as", experts, original)


def _erase(graph: fx.Graph, region: DispatchRegion, result: fx.Node) -> None:
    """Make the region's readers read `result`; remove the region and the sizes that only it needed."""
    region.output.replace_all_uses_with(result)
    left, node = set(region.nodes), region.output
    while left:
        left.discard(node)
        before = node.prev
        if not node.users and node is not result and (node in region.nodes or is_pure(node)):
            graph.erase_node(node)
        node = before


def _with_top_k(graph: fx.Graph, node: fx.Node, hidden: fx.Node) -> fx.Node:
    """`[..., K]`: a last dim of 1 is added if the model has one expert per token and no such dim."""
    return node if node.meta["val"].dim() == hidden.meta["val"].dim() else _call(graph, "unsqueeze", node, -1)


def _flat(graph: fx.Graph, node: fx.Node) -> fx.Node:
    return node if node.meta["val"].dim() == 2 else _call(graph, "flatten", node, 0, -2)


def _call(graph: fx.Graph, method: str, node: fx.Node, *args: object) -> fx.Node:
    called = graph.call_method(method, (node, *args))  # type: ignore[arg-type]
    examples = (argument.meta["val"] if isinstance(argument, fx.Node) else argument for argument in args)
    called.meta["val"] = getattr(node.meta["val"], method)(*examples)
    return called


def _attribute(graph_module: fx.GraphModule, node: fx.Node) -> object:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(graph_module.get_submodule(owner), name)


def _is_integer(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_complex()


def _is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
