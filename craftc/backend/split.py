"""A captured graph with every MoE region replaced by one call, compiled piece by piece around those calls."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx, nn
from torch._guards import TracingContext, tracing
from torch.fx.passes.split_module import split_module

from craftc.backend.regions import Region, example_value

Inner = Callable[[fx.GraphModule, list[Any]], Callable[..., Any]]
"""A Dynamo backend: graph and (fake) example inputs to a callable."""


class CompiledDense(nn.Module):
    """A dense part of the graph, as the inner backend compiled it."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        """The part's outputs as a tuple."""
        return self.run(*inputs)


def replace_regions(gm: fx.GraphModule, calls: Mapping[str, tuple[Region, nn.Module]]) -> None:
    """Replace every region in place by a call of its module: `module(hidden, indices, weights, *parameters)`.

    `calls` gives the attribute of `gm` under which each module is stored. Sizes computed inside a region stay."""
    for target, (region, module) in calls.items():
        gm.add_submodule(target, module)
        replace_region(gm.graph, region, target, tuple(node for _, node in region.experts.nodes))
    gm.graph.lint()
    gm.recompile()


def replace_region(graph: fx.Graph, region: Region, target: str, parameters: tuple[fx.Node, ...]) -> None:
    """Replace one region by the call `target(hidden, indices, weights, *parameters)`."""
    with graph.inserting_before(region.output):
        call = graph.call_module(target, (region.hidden, region.indices, region.weights, *parameters))
    call.meta = dict(region.output.meta)
    region.output.replace_all_uses_with(call)
    for node in reversed(region.nodes):
        graph.erase_node(node)


def compile_around(gm: fx.GraphModule, targets: Sequence[str], inner: Inner) -> fx.GraphModule:
    """Split `gm` at its calls of `targets`; the parts between them are compiled by `inner`, the calls run unchanged."""
    pieces = iter(range(2 * len(targets) + 1))
    current = next(pieces)
    piece_of: dict[fx.Node, int] = {}
    for node in gm.graph.nodes:
        if node.op == "call_module" and node.target in targets:
            piece_of[node] = next(pieces)
            current = next(pieces)
        else:
            piece_of[node] = current
    whole = split_module(gm, gm, piece_of.__getitem__, keep_original_order=True)
    _return_tuples(whole)
    for name, piece in list(whole.named_children()):
        if isinstance(piece, fx.GraphModule) and not _calls_any(piece, targets):
            setattr(whole, name, CompiledDense(_compile(piece, inner)))
    return whole


def _return_tuples(whole: fx.GraphModule) -> None:
    """Make every piece with one output return a tuple, as compilers expect (`tuple_return`, which torch 2.11 lacks)."""
    for call in whole.graph.find_nodes(op="call_module"):
        piece = whole.get_submodule(str(call.target))
        assert isinstance(piece, fx.GraphModule)
        result = piece.graph.output_node().args[0]
        if not isinstance(result, fx.Node):
            continue
        piece.graph.output_node().args = ((result,),)
        piece.recompile()
        with whole.graph.inserting_after(call):
            only = whole.graph.call_function(operator.getitem, (call, 0))
        only.meta = dict(call.meta)
        call.replace_all_uses_with(only, delete_user_cb=lambda user, only=only: user is not only)
    whole.recompile()


def _calls_any(piece: fx.GraphModule, targets: Sequence[str]) -> bool:
    return any(node.op == "call_module" and node.target in targets for node in piece.graph.nodes)


def _compile(piece: fx.GraphModule, inner: Inner) -> Callable[..., Any]:
    """Run `inner` on one piece. Each piece gets its own tracing context: AOTAutograd keeps the metadata of one graph in
    it, and compiles backward graphs later, when it would find the metadata of another piece."""
    inputs = [example_value(node) for node in piece.graph.find_nodes(op="placeholder")]
    outer = TracingContext.try_get()
    if outer is None or outer.fake_mode is None:
        return inner(piece, inputs)
    own = TracingContext(outer.fake_mode)
    with tracing(own):
        compiled = inner(piece, inputs)
        outer.guards_context.aotautograd_guards.extend(own.guards_context.aotautograd_guards)
    return compiled
