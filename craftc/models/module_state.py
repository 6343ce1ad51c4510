"""A model's own state while craftc runs it: forward may move buffers, counters and logs, and craftc must not."""

from __future__ import annotations

import copy
from collections.abc import Iterator, MutableMapping, MutableSequence, MutableSet
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # importing torch takes longer than most commands need
    from torch import nn

_CONTAINERS = ("_parameters", "_buffers", "_modules")
_COPIED = (MutableMapping, MutableSequence, MutableSet, np.ndarray)


@contextmanager
def same_state(*models: nn.Module) -> Iterator[None]:
    """Inside, the modules work on copies of their buffers and of their plain attributes; afterwards they have their
    own again, untouched, also where forward assigned new ones.

    Tensors that are plain attributes are copied like buffers; lists, dicts, sets, deques and arrays one level deep;
    parameters and other objects are not copied. What several modules share stays shared.
    """
    import torch

    copies: dict[int, Any] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return copies.setdefault(id(value), value.detach().clone())
        is_container = isinstance(value, _COPIED) and not isinstance(value, torch.nn.Module)
        return copies.setdefault(id(value), copy.copy(value)) if is_container else value

    modules = {id(module): module for model in models for module in model.modules()}.values()
    kept = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    for module, attributes, buffers in kept:
        module._buffers.update({name: copied(buffer) for name, buffer in buffers.items()})
        vars(module).update({n: copied(v) for n, v in attributes.items() if not _is_machinery(n)})
    try:
        yield
    finally:
        for module, attributes, buffers in kept:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


def _is_machinery(name: str) -> bool:
    """nn.Module's own tables of parameters, children and hooks."""
    return (
        name in _CONTAINERS or name.endswith("_hooks") or name.startswith("_forward_") or name.startswith("_backward_")
    )
