"""A torch.fx tracer whose proxies carry example values: ranks are known while tracing, and sizes stay symbolic.

Plain fx cannot unpack `a, b, c = x.shape`, take `len(shape)`, or assign to `x[rows]`. Here every proxy holds what its
node returned on the example inputs, and in-place operations re-point it to the new node, so edges follow the dataflow.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import Attribute, TraceError
from torch.utils import _pytree as pytree

from craftc.passes.analysis.tracing.contexts import contexts_as_nodes, same_random_numbers
from craftc.passes.analysis.tracing.guards import is_data_sized, is_fixed, is_guardable, require_same
from craftc.passes.analysis.tracing.source_lines import running_line


@fx.wrap
def set_item(tensor: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """`tensor[index] = value`; returns the tensor, so that its readers depend on the assignment."""
    tensor[index] = value
    return tensor


class ExampleProxy(fx.Proxy):
    """A proxy that knows its example value; see the module's docstring."""

    def __init__(self, node: fx.Node, tracer: ExampleTracer, example: Any) -> None:
        super().__init__(node, tracer)
        self.tracer: ExampleTracer = tracer
        self.example = example

    def __getattr__(self, name: str) -> Any:
        return ExampleAttribute(self, name)

    def __len__(self) -> int:
        if hasattr(self.example, "__len__") and not isinstance(self.example, torch.Tensor):
            return len(self.example)
        return int(self.tracer.answer(self.tracer.create_proxy("call_function", len, (self,), {})))

    def __int__(self) -> int:
        return int(self.tracer.answer(self))

    def __float__(self) -> float:
        return float(self.tracer.answer(self))

    def __index__(self) -> int:
        return self.tracer.poked(self)

    def __mul__(self, other: Any) -> Any:
        return self._repeat(other) if isinstance(other, (list, tuple)) else super().__mul__(other)

    def __rmul__(self, other: Any) -> Any:
        return self._repeat(other) if isinstance(other, (list, tuple)) else super().__rmul__(other)

    def _repeat(self, items: Any) -> Any:
        return items * int(self.tracer.answer(self))

    @classmethod
    def __torch_function__(cls, orig_method: Any, types: Any, args: Any = None, kwargs: Any = None) -> Any:
        """torch asks arguments for an index before it finds that one of them is a proxy: that was no question."""
        for value in pytree.tree_leaves((args, kwargs), is_leaf=lambda value: isinstance(value, fx.Proxy)):
            if isinstance(value, ExampleProxy):
                value.tracer.pokes.pop(id(value), None)
        return super().__torch_function__(orig_method, types, args, kwargs)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.repoint(self, self.tracer.create_proxy("call_function", set_item, (self, index, value), {}))

    def __iadd__(self, other: Any) -> Any:
        return self._in_place("add_", operator.add, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place("sub_", operator.sub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place("mul_", operator.mul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place("div_", operator.truediv, other)

    def _in_place(self, method: str, out_of_place: Callable[[Any, Any], Any], other: Any) -> Any:
        if not isinstance(self.example, torch.Tensor):
            return out_of_place(self, other)
        self.tracer.create_proxy("call_method", method, (self, other), {})
        return self


class ExampleAttribute(Attribute, ExampleProxy):
    """`proxy.name`, not yet in the graph: most are method calls."""

    def __init__(self, root: ExampleProxy, name: str) -> None:
        Attribute.__init__(self, root, name)

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        if self._node is None:
            proxy = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {})
            self._node, self._example = proxy.node, proxy.example
        return self._node

    @property
    def example(self) -> Any:
        if self._node is not None:
            return self._example
        try:
            return getattr(self.root.example, self.attr)
        except AttributeError as error:  # an AttributeError here would make Python call __getattr__ for `example`
            raise TraceError(str(error)) from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


class ExampleTracer(fx.Tracer):
    """Runs every node once on example values. Subclasses decide which modules are leaves and fill `inputs`."""

    proxy_buffer_attributes = True

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self.inputs = inputs
        self.is_outside = False
        self.pokes: dict[int, ExampleProxy] = {}
        """Sizes that something asked for as an index since the last node, by id: see `poked`."""
        self._data_sized: set[fx.Node] = set()
        self._repointed: list[tuple[ExampleProxy, fx.Node]] = []
        self._module_call, self._module_getattr = nn.Module.__call__, nn.Module.__getattr__

    def trace(self, root: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:  # type: ignore[override]
        self._path_of_tensor = {id(tensor): path for path, tensor in root.named_parameters()}
        self._path_of_tensor |= {id(tensor): path for path, tensor in root.named_buffers()}
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

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """If the block raises, removes every node and undoes every re-pointing made inside."""
        last, repointed, stack = (
            next(iter(reversed(self.graph.nodes)), None),
            len(self._repointed),
            self.module_stack.copy(),
        )
        try:
            yield
        except Exception:
            while len(self._repointed) > repointed:
                proxy, node = self._repointed.pop()
                proxy.node = node
            while (newest := next(iter(reversed(self.graph.nodes)), None)) is not last:
                self.graph.erase_node(newest)  # type: ignore[arg-type]
            self.module_stack = stack
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
        """A size as an index: guarded when the next node is made, unless that node turns out to take the size itself."""
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
        return iter([obj[position] for position in range(len(obj))])

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
                return self.root.get_submodule(target)(*args, **kwargs)
            return target(*args, **kwargs)


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


def examples_of(value: Any) -> Any:
    """`value` with every proxy replaced by its example."""
    return pytree.tree_map(_example, value, is_leaf=lambda value: isinstance(value, (fx.Proxy, slice)))


def _example(value: Any) -> Any:
    if isinstance(value, slice):
        return slice(_example(value.start), _example(value.stop), _example(value.step))
    return value.example if isinstance(value, ExampleProxy) else value


def _shape_only(value: Any) -> Any:
    """A tensor's shape and dtype as a meta tensor; anything else unchanged."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _calls_no_module(function: Any) -> bool:
    """Operators and torch functions, which are most nodes: undoing fx's patches for each would cost more than they
    do."""
    return (getattr(function, "__module__", None) or "").partition(".")[0] in ("_operator", "builtins", "torch")
