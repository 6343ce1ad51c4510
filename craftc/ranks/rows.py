"""A batch split over ranks and put together again. Axes: B rows of the batch, W ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from craftc.errors import BadInput


def batch_rows(inputs: Mapping[str, Any]) -> int:
    """B, the first dimension that all tensors share. Raises BadInput if they do not share it, or if there is no row."""
    rows = {
        name: value.shape[0] if value.dim() else None for name, value in inputs.items() if isinstance(value, Tensor)
    }
    if not rows or len(set(rows.values())) > 1 or not next(iter(rows.values())):
        found = ", ".join(f"{name} {list(inputs[name].shape)}" for name in rows) or "no tensor"
        raise BadInput(f"inputs: all tensors must have the batch as first dimension, with at least 1 row; got {found}")
    return next(iter(rows.values())) or 0


def rows_of_rank(inputs: Mapping[str, Any], rank: int, size: int) -> tuple[dict[str, Any], int]:
    """The rank's rows of every tensor, and their number.

    A rank without rows still gets one row to run, because ranks must call the model together; its outputs are not used.
    """
    chunk = torch.arange(batch_rows(inputs)).tensor_split(size)[rank]
    own = chunk if len(chunk) else torch.zeros(1, dtype=torch.int64)
    first, last = int(own[0]), int(own[-1]) + 1
    cut = {name: value[first:last] if isinstance(value, Tensor) else value for name, value in inputs.items()}
    return cut, len(chunk)


def named_tensors(output: Any) -> dict[str, Tensor]:
    """A model's output as named tensors: `output`, or `output.<key>` for each of several."""
    if isinstance(output, Tensor):
        return {"output": output}
    items = output.items() if isinstance(output, Mapping) else enumerate(output)
    return {f"output.{key}": value for key, value in items if isinstance(value, Tensor)}
