"""State around the traced code: autocast and no_grad blocks become pairs of nodes, random numbers are not used up.

A graph has no blocks: without these nodes, `with torch.autocast(...)` in a forward would be lost in tracing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import fx
from torch.fx.node import has_side_effect


class Recorder(Protocol):
    """A tracer, as far as contexts need one."""

    is_outside: bool
    """Whether real modules are running, whose own contexts are not the graph's."""
    anchor: Any
    """Any input of the graph, for nodes that would have none: a graph that is traced again must meet them."""

    def create_proxy(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A node."""


def enter_autocast(anchor: Any, device_type: str, dtype: torch.dtype, enabled: bool, cache: bool) -> Any:
    """Enters an autocast block; returns what `leave` takes. `anchor` is any input of the graph."""
    if isinstance(anchor, fx.Proxy):  # the graph is traced again, as torch.load does: the block stays
        return _again(anchor, enter_autocast, (anchor, device_type, dtype, enabled, cache))
    mode = torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache)
    mode.__enter__()
    return mode


def enter_no_grad(anchor: Any) -> Any:
    """Enters a block without gradients; returns what `leave` takes. `anchor` is any input of the graph."""
    if isinstance(anchor, fx.Proxy):
        return _again(anchor, enter_no_grad, (anchor,))
    mode = torch.no_grad()
    mode.__enter__()
    return mode


def leave(mode: Any) -> None:
    """Leaves the block that `enter_...` entered."""
    if isinstance(mode, fx.Proxy):
        _again(mode, leave, (mode,))
        return
    mode.__exit__(None, None, None)


def _again(proxy: fx.Proxy, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Proxy:
    return proxy.tracer.create_proxy("call_function", function, args, {})


CONTEXTS: tuple[Callable[..., Any], ...] = (enter_autocast, enter_no_grad, leave)
"""Functions whose nodes stay where they are, also without readers."""
for context in CONTEXTS:
    has_side_effect(context)


@contextmanager
def contexts_as_nodes(tracer: Recorder) -> Iterator[None]:
    """While inside, autocast and no_grad blocks of traced code are recorded as nodes that enter and leave them."""
    with (
        _recorded(tracer, torch.autocast, enter_autocast, _autocast_options),
        _recorded(tracer, torch.no_grad, enter_no_grad, lambda mode: ()),
    ):
        yield


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """What runs inside does not move torch's random numbers on the CPU."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def random_state() -> tuple[Any, ...]:
    """Changes whenever torch (on the CPU) or Python draws a random number."""
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def _autocast_options(mode: torch.autocast) -> tuple[Any, ...]:
    return mode.device, mode.fast_dtype, mode._enabled, mode._cache_enabled


@contextmanager
def _recorded(tracer: Recorder, kind: Any, enter: Callable[..., Any], options: Callable[[Any], Any]) -> Iterator[None]:
    originals = kind.__enter__, kind.__exit__
    entered: dict[int, Any] = {}

    def on_enter(mode: Any) -> Any:
        if tracer.is_outside:
            return originals[0](mode)
        entered[id(mode)] = tracer.create_proxy("call_function", enter, (tracer.anchor, *options(mode)), {})
        return mode

    def on_exit(mode: Any, *error: Any) -> Any:
        if id(mode) not in entered:
            return originals[1](mode, *error)
        tracer.create_proxy("call_function", leave, (entered.pop(id(mode)),), {})
        return None

    kind.__enter__, kind.__exit__ = on_enter, on_exit
    try:
        yield
    finally:
        kind.__enter__, kind.__exit__ = originals
