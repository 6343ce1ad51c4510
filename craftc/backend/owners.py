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

from craftc.backend.regions import ExpertsParameters, qualified_name
from craftc.passes.tracing_experts import why_not_fused


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
    """The outermost module of the compiled frame; None where the graph uses no module's parameters."""
    experts: tuple[OwnedExperts, ...]
    """Experts modules in the graph, in the order of the root's modules."""


def captured_frame(gm: fx.GraphModule, example_inputs: Sequence[object]) -> Frame:
    """Root and experts modules of the graph that Dynamo is compiling just now."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    lifted = {node: value for node, value in zip(placeholders, example_inputs, strict=True) if _is_parameter(value)}
    if not lifted:
        return Frame(None, ())
    modules = {node: _modules_of(node) for node in lifted}
    if not any(modules.values()):
        modules = _modules_by_identity(lifted)
    roots = dict.fromkeys(chain[0] for chain in modules.values() if chain)
    if not roots:
        return Frame(None, ())
    root = max(roots, key=lambda module: sum(1 for _ in module.modules()))
    owned: dict[nn.Module, dict[int, fx.Node]] = {}
    for node, parameter in lifted.items():
        for owner in modules[node][-1:]:
            if why_not_fused(owner) is None:
                owned.setdefault(owner, {})[id(parameter)] = node
    found = [(name, module, owned[module]) for name, module in root.named_modules() if module in owned]
    return Frame(root, tuple(_owned_experts(name, module, nodes) for name, module, nodes in found))


def _owned_experts(name: str, module: nn.Module, nodes: dict[int, fx.Node]) -> OwnedExperts:
    """Parameters in the module's order; those the graph does not use are left out."""
    own = tuple((one, nodes[id(value)]) for one, value in module._parameters.items() if id(value) in nodes)
    return OwnedExperts(module, ExpertsParameters(name, qualified_name(type(module)), own))


def _is_parameter(value: object) -> bool:
    return isinstance(value, nn.Parameter)


def _modules_of(node: fx.Node) -> list[nn.Module]:
    """Modules on the way from the frame's scope to the parameter `node`, outermost first."""
    source = getattr(node, "_dynamo_source", None)
    scope = _dynamo_scope()
    if not isinstance(source, Source) or scope is None:
        return []
    try:
        values = [eval(_expression(one), scope) for one in _chain(source)]  # Dynamo's own guard expressions
    except (NameError, LookupError, AttributeError):  # made by helpers that only Dynamo's guards see
        return []
    return [value for value in values if isinstance(value, nn.Module)]


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


def _modules_by_identity(lifted: dict[fx.Node, object]) -> dict[fx.Node, list[nn.Module]]:
    """The same from the parameters' identity alone, where Dynamo's scope cannot be read: looks at every live object."""
    owners: dict[int, nn.Module] = {}
    # isinstance would ask objects for their __class__, which some answer with a warning or an import
    modules = [value for value in gc.get_objects() if issubclass(type(value), nn.Module)]
    modules = [module for module in modules if not isinstance(module, OptimizedModule)]
    parents = {id(child): module for module in modules for child in module.children()}
    for module in modules:
        owners.update({id(parameter): module for parameter in module._parameters.values() if parameter is not None})
    found: dict[fx.Node, list[nn.Module]] = {}
    for node, parameter in lifted.items():
        chain = [owners[id(parameter)]] if id(parameter) in owners else []
        while chain and id(chain[0]) in parents:
            chain.insert(0, parents[id(chain[0])])
        found[node] = chain
    return found
