"""Pass 1: the model as an fx graph in which every MoE layer's experts and router are single nodes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from craftc.errors import BadInput, Unsupported
from craftc.passes.base import Compilation, NearMiss, Pass
from craftc.passes.tracing_experts import ExpertsModule, find_experts
from craftc.passes.tracing_masks import MaskBuilder, mask_builders_as_leaves
from craftc.passes.tracing_module_lists import fuse_module_lists
from craftc.passes.tracing_proxies import ExampleProxy, ExampleTracer

_MODEL = "model"
_MASKS = "mask_builders"


@dataclass(frozen=True)
class Trace(Pass):
    """Traces through the owners of experts only; every other module is a leaf. Sizes stay symbolic, devices may be meta.

    Placeholders are named after the example inputs' keys; targets are paths in the original model. `node.meta["val"]` holds a node's
    example value with tensors on the meta device. Near misses: experts whose owner cannot be traced.
    Raises BadInput where the model cannot run on its example inputs, Unsupported where its top level cannot be traced.
    """

    name: ClassVar[str] = "trace"
    needs: ClassVar[tuple[str, ...]] = ("model", "inputs")
    gives: ClassVar[tuple[str, ...]] = ("graph",)
    changes_graph: ClassVar[bool] = True

    def run(self, compilation: Compilation) -> Compilation:
        assert compilation.model is not None
        assert compilation.inputs is not None
        graph_module, near_misses = trace(compilation.model, compilation.inputs.example)
        return replace(compilation, graph=graph_module, near_misses=near_misses)


def trace(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[fx.GraphModule, tuple[NearMiss, ...]]:
    """The graph of `model(**inputs)`, and the experts that could not be given a node of their own."""
    _check_inputs(model, inputs)
    experts, near_misses = find_experts(model)
    tracer = ModelTracer(model, inputs, experts, near_misses)
    try:
        graph = tracer.trace_model()
    except Exception as error:
        _check_runs(model, inputs)
        raise Unsupported(f"{type(model).__name__}: its forward cannot be traced: {_one_line(error)}") from error
    graph_module = _graph_module(tracer.root, graph, model)
    untraced = tracer.near_misses()
    unreached = {miss.name for miss in untraced}
    lists = tuple(one for one in experts if one.layout == "module_list" and one.path not in unreached)
    return graph_module, near_misses + untraced + fuse_module_lists(graph_module, lists)


def call_model(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What the traced graph computes, by the original model: a Hugging Face model runs without its cache and gives its
    `logits` (or `last_hidden_state`), any other model its own output."""
    options = {"use_cache": False} if _has_cache(model) else {}
    output = model(**(options | dict(inputs)))
    if isinstance(output, (torch.Tensor, tuple, list, fx.Proxy)) or not isinstance(output, Mapping):
        return output
    return next((output[key] for key in ("logits", "last_hidden_state") if key in output), output)


