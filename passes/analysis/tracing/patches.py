"""What traced code calls by name and fx cannot see, replaced while tracing: builtins, and assignments to buffers."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx.proxy import TraceError

from craftc.passes.analysis.tracing.proxies import ExampleProxy
from craftc.passes.analysis.tracing.source_lines import running_line
from craftc.passes.analysis.tracing.tracer import ExampleTracer

_FUNCTIONS = (max, min, abs, round)
_NUMBERS = (int, float)


@contextmanager
def builtins_take_proxies(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While inside, `len(x)`, `isinstance(x, ...)`, `range(n)`, `int(n)`, `max(n, m)` in the source files of `modules`
    see the example values of proxies: sizes stay symbolic where a value is computed, and are fixed by `range`."""
    replacements: dict[str, Callable[..., Any]] = {
        "len": _len,
        "range": _range,
        "isinstance": _isinstance,
        **{function.__name__: _recorded(function) for function in _FUNCTIONS},
        **{number.__name__: _number_class(number) for number in _NUMBERS},
    }
    shadowed: list[tuple[dict[str, Any], str]] = []
    for names in {id(names): names for module in modules for names in _globals(module)}.values():
        shadowed += [(names, name) for name in replacements if name not in names]
    try:
        for names, name in shadowed:
            names[name] = replacements[name]
        yield
    finally:
        for names, name in shadowed:
            del names[name]


@contextmanager
def buffers_take_proxies(tracer: ExampleTracer) -> Iterator[None]:
    """While inside, `self.count = self.count + 1` on a buffer writes the new value into it, in the graph too."""
    original: Callable[..., None] = nn.Module.__setattr__

    def assign(module: nn.Module, name: str, value: Any) -> None:
        buffer = module._buffers.get(name)
        if tracer.is_outside or buffer is None or not isinstance(value, ExampleProxy):
            original(module, name, value)
            return
        if buffer.shape != value.example.shape:
            raise TraceError(
                f"{running_line()}: buffer {name} has shape {list(buffer.shape)} and would get "
                f"{list(value.example.shape)}; a graph keeps the shapes of buffers"
            )
        getattr(module, name).copy_(value)

    nn.Module.__setattr__ = assign  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]


def _globals(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The namespaces of the methods of a module's classes, torch's own excepted."""
    for kind in type(module).__mro__:
        if kind.__module__.partition(".")[0] not in ("torch", "builtins"):
            methods = (inspect.unwrap(method) for method in vars(kind).values() if inspect.isfunction(method))
            yield from (method.__globals__ for method in methods)


def _len(value: Any) -> Any:
    if isinstance(value, ExampleProxy) and isinstance(value.example, torch.Tensor):
        return value.tracer.create_proxy("call_function", builtins.len, (value,), {})
    return builtins.len(value)


def _range(*bounds: Any) -> range:
    return builtins.range(*(int(bound) if isinstance(bound, ExampleProxy) else bound for bound in bounds))


def _isinstance(value: Any, kinds: Any) -> bool:
    if not builtins.isinstance(value, ExampleProxy):
        return builtins.isinstance(value, kinds)
    return builtins.isinstance(value.example, kinds) or builtins.isinstance(value, kinds)


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        proxy = next((value for value in args if builtins.isinstance(value, ExampleProxy)), None)
        if proxy is None:
            return function(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", function, args, kwargs)

    return call


def _number_class(number: type) -> type:
    """`int` or `float`, for classes as for calls; a call on a proxy is a node."""
    call = _recorded(number)

    class Numbers(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return builtins.isinstance(value, number)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

    return Numbers(number.__name__, (number,), {})
