"""fx proxies that carry example values: ranks are known while tracing, and sizes stay symbolic.

Plain fx cannot unpack `a, b, c = x.shape`, take `len(shape)`, or assign to `x[rows]`. Here every proxy holds what its
node returned on the example inputs, and in-place operations re-point it to the new node, so edges follow the dataflow.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.proxy import Attribute, TraceError
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from craftc.passes.analysis.tracing.tracer import ExampleTracer


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

    def __hash__(self) -> int:
        """A size or dtype as the key of a dict is looked up by its value; tensors are hashed by identity."""
        return object.__hash__(self) if isinstance(self.example, torch.Tensor) else hash(self.tracer.answer(self))

    def __str__(self) -> str:
        return super().__str__() if isinstance(self.example, torch.Tensor) else str(self.tracer.answer(self))

    def __format__(self, spec: str) -> str:
        is_tensor = isinstance(self.example, torch.Tensor)
        return super().__format__(spec) if is_tensor else format(self.tracer.answer(self), spec)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __index__(self) -> int:
        return self.tracer.poked(self)

    def __mul__(self, other: Any) -> Any:
        return self._repeat(other) if isinstance(other, (list, tuple)) else super().__mul__(other)  # type: ignore[misc]

    def __rmul__(self, other: Any) -> Any:
        return self._repeat(other) if isinstance(other, (list, tuple)) else super().__rmul__(other)  # type: ignore[misc]

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


def examples_of(value: Any) -> Any:
    """`value` with every proxy replaced by its example."""
    return pytree.tree_map(_example, value, is_leaf=lambda value: isinstance(value, (fx.Proxy, slice)))


def _example(value: Any) -> Any:
    if isinstance(value, slice):
        return slice(_example(value.start), _example(value.stop), _example(value.step))
    return value.example if isinstance(value, ExampleProxy) else value
