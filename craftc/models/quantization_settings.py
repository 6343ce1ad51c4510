"""What all quantisation methods share: their settings, what they answer, and checked numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from craftc.errors import BadInput
from craftc.models.expert_matrix import ExpertMatrix

Settings = Mapping[str, Any]
Sizer = Callable[[ExpertMatrix, int], int | None]
"""Bytes of a matrix, given the bytes of one value in the model's own type; None if the method leaves it as it is."""

FP32, FP16 = 4, 2
GIVE_SIZE = "give the size of one expert with --expert-bytes"


def whole(settings: Settings, keys: tuple[str, ...], field: str, default: int | None = None) -> int:
    """The first of `keys` that is given: a whole number, at least 1, or -1 for a group size."""
    key = next((key for key in keys if settings.get(key) is not None), keys[0])
    value = settings.get(key, default)
    value = default if value is None else value
    if type(value) is not int or not (1 <= value <= 2**24 or (value == -1 and "group" in key)):
        rule = "positive or -1" if "group" in key else "in 1..16"
        raise BadInput(f"{field}: {key} must be {rule}, got {value!r}")
    if "bit" in key and value > 16:
        raise BadInput(f"{field}: {key} must be in 1..16, got {value!r}")
    return value
