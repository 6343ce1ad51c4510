"""Tracing a whole model: the owners of experts are traced, every other module is a leaf."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

from craftc.errors import BadInput
from craftc.models.module_state import same_state
from craftc.passes.analysis.tracing.contexts import random_state
from craftc.passes.analysis.tracing.experts import ExpertsModule
from craftc.passes.analysis.tracing.guards import require_same
from craftc.passes.analysis.tracing.masks import MaskBuilder, mask_builders_as_leaves
from craftc.passes.analysis.tracing.patches import buffers_take_proxies, builtins_take_proxies
from craftc.passes.analysis.tracing.proxies import ExampleProxy, examples_of
from craftc.passes.analysis.tracing.skips import answer_with_tokens, check_skipping
from craftc.passes.analysis.tracing.source_lines import reason_with_line, running_line
from craftc.passes.analysis.tracing.tracer import ExampleTracer
from craftc.passes.compilation import NearMiss

_MODEL = "model"
_MASKS = "mask_builders"


def call_model(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What the traced graph computes, computed by the original model.

    A Hugging Face model runs without its cache and returns its `logits` (or `last_hidden_state`); any other model
    returns its own output.
    """
    options = {"use_cache": False} if _has_cache(model) else {}
    output = model(**(options | dict(inputs)))
    if isinstance(output, (torch.Tensor, tuple, list, fx.Proxy)) or not isinstance(output, Mapping):
        return output
    return next((output[key] for key in ("logits", "last_hidden_state") if key in output), output)


