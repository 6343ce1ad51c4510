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
from torch.utils import _pytree as pytree

_BUILDERS = "transformers.masking_utils"


class MaskBuilder(nn.Module):
    """One call of a mask builder; tensors are forward's arguments, all others are fixed."""

    def __init__(self, builder: Callable[..., Any], fixed: dict[str, Any]) -> None:
        super().__init__()
        self.builder = builder
        self.fixed = fixed

    def forward(self, **tensors: Any) -> Any:
        if not any(isinstance(value, torch.Tensor) and value.is_meta for value in tensors.values()):
            return self.builder(**self.fixed, **tensors)
        # The builders read values, which meta tensors do not have: what they build for a batch without padding has the
        # shapes that everything downstream sees.
        built = self.builder(**self.fixed, **{name: _unpadded(name, value) for name, value in tensors.items()})
        return pytree.tree_map_only(torch.Tensor, lambda mask: mask.to("meta"), built)


def _unpadded(name: str, value: Any) -> Any:
    """A tensor on the CPU for one on the meta device: masks are ones, positions count up, anything else is zero."""
    if not isinstance(value, torch.Tensor):
        return value
    if "mask" in name:
        return torch.ones(value.shape, dtype=value.dtype)
    if value.is_floating_point():
        return torch.zeros(value.shape, dtype=value.dtype)
    return torch.arange(value.shape[-1]).expand(value.shape).to(value.dtype)


@contextmanager
def mask_builders_as_leaves(
    modules: Iterable[nn.Module], record: Callable[[MaskBuilder, dict[str, Any]], fx.Proxy | None]
) -> Iterator[None]:
    """While inside, the builders imported into the source files of `modules` call `record` when given a proxy."""
    patched: list[tuple[dict[str, Any], str, Any]] = []
    for source in {type(module).__module__ for module in modules}:
        names = vars(sys.modules[source]) if source in sys.modules else {}
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
    builder: Callable[..., Any],
    record: Callable[[MaskBuilder, dict[str, Any]], fx.Proxy | None],
    *args: Any,
    **kwargs: Any,
) -> Any:
    arguments = inspect.signature(builder).bind_partial(*args).arguments | kwargs
    tensors = {name: value for name, value in arguments.items() if isinstance(value, fx.Proxy)}
    if not tensors:
        return builder(*args, **kwargs)
    fixed = {name: value for name, value in arguments.items() if name not in tensors}
    return record(MaskBuilder(builder, fixed), tensors)
