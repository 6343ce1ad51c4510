"""The experts modules behind the parameters of a Dynamo graph: Dynamo lifts parameters to inputs and drops modules.

Everything that knows Dynamo's private names is in this file.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._guards import ChainedSource, Source
from torch._subclasses import FakeTensor

from craftc.backend.regions import ExpertsParameters, qualified_name
from craftc.passes.analysis.tracing.experts import why_not_fused


@dataclass(frozen=True, eq=False)
class OwnedExperts:
    """An experts module whose parameters a graph uses."""

    module: nn.Module
    """The experts module."""
    parameters: ExpertsParameters
    """Its parameters in the graph."""


@dataclass(frozen=True, eq=False)
class Frame:
    """What a Dynamo graph was captured from."""

    root: nn.Module | None
    """The outermost module of the compiled frame; None if the graph uses no module's parameters."""
    experts: tuple[OwnedExperts, ...]
    """Experts modules in the graph, in the order of the root's modules."""
    is_piece: bool = False
    """Whether Dynamo's DDP optimizer cut the graph out of a larger one and will run it on fake tensors."""


def captured_frame(gm: fx.GraphModule, example_inputs: Sequence[object]) -> Frame:
    """Root and experts modules of the graph that Dynamo is compiling now."""
    inputs = zip(gm.graph.find_nodes(op="placeholder"), example_inputs, strict=True)
    lifted = {node: value for node, value in inputs if isinstance(value, nn.Parameter) and node.users}
    located = {node: found for node in lifted if (found := _located(node))} or _located_by_identity(lifted)
    roots = dict.fromkeys(found.modules[0] for found in located.values())
    if not roots:
        return Frame(None, ())
    root = max(roots, key=lambda module: sum(1 for _ in module.modules()))
    owned: dict[nn.Module, dict[int, fx.Node]] = {}
    for node, found in located.items():
        if why_not_fused(found.modules[-1]) is None:
            owned.setdefault(found.modules[-1], {})[id(found.parameter)] = node
    experts = [(name, module, owned[module]) for name, module in root.named_modules() if module in owned]
    is_piece = any(isinstance(value, FakeTensor) for value in lifted.values())
    return Frame(root, tuple(_owned_experts(name, module, nodes) for name, module, nodes in experts), is_piece)


def _owned_experts(name: str, module: nn.Module, nodes: dict[int, fx.Node]) -> OwnedExperts:
    """An experts module with its parameters in its own order, without those that the graph does not use."""
    own = tuple((attribute, nodes[id(value)]) for attribute, value in module._parameters.items() if id(value) in nodes)
    return OwnedExperts(module, ExpertsParameters(name, qualified_name(type(module)), own))


@dataclass(frozen=True, eq=False)
class _Located:
    """Where a lifted parameter belongs."""

    modules: list[nn.Module]
    """Modules from the frame's outermost one to the owner; at least one."""
    parameter: nn.Parameter
    """The real parameter; example inputs may be fakes of it."""


def _located(node: fx.Node) -> _Located | None:
    """The parameter that Dynamo lifted as `node`, found as Dynamo itself finds it in every call."""
    source = getattr(node, "_dynamo_source", None)
    scope = _dynamo_scope()
    if not isinstance(source, Source) or scope is None:
        return None
    try:
        values = [eval(_expression(part), scope) for part in _chain(source)]  # Dynamo's own guard expressions
    except (NameError, LookupError, AttributeError):  # defined by helpers that only Dynamo's guards see
        return None
    modules = [value for value in values if isinstance(value, nn.Module)]
    return _Located(modules, values[-1]) if modules and isinstance(values[-1], nn.Parameter) else None


def _dynamo_scope() -> dict[str, Any] | None:
    """Locals and globals of the frame being compiled, under the names that sources use."""
    try:
        output = InstructionTranslator.current_tx().output
    except AttributeError:  # not called by Dynamo
        return None
    return {"L": output.local_scope, "G": output.global_scope}


def _expression(source: Source) -> str:
    name = source.name
    return name() if callable(name) else name  # a method before torch 2.10


def _chain(source: Source) -> list[Source]:
    chain = [source]
    while isinstance(chain[-1], ChainedSource):
        chain.append(chain[-1].base)
    return chain[::-1]


def _located_by_identity(lifted: dict[fx.Node, nn.Parameter]) -> dict[fx.Node, _Located]:
    """What `_located` finds, by the identity of parameters alone, if it finds nothing: looks at every live object."""
    if not lifted:
        return {}
    # isinstance would ask objects for their __class__, which some answer with a warning or an import
    modules = [value for value in gc.get_objects() if issubclass(type(value), nn.Module)]
    modules = [module for module in modules if not isinstance(module, OptimizedModule)]
    parents = {id(child): module for module in modules for child in module.children()}
    owners = {id(parameter): module for module in modules for parameter in module._parameters.values()}
    located: dict[fx.Node, _Located] = {}
    for node, parameter in lifted.items():
        chain = [owners[id(parameter)]] if id(parameter) in owners else []
        while chain and id(chain[0]) in parents:
            chain.insert(0, parents[id(chain[0])])
        if chain:
            located[node] = _Located(chain, parameter)
    return located