class ModelTracer(ExampleTracer):
    """Leaves are all modules but the owners of experts; an owner that cannot be traced becomes a leaf too."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        experts: tuple[ExpertsModule, ...],
        almost: tuple[NearMiss, ...],
    ) -> None:
        super().__init__(inputs)
        self._model = model
        self._experts = experts
        self._owners = {_MODEL} | {
            owner
            for one in (*experts, *almost)
            for owner in _owners(f"{_MODEL}.{one.path if isinstance(one, ExpertsModule) else one.name}")
        }
        self._lists = {f"{_MODEL}.{one.path}" for one in experts if one.layout == "module_list"}
        self._fused = {f"{_MODEL}.{one.path}" for one in experts if one.layout == "fused"}
        self._untraceable: dict[str, str] = {}

    def trace_model(self) -> fx.Graph:
        root = _Root(self._model, tuple(self.inputs))
        owners = [module for path, module in root.named_modules() if path in self._owners]
        with mask_builders_as_leaves(owners, self._record_mask):
            return self.trace(root)

    def near_misses(self) -> tuple[NearMiss, ...]:
        """Experts inside an owner that became a leaf, and why it did."""
        return tuple(
            NearMiss(one.path, f"its owner {owner.removeprefix(_MODEL + '.')} cannot be traced: {reason}")
            for one in self._experts
            for owner, reason in self._untraceable.items()
            if f"{_MODEL}.{one.path}".startswith(f"{owner}.")
        )

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._owners

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Placeholders named after the inputs; what holds no tensor is fixed at its example value."""
        values: list[Any] = []
        for name, value in self.inputs.items():
            has_tensor = any(isinstance(one, torch.Tensor) for one in pytree.tree_leaves(value))
            proxy = self.create_proxy("placeholder", name, () if has_tensor else (value,), {})
            values.append(proxy if has_tensor else value)
        return root_fn, [self.root, *values]

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self.path_of_module(m)
        if path in self._owners and path not in self._untraceable:
            try:
                with self.undone_on_error():
                    return super().call_module(m, forward, args, kwargs)
            except Exception as error:
                if path == _MODEL:
                    raise
                self._untraceable = {
                    inner: why for inner, why in self._untraceable.items() if not inner.startswith(f"{path}.")
                } | {path: _one_line(error)}
                self._owners.discard(path)
        if path in self._fused:
            args, kwargs = _positional(m, args, kwargs)
        return super().call_module(m, forward, args, kwargs)

    def _record_mask(self, builder: MaskBuilder, tensors: dict[str, Any]) -> ExampleProxy:
        with self.outside_tracing():
            masks = self.root.get_submodule(_MASKS)
            name = str(len(list(masks.children())))
            masks.add_module(name, builder)
        return self.create_proxy("call_module", f"{_MASKS}.{name}", (), tensors)


class _Root(nn.Module):
    """The traced root: positional inputs to the model's keywords."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.mask_builders = nn.Module()
        self.names = names

    def forward(self, *values: Any) -> Any:
        return call_model(self.model, dict(zip(self.names, values, strict=True)))


def _graph_module(root: nn.Module, graph: fx.Graph, model: nn.Module) -> fx.GraphModule:
    """The graph over the model's own modules, its targets the paths in the original model."""
    attributes: dict[str, Any] = {}
    for node in graph.nodes:
        node.type = None  # the root's own annotation; generated code could not be pickled with it
        if node.op not in ("call_module", "get_attr"):
            continue
        value = root.get_submodule(node.target) if node.op == "call_module" else _attribute(root, node.target)
        node.target = node.target.removeprefix(f"{_MODEL}.")
        attributes[node.target] = value
    graph._tracer_cls = None  # unpickling builds a tracer without arguments: the default one will do
    graph_module = fx.GraphModule(attributes, graph, class_name=type(model).__name__)
    graph_module.training = model.training
    return graph_module


def _owners(path: str) -> set[str]:
    """Every module path above `path`."""
    parts = path.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def _positional(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with its arguments by position as far as forward's signature allows, defaults left out."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    return bound.args, bound.kwargs


def _has_cache(model: nn.Module) -> bool:
    """Whether forward takes `use_cache`: by name, or among its keywords where the model's configuration knows it."""
    parameters = inspect.signature(model.forward).parameters
    any_keyword = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return "use_cache" in parameters or (any_keyword and hasattr(getattr(model, "config", None), "use_cache"))


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)


def _check_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    kind = type(model).__name__
    if not inputs:
        raise BadInput(f"{kind}: example inputs are empty; give a dict of forward's keyword arguments")
    bad = [name for name in inputs if not isinstance(name, str) or not name.isidentifier()]
    if bad:
        raise BadInput(f"{kind}: example inputs must be named like forward's arguments, got {bad[0]!r}")
    if not any(isinstance(one, torch.Tensor) for one in pytree.tree_leaves(dict(inputs))):
        raise BadInput(f"{kind}: example inputs hold no tensor ({', '.join(inputs)})")
    signature = inspect.signature(model.forward)
    try:
        signature.bind(**inputs)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise BadInput(f"{kind}: example inputs do not fit forward({takes}): {error}") from None


def _check_runs(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    try:
        with torch.no_grad():
            call_model(model, inputs)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(getattr(value, 'shape', ()))}" for name, value in inputs.items())
        raise BadInput(
            f"{type(model).__name__} cannot run on its example inputs ({shapes}): {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first}"
