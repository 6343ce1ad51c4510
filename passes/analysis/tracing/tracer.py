"""A torch.fx tracer that runs every node once on example values.

What Python decides by sizes, dtypes and devices is decided by the example and guarded (`guards`); what it would decide
by the contents of tensors cannot be traced.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

from craftc.passes.analysis.tracing.contexts import contexts_as_nodes, same_random_numbers
from craftc.passes.analysis.tracing.guards import is_data_sized, is_fixed, is_guardable, require_same
from craftc.passes.analysis.tracing.proxies import ExampleAttribute, ExampleProxy, examples_of
from craftc.passes.analysis.tracing.source_lines import running_line


class ExampleTracer(fx.Tracer):
    """Runs every node once on example values. Subclasses decide which modules are leaves and fill `inputs`."""

    proxy_buffer_attributes = True

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self.inputs = inputs
        self.is_outside = False
        self.anchor: Any = None
        self.pokes: dict[int, ExampleProxy] = {}
        """Sizes that something asked for as an index since the last node, by id: see `poked`."""
        self._data_sized: set[fx.Node] = set()
        self._repointed: list[tuple[ExampleProxy, fx.Node]] = []
        self._containers: dict[int, tuple[Any, fx.Node]] = {}
        self._kept: dict[int, tuple[torch.Tensor, str]] = {}
        self._module_call, self._module_getattr = nn.Module.__call__, nn.Module.__getattr__

    def trace(self, root: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:  # type: ignore[override]
        self._path_of_tensor = {id(tensor): path for path, tensor in root.named_parameters()}
        self._path_of_tensor |= {id(tensor): path for path, tensor in root.named_buffers()}
        self._own_attributes = {id(value) for module in root.modules() for value in _tensor_attributes(module)}
        with torch.no_grad(), _creation_takes_proxies(), contexts_as_nodes(self):
            return super().trace(root, concrete_args)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters and buffers read by traced code become nodes.

        No cache: a cached node may have been rolled back.
        """
        path = self._path_of_tensor.get(id(attr_val)) if isinstance(attr_val, torch.Tensor) else None
        return attr_val if path is None else self.create_proxy("get_attr", path, (), {})

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> ExampleProxy:
        self._answer_pokes()
        if kind == "output":
            return super().create_proxy(kind, target, args, kwargs, name, type_expr)  # type: ignore[return-value]
        examples = examples_of(args)
        with same_random_numbers():
            example = self._run(kind, target, examples, examples_of(kwargs))
        created: list[ExampleProxy] = []

        def with_example(node: fx.Node) -> fx.Proxy:
            created.append(ExampleProxy(node, self, example))
            return created[0]

        super().create_proxy(kind, target, args, kwargs, name, type_expr, with_example)
        node = created[0].node
        if kind == "placeholder":
            self.anchor = created[0]
        node.meta["val"] = pytree.tree_map(_shape_only, example)
        if is_data_sized(node, example, examples, self._data_sized):
            self._data_sized.add(node)
        if kind == "call_method" and target.endswith("_") and not target.endswith("__"):
            self.repoint(args[0], created[0])
        return created[0]

    def repoint(self, proxy: ExampleProxy, changed: ExampleProxy) -> None:
        """Make later readers of `proxy` read `changed`, the node that wrote into it."""
        if isinstance(proxy, ExampleAttribute) or not isinstance(proxy, ExampleProxy):
            return
        self._repointed.append((proxy, proxy.node))
        proxy.node = changed.node

    def create_arg(self, a: Any) -> Any:
        """A mapping that the traced code made, and that modules fill and read in turn (a cache shared by layers), is
        made by the graph as well."""
        if id(a) in self._kept:
            raise TraceError(
                f"{running_line()}: the code reads a tensor that {self._kept[id(a)][1]} kept as an attribute in its "
                f"own forward; a graph would keep the one of the example inputs: return it from that forward instead"
            )
        if id(a) in self._containers:
            return self._containers[id(a)][1]
        if not isinstance(a, MutableMapping) or isinstance(a, dict) or len(a):
            return super().create_arg(a)
        node = self.graph.create_node("call_function", type(a), (), {})
        self._containers[id(a)] = a, node
        return node

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """If the block raises, removes every node and undoes every re-pointing made inside."""
        last, stack = next(iter(reversed(self.graph.nodes)), None), self.module_stack.copy()
        repointed, containers = len(self._repointed), dict(self._containers)
        contents = [(made, dict(made)) for made, _ in containers.values()]
        try:
            yield
        except Exception:
            while len(self._repointed) > repointed:
                proxy, node = self._repointed.pop()
                proxy.node = node
            while (newest := next(iter(reversed(self.graph.nodes)), None)) is not last:
                self.graph.erase_node(newest)  # type: ignore[arg-type]
            self.module_stack, self._containers = stack, containers
            for made, content in contents:
                made.clear()
                made.update(content)
            raise

    @contextmanager
    def outside_tracing(self) -> Iterator[None]:
        """Real modules run unpatched: fx's patches of nn.Module are undone inside."""
        patched, was_outside = (nn.Module.__call__, nn.Module.__getattr__), self.is_outside
        nn.Module.__call__, nn.Module.__getattr__ = self._module_call, self._module_getattr  # type: ignore[method-assign]
        self.is_outside = True
        try:
            yield
        finally:
            nn.Module.__call__, nn.Module.__getattr__ = patched  # type: ignore[method-assign]
            self.is_outside = was_outside

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Sizes, dtypes and devices may steer control flow: what was decided by them is checked on every call."""
        return bool(self.answer(obj))

    def answer(self, proxy: fx.Proxy) -> Any:
        """The example value, for Python to decide by; guarded unless ranks alone determine it.

        Raises TraceError if it depends on what tensors hold.
        """
        assert isinstance(proxy, ExampleProxy)
        example, node = proxy.example, proxy.node
        if is_fixed(node):
            return example
        if not is_guardable(node, self._data_sized):
            raise TraceError(f"{running_line()}: the code's control flow depends on what tensors hold")
        is_structure = not isinstance(example, (bool, int, float, str, torch.Size, torch.dtype, torch.device))
        if not is_structure:
            self.create_proxy("call_function", require_same, (proxy, example, running_line()), {})
        return example

    def poked(self, proxy: ExampleProxy) -> int:
        """A size as an index: guarded when the next node is made, unless that node takes the size itself."""
        if not isinstance(proxy.example, int):
            raise TypeError(f"{type(proxy.example).__name__} cannot be used as an index")
        self.pokes[id(proxy)] = proxy
        return proxy.example

    def _answer_pokes(self) -> None:
        pokes, self.pokes = self.pokes, {}
        for proxy in pokes.values():
            self.answer(proxy)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        assert isinstance(obj, ExampleProxy)
        if isinstance(obj.example, Mapping):
            return iter(obj.example)
        return iter([obj[position] for position in range(len(obj))])  # type: ignore[index]

    def keys(self, obj: fx.Proxy) -> Any:
        """A leaf's dict output has the same keys on every call."""
        assert isinstance(obj, ExampleProxy)
        return list(obj.example.keys()) if isinstance(obj.example, Mapping) else super().keys(obj)

    def _run(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kind == "placeholder":
            return self.inputs[target]
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if kind == "call_function" and _calls_no_module(target):
            return target(*args, **kwargs)
        with self.outside_tracing():
            if kind == "get_attr":
                return operator.attrgetter(target)(self.root)
            if kind == "call_module":
                leaf = self.root.get_submodule(target)
                output = leaf(*args, **kwargs)
                made = (value for module in leaf.modules() for value in _tensor_attributes(module))
                self._kept |= {
                    id(value): (value, target.removeprefix("model."))
                    for value in made
                    if id(value) not in self._own_attributes
                }
                return output
            return target(*args, **kwargs)


def _tensor_attributes(module: nn.Module) -> list[torch.Tensor]:
    """Tensors that are neither parameters nor buffers."""
    return [value for value in vars(module).values() if isinstance(value, torch.Tensor)]


@contextmanager
def _creation_takes_proxies() -> Iterator[None]:
    """While inside, `torch.zeros(rows, 8)` accepts a proxy among its sizes, as `torch.zeros((rows, 8))` always does."""
    originals = {name: getattr(torch, name) for name in ("zeros", "ones", "empty", "rand", "randn")}

    def create(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(size, fx.Proxy) for size in args) and not isinstance(args[0], tuple):
            return original(args, **kwargs)
        return original(*args, **kwargs)

    try:
        for name, original in originals.items():
            setattr(torch, name, partial(create, original))
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


def _shape_only(value: Any) -> Any:
    """A tensor's shape and dtype as a meta tensor; anything else unchanged."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _calls_no_module(function: Any) -> bool:
    """Operators and torch functions, which are most nodes: undoing fx's patches for each would cost more than they
    do."""
    return (getattr(function, "__module__", None) or "").partition(".")[0] in ("_operator", "builtins", "torch")
