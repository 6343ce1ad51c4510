"""transformers' attention mask builders as leaf modules: they read sizes and values, which fx cannot trace."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx, nn

_BUILDERS = "transformers.masking_utils"


class MaskBuilder(nn.Module):
    """One call of a mask builder; tensors are forward's arguments, all others are fixed."""

    def __init__(self, builder: Callable[..., Any], fixed: dict[str, Any]) -> None:
        super().__init__()
        self.builder = builder
        self.fixed = fixed

    def forward(self, **tensors: Any) -> Any:
        if any(isinstance(value, torch.Tensor) and value.is_meta for value in tensors.values()):
            return None  # the builders read values; without a mask, everything downstream has the same shapes
        return self.builder(**self.fixed, **tensors)


@contextmanager
def mask_builders_as_leaves(
    modules: Iterable[nn.Module], record: Callable[[MaskBuilder, dict[str, Any]], fx.Proxy]
) -> Iterator[None]:
    """While inside, the builders imported into the source files of `modules` call `record` when given a proxy."""
    patched: list[tuple[dict[str, Any], str, Any]] = []
    for source in {type(module).__module__ for module in modules}:
        names = vars(sys.modules[source])
        for name, value in list(names.items()):
            if inspect.isfunction(value) and value.__module__ == _BUILDERS and source != _BUILDERS:
                patched.append((names, name, value))
    try:
        for names, name, value in patched:
            names[name] = partial(_record_or_call, value, record)
        yield
    finally:
        for names, name, value in patched:
            names[name] = value


def _record_or_call(
    builder: Callable[..., Any], record: Callable[[MaskBuilder, dict[str, Any]], fx.Proxy], *args: Any, **kwargs: Any
) -> Any:
    arguments = inspect.signature(builder).bind_partial(*args).arguments | kwargs
    tensors = {name: value for name, value in arguments.items() if isinstance(value, fx.Proxy)}
    if not tensors:
        return builder(*args, **kwargs)
    fixed = {name: value for name, value in arguments.items() if name not in tensors}
    return record(MaskBuilder(builder, fixed), tensors)