def check_has_weights(model: nn.Module) -> None:
    """Raise BadInput if any parameter is on the meta device: such a model can be planned for, not run."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise BadInput(
            "the model is on the meta device and has no weights to run: give its checkpoint; to plan without one, give "
            "loads from a file"
        )


def trace_model(
    model: nn.Module, inputs: Mapping[str, Any], experts: tuple[ExpertsModule, ...], almost: tuple[NearMiss, ...]
) -> tuple[fx.GraphModule, tuple[NearMiss, ...]]:
    """The graph of `call_model(model, inputs)`, its targets paths in the model, and the experts whose owner became a
    leaf.

    Raises whatever the model's top level raises on proxies.
    """
    graph_module, untraced, tracer = _trace(ModelTracer(inputs, experts, almost), model, inputs)
    if not untraced or not tracer.has_empty_masks:
        return graph_module, untraced
    again, still_untraced, _ = _trace(EmptyMaskTracer(inputs, experts, almost), model, inputs)
    return (again, still_untraced) if len(still_untraced) < len(untraced) else (graph_module, untraced)


def _trace(
    tracer: ModelTracer, model: nn.Module, inputs: Mapping[str, Any]
) -> tuple[fx.GraphModule, tuple[NearMiss, ...], ModelTracer]:
    root = _Root(model, tuple(inputs))
    owners = [module for path, module in root.named_modules() if path in tracer.owners]
    with (
        mask_builders_as_leaves(owners, tracer.record_mask),
        builtins_take_proxies(owners),
        buffers_take_proxies(tracer),
        same_state(model),
    ):
        graph = tracer.trace(root)
    return _graph_module(root, graph, model), tracer.near_misses(), tracer


class ModelTracer(ExampleTracer):
    """All modules except the owners of experts are leaves; an owner that cannot be traced becomes a leaf too."""

    def __init__(
        self, inputs: Mapping[str, Any], experts: tuple[ExpertsModule, ...], almost: tuple[NearMiss, ...]
    ) -> None:
        super().__init__(inputs)
        self._experts = experts
        paths = [module.path for module in experts] + [miss.name for miss in almost]
        self.owners = {_MODEL}.union(*(_owners(f"{_MODEL}.{path}") for path in paths))
        self._dispatchers = {
            f"{_MODEL}.{module.path}".rpartition(".")[0] for module in experts if module.layout == "module_list"
        }
        self._fused = {f"{_MODEL}.{module.path}" for module in experts if module.layout == "fused"}
        self.has_empty_masks = False
        """Whether a mask builder returned None, as it does for a batch without padding."""
        self._assumed: set[str] = set()
        self._untraceable: dict[str, str] = {}

    def near_misses(self) -> tuple[NearMiss, ...]:
        """Experts inside an owner that became a leaf, and the reason."""
        return tuple(
            NearMiss(module.path, f"its owner {owner.removeprefix(_MODEL + '.')} cannot be traced: {reason}")
            for module in self._experts
            for owner, reason in self._untraceable.items()
            if f"{_MODEL}.{module.path}".startswith(f"{owner}.")
        )

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.owners

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Placeholders are named after the inputs; an input without a tensor is fixed at its example value."""
        values: list[Any] = []
        for name, value in self.inputs.items():
            has_tensor = any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value))
            proxy = self.create_proxy("placeholder", name, () if has_tensor else (value,), {})
            values.append(proxy if has_tensor else value)
        return root_fn, [self.root, *values]

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self.path_of_module(m)
        if path in self.owners:
            try:
                with self.undone_on_error():
                    return self._trace_owner(path, m, forward, args, kwargs)
            except Exception as error:
                if path == _MODEL:
                    raise
                inner = {owner for owner in self._untraceable if owner.startswith(f"{path}.")}
                self._untraceable = {owner: why for owner, why in self._untraceable.items() if owner not in inner}
                self._untraceable[path] = reason_with_line(error)
                self.owners.discard(path)
        if path in self._fused:
            args, kwargs = _positional(m, args, kwargs)
        return super().call_module(m, forward, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """In a module that dispatches to a ModuleList, conditions such as `if mask.any()` hold as if every expert had
        tokens; `_trace_owner` then checks that skipping experts without tokens makes no difference."""
        owner = next(reversed(self.module_stack.values()))[0] if self.module_stack else _MODEL
        answer = answer_with_tokens(obj.node) if owner in self._dispatchers else None
        if answer is None:
            return super().to_bool(obj)
        self._assumed.add(owner)
        return answer

    def record_mask(self, builder: MaskBuilder, tensors: dict[str, Any]) -> ExampleProxy | None:
        """A call of a mask builder as a leaf of the root."""
        with self.outside_tracing():
            masks = self.root.get_submodule(_MASKS)
            name = str(len(list(masks.children())))
            masks.add_module(name, builder)
        mask = self.create_proxy("call_module", f"{_MASKS}.{name}", (), tensors)
        self.has_empty_masks |= mask.example is None
        return mask

    def _run(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Experts on the meta device are not run (kernels read indices or refuse the dtype): the ABI gives the
        shape."""
        hidden = args[0] if args else None
        if kind == "call_module" and target in self._fused and isinstance(hidden, torch.Tensor) and hidden.is_meta:
            return torch.empty_like(hidden)
        return super()._run(kind, target, args, kwargs)

    def _trace_owner(self, path: str, module: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        drawn = random_state()
        output = super().call_module(module, forward, args, kwargs)
        if random_state() != drawn:
            raise TraceError("its forward draws random numbers while it is traced; a graph would repeat the same ones")
        if path in self._assumed:
            with self.outside_tracing():
                check_skipping(module, examples_of(args), examples_of(kwargs), examples_of(output))
        return output


class EmptyMaskTracer(ModelTracer):
    """For code that asks whether there is a mask: a mask that is None on the example inputs is None, guarded."""

    def record_mask(self, builder: MaskBuilder, tensors: dict[str, Any]) -> ExampleProxy | None:
        mask = super().record_mask(builder, tensors)
        if mask is None or mask.example is not None:
            return mask
        is_none = self.create_proxy("call_function", operator.is_, (mask, None), {})
        self.create_proxy("call_function", require_same, (is_none, True, f"{running_line()}, no padding"), {})
        return None


class _Root(nn.Module):
    """The traced root: passes positional inputs on as the model's keywords."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.mask_builders = nn.Module()
        self.names = names

    def forward(self, *values: Any) -> Any:
        return call_model(self.model, dict(zip(self.names, values, strict=True)))


def _graph_module(root: nn.Module, graph: fx.Graph, model: nn.Module) -> fx.GraphModule:
    """The graph over the model's own modules; its targets are paths in the original model."""
    attributes: dict[str, Any] = {}
    for node in graph.nodes:
        node.type = None  # the root's own annotation; generated code could not be pickled with it
        if node.op not in ("call_module", "get_attr"):
            continue
        value = root.get_submodule(node.target) if node.op == "call_module" else _attribute(root, node.target)
        node.target = node.target.removeprefix(f"{_MODEL}.")
        attributes[node.target] = value
    graph._tracer_cls = None  # unpickling builds a tracer without arguments, which the default one allows
    graph_module = fx.GraphModule(attributes, graph, class_name=type(model).__name__)
    graph_module.training = model.training
    return graph_module


def _has_cache(model: nn.Module) -> bool:
    """Whether forward takes `use_cache`: by name, or among its keywords if the model's configuration has it."""
    parameters = inspect.signature(model.forward).parameters
    if "use_cache" in parameters:
        return True
    config = getattr(model, "config", None)
    configs = (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ())))
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return any_keyword and any(hasattr(each, "use_cache") for each in configs)


def _owners(path: str) -> set[str]:
    """The paths of all modules above `path`."""
    parts = path.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def _positional(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with its arguments by position as far as forward's signature allows, without defaults."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    return bound.args, bound.kwargs


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)
